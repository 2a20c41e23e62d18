"""The command line: parse settings, call the function named after the command, print its result.

Standard output carries the result only; progress and errors go to standard error. Just the chosen command's module is
imported, so that help does not wait for torch.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from subprocess import list2cmdline
from typing import Any, NoReturn

from gpt1 import __version__, config, options, torchrun
from gpt1.cli import arguments
from gpt1.console import plain_console, say, settings_as_flags
from gpt1.errors import INTERRUPTED, Gpt1Error, UserError, exit_code, readable
from gpt1.results import Result
from gpt1.storage import UNENCODABLE


@dataclass(frozen=True)
class Verb:
    """A command: `gpt1.commands.<verb>` has `<verb>(settings)`, which does the work, and `show(result)`."""

    settings: type
    example: str
    """what follows `gpt1 <verb>` in the overview"""
    does: str
    """what the example does, in a few words"""
    positionals: tuple[str, ...] = ()
    """settings given by position"""
    stdin: str = ""
    """setting in which `-` means standard input"""
    stdout: str = ""
    """setting whose default is `-`, standard output; in Python and with `--json`, the result holds what is printed"""
    is_shared: bool = False
    """whether processes that `torchrun` starts share the work out; the other commands run in one process"""
    then: str = ""
    """the next command, printed at the end; `{out}` is the folder written, `{run}` a new run of the same name"""


# The command to suggest after a pre-trained and a fine-tuned run was written.
PRETRAINED, FINETUNED = 'generate {out} "Once upon a time"', "predict {out} FILE.csv"

# By the stages of the life cycle, in the order of the overview.
STAGES = {
    "Try everything, without data of your own": {
        "demo": Verb(config.Demo, "", "everything, in minutes"),
    },
    "Pre-train a GPT on text": {
        "prepare": Verb(
            config.Prepare, "texts/ --out data/my", "text -> tokens", ("inputs",),
            then="pretrain {out} --out {run}",
        ),
        "plan": Verb(config.Plan, "data/my --preset tiny", "memory and hours needed", ("data",)),
        "pretrain": Verb(
            config.Pretrain, "data/my --out runs/my", "tokens -> a GPT", ("data",),
            is_shared=True, then=PRETRAINED,
        ),
        "convert": Verb(
            config.Convert, "FOLDER --out runs/gpt1", "another GPT-1 -> a run", ("src",),
            then=PRETRAINED,
        ),
        "generate": Verb(
            config.Generate, 'runs/my "Once upon"', "continue a text", ("run", "prompts"), stdin="prompts"
        ),
        "explain": Verb(
            config.Explain, 'runs/my "A sentence."', "how likely each token is", ("run", "text", "more"), stdin="text"
        ),
    },
    "Fine-tune it on labels (`starter` is a pre-trained run, if installed)": {
        "finetune": Verb(
            config.Finetune, "runs/my --train a.csv --out runs/task", "rows -> a classifier", ("run",),
            is_shared=True, then=FINETUNED,
        ),
        "predict": Verb(
            config.Predict, "runs/task new.csv", "labels and probabilities", ("run", "input", "more"), stdout="out",
            is_shared=True,
        ),
        "evaluate": Verb(
            config.Evaluate, "runs/task test.csv", "metrics on rows or text", ("run", "files"), is_shared=True
        ),
        "ablate": Verb(
            config.Ablate, "runs/my --train a.csv", "what pre-training is worth", ("run",), is_shared=True
        ),
    },
    "Inspect runs, and use them from other programs": {
        "report": Verb(config.Report, "runs/my runs/task", "curves and scores, a page", ("runs",)),
        "info": Verb(config.Info, "runs/my", "what a folder holds", ("path",)),
        "embed": Verb(config.Embed, "runs/my a.csv --out a.parquet", "a vector for each text", ("run", "input")),
        "serve": Verb(config.Serve, "runs/my runs/task", "an HTTP API like OpenAI's", ("runs",)),
    },
}  # fmt: skip
COMMANDS = {name: verb for stage in STAGES.values() for name, verb in stage.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong request or data, 130 interrupted."""
    _set_up_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with settings_as_flags():
            _run(argv)
        sys.stdout.flush()  # report a full disk here, not at interpreter shutdown
        return 0
    except BrokenPipeError:
        _drop_output()  # its reader is gone (`| head`)
        return 1
    except (Gpt1Error, OSError, MemoryError, KeyboardInterrupt) as error:
        if os.environ.get("GPT1_TRACEBACK"):
            raise
        prog = f"gpt1 {argv[0]}" if argv and argv[0] in COMMANDS else "gpt1"
        print(f"{prog}: {_message(error)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return exit_code(error)


def _drop_output() -> None:
    """Let what standard output still holds lead nowhere; Python would fail again when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end() -> NoReturn:
    """Run the command of this process's command line, and end the process with its exit code."""
    code = main()
    if code == INTERRUPTED and "ray" in sys.modules:
        # Everything is closed by now, but what an interrupted Ray leaves behind can crash the interpreter as it ends.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _set_up_streams() -> None:
    """Make the standard streams UTF-8, also on Windows, and open those that are closed, as for a daemon, or `>&-`."""
    # What is written may name a file whose name is not UTF-8; what is read must be UTF-8.
    for name, mode, errors in (("stdin", "r", "strict"), ("stdout", "w", UNENCODABLE), ("stderr", "w", UNENCODABLE)):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115, until the process ends
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _run(argv: list[str]) -> None:
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        _print_once(_overview())
        return
    if argv[0] == "--version":
        _print_once(f"gpt1 {__version__}")
        return
    if argv[0] not in COMMANDS:
        kind, names = ("option", ["--help", "--version"]) if argv[0].startswith("-") else ("command", list(COMMANDS))
        hint = options.nearest(argv[0], names) or f"; the commands are {', '.join(COMMANDS)}"
        raise UserError(f"unknown {kind} {argv[0]}{hint}")
    name, verb = argv[0], COMMANDS[argv[0]]
    with _report_once():
        line = arguments.parse(verb.settings, verb.positionals, argv[1:])
        defaults = options.preset_defaults(verb.settings, line.given)
    if line.help:
        _print_once(arguments.help_text(verb.settings, verb.positionals, f"gpt1 {name}", defaults))
        return
    # Not for help, since these import what reads tables.
    from gpt1.cli.paths import check_paths
    from gpt1.remote import mirrored, with_addresses
    from gpt1.training.interrupt import sigterm_as_ctrl_c

    with sigterm_as_ctrl_c():
        with ExitStack() as stack:
            with _report_once():
                settings = stack.enter_context(mirrored(_settings(verb, defaults, line)))
                check_paths(settings)
            command = import_module(f"gpt1.commands.{name}")
            result = with_addresses(getattr(command, name)(settings))
        if torchrun.rank() == 0:
            _print(command, result, line.json)
            _say_next(verb, settings)


def _settings(verb: Verb, defaults: dict[str, Any], line: arguments.CommandLine) -> Any:
    """Return a command's settings, checked except for its paths."""
    if not verb.is_shared and torchrun.is_launched():
        shared = [f"gpt1 {one}" for one, other in COMMANDS.items() if other.is_shared]
        raise UserError(f"it runs in one process; start it without torchrun, which works for {', '.join(shared)}")
    if line.json and line.given.get("stream"):
        raise UserError("--stream prints words at once, --json one document at the end; give one of them")
    if line.json and verb.stdout and line.given.get(verb.stdout) == "-":
        raise UserError("--out - prints rows at once, --json one document at the end; give one of them")
    given = dict(line.given)
    if verb.stdin in given:
        given[verb.stdin] = _texts(given[verb.stdin])
    if verb.stdout and not given.get(verb.stdout) and not line.json:
        given[verb.stdout] = "-"
    settings: Any = options.build(verb.settings, verb.positionals, defaults | given)
    options.check_threads_and_seed(settings.threads, settings.seed)
    if settings.threads:
        # polars and tokenizers create their thread pools once, when the command's module imports them.
        os.environ |= {"POLARS_MAX_THREADS": str(settings.threads), "RAYON_NUM_THREADS": str(settings.threads)}
    return settings


def _texts(text: str | list[str]) -> str | list[str]:
    """Replace `-` by the content of standard input, and in other texts each byte that is not UTF-8 by U+FFFD."""
    from gpt1.tokenizer.tokenizer import replace_surrogates  # not for every command

    if isinstance(text, list):
        return [str(_texts(one)) for one in text]
    try:
        # Python turns each byte of a command line that is not UTF-8 into a lone surrogate.
        return sys.stdin.read() if text == "-" else replace_surrogates(text)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error.reason} at byte {error.start}); convert it") from None


def _print(command: Any, result: Any, as_json: bool) -> None:
    if as_json:
        value = result.to_json() if isinstance(result, Result) else result
        print(json.dumps(value, ensure_ascii=False, indent=2))
        return
    shown = command.show(result)
    if shown is None:
        return  # the command has written to standard output itself, as `predict` does
    if isinstance(shown, str):
        print(readable(shown))
    else:
        console = plain_console()
        with console.capture() as text:
            console.print(shown)
        print(readable(text.get()), end="")


@contextmanager
def _report_once() -> Iterator[None]:
    """Let one process on each machine report an error of the block, before all have met; the others just end.

    They end so too if `torchrun` stops them, because one has failed.
    """
    try:
        yield
    except (Gpt1Error, OSError, KeyboardInterrupt) as error:
        if torchrun.local_rank() > 0:
            raise SystemExit(exit_code(error)) from error
        raise


def _print_once(text: str) -> None:
    """Print what needs no command to run, in the first of several processes only."""
    if torchrun.rank() == 0:
        print(text)


def _overview() -> str:
    lines = ["gpt1: pre-train a GPT on your own text, then fine-tune it on your labels."]
    for stage, verbs in STAGES.items():
        lines.append(f"{stage}:")
        lines += [f"  {f'gpt1 {name} {verb.example}':<51} {verb.does}" for name, verb in verbs.items()]
    lines += ["", "`gpt1 COMMAND --help` lists its options, `gpt1 --version` prints the version."]
    return "\n".join(lines)


def _say_next(verb: Verb, settings: Any) -> None:
    """Say on standard error where the result is, and the command that uses it, ready to paste."""
    is_run = getattr(settings, "to", "run") == "run"  # else OpenAI's layout
    if not verb.then or not is_run:
        return
    from gpt1.run_folder.metadata import read_metadata  # not for help

    sys.stdout.flush()
    out = Path(settings.out)
    is_finetuned = (out / "gpt1.json").exists() and read_metadata(out).kind == "finetuned"  # `convert` writes both
    name = out.resolve().name
    runs = (Path("runs") / one for one in chain([name], (f"{name}-{number}" for number in count(2))))
    new_run = next(run for run in runs if not run.exists())
    then = FINETUNED if is_finetuned else verb.then
    say(f"{settings.out} is ready; next: gpt1 {then.format(out=quoted(str(settings.out)), run=quoted(str(new_run)))}")


def quoted(word: str) -> str:
    """Return a word as this system's shell reads it."""
    return list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def _message(error: BaseException) -> str:
    if isinstance(error, Gpt1Error):
        return error.as_flags().replace("\n", " ")
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or process less at once"
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "stopped"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {readable(str(error.filename))}" if error.filename else "")
    return str(error).replace("\n", " ")
