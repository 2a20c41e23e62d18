"""The walls of the house: a file imports only lower floors or its own folder, at the top or inside a function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.cli import COMMANDS

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

FLOORS = {
    "config": 0, "batch": 0, "errors": 0, "options": 0, "storage": 0,
    "text": 1, "nn": 1,
    "data": 2, "train": 2,
    "jobs": 3,
    "arguments": 4, "estimators": 4,
    "cli": 5,
    "__main__": 6, "__init__": 6,
}  # fmt: skip
"""What stands under `gpt1`, and how high. Files of one floor that share no folder do not meet, but on floor 0."""

WITHOUT_TORCH = ["gpt1", "gpt1.config", "gpt1.cli", "gpt1.text.tokenizer", "gpt1.text.train", "gpt1.text.bulk"]
WITHOUT_TORCH += ["gpt1.text.repair", "gpt1.data.shards", "gpt1.data.sources", "gpt1.jobs.prepare", "gpt1.jobs.info"]
WITHOUT_TORCH += ["gpt1.jobs.report"]


def room(module: str) -> str:
    """`nn` for `gpt1.nn.model`; the package itself is `__init__`."""
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
        allowed = there == here or FLOORS[there] < FLOORS[here] or FLOORS[there] == FLOORS[here] == 0
        assert allowed, f"{module_of(path)} (floor {FLOORS[here]}) imports {module} (floor {FLOORS[there]})"


@pytest.mark.parametrize("path", sorted((SOURCE / "gpt1" / "jobs").rglob("*.py")), ids=module_of)
def test_verbs_share_what_stands_below_them(path: Path) -> None:
    """Only the demo, which tells the whole story, is made of other verbs."""
    here, verbs = module_of(path), {f"gpt1.jobs.{name}" for name in COMMANDS}
    if here != "gpt1.jobs.demo":
        assert not imported(path) & verbs, f"{here} imports a verb; move what it needs into a folder of jobs"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_starts_without_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr or f"{module} imports torch"


@pytest.mark.parametrize(("folder", "foreign"), [("text", "torch"), ("nn", "tokenizers"), ("data", "gpt1.nn")])
def test_siblings_do_not_meet(folder: str, foreign: str) -> None:
    for path in (SOURCE / "gpt1" / folder).glob("*.py"):
        assert f"import {foreign}" not in (source := path.read_text(encoding="utf-8")), path
        assert f"from {foreign}" not in source, path
