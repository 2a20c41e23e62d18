"""Words as in OpenAI's 2018 release: the ids of a plain reading of its description, on every road."""

import functools
import importlib.util
import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import pytest
import tokenizers

from gpt1.commands.convert import convert
from gpt1.commands.prepare import prepare
from gpt1.config import Convert, Model, Prepare
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer import pretokenize
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.openai import find_tokenizer, read_vocabulary
from gpt1.tokenizer.tokenizer import Tokenizer

Encode = Callable[[str], list[int]]


def oracle(folder: Path, by_piece: bool = False) -> Encode:
    """The release's encoder: ftfy, standardise, spaCy on the whole text (`by_piece`: between spaces), merge by rank."""
    nlp = pytest.importorskip("spacy").blank("en")
    ids = json.loads((folder / "encoder_bpe_40000.json").read_text())
    lines = (folder / "vocab_40000.bpe").read_text(encoding="utf-8").splitlines()[1:]
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}

    @functools.cache
    def encoded(word: str) -> list[int]:
        if word.isspace():
            return [ids["\n</w>"]]
        symbols = [*word[:-1], word[-1] + "</w>"]
        while known := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
            first, second = min(known, key=lambda pair: ranks[pair])
            merged: list[str] = []
            for symbol in symbols:
                # A merge leaves a third symbol behind its second, so a pair is never taken twice.
                if merged and (merged[-1], symbol) == (first, second):
                    merged[-1:] = [first + second, ""]
                else:
                    merged.append(symbol)
            symbols = [symbol for symbol in merged if symbol]
        return [ids.get(symbol, 0) for symbol in symbols]

    def encode(text: str) -> list[int]:
        text = ftfy.fix_text(text)
        for old, new in (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'")):
            text = text.replace(old, new)
        for mark in '-~!";?+,)(\\/*[]}{|_':
            text = re.sub(f"({re.escape(mark)}+)", r" \1 ", text)
        text = re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", " \n ", text)).strip()
        words = [w for piece in text.split(" ") for w in nlp.tokenizer(piece)] if by_piece else nlp.tokenizer(text)
        return [i for word in words for i in encoded(word.text.lower())]

    return encode


@pytest.fixture(scope="module")
def tokenizer(openai_folder: Path) -> Tokenizer:
    pytest.importorskip("spacy")
    return read_vocabulary(openai_folder, "2018")


def every_road(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids by `encode_bulk`, once those by `encode_batch` are seen to be the same."""
    ids, offsets = encode_bulk(tokenizer, texts)
    found = [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == tokenizer.encode_batch(texts)
    return found


def test_ids_are_those_of_the_release(tokenizer: Tokenizer, openai_folder: Path, hard_lines: list[str]) -> None:
    texts = [*hard_lines, " ".join(hard_lines), "\n \n".join(hard_lines)]
    assert every_road(tokenizer, texts) == [oracle(openai_folder)(text) for text in texts]


def test_any_mixture_has_the_ids_of_the_release(tokenizer: Tokenizer, openai_folder: Path) -> None:
    parts = (
        "cat|The|n't|'s|'|’|“|—|…| | |\n|\r\n|.|Mr.|id|8|am|$|=|<unk>|</w>|é|e\u0301|漢|😀|\x00|\u3000|&amp;|a:b|@|-"
    )
    draw, encode = random.Random(0), oracle(openai_folder, by_piece=True)
    texts = ["".join(draw.choices(parts.split("|"), k=draw.randint(1, 14))) for _ in range(3_000)]
    assert every_road(tokenizer, texts) == [encode(text) for text in texts]


@pytest.mark.parametrize("step", [100, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_every_line_of_real_data_has_the_ids_of_the_release(shared_data: Path, step: int) -> None:
    """spaCy looks for special cases over spaces, in vain, and may miss another by it: one line in 500,000."""
    folder = shared_data / "gpt1-vocab"
    encode, by_piece = oracle(folder), oracle(folder, by_piece=True)
    tokenizer, missed, lines = read_vocabulary(folder, "2018"), 0, 0
    for file in sorted(path for path in shared_data.rglob("*.*") if path.parent != folder and path.is_file()):
        texts = file.read_bytes().decode("utf-8", "replace").split("\n")[::step]
        lines += len(texts)
        for text, ids in zip(texts, every_road(tokenizer, texts), strict=True):
            if ids != encode(text):
                missed += 1
                assert ids == by_piece(text), (file, text)
    assert missed <= lines / 100_000


def test_decoded_text_is_read_the_same_again(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("“The cat\n\nsat—didn’t he”")
    assert tokenizer.decode(ids) == '" the cat\nsat - did n\'t he "'
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_the_kind_is_kept_wherever_a_tokenizer_goes(tokenizer: Tokenizer, openai_folder: Path, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, 512)
    tuned = tokenizer.with_task_tokens()
    assert tokenizer.hash == Tokenizer.load(tmp_path).hash == find_tokenizer(tmp_path).hash
    assert tokenizer.hash != read_vocabulary(openai_folder).hash
    assert tuned.kind == "openai2018" and not tuned.lossless
    assert tuned.encode("“It didn’t.”") == tokenizer.encode('"It didn\'t."')
    assert find_tokenizer(tmp_path, "hf").hash == read_vocabulary(openai_folder).hash


def test_long_pieces_take_linear_time_and_lose_nothing(tokenizer: Tokenizer) -> None:
    for piece in ("=" * 20_000, "'" * 2_000, "a:" * 2_000, "漢" * 20_000):
        assert "".join(tokenizer.pretokenize(piece)) == piece


def test_spacy_starts_afresh_before_it_remembers_too_much(
    tokenizer: Tokenizer, openai_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretokenize, "CACHED_STRINGS", 10)
    assert tokenizer.encode("newly seen words, wouldn't") == oracle(openai_folder)("newly seen words, wouldn't")


def test_other_tools_come_near(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, 512)
    near = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "“I’d told Mr. Cat—it didn’t…”\r\n \nThe hat’s 5:30 a.m., cannot I’m U.S. (dont) "
    assert near.encode(text).ids == tokenizer.encode(text)


def test_a_run_keeps_its_way_and_its_card_warns(tokenizer: Tokenizer, openai_folder: Path, tmp_path: Path) -> None:
    model = Model(context=16, width=16, depth=1, heads=2, inner=64, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights()
    for name, cut in (("hf", find_tokenizer(openai_folder)), ("2018", tokenizer)):
        save_run(tmp_path / name, body, cut, RunMetadata(kind="pretrained"))
    loaded = load_run(tmp_path / "2018")
    assert loaded.metadata.tokenizer_kind == "openai2018"
    assert loaded.generate("“The cat—", seed=1)["text"] == loaded.generate('" the cat -', seed=1)["text"]
    warnings = ["**Other tools do not**" in (tmp_path / name / "README.md").read_text() for name in ("hf", "2018")]
    assert warnings == [False, True]


def test_a_converted_model_takes_the_way_that_is_asked_for(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = Model(context=16, width=16, depth=1, heads=2, inner=64, vocabulary=tokenizer.vocabulary)
    save_run(tmp_path / "run", GPT(model).init_weights(), tokenizer, RunMetadata(kind="pretrained"))
    convert(Convert(src=str(tmp_path / "run"), out=str(tmp_path / "copy")))
    convert(Convert(src=str(tmp_path / "run"), out=str(tmp_path / "release"), to="openai"))
    convert(Convert(src=str(tmp_path / "release"), out=str(tmp_path / "hf"), heads=2))
    convert(Convert(src=str(tmp_path / "release"), out=str(tmp_path / "2018"), heads=2, words="2018"))
    kinds = {name: load_run(tmp_path / name).tokenizer.kind for name in ("copy", "hf", "2018")}
    assert kinds == {"copy": "openai2018", "hf": "gpt1", "2018": "openai2018"}
    with pytest.raises(UserError, match=r"^words is for what is converted to a run"):
        convert(Convert(src=str(tmp_path / "run"), out=str(tmp_path / "no"), words="hf"))


def test_prepare_encodes_by_it(openai_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    text = tmp_path / "text.txt"
    text.write_text("“The cat didn’t see—the hat.”\n\nIt sat…\n" * 40, encoding="utf-8")
    settings: dict[str, Any] = {"inputs": [str(text)], "tokenizer": str(openai_folder), "documents": "line"}
    counts = {
        words: prepare(Prepare(out=str(tmp_path / words), words=words, **settings))  # type: ignore[arg-type]
        for words in ("hf", "2018")
    }
    assert counts["2018"]["tokenizer"] == "openai2018" and counts["2018"]["unknown_rate"] == 0
    assert counts["hf"]["tokenizer"] == "gpt1" and counts["hf"]["unknown_rate"] > 0.1
    ids = [oracle(openai_folder)(line) for line in text.read_text(encoding="utf-8").split("\n") if line]
    assert counts["2018"]["tokens"] == sum(len(line) + 1 for line in ids)
    assert prepare(Prepare(out=str(tmp_path / "2018"), words="2018", **settings))["unchanged"]


def test_words_need_openais_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^words 2018 is for OpenAI's vocabulary; name its folder with tokenizer"):
        prepare(Prepare(inputs=["x"], out=str(tmp_path / "out"), words="2018"))


def test_without_spacy_one_line_says_what_to_install(openai_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^splitting words as OpenAI's 2018 release did needs spaCy: pip install 'gpt1\[openai2018\]'$"
    ):
        read_vocabulary(openai_folder, "2018")
