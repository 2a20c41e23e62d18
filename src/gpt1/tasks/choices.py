"""Rows of multiple choice: the context, the answers and the right one, out of the columns of a table."""

import json
from collections.abc import Sequence

from gpt1.data.tables import Row
from gpt1.errors import UserError


def context_of(row: Row, columns: Sequence[str]) -> str:
    """The parts of the context, a line each; a part may be a list of turns. Raises UserError for an empty one."""
    return "\n".join("\n".join(_texts(row, column)) for column in columns)


def answers_of(row: Row, columns: Sequence[str]) -> list[str]:
    """The answers: a column that lists them, or a column each, the last of which may be empty.

    Raises UserError for fewer than two, and for a gap between them.
    """
    answers = _texts(row, columns[0]) if len(columns) == 1 else _each(row, columns)
    if len(answers) < 2:
        raise UserError(f"{row.where}: {len(answers)} answer in {', '.join(columns)}; a choice needs two or more")
    return answers


def index_of(row: Row, column: str, count: int) -> int:
    """Which of `count` answers is right, from 0. Raises UserError for what is no such number."""
    number = row.number(column)
    if number not in range(count):
        raise UserError(
            f"{row.where}: column {column} holds {row.values[column]!r}; it must be the number of the right answer, "
            f"from 0 to {count - 1}"
        )
    return int(number)


def _texts(row: Row, column: str) -> list[str]:
    value = _listed(row.values.get(column))
    if not isinstance(value, list):
        return [row.text(column)]
    if wrong := [text for text in value if not isinstance(text, str) or not text.strip()]:
        raise UserError(f"{row.where}: column {column} lists {wrong[0]!r}, where a text must stand")
    if not value:
        raise UserError(f"{row.where}: column {column} is an empty list, where texts must stand")
    return value


def _listed(value: object) -> object:
    """A list, where a text is one in JSON: so `gpt1 predict` writes it into a cell of csv."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else value


def _each(row: Row, columns: Sequence[str]) -> list[str]:
    there = [not _is_empty(row.values.get(column)) for column in columns]
    count = sum(there)
    if not all(there[:count]):
        raise UserError(f"{row.where}: column {columns[there.index(False)]} is empty, but one after it is not")
    return [row.text(column) for column in columns[:count]]


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
