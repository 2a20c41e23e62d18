"""What is told of a row, and all that depends on it: targets, answers out of scores, metrics, what a run remembers.

One class for each of `model.objectives.Goal`, with the same words:
- `kind`; `outputs`, the rows of W_y; `ranks`, the metrics that can make an epoch the best, the usual one first
- `target(label)`: what the loss compares a score with; a label is what `tasks.rows` reads out of a row
- `answers(scores_NC)`: probabilities, or the predicted score in its own unit
- `metrics(labels, answers_NC)`: how good the answers are, beside what a guess without reading would give;
  `intervals(labels, answers_NC)`: [low, high] of some of them
- `columns(answer_C)`: `predicted_label` and, where there are any, `probabilities` by name
- `calibrated(scores_NC, labels)`: the goal with what it learns from validation rows, and the temperature that scores
  are to be divided by
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, softmax

from gpt1.errors import UserError
from gpt1.model import objectives
from gpt1.tasks import calibration, metrics


@dataclass(frozen=True)
class Classes:
    """One of several named classes."""

    names: list[str]
    kind: ClassVar[objectives.Goal] = "classes"

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def ranks(self) -> list[str]:
        return ["accuracy", "macro_f1", "matthews", *(["f1"] if len(self.names) == 2 else [])]

    def names_of(self, label: str) -> set[str]:
        return {label}

    def target(self, label: str) -> int:
        return self.names.index(label)

    def answers(self, scores_NC: np.ndarray) -> np.ndarray:
        return softmax(scores_NC, axis=-1)

    def metrics(self, labels: Sequence[str], answers_NC: np.ndarray) -> dict[str, Any]:
        found = metrics.classification_metrics(labels, self._predicted(answers_NC), self.names)
        return found | _calibration(answers_NC, self._numbers(labels))

    def intervals(self, labels: Sequence[str], answers_NC: np.ndarray) -> dict[str, list[float]]:
        return metrics.classification_intervals(labels, self._predicted(answers_NC), self.names)

    def columns(self, answer_C: np.ndarray) -> dict[str, Any]:
        named = dict(zip(self.names, answer_C.tolist(), strict=True))
        return {"predicted_label": self.names[int(answer_C.argmax())], "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[str]) -> tuple["Classes", float]:
        return self, calibration.temperature(scores_NC, self._numbers(labels))

    def _predicted(self, answers_NC: np.ndarray) -> list[str]:
        return [self.names[best] for best in answers_NC.argmax(-1)]

    def _numbers(self, labels: Sequence[str]) -> np.ndarray:
        """-1 for a label that training never saw, which no answer can equal."""
        number = {name: i for i, name in enumerate(self.names)}
        return np.array([number.get(label, -1) for label in labels])


@dataclass(frozen=True)
class LabelSets:
    """Any number of named labels, each with a probability of its own."""

    names: list[str]
    thresholds: list[float]
    """the probability from which a label is told"""
    kind: ClassVar[objectives.Goal] = "labels"
    ranks: ClassVar[list[str]] = ["macro_f1", "micro_f1", "accuracy"]

    @property
    def outputs(self) -> int:
        return len(self.names)

    def names_of(self, label: frozenset[str]) -> set[str]:
        return set(label)

    def target(self, label: frozenset[str]) -> list[float]:
        return [float(name in label) for name in self.names]

    def answers(self, scores_NC: np.ndarray) -> np.ndarray:
        return expit(scores_NC)

    def metrics(self, labels: Sequence[frozenset[str]], answers_NC: np.ndarray) -> dict[str, Any]:
        return metrics.label_set_metrics(self._gold(labels), answers_NC >= self.thresholds, self.names)

    def intervals(self, labels: Sequence[frozenset[str]], answers_NC: np.ndarray) -> dict[str, list[float]]:
        return metrics.label_set_intervals(self._gold(labels), answers_NC >= self.thresholds)

    def columns(self, answer_C: np.ndarray) -> dict[str, Any]:
        named = dict(zip(self.names, answer_C.tolist(), strict=True))
        told = [name for name, p, least in zip(self.names, answer_C, self.thresholds, strict=True) if p >= least]
        return {"predicted_label": told, "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[frozenset[str]]) -> tuple["LabelSets", float]:
        gold_NC = self._gold(labels)
        temperature = calibration.label_temperature(scores_NC, gold_NC)
        return replace(self, thresholds=calibration.thresholds(expit(scores_NC / temperature), gold_NC)), temperature

    def _gold(self, labels: Sequence[frozenset[str]]) -> np.ndarray:
        return np.array([[name in label for name in self.names] for label in labels])


@dataclass(frozen=True)
class Score:
    """A number. The model tells how many deviations it lies from the mean of the training rows."""

    mean: float
    scale: float
    kind: ClassVar[objectives.Goal] = "score"
    ranks: ClassVar[list[str]] = ["pearson", "spearman"]

    @property
    def outputs(self) -> int:
        return 1

    def target(self, label: float) -> float:
        return (label - self.mean) / self.scale

    def answers(self, scores_NC: np.ndarray) -> np.ndarray:
        return scores_NC * self.scale + self.mean

    def metrics(self, labels: Sequence[float], answers_NC: np.ndarray) -> dict[str, Any]:
        gold_N, predicted_N = np.array(labels), answers_NC[:, 0]
        return metrics.score_metrics(gold_N, predicted_N) | {"joint": metrics.joint_histogram(gold_N, predicted_N)}

    def intervals(self, labels: Sequence[float], answers_NC: np.ndarray) -> dict[str, list[float]]:
        return metrics.score_intervals(np.array(labels), answers_NC[:, 0])

    def columns(self, answer_C: np.ndarray) -> dict[str, Any]:
        return {"predicted_label": float(answer_C[0])}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[float]) -> tuple["Score", float]:
        return self, 1.0


@dataclass(frozen=True)
class Choice:
    """Which of a row's own answers is right; rows may have different numbers of them."""

    kind: ClassVar[objectives.Goal] = "choice"
    ranks: ClassVar[list[str]] = ["accuracy"]

    @property
    def outputs(self) -> int:
        return 1

    def target(self, label: int) -> int:
        return label

    def answers(self, scores_NC: np.ndarray) -> np.ndarray:
        return softmax(scores_NC, axis=-1)

    def metrics(self, labels: Sequence[int], answers_NC: np.ndarray) -> dict[str, Any]:
        classes_N = np.array(labels)
        found = metrics.choice_metrics(classes_N, answers_NC.argmax(-1))
        return found | _calibration(answers_NC, classes_N)

    def intervals(self, labels: Sequence[int], answers_NC: np.ndarray) -> dict[str, list[float]]:
        return metrics.choice_intervals(np.array(labels), answers_NC.argmax(-1))

    def columns(self, answer_C: np.ndarray) -> dict[str, Any]:
        named = {str(number): p for number, p in enumerate(answer_C.tolist())}
        return {"predicted_label": int(answer_C.argmax()), "probabilities": named}

    def calibrated(self, scores_NC: np.ndarray, labels: Sequence[int]) -> tuple["Choice", float]:
        return self, calibration.temperature(scores_NC, np.array(labels))


Goal = Classes | LabelSets | Score | Choice
GOALS: dict[objectives.Goal, type[Any]] = {kind.kind: kind for kind in (Classes, LabelSets, Score, Choice)}


def goal_for(kind: objectives.Goal, labels: Sequence[Any], where: str) -> Goal:
    """The goal that training rows with these labels set. Raises UserError, naming `where`, if all are the same."""
    if kind == "choice":
        return Choice()
    if kind == "score":
        if (scale := float(np.std(labels))) == 0:
            raise UserError(f"{where} holds only the number {labels[0]:g}; there is nothing to learn")
        return Score(float(np.mean(labels)), scale)
    if kind == "labels":
        names = sorted_names({name for label in labels for name in label})
        if not names:
            raise UserError(f"{where} holds no label at all; there is nothing to learn")
        return LabelSets(names, [0.5] * len(names))
    names = sorted_names(set(labels))
    if len(names) < 2:
        raise UserError(f"{where} holds only the label {names[0]!r}; two classes or more are needed")
    return Classes(names)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Numbers by value, then the rest by name."""
    return sorted(names, key=lambda name: (0, float(name), name) if _is_number(name) else (1, 0.0, name))


def to_facts(goal: Goal) -> dict[str, Any]:
    """What gpt1.json remembers: `goal`, `labels` and what else belongs to that kind."""
    values = {f.name: getattr(goal, f.name) for f in fields(goal)}
    return {"goal": goal.kind, "labels": values.pop("names", []), **values}


def from_facts(facts: dict[str, Any]) -> Goal:
    """The goal of a fine-tuned run. Raises UserError for facts that are incomplete."""
    try:
        kind = GOALS[facts["goal"]]
        return kind(**{f.name: facts["labels" if f.name == "names" else f.name] for f in fields(kind)})
    except KeyError as error:
        raise UserError(f"gpt1.json is damaged: {error} is missing; fine-tune again") from None


def _calibration(answers_NC: np.ndarray, classes_N: np.ndarray) -> dict[str, Any]:
    return {
        "ece": calibration.expected_calibration_error(answers_NC, classes_N),
        "reliability": calibration.reliability(answers_NC, classes_N),
    }


def _is_number(name: str) -> bool:
    try:
        return float(name) == float(name)
    except ValueError:
        return False
