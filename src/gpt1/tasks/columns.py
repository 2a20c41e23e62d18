"""Which columns of a table a task reads: those named in the settings, or those with usual names, said aloud."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpt1.config import Evaluate, Finetune, Predict, Task
from gpt1.console import say
from gpt1.data.files import File
from gpt1.data.tables import check_column, columns, table
from gpt1.errors import UserError

PAIR_TASKS = ("entailment", "similarity")
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "comment", "question", "document", "title")
PAIR_NAMES = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"),
    ("text_1", "text_2"), ("question1", "question2"), ("sentence_a", "sentence_b"), ("text_a", "text_b"),
    ("question", "sentence"), ("query", "document"), ("a", "b"),
)  # fmt: skip
CONTEXT_NAMES = (
    "context",
    "premise",
    "story",
    "dialogue",
    "passage",
    "article",
    "paragraph",
    "document",
    "text",
    "ctx",
)
QUESTION_NAMES = ("question", "query")
CHOICE_NAMES = ("choices", "answers", "options", "endings", "alternatives")
NUMBERED_CHOICE = re.compile(r"(choice|answer|option|ending|alternative|solution|sol)_?(\d+|[a-e])", re.IGNORECASE)
LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "score", "similarity", "rating", "sentiment", "intent", "tags",
    "gold_label", "answer", "correct", "y",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns that matter."""

    texts: list[str]
    """of the text, of the two texts of a pair, or of the parts of a context"""
    label: list[str]
    """one; or of several labels a column of 0 and 1 each"""
    choices: list[str] = field(default_factory=list)
    """of multiple choice: the column that lists the answers, or one column an answer"""

    def __str__(self) -> str:
        answers = f", the answers are {_list(self.choices)}" if self.choices else ""
        return f"the text is {_list(self.texts)}{answers}, the label is {_list(self.label)}"


def guess_columns(settings: Finetune) -> Columns:
    """The columns named in the settings, or the likely ones, said aloud.

    Raises UserError, naming the columns that are there, for one that is absent or if several may be meant.
    """
    file = table(settings.train)
    there = columns(file, settings.encoding)
    given = settings.context if settings.task == "multiple-choice" else settings.text
    _check_settings(settings)
    texts, label = named(given, there, file), named(settings.label, there, file)
    choices = named(settings.choices, there, file)
    if both := sorted({*texts, *choices} & set(label)):
        raise UserError(f"column {both[0]} is named both as text and as label; the label must be a column of its own")
    label = label or _usual(LABEL_NAMES, _without(there, texts + choices))
    if settings.task == "multiple-choice":
        choices = choices or _guess_choices(_without(there, texts + label), file)
        texts = texts or _guess_context(_without(there, choices + label), file)
    else:
        texts = texts or _guess_texts(settings.task, _without(there, label), file)
    label = label or _only("label", _without(there, texts + choices), file)
    found = Columns(texts, label, choices)
    _check_count(settings.task, found, file)
    say(f"{file.path}: {found}")
    return found


def chosen_columns(
    settings: Predict | Evaluate, task: Task, trained: Columns, file: File, there: Sequence[str]
) -> Columns:
    """The columns named in the settings, else those of training. Raises UserError for one that is not there."""
    _check_words(settings, task)
    given = settings.context if task == "multiple-choice" else settings.text
    label = getattr(settings, "label", None)
    found = Columns(
        texts=named(given, there, file) or [check_column(name, there, file) for name in trained.texts],
        label=named(label, there, file) or trained.label,
        choices=named(settings.choices, there, file) or [check_column(name, there, file) for name in trained.choices],
    )
    _check_count(task, found, file)
    return found


def named(words: str | None, there: Sequence[str], file: File) -> list[str]:
    """The columns in `one,two`, or none. Raises UserError for one that is not there."""
    if not words or words in there:
        return [words] if words else []
    found = [check_column(name.strip(), there, file) for name in words.split(",")]
    if len(set(found)) < len(found):
        raise UserError(f"{file.path}: {words} names a column twice; name each once")
    return found


def _check_words(settings: Finetune | Predict | Evaluate, task: Task) -> None:
    choice = task == "multiple-choice"
    wrong = {"text": settings.text} if choice else {"context": settings.context, "choices": settings.choices}
    for name, value in wrong.items():
        if value:
            use = "--context and --choices" if choice else "--text"
            raise UserError(f"--{name} does not go with --task {task}; name its columns with {use}")


def _check_settings(settings: Finetune) -> None:
    _check_words(settings, settings.task)
    if settings.target != "auto" and settings.task != "similarity":
        raise UserError(f"--target goes with --task similarity alone, not with {settings.task}")


def _check_count(task: Task, found: Columns, file: File) -> None:
    wanted = 2 if task in PAIR_TASKS else 1
    if task != "multiple-choice" and len(found.texts) != wanted:
        words = "two columns, `--text ONE,OTHER`" if wanted == 2 else "one column"
        raise UserError(f"{file.path}: --task {task} reads {words}; given are {_list(found.texts)}")
    if task != "multi-label" and len(found.label) != 1:
        raise UserError(f"{file.path}: --task {task} has one column as label; given are {_list(found.label)}")


def _guess_texts(task: Task, there: list[str], file: File) -> list[str]:
    if task not in PAIR_TASKS:
        return _usual(TEXT_NAMES, there) or _only("text", there, file)
    lowered = {name.lower(): name for name in reversed(there)}
    found = next(([lowered[a], lowered[b]] for a, b in PAIR_NAMES if a in lowered and b in lowered), None)
    if found or len(there) == 2:
        return found or there
    raise UserError(f"{file.path}: which two columns are the pair? Say --text ONE,OTHER with two of {', '.join(there)}")


def _guess_context(there: list[str], file: File) -> list[str]:
    context, question = _usual(CONTEXT_NAMES, there), _usual(QUESTION_NAMES, there)
    return context + question or _only("context", there, file)


def _guess_choices(there: list[str], file: File) -> list[str]:
    one = _usual(CHOICE_NAMES, there)
    each = sorted(name for name in there if NUMBERED_CHOICE.fullmatch(name))
    if one or len(each) > 1:
        return one or sorted(each, key=lambda name: (len(name), name))
    raise UserError(
        f"{file.path}: which columns are the answers? Say --choices with the column that lists them, or with one "
        f"column an answer, `choice0,choice1`; the columns are {', '.join(there)}"
    )


def _usual(names: Sequence[str], there: Sequence[str]) -> list[str]:
    """The column whose name, in any case, comes first in `names`."""
    lowered = {name.lower(): name for name in reversed(there)}
    return [lowered[name] for name in names if name in lowered][:1]


def _only(what: str, there: list[str], file: File) -> list[str]:
    if len(there) == 1:
        return there
    if not there:
        raise UserError(f"{file.path}: no column for the {what}; a row must have a text and a label")
    raise UserError(f"{file.path}: which column is the {what}? Say --{what} with one of {', '.join(there)}")


def _without(there: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [name for name in there if name not in taken]


def _list(names: Sequence[str]) -> str:
    return f"column {names[0]}" if len(names) == 1 else f"columns {', '.join(names)}"
