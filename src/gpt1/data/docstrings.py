"""The demo's data: the documentation in Python's standard library, read from its source without running it."""

import ast
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "distutils",
}  # fmt: skip
MIN_LENGTH = 60  # characters; shorter docstrings do not show which package they are from
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n")
SENTENCE_LENGTH = (40, 240)  # characters
MIN_WORDS, LETTERS = 8, 0.85  # least words of a sentence, and least fraction of letters and blanks in it


@dataclass(frozen=True)
class Docstring:
    """A docstring and the top-level package or module it is from."""

    text: str
    package: str


def docstrings() -> list[Docstring]:
    """Return every distinct docstring of the standard library, in a fixed order."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, Docstring] = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not SKIPPED & set(parts) and not parts[0].startswith("config-"):
            package = parts[0].removesuffix(".py")
            for text in filter(None, _read_docstrings(path)):
                found.setdefault(text, Docstring(text, package))
    return list(found.values())


def topics() -> list[str]:
    """Return the language reference that `help()` prints, one text per topic."""
    from pydoc_data import topics as module

    return [text for _, text in sorted(module.topics.items())]


def labelled(found: list[Docstring], classes: int, train: int, test: int) -> tuple[list[Docstring], list[Docstring]]:
    """Return `train` and at most `test` docstrings of each of the `classes` largest packages, always the same."""
    usable = [d for d in found if len(d.text) >= MIN_LENGTH and not d.package.startswith("_")]
    packages = [name for name, _ in Counter(d.package for d in usable).most_common(classes)]
    parts: tuple[list[Docstring], list[Docstring]] = ([], [])
    for package in packages:
        own = [d for d in usable if d.package == package]
        random.Random(0).shuffle(own)
        parts[0].extend(own[:train])
        parts[1].extend(own[train : train + test])
    return parts


@dataclass(frozen=True)
class Ending:
    """The beginning of a sentence, and how it and another one of the same docstring end."""

    context: str
    choices: list[str]
    label: int
    """which of the choices is right"""


def endings(found: list[Docstring], train: int, test: int) -> tuple[list[Ending], list[Ending]]:
    """Return questions which of two endings continues a sentence, from `train` and `test` docstrings, always the same.

    Both endings are from one docstring, and each is right in one question and wrong in another: the words of an ending
    say nothing about whether it is right, and its subject little. What remains is whether it fits its place.
    """
    random.Random(0).shuffle(found := list(found))
    pairs: list[list[Ending]] = []
    known: set[str] = set()
    for questions in map(_endings_in, found):
        if questions and not known & set(choices := questions[0].choices):  # docstrings copy each other's sentences
            known |= set(choices)
            pairs.append(questions)
    tested, trained = pairs[:test], pairs[test : test + train]
    return [one for pair in trained for one in pair], [one for pair in tested for one in pair]


def _endings_in(docstring: Docstring) -> list[Ending]:
    """Return two questions about the first two proper sentences; none if there are fewer."""
    sentences = [" ".join(part.split()) for part in SENTENCE_ENDS.split(docstring.text)]
    halves = []
    for words in (sentence.split() for sentence in filter(_is_prose, sentences)):
        halves.append((" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])))
    if len(halves) < 2 or halves[0][1] == halves[1][1]:
        return []
    choices = [end for _, end in halves[:2]]
    return [Ending(start, choices, label) for label, (start, _) in enumerate(halves[:2])]


def _is_prose(sentence: str) -> bool:
    least, most = SENTENCE_LENGTH
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return (
        least <= len(sentence) <= most
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and len(sentence.split()) >= MIN_WORDS
        and letters >= LETTERS * len(sentence)
    )


def _read_docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # some releases contain files that are invalid on purpose
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield ast.get_docstring(node) or ""
