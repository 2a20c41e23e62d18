"""A wrong path is answered in one line before torch is imported, whatever the command and the setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import one_line
from gpt1.cli.main import COMMANDS, main
from gpt1.cli.paths import CHECKS, check_paths
from gpt1.config import Columns, Pretrain, pretrain_defaults
from gpt1.data.shards import Manifest, Split, write_manifest
from gpt1.options import options
from gpt1.run_folder.metadata import RunMetadata

SHAPE = {"model_type": "openai-gpt", "n_positions": 16, "vocab_size": 40, "n_embd": 8, "n_layer": 2, "n_head": 2}
SHAPE |= {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
# What a path must lead to: what leads to it in the folder below, and what does not, with a part of the answer.
RIGHT = {
    "a run": "pretrained", "a run, perhaps named": "a=pretrained",
    "a pre-trained run": "pretrained", "a fine-tuned run": "finetuned", "prepared data": "data",
    "a table or splits": "rows.csv", "a table": "rows.csv", "a table or texts": "rows.csv",
    "a table or text file": "rows.csv", "text files": "a.txt", "a model": "pretrained",
    "a path": "pretrained", "a table to write": "new.csv", "vectors to write": "new.npy", "a page to write": "new.html",
}  # fmt: skip
WRONG = {
    "a run": {"nosuch": "no such run folder", "data": "is prepared data, not a run"},
    "a run, perhaps named": {"a=nosuch": "no such run folder", "data": "is prepared data, not a run", "=a": "NAME=RUN"},
    "a pre-trained run": {"nosuch": "no such run folder", "finetuned": "already fine-tuned", "hf": "gpt1 convert hf"},
    "a fine-tuned run": {"nosuch": "no such run folder", "pretrained": "is pre-trained, not fine-tuned"},
    "prepared data": {"nosuch": "no manifest.json", "pretrained": "is a run"},
    "a table or splits": {"nosuch.csv": "no such file", "pretrained": "a folder, but not of a dataset"},
    "a table": {"nosuch.csv": "no such file", "a.txt": "not a known kind of table"},
    "a table or texts": {"nosuch.csv": "no such file; if it is a text", "no/such": "no such file", "a.txt": "not a kn"},
    "a table or text file": {"nosuch.txt": "no such file", "pretrained": "a folder"},
    "text files": {"nosuch": "no such file or folder", "*.nosuch": "no file matches"},
    "a model": {"nosuch": "no such folder", "a.txt": "this is a file"},
    "a new folder": {"a.txt": "is a file", "pretrained": "holds something else"},
    "prepared data to write": {"a.txt": "is a file", "a.txt/x": "a.txt is a file"},
    "a demo to write": {"a.txt": "is a file", "data": "holds something other than a demo"},
    "a pre-trained run to write": {"finetuned": "holds a fine-tuned run", "data": "not empty and holds no run"},
    "a fine-tuned run to write": {"pretrained": "holds a pre-trained run", "data": "which `gpt1 finetune` did not"},
    "an ablation to write": {"finetuned/gpt1.json": "was not written by `gpt1 ablate`", "a.txt": "damaged"},
    "a table to write": {"new.xlsx": "must end in one of", "a.txt/new.csv": "a.txt is a file"},
    "vectors to write": {"new.txt": "must end in one of", "a.txt/new.npy": "a.txt is a file"},
    "a page to write": {"pretrained": "is a folder", "new.txt": "ends in .html", "a.txt/x.html": "a.txt is a file"},
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with small things of each kind; their weights are never read."""
    finetuned = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["a", "b"], columns=Columns(["text"], ["y"])
    )
    for folder, metadata in (("pretrained", RunMetadata(kind="pretrained")), ("finetuned", finetuned), ("hf", None)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(SHAPE))
        for name in ("tokenizer.json", "model.safetensors"):
            (tmp_path / folder / name).write_text("{}")
        if metadata:
            (tmp_path / folder / "gpt1.json").write_text(json.dumps(metadata.to_json()))
    made = Manifest(
        tokenizer="", kind="bytes", lossless=True, vocabulary=300, dtype="uint16", train=Split(), val=Split(),
        empty_documents=0, unknown_tokens=0, inputs=[], settings={}, fingerprint="", seconds={},
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    write_manifest(tmp_path / "data", made)
    (tmp_path / "rows.csv").write_text("text,y\na,b\n")
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines() -> list[tuple[list[str], str]]:
    """For each command and each of its paths, command lines in which only that path is wrong, and the answers."""
    found = []
    for verb, command in COMMANDS.items():
        paths = {key: option for key, option in options(command.settings).items() if option.path_kind}
        required = {key: RIGHT.get(option.path_kind, "new") for key, option in paths.items()}
        for wrong in paths:
            for value, answer in WRONG.get(paths[wrong].path_kind, {}).items():
                words = [verb]
                for key, option in paths.items():
                    given = value if key == wrong else required[key]
                    words += [given] if key in command.positionals else [option.flag, given]
                words += {"explain": ["a text"]}.get(verb, [])
                found.append((words, answer))
    return found


def test_every_path_is_declared_and_checked() -> None:
    declared = {option.path_kind for verb in COMMANDS.values() for option in options(verb.settings).values()} - {""}
    assert declared - {"a path"} == set(CHECKS) | {"a page to write"} == set(WRONG), "a path: by the command itself"


def test_before_torch_is_imported(place: Path) -> None:
    script = """if True:
        import contextlib, io, json, sys
        from gpt1.cli.main import main
        for words in json.load(sys.stdin):
            with contextlib.redirect_stderr(err := io.StringIO()), contextlib.redirect_stdout(out := io.StringIO()):
                code = main(words)
            print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
    """
    cases = lines()
    given = json.dumps([words for words, _ in cases])
    before = sorted(place.rglob("*"))
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stderr
    for (words, answer), (code, out, err, torch_imported) in zip(cases, found, strict=True):
        assert (code, out, err.count("\n"), torch_imported) == (2, "", 1, False), (words, err)
        assert answer in err, (words, err)
    assert sorted(place.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize("verb", ["prepare", "pretrain", "finetune", "convert", "demo", "predict", "report"])
def test_a_folder_that_is_not_writable(verb: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything is writable, so the answer of the system is replaced."""
    (place / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    command = COMMANDS[verb]
    out = "locked/new" + {"predict": ".csv", "report": ".html"}.get(verb, "")
    known = options(command.settings)
    values = {key: RIGHT[known[key].path_kind] for key in command.positionals if known[key].path_kind}
    values = {key: [value] if known[key].is_list else value for key, value in values.items()} | {"out": out}
    values |= {"finetune": {"train": "rows.csv"}, "report": {"runs": ["pretrained"]}}.get(verb, {})
    with one_line("locked is not writable"):
        check_paths(command.settings(**values))


def test_what_is_right_passes(place: Path) -> None:
    check_paths(pretrain_defaults(data="data", out="new"))
    check_paths(pretrain_defaults(data="data", out="pretrained/../new"))
    with one_line("nosuch: no such run folder"):
        check_paths(Pretrain(data="data", out="new", init="nosuch"))


@pytest.mark.parametrize("text", ["a text", "either / or", "rows, or texts", "x" * 5000, "nul\0"])
def test_a_text_is_no_path(text: str, place: Path) -> None:
    check_paths(COMMANDS["predict"].settings(run="finetuned", input=text))


def test_a_model_of_the_hub_is_no_folder(place: Path) -> None:
    check_paths(COMMANDS["convert"].settings(src="openai-community/openai-gpt", out="new"))


def test_help_needs_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "nosuch", "--help"]) == 0
