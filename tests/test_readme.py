"""The README is a tested map: its commands run, its Python runs, its tree is the tree."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gpt1.cli.arguments import parse
from gpt1.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of every `gpt1` command in a `sh` block, in order."""
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [words for words in lines if words and words[0] == "gpt1"]


def quicker(words: list[str]) -> list[str]:
    """The same command with less time to train."""
    if words[1] == "ablate":
        return [*words, "--seeds", "1", "--epochs", "1"]
    return [*words[: words.index("--minutes")], "--steps", "8"] if "--minutes" in words else words


@pytest.fixture
def after_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `gpt1 demo` leaves it, with a shorter corpus and the README beside."""
    from gpt1.commands.demo import write_files

    write_files(tmp_path / "gpt1-demo")
    corpus = tmp_path / "gpt1-demo" / "corpus.jsonl"
    lines = corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    corpus.write_text("".join(lines[::10]), encoding="utf-8")
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_life_cycle_and_the_python_run(after_the_demo: Path) -> None:
    for words in commands():
        assert main(quicker(words)[1:]) == 0, shlex.join(words)
    for block in blocks("python"):
        exec(block, {})


def test_the_life_cycle_uses_every_command() -> None:
    """All but the one that is the life cycle, the one for models of others, which the demo has not, and the server."""
    assert {words[1] for words in commands()} == set(COMMANDS) - {"demo", "convert", "serve"}


def test_the_lines_of_convert_are_read_as_meant() -> None:
    """They ask for what is not here, so they end with the line that says so."""
    lines = [line.partition("   ")[0] for block in blocks("text") for line in block.splitlines() if "convert" in line]
    found = [parse(COMMANDS["convert"].settings, COMMANDS["convert"].positionals, line.split()[2:]) for line in lines]
    assert [line.given["src"] for line in found][1:] == ["openai-community/openai-gpt", "runs/openai"]
    assert [line.given.get("to") for line in found] == [None, None, "openai"]


def test_the_lines_behind_make_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    makefile = makefile.replace("$(BIN)", ".venv/bin").replace("$(PYTHON)", "python3")
    (lines,) = (block.splitlines() for block in blocks("sh") if "pip install" in block)
    for line in lines:
        assert f"\t{line}\n" in makefile, line
    (windows,) = (block.splitlines() for block in blocks("powershell"))
    as_posix = [line.replace("py -3 ", "python3 ").replace(".venv\\Scripts\\", ".venv/bin/") for line in windows]
    assert [line.replace('"', "'") for line in as_posix] == lines


def test_the_tree_is_the_tree() -> None:
    (tree,) = (block for block in blocks("text") if "src/gpt1/" in block)
    named, folder = set(), ROOT
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        folder = folder if indent else ROOT
        path = folder / name
        assert path.exists(), f"{name} is in the README's tree but not in the checkout"
        folder = path if not indent and path.is_dir() else folder
        named.add(path)
    package = ROOT / "src" / "gpt1"
    present = {path for path in package.iterdir() if path.name not in ("__pycache__", "__main__.py")}
    missing = {path.name for path in present - named if path.is_file() or any(path.glob("*.py"))}
    assert not missing, f"in src/gpt1 but not in the README's tree: {missing}"
