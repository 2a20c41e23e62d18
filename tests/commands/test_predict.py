"""Predictions: the rows as they came, in order, with probabilities that do not depend on what shares a batch."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from rich.table import Table

from conftest import NOT_UTF8, RayNodes, one_line
from gpt1.cli.main import main
from gpt1.commands import predict as job
from gpt1.commands.predict import RowPredictor, predict, show
from gpt1.config import Columns, Model, Predict
from gpt1.data.tables import rows, table
from gpt1.errors import RunFailed, UserError, readable
from gpt1.finetuning.predictor import Predictor
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tasks.rows import read_texts
from gpt1.tasks.typed_rows import row_of_texts, rows_of_lines
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

LABELS = ["10", "a, b", "ünder"]
TEXTS = [
    "the dog ran " * (n % 7) + f"and {'sat' if n % 2 else 'slept, then'} on mat {n}" for n in range(40)
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["the dog ran and sat on a mat. été, 春 " * 30], "bytes", 280)


@pytest.fixture(scope="module")
def body(tokenizer: Tokenizer) -> GPT:
    size = tokenizer.with_task_tokens().vocabulary
    # A context that is no multiple of 8, so that rounding a length up would leave it.
    model = GPT(Model(context=37, width=32, depth=2, heads=4, inner=128, vocabulary=size))
    return model.init_weights(torch.Generator().manual_seed(1)).eval()


@pytest.fixture(scope="module")
def run(body: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    head = 3 * torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    facts = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=LABELS, long="head",
        columns=Columns(["review"], ["stars"]),
    )  # fmt: skip
    save_run(folder, body, tokenizer.with_task_tokens(), facts, head)
    return str(folder)


def written(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    found = [{"id": n, "review": text, "stars": LABELS[n % 3]} for n, text in enumerate(TEXTS)]
    return written(tmp_path / "rows.jsonl", found)


def predicted(run: str, source: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    predict(Predict(run=run, input=str(source), out=str(out), dtype="fp32", threads=1, **settings))
    return [row.values for row in rows(table(out))]


def test_every_text_gets_what_it_gets_alone(run: str, body: GPT, tokenizer: Tokenizer, source: Path) -> None:
    """The oracle is the network by hand: one text, no padding, softmax of W_y h at the extract token."""
    framed, loaded = tokenizer.with_task_tokens(), load_run(run)
    assert framed.start_id is not None
    assert framed.extract_id is not None
    assert loaded.head is not None
    for batch in (1, 7, 64):
        out = predicted(run, source, source.with_name("out.jsonl"), batch=batch)
        assert [row["id"] for row in out] == list(range(len(TEXTS)))
        for row, text in zip(out, TEXTS, strict=True):
            ids = [framed.start_id, *framed.encode(text)[:35], framed.extract_id]
            expected = (body(torch.tensor([ids]))[0, -1] @ loaded.head.T).softmax(-1)
            assert list(row["probabilities"]) == LABELS
            assert list(row["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
            assert row["predicted_label"] == LABELS[int(expected.argmax())]
            assert row["stars"] == LABELS[row["id"] % 3], "a gold label stays"


def test_blocks_of_rows_change_nothing(run: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predicted(run, source, source.with_name("whole.jsonl"))
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 7)
    for kind in ("jsonl", "csv", "parquet"):
        out = predicted(run, source, source.with_name(f"out.{kind}"))
        assert [row["predicted_label"] for row in out] == [row["predicted_label"] for row in whole]


def test_only_a_block_of_rows_is_held(run: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is read before the rows of the blocks ahead of it have their answers."""
    events: list[int] = []
    answer = Predictor.predict

    def watched_rows(*given: Any, **options: Any) -> Iterator[Any]:
        events.append(0)
        for row in rows(*given, **options):
            events.append(1)
            yield row

    def watched_answer(model: Any, texts: list[str], batch: int) -> Any:
        events.append(-len(texts))
        return answer(model, texts, batch)

    monkeypatch.setattr(job, "rows", watched_rows)
    monkeypatch.setattr(Predictor, "predict", watched_answer)
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 16)
    predicted(run, source, source.with_name("out.jsonl"))
    assert events == [0, *[1] * 40, 0, *[1] * 16, -16, *[1] * 16, -16, *[1] * 8, -8]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_have_a_column_a_label(kind: str, run: str, source: Path) -> None:
    expected = predicted(run, source, source.with_name("out.jsonl"))
    predict(Predict(run=run, input=str(source), out=str(source.with_name(f"out.{kind}")), dtype="fp32", threads=1))
    path = source.with_name(f"out.{kind}")
    separator = "\t" if kind == "tsv" else ","
    frame = (
        polars.read_parquet(path)
        if kind == "parquet"
        else polars.read_csv(path, separator=separator, schema_overrides={"stars": str, "predicted_label": str})
    )
    assert frame.columns == ["id", "review", "stars", "predicted_label", *(f"probability_{name}" for name in LABELS)]
    for row, theirs in zip(expected, frame.iter_rows(named=True), strict=True):
        assert [theirs[name] for name in ("id", "review", "stars", "predicted_label")] == [
            row[name] for name in ("id", "review", "stars", "predicted_label")
        ]
        assert [theirs[f"probability_{name}"] for name in LABELS] == list(row["probabilities"].values())


def test_without_out_the_command_line_prints_rows(run: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = predicted(run, source, source.with_name("out.jsonl"))
    capsys.readouterr()
    assert main(["predict", run, str(source), "--dtype", "fp32", "--threads", "1"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    result = predict(Predict(run=run, input=str(source), out="-", dtype="fp32", threads=1))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    assert show(result) is None
    assert result["rows"] == len(TEXTS)
    assert sum(result["predicted"].values()) == len(TEXTS)
    assert "predictions" not in result


def test_without_out_python_gets_rows(run: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = predicted(run, source, source.with_name("out.jsonl"))
    capsys.readouterr()
    result = predict(run, source, dtype="fp32", threads=1)
    assert capsys.readouterr().out == ""
    assert result.predictions == expected
    assert result.rows == len(TEXTS)
    assert result.out is None


def test_no_label_is_needed_and_what_is_cut_is_said(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "a.jsonl", [{"t": "the dog"}, {"t": "a mat " * 20_000}])
    out = predicted(run, source, tmp_path / "out.csv", text="t")
    assert list(out[0]) == ["t", "predicted_label", *(f"probability_{name}" for name in LABELS)]
    assert "1 of 2 rows are longer than the model reads" in capsys.readouterr().err


def test_a_column_of_any_value_survives(run: str, tmp_path: Path) -> None:
    """Rows of jsonl need not have the same columns; one that comes late stays in every kind of file."""
    found = [{"review": "a", "n": 1}, {"review": "b", "n": None}, {"review": "c", "extra": ["x"]}]
    source = written(tmp_path / "a.jsonl", found)
    assert predicted(run, source, tmp_path / "out.jsonl")[2]["extra"] == ["x"]
    assert [row.get("extra") for row in predicted(run, source, tmp_path / "o.parquet")] == [None, None, ["x"]]


@pytest.mark.parametrize(
    ("found", "name", "settings", "answer"),
    [
        ([{"text": "a"}], "o.csv", {}, "a.jsonl: no column review; the columns are text; choose with text"),
        ([{"review": "a"}], "o.csv", {"text": "body"}, "a.jsonl: no column body; the columns are review"),
        ([{"review": "a"}, {"review": ""}], "o.csv", {}, "a.jsonl:2: column review is empty; give it a text"),
        ([], "o.csv", {}, "a.jsonl: no rows"),
        ([{"review": "a"}], "a.jsonl/o.csv", {}, "a.jsonl is a file; name a folder"),
        ([{"review": "a"}], "o.csv", {"text": "review,review"}, "review,review names a column twice"),
        ([{"review": "a"}], "o.txt", {}, "the file name must end in one of .jsonl, .csv, .tsv, .parquet"),
        ([{"review": "a\tb"}], "o.tsv", {}, r"a.jsonl:1: 'a\tb' contains a tab or a newline, which"),
        ([{"review": "a\rb"}], "o.tsv", {}, r"a.jsonl:1: 'a\rb' contains a tab or a newline, which"),
        ([{"review": "a"}, {"review": "b", "n": 1}], "o.csv", {}, "a.jsonl:2: column n is not in the first row"),
        ([{"review": "a", "n": [1]}, {"review": "b", "n": "x"}], "o.parquet", {}, "write .jsonl"),
        ([{"review": "a"}], "o.csv", {"batch": 0}, "batch 0 must be at least 1"),
        ([{"review": "a"}], "o.csv", {"encoding": "utf8x"}, "encoding utf8x: no such text encoding"),
    ],
)
def test_a_wrong_request_leaves_nothing(
    found: list[dict[str, Any]], name: str, settings: dict[str, Any], answer: str, run: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.jsonl", found)
    with pytest.raises(UserError) as caught:
        predicted(run, source, tmp_path / name, **settings)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_a_column_that_the_prediction_replaces(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "a.jsonl", [{"review": "a", "predicted_label": "mine"}])
    assert predicted(run, source, source)[0]["predicted_label"] in LABELS, "the file itself may be replaced"
    assert "already has a column predicted_label; the prediction replaces it" in capsys.readouterr().err


def test_out_of_memory_is_one_line_and_the_old_file_stays(
    run: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second block of rows, when some are written already."""
    out, answer = source.with_name("out.jsonl"), Predictor.predict
    out.write_text("older", encoding="utf-8")
    blocks = iter([answer, lambda *given: raised(torch.OutOfMemoryError("CUDA out of memory. Tried"))])
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(Predictor, "predict", lambda *given: next(blocks)(*given))
    with pytest.raises(RunFailed, match=r"^out of memory; lower batch$"):
        predicted(run, source, out)
    assert out.read_text(encoding="utf-8") == "older"
    assert sorted(source.parent.iterdir()) == [out, source]


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("text", ["the dog " * 600_000, "x" * 5_000_000, "春é" * 1_000_000])
def test_a_row_of_megabytes(text: str, run: str, tmp_path: Path) -> None:
    """No timing; but a step that is quadratic in the length of a row would take hours."""
    source = written(tmp_path / "a.jsonl", [{"review": text}])
    assert len(predicted(run, source, tmp_path / "o.jsonl")) == 1


def test_a_pre_trained_run_knows_no_classes(tokenizer: Tokenizer, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = Model(context=16, width=16, depth=1, heads=2, inner=64, vocabulary=tokenizer.vocabulary)
    save_run(folder, GPT(model).init_weights(), tokenizer, RunMetadata(kind="pretrained"))
    with pytest.raises(UserError, match=f"{folder} is pre-trained, not fine-tuned.*gpt1 finetune {folder}"):
        predicted(str(folder), source, tmp_path / "o.csv")


# On Ray


def test_ray_gives_the_same_bytes(
    run: str, source: Path, ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one node, and on two of which one dies."""
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 4)
    predicted(run, source, source.with_name("local.jsonl"))
    ray_nodes(1)
    predicted(run, source, source.with_name("one.jsonl"), engine="ray")
    kill_one, read = ray_nodes(2), iter(range(1000))

    def rows_with_a_death(*given: Any, **options: Any) -> Iterator[Any]:
        for row in rows(*given, **options):
            if next(read) == len(TEXTS) + 24:  # the second pass, which predicts
                kill_one()
            yield row

    monkeypatch.setattr(job, "rows", rows_with_a_death)
    predicted(run, source, source.with_name("killed.jsonl"), engine="ray")
    assert capsys.readouterr().out == "", "standard output is for results"
    for out in ("one", "killed"):
        assert source.with_name(f"{out}.jsonl").read_bytes() == source.with_name("local.jsonl").read_bytes()


def test_ray_refuses_and_skips_the_same_rows(
    run: str, tmp_path: Path, ray_nodes: RayNodes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_nodes(1)
    monkeypatch.setattr("gpt1.console.LOG_SECONDS", 600.0)  # no line of progress, however slow the machine
    source, said = written(tmp_path / "a.jsonl", [{"review": "a"}, {"review": ""}, {"review": "c"}]), {}
    for engine in ("local", "ray"):
        line = ["predict", run, str(source), "--dtype", "fp32", "--threads", "1", "--engine", engine]
        codes = [main(line), main([*line, "--skip-invalid"])]
        said[engine] = (codes, *capsys.readouterr())
    assert said["ray"] == said["local"]
    assert said["ray"][0] == [2, 0]


def test_a_node_that_does_not_find_the_run(
    run: str, source: Path, ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_nodes(1)
    monkeypatch.setattr(RowPredictor, "__getstate__", lambda self: {"settings": replace(self.settings, run="/no/run")})
    with one_line("/no/run", "(on the Ray node ", "; all nodes need the same files, under the same paths"):
        predicted(run, source, source.with_name("out.jsonl"), engine="ray")
    assert not source.with_name("out.jsonl").exists()


# A text itself, and standard input


def test_a_text_itself_gets_what_it_gets_in_a_file(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predicted(run, written(tmp_path / "a.jsonl", [{"review": TEXTS[1]}]), tmp_path / "o.jsonl")
    found = predict(Predict(run=run, input=TEXTS[1], out="-", dtype="fp32", threads=1))
    assert (found.rows, found.predictions, found.predicted[expected[0]["predicted_label"]]) == (1, expected, 1)
    assert json.loads(str(show(found))) == expected[0], "not a terminal: a line of jsonl"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = show(found)
    assert isinstance(shown, Table)
    assert shown.title == expected[0]["predicted_label"]
    p = sorted(expected[0]["probabilities"].values(), reverse=True)
    assert list(shown.columns[1].cells) == [f"{one:.1%}" for one in p]
    assert capsys.readouterr().out == ""


def test_bytes_of_a_text_that_are_not_utf8_are_replaced(run: str) -> None:
    found = predict(Predict(run=run, input=NOT_UTF8, out="-", dtype="fp32", threads=1))
    assert json.loads(str(readable(show(found))))["review"] == "caf\ufffd"


def test_a_text_can_be_written_to_a_file(run: str, tmp_path: Path) -> None:
    result = predict(Predict(run=run, input="the dog", out=str(tmp_path / "o.csv"), dtype="fp32", threads=1))
    assert result.predictions is None
    assert next(rows(table(tmp_path / "o.csv"))).values["review"] == "the dog"


@pytest.mark.parametrize("given", ["\n".join(TEXTS), "\ufeff\n\n" + "\r\n".join(TEXTS) + "\n\n", None])
def test_standard_input_is_texts_or_rows(
    given: str | None, run: str, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of text, or the very rows of the file; in blocks, as they come."""
    expected = predicted(run, source, source.with_name("out.jsonl"))
    monkeypatch.setattr("sys.stdin", io.StringIO(source.read_text() if given is None else given, newline="\n"))
    monkeypatch.setattr(job, "ROWS_AT_ONCE", 7)
    capsys.readouterr()
    result = predict(Predict(run=run, input="-", out="-", dtype="fp32", threads=1))
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert result.rows == len(TEXTS)
    assert [row["review"] for row in out] == TEXTS
    assert [row["predicted_label"] for row in out] == [row["predicted_label"] for row in expected]
    for row, other in zip(out, expected, strict=True):
        # Rounding depends on how many rows are computed at once.
        assert row.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-6)
        assert given is not None or row == other, "other columns stay"


@pytest.mark.parametrize(
    ("given", "more", "text", "answer"),
    [
        ("a", ["b"], "", "classification reads one text, not 2"),
        (" ", [], "", "an empty text"),
        ("-", ["b"], "a\n", "- holds rows, so 'b' cannot be part of one"),
        ("-", [], "\n \n", "standard input: empty"),
        ("-", [], '{"review": "a"}\n[]\n', "standard input:2: not a JSON object"),
        ("-", [], '[{"review": "a"}]', "standard input: an array of JSON objects; give one object a line, or name its"),
        ("-", [], '[\n{"review": "a"}\n]\n', "standard input: an array of JSON objects"),
        ("-", [], '{"text": "a"}\n', "standard input: no column review; the columns are text"),
        ("-", [], '\n{"review": "a"}\n{"review": ""}', "standard input:3: column review is empty"),
        ("no.csv", [], "", "no.csv: no such file"),
        ("no/such", [], "", "no/such: no such file"),
    ],
)
def test_wrong_texts(
    given: str, more: list[str], text: str, answer: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with one_line(answer):
        predict(Predict(run=run, input=given, more=more, dtype="fp32", threads=1))


def test_texts_of_a_pair_and_of_a_choice() -> None:
    pair = Columns(["premise", "hypothesis"], ["label"])
    row, wanted = row_of_texts(["a", "b"], "entailment", pair)
    assert (row.values, read_texts(row, wanted)) == ({"premise": "a", "hypothesis": "b"}, ("a", "b"))
    row, wanted = row_of_texts(["c", "x", "y", "z"], "multiple-choice", Columns(["story"], ["y"], ["one", "two"]))
    assert (row.values, read_texts(row, wanted)) == ({"story": "c", "choices": ["x", "y", "z"]}, ("c", "x", "y", "z"))
    with one_line("similarity reads two texts, not 1"):
        row_of_texts(["a"], "similarity", pair)
    with one_line("a context and two answers or more, three texts at least, not 2"):
        row_of_texts(["a", "b"], "multiple-choice", pair)
    with one_line("classification reads one text, not 2; do this"):
        row_of_texts(["a", "b"], "classification", Columns(["text"], ["label"]), "do this")
    with one_line('standard input:1: entailment reads several texts; give rows as jsonl, {"premise": ..., "hypoth'):
        list(rows_of_lines(["a\n"], "entailment", pair))
