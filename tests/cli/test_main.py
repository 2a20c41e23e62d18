"""The command line: what settings a line makes, what is printed where, and how every ending looks."""

import dataclasses
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.progress import TextColumn

from conftest import NOT_UTF8, only_linux_names
from gpt1 import __version__, config, console
from gpt1.cli.main import COMMANDS, main
from gpt1.errors import RunFailed, UserError
from gpt1.options import OTHER_NAMES, options

Job = Callable[..., list[Any]]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    """Replace a command by one that records its settings, then returns `result` or raises it; any path will do."""
    monkeypatch.setattr("gpt1.cli.paths.check_paths", lambda settings: None)

    def install(verb: str, result: Any = None, shown: Any = None) -> list[Any]:
        seen: list[Any] = []

        def work(settings: Any) -> Any:
            seen.append(settings)
            if isinstance(result, BaseException):
                raise result
            return result

        module = types.ModuleType(f"gpt1.commands.{verb}")
        module.__dict__.update({verb: work, "show": lambda _: shown})
        monkeypatch.setitem(sys.modules, f"gpt1.commands.{verb}", module)
        return seen

    return install


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a wrong request is answered with."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.strip()


def test_sigterm_stops_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = types.ModuleType("gpt1.commands.info")
    module.__dict__.update(info=lambda settings: signal.raise_signal(signal.SIGTERM), show=str)
    monkeypatch.setitem(sys.modules, "gpt1.commands.info", module)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["info", "run"]) == 130
    assert capsys.readouterr().err == "gpt1 info: stopped\n"
    assert signal.getsignal(signal.SIGTERM) == before


# What a line means


def test_positionals_flags_and_types(job: Job) -> None:
    seen = job("generate")
    assert main("generate run --seed 7 Hello --temperature 0 World --stop a --stop b --stream".split()) == 0
    assert seen == [
        config.Generate(run="run", prompts=["Hello", "World"], seed=7, temperature=0.0, stop=["a", "b"], stream=True)
    ]


def test_a_prompt_left_out_keeps_the_default(job: Job) -> None:
    seen = job("generate")
    main(["generate", "run"])
    assert seen[0].prompts == [""]


def test_nothing_after_two_dashes_is_an_option(job: Job) -> None:
    seen = job("generate")
    assert main(["generate", "run", "--", "--my_own dashes"]) == 0
    assert seen[0].prompts == ["--my_own dashes"]
    assert main("generate --stop a -- --run x -- --y".split()) == 0
    assert (seen[1].run, seen[1].prompts, seen[1].stop) == ("--run", ["x", "--", "--y"], ["a"])
    seen = job("prepare")
    assert main("prepare --out o -- --x.txt -y".split()) == 0
    assert main("prepare a --out o -- --x.txt".split()) == 0
    assert [one.inputs for one in seen] == [["--x.txt", "-y"], ["a", "--x.txt"]]


def test_a_name_with_dashes_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for word, answer in (
        ("--x=1.txt", f"--x=1.txt; if the file of that name is meant, write .{os.sep}--x=1.txt"),
        ("--qq=1", "--qq"),
    ):
        if word.endswith(".txt"):
            Path(word).touch()
        assert main(["info", word]) == 2
        assert capsys.readouterr().err == f"gpt1 info: unknown option {answer}\n"
    assert main(["info", "--", "a", "--b"]) == 2
    assert capsys.readouterr().err == "gpt1 info: unexpected argument '--b'\n"


def test_a_dash_is_standard_input(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\nupon\n"))
    prompts, text = job("generate"), job("explain")
    assert main(["generate", "run", "-"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("a time"))
    assert main(["explain", "run", "-"]) == 0
    assert prompts[0].prompts == ["Once\nupon\n"]
    assert text[0].text == "a time"


@pytest.mark.parametrize("flag", ["--max-new-tokens", "--max_new_tokens"])
def test_dashes_and_underscores_are_the_same(job: Job, flag: str) -> None:
    seen = job("generate")
    assert main(["generate", "run", flag, "5", "under_score"]) == 0
    assert (seen[0].max_new_tokens, seen[0].prompts) == (5, ["under_score"])


@pytest.mark.parametrize("text", ["-- drop_table user_names", "--foo_bar baz", "-- a_b=c_d e"])
def test_a_text_is_not_changed(job: Job, text: str) -> None:
    prompts, texts, sample = job("generate"), job("explain"), job("pretrain")
    assert main(["generate", "run", text, "--stop", text]) == 0
    assert (prompts[0].prompts, prompts[0].stop) == ([text], [text])
    assert main(["explain", "run", text]) == 0
    assert texts[0].text == text
    assert main(["pretrain", "data", "--out", "run", f"--sample={text}"]) == 0
    assert sample[0].sample == text


def test_bytes_of_a_text_that_are_not_utf8(job: Job) -> None:
    prompts, text = job("generate"), job("explain")
    assert main(["generate", "run", NOT_UTF8]) == 0
    assert main(["explain", "run", NOT_UTF8]) == 0
    assert (prompts[0].prompts, text[0].text) == (["caf\ufffd"], "caf\ufffd")


def test_lists_take_several_values(job: Job) -> None:
    seen = job("prepare")
    assert main("prepare a b --out o --val c d --no-repair".split()) == 0
    assert (seen[0].inputs, seen[0].val, seen[0].repair) == (["a", "b"], ["c", "d"], False)


def test_as_is_the_flag_of_a_field_that_python_reserves(job: Job) -> None:
    seen = job("evaluate")
    assert main("evaluate run file --as text".split()) == 0
    assert seen[0].as_ == "text"


@pytest.mark.parametrize(
    ("words", "preset", "recipe"),
    [
        ("", "auto", "fast"),
        ("--preset gpt1", "gpt1", "paper"),
        ("--preset tiny", "tiny", "fast"),
        ("--preset tiny --recipe paper", "tiny", "paper"),
        ("--recipe paper", "auto", "paper"),
    ],
)
def test_preset_and_recipe_decide_the_defaults(
    job: Job, words: str, preset: config.Preset, recipe: config.Recipe
) -> None:
    seen = job("pretrain")
    assert main(f"pretrain data --out run {words}".split()) == 0
    assert seen[0] == config.pretrain_defaults(preset, recipe, data="data", out="run")


def test_flags_win_over_the_preset(job: Job) -> None:
    seen = job("pretrain")
    assert main("pretrain data --out run --preset tiny --model.width 48 --optim.matrix-lr 1e-3 --batch 4".split()) == 0
    expected = config.pretrain_defaults("tiny", data="data", out="run")
    model = dataclasses.replace(expected.model, width=48, inner=192)
    optim = dataclasses.replace(expected.optim, matrix_lr=1e-3)
    assert seen[0] == dataclasses.replace(expected, model=model, optim=optim, batch=4)


def test_a_settings_file_stands_between_the_preset_and_the_flags(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: tiny\nout: run\nsteps: 30\noptim:\n  lr: 1e-3\n  matrix-lr: 2\nminutes: null\n")
    seen = job("pretrain")
    assert main(["pretrain", "data", "--config", str(file), "--steps", "40"]) == 0
    expected = config.pretrain_defaults("tiny", data="data", out="run")
    optim = dataclasses.replace(expected.optim, lr=1e-3, matrix_lr=2.0)
    assert seen[0] == dataclasses.replace(expected, steps=40, optim=optim)


def test_the_settings_of_a_run_can_be_given_back(job: Job, tmp_path: Path) -> None:
    settings = dataclasses.replace(config.pretrain_defaults("tiny", "paper", data="d", out="o"), steps=3, batch=5)
    (tmp_path / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)))
    seen = job("pretrain")
    assert main(["pretrain", "--config", str(tmp_path / "settings.json")]) == 0
    assert seen == [settings]


# What is printed


def test_json_is_one_document_and_nothing_else(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job("evaluate", {"accuracy": 0.5, "label": "żółw"}, shown="a table")
    assert main(["evaluate", "run", "f", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {"accuracy": 0.5, "label": "żółw"}
    assert "żółw" in out


def test_nothing_is_added_to_what_a_job_wrote_itself(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    seen = job("predict", {"rows": 2}, shown=None)
    assert main(["predict", "run", "rows.csv"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["predict", "run", "rows.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 2}
    assert [settings.out for settings in seen] == ["-", None], "with --json, the result holds the rows"


def test_without_json_the_job_says_what_to_print(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]not markup[/red] " + "long " * 60
    job("generate", {}, shown=text)
    assert main(["generate", "run"]) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("name", ["[/INST]", "[bold]", ":smile:", "[link=x]y"])
def test_a_name_is_shown_as_it_is(name: str, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    found = console.table({name: name}, title=f"title {name}")
    found.caption = f"caption {name}"
    job("info", {}, shown=found)
    assert main(["info", "run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(words in out for words in (f"title {name}", f"{name} │ {name}", f"caption {name}"))
    console.say(f"say {name}")
    assert capsys.readouterr().err == f"say {name}\n"


def test_a_progress_bar_shows_a_path_as_it_is() -> None:
    with console.bar("{task.fields[state]}") as progress:
        progress.add_task("a[/b].csv", state=":smile:")
        texts = [column(progress.tasks[0]).plain for column in progress.columns if isinstance(column, TextColumn)]
    assert texts == ["a[/b].csv", ":smile:"]


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"gpt1 {verb} " in out for verb in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpt1 {__version__}\n"


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_explains_every_setting(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(COMMANDS[verb].settings):
        flag = "--" + field.name.rstrip("_").replace("_", "-")
        section = f"{flag}."
        assert field.name in COMMANDS[verb].positionals or flag in out or section in out
    assert "--json" in out


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", "--help", "--preset", "gpt1"])
    assert "size of every hidden state (default: 768)" in capsys.readouterr().out
    main(["pretrain", "--help", "--preset", "tiny"])
    assert "size of every hidden state (default: 192)" in capsys.readouterr().out


def test_without_a_terminal_a_line_comes_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.02)
    threads = threading.active_count()
    with console.bar("{task.fields[state]}") as progress:
        task = progress.add_task("a[b]", total=4000, completed=1000, done_before=1000, state="")
        time.sleep(0.1)
        progress.update(task, completed=2000, state="loss 3.2")
        time.sleep(0.1)
        progress.update(task, completed=4000)
        time.sleep(0.05)
        before = capsys.readouterr().err.splitlines()
        time.sleep(0.05)
    assert capsys.readouterr() == ("", ""), "what is finished is not repeated"
    assert before[0] == "a[b]: 1,000 of 4,000 (25%), 0:00:00 so far"
    assert "a[b]: 2,000 of 4,000 (50%), loss 3.2, 0:00:00 so far, 0:00:00 left" in before
    assert threading.active_count() == threads


def test_a_line_of_a_log_knows_what_was_done_before() -> None:
    progress = console.bar()
    progress.add_task("pretrain", total=110, completed=30, done_before=10, state="loss 2")
    progress.add_task("predict, rows", total=None)
    task, endless = progress.tasks
    task._get_time = lambda: (task.start_time or 0) + 3600
    assert console.log_line(task) == "pretrain: 30 of 110 (27%), loss 2, 1:00:00 so far, 4:00:00 left"
    assert console.log_line(endless) == "predict, rows, 0:00:00 so far"


def test_a_short_job_adds_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.bar() as progress:
        progress.add_task("quick", total=1)
    with console.quiet(), console.bar() as progress:
        progress.add_task("quick", total=1)
    assert capsys.readouterr() == ("", "")


def test_the_overview_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 22
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_examples_of_the_overview_are_command_lines(verb: str, job: Job) -> None:
    seen = job(verb)
    assert main([verb, *shlex.split(COMMANDS[verb].example)]) == 0
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("prepare a.txt --out data/docs", "data/docs is ready; next: gpt1 pretrain data/docs --out runs/docs"),
        ("pretrain data --out runs/docs", 'runs/docs is ready; next: gpt1 generate runs/docs "Once upon a time"'),
        ("finetune run --train a.csv --out runs/x", "runs/x is ready; next: gpt1 predict runs/x FILE.csv"),
        ("convert model --out runs/x", 'runs/x is ready; next: gpt1 generate runs/x "Once upon a time"'),
        ("convert run --out x --to openai", None),
        ("evaluate run a.csv", None),
        ("ablate run --train a.csv --out x.json", None),
        ("plan data --out x", None),
        (
            "finetune run --train a.csv --out 'my $runs/x'",
            "my $runs/x is ready; next: gpt1 predict 'my $runs/x' FILE.csv",
        ),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_to_do_next(
    line: str, answer: str | None, flags: list[str], job: Job, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    job(words[0], {"steps": 1}, shown="a table")
    assert main([*words, *flags]) == 0
    out, err = capsys.readouterr()
    assert err == ("" if answer is None else f"{answer}\n")
    assert json.loads(out) == {"steps": 1} if flags else out == "a table\n"


def test_a_classifier_that_was_converted_predicts_next(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / "out" / name).touch()
    found = {"format": 1, "kind": "finetuned", "parameters": 1, "context": 8, "vocabulary": 9, "tokenizer": "hash"}
    task = {"task": "classification", "goal": "classes", "labels": ["a", "b"]}
    columns = {"texts": ["text"], "label": ["label"], "choices": []}
    (tmp_path / "out/gpt1.json").write_text(json.dumps(found | task | {"columns": columns}))
    job("convert")
    assert main(["convert", "model", "--out", "out"]) == 0
    assert capsys.readouterr().err == "out is ready; next: gpt1 predict out FILE.csv\n"


def test_a_new_run_gets_a_name_of_its_own(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/docs").mkdir(parents=True)
    job("prepare")
    assert main("prepare a.txt --out docs".split()) == 0
    assert capsys.readouterr().err == "docs is ready; next: gpt1 pretrain docs --out runs/docs-2\n"


# How a wrong request is answered


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("--hlep", "gpt1: unknown option --hlep; did you mean --help?"),
        ("pretain data", "gpt1: unknown command pretain; did you mean pretrain?"),
        ("pretrain data --out r --stpes 3", "gpt1 pretrain: unknown option --stpes; did you mean --steps?"),
        ("pretrain --stpes=3", "gpt1 pretrain: unknown option --stpes; did you mean --steps?"),
        ("pretrain data --modle.width 3", "gpt1 pretrain: unknown option --modle.width; did you mean --model.width?"),
        ("generate run --tempratur 3", "gpt1 generate: unknown option --tempratur; did you mean --temperature?"),
        ("finetune r --learning-rate 1e-4", "gpt1 finetune: --learning-rate is --lr here"),
        ("pretrain d --learning_rate=1e-4", "gpt1 pretrain: --learning-rate is --optim.lr here"),
        ("pretrain d --lr 1e-4", "gpt1 pretrain: --lr is --optim.lr here"),
        ("finetune r --output-dir x", "gpt1 finetune: --output-dir is --out here"),
        ("prepare t -o x", "gpt1 prepare: -o is --out here"),
        ("predict x.csv --model r", "gpt1 predict: --model is the argument RUN here"),
        ("pretrain d --model gpt1", "gpt1 pretrain: --model is --preset here"),
        ("generate r --max-length 5", "gpt1 generate: --max-length is --max-new-tokens here"),
        ("pretrain d --block-size 5", "gpt1 pretrain: --block-size is --model.context here"),
        ("predict r x.csv --batch-size 5", "gpt1 predict: --batch-size is --batch here"),
        ("finetune r --num-train-epochs 5", "gpt1 finetune: --num-train-epochs is --epochs here"),
        ("generate r --max-tokens 5", "gpt1 generate: --max-tokens is --max-new-tokens here"),
        ("pretrain d --warmup-iters 5", "gpt1 pretrain: --warmup-iters is --optim.warmup here"),
        ("pretrain d --dropout 0.1", "gpt1 pretrain: --dropout is --model.residual-dropout here"),
        ("generate r --start hello", "gpt1 generate: --start is the argument PROMPT here"),
        ("finetune r --dev d.csv", "gpt1 finetune: --dev is --valid here"),
        ("evaluate r --test t.csv", "gpt1 evaluate: --test is the argument FILE here"),
        (
            "finetune r --test t.csv",
            "gpt1 finetune: unknown option --test; `gpt1 evaluate` scores a model on test rows",
        ),
        (
            "pretrain d --resume auto",
            "gpt1 pretrain: unknown option --resume; to resume a stopped run, repeat its command",
        ),
        (
            "evaluate r f --out x.json",
            "gpt1 evaluate: unknown option --out; on the command line, `--json > FILE` saves the result",
        ),
        ("pretrain d --patience 3", "gpt1 pretrain: unknown option --patience"),
        ("generate r --threads -3", "gpt1 generate: --threads: expected a whole number, 0 or more, not '-3'"),
        (
            "pretrain data --out r --steps many",
            "gpt1 pretrain: --steps: expected a whole number, 0 or more, not 'many'",
        ),
        ("pretrain data --out r --steps 1.5", "gpt1 pretrain: --steps: expected a whole number, 0 or more, not '1.5'"),
        ("pretrain data --out r --minutes nan", "gpt1 pretrain: --minutes: expected a number, 0 or more, not 'nan'"),
        ("pretrain data --out r --preset smal", "gpt1 pretrain: --preset: unknown value 'smal'; did you mean small?"),
        (
            "pretrain data --out r --preset xxl",
            "gpt1 pretrain: --preset: unknown value 'xxl'; the choices are auto, gpt1, small, tiny",
        ),
        ("pretrain data", "gpt1 pretrain: missing --out: run folder to write"),
        ("pretrain --out r", "gpt1 pretrain: missing DATA: folder written by `gpt1 prepare`"),
        ("pretrain data more --out r", "gpt1 pretrain: unexpected argument 'more'"),
        ("finetune run a.csv --out r", "gpt1 finetune: unexpected argument 'a.csv'; did you mean --train a.csv?"),
        ("pretrain data --out", "gpt1 pretrain: --out: expected one argument"),
        ("explain run", "gpt1 explain: missing TEXT: the text to explain"),
        (
            "generate run --stream --json",
            "gpt1 generate: --stream prints words at once, --json one document at the end; give one of them",
        ),
        (
            "predict run a.csv --out - --json",
            "gpt1 predict: --out - prints rows at once, --json one document at the end; give one of them",
        ),
    ],
)
def test_one_line_with_the_nearest_name(line: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *line.split()) == answer


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["pretrain", "data", "--out", ""], "--out"),
        (["prepare", "", "--out", "data"], "INPUT"),
        (["explain", "run", ""], "TEXT"),
    ],
)
def test_what_must_be_given_is_not_empty(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As where a variable of the shell is not set: an empty path would mean the folder one stands in."""
    assert refused(capsys, *words).startswith(f"gpt1 {words[0]}: {name} is empty: ")


def test_one_line_where_progress_was_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    answer = refused(capsys, "prepare", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"))
    assert answer.startswith(f"gpt1 prepare: {tmp_path / 'a.txt'}:1: byte 3 (0xe9) is not utf-8 text")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("learning_rate: 3", "learning_rate is optim.lr here"),
        ("batch-size: 3", "batch-size is batch here"),
        ("resume: auto", "unknown setting resume; to resume a stopped run, repeat its command"),
        ("stpes: 3", "unknown setting stpes; did you mean steps?"),
        ("optim: {lrr: 3}", "unknown setting optim.lrr; did you mean optim.lr?"),
        ("steps: many", "steps: expected a whole number, 0 or more, not 'many'"),
        ("fresh: 1", "fresh: expected true or false, not 1"),
        ("just words", "expected settings, one `name: value` per line"),
        ("a: [", "while parsing"),
        ("out: 2024-99-99", "month must be in 1..12"),
        ("optim: {lr: 1" + "0" * 400 + "}", "optim.lr: expected a number, 0 or more, not 10"),
        ("seed: 1" + "0" * 5000, "Exceeds the limit"),
        ("optim: &again {lr: *again}", "its values are nested too deeply"),
        ("a: " + "[" * 5000, "its values are nested too deeply"),
    ],
)
def test_a_wrong_settings_file(text: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(text)
    line = refused(capsys, "pretrain", "data", "--out", "r", "--config", str(tmp_path / "run.yaml"))
    assert line.startswith(f"gpt1 pretrain: --config {tmp_path / 'run.yaml'}: ")
    assert answer in line


def test_the_names_of_other_programs_lead_to_ours() -> None:
    ours = {key for verb in COMMANDS.values() for key in options(verb.settings)}
    assert {key for keys in OTHER_NAMES.values() for key in keys} <= ours | {"random_state"}, "or of the estimators"
    for verb in COMMANDS.values():
        known = {option.flag.lstrip("-"): key for key, option in options(verb.settings).items()}
        for name, keys in OTHER_NAMES.items():
            assert name not in known or known[name] in verb.positionals or known[name] not in keys


def test_a_missing_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "info", "x", "--config", "none.yaml") == "gpt1 info: --config none.yaml: no such file"


def test_a_switch_with_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "info", "x", "--json=1") == "gpt1 info: --json: takes no value, not '1'"


# How a run can end


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("rows.csv:3: no label"), 2, "rows.csv:3: no label"),
        (RunFailed("the loss is not a number"), 1, "the loss is not a number"),
        (OSError(28, "No space left on device", "run/model"), 1, "No space left on device: run/model"),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 2, "No such file or directory: x.csv"),
        (MemoryError(), 1, "out of memory; close other programs, or process less at once"),
        (KeyboardInterrupt(), 130, "stopped"),
        (KeyboardInterrupt("stopped after update 5"), 130, "stopped after update 5"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    job("info", error)
    assert main(["info", "x"]) == code
    assert capsys.readouterr() == ("", f"gpt1 info: {message}\n")


def test_a_mistake_of_ours_is_not_hidden(job: Job) -> None:
    job("info", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["info", "x"])


# As a program


def program(*argv: str | bytes, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpt1", *argv], capture_output=True, text=True, encoding="utf-8", timeout=60, **how
    )


def test_help_is_printed_by_one_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for words in ([], ["--help"], ["--version"], ["pretrain", "--help"], ["prepare", "--help"]):
        monkeypatch.setenv("RANK", "0")
        assert main(words) == 0
        assert capsys.readouterr().out
        monkeypatch.setenv("RANK", "1")
        assert main(words) == 0
        assert not capsys.readouterr().out


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words, same in ((["help"], ["--help"]), (["help", "plan"], ["plan", "--help"])):
        assert main(words) == main(same) == 0
        pages = capsys.readouterr().out
        assert pages == 2 * pages[: len(pages) // 2]


def test_help_answers_before_torch_is_imported() -> None:
    script = (
        "import sys; from gpt1.cli.main import main; main(['pretrain', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60).returncode == 0


def test_the_program_ends_with_the_exit_code() -> None:
    done = program("info", "no-such-folder")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpt1 info: no-such-folder: no such folder or file\n"


def test_a_pipe_that_speaks_another_encoding_gets_utf8(tmp_path: Path) -> None:
    done = program("info", str(tmp_path / "żółw"), env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert "żółw: no such folder" in done.stderr


@only_linux_names
def test_a_name_that_is_not_utf8_is_shown_with_an_escape() -> None:
    done = program("info", os.fsencode(f"/no/{NOT_UTF8}"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpt1 info: /no/caf\\xe9: no such folder or file\n"


@only_linux_names
def test_such_a_name_everywhere_a_person_reads_it(tmp_path: Path) -> None:
    """In errors of the operating system, tables and lines; JSON keeps the name that Python has."""
    (tmp_path / NOT_UTF8).mkdir()
    (tmp_path / NOT_UTF8 / "a.csv").write_text("text\n" + "a cat and a dog\n" * 20)
    name, out = (os.fsencode(f"{NOT_UTF8}/{end}") for end in ("a.csv", "data"))
    done = program("info", name, cwd=tmp_path)
    assert (done.returncode, "caf\\xe9/a.csv" in done.stdout) == (0, True)
    assert json.loads(program("info", name, "--json", cwd=tmp_path).stdout)["path"] == f"{NOT_UTF8}/a.csv"
    done = program("prepare", name, "--out", out, "--vocabulary", "262", cwd=tmp_path)
    assert (done.returncode, "caf\\xe9/data" in done.stdout) == (0, True)
    done = program("prepare", os.fsencode(f"{NOT_UTF8}/no.txt"), "--out", out, cwd=tmp_path)
    assert (done.returncode, "caf\\xe9/no.txt: no such" in done.stderr) == (2, True)
    for text in (done.stdout, done.stderr):
        assert "udce9" not in text
    assert str(UserError(f"{NOT_UTF8}: wrong, {NOT_UTF8!r} too")) == "caf\\xe9: wrong, 'caf\\xe9' too"


@pytest.mark.skipif(sys.platform == "win32", reason="standard streams are closed differently there")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    done = subprocess.run(f"{sys.executable} -m gpt1 --version {closed}", shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    wrong = subprocess.run(f"{sys.executable} -m gpt1 predict {closed}", shell=True, capture_output=True, timeout=60)
    assert (wrong.returncode, wrong.stdout) == (2, b"")


BUFFERED = os.environ | {"PYTHONUNBUFFERED": ""}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_standard_output_is_noticed() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpt1", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
            env=BUFFERED,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "gpt1: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently there")
def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m gpt1 --help | (exec 0<&-; sleep 1)"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, timeout=60, env=BUFFERED)
    assert done.stderr == ""


def test_threads_that_no_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", ".", "--threads", "100000"]) == 2
    assert "--threads 100000 must be from 0 (every core) to" in capsys.readouterr().err


def test_standard_input_that_is_no_text() -> None:
    line = [sys.executable, "-m", "gpt1", "generate", "run", "-"]
    done = subprocess.run(line, input=b"x\xff", capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"standard input is not UTF-8" in done.stderr
