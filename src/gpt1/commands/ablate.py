"""`gpt1 ablate`: what pre-training and the auxiliary loss are worth, and how many labels (the paper, table 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from gpt1.config import Ablate, Predict
from gpt1.console import quiet, say
from gpt1.errors import UserError
from gpt1.finetuning import ablation
from gpt1.finetuning.ablation import Cell, Place
from gpt1.finetuning.data import made_ready
from gpt1.finetuning.defaults import check, settle, with_splits
from gpt1.finetuning.predictor import at_work
from gpt1.finetuning.sweep import Rows, facts_of, read_rows, run_trials
from gpt1.pages.drawings import VARIANTS as HEADINGS
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.tasks.labels import Classes, Goal, LabelSets, Score, goal_for
from gpt1.tasks.rows import Labelled, check_labels, read_labelled
from gpt1.tasks.seeds import over_seeds

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_lm": {"lm_coef": 0.0},
    "from_scratch": {"from_scratch": True, "freeze": 0, "transfer_layers": None},
}


@dataclass(frozen=True)
class Study:
    """What all models of a table share."""

    settings: Ablate
    base: LoadedRun
    rows: Rows
    scored: Labelled
    sizes: list[int]

    @property
    def metric(self) -> str:
        """What the table shows."""
        ranks = self.rows.goal.ranks
        return self.settings.select if self.settings.select in ranks else ranks[0]

    def places(self) -> list[Place]:
        """In the order the models are made."""
        first = self.settings.seed
        return list(product(self.sizes, VARIANTS, range(first, first + self.settings.seeds)))


def ablate(settings: Ablate) -> dict[str, Any]:
    """Fine-tune with and without pre-training and the auxiliary loss, over sizes and seeds; one table.

    Without pre-training the network, the updates and the rows are the same; the first seed tries three learning rates
    and the others take the best. Returns `metric`, `scored_on`, `n`, and `table`: for each number of `rows` the
    metrics of a `guess` that reads nothing, and of each variant `lr` and, over seeds, mean, deviation and values of
    each metric. Raises UserError for wrong settings or rows.
    """
    settings = with_splits(settings)
    with TemporaryDirectory() as scratch:
        _check(settings, Path(scratch))
        record = ablation.begin(settings)
        study = _study(settings)
        for cell in _cells(study, record.cells, Path(scratch)):
            record.add(cell)
    result = _result(study, [record.cells[place] for place in study.places()])
    record.finish(result)
    return result


def show(result: dict[str, Any]) -> RenderableType:
    """Numbers of training rows down, variants across; mean and deviation over seeds."""
    metric = result["metric"]
    out = Table(title=f"ablate: {metric}", title_justify="left")
    for name in ("rows", "guess", *HEADINGS.values(), "at rate"):
        out.add_column(name, justify="right", no_wrap=True)
    for line in result["table"]:
        each = [_mean(line[variant]["metrics"][metric]) for variant in VARIANTS]
        rate = f"{line['from_scratch']['lr']:.3g}"
        out.add_row(f"{line['rows']:,}", f"{line['guess'][metric]:.3f}", *each, rate)
    out.caption = f"on {result['n']:,} rows of {result['scored_on']}; {result['seeds']} seeds; guess reads nothing"
    return out


def sample(data: Labelled, goal: Goal, size: int, seed: int) -> Labelled:
    """Some of the rows, in their order, so that every class occurs; a larger one of the same seed holds a smaller.

    Raises UserError if there are more classes than that.
    """
    order: list[int] = np.random.default_rng(seed).permutation(len(data.rows)).tolist()
    needed: dict[int, None] = {}
    if isinstance(goal, Classes | LabelSets):
        met: set[str] = set()
        for i in order:
            if not (names := goal.names_of(data.labels[i])) <= met:
                met |= names
                needed[i] = None
    if size < len(needed):
        raise UserError(f"--sizes {size}: it takes {len(needed)} rows for every one of the labels to occur")
    rest = [i for i in order if i not in needed]
    return data.pick(sorted([*needed, *rest][:size]))


def guess(goal: Goal, labels: Sequence[Any], choices: int) -> np.ndarray:
    """answer_C of one who reads nothing: the shares of the training rows, or their mean."""
    targets = np.array([goal.target(label) for label in labels])
    if isinstance(goal, Score):
        return np.array([goal.mean])
    if isinstance(goal, LabelSets):
        return targets.mean(0)
    return np.bincount(targets, minlength=max(goal.outputs, choices)) / len(targets)


def _check(settings: Ablate, scratch: Path) -> None:
    if settings.from_scratch or not settings.lm_coef:
        given = "--from-scratch" if settings.from_scratch else "--lm-coef 0"
        raise UserError(f"{given} is what the table compares with; leave it out")
    check(replace(settings, out=str(scratch / "run")))


def _study(settings: Ablate) -> Study:
    rows = read_rows(settings)
    scored = rows.valid
    if settings.test:
        scored = read_labelled(settings.test, rows.columns, rows.goal.kind, settings.encoding)
        if isinstance(rows.goal, Classes | LabelSets):
            check_labels(scored, rows.goal.names, ", ".join(rows.columns.label))
        if both := len(set(rows.train.texts) & set(scored.texts)):
            say(f"warning: {both:,} texts stand in both training and test; the scores are too good")
    else:
        say("warning: without --test the scores are of the rows that the epochs are chosen by, and a little too good")
    study = Study(settings, load_run(settings.run), rows, scored, _sizes(settings.sizes, len(rows.train.rows)))
    for size, seed in product(study.sizes, range(settings.seed, settings.seed + settings.seeds)):
        sample(rows.train, rows.goal, size, seed)  # a size that cannot be must not be found out after an hour
    return study


def _sizes(asked: str, rows: int) -> list[int]:
    sizes = set()
    for word in asked.split(","):
        if word.strip() != "all" and not (word.strip().isdecimal() and int(word) >= 2):
            raise UserError(f"--sizes {asked}: {word.strip() or 'nothing'!r} is neither a number from 2 on nor `all`")
        sizes.add(rows if word.strip() == "all" else int(word))
    if missing := sorted(size for size in sizes if size > rows):
        say(f"--sizes {', '.join(map(str, missing))}: left out, there are {rows:,} training rows")
    if not (there := sorted(sizes - set(missing))):
        raise UserError(f"--sizes {asked}: there are only {rows:,} training rows")
    return there


def _cells(study: Study, known: Mapping[Place, Cell], scratch: Path) -> Iterator[Cell]:
    """The models that are not known yet."""
    places, rates = study.places(), dict[tuple[int, str], float]()
    for number, place in enumerate(places, 1):
        size, variant, seed = place
        if (cell := known.get(place)) is None:
            cell = _cell(study, place, rates.get((size, variant), study.settings.lr), scratch)
            score = f"{study.metric} {cell.metrics[study.metric]:.4f}"
            say(f"{number} of {len(places)}: {size:,} rows, {HEADINGS[variant]}, seed {seed}: {score}")
            yield cell
        rates.setdefault((size, variant), cell.lr)


def _cell(study: Study, place: Place, lr: float, scratch: Path) -> Cell:
    """Train one model and score it."""
    size, variant, seed = place
    rows, base = study.rows, study.base
    learnt = sample(rows.train, rows.goal, size, seed)
    goal = goal_for(rows.goal.kind, learnt.labels, f"{study.settings.train}: a sample of {size} rows")
    asked = replace(study.settings, **VARIANTS[variant], seed=seed, seeds=1, lr=lr)
    with quiet():
        settled = settle(asked, size, base.body.config.width)
        data = made_ready(settled, goal, learnt, rows.valid, base)
        best = run_trials(settled, data, base.body, scratch)[0].best
    facts = facts_of(best, rows.columns, base.info, {})
    model = at_work(LoadedRun(best.body.eval(), data.reader.tokenizer, facts, best.head), study.settings)
    answers_NC = model.answers(study.scored.texts, Predict.batch)[0]
    metrics = model.goal.metrics(study.scored.labels, answers_NC)
    return Cell(size, variant, seed, best.settings.lr, {k: v for k, v in metrics.items() if isinstance(v, float)})


def _result(study: Study, cells: Sequence[Cell]) -> dict[str, Any]:
    settings = study.settings
    return {
        "metric": study.metric,
        "scored_on": settings.test or "validation",
        "n": len(study.scored.rows),
        "seeds": settings.seeds,
        "table": [_line(study, size, [cell for cell in cells if cell.rows == size]) for size in study.sizes],
    }


def _line(study: Study, size: int, cells: Sequence[Cell]) -> dict[str, Any]:
    goal, labels, scored = study.rows.goal, study.rows.train.labels, study.scored
    answer_C = guess(goal, labels, max(len(texts) - 1 for texts in scored.texts))
    guessed = goal.metrics(scored.labels, np.tile(answer_C, (len(scored.rows), 1)))
    line: dict[str, Any] = {"rows": size, "guess": {name: guessed[name] for name in cells[0].metrics}}
    for variant in VARIANTS:
        found = [cell for cell in cells if cell.variant == variant]
        line[variant] = {"lr": found[0].lr, "metrics": over_seeds([cell.metrics for cell in found])}
    return line


def _mean(found: dict[str, Any]) -> str:
    deviation = found["deviation"]
    return f"{found['mean']:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
