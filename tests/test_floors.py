"""The walls of the house: a package imports only those above it in the list, wherever the statement stands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.cli.main import COMMANDS

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

# Single files that every package may import; they may import each other.
GROUND = {
    "config",
    "batch",
    "errors",
    "options",
    "storage",
    "console",
    "resume",
    "torchrun",
    "results",
    "keywords",
    "object_store",
    "mirror",
    "remote",
}
PACKAGES = [
    "tokenizer", "model", "data", "training", "tasks", "run_folder", "pretraining", "finetuning", "conversion", "pages",
    "serving", "commands", "estimators", "cli", "__init__", "__main__",
]  # fmt: skip
FLOORS = dict.fromkeys(GROUND, 0) | {name: floor for floor, name in enumerate(PACKAGES, 1)}

# Packages, and what they must not import even though it is above them.
NEVER = [("tokenizer", "torch"), ("model", "tokenizers"), ("model", "gpt1.tokenizer"), ("data", "gpt1.model")]
WITHOUT_TORCH = [
    "gpt1", "gpt1.config", "gpt1.cli.main", "gpt1.tokenizer.tokenizer", "gpt1.tokenizer.train_bpe",
    "gpt1.tokenizer.bulk", "gpt1.tokenizer.clean", "gpt1.data.shards", "gpt1.data.documents", "gpt1.commands.prepare",
    "gpt1.commands.info", "gpt1.commands.report", "gpt1.cli.paths",
]  # fmt: skip


def room(module: str) -> str:
    """`model` for `gpt1.model.gpt`; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> set[str]:
    """Every gpt1 module that a file imports, wherever the statement stands; relative imports are refused."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            whole = node.module == "gpt1"
            found |= {f"gpt1.{a.name}" for a in node.names if a.name[0] != "_"} if whole else {str(node.module)}
    return {name for name in found if name.split(".")[0] == "gpt1"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def test_every_file_has_a_floor() -> None:
    homeless = [str(path) for path in FILES if room(module_of(path)) not in FLOORS]
    assert not homeless, f"name their floor in test_floors.py: {homeless}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_lower_floors_or_its_own_folder(path: Path) -> None:
    here = room(module_of(path))
    for module in imported(path):
        there = room(module)
        allowed = there == here or FLOORS[there] < FLOORS[here] or (here in GROUND and there in GROUND)
        assert allowed, f"{module_of(path)} imports {module}, which stands below it in the list of packages"


@pytest.mark.parametrize("path", sorted((SOURCE / "gpt1" / "commands").rglob("*.py")), ids=module_of)
def test_commands_share_what_stands_above_them(path: Path) -> None:
    """Only the demo, which tells the whole story, is made of other commands."""
    here, verbs = module_of(path), {f"gpt1.commands.{name}" for name in COMMANDS}
    if here != "gpt1.commands.demo":
        assert not imported(path) & verbs, f"{here} imports a command; move what it needs into a package above"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_starts_without_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit(bool({{'torch', 'sklearn', 'scipy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr or f"{module} imports torch, scikit-learn or scipy"


@pytest.mark.parametrize(("package", "foreign"), NEVER)
def test_packages_that_never_meet(package: str, foreign: str) -> None:
    for path in (SOURCE / "gpt1" / package).glob("*.py"):
        assert f"import {foreign}" not in (source := path.read_text(encoding="utf-8")), path
        assert f"from {foreign}" not in source, path


def test_tests_are_laid_out_as_the_tree() -> None:
    packages = {path.name for path in (SOURCE / "gpt1").iterdir() if path.is_dir() and path.name != "__pycache__"}
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= packages, f"no such packages: {folders - packages}"
