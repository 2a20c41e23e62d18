"""`starter` stands for an installed run wherever a run folder is asked for."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import gpt1
from conftest import one_line, save_random_run
from gpt1 import config
from gpt1.cli.main import main
from gpt1.config import Model
from gpt1.data.docstrings import topics
from gpt1.run_folder import starter
from gpt1.run_folder.starter import find_run

SIZE = Model(context=16, width=16, depth=1, heads=2, inner=64)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a random model in the starter's place; the working directory has no such folder."""
    package = tmp_path / "site" / "a_starter"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(starter, "PACKAGE", "a_starter")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.chdir(tmp_path)
    return save_random_run(package / "model", topics()[:3], 280, SIZE)


def test_commands_take_it(installed: Path, tmp_path: Path) -> None:
    for name, text in zip(("text.txt", "val.txt"), topics()[3:5], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([f"word {i}", "ab"[i % 2]] for i in range(12))])
    for line in (
        "info starter",
        "generate starter word --max-new-tokens 2",
        "explain starter word",
        "evaluate starter text.txt",
        "prepare text.txt --out data --tokenizer starter --val val.txt",
        "pretrain data --out more --init starter --preset tiny --steps 1",
        "convert starter --out copy",
        "finetune starter --train train.csv --out tuned --epochs 1",
        "ablate starter --train train.csv --sizes all --seeds 1 --epochs 1",
        "report starter",
    ):
        assert main(line.split()) == 0, line
    assert gpt1.load("more").metadata.init == "starter"
    assert "| started from | starter |" in (tmp_path / "more" / "README.md").read_text(encoding="utf-8")
    assert gpt1.info("more")["init"] == "starter"
    assert ">starter</h2>" in (tmp_path / "report.html").read_text(encoding="utf-8"), "not where it is installed"
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (installed / "model.safetensors").read_bytes()


def test_python_takes_it(installed: Path) -> None:
    assert gpt1.load("starter").metadata == gpt1.load(installed).metadata
    settings = config.Generate(run="starter", prompts=["a"], max_new_tokens=2)
    assert gpt1.generate(settings)["samples"]
    fitted = gpt1.Classifier("starter", epochs=1).fit(["a b", "c d"] * 4, ["x", "y"] * 4)
    assert set(fitted.predict(["a b"])) <= {"x", "y"}


def test_a_run_of_that_name_has_precedence(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_run("starter") == installed
    (tmp_path / "starter").mkdir()
    assert find_run("starter") == installed  # any other folder of that name
    assert find_run("./starter") == Path("starter")  # a path, not the name
    save_random_run(tmp_path / "starter", topics()[:3], 280, SIZE)
    assert not capsys.readouterr().err
    for _ in range(3):
        assert find_run("starter") == Path("starter")
    hidden = "which hides the starter model; rename that folder to use the starter"
    assert capsys.readouterr().err == f"starter is the run in {tmp_path / 'starter'}, {hidden}\n", "once"
    assert find_run(tmp_path / "other") == tmp_path / "other"


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starter, "PACKAGE", "no_such_starter")
    with one_line("the starter model is not installed", "pip install 'gpt1[starter]'"):
        gpt1.load("starter")


def test_the_shipped_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It loads in both programs, with equal logits, and predicts English."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(starter.PACKAGE, reason="gpt1-starter is not installed")
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, folder = gpt1.load("starter"), find_run("starter")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "It was a bright morning, and the children went down to the"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert ids == run.tokenizer.encode(text)
    with torch.inference_mode():
        ours = run.body.logits(run.body(torch.tensor([ids])))
        assert torch.allclose(ours, theirs(torch.tensor([ids])).logits, atol=2e-4)
        nats = F.cross_entropy(ours[0, :-1], torch.tensor(ids[1:])).item()
    assert nats < 5, "a uniform guess costs 9.2"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 32 * 2**20


def test_what_the_starter_is_built_from(installed: Path, tmp_path: Path) -> None:
    """A wrong run or wrong data is refused before anything is written over the model that is there."""
    script, out = Path(__file__).parents[2] / "starter/build.py", tmp_path / "built"
    for name, text in zip(("text.txt", "val.txt"), topics()[3:5], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main("prepare text.txt --out other --vocabulary 270 --val val.txt".split()) == 0
    for arguments, error in (
        (["nosuch"], "nosuch: no such run folder"),
        ([str(installed), "nosuch"], "nosuch: no manifest.json"),
        ([str(installed), "other"], "other was prepared with another tokenizer"),
    ):
        done = subprocess.run([sys.executable, script, *arguments, "--out", out], capture_output=True, text=True)
        assert done.returncode == 2 and error in done.stderr and "Traceback" not in done.stderr
        assert not out.exists()
    done = subprocess.run([sys.executable, script, installed, "--out", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert find_run(out) == out and gpt1.load(out).metadata == gpt1.load(installed).metadata
