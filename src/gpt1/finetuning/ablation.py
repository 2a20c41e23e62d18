"""The models of an ablation and their scores, in a file from which it goes on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt1.config import Ablate
from gpt1.data.journal import sha256_of
from gpt1.data.tables import table
from gpt1.errors import UserError
from gpt1.finetuning.defaults import FREE, check_same, sources
from gpt1.run_folder.metadata import FORMAT, read_json
from gpt1.storage import write_json

Place = tuple[int, str, int]
"""Number of training rows, variant and seed of a model."""
MAY_CHANGE = FREE | {"sizes", "seeds", "test"}
"""Settings that may differ when a table is taken up again; of files the content counts."""


@dataclass(frozen=True)
class Cell:
    """One model: its place in the table, and what it scored."""

    rows: int
    variant: str
    seed: int
    lr: float
    metrics: dict[str, float]

    @property
    def place(self) -> Place:
        """Where it stands in the table."""
        return self.rows, self.variant, self.seed


@dataclass(frozen=True)
class Record:
    """The models made so far, in the file `settings.out` if one is asked for."""

    settings: Ablate
    made_from: dict[str, dict[str, Any]]
    cells: dict[Place, Cell]

    def add(self, cell: Cell) -> None:
        """Keep one more model; the file is whole after each."""
        self.cells[cell.place] = cell
        self._write({})

    def finish(self, result: dict[str, Any]) -> None:
        """Put the table itself beside the models, for `gpt1 report`."""
        self._write({"result": result})

    def _write(self, more: dict[str, Any]) -> None:
        if self.settings.out:
            cells = [asdict(cell) for cell in self.cells.values()]
            content = {"format": FORMAT, "settings": asdict(self.settings), "data": self.made_from, "cells": cells}
            write_json(self.settings.out, content | more)


def begin(settings: Ablate) -> Record:
    """What an earlier run of the same command left. Raises UserError if `settings.out` holds anything else."""
    made_from = sources(settings)
    if settings.test:
        path = table(settings.test).path
        made_from["test"] = {"path": str(path), "sha256": sha256_of(path)}
    out = Path(settings.out)
    if settings.fresh or not settings.out or not out.exists():
        return Record(settings, made_from, {})
    found = read_json(out)
    if not {"cells", "data", "settings"} <= found.keys():
        raise UserError(f"{out} is no table of `gpt1 ablate`; choose another --out")
    check_same(settings, made_from, found["settings"], found["data"], "made", MAY_CHANGE)
    cells = [Cell(**values) for values in found["cells"]]
    return Record(settings, made_from, {cell.place: cell for cell in cells})
