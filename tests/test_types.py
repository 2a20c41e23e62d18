"""Programs of users pass a strict type checker, and it finds their mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
RIGHT = """
from pathlib import Path

import gpt1

run = gpt1.load("runs/books")
text: str = run.generate("Once", max_new_tokens=5).text
texts: list[str] = [sample.text for sample in run.generate(["Once", "Twice"])]
for piece in run.generate("Once", stream=True):
    print(piece.upper())

prepared = gpt1.prepare(Path("books.txt"), out=Path("data"))
tokens: int = prepared.tokens
gpt1.pretrain("data", out="run", minutes=2, model={"width": 64})
result = gpt1.finetune("runs/books", train="train.csv", out="runs/mine", epochs=3)
loss: float = result.loss
again = gpt1.finetune(gpt1.config.Finetune(run="runs/books", train="train.csv", out="runs/mine"))
rows = gpt1.predict("runs/mine", "new.csv").predictions or []
print(rows[0]["predicted_label"], result["accuracy"], again.seconds)

classifier = gpt1.Classifier("runs/books", class_weights={"spam": 5.0}).fit(["a", "b"], ["spam", "ham"])
labels: list[str] = classifier.predict(["a"]).tolist()
classifier.save("runs/mine")
classes = gpt1.Classifier.load("runs/mine", device="cpu").classes_
"""
WRONG = """
import gpt1

gpt1.finetun("runs/books")
loss: str = gpt1.finetune("runs/books", train="train.csv", out="runs/mine").loss
text: int = gpt1.load("runs/books").generate("Once").text
texts: list[int] = [sample.text for sample in gpt1.load("runs/books").generate(["Once"])]
classifier = gpt1.Classifier("runs/books", epochs="three")
"""


def told_by_mypy(script: str, folder: Path) -> list[str]:
    """What `mypy --strict` says of a script that imports this checkout, errors of the checkout left out."""
    path = folder / "script.py"
    path.write_text(script, encoding="utf-8")
    words = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports",
        "silent",
        "--cache-dir",
        str(folder),
        str(path),
    ]
    asked = os.environ | {"MYPYPATH": str(SOURCE)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=asked, cwd=folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
def test_a_strict_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert told_by_mypy(RIGHT, tmp_path) == []
    wrong = [line.split(":")[1] for line in told_by_mypy(WRONG, tmp_path)]
    assert wrong == ["4", "5", "6", "7", "8"]


def test_the_package_says_that_it_has_types() -> None:
    assert (SOURCE / "gpt1" / "py.typed").exists()
    assert '"gpt1" = ["py.typed"]' in (SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8")
