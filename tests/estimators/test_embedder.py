"""`Embedder` keeps scikit-learn's contract, and says what `gpt1 embed` writes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import gpt1
from conftest import save_random_run
from gpt1.config import Model

TEXTS = ["The cat", "a dog sat on a mat", "cat " * 50, "The cat sat", "a dog", "dogs and cats"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Model(context=32, width=16, depth=2, heads=2, inner=64)
    return save_random_run(tmp_path_factory.mktemp("run"), ["The cat sat on a mat; a dog too. " * 30], 275, model)


def test_vectors_are_those_of_the_command(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    gpt1.embed(str(run), str(rows), out=str(tmp_path / "out.npy"), dtype="fp32")
    embedder = gpt1.Embedder(run, dtype="fp32")
    found = embedder.fit_transform(TEXTS)
    assert (found.shape, found.dtype) == ((6, 16), np.float32)
    np.testing.assert_allclose(found, np.load(tmp_path / "out.npy"), atol=1e-6)
    np.testing.assert_array_equal(found, embedder.transform(np.array(TEXTS, dtype=object)[:, None]))


def test_the_contract(run: Path) -> None:
    embedder = gpt1.Embedder(str(run), dtype="fp32", threads=1)
    with pytest.raises(NotFittedError):
        embedder.transform(TEXTS)
    assert embedder.fit(TEXTS) is embedder
    assert list(embedder.get_feature_names_out()) == [f"embedder{n}" for n in range(16)]
    assert clone(embedder).get_params() == {"run": str(run), "device": "auto", "dtype": "fp32", "threads": 1}
    again = pickle.loads(pickle.dumps(embedder))
    assert len(pickle.dumps(embedder)) < 5_000, "the weights stay in their folder"
    np.testing.assert_array_equal(again.transform(TEXTS), embedder.transform(TEXTS))


def test_columns_have_the_names_of_the_fit(run: Path) -> None:
    embedder = gpt1.Embedder(run, dtype="fp32").fit([{"said": "a"}])
    assert embedder.transform(["a"]).shape == embedder.transform([{"said": "a"}]).shape
    with pytest.raises(ValueError, match="they were said, not text"):
        embedder.transform([{"text": "a"}])


def test_in_a_pipeline_and_a_search(run: Path) -> None:
    labels = ["cat", "dog", "cat", "cat", "dog", "dog"]
    pipeline = make_pipeline(gpt1.Embedder(run, dtype="fp32"), LogisticRegression())
    assert pipeline.fit(TEXTS, labels).predict(TEXTS).tolist()
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1]}, cv=3).fit(TEXTS, labels)
    assert set(search.best_params_) == {"logisticregression__C"}


def test_wrong_texts(run: Path) -> None:
    with pytest.raises(ValueError, match="row 1 of X is empty"):
        gpt1.Embedder(run).fit(["a", " "])
    with pytest.raises(TypeError, match="row 0 of X is 5"):
        gpt1.Embedder(run).fit([5])
    with pytest.raises(ValueError, match="nowhere"):
        gpt1.Embedder(run / "nowhere").fit(["a"])
    with pytest.raises(ValueError, match="dtype fp8"):
        gpt1.Embedder(run, dtype="fp8").fit(["a"])  # type: ignore[arg-type]
