"""`gpt1 ablate`: every place of its table is what `gpt1 finetune` gives; a stopped one continues."""

import itertools
import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conftest import save_random_run
from gpt1.commands import ablate as job
from gpt1.commands.ablate import AblateResult, ablate, show
from gpt1.commands.evaluate import evaluate
from gpt1.commands.finetune import finetune
from gpt1.config import Ablate, Evaluate, Finetune, Model
from gpt1.errors import UserError
from gpt1.finetuning import ablation, epochs
from gpt1.finetuning.ablation import Cell, CellKey
from gpt1.resume import hold

GOOD, BAD = ("loves", "adores", "enjoys"), ("hates", "fears", "loathes")
Study = Callable[..., Ablate]


def row(draw: random.Random) -> dict[str, str]:
    good = draw.random() < 0.5
    return {"text": f"she {draw.choice(GOOD if good else BAD)} {draw.choice(['figs', 'rain'])}", "label": "-+"[good]}


def write(path: Path, count: int, seed: int) -> str:
    draw = random.Random(seed)
    path.write_text("".join(json.dumps(row(draw)) + "\n" for _ in range(count)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Settings of a small table."""
    folder = tmp_path_factory.mktemp("study")
    texts = [row(random.Random(n))["text"] for n in range(99)]
    base = save_random_run(folder / "base", texts, 290, Model(context=24, width=16, depth=1, heads=2, inner=64))
    usual = Ablate(
        run=str(base), train=write(folder / "train.jsonl", 40, 1),
        valid=write(folder / "valid.jsonl", 20, 2),
        test=write(folder / "test.jsonl", 30, 3), epochs=2, batch=8, sizes="6,all", seeds=2, dtype="fp32", threads=1,
    )  # fmt: skip
    return lambda **others: replace(usual, **others)


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ablate, AblateResult]:
    """A table in a file."""
    asked = study(out=str(tmp_path_factory.mktemp("made") / "table.json"))
    return asked, ablate(asked)


def test_a_stop_in_a_model_is_invisible(
    made: tuple[Ablate, AblateResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first one, of which the file says nothing yet, and in a later one."""
    asked, result = replace(made[0], out=str(tmp_path / "table.json")), made[1]
    real, states = epochs.train, tmp_path / "table.json.stopped"
    for model in (1, 4):
        models = itertools.count(1)

        def train(*args: Any, models: Any = models, model: int = model, **kwargs: Any) -> Any:
            stops = next(models) == model
            for report in real(*args, **kwargs):
                if stops and report.step == 2:
                    signal.raise_signal(signal.SIGTERM)
                yield report

        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt, match=r"update 2 of .*; the same command"),
        ):
            patch.setattr(epochs, "train", train)
            ablate(asked)
        assert len(list(states.rglob("step-*.safetensors"))) == 1
        with pytest.raises(UserError, match="was begun with lm_coef"):
            ablate(replace(asked, lm_coef=0.25))
    assert ablate(asked) == result
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("variant", "settings"),
    [("full", {}), ("no_lm", {"lm_coef": 0.0}), ("from_scratch", {"from_scratch": True})],
)
def test_a_place_is_what_finetune_and_evaluate_give(
    made: tuple[Ablate, AblateResult], tmp_path: Path, variant: str, settings: dict[str, Any]
) -> None:
    asked, result = made
    (line,) = (line for line in result["table"] if line["rows"] == 40)
    same = {name: getattr(asked, name) for name in ("run", "train", "valid", "epochs", "batch", "dtype", "threads")}
    for n, seed in enumerate((1, 2)):
        rate = line[variant]["lr"] if n else 0.0  # the first seed finds the rate, the other takes it
        tuned = finetune(Finetune(out=str(tmp_path / str(seed)), seed=seed, lr=rate, **same, **settings))
        assert tuned["lr"] == line[variant]["lr"]
        assert asked.test
        found = evaluate(Evaluate(run=str(tmp_path / str(seed)), files=[asked.test], dtype="fp32", threads=1))
        for name in ("accuracy", "macro_f1", "ece"):
            assert line[variant]["metrics"][name]["values"][n] == pytest.approx(found[name], abs=1e-6)
    assert line["guess"]["accuracy"] == pytest.approx(found["majority"]), "here training's commonest is the test's"


def test_the_table_shows_every_variant_and_size(made: tuple[Ablate, AblateResult]) -> None:
    _, result = made
    console = Console(width=100)
    with console.capture() as captured:
        console.print(show(result))
    text = captured.get()
    for line in result["table"]:
        for variant in ("full", "no_lm", "from_scratch"):
            found = line[variant]["metrics"]["accuracy"]
            assert f"{np.mean(found['values']):.3f} ± {np.std(found['values'], ddof=1):.3f}" in text
    assert [line["rows"] for line in result["table"]] == [6, 40]
    assert result["n"] == 30


def watched(monkeypatch: pytest.MonkeyPatch) -> list[CellKey]:
    """The cells whose models are made from here on."""
    made_now: list[CellKey] = []

    def fit_cell(base: Any, rows: Any, scored: Any, options: Any, key: CellKey, **where: Any) -> Cell:
        made_now.append(key)
        return ablation.fit_cell(base, rows, scored, options, key, **where)

    monkeypatch.setattr(job, "fit_cell", fit_cell)
    return made_now


def test_it_continues_where_it_stopped(
    made: tuple[Ablate, AblateResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, result = made
    part = json.loads(Path(asked.out).read_text(encoding="utf-8"))
    assert len(part["cells"]) == 12
    assert part["result"] == result.to_json(), "for `gpt1 report`"
    part["cells"] = part["cells"][:9]
    (tmp_path / "part.json").write_text(json.dumps(part), encoding="utf-8")
    made_now = watched(monkeypatch)
    assert ablate(replace(asked, out=str(tmp_path / "part.json"))) == result
    assert made_now == [(40, "no_lm", 2), (40, "from_scratch", 1), (40, "from_scratch", 2)]


def test_a_finished_table_may_grow(made: tuple[Ablate, AblateResult], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, result = made
    made_now = watched(monkeypatch)
    grown = ablate(replace(asked, sizes="6,12,all", seeds=1, out=asked.out))
    assert made_now == [(12, variant, 1) for variant in ("full", "no_lm", "from_scratch")]
    first = [line["full"]["metrics"]["accuracy"]["values"][0] for line in result["table"]]
    values = [line["full"]["metrics"]["accuracy"] for line in grown["table"]]
    assert [values[0]["mean"], values[2]["mean"]] == first
    assert values[0]["deviation"] is None, "one value has no deviation"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"from_scratch": True}, "from_scratch is one of the compared variants"),
        ({"lm_coef": 0.0}, "lm_coef 0 is one of the compared variants"),
        ({"sizes": "1"}, "'1' must be a number of 2 or more, or `all`"),
        ({"sizes": "ten"}, "'ten' must be a number of 2 or more"),
        ({"sizes": "500"}, "there are only 40 training rows"),
        ({"seeds": 0}, "seeds 0"),
        ({"test": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_wrong_requests(study: Study, others: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        ablate(study(**others))
    assert words in str(error.value)


def test_another_request_does_not_replace_a_table(made: tuple[Ablate, AblateResult], tmp_path: Path) -> None:
    asked, _ = made
    with pytest.raises(UserError, match=r"was begun with epochs 2, not 3; .*fresh"):
        ablate(replace(asked, epochs=3))
    with pytest.raises(UserError, match="was begun with other content of test"):
        ablate(replace(asked, test=write(tmp_path / "other.jsonl", 30, 9)))
    for content in ("{}", '{"cells": [], "nbformat": 4}'):  # a notebook has cells too
        (tmp_path / "mine.json").write_text(content, encoding="utf-8")
        for fresh in (False, True):
            with pytest.raises(UserError, match="was not written by `gpt1 ablate`"):
                ablate(replace(asked, out=str(tmp_path / "mine.json"), fresh=fresh))


def test_another_process_may_be_making_the_table(made: tuple[Ablate, AblateResult]) -> None:
    asked, _ = made
    with hold(asked.out, file=True), pytest.raises(UserError, match=r"table.json is in use by process \d+"):
        ablate(asked)
    assert [path.name for path in Path(asked.out).parent.iterdir()] == ["table.json"]
