"""The fast path gives the ids of the plain one, on any text, however it is cut into pieces and threads."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from gpt1.tokenizer import bulk
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.openai import read_vocabulary
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

CORPUS = ["The cat sat on the mat; “don’t,” said the cat's hat in 1984.\r\n\tNaïve café, Привет, 漢字漢字 😀.\n\n"] * 4
any_texts = st.lists(
    st.text(st.characters(codec="utf-8"))
    | st.lists(st.sampled_from([" ", "\n", "\r", "\t", "cat", " the", "’", "1", "é", "E\u0301", "漢", "\x00"])).map(
        "".join
    )
)


@pytest.fixture(scope="module", params=["bytes", "gpt1", "openai2018", "custom"])
def tokenizer(request: pytest.FixtureRequest, openai_folder: Path) -> Tokenizer:
    if request.param == "openai2018":
        pytest.importorskip("spacy")
        return read_vocabulary(openai_folder, "2018")
    if request.param != "custom":
        return train(CORPUS, request.param)
    words = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "the": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(json.loads(words.to_str()))


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, offsets = encode_bulk(tokenizer, texts)
    assert (ids.dtype, offsets.dtype, len(offsets), offsets[-1]) == (np.uint32, np.int64, len(texts) + 1, len(ids))
    for i, text in enumerate(texts):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == tokenizer.encode(text)


@settings(max_examples=300, deadline=None)
@given(any_texts)
def test_ids_are_those_of_encode(tokenizer: Tokenizer, texts: list[str]) -> None:
    check(tokenizer, texts)


@pytest.mark.parametrize("texts", [[], [""], ["", "a", "", "\n"], ["\ud800 cat"], ["\x00\x01", "\u0301"]])
def test_odd_lists(tokenizer: Tokenizer, texts: list[str]) -> None:
    check(tokenizer, texts)


def test_pieces_and_forgetting_change_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PIECE", 40)
    monkeypatch.setattr(bulk, "MAX_WORDS", 10)
    check(tokenizer, ["".join(CORPUS) * 5, "\n\n cat\n" * 50, *CORPUS, "\n" * 500, "the cat " * 100])
    check(tokenizer, ["".join(CORPUS), "other words\r\n\r\nwith new letters xyz"])


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(" 1a漢'’.,-\t\n\r\u3000😀"), min_size=5))
def test_a_text_may_be_cut_at_every_border(tokenizer: Tokenizer, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "PIECE", 1)
        check(tokenizer, [text])


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "cat" * 300_000, "漢字" * 200_000, "\n" * 10**6], ids=["a", "cat", "漢", "nl"]
)
def test_a_text_without_spaces_takes_no_longer_than_any(text: str) -> None:
    tokenizer = train(CORPUS, "bytes")
    ids, _ = encode_bulk(tokenizer, [text])
    assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "gpt1"])
def test_whole_books(shared_data: Path, kind: str) -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted((shared_data / "books").glob("*.txt"))]
    tokenizer = train(texts, kind, 16_000)  # type: ignore[arg-type]
    ids, offsets = encode_bulk(tokenizer, texts)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(ids[offsets[i] : offsets[i + 1]], tokenizer.encode(text))
        if kind == "bytes":
            assert tokenizer.decode(tokenizer.encode(text)) == text
