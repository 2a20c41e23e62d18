"""The command line: a thin shell that reads settings, calls the job of the same name and prints its result.

Standard output carries the result and nothing else; progress and errors go to standard error. Only the chosen
command's job is imported, so help answers before torch could even be found.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gpt1 import __version__, config, options
from gpt1.cli import arguments
from gpt1.console import settings_as_flags
from gpt1.errors import Gpt1Error, UserError
from gpt1.results import Result
from gpt1.training.interrupt import stoppable


@dataclass(frozen=True)
class Command:
    """A verb: `gpt1.jobs.<verb>.<verb>(settings)` does the work, `show(result)` there says what to print."""

    settings: type
    positionals: tuple[str, ...] = ()
    """settings that are given by place, not by name"""
    text: str = ""
    """the setting in which `-` means what comes on standard input"""


COMMANDS = {
    "demo": Command(config.Demo),
    "prepare": Command(config.Prepare, ("inputs",)),
    "plan": Command(config.Plan, ("data",)),
    "pretrain": Command(config.Pretrain, ("data",)),
    "generate": Command(config.Generate, ("run", "prompts"), text="prompts"),
    "finetune": Command(config.Finetune, ("run",)),
    "ablate": Command(config.Ablate, ("run",)),
    "predict": Command(config.Predict, ("run", "input")),
    "evaluate": Command(config.Evaluate, ("run", "files")),
    "explain": Command(config.Explain, ("run", "text"), text="text"),
    "convert": Command(config.Convert, ("src",)),
    "report": Command(config.Report, ("runs",)),
    "info": Command(config.Info, ("path",)),
}

WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What the system answers to a path that the request should not have named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed while running, 2 wrong request or data, 130 stopped."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")  # a Windows pipe would have the code page of the machine
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with stoppable(), settings_as_flags():
            _run(argv)
        sys.stdout.flush()  # a full disk must be noticed here, not while Python shuts down
        return 0
    except BrokenPipeError:
        # The reader of our output left, as `| head` does. Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Gpt1Error, OSError, KeyboardInterrupt) as error:
        if os.environ.get("GPT1_TRACEBACK"):
            raise
        prog = f"gpt1 {argv[0]}" if argv and argv[0] in COMMANDS else "gpt1"
        print(f"{prog}: {_message(error)}", file=sys.stderr)
        return _exit_code(error)


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
    verb, command = argv[0], COMMANDS[argv[0]]
    line = arguments.parse(command.settings, command.positionals, argv[1:])
    defaults = _defaults(command.settings, line.given)
    if line.help:
        print(arguments.help_text(command.settings, command.positionals, f"gpt1 {verb}", defaults))
        return
    # With --json standard output carries one document and nothing else.
    given = line.given | ({"stream": False} if line.json else {})
    if command.text in given:
        given[command.text] = _read_dash(given[command.text])
    settings: Any = options.build(command.settings, command.positionals, defaults | given)
    options.check_command(settings)
    if settings.threads:
        # polars' and tokenizers' pools of threads are made once, when they are imported with the job.
        os.environ |= {"POLARS_MAX_THREADS": str(settings.threads), "RAYON_NUM_THREADS": str(settings.threads)}
    job = import_module(f"gpt1.commands.{verb}")
    _print(job, getattr(job, verb)(settings), line.json)


def _defaults(settings: type, given: dict[str, Any]) -> dict[str, Any]:
    """What a preset and a recipe decide, by full name: the defaults of pre-training depend on them."""
    if not issubclass(settings, config.Pretrain):
        return {}
    chosen = config.pretrain_defaults(given.get("preset", "small"), given.get("recipe"), data="", out="")
    return {key: value for key, value in options.flat(chosen).items() if key not in ("data", "out")}


def _read_dash(text: str | list[str]) -> str | list[str]:
    """What stands for `-`: all of standard input."""
    try:
        if isinstance(text, list):
            return [sys.stdin.read() if one == "-" else one for one in text]
        return sys.stdin.read() if text == "-" else text
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is no UTF-8 ({error.reason} at byte {error.start}); convert it") from None


def _print(job: Any, result: Any, as_json: bool) -> None:
    shown = job.show(result)
    if shown is None:
        return  # the job wrote to standard output itself, as `predict` does with its rows
    if as_json:
        print(json.dumps(result.to_json() if isinstance(result, Result) else result, ensure_ascii=False, indent=2))
    elif isinstance(shown, str):
        print(shown)
    else:
        from rich.console import Console

        Console(highlight=False).print(shown)


def _overview() -> str:
    lines = ["gpt1: pre-train a GPT on your own text, then fine-tune it on your labels.", ""]
    lines += [f"  gpt1 {verb:<10}{options.summary(command.settings)}" for verb, command in COMMANDS.items()]
    lines += ["", "`gpt1 COMMAND --help` lists a command's settings; `gpt1 --version` tells the version."]
    return "\n".join(lines)


def _message(error: BaseException) -> str:
    if isinstance(error, Gpt1Error):
        return error.as_flags().replace("\n", " ")
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error).replace("\n", " ")


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, *WRONG_PATH)) else 1
