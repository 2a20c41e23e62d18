"""docs/formats.md says of gpt1.json and of every `--json` what the dataclasses say, word for word.

The tables between `<!-- generated -->` marks are written by this file, run as a program: python tests/test_formats.py
"""

import importlib
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from gpt1.cli.main import COMMANDS
from gpt1.options import _documented
from gpt1.results import Result
from gpt1.run_folder.metadata import RunMetadata

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
NAMES = {str: "string", int: "integer", float: "number", bool: "true or false", Any: "any", dict: "object"}


def result_of(command: str) -> type[Result] | None:
    """The class that a command returns; None as long as it has none."""
    module = importlib.import_module(f"gpt1.commands.{command}")
    kinds = members(get_type_hints(getattr(module, command))["return"])
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Result)), None)


def members(kind: Any) -> list[Any]:
    """The types of a union but None; of another type itself."""
    is_union = isinstance(kind, UnionType) or get_origin(kind) is Union
    return [one for one in get_args(kind) if one is not NoneType] if is_union else [kind]


def classes_in(kind: Any) -> Iterator[type]:
    """The dataclasses that a type hint is made of."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
    for part in get_args(kind):
        yield from classes_in(part)


def type_name(kind: Any) -> str:
    """A type as readers of JSON know it."""
    if len(kinds := members(kind)) != 1 or kinds[0] is not kind:
        return " or ".join(map(type_name, kinds))
    if is_dataclass(kind):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    if get_origin(kind) in (list, tuple):
        return f"list of {type_name(get_args(kind)[0])}"
    if get_origin(kind) is dict and get_args(kind)[1] is not Any:
        return f"object of {type_name(get_args(kind)[1])}"
    if get_origin(kind) is Literal:
        return NAMES[type(get_args(kind)[0])]
    return "object" if typing.is_typeddict(kind) else NAMES[get_origin(kind) or kind]


def table(cls: type) -> str:
    """The keys of a dataclass, with their types and the documentation under each field."""
    hints, documented, lines = get_type_hints(cls), _documented(cls), []
    for item in fields(cls):
        text = documented.get(item.name, "")
        if item.metadata.get("inline"):
            kind = hints[item.name]
            keys = f"the keys of {type_name(kind)}" if list(classes_in(kind)) else text
            lines.append(f"| ... | | {keys} |")
        elif item.name in documented:
            lines.append(f"| `{item.name}` | {type_name(hints[item.name])} | {text} |")
        else:
            assert item.name == "other", f"{cls.__name__}.{item.name} has no documentation under it"
    return "\n".join(["| key | type | |", "|---|---|---|", *lines])


def nested(cls: type, known: list[type]) -> str:
    """Sections of the dataclasses inside one, each of them once."""
    text = ""
    for item, kind in get_type_hints(cls).items():
        for one in classes_in(kind) if item in {each.name for each in fields(cls)} else ():
            if one not in known:
                known.append(one)
                text += f"\n#### {one.__name__}\n\n{first_line(one)}\n\n{table(one)}\n{nested(one, known)}"
    return text


def first_line(cls: type) -> str:
    return (cls.__doc__ or "").split("\n")[0]


def generated() -> dict[str, str]:
    """The generated parts of the document."""
    known: list[type] = []
    results = ""
    for command in COMMANDS:
        if cls := result_of(command):
            results += f"\n### `gpt1 {command}`\n\n{first_line(cls)}\n\n{table(cls)}\n{nested(cls, known)}"
    return {"gpt1.json": f"\n{table(RunMetadata)}\n{nested(RunMetadata, [])}", "results": results}


def parts(name: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- generated: {re.escape(name)} -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", ["gpt1.json", "results"])
def test_the_document_says_what_the_classes_say(name: str) -> None:
    found = parts(name).search(DOCUMENT.read_text(encoding="utf-8"))
    assert found
    assert found[2] == generated()[name], "run: python tests/test_formats.py"


def test_links_inside_the_document_lead_somewhere() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


def main() -> None:
    """Write the generated parts."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, content in generated().items():
        text, count = parts(name).subn(lambda found, content=content: found[1] + content + found[3], text)
        assert count == 1, name
    DOCUMENT.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
