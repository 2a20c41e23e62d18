"""Tokenizers: nothing lost, nothing forged, the same ids in every tool; merges equal the library's own trainer's."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, trainers

from gpt1.errors import UserError
from gpt1.tokenizer.pretokenize import MAX_RUN, WORDS
from gpt1.tokenizer.tokenizer import DELIMITER, END, EXTRACT, PAD, START, Tokenizer, byte_symbols
from gpt1.tokenizer.train_bpe import choose_vocabulary, train

CORPUS = [
    "The cat sat on the mat, and the hat sat on the cat. 'Don't!' said the mat; “don’t,” said the cat's hat.\n",
    "In 1984 and 2001 there were 12,345 cats.\r\n\tNaïve café, Ünïcödé, Привет мир, 漢字漢字, 😀😀.\n\n" * 3,
    "aaaa aaaaa aaa abab ababa bababab " * 5,
    str(json.__doc__),
]
SPECIALS = [END, PAD, START, DELIMITER, EXTRACT]
any_text = st.text(st.characters(codec="utf-8")) | st.lists(
    st.sampled_from([*SPECIALS, " ", "\n", "\r\n", "\x00", "’", "a", " the", "don't", "é", "e\u0301", "漢", "😀", "12"])
).map("".join)


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return train(CORPUS, "bytes", 400)


@pytest.fixture(scope="module")
def lossy() -> Tokenizer:
    return train(CORPUS, "gpt1", 300)


@pytest.fixture(scope="module")
def saved(plain: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-two folder of context 12."""
    folder = tmp_path_factory.mktemp("stage-two")
    plain.with_task_tokens().save(folder, 12, template=True)
    return folder


@settings(max_examples=500, deadline=None)
@given(any_text)
@example("\r\n\x00 \ufffd\ufeff" + "".join(SPECIALS))
def test_any_text_comes_back(plain: Tokenizer, text: str) -> None:
    assert plain.decode(plain.encode(text)) == text


@settings(max_examples=500, deadline=None)
@given(any_text)
@example(" don't 'tis Mary’s 12345  x\r\n\n\ty" + "a" * 100)
@example("".join(chr(c) for c in range(0x3100)))
def test_polars_and_tokenizers_split_alike(plain: Tokenizer, text: str) -> None:
    words = pl.Series([text]).str.extract_all(WORDS)[0].to_list()
    assert "".join(words) == text
    symbols = byte_symbols()
    assert ["".join(symbols[byte] for byte in word.encode()) for word in words] == plain.pretokenize(text)
    assert all(len(word) <= 2 * MAX_RUN + 2 for word in words)


def test_words_are_split_as_documented() -> None:
    cut = pl.Series([" Mary’s don't 1234  x\n\ny"]).str.extract_all(WORDS)[0].to_list()
    assert cut == [" Mary’s", " don't", " 123", "4", "  ", "x", "\n\n", "y"]


@settings(deadline=None)
@given(any_text)
def test_no_text_makes_a_special_token(plain: Tokenizer, lossy: Tokenizer, text: str) -> None:
    for tokenizer in (plain.with_task_tokens(), lossy.with_task_tokens()):
        special = {tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id, tokenizer.delimiter_id, tokenizer.extract_id}
        assert not special & set(tokenizer.encode(text + "".join(SPECIALS) + text))


def test_raw_tokenizers_makes_none_either(saved: Path) -> None:
    raw = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    raw.no_truncation()
    ids = raw.encode("".join(SPECIALS), add_special_tokens=False).ids
    assert ids == Tokenizer.load(saved).encode("".join(SPECIALS))


def test_special_ids_end_the_vocabulary(plain: Tokenizer) -> None:
    task = plain.with_task_tokens()
    assert (plain.end_id, plain.pad_id, plain.vocabulary, plain.start_id) == (398, 399, 400, None)
    assert (task.start_id, task.delimiter_id, task.extract_id, task.vocabulary) == (400, 401, 402, 403)
    assert (task.end_id, task.with_task_tokens().hash) == (398, task.hash)
    assert task.encode(CORPUS[0]) == plain.encode(CORPUS[0])


def test_load_gives_what_was_saved(plain: Tokenizer, saved: Path) -> None:
    task = plain.with_task_tokens()
    for loaded in (Tokenizer.load(saved), Tokenizer.load(saved / "tokenizer.json")):
        assert (loaded.hash, loaded.kind, loaded.vocabulary) == (task.hash, "bytes", 403)
        long = CORPUS[1] * 20
        assert loaded.encode(long) == task.encode(long)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 500)))
def test_any_ids_decode(plain: Tokenizer, lossy: Tokenizer, ids: list[int]) -> None:
    for tokenizer in (plain, lossy):
        assert isinstance(tokenizer.decode(ids), str)
        pieces = tokenizer.pieces(ids)
        assert len(pieces) == len(ids)
        assert all(piece.isprintable() for piece in pieces)


def test_special_tokens_have_no_text_but_a_piece(plain: Tokenizer) -> None:
    ids = [*plain.encode("cat"), plain.end_id, plain.pad_id]
    assert plain.decode(ids) == "cat"
    assert plain.pieces(ids)[-2:] == [END, PAD]
    assert plain.pieces(plain.encode("\n€"))[0] == r"\n"
    assert "".join(plain.pieces(plain.encode("€"))) == r"\xe2\x82\xac"


def test_lone_surrogates_become_replacement_characters(plain: Tokenizer) -> None:
    assert plain.decode(plain.encode("a\ud800b\ud83d\ude00")) == "a\ufffdb😀"


def test_gpt1_kind_is_lower_case_with_word_ends(lossy: Tokenizer) -> None:
    assert lossy.kind == "gpt1"
    assert not lossy.lossless
    assert lossy.decode(lossy.encode("The CAT\n\nsat,  naïve")) == "the cat sat , naive"
    assert lossy.decode(lossy.encode("☃")) == "<unk>"


def test_batch_is_single(plain: Tokenizer) -> None:
    assert plain.encode_batch(CORPUS) == [plain.encode(text) for text in CORPUS]
    lengths, ids = plain.encode_words([" the", "cat’s", "\n"])
    assert ids.tolist() == plain.encode(" the") + plain.encode("cat’s") + plain.encode("\n")
    assert lengths.sum() == len(ids)


def test_any_tokenizer_json_can_be_used(tmp_path: Path) -> None:
    other = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    other.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    other.add_special_tokens(["<|endoftext|>"])
    other.save(str(tmp_path / "tokenizer.json"))
    custom = Tokenizer.load(tmp_path)
    assert (custom.kind, custom.vocabulary, custom.end_id, custom.pad_id) == ("custom", 5, 3, 4)
    assert custom.encode(f"cat <|endoftext|> {END}") == [1, 0, 0]
    custom.with_task_tokens().save(tmp_path / "again", 8, template=True)
    assert Tokenizer.load(tmp_path / "again").extract_id == 7


def test_a_file_of_an_earlier_version_of_tokenizers_can_be_used(plain: Tokenizer, tmp_path: Path) -> None:
    """As that of GPT-2 on the hub: no type, no `ignore_merges`, a merge is one string."""
    definition = json.loads(plain.text)
    model = definition["model"]
    old = {name: model[name] for name in ("vocab", "unk_token", "fuse_unk")} | {
        "merges": [" ".join(pair) for pair in model["merges"]]
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition | {"model": old}), encoding="utf-8")
    assert Tokenizer.load(tmp_path).hash == plain.hash


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.fixture(scope="module")
def hf(saved: Path) -> Any:
    """The saved folder, read by transformers."""
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(saved)


def test_transformers_has_our_ids(hf: Any, plain: Tokenizer) -> None:
    assert (hf.eos_token_id, hf.pad_token_id, hf.bos_token_id, hf.sep_token_id, hf.cls_token_id) == (
        398, 399, 400, 401, 402,
    )  # fmt: skip
    assert (len(hf), hf.model_max_length) == (403, 12)
    text = "the cat <|end|> sat on <|extract|>"
    assert hf(text, add_special_tokens=False)["input_ids"] == plain.encode(text)
    assert hf.decode(hf(text)["input_ids"], skip_special_tokens=True) == text


def test_transformers_keeps_start_and_extract_of_a_long_text(hf: Any, plain: Tokenizer) -> None:
    ids = plain.encode("the cat sat on the mat " * 9)
    single = hf("the cat sat on the mat " * 9, truncation=True)["input_ids"]
    assert single == [400, *ids[:10], 402]
    pair = hf("the cat sat on the mat " * 9, "cat", truncation=True)["input_ids"]
    assert len(pair) == 12
    assert (pair[0], pair[-1], pair.count(401)) == (400, 402, 1)


def test_transformers_batched_is_single_padded_on_the_right(hf: Any) -> None:
    texts = ["cat", "the cat sat on the mat " * 9, END]
    rows = hf(texts, truncation=True, padding=True)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        single = hf(text, truncation=True)["input_ids"]
        assert row == single + [399] * (12 - len(single))


def test_transformers_saves_what_it_read(hf: Any, saved: Path, tmp_path: Path) -> None:
    hf.save_pretrained(tmp_path)
    again = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path)
    assert again(f"cat {END}")["input_ids"] == hf(f"cat {END}")["input_ids"]
    assert Tokenizer.load(tmp_path).hash == Tokenizer.load(saved).hash


@pytest.mark.parametrize("size", [300, 400, 700])
def test_merges_are_those_of_the_library(size: int) -> None:
    corpus = [*CORPUS, str(re.__doc__), str(np.__doc__)]
    ours = train(corpus, "bytes", size)
    whole = json.loads(ours.text)
    theirs = tokenizers.Tokenizer.from_str(ours.text)
    theirs.model = models.BPE()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, min_frequency=2, initial_alphabet=byte_symbols(), show_progress=False
    )
    theirs.train_from_iterator(corpus, trainer)
    model = json.loads(theirs.to_str())["model"]
    assert whole["model"]["merges"] == model["merges"]
    assert whole["model"]["vocab"] == model["vocab"] | {END: ours.end_id, PAD: ours.pad_id}


def test_order_and_chunks_of_the_corpus_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(CORPUS, "bytes", 350)
    monkeypatch.setattr("gpt1.tokenizer.train_bpe.CHUNK", 10)
    assert train(reversed(CORPUS), "bytes", 350).hash == whole.hash


def test_counting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.tokenizer.train_bpe.CHUNK", 1)
    monkeypatch.setattr("gpt1.tokenizer.train_bpe.MAX_WORDS", 5)
    rare = [f"{word}" for word in "abcdefghijklmnop"]
    tokenizer = train([*["the"] * 50, *rare], "bytes")
    assert tokenizer.pieces(tokenizer.encode("the")) == ["the"]


def test_bytes_that_are_learnt_from_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.tokenizer.train_bpe.MAX_BYTES", 100_000)
    monkeypatch.setattr("gpt1.tokenizer.train_bpe.CHUNK", 20_000)
    rng = random.Random(1)
    texts = [*[" cat"] * 50_000, *("".join(rng.choices("漢字仮名交じり文", k=30)) for _ in range(4_000))]
    whole = train(texts, "bytes", 300)
    assert whole.pieces(whole.encode(" cat")) == [" cat"], "the most frequent words stay"
    assert train(reversed(texts), "bytes", 300).hash == whole.hash


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(UserError, match="give only 259 tokens"):
        train(["ab ab"], "bytes", 5000)
    with pytest.raises(UserError, match="at least 258"):
        train(["ab ab"], "bytes", 257)
    assert train(["ab ab"], "bytes").vocabulary == 259
    assert train([], "bytes").vocabulary == 258


@pytest.mark.parametrize(("megabytes", "size"), [(0.01, 512), (1, 1024), (59.6, 7936), (1000, 32256), (10**5, 40192)])
def test_vocabulary_grows_as_the_root_of_the_corpus(megabytes: float, size: int) -> None:
    assert choose_vocabulary(int(megabytes * 1e6)) == size


def test_a_vocabulary_with_scores_can_be_used(tmp_path: Path) -> None:
    other = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0))
    other.save(str(tmp_path / "tokenizer.json"))
    custom = Tokenizer.load(tmp_path)
    assert (custom.kind, custom.encode("ab"), custom.end_id) == ("custom", [1, 2], 3)
