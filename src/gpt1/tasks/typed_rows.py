"""Rows that are not in a file: texts on the command line, and lines of standard input."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from gpt1.config import Columns, Task
from gpt1.data.json_rows import line_rows
from gpt1.data.tables import Row
from gpt1.errors import UserError
from gpt1.tasks.columns import PAIR_TASKS
from gpt1.tokenizer.tokenizer import replace_surrogates

STANDARD_INPUT = Path("standard input")
ARRAY_START = re.compile(r"\s*\[\s*(\{|$)")


def row_of_texts(texts: Sequence[str], task: Task, trained: Columns, for_several: str = "") -> tuple[Row, Columns]:
    """Return the texts as a row, and its columns, which have the names of those of training.

    Raises UserError if the task reads another number of texts, with the advice `for_several` if there are several, or
    if one is empty.
    """
    if task == "multiple-choice":
        needs, is_right = "a context and two answers or more, three texts at least", len(texts) > 2
    elif task in PAIR_TASKS:
        needs, is_right = "two texts", len(texts) == 2
    else:
        needs, is_right = "one text", len(texts) == 1
    if not is_right:
        advice = f"; {for_several}" if for_several and len(texts) > 1 else ""
        raise UserError(f"{task} reads {needs}, not {len(texts)}{advice}")
    if not all(text.strip() for text in texts):
        raise UserError("an empty text: there is nothing to predict")
    texts = [replace_surrogates(text) for text in texts]  # bytes of a command line that are not UTF-8
    if task == "multiple-choice":
        listed = trained.choices[0] if len(trained.choices) == 1 else "choices"
        columns = Columns(trained.texts[:1], trained.label, [listed])
        return Row(Path("text"), 1, {columns.texts[0]: texts[0], listed: list(texts[1:])}), columns
    return Row(Path("text"), 1, dict(zip(trained.texts, texts, strict=True))), trained


def rows_of_lines(lines: Iterable[str], task: Task, trained: Columns) -> Iterator[Row]:
    """Yield the rows of standard input: jsonl if the first line is a JSON object, else one text per line.

    Blank lines are left out. Raises UserError for an array of objects and, naming the line, if the task reads several
    texts and they are not jsonl.
    """
    numbered = ((number, line) for number, line in enumerate(_decoded(lines), 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise UserError(f"{STANDARD_INPUT}: empty; give one text per line, or rows as jsonl")
    if first[1].lstrip().startswith("{"):
        yield from line_rows(chain([first], numbered), STANDARD_INPUT)
        return
    if ARRAY_START.match(first[1]):
        raise UserError(f"{STANDARD_INPUT}: an array of JSON objects; give one object a line, or name its file")
    if task in PAIR_TASKS or task == "multiple-choice":
        example = ", ".join(f'"{name}": ...' for name in (*trained.texts, *trained.choices))
        raise UserError(f"{STANDARD_INPUT}:{first[0]}: {task} reads several texts; give rows as jsonl, {{{example}}}")
    for number, line in chain([first], numbered):
        yield Row(STANDARD_INPUT, number, {trained.texts[0]: line.rstrip("\r\n")})


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines, without a byte-order mark. Raises UserError for bytes that are not UTF-8."""
    try:
        for number, line in enumerate(lines):
            yield line if number else line.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{STANDARD_INPUT} is not UTF-8 ({error.reason}); convert it") from None
