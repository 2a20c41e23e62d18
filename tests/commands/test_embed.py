"""Embeddings: the same vectors in every format, those of transformers, whatever the length of a text."""

import csv
import json
from pathlib import Path

import numpy as np
import polars
import pytest
import torch

from conftest import one_line, save_random_run
from gpt1.commands.embed import embed, show
from gpt1.config import Embed, Model
from gpt1.run_folder import embedding
from gpt1.run_folder.folder import load_run

TEXTS = ["The cat", "a dog sat on a mat; été 春", "cat " * 70, "The cat sat on a mat", "x"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Model(context=32, width=16, depth=2, heads=2, inner=64)
    return save_random_run(tmp_path_factory.mktemp("run"), ["The cat sat on a mat. été 春 " * 30], 275, model)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(TEXTS)])
    return path


def settings(run: Path, table: Path, out: str, **others: object) -> Embed:
    path = str(table.parent / out)
    return Embed(run=str(run), input=str(table), out=path, dtype="fp32", threads=1, **others)  # type: ignore[arg-type]


def wanted(run: Path) -> np.ndarray:
    """The definition: the mean over the hidden states of all windows, one text at a time."""
    loaded = load_run(run)
    vectors = []
    for text in TEXTS:
        ids = torch.tensor(loaded.tokenizer.encode(text))
        with torch.no_grad():
            hidden = [loaded.body(window[None])[0] for window in ids.split(loaded.body.config.context)]
        vectors.append(torch.cat(hidden).mean(0))
    return torch.stack(vectors).numpy()


def test_every_format_holds_the_same_vectors(run: Path, table: Path) -> None:
    vectors_ND = wanted(run)
    for out in ("a.parquet", "a.jsonl", "a.csv", "a.tsv", "a.npy"):
        result = embed(settings(run, table, out))
        assert (result.rows, result.width) == (5, 16)
        assert "5 vectors of 16 numbers" in show(result)
        path = table.parent / out
        if out == "a.npy":
            found = np.load(path)
            assert found.dtype == np.dtype("<f4")
        elif out in ("a.csv", "a.tsv"):
            separator, quote = (",", '"') if out == "a.csv" else ("\t", None)
            frame = polars.read_csv(path, separator=separator, quote_char=quote)
            assert frame.columns == ["id", "text", *(f"embedding_{n}" for n in range(16))]
            found = frame.drop("id", "text").to_numpy()
        else:
            frame = polars.read_parquet(path) if out == "a.parquet" else polars.read_ndjson(path)
            assert frame["text"].to_list() == TEXTS
            found = np.array(frame["embedding"].to_list())
        np.testing.assert_allclose(found, vectors_ND, atol=1e-6)


def test_transformers_has_the_same_hidden_states(run: Path, table: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.OpenAIGPTModel.from_pretrained(run)
    ids = transformers.AutoTokenizer.from_pretrained(run)(TEXTS[1], return_tensors="pt").input_ids
    embed(settings(run, table, "a.npy"))
    theirs_D = model(ids).last_hidden_state[0].mean(0).detach().numpy()
    np.testing.assert_allclose(np.load(table.parent / "a.npy")[1], theirs_D, atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(run: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(settings(run, table, "together.npy"))
    monkeypatch.setattr(embedding, "TOKENS_AT_ONCE", 1)
    monkeypatch.setattr("gpt1.commands.embed.ROWS_AT_ONCE", 2)
    embed(settings(run, table, "alone.npy"))
    together, alone = (np.load(table.parent / name) for name in ("together.npy", "alone.npy"))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_wrong_rows_and_columns(run: Path, table: Path, tmp_path: Path) -> None:
    with one_line("a.txt", "must end in one of", ".npy"):
        embed(settings(run, table, "a.txt"))
    with one_line("no column txt", "id, text"):
        embed(settings(run, table, "a.npy", text="txt"))
    with one_line("names 2 columns; name one"):
        embed(settings(run, table, "a.npy", text="id,text"))
    holes = tmp_path / "holes.jsonl"
    holes.write_text('{"text": "a"}\n{"text": " "}\n', encoding="utf-8")
    with one_line("holes.jsonl:2", "text is empty"):
        embed(settings(run, holes, "a.npy"))
    assert not (tmp_path / "a.npy").exists()
    assert embed(settings(run, holes, "a.npy", skip_invalid=True)).rows == 1
    with one_line("nowhere"):
        embed(settings(run / "nowhere", table, "a.npy"))


def test_the_result_and_rows_of_other_kinds(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"review": "a cat", "tags": ["x", "y"], "n": None}) + "\n", encoding="utf-8")
    result = embed(str(run), str(rows), out=str(tmp_path / "out.jsonl"), dtype="fp32")
    assert list(result.to_json()) == ["rows", "width", "tokens", "out"]
    assert result.tokens == len(load_run(run).tokenizer.encode("a cat"))
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == ["review", "tags", "n", "embedding"]


def test_a_column_that_the_vector_replaces_is_named(run: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, again, name in (("a.jsonl", "b.jsonl", "embedding"), ("a.csv", "b.csv", "embedding_0")):
        embed(settings(run, table, out))
        assert "already" not in capsys.readouterr().err
        embed(settings(run, table.parent / out, again, text="text"))
        assert f"{out} has a column {name} already; the vector replaces it" in capsys.readouterr().err
        embed(settings(run, table.parent / out, "b.npy", text="text"))
        assert "already" not in capsys.readouterr().err
