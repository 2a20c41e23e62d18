"""Call a command with keywords, `finetune(run="r", train="t.csv", out="o")`, instead of a settings dataclass.

`command` wraps every function in `gpt1.commands`. Values already have types here, so they are checked, not parsed as on
the command line: a wrong name or type is a TypeError, as in any Python call.
"""

import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, get_args, get_origin, get_type_hints, overload

from gpt1.errors import UserError, setting
from gpt1.options import (
    Option,
    build,
    check_threads_and_seed,
    convert,
    flatten,
    named_elsewhere,
    options,
    preset_defaults,
    summary,
    unknown_name,
    without_none,
)
from gpt1.remote import mirrored, with_addresses

P = ParamSpec("P")
Settings_contra = TypeVar("Settings_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
WIDTH = 100  # columns of a docstring
# Settings that name a file, and what takes its rows from memory instead.
IN_MEMORY = {
    "train": "gpt1.Classifier(run).fit(texts, labels)",
    "input": "gpt1.Classifier.load(run).predict(texts), for vectors gpt1.Embedder(run).fit_transform(texts)",
    "files": "gpt1.Classifier.load(run).score(texts, labels)",
}


class CommandFunction(Protocol[P, Settings_contra, Result_co]):
    """A function that takes a settings dataclass, or its fields as keywords.

    The second overload lets editors complete the keywords. The third allows what `check` accepts beyond the hints:
    paths, dicts for sections, one string for a list.
    """

    __name__: str

    @overload
    def __call__(self, settings: Settings_contra, /) -> Result_co: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result_co: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Result_co: ...


def command(
    settings: Callable[P, Settings_contra], *positionals: str
) -> Callable[[Callable[[Settings_contra], Result_co]], CommandFunction[P, Settings_contra, Result_co]]:
    """Decorate a function of a settings dataclass so that it also takes the settings as keywords.

    `positionals` are the settings that may be given by position. Signature and docstring are made from the dataclass.
    """
    assert isinstance(settings, type), "a settings dataclass"
    kind: type[Any] = settings

    def decorate(function: Callable[[Settings_contra], Result_co]) -> CommandFunction[P, Settings_contra, Result_co]:
        name = function.__name__

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Result_co:
            if not args and keywords.keys() == {"settings"}:
                args, keywords = (keywords["settings"],), {}
            if args and is_dataclass(args[0]):
                if not isinstance(args[0], kind):
                    raise TypeError(f"{name}() takes gpt1.config.{kind.__name__}, not {type(args[0]).__name__}")
                if len(args) > 1 or keywords:
                    raise TypeError(f"{name}() takes gpt1.config.{kind.__name__} or keywords, not both")
                settings = args[0]
            else:
                settings = from_keywords(kind, positionals, args, keywords, f"{name}()")
            with mirrored(settings) as here:
                result = function(here)
                return result if here is settings else with_addresses(result)

        call.__signature__ = _signature(kind, positionals, function)  # type: ignore[attr-defined]
        call.__doc__ = _docstring(kind, positionals, function)
        return call

    return decorate


def from_keywords(
    kind: type[Any], positionals: tuple[str, ...], args: tuple[Any, ...], keywords: Mapping[str, Any], who: str
) -> Any:
    """Return the settings that the arguments of a call give; error messages begin with `who`, `finetune()`.

    Raises TypeError for a wrong name, number or type of arguments, and UserError for a value out of range.
    """
    if len(args) > len(positionals):
        most = f"only {', '.join(positionals)} by position" if positionals else "only keywords"
        raise TypeError(f"{who} takes {most}; {len(args)} positional arguments were given")
    given = dict(zip(positionals, args, strict=False))
    if twice := given.keys() & keywords.keys():
        raise TypeError(f"{who} got two values for the argument {min(twice)!r}")
    known = options(kind)
    values = checked(known, sections_of(kind), given | dict(keywords), who)
    for key, option in known.items():
        if option.default is MISSING and key not in values:
            raise TypeError(f"{who} is missing the argument {key!r}: {option.help}")
        if option.default is MISSING and not any(values[key]):
            raise UserError(f"{setting(key)} is empty: {option.help}")
    settings = build(kind, positionals, preset_defaults(kind, values) | values)
    check_threads_and_seed(settings.threads, settings.seed)
    return settings


def checked(
    known: Mapping[str, Option], sections: Mapping[str, type], given: Mapping[str, Any], who: str
) -> dict[str, Any]:
    """Return the values of a call by full name, `optim.lr`, each converted to the type of its setting.

    Raises TypeError for an unknown name or a wrong type, and UserError for a value out of range.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        section = sections.get(name)
        if section is None:
            flat[name] = value
        elif isinstance(value, section | Mapping):
            changes = value if isinstance(value, Mapping) else asdict(value)  # type: ignore[call-overload]
            flat |= flatten(changes, f"{name}.")
        else:
            wanted = f"gpt1.config.{section.__name__} or a dict"
            raise TypeError(f"{who} argument {name!r} must be {wanted}, not {_shown(value)}")
    for key in flat:
        if key not in known:
            raise unknown_argument(key, [*known, *sections], who)
    return {key: check(known[key].kind, value, f"{who} argument {key!r}", key) for key, value in flat.items()}


def refuse_unknown(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate a constructor so that an unknown argument is a TypeError that names the nearest one."""
    names = list(inspect.signature(init).parameters)

    @functools.wraps(init)
    def call(*args: P.args, **keywords: P.kwargs) -> None:
        for name in keywords:
            if name not in names:
                raise unknown_argument(name, names, f"{type(args[0]).__name__}()")
        init(*args, **keywords)

    return call


def unknown_argument(name: str, names: list[str], who: str) -> TypeError:
    """Return the error for an argument that is not in `names`; it suggests a name with that meaning, or the nearest."""
    ours = named_elsewhere(name, names)
    return TypeError(f"{who} has no argument {name!r}{f'; it is {ours} here' if ours else unknown_name(name, names)}")


def check(kind: Any, value: Any, what: str, key: str) -> Any:
    """Convert `value` to `kind`, the type hint of the setting `key`: a path to its string, one string to a list.

    Raises TypeError, whose message begins with `what`, for a wrong type, and UserError for a value out of range.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # a scalar of numpy or torch
    inner = without_none(kind)
    if value is None and inner is not kind:
        return None
    if get_origin(inner) is list:
        items = [value] if isinstance(value, str | os.PathLike) else value
        if isinstance(items, Iterable) and not isinstance(items, Mapping | Set | bytes):
            of = get_args(inner)[0]
            return [check(of, item, f"item {number} of {what}", key) for number, item in enumerate(items)]
    elif isinstance(value, bool):
        if inner is bool:
            return value
    elif inner is str and isinstance(value, str | os.PathLike) and isinstance(path := os.fspath(value), str):
        return path
    elif isinstance(value, {int: Integral, float: Real}.get(inner, str)) and inner is not str and inner is not bool:
        return convert(inner, value, setting(key))
    wanted = _expected(inner) + ("" if inner is kind else " or None")
    instead = f"; for rows in memory there is {IN_MEMORY[key]}" if key in IN_MEMORY else ""
    raise TypeError(f"{what} must be {wanted}, not {_shown(value)}{instead}")


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is list:
        return "a list of strings"
    return {int: "an int", float: "a number", bool: "True or False", str: "a string"}[kind]


def _shown(value: Any) -> str:
    return "None" if value is None else f"{repr(value)[:40]} ({type(value).__name__})"


def sections_of(kind: type[Any]) -> dict[str, type]:
    """Return the fields that are dataclasses themselves."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if is_dataclass(hints[field.name])}


def _with_defaults(kind: type[Any]) -> dict[str, Option]:
    """Return the settings with the defaults that hold if a call names no preset."""
    known = options(kind)
    return known | {key: replace(known[key], default=value) for key, value in preset_defaults(kind, {}).items()}


def _ordered(kind: type[Any], positionals: tuple[str, ...]) -> list[Any]:
    """Return the fields: those given by position, then the required ones, then a class's own before inherited ones."""

    def place(field: Any) -> tuple[bool, bool, int]:
        owner = next(number for number, one in enumerate(kind.__mro__) if field.name in inspect.get_annotations(one))
        is_required = field.default is MISSING and field.default_factory is MISSING
        return field.name not in positionals, not is_required, owner

    return sorted(fields(kind), key=place)


def _signature(kind: type[Any], positionals: tuple[str, ...], function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature that `help` shows; a section's default is {}, nothing changed."""
    hints, sections, known = get_type_hints(kind), sections_of(kind), _with_defaults(kind)
    parameters = []
    for field in _ordered(kind, positionals):
        name = field.name
        by = inspect.Parameter.POSITIONAL_OR_KEYWORD if name in positionals else inspect.Parameter.KEYWORD_ONLY
        default = {} if name in sections else known[name].default
        hint = sections[name] | dict[str, Any] if name in sections else hints[name]
        shown = inspect.Parameter.empty if default is MISSING else default
        parameters.append(inspect.Parameter(name, by, default=shown, annotation=hint))
    return inspect.Signature(parameters, return_annotation=get_type_hints(function).get("return"))


def _docstring(kind: type[Any], positionals: tuple[str, ...], function: Callable[..., Any]) -> str:
    """Return the function's docstring with a section of parameters in numpydoc's form."""
    sections, known = sections_of(kind), _with_defaults(kind)
    intro = (
        f"Settings are keywords, or one `gpt1.config.{kind.__name__}`. A path may be a `pathlib.Path`, and a list of "
        "one string may be the string."
    )
    if sections:
        intro += f" {' and '.join(sections)} may be a dict of what to change. Other presets have other defaults."
    lines = [inspect.getdoc(function) or "", "", textwrap.fill(intro, WIDTH), "", "Parameters", "----------"]
    for field in _ordered(kind, positionals):
        if section := sections.get(field.name):
            lines += [f"{field.name} : {section.__name__} or dict", *_indented(summary(section), 4)]
            for key, option in known.items():
                if key.startswith(f"{field.name}."):
                    lines += [f"    {line}" for line in parameter(key.partition(".")[2], option)]
        else:
            lines += parameter(field.name, known[field.name])
    returned = get_type_hints(function).get("return")
    if isinstance(returned, type):
        lines += ["", "Returns", "-------", returned.__name__, *_indented(summary(returned), 4)]
    return "\n".join(lines)


def parameter(name: str, option: Option) -> list[str]:
    """Return the lines that document a setting in numpydoc's form: `epochs : int, default 0`, then its help."""
    kinds = [option.kind] if option.kind is without_none(option.kind) else [without_none(option.kind), NoneType]
    names = [_hint_name(kind) for kind in kinds]
    default = "" if option.default is MISSING else f", default {option.default!r}"
    return [f"{name} : {' or '.join(names)}{default}", *_indented(option.help, 4)]


def _hint_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ", ".join(map(repr, get_args(kind))) + "}"
    if get_origin(kind) is list:
        return f"list of {_hint_name(get_args(kind)[0])}"
    return "None" if kind is NoneType else str(kind.__name__)


def _indented(text: str, columns: int) -> list[str]:
    indent = " " * columns
    text = " ".join(text.split())
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
