"""OpenAI's vocabulary files for GPT-1: a JSON object of ids and a text file with one merge per line.

The files do not say how text is pre-tokenized; `words` chooses between two ways.
"""

import json
from pathlib import Path
from typing import Any

from gpt1.config import Words
from gpt1.errors import UserError, setting
from gpt1.storage import write_text
from gpt1.tokenizer.tokenizer import UNKNOWN, OwnKind, Tokenizer, bpe_tokenizer

# hf: as transformers' `OpenAIGPTTokenizer` does (BERT's rule, accents dropped); 2018: as the release did.
KINDS: dict[Words, OwnKind] = {"hf": "gpt1", "2018": "openai2018"}

TOKENIZER = "tokenizer.json"
RELEASED = ("encoder_bpe_40000.json", "vocab_40000.bpe")
# Vocabulary and merges, as old versions of transformers saved them and as OpenAI did.
PAIRS = (("vocab.json", "merges.txt"), RELEASED)
HEADER = "#version: 0.2"  # first line of a merges file


def find_tokenizer(path: str | Path, words: Words | None = None) -> Tokenizer:
    """Load the tokenizer at `path`: a tokenizer.json, a folder that holds one, or the folder of a vocabulary.

    Without `words`, a tokenizer.json keeps its pre-tokenization and a bare vocabulary takes hf. Raises UserError if
    there is no tokenizer, it is damaged, or `words` is given for one that is not of OpenAI's kind.
    """
    if vocabulary_files(Path(path)):
        return read_vocabulary(path, words or "hf")
    if Path(path).is_dir() and not (Path(path) / TOKENIZER).exists():
        known = "; ".join([TOKENIZER, *(" and ".join(pair) for pair in PAIRS)])
        raise UserError(f"{path}: a folder without a tokenizer; it must hold one of {known}")
    tokenizer = Tokenizer.load(path)
    return tokenizer if words is None else with_words(tokenizer, words, path)


def with_words(tokenizer: Tokenizer, words: Words, path: str | Path) -> Tokenizer:
    """Return the same vocabulary with another pre-tokenization.

    Raises UserError if the tokenizer, which comes from `path`, is not of OpenAI's kind.
    """
    if tokenizer.kind not in KINDS.values():
        raise UserError(
            f"{setting('words')} {words} is for OpenAI's kind of vocabulary; that of {path} is {tokenizer.kind}"
        )
    return tokenizer if tokenizer.kind == KINDS[words] else tokenizer.with_pretokenizer(KINDS[words])


def read_vocabulary(folder: str | Path, words: Words = "hf") -> Tokenizer:
    """Return the tokenizer made of a folder's vocabulary and merges; end and pad become the next two ids.

    Raises UserError if there are no such files, and as `read_bpe` does.
    """
    names = vocabulary_files(Path(folder))
    if names is None:
        known = " nor ".join(" and ".join(pair) for pair in PAIRS)
        raise UserError(f"{folder}: holds neither {known}; name the folder of a vocabulary")
    return bpe_tokenizer(KINDS[words], *read_bpe(*names))


def vocabulary_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the paths of a folder's vocabulary and merges; None without them, or beside a tokenizer.json."""
    if (folder / TOKENIZER).exists():
        return None
    return next(((folder / a, folder / b) for a, b in PAIRS if (folder / a).exists() or (folder / b).exists()), None)


def read_bpe(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the ids and the merges, in order.

    Raises UserError, naming file and line, for ids that are not 0 .. n-1 and for a merge that is not a pair of tokens.
    """
    ids = _ids(vocabulary)
    lines = _text(merges).split("\n")  # not splitlines: a token may be one of Unicode's other line ends
    first = 1 if lines[0].startswith("#version") else 0
    last = len(lines) - (lines[-1] == "")
    return ids, [_merge(ids, line, f"{merges}, line {i}") for i, line in enumerate(lines[first:last], first + 1)]


def write_bpe(tokenizer: Tokenizer, tokens: int, vocabulary: Path, merges: Path) -> None:
    """Write the first `tokens` ids, and the merges. Raises UserError if these files cannot express the tokenizer."""
    if tokenizer.kind == "openai2018":
        tokenizer = tokenizer.with_pretokenizer("gpt1")  # the files are the same
    definition = json.loads(tokenizer.text)
    model = definition["model"]
    own = tokenizer.kind == "gpt1"
    pairs = [tuple(pair) for pair in model["merges"]] if own else []
    ids = {token: i for token, i in model["vocab"].items() if i < tokens} if own else {}
    # A tokenizer of kind gpt1 may still have a different normalizer or model setting.
    if not own or _behavior(definition) != _behavior(json.loads(bpe_tokenizer("gpt1", ids, pairs).text)):
        raise UserError(
            f"a tokenizer of kind {tokenizer.kind} cannot be written as {vocabulary.name} and {merges.name}: "
            "they hold only GPT-1's own kind (`gpt1 prepare --tokenizer gpt1`)"
        )
    write_text(vocabulary, json.dumps(dict(sorted(ids.items(), key=lambda entry: entry[1]))))
    write_text(merges, "\n".join([HEADER, *(" ".join(pair) for pair in pairs), ""]))


def _ids(path: Path) -> dict[str, int]:
    text = _text(path)
    try:
        ids = json.loads(text)
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
        raise UserError(f"{path}: the token {UNKNOWN} is missing; it stands for text that no other token spells")
    return ids


def _merge(ids: dict[str, int], line: str, where: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise UserError(f"{where}: {line[:40]!r} is not a merge; write two tokens with a space between them")
    for token in (left, right, left + right):
        if token not in ids:
            raise UserError(f"{where}: {line[:40]!r} needs the token {token!r}, which the vocabulary lacks")
    return left, right


def _behavior(definition: dict[str, Any]) -> list[Any]:
    """Return all that may differ between two `</w>` tokenizers besides ids and merges."""
    model = {key: value for key, value in definition["model"].items() if key not in ("vocab", "merges")}
    return [definition["normalizer"], definition["pre_tokenizer"], model]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
