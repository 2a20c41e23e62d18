"""A settings dataclass <-> the command line and YAML: names, help, conversion, and errors of one line.

Plain argparse underneath, which only collects strings. What people meet here (dashes for underscores, sections,
defaults that a preset decides, the nearest key to a mistyped one) would override most of a library that builds
parsers from signatures, and importing such a library costs more time than all of this file.
"""

import argparse
import ast
import difflib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from gpt1.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One setting: a field of a settings dataclass, or of a section of it."""

    key: str
    """its full name, `optim.lr`"""
    kind: Any
    """its type hint"""
    default: Any
    """its value if not given; MISSING if it must be given"""
    help: str
    """the text under the field"""
    group: str
    """first line of the docstring of the class that declares it"""

    @property
    def flag(self) -> str:
        """`--optim.matrix-lr` for `optim.matrix_lr`."""
        return "--" + self.key.rstrip("_").replace("_", "-")

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return get_origin(self.kind) is list

    @property
    def metavar(self) -> str:
        """What stands for its value in the help: `DATA`, `INPUT`, `{paper,fast}`."""
        kind = _without_none(self.kind)
        if get_origin(kind) is Literal:
            return "{" + ",".join(map(str, get_args(kind))) + "}"
        if kind in _METAVARS:
            return _METAVARS[kind]
        name = self.key.rpartition(".")[2].rstrip("_").upper()
        return name.removesuffix("S") if self.many else name


@dataclass(frozen=True)
class Line:
    """What a command line holds beside the settings."""

    given: dict[str, Any]
    """full name -> value, of every setting that the line or its `--config` file names"""
    json: bool
    help: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def options(settings: type, prefix: str = "") -> dict[str, Option]:
    """Every setting of a dataclass, sections flattened, by full name."""
    hints, found = get_type_hints(settings), {}
    for field in fields(settings):
        kind, key = hints[field.name], prefix + field.name
        if is_dataclass(kind):
            found |= options(kind, key + ".")  # type: ignore[arg-type]
        else:
            owner = next(c for c in settings.__mro__ if field.name in inspect.get_annotations(c))
            found[key] = Option(key, kind, _default(field), _documented(owner)[field.name], summary(owner))
    return found


def summary(settings: type) -> str:
    """The first line of a settings dataclass's docstring."""
    return (settings.__doc__ or "").partition("\n")[0]


def parse(settings: type, positionals: Sequence[str], argv: Iterable[str]) -> Line:
    """What a command line and its `--config` file give; the line wins.

    Raises UserError, in one line, for an unknown name or a value of the wrong kind.
    """
    known = options(settings)
    parser = _parser(settings, positionals, known, {})
    found, rest = parser.parse_known_intermixed_args(_dashed(argv))
    for word in rest:
        if word.startswith("-"):
            flags = [option.flag for option in known.values() if option.key not in positionals]
            name = word.partition("=")[0]
            raise UserError(f"unknown option {name}{nearest(name, [*flags, '--json', '--config', '--help'])}")
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    words = {key: value for key, value in vars(found).items() if key in known and value not in (None, [])}
    given = _from_file(found.config, known) if found.config else {}
    for key, value in words.items():
        name = known[key].metavar if key in positionals else known[key].flag
        given[key] = convert(known[key].kind, value, name)
    return Line(given, found.json, found.help)


def build(settings: type[T], positionals: Sequence[str], values: dict[str, Any]) -> T:
    """The settings that `values` (by full name) make. Raises UserError if one without a default is missing."""
    for key, option in options(settings).items():
        if option.default is MISSING and key not in values:
            name = option.metavar if key in positionals else option.flag
            raise UserError(f"missing {name}: {option.help}")
    return _nested(settings, "", values)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as values by full name: what `build` undoes."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        found |= flat(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


def help_text(settings: type, positionals: Sequence[str], prog: str, defaults: dict[str, Any]) -> str:
    """The help page; `defaults` (by full name) are shown in place of the dataclass's own."""
    known = options(settings)
    shown = {key: option.default for key, option in known.items()} | defaults
    parser = _parser(settings, positionals, known, shown)
    parser.prog, parser.usage = prog, f"{prog} {usage(settings, positionals)} [options]"
    return parser.format_help()


def usage(settings: type, positionals: Sequence[str]) -> str:
    """What must be given: `DATA --out OUT`."""
    known = options(settings)
    names = [known[key].metavar + ("..." if known[key].many else "") for key in positionals]
    must = [o for key, o in known.items() if o.default is MISSING and key not in positionals]
    return " ".join(names + [f"{option.flag} {option.metavar}" for option in must])


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no name is near."""
    found = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {found[0]}?" if found else ""


def convert(kind: Any, value: Any, name: str) -> Any:
    """`value`, a string or what YAML made of one, as the type hint `kind`. Raises UserError naming `name`."""
    if kind is not _without_none(kind):
        return None if value is None else convert(_without_none(kind), value, name)
    if get_origin(kind) is list:
        return [convert(get_args(kind)[0], item, name) for item in (value if isinstance(value, list) else [value])]
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        if value not in choices:
            hint = nearest(str(value), choices) or f"; the choices are {', '.join(choices)}"
            raise UserError(f"{name}: unknown value {value!r}{hint}")
        return value
    try:
        return _CONVERTERS[kind](value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected {_EXPECTED[kind]}, not {value!r}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    return int(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError
    return str(value)


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {int: _whole, float: _finite, bool: _switch, str: _string}
_METAVARS = {int: "N", float: "X"}
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _parser(
    settings: type, positionals: Sequence[str], known: dict[str, Option], defaults: dict[str, Any]
) -> argparse.ArgumentParser:
    parser = _Parser(description=summary(settings), allow_abbrev=False, add_help=False)
    for key in positionals:
        option = known[key]
        parser.add_argument(key, nargs="*" if option.many else "?", metavar=option.metavar, help=_escaped(option.help))
    general = parser.add_argument_group("options")
    groups = {summary(settings): general}
    for key, option in known.items():
        if key not in positionals:
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group.rstrip("."))
            _add(groups[option.group], option, defaults.get(key, MISSING))
    general.add_argument(
        "--config", metavar="FILE", help="read settings from a YAML or JSON file; this line wins over it"
    )
    general.add_argument("--json", action="store_true", help="print the result as one JSON document")
    general.add_argument("-h", "--help", action="store_true", help="show this page")
    return parser


def _add(group: Any, option: Option, default: Any) -> None:
    how: dict[str, Any] = {"dest": option.key, "default": None, "help": _escaped(option.help + _shown(default))}
    if option.kind is bool:
        # BooleanOptionalAction offers `--repair` and `--no-repair`.
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, **how)
    elif option.many:
        group.add_argument(option.flag, action="extend", nargs="+", metavar=option.metavar, **how)
    else:
        group.add_argument(option.flag, metavar=option.metavar, **how)


def _shown(default: Any) -> str:
    if default is None or default is MISSING or default in ("", [], [""]) or isinstance(default, bool):
        return ""
    return f" (default: {default})"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _dashed(argv: Iterable[str]) -> list[str]:
    """`--max_new_tokens` means `--max-new-tokens`; nothing after `--` is an option."""
    words, plain = [], False
    for word in argv:
        plain = plain or word == "--"
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if word.startswith("--") and not plain else word)
    return words


def _from_file(path: str, known: dict[str, Option]) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict):
        raise UserError(f"--config {path}: expected settings, one `name: value` a line")
    names = {key.rstrip("_"): key for key in known}
    given = {}
    for key, value in _leaves(read).items():
        name = key.replace("-", "_").rstrip("_")
        if name not in names:
            raise UserError(f"--config {path}: unknown setting {key}{nearest(name, names)}")
        given[names[name]] = convert(known[names[name]].kind, value, f"--config {path}: {key}")
    return given


def _leaves(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _nested(settings: type[T], prefix: str, values: dict[str, Any]) -> T:
    hints, made = get_type_hints(settings), {}
    for field in fields(settings):  # type: ignore[arg-type]
        key = prefix + field.name
        if is_dataclass(hints[field.name]):
            made[field.name] = _nested(hints[field.name], key + ".", values)  # type: ignore[arg-type]
        elif key in values:
            made[field.name] = values[key]
    return settings(**made)


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _without_none(kind: Any) -> Any:
    """X for `X | None`; anything else as it is."""
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if NoneType in get_args(kind) else kind


@cache
def _documented(settings: type) -> dict[str, str]:
    """Field name -> the string literal under it."""
    (declared,) = (
        n for n in _source(settings.__module__).body if isinstance(n, ast.ClassDef) and n.name == settings.__name__
    )
    found = {}
    for field, after in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(after.value))
    return found


@cache
def _source(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))
