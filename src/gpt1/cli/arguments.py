"""Parse a command line and its `--config` file into settings, and format the help page.

argparse only collects strings here. Sections, defaults that depend on a preset, interchangeable dashes and underscores
and suggestions for mistyped names would override most of a library that builds parsers from signatures, and importing
such a library takes longer than everything in this file.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn

from gpt1.errors import UserError
from gpt1.options import Option, convert, flatten, named_elsewhere, options, summary, unknown_name


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line."""

    given: dict[str, Any]
    """full name -> value, for each setting in the command line or its `--config` file"""
    json: bool
    help: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument ").replace("ignored explicit argument", "takes no value, not"))


def parse(settings: type, positionals: Sequence[str], argv: Iterable[str]) -> CommandLine:
    """Parse a command line and its `--config` file; the command line takes precedence.

    Raises UserError, in one line, for an unknown name or a value of the wrong type.
    """
    known = options(settings)
    parser, argv = _parser(settings, positionals, known, {}), list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    found, rest = parser.parse_known_intermixed_args([_dashed(word) for word in argv[:end]])
    for word in rest:
        if word.startswith("-"):
            raise UserError(_unknown(word, known, positionals))
    # Not by argparse, whose versions disagree about what follows `--`.
    rest += _fill(found, [known[key] for key in positionals], argv[end + 1 :])
    if rest:
        missing = (o for key, o in known.items() if o.default is MISSING and key not in positionals)
        hint = next((f"; did you mean {o.flag} {rest[0]}?" for o in missing if getattr(found, o.key) is None), "")
        raise UserError(f"unexpected argument {rest[0]!r}{hint}")
    words = {key: value for key, value in vars(found).items() if key in known and value not in (None, [])}
    given = _from_file(found.config, known) if found.config else {}
    for key, value in words.items():
        name = known[key].metavar if key in positionals else known[key].flag
        given[key] = convert(known[key].kind, value, name)
    return CommandLine(given, found.json, found.help)


def _fill(found: argparse.Namespace, positionals: Iterable[Option], words: list[str]) -> list[str]:
    """Give the words to the positionals that have no value yet, a list taking all; return those left over."""
    for option in positionals:
        value = getattr(found, option.key)
        if option.is_list:
            setattr(found, option.key, [*(value or []), *words])
            return []
        if value is None and words:
            setattr(found, option.key, words[0])
            words = words[1:]
    return words


def _unknown(word: str, known: dict[str, Option], positionals: Sequence[str]) -> str:
    """Return what to say of a flag that the command does not have, or of a word that only looks like one."""
    name = word.partition("=")[0]
    if os.path.lexists(word):  # Path.exists raises for a text that is too long for a path
        return f"unknown option {word}; if the file of that name is meant, write .{os.sep}{word}"
    if ours := named_elsewhere(name, known):
        named = f"the argument {known[ours].metavar}" if ours in positionals else known[ours].flag
        return f"{name} is {named} here"
    flags = [option.flag for option in known.values() if option.key not in positionals]
    return f"unknown option {name}{unknown_name(name, [*flags, '--json', '--config', '--help'])}"


def help_text(settings: type, positionals: Sequence[str], prog: str, defaults: dict[str, Any]) -> str:
    """Format the help page; `defaults` (by full name) replace those of the dataclass."""
    known = options(settings)
    shown = {key: option.default for key, option in known.items()} | defaults
    parser = _parser(settings, positionals, known, shown)
    parser.prog, parser.usage = prog, f"{prog} {usage(settings, positionals)} [options]"
    return parser.format_help()


def usage(settings: type, positionals: Sequence[str]) -> str:
    """List the required settings: `DATA --out OUT`."""
    known = options(settings)
    names = []
    for key in positionals:
        name = known[key].metavar + ("..." if known[key].is_list else "")
        names.append(name if known[key].default is MISSING else f"[{name}]")
    must = [o for key, o in known.items() if o.default is MISSING and key not in positionals]
    return " ".join(names + [f"{option.flag} {option.metavar}" for option in must])


def _parser(
    settings: type, positionals: Sequence[str], known: dict[str, Option], defaults: dict[str, Any]
) -> argparse.ArgumentParser:
    parser = _Parser(description=summary(settings), allow_abbrev=False, add_help=False)
    for key in positionals:
        option = known[key]
        parser.add_argument(
            key, nargs="*" if option.is_list else "?", metavar=option.metavar, help=_escaped(option.help)
        )
    general = parser.add_argument_group("options")
    groups = {summary(settings): general}
    for key, option in known.items():
        if key not in positionals:
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group.rstrip("."))
            _add(groups[option.group], option, defaults.get(key, MISSING))
    general.add_argument(
        "--config", metavar="FILE", help="read settings from a YAML or JSON file; options given here take precedence"
    )
    general.add_argument("--json", action="store_true", help="print the result as one JSON document")
    general.add_argument("-h", "--help", action="store_true", help="show this page")
    return parser


def _add(group: Any, option: Option, default: Any) -> None:
    how: dict[str, Any] = {"dest": option.key, "default": None, "help": _escaped(option.help + _shown(default))}
    if option.kind is bool:
        # BooleanOptionalAction adds both `--repair` and `--no-repair`.
        group.add_argument(option.flag, action=argparse.BooleanOptionalAction, **how)
    elif option.is_list:
        group.add_argument(option.flag, action="extend", nargs="+", metavar=option.metavar, **how)
    else:
        group.add_argument(option.flag, metavar=option.metavar, **how)


def _shown(default: Any) -> str:
    if default is None or default is MISSING or default in ("", [], [""]) or isinstance(default, bool):
        return ""
    return f" (default: {default})"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _dashed(word: str) -> str:
    """Turn `--max_new_tokens` into `--max-new-tokens`. A word with a blank in its name is a text, as to argparse."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") and " " not in name else word


def _from_file(path: str, known: dict[str, Option]) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        values = flatten(read) if isinstance(read, dict) else None
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except RecursionError:  # a value that refers to itself ends here too
        raise UserError(f"--config {path}: its values are nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # a ValueError: not UTF-8, or a date that does not exist
        raise UserError(f"--config {path}: {' '.join(str(error).split())}") from None
    if values is None:
        raise UserError(f"--config {path}: expected settings, one `name: value` per line")
    names = {key.rstrip("_"): key for key in known}
    given = {}
    for key, value in values.items():
        name = key.replace("-", "_").rstrip("_")
        if name not in names:
            if ours := named_elsewhere(name, known):
                raise UserError(f"--config {path}: {key} is {ours} here")
            raise UserError(f"--config {path}: unknown setting {key}{unknown_name(name, names)}")
        given[names[name]] = convert(known[names[name]].kind, value, f"--config {path}: {key}")
    return given
