"""Label types: how a label becomes a training target, and how the network's scores become a prediction.

There is a class for each `model.objectives.LabelKind`, all with the same interface:
- `kind`; `outputs`, the number of rows of W_y; `selection_metrics`, those that can select an epoch, the default first
- `target(label)`: what the loss compares the scores with; for labels see `tasks.rows.LabelledRows`
- `predictions(scores_NC)`: probabilities, or numbers in the unit of the labels
- `metrics(labels, predictions_NC)` and `intervals(labels, predictions_NC)`: see `tasks.metrics`
- `to_columns(prediction_C)`: `predicted_label` and, except for numbers, `probabilities` by name
- `calibrated(scores_NC, labels)`: the label type with what it learns from validation rows, and the temperature by which
  the scores must be divided

Axes: N rows, C classes, labels or answers.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit, softmax
from torch import Tensor

from gpt1.console import formatted
from gpt1.data.collate import Label
from gpt1.errors import UserError, setting
from gpt1.model.objectives import LabelKind
from gpt1.options import nearest
from gpt1.tasks import calibration, metrics
from gpt1.tasks.metrics import ChoiceMetrics, ClassificationMetrics, Intervals, LabelSetMetrics, ScoreMetrics

# The largest class weight, so that a label that hardly ever occurs does not drown the rest.
LARGEST_WEIGHT = 100.0


@dataclass(frozen=True)
class ClassLabels:
    """One of several named classes."""

    names: list[str]
    majority: list[str] | None = None
    """the most common class of the training rows; None in a run that does not record it"""
    kind: ClassVar[LabelKind] = "classes"

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def selection_metrics(self) -> list[str]:
        return ["accuracy", "macro_f1", "matthews", *(["f1"] if len(self.names) == 2 else [])]

    def names_of(self, label: str) -> set[str]:
        return {label}

    def target(self, label: str) -> int:
        return self.names.index(label)

    def predictions(self, scores_NC: np.ndarray) -> np.ndarray:
        return softmax(scores_NC, axis=-1)

    def metrics(self, labels: Sequence[str], predictions_NC: np.ndarray) -> ClassificationMetrics:
        found = metrics.classification_metrics(labels, self._predicted(predictions_NC), self.names)
        baseline = _majority(self.majority, [[label] for label in labels])
        return replace(found, **baseline, **_calibration(predictions_NC, self._numbers(labels)))

    def intervals(self, labels: Sequence[str], predictions_NC: np.ndarray) -> Intervals:
        return metrics.classification_intervals(labels, self._predicted(predictions_NC), self.names)

    def to_columns(self, prediction_C: np.ndarray) -> dict[str, Any]:
        named = dict(zip(self.names, prediction_C.tolist(), strict=True))
        return {"predicted_label": self.names[int(prediction_C.argmax())], "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[str]) -> tuple["ClassLabels", float]:
        return self, calibration.temperature(scores_NC, self._numbers(labels))

    def _predicted(self, predictions_NC: np.ndarray) -> list[str]:
        return [self.names[best] for best in predictions_NC.argmax(-1)]

    def _numbers(self, labels: Sequence[str]) -> np.ndarray:
        """Return the number of each class; -1 for one that training never saw, so that no prediction equals it."""
        number = {name: i for i, name in enumerate(self.names)}
        return np.array([number.get(label, -1) for label in labels])


@dataclass(frozen=True)
class LabelSets:
    """Any number of named labels, each with an independent probability."""

    names: list[str]
    thresholds: list[float]
    """the probability from which each label is predicted"""
    majority: list[str] | None = None
    """the most common set of the training rows; None in a run that does not record it"""
    kind: ClassVar[LabelKind] = "labels"
    selection_metrics: ClassVar[list[str]] = ["macro_f1", "micro_f1", "accuracy"]

    @property
    def outputs(self) -> int:
        return len(self.names)

    def names_of(self, label: frozenset[str]) -> set[str]:
        return set(label)

    def target(self, label: frozenset[str]) -> list[float]:
        return [float(name in label) for name in self.names]

    def predictions(self, scores_NC: np.ndarray) -> np.ndarray:
        return expit(scores_NC)

    def metrics(self, labels: Sequence[frozenset[str]], predictions_NC: np.ndarray) -> LabelSetMetrics:
        names = self._all_names(labels)
        found = metrics.label_set_metrics(_indicators(labels, names), self._predicted(predictions_NC, names), names)
        return replace(found, **_majority(self.majority, [sorted_names(label) for label in labels]))

    def intervals(self, labels: Sequence[frozenset[str]], predictions_NC: np.ndarray) -> Intervals:
        names = self._all_names(labels)
        return metrics.label_set_intervals(_indicators(labels, names), self._predicted(predictions_NC, names))

    def to_columns(self, prediction_C: np.ndarray) -> dict[str, Any]:
        named = dict(zip(self.names, prediction_C.tolist(), strict=True))
        predicted = [name for name, p, t in zip(self.names, prediction_C, self.thresholds, strict=True) if p >= t]
        return {"predicted_label": predicted, "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[frozenset[str]]) -> tuple["LabelSets", float]:
        true_NC = _indicators(labels, self.names)
        temperature = calibration.label_temperature(scores_NC, true_NC)
        return replace(self, thresholds=calibration.thresholds(expit(scores_NC / temperature), true_NC)), temperature

    def _all_names(self, labels: Sequence[frozenset[str]]) -> list[str]:
        """Return the names, then those in `labels` that training never saw: a row that has one cannot be right."""
        return [*self.names, *sorted_names(frozenset[str]().union(*labels) - set(self.names))]

    def _predicted(self, predictions_NC: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return whether each of `names`, see `_all_names`, is predicted."""
        return np.pad(predictions_NC >= self.thresholds, ((0, 0), (0, len(names) - len(self.names))))


@dataclass(frozen=True)
class ScoreLabels:
    """A number. The network predicts it standardised: in standard deviations from the mean of the training rows."""

    mean: float
    scale: float
    kind: ClassVar[LabelKind] = "score"
    selection_metrics: ClassVar[list[str]] = ["pearson", "spearman"]

    @property
    def outputs(self) -> int:
        return 1

    def target(self, label: float) -> float:
        return (label - self.mean) / self.scale

    def predictions(self, scores_NC: np.ndarray) -> np.ndarray:
        return scores_NC * self.scale + self.mean

    def metrics(self, labels: Sequence[float], predictions_NC: np.ndarray) -> ScoreMetrics:
        return metrics.score_metrics(np.array(labels), predictions_NC[:, 0])

    def intervals(self, labels: Sequence[float], predictions_NC: np.ndarray) -> Intervals:
        return metrics.score_intervals(np.array(labels), predictions_NC[:, 0])

    def to_columns(self, prediction_C: np.ndarray) -> dict[str, Any]:
        return {"predicted_label": float(prediction_C[0])}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[float]) -> tuple["ScoreLabels", float]:
        return self, 1.0


@dataclass(frozen=True)
class ChoiceLabels:
    """The right one of a row's own answers; rows may have different numbers of them."""

    majority: list[str] | None = None
    """the most common number of an answer in the training rows; None in a run that does not record it"""
    kind: ClassVar[LabelKind] = "choice"
    selection_metrics: ClassVar[list[str]] = ["accuracy"]

    @property
    def outputs(self) -> int:
        return 1

    def target(self, label: int) -> int:
        return label

    def predictions(self, scores_NC: np.ndarray) -> np.ndarray:
        return softmax(scores_NC, axis=-1)

    def metrics(self, labels: Sequence[int], predictions_NC: np.ndarray) -> ChoiceMetrics:
        true_N = np.array(labels)
        found = metrics.choice_metrics(true_N, predictions_NC.argmax(-1))
        baseline = _majority(self.majority, [[str(label)] for label in labels])
        return replace(found, **baseline, **_calibration(predictions_NC, true_N))

    def intervals(self, labels: Sequence[int], predictions_NC: np.ndarray) -> Intervals:
        return metrics.choice_intervals(np.array(labels), predictions_NC.argmax(-1))

    def to_columns(self, prediction_C: np.ndarray) -> dict[str, Any]:
        named = {str(number): p for number, p in enumerate(prediction_C.tolist())}
        return {"predicted_label": int(prediction_C.argmax()), "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[int]) -> tuple["ChoiceLabels", float]:
        return self, calibration.temperature(scores_NC, np.array(labels))


LabelType = ClassLabels | LabelSets | ScoreLabels | ChoiceLabels
LABEL_TYPES: dict[LabelKind, type[Any]] = {
    "classes": ClassLabels, "labels": LabelSets, "score": ScoreLabels, "choice": ChoiceLabels,
}  # fmt: skip


def infer_label_type(kind: LabelKind, labels: Sequence[Any], where: str) -> LabelType:
    """Return the label type of training rows with these labels. Raises UserError, naming `where`, if all are equal."""
    if kind == "choice":
        return ChoiceLabels(most_common([[str(label)] for label in labels]))
    if kind == "score":
        # The deviation of equal numbers may be a rounding error above 0.
        if min(labels) == max(labels) or not (scale := float(np.std(labels))):
            raise UserError(f"{where} holds only the number {labels[0]:g}; there is nothing to learn")
        return ScoreLabels(float(np.mean(labels)), scale)
    if kind == "labels":
        names = sorted_names({name for label in labels for name in label})
        if not names:
            raise UserError(f"{where} holds no label at all; there is nothing to learn")
        return LabelSets(names, [0.5] * len(names), most_common([sorted_names(label) for label in labels]))
    names = sorted_names(set(labels))
    if len(names) < 2:
        raise UserError(f"{where} holds only the label {names[0]!r}; two classes or more are needed")
    return ClassLabels(names, most_common([[label] for label in labels]))


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return numbers in order of their value, then other names in alphabetical order."""
    return sorted(names, key=lambda name: (0, float(name), name) if _is_number(name) else (1, 0.0, name))


def label_text(predicted: Any) -> str:
    """Format a `predicted_label` for people: a name, a number, or the names of a set."""
    return (", ".join(predicted) or "none of the labels") if isinstance(predicted, list) else formatted(predicted)


def to_metadata(label_type: LabelType) -> dict[str, Any]:
    """Return what gpt1.json records: `goal`, the kind; `labels`, the names; and the other fields of that type."""
    values = {one.name: getattr(label_type, one.name) for one in fields(label_type)}
    return {"goal": label_type.kind, "labels": values.pop("names", []), **values}


def from_metadata(metadata: Mapping[str, Any]) -> LabelType:
    """Return the label type of a fine-tuned run. Raises UserError if its metadata are incomplete."""
    try:
        cls = LABEL_TYPES[metadata["goal"]]
        required = [one for one in fields(cls) if one.default is MISSING]
        values = {one.name: metadata["labels" if one.name == "names" else one.name] for one in required}
        optional = {one.name: metadata.get(one.name) for one in fields(cls) if one.default is None}
        found: LabelType = cls(**values, **optional)
        return found
    except KeyError as error:
        raise UserError(f"gpt1.json is damaged: {error} is missing; fine-tune again") from None


def class_weights(requested: str | Mapping[str, float], label_type: LabelType, targets: list[Label]) -> Tensor | None:
    """Return weights_C of the classes in L2, or None for `none`.

    `auto`, or scikit-learn's word `balanced`, makes every class count the same in total, with a mean weight of 1 over
    the rows; for independent labels, it makes the rows that have a label count as much as those that do not.
    `NAME=WEIGHT,...`, or a mapping, sets the weights of some classes, 1 for the others. Raises UserError for an unknown
    name, a weight that is not positive, and a label type without classes.
    """
    if requested == "none":
        return None
    if not isinstance(label_type, ClassLabels | LabelSets):
        raise UserError(f"{setting('class_weights')} {requested}: this task has no classes; leave it out")
    names = label_type.names
    if isinstance(requested, str) and requested not in ("auto", "balanced"):
        requested = _parsed_weights(requested, names)
    if isinstance(requested, Mapping):
        for name, weight in requested.items():
            wrong = f"{setting('class_weights')} {name!r}"
            if name not in names:
                raise UserError(f"{wrong}: there is no such class; the classes are {', '.join(names)}")
            if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 < weight < math.inf:
                raise UserError(f"{wrong}: the weight must be a number above 0, not {weight!r}")
        return torch.tensor([float(requested.get(name, 1.0)) for name in names])
    if isinstance(label_type, ClassLabels):
        counts_C = np.bincount(np.array(targets), minlength=len(names))
        weights_C = len(targets) / (len(names) * counts_C.clip(1))
        return torch.tensor(weights_C, dtype=torch.float32).clamp(max=LARGEST_WEIGHT)
    counts_C = np.array(targets).sum(0)
    weights_C = (len(targets) - counts_C) / counts_C.clip(1)
    return torch.tensor(weights_C, dtype=torch.float32).clamp(1 / LARGEST_WEIGHT, LARGEST_WEIGHT)


def _parsed_weights(requested: str, names: list[str]) -> dict[str, float]:
    """Return the weights in `NAME=WEIGHT,...`."""
    weights: dict[str, float] = {}
    for part in requested.split(","):
        name, _, value = part.rpartition("=")
        name = name.strip()
        if name not in names:
            raise UserError(
                f"{setting('class_weights')} {part}: write NAME=WEIGHT with one of {', '.join(names)}, or auto"
                f"{nearest(part, ('auto', 'balanced', 'none'))}"
            )
        if name in weights:
            raise UserError(f"{setting('class_weights')} {requested}: {name} is named twice")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = math.nan
        if not 0 < weights[name] < math.inf:
            raise UserError(f"{setting('class_weights')} {part}: the weight must be a number above 0")
    return weights


def most_common(labels: Sequence[list[str]]) -> list[str]:
    """Return the most common of labels, each as a list of names; on a tie, the first in alphabetical order."""
    counts = Counter(tuple(label) for label in labels)
    return list(min(counts.items(), key=lambda item: (-item[1], item[0]))[0])


def _majority(most_common: list[str] | None, labels: Sequence[list[str]]) -> dict[str, Any]:
    """Return the metric `majority`, the share of the labels that are the most common of training, if that is known."""
    return {} if most_common is None else {"majority": sum(label == most_common for label in labels) / len(labels)}


def _indicators(labels: Sequence[frozenset[str]], names: Sequence[str]) -> np.ndarray:
    return np.array([[name in label for name in names] for label in labels])


def _calibration(predictions_NC: np.ndarray, classes_N: np.ndarray) -> dict[str, Any]:
    return {
        "ece": calibration.expected_calibration_error(predictions_NC, classes_N),
        "reliability": calibration.reliability(predictions_NC, classes_N),
    }


def _is_number(name: str) -> bool:
    try:
        return not math.isnan(float(name))
    except ValueError:
        return False
