"""Fine-tuning in memory: what the network starts from, and that files add nothing to the result."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import save_random_run
from gpt1.commands.finetune import finetune
from gpt1.config import Finetune, Model
from gpt1.errors import RunFailed
from gpt1.finetuning import sweep
from gpt1.finetuning.defaults import MIN_VALID_ROWS, FitOptions, scratch_lrs, usual_lr
from gpt1.finetuning.epochs import EpochTrainer
from gpt1.finetuning.examples import TaskExamples, TaskRows, read_rows
from gpt1.finetuning.fit import build_network, fit, save_finetuned
from gpt1.finetuning.predictor import Examples, RowEncoder, mean_loss
from gpt1.finetuning.sweep import fit_best
from gpt1.model.gpt import GPT
from gpt1.model.objectives import TaskModel
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.metadata import Source
from gpt1.tasks.labels import ChoiceLabels, ClassLabels

TEXTS = [f"{who} {does} {what}" for who in ("she", "he") for does in ("loves", "fears") for what in ("figs", "rain")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model."""
    model = Model(context=21, width=32, depth=2, heads=2, inner=128)
    return save_random_run(tmp_path_factory.mktemp("base"), TEXTS * 9, 270, model)


@pytest.fixture(scope="module")
def settings(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetune:
    """Rows whose verb is the class."""
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    path.write_text("text,label\n" + "".join(f"{text},{'loves' in text}\n" for text in TEXTS * 3))
    return Finetune(run=str(base), train=str(path), out="", epochs=2, lr=1e-3, dtype="fp32", threads=1)


def known(settings: Finetune) -> tuple[LoadedRun, TaskRows]:
    return load_run(settings.run), read_rows(settings)


def test_files_add_nothing(settings: Finetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gives what `fit` gives, which leaves no file."""
    finetune(replace(settings, out=str(tmp_path / "run")))
    saved = load_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    before = sorted(Path.cwd().rglob("*"))
    found = fit(*known(settings), FitOptions.of(settings))
    assert sorted(Path.cwd().rglob("*")) == before
    assert saved.head is not None
    assert torch.equal(found.head_CD, saved.head)
    for name, weight in saved.body.state_dict().items():
        assert torch.equal(found.body.state_dict()[name], weight), name
    assert found.metrics.keys() | {"seconds"} == saved.metadata.metrics.keys()


def test_settings_of_a_model_that_is_replaced_do_not_stay(settings: Finetune, tmp_path: Path) -> None:
    """Those of a converted run are unknown."""
    found = fit(*known(settings), FitOptions.of(settings))
    run = found.as_run(found.metadata(Source(path=None, sha256=""), Source(path=None, sha256="")))
    each: list[dict[str, Any]] = [{"lr": 1}, {}]
    for written in each:
        save_finetuned(tmp_path / "run", run, written, found.curves)
        assert (tmp_path / "run" / "settings.json").exists() == bool(written)


def test_the_model_predicts_as_it_did_on_the_validation_rows(settings: Finetune) -> None:
    base, rows = known(settings)
    found = fit(base, rows, FitOptions.of(settings))
    predictions_NC, too_long = found.predictor(torch.device("cpu"), torch.float32).predict(rows.valid.texts, 2)
    metrics = found.label_type.metrics(rows.valid.labels, predictions_NC)
    metrics = {name: value for name, value in metrics.items() if isinstance(value, float)}
    assert {name: found.metrics[name] for name in metrics} == pytest.approx(metrics)
    assert not too_long


@pytest.mark.parametrize("with_words", [False, True])
def test_the_loss_is_that_of_the_model_that_is_kept(settings: Finetune, with_words: bool) -> None:
    """After calibration, with words or without: by it seeds and rates are compared."""
    base, rows = known(settings)
    rows = replace(rows, valid=rows.train.select([i % len(rows.train) for i in range(MIN_VALID_ROWS)]))
    found = fit(base, rows, FitOptions.of(replace(settings, with_words=with_words)))
    assert found.metrics["temperature"] != 1
    _, scores_NC = found.predictor(torch.device("cpu"), torch.float32).scores(rows.valid.texts, 8)
    assert found.metrics["loss"] == pytest.approx(mean_loss(found.label_type, scores_NC, rows.valid.labels))


def test_from_scratch_one_fit_takes_the_middle_rate_and_a_sweep_all(settings: Finetune) -> None:
    base, rows = known(settings)
    options = FitOptions(from_scratch=True, epochs=1)
    lrs = scratch_lrs(base.body.config.width)
    assert fit(base, rows, options).options.lr == lrs[1]
    best = fit_best(base, rows, options)
    assert best.learning_rates is not None
    assert list(best.learning_rates) == [f"{lr:.3g}" for lr in lrs]
    assert best.options.lr in lrs


def test_a_sweep_leaves_out_rates_that_diverge(
    settings: Finetune, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, rows = known(settings)
    options = FitOptions(from_scratch=True, epochs=1)
    for lrs in ((1e-3, 1e30), (1e30, 1e-3)):
        monkeypatch.setattr(sweep, "scratch_lrs", lambda width, lrs=lrs: lrs)
        best = fit_best(base, rows, options)
        assert best.options.lr == 1e-3
        assert best.learning_rates is not None
        assert list(best.learning_rates) == ["0.001"]
        assert "not finite; lower lr, 1e+30; learning rate 1e+30 is left out" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "scratch_lrs", lambda width: (1e30, 1e30))
    with pytest.raises(RunFailed, match="not finite"):
        fit_best(base, rows, options)


# The network at its first update


def built(base: Path, **changes: Any) -> tuple[TaskModel, GPT]:
    """The model at its first update, and the pre-trained network."""
    loaded = load_run(base)
    encoder = RowEncoder("classification", loaded.tokenizer.with_task_tokens(), loaded.body.config.context)
    nothing = Examples([], np.array([]), 0)
    examples = TaskExamples(ClassLabels(["a", "b", "c"]), encoder, nothing, nothing, [], None)
    return build_network(loaded.body, examples, FitOptions(**changes)), loaded.body


@pytest.mark.parametrize("scratch", [False, True])
def test_the_new_tokens_are_appended(base: Path, scratch: bool) -> None:
    model, old = built(base, from_scratch=scratch)
    new = model.body.tokens.weight
    assert new.shape == (len(old.tokens.weight) + 3, 32)
    assert torch.equal(new[:-3], old.tokens.weight) != scratch
    assert 0.01 < new[-3:].std() < 0.03
    for name, weight in old.blocks.state_dict().items():
        same = torch.equal(model.body.blocks.state_dict()[name], weight)
        assert same != (scratch and weight.dim() > 1), name


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_first_layers_are_transferred(base: Path, layers: int) -> None:
    """Figure 2 of the paper: with no block the embeddings alone."""
    model, old = built(base, transfer_layers=layers)
    assert torch.equal(model.body.tokens.weight[:-3], old.tokens.weight)
    assert torch.equal(model.body.positions.weight, old.positions.weight)
    for block in range(2):
        same = torch.equal(model.body.blocks[block].attention.qkv.weight, old.blocks[block].attention.qkv.weight)  # type: ignore[union-attr]
        assert same == (block < layers)


def test_a_collapsed_training_begins_again_at_a_lower_rate(
    settings: Finetune, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    base, rows = known(settings)
    rows = replace(rows, valid=rows.train)
    options = FitOptions(lm_coef=0.0, lr=0.1, epochs=12)
    found = fit(base, rows, options)
    told = capsys.readouterr().err
    assert "after epoch 1 every row gets the same scores; lower lr, 0.1: starting again with 0.025" in told
    assert found.options.lr == 0.1 / 4 ** told.count("starting again")
    predictions_NC, _ = found.predictor(torch.device("cpu"), torch.float32).predict(rows.train.texts, 8)
    assert predictions_NC.std(0).max() > 0.1
    resumable = fit(base, rows, options, folder=tmp_path / "states", keep_end=True)
    assert torch.equal(resumable.head_CD, found.head_CD)


def test_a_rate_far_above_the_usual_is_warned_of(settings: Finetune, capsys: pytest.CaptureFixture[str]) -> None:
    base, rows = known(settings)
    usual = usual_lr(base.body.config.width)
    for lr, is_said in ((10 * usual, True), (9 * usual, False), (0.0, False)):
        fit_best(base, rows, FitOptions(epochs=1, lr=lr))
        assert (f"lr {lr:g} is far above {usual:.2g}, the default" in capsys.readouterr().err) == is_said


def test_random_weights_that_collapse_are_left_to_the_sweep(settings: Finetune) -> None:
    base, rows = known(settings)
    options = FitOptions(lm_coef=0.0, lr=30.0, from_scratch=True, epochs=2)
    assert fit(base, replace(rows, valid=rows.train), options).options.lr == 30


def test_the_spread_of_scores(settings: Finetune) -> None:
    """Over rows; where each row has its own answers, over these, of which some rows have fewer."""
    classes = EpochTrainer(*[None] * 6)  # type: ignore[arg-type]
    for label_type, scores_NC, spread in (
        (ClassLabels(["a", "b"]), [[0.0, 5.0], [2.0, 5.0]], 1.0),
        (ChoiceLabels(), [[1.0, 3.0, -np.inf], [7.0, 7.0, 7.0]], 0.5),
    ):
        examples = SimpleNamespace(label_type=label_type)
        assert replace(classes, examples=examples).spread(np.array(scores_NC)) == spread
