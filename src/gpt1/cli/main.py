"""The command line: parse settings, call the function named after the command, print its result.

Standard output carries the result only; progress and errors go to standard error. Just the chosen command's module is
imported, so that help does not wait for torch.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gpt1 import __version__, config, options
from gpt1.cli import arguments
from gpt1.console import plain_console, settings_as_flags
from gpt1.errors import Gpt1Error, UserError
from gpt1.results import Result
from gpt1.storage import UNENCODABLE
from gpt1.training.interrupt import sigterm_as_ctrl_c


@dataclass(frozen=True)
class Verb:
    """A command: `gpt1.commands.<verb>` has `<verb>(settings)`, which does the work, and `show(result)`."""

    settings: type
    positionals: tuple[str, ...] = ()
    """settings given by position"""
    stdin: str = ""
    """setting in which `-` means standard input"""
    stdout: str = ""
    """setting whose default is `-`, standard output; in Python, without it, the result holds what is printed here"""


COMMANDS = {
    "demo": Verb(config.Demo),
    "prepare": Verb(config.Prepare, ("inputs",)),
    "plan": Verb(config.Plan, ("data",)),
    "pretrain": Verb(config.Pretrain, ("data",)),
    "generate": Verb(config.Generate, ("run", "prompts"), stdin="prompts"),
    "finetune": Verb(config.Finetune, ("run",)),
    "ablate": Verb(config.Ablate, ("run",)),
    "predict": Verb(config.Predict, ("run", "input"), stdout="out"),
    "evaluate": Verb(config.Evaluate, ("run", "files")),
    "explain": Verb(config.Explain, ("run", "text"), stdin="text"),
    "convert": Verb(config.Convert, ("src",)),
    "report": Verb(config.Report, ("runs",)),
    "info": Verb(config.Info, ("path",)),
}

# Errors of the operating system about a path that the user chose.
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong request or data, 130 interrupted."""
    _set_up_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with sigterm_as_ctrl_c(), settings_as_flags():
            _run(argv)
        sys.stdout.flush()  # report a full disk here, not at interpreter shutdown
        return 0
    except BrokenPipeError:
        # The reader of our output is gone (`| head`). Python would fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Gpt1Error, OSError, MemoryError, KeyboardInterrupt) as error:
        if os.environ.get("GPT1_TRACEBACK"):
            raise
        prog = f"gpt1 {argv[0]}" if argv and argv[0] in COMMANDS else "gpt1"
        print(f"{prog}: {_message(error)}", file=sys.stderr)
        return _exit_code(error)


def _set_up_streams() -> None:
    """Make the standard streams UTF-8, also on Windows, and open those that are closed, as for a daemon, or `>&-`."""
    # What is written may name a file whose name is not UTF-8; what is read must be UTF-8.
    for name, mode, errors in (("stdin", "r", "strict"), ("stdout", "w", UNENCODABLE), ("stderr", "w", UNENCODABLE)):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, until the process ends
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    if argv[0] == "--version":
        print(f"gpt1 {__version__}")
        return
    if argv[0] not in COMMANDS:
        kind = "option" if argv[0].startswith("-") else "command"
        hint = options.nearest(argv[0], COMMANDS) or f"; the commands are {', '.join(COMMANDS)}"
        raise UserError(f"unknown {kind} {argv[0]}{hint}")
    name, verb = argv[0], COMMANDS[argv[0]]
    line = arguments.parse(verb.settings, verb.positionals, argv[1:])
    defaults = options.preset_defaults(verb.settings, line.given)
    if line.help:
        print(arguments.help_text(verb.settings, verb.positionals, f"gpt1 {name}", defaults))
        return
    if line.json and line.given.get("stream"):
        raise UserError("--stream prints words as they come, --json one document at the end; give one of them")
    given = dict(line.given)
    if verb.stdin in given:
        given[verb.stdin] = _texts(given[verb.stdin])
    if verb.stdout and not given.get(verb.stdout):
        given[verb.stdout] = "-"
    settings: Any = options.build(verb.settings, verb.positionals, defaults | given)
    options.check_threads_and_seed(settings.threads, settings.seed)
    if settings.threads:
        # polars and tokenizers create their thread pools once, when the command's module imports them.
        os.environ |= {"POLARS_MAX_THREADS": str(settings.threads), "RAYON_NUM_THREADS": str(settings.threads)}
    command = import_module(f"gpt1.commands.{name}")
    _print(command, getattr(command, name)(settings), line.json)


def _texts(text: str | list[str]) -> str | list[str]:
    """Replace `-` by the content of standard input, and in other texts each byte that is not UTF-8 by U+FFFD."""
    from gpt1.tokenizer.tokenizer import replace_surrogates  # not for every command

    if isinstance(text, list):
        return [str(_texts(one)) for one in text]
    try:
        # Python turns each byte of a command line that is not UTF-8 into half a surrogate pair.
        return sys.stdin.read() if text == "-" else replace_surrogates(text)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error.reason} at byte {error.start}); convert it") from None


def _print(command: Any, result: Any, as_json: bool) -> None:
    shown = command.show(result)
    if shown is None:
        return  # the command has written to standard output itself, as `predict` does
    if as_json:
        value = result.to_json() if isinstance(result, Result) else result
        print(json.dumps(value, ensure_ascii=False, indent=2))
    elif isinstance(shown, str):
        print(shown)
    else:
        plain_console().print(shown)


def _overview() -> str:
    lines = ["gpt1: pre-train a GPT on your own text, then fine-tune it on your labels.", ""]
    lines += [f"  gpt1 {name:<10}{options.summary(verb.settings)}" for name, verb in COMMANDS.items()]
    lines += ["", "Run `gpt1 COMMAND --help` for a command's options, `gpt1 --version` for the version."]
    return "\n".join(lines)


def _message(error: BaseException) -> str:
    if isinstance(error, Gpt1Error):
        return error.as_flags().replace("\n", " ")
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or process less at once"
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error).replace("\n", " ")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, *WRONG_PATH)) else 1
