"""OpenAI's vocabulary: the ids of transformers' own tokenizer for it, on every road; bad files are named by line."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.tokenizer.bulk import encode_bulk
from gpt1.tokenizer.openai import find_tokenizer, read_vocabulary
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train


def write(folder: Path, names: list[str], merges: list[str]) -> None:
    (folder / "encoder_bpe_40000.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "vocab_40000.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def theirs(openai_folder: Path, **settings: bool) -> Any:
    """transformers' tokenizer, from files that it reads itself."""
    transformers = pytest.importorskip("transformers")
    vocabulary = json.loads((openai_folder / "encoder_bpe_40000.json").read_text())
    merges = (openai_folder / "vocab_40000.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    return transformers.OpenAIGPTTokenizer(vocabulary, [tuple(merge.split()) for merge in merges], **settings)


def check(openai_folder: Path, texts: list[str]) -> int:
    """Assert that all our roads give transformers' ids; returns how many."""
    ours, valid = read_vocabulary(openai_folder), [text.encode("utf-8", "replace").decode() for text in texts]
    expected = theirs(openai_folder, split_special_tokens=True)(valid).input_ids
    ids, offsets = encode_bulk(ours, valid)
    assert ours.encode_batch(valid) == expected
    assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected
    return len(ids)


def test_ids_are_those_of_transformers(openai_folder: Path, hard_lines: list[str]) -> None:
    check(openai_folder, [*hard_lines, " ".join(hard_lines)])


def test_text_forges_no_unknown_token(openai_folder: Path) -> None:
    ours = read_vocabulary(openai_folder)
    assert ours.unknown_id == 0 and ours.vocabulary == len(theirs(openai_folder)) + 2
    assert 0 in theirs(openai_folder)("the <unk> cat").input_ids, (
        "transformers takes it for the token unless told not to"
    )
    assert len(ours.encode("the <unk> cat")) > 3


def test_a_tokenizer_saved_by_transformers_gives_the_same_ids(
    openai_folder: Path, hard_lines: list[str], tmp_path: Path
) -> None:
    theirs(openai_folder).save_pretrained(tmp_path)  # declares <unk> as an added token
    loaded, ours = Tokenizer.load(tmp_path), read_vocabulary(openai_folder)
    assert loaded.kind == ours.kind == "gpt1"
    assert loaded.encode_batch(hard_lines) == ours.encode_batch(hard_lines)
    assert encode_bulk(loaded, hard_lines)[0].tolist() == encode_bulk(ours, hard_lines)[0].tolist()


def test_every_way_to_name_a_vocabulary(openai_folder: Path, tmp_path: Path) -> None:
    for ours, name in (("encoder_bpe_40000.json", "vocab.json"), ("vocab_40000.bpe", "merges.txt")):
        (tmp_path / name).write_bytes((openai_folder / ours).read_bytes())
    first = find_tokenizer(tmp_path)
    first.save(tmp_path / "saved", 512)
    assert {first.hash} == {
        find_tokenizer(p).hash for p in (openai_folder, tmp_path / "saved", tmp_path / "saved/tokenizer.json")
    }


def test_a_bad_merge_is_named(tmp_path: Path) -> None:
    write(tmp_path, ["<unk>", "t", "h", "s", "th"], ["t h", "t zz"])
    with pytest.raises(UserError, match=r"vocab_40000.bpe, line 3: 't zz' needs the token 'zz'"):
        find_tokenizer(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path, openai_folder: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        read_vocabulary(tmp_path)
    with pytest.raises(UserError, match=r"must hold one of tokenizer\.json; vocab\.json and merges\.txt; encoder"):
        find_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_bytes((openai_folder / "encoder_bpe_40000.json").read_bytes())
    for read in (read_vocabulary, find_tokenizer):
        with pytest.raises(UserError, match=r"merges.txt is missing$"):
            read(tmp_path)


def test_words_are_for_openais_kind_only(tmp_path: Path) -> None:
    train(["the cat sat"], "bytes").save(tmp_path, 512)
    with pytest.raises(UserError, match=r"^words hf is for OpenAI's kind of vocabulary; that of .* is bytes"):
        find_tokenizer(tmp_path, "hf")


def data_lines(shared_data: Path, step: int) -> Iterator[list[str]]:
    """Every `step`-th line of each file of real data."""
    for file in sorted(path for path in shared_data.rglob("*") if path.is_file()):
        yield file.read_bytes().decode("utf-8", "replace").split("\n")[::step]


@pytest.mark.parametrize("step", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_every_line_of_real_data_has_the_ids_of_transformers(shared_data: Path, step: int) -> None:
    lines = [line for found in data_lines(shared_data, step) for line in found]
    random.Random(0).shuffle(lines)
    for start in range(0, len(lines), 50_000):
        check(shared_data / "gpt1-vocab", lines[start : start + 50_000])
