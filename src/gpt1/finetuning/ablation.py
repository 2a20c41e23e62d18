"""The models of an ablation: one for each number of training rows, variant and seed (the paper, table 5)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.config import Predict
from gpt1.console import quiet
from gpt1.errors import UserError, setting
from gpt1.finetuning.defaults import FitOptions
from gpt1.finetuning.examples import TaskRows
from gpt1.finetuning.sweep import fit_best
from gpt1.run_folder.folder import LoadedRun
from gpt1.tasks.labels import ClassLabels, LabelSets, LabelType, ScoreLabels, infer_label_type
from gpt1.tasks.metrics import scalars
from gpt1.tasks.rows import LabelledRows

# The variants, by the options that they change.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_lm": {"lm_coef": 0.0},
    "from_scratch": {"from_scratch": True, "freeze": 0, "transfer_layers": None},
}
# What identifies a model: number of training rows, variant, seed.
CellKey = tuple[int, str, int]


@dataclass(frozen=True)
class Cell:
    """One model: what identifies it, and its scores."""

    rows: int
    variant: str
    seed: int
    lr: float
    metrics: dict[str, float]
    words_alone: dict[str, float] | None = None
    """scores of words alone on the same rows; given for the variant `full` only, since they are the same for all"""

    @property
    def key(self) -> CellKey:
        """Number of training rows, variant and seed."""
        return self.rows, self.variant, self.seed


def fit_cell(
    base: LoadedRun,
    rows: TaskRows,
    scored: LabelledRows,
    options: FitOptions,
    key: CellKey,
    *,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None = None,
) -> Cell:
    """Fit the model that `key` identifies, and score it on the rows `scored`.

    With a `folder`, a training that was stopped continues from the states in it. `options.lr` is the learning rate; 0
    chooses it, from scratch by trying several.
    """
    size, variant, seed = key
    with quiet():
        tuned = fit_best(
            base, with_sample(rows, size, seed), replace(options, **VARIANTS[variant], seed=seed),
            device=device, dtype=dtype, folder=folder,
        )  # fmt: skip
    predictor = tuned.predictor(device, dtype)
    label_type, lr = tuned.label_type, tuned.options.lr
    if variant != "full":
        predictions_NC, _ = predictor.predict(scored.texts, Predict.batch)
        return Cell(*key, lr, scalars(label_type.metrics(scored.labels, predictions_NC)))
    parts = predictor.predict_parts(scored.texts, Predict.batch)
    words_alone = tuned.words.label_type(label_type).metrics(scored.labels, parts["words"])
    return Cell(*key, lr, scalars(label_type.metrics(scored.labels, parts["run"])), scalars(words_alone))


def with_sample(rows: TaskRows, size: int, seed: int) -> TaskRows:
    """Return the rows with a sample of the training rows, see `sample`, and the label type of the sample.

    Raises UserError if the sample is too small for the classes, or if all of its labels are equal.
    """
    train = sample(rows.train, rows.label_type, size, seed)
    found = infer_label_type(rows.label_type.kind, train.labels, f"a sample of {size} training rows, with seed {seed},")
    if isinstance(found, ClassLabels | LabelSets) and isinstance(rows.label_type, ClassLabels | LabelSets):
        found = replace(rows.label_type, majority=found.majority)  # its names may include one that only validates
    return replace(rows, label_type=found, train=train)


def sample(rows: LabelledRows, label_type: LabelType, size: int, seed: int) -> LabelledRows:
    """Draw `size` of the rows, in their order, so that every class occurs; a larger sample contains the smaller ones.

    Raises UserError if there are more classes than that.
    """
    order: list[int] = np.random.default_rng(seed).permutation(len(rows)).tolist()
    needed: dict[int, None] = {}
    if isinstance(label_type, ClassLabels | LabelSets):
        met: set[str] = set()
        for i in order:
            if not (names := label_type.names_of(rows.labels[i])) <= met:
                met |= names
                needed[i] = None
    if size < len(needed):
        raise UserError(f"{setting('sizes')} {size}: at least {len(needed)} rows are needed for every label to occur")
    rest = [i for i in order if i not in needed]
    return rows.select(sorted([*needed, *rest][:size]))


def guess(label_type: LabelType, labels: Sequence[Any], choices: int) -> np.ndarray:
    """Return prediction_C of a guess that reads no text: the training rows' share of each class, or their mean."""
    targets = np.array([label_type.target(label) for label in labels])
    if isinstance(label_type, ScoreLabels):
        return np.array([label_type.mean])
    if isinstance(label_type, LabelSets):
        return targets.mean(0)
    return np.bincount(targets, minlength=max(label_type.outputs, choices)) / len(targets)
