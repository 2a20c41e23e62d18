"""Read the rows of JSON files, one object a line or an array of objects, in bounded memory; no torch."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gpt1.data.files import File, lines_of, text_of
from gpt1.data.tables import Row, check_unique
from gpt1.errors import UserError
from gpt1.tokenizer.tokenizer import replace_surrogates

BLANKS = re.compile(r"[ \t\r\n]*")
# An error in the last characters read so far may only mean that the object continues in the next block.
NEAR_END = 16
# Characters at a fault in an array that the error shows.
SHOWN = 20
WANTED = "give one object a line, or a file with an array of objects"
LINE, ARRAY = 'a line must look like {"text": "..."}', 'an array must look like [{"text": "..."}]'


def json_rows(file: File, encoding: str) -> Iterator[Row]:
    """Yield the rows of a file. Raises UserError, naming the place, for anything but objects."""
    texts = text_of(file.path, encoding)
    start = next(texts, "")
    while not start.strip() and (more := next(texts, "")):
        start += more
    whole = chain([start], texts)
    if start.lstrip().startswith("["):
        yield from _array_rows(whole, file.path)
        return
    found = line_rows(enumerate(lines_of(whole), 1), file.path)
    begin = list(islice(found, 1))
    if begin and all(map(_is_nested, begin[0].values.values())):
        begin += islice(found, 1)
        if len(begin) == 1:  # {"data": [...]}, or a table by columns or by index, as pandas may write it
            raise UserError(f"{file.path}: one object, which is not a row; {WANTED}")
    yield from chain(begin, found)


def _is_nested(value: Any) -> bool:
    """Return whether a value may hold rows, and is neither a text nor a list of texts or labels."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value))


def line_rows(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    """Yield the rows of numbered lines. Raises UserError, naming `path` and the line, for a wrong one."""
    for number, line in lines:
        if line.isspace():
            continue
        place = f"{path}:{number}"
        try:
            value = _decoder.decode(line)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except json.JSONDecodeError as error:
            if error.pos >= len(line.rstrip()):
                raise UserError(f"{place}: the line ends before its object does; {WANTED}") from None
            what = f"{_fault(error)} column {error.pos + 1}"
            raise UserError(f"{place}: not JSON ({what}); a line must hold one object") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}); a line must hold one object") from None
        yield Row(path, number, _checked(value, line, place, LINE))


def _array_rows(texts: Iterator[str], path: Path) -> Iterator[Row]:
    """Yield the objects of an array; memory holds a block of text, or the longest object."""
    held = next(texts)
    at, number = held.index("[") + 1, 1
    while True:
        at, place = _skip_blanks(held, at), f"{path}: row {number}"
        if held.startswith("]", at):
            break
        begin = _skip_blanks(held, at + 1) if number > 1 and held.startswith(",", at) else at
        try:
            if number > 1 and begin == at:
                raise json.JSONDecodeError("Expecting ',' delimiter", held, at)
            value, end = _decoder.raw_decode(held, begin)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except json.JSONDecodeError as error:
            if _may_continue(error, held) and (more := next(texts, "")):
                held, at = held[at:] + more, 0
                continue
            rest = held[error.pos : error.pos + SHOWN]
            what = f"{_fault(error)} {rest!r}" if rest else "the file ends before the array does"
            raise UserError(f"{place}: not JSON ({what}); an array must hold objects") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}); an array must hold objects") from None
        yield Row(path, number, _checked(value, held[begin:end], place, ARRAY), in_array=True)
        at, number = end, number + 1
    if held[at + 1 :].strip() or any(text.strip() for text in texts):
        raise UserError(f"{path}: there is more text after the array; a file holds one array")


def _skip_blanks(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    return found.end() if found else at


def _fault(error: json.JSONDecodeError) -> str:
    """Return what is wrong, ending in `at`; the place that Python names counts lines within a row."""
    return f"{error.msg.removesuffix(' at')} at"


def _may_continue(error: json.JSONDecodeError, held: str) -> bool:
    """Return whether more text may mend an error: one near the end, or a string that has no end yet."""
    return error.pos > len(held) - NEAR_END or error.msg.startswith("Unterminated string")


def _checked(value: Any, text: str, place: str, remedy: str) -> dict[str, Any]:
    """Return the object that `text` encodes. Raises UserError for any other value."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; {remedy}")
    if "\\ud" in text.lower():  # JSON can escape a lone surrogate, which cannot be encoded
        return dict(json.loads(replace_surrogates(json.dumps(value, ensure_ascii=False))))
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises UserError if a key occurs twice; `json` keeps the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        check_unique([key for key, _ in pairs], "two keys")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
