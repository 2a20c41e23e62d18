"""`gpt1 ablate`: how much pre-training, the auxiliary loss and more labels contribute (the paper, table 5)."""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from gpt1.config import Ablate
from gpt1.console import say, warn
from gpt1.data.tables import TableOptions
from gpt1.errors import UserError, setting
from gpt1.finetuning.ablation import VARIANTS, Cell, CellKey, fit_cell, guess, with_sample
from gpt1.finetuning.defaults import MEMORY_REMEDY, FitOptions, check_base, check_options
from gpt1.finetuning.examples import (
    TaskRows,
    check_read,
    input_hashes,
    joint_hash,
    read_rows,
    source_files,
    text_to_read,
    with_splits,
)
from gpt1.keywords import command
from gpt1.pages.report import HEADINGS
from gpt1.remote import publish
from gpt1.results import Result
from gpt1.resume import RUNTIME_SETTINGS, Record
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.metadata import FORMAT, Source
from gpt1.run_folder.places import read_ablation
from gpt1.storage import write_json
from gpt1.tasks.metrics import over_seeds
from gpt1.tasks.rows import LabelledRows, check_labels, read_labelled_rows, warn_of_overlap
from gpt1.training import checkpoint, parallel
from gpt1.training.device import out_of_memory, setup_device

if TYPE_CHECKING:
    from gpt1.pretraining.continued import UnlabelledText

# Settings that may change when a table is continued: those that add models, and names of files, which are
# compared by content.
MAY_CHANGE = RUNTIME_SETTINGS | {"run", "train", "valid", "read", "test", "sizes", "seeds"}


@dataclass(frozen=True)
class VariantScores(Result):
    """The models of one variant and number of rows, over seeds."""

    lr: float
    """learning rate"""
    metrics: dict[str, Any]
    """mean, deviation and values of each metric"""


@dataclass(frozen=True)
class AblationLine(Result):
    """One number of training rows."""

    rows: int
    """training rows"""
    guess: dict[str, Any]
    """metrics of always guessing the most frequent class, or the mean"""
    words_alone: dict[str, Any]
    """mean, deviation and values of each metric of words alone: TF-IDF and a linear model, fitted on the same rows"""
    full: VariantScores
    """fine-tuned as `gpt1 finetune` does"""
    no_lm: VariantScores
    """without the auxiliary language-model loss"""
    from_scratch: VariantScores
    """without pre-training"""


@dataclass(frozen=True)
class AblateResult(Result):
    """What `gpt1 ablate` prints: the paper's table 5 for these rows."""

    metric: str
    """the metric that the table shows"""
    scored_on: str
    """the file of the scored rows, or `validation`"""
    n: int
    """rows that are scored"""
    seeds: int
    """models per cell of the table"""
    with_words: bool
    """whether each model adds the scores of words alone"""
    table: list[AblationLine]
    """a line for each number of training rows"""


@command(Ablate, "run")
def ablate(settings: Ablate) -> AblateResult:
    """Fine-tune with and without pre-training and the auxiliary loss, over sizes and seeds.

    Without pre-training the network, the updates and the rows are the same; the first seed tries three learning rates
    and the others take the best. Processes that `torchrun` started share each batch out. Raises UserError for wrong
    settings or rows.
    """
    with parallel.join(settings.device) as world:
        settings = with_splits(settings)
        options = _checked_options(settings)
        with parallel.hold(settings.out, file=True) if settings.out else nullcontext():
            text = text_to_read(settings)
            kept = world.from_main(lambda: _open_table(settings, text.sources() if text else []))
            return _fill_table(settings, options, text, kept)


def show(result: AblateResult) -> RenderableType:
    """Return the table: numbers of training rows down, variants across; mean and deviation over seeds."""
    metric = result.metric
    out = Table(title=f"ablate: {metric}", title_justify="left")
    for name in ("rows", "guess", "words alone", *HEADINGS.values(), "at rate"):
        out.add_column(name, justify="right", no_wrap=True)
    for line in result.table:
        each = [_mean(line[variant].metrics[metric]) for variant in VARIANTS]
        words = _mean(line.words_alone[metric])
        out.add_row(f"{line.rows:,}", f"{line.guess[metric]:.3f}", words, *each, f"{line.from_scratch.lr:.3g}")
    out.caption = (
        f"on {result.n:,} rows of {result.scored_on}; {result.seeds} seed{'s' * (result.seeds > 1)}; "
        "guess: always the most frequent; words alone: TF-IDF and a linear model"
    )
    if won := [
        f"{line.rows:,}"
        for line in result.table
        if line.words_alone[metric]["mean"] > line.full.metrics[metric]["mean"]
    ]:
        out.caption += f", which do better than full on {', '.join(won)} training rows"
    if result.with_words:
        out.caption += "; each other model with the scores of words alone added to its own"
    return out


@dataclass(frozen=True)
class _KeptTable:
    """The models made so far, in the file `settings.out` if there is one."""

    settings: Ablate
    data: dict[str, Source]
    """the inputs"""
    cells: dict[CellKey, Cell]

    def states(self, *key: object) -> Path | None:
        """Return the folder of the training states of the model being made, or of all; None without a file."""
        return Path(f"{self.settings.out}.stopped", "-".join(map(str, key))) if self.settings.out else None

    def add(self, cell: Cell) -> None:
        """Keep one more model, and its training states no longer."""
        self.cells[cell.key] = cell
        self.write()
        self.remove_states()

    def remove_states(self) -> None:
        """Remove the training states of all models; with several processes, only rank 0 does."""
        if parallel.is_main() and (folder := self.states()):
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, result: AblateResult | None = None) -> None:
        """Write the models, and at the end the table itself, which `gpt1 report` draws."""
        if self.settings.out and parallel.is_main():
            content = {
                "format": FORMAT,
                "settings": dataclasses.asdict(self.settings),
                "data": {name: source.to_json() for name, source in self.data.items()},
                "cells": [dataclasses.asdict(cell) for cell in self.cells.values()],
            }
            write_json(self.settings.out, content | ({"result": result.to_json()} if result else {}))
            publish(Path(self.settings.out))


def _open_table(settings: Ablate, read: list[Source]) -> _KeptTable:
    """Return what an earlier run of the same command left, nothing with `fresh`.

    Raises UserError if the file holds anything else, which is never replaced.
    """
    data = source_files(settings.run, settings.train, settings.valid, settings.test)
    if read:
        data["read"] = Source(path=", ".join(str(source.path) for source in read), sha256=joint_hash(read))
    out = Path(settings.out)
    found = read_ablation(out) if settings.out and out.exists() else None
    if settings.fresh or found is None:
        kept = _KeptTable(settings, data, {})
        kept.remove_states()
        return kept
    began = Record(found["settings"], input_hashes({name: Source(**one) for name, one in found["data"].items()}))
    began.check(Record.of(settings, input_hashes(data)), out, MAY_CHANGE)
    cells = [Cell(**values) for values in found["cells"]]
    return _KeptTable(settings, data, {cell.key: cell for cell in cells})


def _fill_table(settings: Ablate, options: FitOptions, text: "UnlabelledText | None", kept: _KeptTable) -> AblateResult:
    """Fit and score the models that are not kept yet, after reading the unlabelled text; return the table."""
    rows = read_rows(settings)
    scored = _scored_rows(settings, rows)
    sizes = _sizes(settings.sizes, len(rows.train))
    seeds = range(settings.seed, settings.seed + settings.seeds)
    for size, seed in product(sizes, seeds):
        with_sample(rows, size, seed)  # refuses an impossible size now, not after an hour
    device, dtype = setup_device(settings)
    base = load_run(settings.run)
    possible = rows.label_type.selection_metrics
    metric = settings.select if settings.select in possible else possible[0]
    keys: list[CellKey] = list(product(sizes, VARIANTS, seeds))
    if text and not kept.cells.keys() >= set(keys):
        from gpt1.pretraining.continued import read_first  # here, since it imports all that pre-trains

        world = parallel.current()
        with TemporaryDirectory() as own:
            work = Path(world.from_main(lambda: own))
            base, _ = read_first(
                base, settings.run, text, work, epochs=settings.read_epochs, lr=settings.read_lr, on=settings
            )
            world.barrier()  # for those that still load what was trained there
    lrs: dict[tuple[int, str], float] = {}
    for number, key in enumerate(keys, 1):
        size, variant, seed = key
        if (cell := kept.cells.get(key)) is None:
            at_lr = dataclasses.replace(options, lr=lrs.get((size, variant), options.lr))
            with out_of_memory(MEMORY_REMEDY), _resumable(kept):
                cell = fit_cell(base, rows, scored, at_lr, key, device=device, dtype=dtype, folder=kept.states(*key))
            shown = f"{metric} {cell.metrics[metric]:.4f}"
            say(f"{number} of {len(keys)}: {size:,} rows, {HEADINGS[variant]}, seed {seed}: {shown}")
            kept.add(cell)
        lrs.setdefault((size, variant), cell.lr)
    lines = [_line(rows, scored, size, [kept.cells[key] for key in keys if key[0] == size]) for size in sizes]
    result = AblateResult(
        metric, settings.test or "validation", len(scored), settings.seeds, settings.with_words, lines
    )
    kept.write(result)
    return result


@contextmanager
def _resumable(kept: _KeptTable) -> Iterator[None]:
    """Keep the training states of a model on a stop or if another process is lost, and only then."""
    folder = kept.states()
    try:
        yield
    except (KeyboardInterrupt, parallel.ProcessLost) as stop:
        if folder is None or not checkpoint.any_within(folder):
            raise
        kept.write()  # says what the states are of
        if isinstance(stop, parallel.ProcessLost):
            raise
        raise KeyboardInterrupt(f"{stop or 'stopped'}; the same command continues from there") from None
    except Exception:
        kept.remove_states()
        raise


def _checked_options(settings: Ablate) -> FitOptions:
    if settings.from_scratch or not settings.lm_coef:
        given = setting("from_scratch") if settings.from_scratch else f"{setting('lm_coef')} 0"
        raise UserError(f"{given} is one of the compared variants already; leave it out")
    if settings.track:
        raise UserError(
            f"{setting('track')} is for pretrain and finetune, an ablation only keeps its table; leave it out"
        )
    if settings.seeds < 1:
        raise UserError(f"{setting('seeds')} {settings.seeds} must be 1 or more")
    options = FitOptions.of(settings)
    check_options(options)
    check_base(settings.run, options)
    check_read(settings)
    return options


def _scored_rows(settings: Ablate, rows: TaskRows) -> LabelledRows:
    """Return the rows that the models are scored on."""
    if not settings.test:
        warn(
            f"without {setting('test')}, models are scored on the validation rows, which also select the "
            "epochs, so the scores are slightly too high"
        )
        return rows.valid
    options = TableOptions.of(settings)
    scored = read_labelled_rows(settings.test, rows.columns, rows.label_type.kind, options, rows.label_type)
    check_labels(scored, rows.label_type, rows.columns)
    warn_of_overlap(rows.train, scored, "test")
    return scored


def _sizes(asked: str, rows: int) -> list[int]:
    """Return the numbers of training rows in `10,100,all`; those that are too large are left out, with a message."""
    sizes = set()
    for word in asked.split(","):
        if word.strip() != "all" and not (word.strip().isdecimal() and int(word) >= 2):
            raise UserError(
                f"{setting('sizes')} {asked}: {word.strip() or 'nothing'!r} must be a number of 2 or more, or `all`"
            )
        sizes.add(rows if word.strip() == "all" else int(word))
    if too_large := sorted(size for size in sizes if size > rows):
        listed = ", ".join(map(str, too_large))
        say(f"{setting('sizes')} {listed}: left out, there are {rows:,} training rows")
    if not (possible := sorted(sizes - set(too_large))):
        raise UserError(f"{setting('sizes')} {asked}: there are only {rows:,} training rows")
    return possible


def _line(rows: TaskRows, scored: LabelledRows, size: int, cells: Sequence[Cell]) -> AblationLine:
    """Return the table's line for one number of training rows."""
    guess_C = guess(rows.label_type, rows.train.labels, max(len(texts) - 1 for texts in scored.texts))
    guessed = rows.label_type.metrics(scored.labels, np.tile(guess_C, (len(scored), 1)))
    variants = {}
    for variant in VARIANTS:
        found = [cell for cell in cells if cell.variant == variant]
        variants[variant] = VariantScores(found[0].lr, over_seeds([cell.metrics for cell in found]))
    alone = [cell.words_alone for cell in cells if cell.words_alone]
    guesses = {name: guessed[name] for name in cells[0].metrics}
    return AblationLine(size, guesses, over_seeds(alone), **variants)


def _mean(found: dict[str, Any]) -> str:
    deviation = found["deviation"]
    return f"{found['mean']:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
