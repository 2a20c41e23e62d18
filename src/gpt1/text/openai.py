"""OpenAI's vocabulary as files: the 2018 release's two, or Hugging Face's names for the same.

A vocabulary is a JSON object, token -> id; merges are a text, one pair a line behind a `#version` line. They say what
the tokens are, not how text is cut into words before; that is the caller's to choose (`Words`).
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from gpt1.errors import UserError
from gpt1.text.tokenizer import UNKNOWN, Own, Tokenizer, blank, recut

Words = Literal["hf", "2018"]
"""hf: as transformers' `OpenAIGPTTokenizer` cuts (BERT's rule, accents dropped); 2018: as the release did."""

WORDS: tuple[Words, ...] = get_args(Words)
KINDS: dict[Words, Own] = {"hf": "gpt1", "2018": "openai2018"}

FILES = (("encoder_bpe_40000.json", "vocab_40000.bpe"), ("vocab.json", "merges.txt"))
"""Vocabulary and merges: the release's names, Hugging Face's."""


def find_tokenizer(path: str | Path, words: Words | None = None) -> Tokenizer:
    """The tokenizer at `path`: a tokenizer.json, a folder that holds one, or the folder of a vocabulary.

    `words` says how OpenAI's kind of vocabulary is cut; without it a tokenizer.json keeps its own way, a bare
    vocabulary takes hf. Raises UserError if there is none, it is damaged, or of a kind that has no such choice.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "tokenizer.json").exists() and vocabulary_files(folder):
        return read_vocabulary(folder, words or "hf")
    tokenizer = Tokenizer.load(folder)
    if words is None or tokenizer.kind == KINDS[words]:
        return tokenizer
    if tokenizer.kind not in KINDS.values():
        raise UserError(f"--words {words} is for OpenAI's kind of vocabulary; that of {path} is {tokenizer.kind}")
    return recut(tokenizer, KINDS[words])


def read_vocabulary(folder: str | Path, words: Words = "hf") -> Tokenizer:
    """The tokenizer that a folder's vocabulary and merges make; end and pad follow as the next two ids.

    Raises UserError if a file is missing or no such file, ids are not 0 .. n-1, or a merge is not of known tokens.
    """
    names = vocabulary_files(folder)
    if names is None:
        looked = " nor ".join(" and ".join(pair) for pair in FILES)
        raise UserError(f"{folder}: holds neither {looked}; name the folder of a vocabulary")
    vocabulary = _vocabulary(names[0])
    return blank(KINDS[words], vocabulary, _merges(names[1], vocabulary))


def vocabulary_files(folder: str | Path) -> tuple[Path, Path] | None:
    """The paths of vocabulary and merges in `folder`, or None. Raises UserError if only one of the two is there."""
    for pair in FILES:
        there = [(Path(folder) / name).is_file() for name in pair]
        if all(there):
            return Path(folder) / pair[0], Path(folder) / pair[1]
        if any(there):
            missing = pair[there.index(False)]
            raise UserError(f"{folder}: {missing} is missing beside {pair[there.index(True)]}; copy it there")
    return None


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no JSON object of tokens and ids")
    for token, i in found.items():
        if type(i) is not int or not 0 <= i < len(found):
            raise UserError(f"{path}: token {token!r} has id {i!r}; {len(found):,} tokens need the ids {_range(found)}")
    if len(ids := set(found.values())) < len(found):
        hole = min(set(range(len(found))) - ids)
        raise UserError(f"{path}: no token has id {hole}, others share one; ids must be {_range(found)}, each once")
    if UNKNOWN not in found:
        raise UserError(f"{path}: has no token {UNKNOWN}, which stands for characters outside the vocabulary")
    return found


def _merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    lines = _text(path).removesuffix("\n").split("\n")
    found: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version"):
            continue
        parts = line.removesuffix("\r").split(" ")
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{path}, line {number}: {line!r} is no merge; a line is two tokens with a space between")
        for token in (*parts, "".join(parts)):
            if token not in vocabulary:
                raise UserError(f"{path}, line {number}: {token!r} of the merge {line!r} is not in the vocabulary")
        found.append((parts[0], parts[1]))
    return found


def _range(vocabulary: dict[str, Any]) -> str:
    return f"0 to {len(vocabulary) - 1:,}"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # as it is: read_text would change line ends
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
