"""Choose the columns of a table that a task reads: those requested by name, else those with common names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from gpt1.config import Columns, Evaluate, Finetune, Predict, Task
from gpt1.console import say
from gpt1.data.files import File
from gpt1.data.tables import DEFAULT, TableOptions, check_column, columns, listed_columns, rows, table
from gpt1.errors import UserError, setting

PAIR_TASKS = ("entailment", "similarity")
# Usual names in lower case, the most likely first.
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "comment", "question", "document", "title")
PAIR_NAMES = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"),
    ("text_1", "text_2"), ("question1", "question2"), ("sentence_a", "sentence_b"), ("text_a", "text_b"),
    ("question", "sentence"), ("query", "document"), ("a", "b"),
)  # fmt: skip
CONTEXT_NAMES = (
    "context", "premise", "story", "dialogue", "passage", "article", "paragraph", "document", "text", "ctx",
)  # fmt: skip
QUESTION_NAMES = ("question", "query")
CHOICE_NAMES = ("choices", "answers", "options", "endings", "alternatives")
NUMBERED_CHOICE = re.compile(r"(choice|answer|option|ending|alternative|solution|sol)_?(\d+|[a-e])", re.IGNORECASE)
LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "score", "similarity", "rating", "sentiment", "intent", "tags",
    "gold_label", "answer", "correct", "y",
)  # fmt: skip


@dataclass(frozen=True)
class ColumnNames:
    """The columns that a request names, as in its settings: one name, or several separated by commas."""

    text: str | None = None
    context: str | None = None
    choices: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, settings: Finetune | Predict | Evaluate) -> "ColumnNames":
        """Return the names among the settings of a command."""
        return cls(**{one.name: getattr(settings, one.name, None) for one in fields(cls)})

    def check_task(self, task: Task) -> None:
        """Raise UserError for a kind of column that the task does not have."""
        is_choice = task == "multiple-choice"
        wrong = {"text": self.text} if is_choice else {"context": self.context, "choices": self.choices}
        for name, value in wrong.items():
            if value:
                use = f"{setting('context')} and {setting('choices')}" if is_choice else setting("text")
                raise UserError(
                    f"{setting(name)} does not go with {setting('task')} {task}; name its columns with {use}"
                )


def guess_columns(path: str, task: Task, requested: ColumnNames, options: TableOptions = DEFAULT) -> Columns:
    """Return the requested columns of a table and, for those not requested, the likely ones; print the result.

    Raises UserError for a column that does not exist, and if it is not clear which column is meant.
    """
    file = table(path)
    available = columns(file, options)
    requested.check_task(task)
    is_choice = task == "multiple-choice"
    texts = named_columns(requested.context if is_choice else requested.text, available, file)
    label, choices = (named_columns(names, available, file) for names in (requested.label, requested.choices))
    if both := sorted({*texts, *choices} & set(label)):
        raise UserError(f"column {both[0]} is named both as text and as label; the label must be another column")
    label = label or _usual(LABEL_NAMES, _without(available, texts + choices))
    if is_choice:
        choices = choices or _guess_choices(available, texts + label, file, options)
        rest = _without(available, choices + label)
        texts = texts or _usual(CONTEXT_NAMES, rest) + _usual(QUESTION_NAMES, rest) or _only("context", rest, file)
    else:
        texts = texts or _guess_texts(task, _without(available, label), file)
    advice = ""
    if len(available) == 1 and file.kind == "csv":
        advice = f"; if {available[0]!r} names several columns, say what separates them with {setting('delimiter')}"
    label = label or _only("label", _without(available, texts + choices), file, advice)
    found = Columns(texts, label, choices)
    _check_count(task, found, file)
    answers = f", the answers from {_listed(choices)}" if choices else ""
    say(f"{file.path}: reading the text from {_listed(texts)}{answers}, the label from {_listed(label)}")
    return found


def select_columns(
    file: File, available: Sequence[str], task: Task, requested: ColumnNames, trained: Columns
) -> Columns:
    """Return the requested columns of a table and, for those not requested, the ones of training.

    Raises UserError for a column of texts or answers that does not exist.
    """
    requested.check_task(task)
    role = "context" if task == "multiple-choice" else "text"
    texts, advice = getattr(requested, role), f"; choose with {setting(role)}"
    found = Columns(
        texts=named_columns(texts, available, file)
        or [check_column(name, available, file, advice) for name in trained.texts],
        label=named_columns(requested.label, available, file) or trained.label,
        choices=named_columns(requested.choices, available, file)
        or [check_column(name, available, file, f"; choose with {setting('choices')}") for name in trained.choices],
    )
    _check_count(task, found, file)
    return found


def text_column(file: File, available: Sequence[str], requested: str | None) -> str:
    """Return the requested column of texts, or else the likely one; print its name.

    Raises UserError for a column that does not exist, for several columns, and if no column is the likely one.
    """
    found = named_columns(requested, available, file) or _usual(TEXT_NAMES, available)
    found = found or _only("text", list(available), file)
    if len(found) > 1:
        raise UserError(f"{file.path}: {setting('text')} {requested} names {len(found)} columns; name one")
    say(f"{file.path}: reading the text from {_listed(found)}")
    return found[0]


def named_columns(names: str | None, available: Sequence[str], file: File) -> list[str]:
    """Return the columns in `one,two`; none for None. Raises UserError for one that does not exist."""
    if not names or names in available:
        return [names] if names else []
    found = [check_column(name.strip(), available, file) for name in names.split(",")]
    if len(set(found)) < len(found):
        raise UserError(f"{file.path}: {names} names a column twice; name each once")
    return found


def _check_count(task: Task, found: Columns, file: File) -> None:
    expected = 2 if task in PAIR_TASKS else 1
    of_task = f"{file.path}: {setting('task')} {task}"
    if task != "multiple-choice" and len(found.texts) != expected:
        words = f"two columns, {setting('text')} ONE,OTHER" if expected == 2 else "one column"
        raise UserError(f"{of_task} reads {words}, not {_listed(found.texts)}")
    if task != "multi-label" and len(found.label) != 1:
        raise UserError(f"{of_task} has one label column, not {_listed(found.label)}")


def _guess_texts(task: Task, available: list[str], file: File) -> list[str]:
    by_lower_case = {name.lower(): name for name in reversed(available)}
    pairs = ([by_lower_case[name] for name in pair] for pair in PAIR_NAMES if by_lower_case.keys() >= {*pair})
    pair = next(pairs, [])
    if task not in PAIR_TASKS:
        advice = f"; for pairs say {setting('task')} entailment or similarity" if pair else ""
        return _usual(TEXT_NAMES, available) or _only("text", available, file, advice)
    if pair or len(available) == 2:
        return pair or available
    raise UserError(
        f"{file.path}: which two columns are the pair? Name them with {setting('text')} ONE,OTHER; "
        f"{listed_columns(file, available)}"
    )


def _guess_choices(there: list[str], taken: list[str], file: File, options: TableOptions) -> list[str]:
    available = _without(there, taken)
    if listing := _usual(CHOICE_NAMES, available):
        return listing
    numbered = sorted(name for name in available if NUMBERED_CHOICE.fullmatch(name))
    if len(numbered) > 1:
        _check_late_choices(there, file, options)
        return sorted(numbered, key=lambda name: (len(name), name))
    raise UserError(
        f"{file.path}: which columns are the answers? Name with {setting('choices')} the column that lists them, or "
        f"one column for each answer, `choice0,choice1`; {listed_columns(file, available)}"
    )


def _check_late_choices(there: list[str], file: File, options: TableOptions) -> None:
    """Raise UserError for an answer that only later rows of JSON have, since it would not be read."""
    for row in rows(file, options) if file.is_json else ():
        if late := [name for name in row.values if NUMBERED_CHOICE.fullmatch(name) and name not in there]:
            raise UserError(
                f"{row.where}: the first row, which decides the columns, has no {late[0]}; add it there as null, or "
                f"name the answers to read with {setting('choices')}"
            )


def _usual(names: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return the column whose name, ignoring case, comes first in `names`, as a list; an empty one without it."""
    by_lower_case = {name.lower(): name for name in reversed(available)}
    return [by_lower_case[name] for name in names if name in by_lower_case][:1]


def _only(role: str, available: list[str], file: File, advice: str = "") -> list[str]:
    if len(available) == 1:
        return available
    if not available:
        raise UserError(f"{file.path}: there is no column for the {role}; a row needs a text and a label{advice}")
    raise UserError(
        f"{file.path}: which column is the {role}? Name it with {setting(role)}; {listed_columns(file, available)}"
        + advice
    )


def _without(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [name for name in names if name not in taken]


def _listed(names: Sequence[str]) -> str:
    return f"column {names[0]}" if len(names) == 1 else f"columns {', '.join(names)}"
