"""A `</w>` vocabulary as two files, as OpenAI published GPT-1's: a JSON object of ids, and merges, one a line."""

import json
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.storage import write_text
from gpt1.tokenizer.tokenizer import UNKNOWN, Tokenizer, blank, recut

HEADER = "#version: 0.2"
"""First line of a merges file."""
MERGES_AND_IDS = ("vocab", "merges")
"""What two `</w>` tokenizers may differ in."""


def read_bpe(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ids and the merges, in order.

    Raises UserError, naming file and line, for ids that are not 0 .. n-1, and for a merge that is no pair of tokens.
    """
    ids = _ids(vocabulary)
    lines = _text(merges).split("\n")  # not splitlines: a token may be one of Unicode's other line ends
    first = 1 if lines[0].startswith("#version") else 0
    last = len(lines) - (lines[-1] == "")
    return ids, [_merge(ids, line, f"{merges}, line {i}") for i, line in enumerate(lines[first:last], first + 1)]


def write_bpe(tokenizer: Tokenizer, tokens: int, vocabulary: Path, merges: Path) -> None:
    """Write the first `tokens` ids, and the merges. Raises UserError for a tokenizer that two such files cannot say."""
    if tokenizer.kind == "openai2018":
        tokenizer = recut(tokenizer, "gpt1")  # the same two files; they do not say how words are cut
    definition = json.loads(tokenizer.text)
    model = definition["model"]
    own = tokenizer.kind == "gpt1"
    pairs = [tuple(pair) for pair in model["merges"]] if own else []
    ids = {token: i for token, i in model["vocab"].items() if i < tokens} if own else {}
    # A normalizer or a setting of other people's may hide in a tokenizer that looks like GPT-1's own kind.
    if not own or _manner(definition) != _manner(json.loads(blank("gpt1", ids, pairs).text)):
        raise UserError(
            f"a tokenizer of kind {tokenizer.kind} cannot be written as {vocabulary.name} and {merges.name}: "
            "they say GPT-1's own kind only (`gpt1 prepare --tokenizer gpt1`)"
        )
    write_text(vocabulary, json.dumps(dict(sorted(ids.items(), key=lambda entry: entry[1]))))
    write_text(merges, "\n".join([HEADER, *(" ".join(pair) for pair in pairs), ""]))


def _ids(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(ids, dict):
        raise UserError(f"{path} is damaged: it must be a JSON object, token -> id")
    owner: dict[Any, str] = {}
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < len(ids):
            raise UserError(
                f"{path}: token {token!r} has the id {i!r}; the {len(ids):,} ids must be 0 to {len(ids) - 1}"
            )
        if i in owner:
            raise UserError(f"{path}: tokens {owner[i]!r} and {token!r} have the same id, {i}")
        owner[i] = token
    if UNKNOWN not in ids:
        raise UserError(f"{path}: the token {UNKNOWN} is missing; it stands for what no other token can spell")
    return ids


def _merge(ids: dict[str, int], line: str, where: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise UserError(f"{where}: {line[:40]!r} is no merge; two tokens with a space between them must stand there")
    for token in (left, right, left + right):
        if token not in ids:
            raise UserError(f"{where}: {line[:40]!r} needs the token {token!r}, which the vocabulary lacks")
    return left, right


def _manner(definition: dict[str, Any]) -> list[Any]:
    model = {key: value for key, value in definition["model"].items() if key not in MERGES_AND_IDS}
    return [definition["normalizer"], definition["pre_tokenizer"], model]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 ({error.reason} at byte {error.start})") from None
