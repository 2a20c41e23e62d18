"""The demo's data: the documentation in Python's standard library, read from its source without running it."""

import ast
import random
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "distutils",
}  # fmt: skip
MIN_LENGTH = 60  # characters; shorter docstrings do not show which package they are from


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


def _read_docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # some releases contain files that are invalid on purpose
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield ast.get_docstring(node) or ""
