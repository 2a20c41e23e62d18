"""The Python of a model card, run as it stands, predicts every row as `gpt1 predict` does, long ones included.

The models are random: what matters is that both sides read the same tokens and do the same with them.
"""

import ast
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from gpt1.commands.predict import predict
from gpt1.config import Columns, Long, Model, Predict, Task
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import FinetuningData, PretrainingData, RunMetadata, Source, SplitSummary
from gpt1.run_folder.model_card import PAIRS, TEXTS, model_card
from gpt1.tokenizer.train_bpe import train as train_tokenizer

transformers = pytest.importorskip("transformers")

CONTEXT = 24
WORDS = "the cat sat on a mat while two dogs ran and songs of rain fell upon every bell <|extract|> Été\n".split(" ")
SIZES = (1, 3, 8, 20, 21, 22, 30, 90)
NAMES = {"classes": ["x|y", "a <b>", "9"], "labels": ["red", "round", "old"], "score": [], "choice": []}
CASES: dict[str, tuple[Task, Literal["classes", "labels", "score", "choice"]]] = {
    "classification": ("classification", "classes"),
    "entailment": ("entailment", "classes"),
    "similar classes": ("similarity", "classes"),
    "similar score": ("similarity", "score"),
    "regression": ("regression", "score"),
    "multi-label": ("multi-label", "labels"),
    "multiple-choice": ("multiple-choice", "choice"),
}
Row = dict[str, Any]


def saved(folder: Path, case: str, long: Long = "head") -> Path:
    """A random model for a task, as `gpt1 finetune` saves one."""
    task, goal = CASES[case]
    tokenizer = train_tokenizer([" ".join(WORDS) * 9], "bytes").with_task_tokens()
    model = Model(context=CONTEXT, width=32, depth=2, heads=2, inner=128, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(3))
    for parameter in body.parameters():
        if parameter.dim() > 1:
            parameter.data *= 8  # far from answers that are all alike
    outputs = len(NAMES[goal]) or 1
    head = torch.randn(outputs, 32, generator=torch.Generator().manual_seed(4)) / 4
    texts = {"entailment": ["one", "other"], "similarity": ["one", "other"]}.get(task, ["one"])
    metadata = RunMetadata(
        kind="finetuned", task=task, goal=goal, labels=NAMES[goal], long=long, metrics={"n": 3},
        columns=Columns(texts, ["label"], ["choices"] if goal == "choice" else []),
        thresholds=[0.4, 0.5, 0.6] if goal == "labels" else None,
        mean=2.5 if goal == "score" else None, scale=1.25 if goal == "score" else None,
    )  # fmt: skip
    save_run(folder, body, tokenizer, metadata, head)
    return folder


def rows_of(case: str) -> list[Row]:
    draw = random.Random(5)

    def text(size: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(size))

    if case == "multiple-choice":
        return [{"one": text(size), "choices": [text(n) for n in (2, 5, 3)]} for size in (1, 4, 9)]
    if case in ("entailment", "similar classes", "similar score"):
        return [{"one": text(a), "other": text(b)} for a in SIZES for b in SIZES]
    return [{"one": text(size)} for size in SIZES]


def predicted(run: Path, rows: list[Row], folder: Path) -> list[Any]:
    """What `gpt1 predict` predicts: probabilities by name, the score, or of several labels those that apply."""
    source, out = folder / "rows.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    predict(Predict(run=str(run), input=str(source), out=str(out), dtype="fp32", threads=1, batch=7))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    if json.loads((run / "gpt1.json").read_text())["goal"] == "labels":
        return [row["predicted_label"] for row in found]
    return [row.get("probabilities", row["predicted_label"]) for row in found]


def code_of(run: Path) -> str:
    """The Python block of the model card, made to use this folder."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (run / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return code.replace('"FOLDER', f'"{run.as_posix()}')


def printed(code: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    exec(code, {})
    return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])


def with_rows(code: str, case: str, rows: list[Row]) -> str:
    """The same lines, their examples replaced by these rows."""
    one, other = [row["one"] for row in rows], [row.get("other", "") for row in rows]
    if case == "multiple-choice":
        example = 'context, answers = "A context.", ["One answer.", "Another answer.", "A third."]'
        new = f"context, answers = {one[0]!r}, {rows[0]['choices']!r}"
    elif case.startswith("similar"):
        example = '["A text.", "One more."], ["The text it is compared with.", "Another."]'
        new = f"{one!r}, {other!r}"
    else:
        example = PAIRS if case == "entailment" else TEXTS
        new = (
            repr([{"text": a, "text_pair": b} for a, b in zip(one, other, strict=True)])
            if example == PAIRS
            else repr(one)
        )
    assert example in code
    return code.replace(example, new)


def by_name(found: list[Any]) -> list[Any]:
    """The answers of a pipeline as `gpt1 predict` writes them."""
    if isinstance(found[0], list) and found[0] and isinstance(found[0][0], dict):
        return [{one["label"]: one["score"] for one in row} for row in found]
    return found


def same(ours: Any, theirs: Any) -> bool:
    return bool(ours == (pytest.approx(theirs, abs=1e-5) if theirs and not isinstance(theirs, list) else theirs))


@pytest.mark.parametrize("case", CASES)
def test_the_lines_of_the_card_run(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = code_of(saved(tmp_path / "run", case))
    assert len(printed(code, capsys)) in (1, 2, 3)


@pytest.mark.parametrize("long", ["head", "tail"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "multiple-choice"])
def test_rows_are_predicted_alike(case: str, long: Long, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, rows = saved(tmp_path / "run", case, long), rows_of(case)
    ours = predicted(run, rows, tmp_path)
    theirs = by_name(printed(with_rows(code_of(run), case, rows), capsys))
    sizes = [[len(ids) for ids in load_run(run).tokenizer.encode_batch(list(row.values()))] for row in rows]
    assert sum(sum(size) > CONTEXT for size in sizes) >= 3, "some rows are too long"
    differ = [n for n in range(len(rows)) if not same(ours[n], theirs[n])]
    # Two texts of one length share an odd room unevenly, and in the other order the other way round.
    tied = [n for n in differ if case.startswith("similar") and len(set(sizes[n])) == 1 and sum(sizes[n]) > CONTEXT - 3]
    assert differ == tied


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("case", ["classification", "entailment", "multi-label", "regression"])
def test_a_pipeline_gives_the_same_in_any_batch(case: str, batch: int, tmp_path: Path) -> None:
    run, rows = saved(tmp_path / "run", case), rows_of(case)
    classify = transformers.pipeline("text-classification", str(run), device="cpu", truncation=True, top_k=None)
    given = [row["one"] if case != "entailment" else {"text": row["one"], "text_pair": row["other"]} for row in rows]
    together = by_name(classify(given, batch_size=batch))
    for one, found in zip(given, together, strict=True):
        alone = classify(one)
        (expected,) = by_name(alone if isinstance(alone[0], list) else [alone])
        assert found == pytest.approx(expected, abs=1e-6)


def test_answers_after_a_long_context(tmp_path: Path) -> None:
    """Every answer follows the same part of the context here; transformers has to be told how much that is."""
    run = saved(tmp_path / "run", "multiple-choice")
    row = {"one": " ".join(WORDS * 4), "choices": ["the cat", "two dogs ran and fell", "rain"]}
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    model = transformers.OpenAIGPTDoubleHeadsModel.from_pretrained(run).eval()
    lengths = [len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in row["choices"]]
    scores = []
    for answer, length in zip(row["choices"], lengths, strict=True):
        most = CONTEXT - (max(lengths) - length)
        ids = tokenizer(row["one"], answer, truncation="only_first", max_length=most, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores.append(model(ids[None], mc_token_ids=torch.tensor([[ids.shape[1] - 1]])).mc_logits[0])
    expected = torch.cat(scores).softmax(-1).tolist()
    assert list(predicted(run, [row], tmp_path)[0].values()) == pytest.approx(expected, abs=1e-5)


def test_choices_are_predicted_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, rows = saved(tmp_path / "run", "multiple-choice"), rows_of("multiple-choice")
    for row, ours in zip(rows, predicted(run, rows, tmp_path), strict=True):
        theirs = printed(with_rows(code_of(run), "multiple-choice", [row]), capsys)
        assert list(ours.values()) == pytest.approx(theirs, abs=1e-5)


def test_a_card_names_data_and_scores(tmp_path: Path) -> None:
    corpus = SplitSummary(tokens=5678, documents=1, bytes=9000, sha256=[])
    data = FinetuningData(
        model=Source(path="/home/me/secret/runs/books/model.safetensors", sha256=""),
        train=Source(path="/home/me/se|cret/rows.csv", sha256="", rows=1234),
        pretraining=PretrainingData(fingerprint="", tokenizer="", train=corpus, val=corpus),
    )
    metrics = {"accuracy": 0.87654, "per_class": {}, "loss": 0.5, "task_loss": 0.4, "seconds": 12.5}
    seeds = {"accuracy": {"mean": 0.8, "deviation": 0.01, "values": [0.79, 0.81]}}
    run = saved(tmp_path / "run", "classification", "windows")
    loaded = load_run(run)
    save_run(
        tmp_path / "card",
        loaded.body,
        loaded.tokenizer,
        replace(loaded.metadata, data=data, metrics=metrics, seeds=seeds),
        loaded.head,
    )
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    for line in (
        "| accuracy | 0.8765 |", "| accuracy, 2 seeds | 0.8 ± 0.01 |", "| rows (train) | 1,234 |",
        "| data (train) | rows.csv |", "| fine-tuned from | books |", "| pre-training tokens | 5,678 |",
        r"distinguish these classes: x\|y, a &lt;b>, 9.",
        "gpt1 reads all of it in parts and averages, transformers reads only the beginning, so their answers differ",
    ):  # fmt: skip
        assert line in card
    assert "secret" not in card
    scores, training = card.split("## Training")
    assert "| loss | 0.5 |" in scores and "| task_loss | 0.4 |\n" in training and "| seconds | 12.5 |\n" in training
    assert "\n\n\n" not in card
    card = model_card(replace(loaded.metadata, data=data, from_scratch=True))
    assert "A GPT-1 with a linear layer on its last token, trained from random weights to distinguish" in card
    assert "fine-tuned from" not in card and "pre-training tokens" not in card
