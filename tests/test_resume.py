"""The resume protocol: the first difference is named, and one process at a time holds a folder."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import one_line
from gpt1.errors import UserError
from gpt1.resume import LOCK, Record, hold


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1


@dataclass(frozen=True)
class Settings:
    out: str = "run"
    epochs: int | None = None
    optim: Inner = field(default_factory=Inner)


def test_the_same_request_continues_wherever_it_is_written(tmp_path: Path) -> None:
    began = Record.of(Settings(), {"train": "a"})
    began.write(tmp_path / "record.json")
    found = Record.read(tmp_path / "record.json")
    assert found == began
    found.check(Record.of(Settings(out="elsewhere"), {"train": "a"}), "run")
    assert found.fingerprint() == Record.of(Settings(out="elsewhere"), {"train": "a"}).fingerprint()
    assert Record.read(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("now", "inputs", "words"),
    [
        (Settings(optim=Inner(0.2)), {"train": "a"}, "optim.lr 0.1, not 0.2"),
        (Settings(epochs=3), {"train": "a"}, "epochs nothing, not 3"),
        (Settings(), {"train": "b"}, "other content of train"),
        (Settings(), {"train": "a", "valid": "c"}, "other content of valid"),
    ],
)
def test_another_request_is_refused_by_its_difference(now: Settings, inputs: dict[str, str], words: str) -> None:
    with one_line("run was begun with", words, "fresh"):
        Record.of(Settings(), {"train": "a"}).check(Record.of(now, inputs), "run")


def test_the_command_line_names_flags() -> None:
    with pytest.raises(UserError) as caught:
        Record.of(Settings(), {}).check(Record.of(Settings(optim=Inner(0.2)), {}), "run")
    assert "--optim.lr 0.1, not 0.2" in caught.value.as_flags()
    assert "start over with --fresh" in caught.value.as_flags()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    with one_line("record.json is damaged", "fresh"):
        Record.read(tmp_path / "record.json")


OTHER = "import sys; from gpt1.resume import hold\nwith hold(sys.argv[1]): print('held')"


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", OTHER, str(tmp_path / "run")], capture_output=True, text=True)

    with hold(tmp_path / "new" / "folders"):
        pass
    assert not (tmp_path / "new").exists(), "empty folders above it too"
    with hold(tmp_path / "run"):
        refused = other()
        assert refused.returncode != 0
        assert "is in use by process" in refused.stderr
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert not (tmp_path / "run").exists(), "an empty folder is removed again"
    with hold(tmp_path / "new" / "er" / "run"):
        pass
    assert not (tmp_path / "new").exists(), "and those above it that were made for it"
    assert other().stdout == "held\n"


def test_nothing_stays_of_a_folder_that_was_not_filled(tmp_path: Path) -> None:
    """Also where its name leads through a folder that is made for it, or through a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = sorted(tmp_path.rglob("*"))
    for place in ("a/b", "new/../run", "link/../run", "link/new/../run", "link/run"):
        with suppress(UserError), hold(tmp_path / place):
            raise UserError("rows.csv:3: no label")
        assert sorted(tmp_path.rglob("*")) == before, place
