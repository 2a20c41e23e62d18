"""Fine-tuned runs that transformers or peft trained further come back and predict as transformers' pipeline does."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gpt1
from conftest import one_line
from gpt1.cli.main import main
from gpt1.commands.convert import convert
from gpt1.commands.predict import predict
from gpt1.config import Columns, Convert, Model, Predict
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata, read_metadata
from gpt1.tokenizer.tokenizer import END, START, Tokenizer
from gpt1.tokenizer.train_bpe import train

transformers = pytest.importorskip("transformers")

TEXTS = ["A fine cat, really.", "The dog was bad and sad.", "Once upon a time " * 9, "é"]
PAIRS = [(text, "The cat was fine.") for text in TEXTS]
CLASSES: dict[str, Any] = {"goal": "classes", "labels": ["no", "yes", "maybe"], "columns": Columns(["text"], ["label"])}
TASKS: dict[str, dict[str, Any]] = {
    "classification": CLASSES,
    "entailment": CLASSES | {"columns": Columns(["premise", "hypothesis"], ["gold"])},
    "multi-label": CLASSES | {"goal": "labels", "thresholds": [0.5, 0.25, 0.75]},
    "regression": CLASSES | {"goal": "score", "labels": [], "mean": 3.5, "scale": 1.25},
}


def fine_tuned(folder: Path, task: str, long: str = "head") -> Path:
    """Save a run with random weights."""
    tokenizer = train([" ".join(TEXTS) * 9], "bytes", 300).with_task_tokens()
    model = Model(context=24, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    generator = torch.Generator().manual_seed(1)
    body = GPT(model).init_weights(generator).eval()
    head = torch.randn(len(TASKS[task]["labels"]) or 1, 32, generator=generator)
    metadata: Any = {"kind": "finetuned", "task": task, "long": long} | TASKS[task]
    save_run(folder, body, tokenizer, RunMetadata(**metadata), head)
    return folder


def trained_further(run: Path, out: Path) -> Path:
    """Change every weight, as a training by transformers would, and save model and tokenizer with transformers."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(run).save_pretrained(out)
    return out


def predicted(run: Path, task: str, folder: Path) -> list[dict[str, Any]]:
    """The rows that `gpt1 predict` returns for the texts, under the columns of training."""
    names, texts = TASKS[task]["columns"].texts, PAIRS if task == "entailment" else [(text,) for text in TEXTS]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in texts))
    rows = predict(Predict(run=str(run), input=str(path), dtype="fp32")).predictions
    assert rows is not None
    return rows


def by_pipeline(folder: Path, task: str) -> list[dict[str, float]]:
    classify = transformers.pipeline(
        "text-classification", str(folder), truncation=True, top_k=None,
        **({"function_to_apply": "none"} if task == "regression" else {}),
    )  # fmt: skip
    rows: Any = [{"text": a, "text_pair": b} for a, b in PAIRS] if task == "entailment" else TEXTS
    return [{one["label"]: one["score"] for one in row} for row in classify(rows)]


@pytest.mark.parametrize("task", TASKS)
def test_a_classifier_comes_back(task: str, tmp_path: Path) -> None:
    run = fine_tuned(tmp_path / "run", task)
    theirs = trained_further(run, tmp_path / "theirs")
    result = convert(Convert(src=str(theirs), out=str(tmp_path / "back")))
    assert (result.source, result.left_out, result.new_tokens) == ("huggingface", [], [])
    before, after = read_metadata(run), read_metadata(tmp_path / "back")
    assert after.converted_from == f"huggingface: {theirs}"
    for name in ("task", "goal", "labels", "columns", "long", "mean", "scale", "thresholds", "tokenizer", "parameters"):
        assert getattr(after, name) == getattr(before, name), name
    assert result.parameters == after.parameters, "W_y included"
    rows, expected = predicted(tmp_path / "back", task, tmp_path), by_pipeline(theirs, task)
    for row, scores in zip(rows, expected, strict=True):
        if task == "regression":
            assert row["predicted_label"] == pytest.approx(3.5 + 1.25 * scores["score"], abs=1e-5)
        else:
            assert row["probabilities"] == pytest.approx(scores, abs=1e-5)
    old = predicted(run, task, tmp_path)
    assert [row["predicted_label"] for row in rows] != [row["predicted_label"] for row in old] or task != "regression"
    with one_line("is a Hugging Face model, not a run", "`gpt1 convert"):
        load_run(theirs)


def test_which_end_is_cut_comes_back(tmp_path: Path) -> None:
    theirs = trained_further(fine_tuned(tmp_path / "run", "classification", "tail"), tmp_path / "theirs")
    convert(Convert(src=str(theirs), out=str(tmp_path / "back")))
    assert read_metadata(tmp_path / "back").long == "tail"
    rows = predicted(tmp_path / "back", "classification", tmp_path)
    assert rows[2]["probabilities"] == pytest.approx(by_pipeline(theirs, "classification")[2], abs=1e-5)


@pytest.mark.parametrize(("task", "found"), [("entailment", "classification"), ("regression", "regression")])
def test_without_what_config_json_repeats(
    task: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of an earlier version: what a row is has to be guessed, and a score is what the network gives."""
    theirs = trained_further(fine_tuned(tmp_path / "run", task), tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text())
    del config["gpt1"]
    (theirs / "config.json").write_text(json.dumps(config))
    convert(Convert(src=str(theirs), out=str(tmp_path / "back")))
    assert f"config.json does not say what a row is, so this becomes a run for task {found}" in capsys.readouterr().err
    after = read_metadata(tmp_path / "back")
    assert (after.task, after.labels) == (found, TASKS[task]["labels"])
    assert (after.mean, after.scale) == ((0, 1) if task == "regression" else (None, None))


def test_a_head_or_labels_that_are_none(tmp_path: Path) -> None:
    theirs = trained_further(fine_tuned(tmp_path / "run", "classification"), tmp_path / "theirs")
    whole, head = load_file(theirs / "model.safetensors"), "score.weight"
    for wrong in (whole[head][:0], whole[head][0, 0].clone()):
        save_file(whole | {head: wrong}, theirs / "model.safetensors")
        with one_line(head, "has shape", "it must be (1, 32)"):
            convert(Convert(src=str(theirs), out=str(tmp_path / "back")))
    save_file(whole, theirs / "model.safetensors")
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(config | {"id2label": ["no", "yes"]}))
    with one_line("config.json is damaged: id2label"):
        convert(Convert(src=str(theirs), out=str(tmp_path / "back")))


def test_a_head_that_reads_other_texts_is_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The tokenizer of a pre-trained run adds no extract token, so what the head read is not known."""
    model = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    save_run(tmp_path / "run", body, tokenizer, RunMetadata(kind="pretrained"))
    result = convert(Convert(src=str(trained_further(tmp_path / "run", tmp_path / "theirs")), out=str(tmp_path / "b")))
    assert (result.left_out, read_metadata(tmp_path / "b").kind) == (["score.weight"], "pretrained")


def test_an_estimator_loads_a_converted_run(tmp_path: Path) -> None:
    """From transformers and from another run; neither has settings.json."""
    run = fine_tuned(tmp_path / "run", "classification")
    for source, out in ((trained_further(run, tmp_path / "theirs"), "back"), (run, "copy")):
        convert(Convert(src=str(source), out=str(tmp_path / out)))
        loaded = gpt1.Classifier.load(tmp_path / out, device="cpu", dtype="fp32")
        assert list(loaded.classes_) == TASKS["classification"]["labels"]
        rows = predicted(tmp_path / out, "classification", tmp_path)
        expected = [list(row["probabilities"].values()) for row in rows]
        assert np.allclose(loaded.predict_proba(TEXTS), expected, atol=1e-6)
        loaded.save(tmp_path / f"{out} again")
        again = gpt1.Classifier.load(tmp_path / f"{out} again", dtype="fp32")
        assert np.array_equal(again.predict_proba(TEXTS), loaded.predict_proba(TEXTS))
        assert again.get_params()["run"] == str(tmp_path / f"{out} again")


def test_special_tokens_agree(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In config.json, generation_config.json and the tokenizer; Trainer changes a model whose tokens differ."""
    model = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # for caplog
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    save_run(tmp_path / "run", body, tokenizer, RunMetadata(kind="pretrained"))
    fine = fine_tuned(tmp_path / "fine", "classification")
    for run, first, kind in ((tmp_path / "run", END, "CausalLM"), (fine, START, "SequenceClassification")):
        network = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(run)
        generation = transformers.GenerationConfig.from_pretrained(run)
        theirs = transformers.AutoTokenizer.from_pretrained(run)
        assert theirs.bos_token == first
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = {getattr(one, name) for one in (theirs, network.config, generation)}
            assert len(ids) == 1, name
        if run == tmp_path / "run":
            assert theirs("the cat")["input_ids"] == tokenizer.encode("the cat")  # nothing is put before a text
            generated = network.generate(max_new_tokens=3, do_sample=False)
            assert generated[0, 0] == tokenizer.end_id
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_left_padding_needs_positions(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """As docs/tasks.md says: a forward without them counts the padding, `generate` does it right."""
    model = Model(context=16, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    save_run(
        tmp_path / "run",
        GPT(model).init_weights(torch.Generator().manual_seed(1)),
        tokenizer,
        RunMetadata(kind="pretrained"),
    )
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run").eval()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run", padding_side="left")
    batch = theirs(["the cat and the dog", "the"], padding=True, return_tensors="pt")
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = network(**theirs("the", return_tensors="pt")).logits[0, -1]
        right = network(**batch, position_ids=positions).logits[1, -1]
        wrong = network(**batch).logits[1, -1]
    assert torch.allclose(right, alone, atol=1e-5)
    assert not torch.allclose(wrong, alone, atol=1e-3)


def test_folders_of_the_trainer_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fine_tuned(tmp_path / "run", "classification")
    (tmp_path / "out" / "checkpoint-90").mkdir(parents=True)
    last = trained_further(run, tmp_path / "out" / "checkpoint-1000")
    for arguments in (
        ["convert", tmp_path / "out", "--out", tmp_path / "b"],
        ["predict", tmp_path / "out", "a"],
        ["info", tmp_path / "out"],
    ):
        assert main(list(map(str, arguments))) == 2
        assert f"checkpoints of transformers' Trainer, not a run; `gpt1 convert {last} --out" in capsys.readouterr().err
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert main(["predict", str(tmp_path / "photos"), "a"]) == 2
    assert "photos is not a run, it holds cat.jpg; give a folder that" in capsys.readouterr().err


def test_an_adapter_of_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LoRA on all four matrices of each block, as docs/tasks.md shows; the advice is followed word for word."""
    peft = pytest.importorskip("peft", reason="adapters are peft's")
    run = fine_tuned(tmp_path / "run", "classification")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(run)
    names = ["c_attn", "c_proj", "c_fc"]
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=names, fan_in_fan_out=True, init_lora_weights=False)
    adapted = peft.get_peft_model(base, lora)
    changed = {name.rpartition(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert len(changed) == 2 * 4
    adapted.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    assert main(["convert", str(tmp_path / "adapter"), "--out", str(tmp_path / "back")]) == 2
    said = capsys.readouterr().err
    assert "is an adapter of peft, not a model. In Python, merge it first: PeftModel.from_pretrained(" in said
    calls = said.partition("first: ")[2].partition(", and `gpt1 convert")[0].replace("MERGED", str(merged))
    known = {"PeftModel": peft.PeftModel}
    for name in ("AutoModelForSequenceClassification", "AutoTokenizer"):
        known[name] = getattr(transformers, name)
    for call in calls.split("; then "):
        eval(call, known)
    convert(Convert(src=str(merged), out=str(tmp_path / "back")))
    rows, expected = predicted(tmp_path / "back", "classification", tmp_path), by_pipeline(merged, "classification")
    assert [row["probabilities"] for row in rows] == [pytest.approx(scores, abs=1e-5) for scores in expected]
    old = predicted(run, "classification", tmp_path)
    assert rows[0]["probabilities"] != pytest.approx(old[0]["probabilities"], abs=1e-3)
