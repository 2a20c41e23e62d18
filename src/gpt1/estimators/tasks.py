"""The estimators: one for each task of the paper (section 3.3, figure 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, Tags, check_consistent_length
from sklearn.utils.metaestimators import available_if

from gpt1.config import Columns
from gpt1.estimators.base import Targets, TextEstimator
from gpt1.estimators.fitted import FittedModel
from gpt1.estimators.inputs import (
    choice_values,
    choices_of,
    class_name,
    class_values,
    is_scale,
    label_sets,
    pairs_of,
    restored_classes,
    score_values,
    texts_of,
)
from gpt1.tasks.labels import ClassLabels, LabelSets, ScoreLabels, infer_label_type, most_common, sorted_names
from gpt1.tasks.rows import Texts


class _OneText(TextEstimator):
    columns = Columns(["text"], ["label"])
    width = 1

    def _texts(self, X: Any, name: str = "X") -> list[Texts]:
        return texts_of(X, name)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        return tags


class _Pair(TextEstimator):
    width = 2

    def _texts(self, X: Any, name: str = "X") -> list[Texts]:
        return pairs_of(X, name)


class _Classes(ClassifierMixin, TextEstimator):
    """An estimator of one of several classes; `classes_` holds them in order."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of shape (N,)
            Of the type that y had.
        """
        predictions_NC = self._predictions(X)  # first, since it raises NotFittedError
        return self.classes_[predictions_NC.argmax(-1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the calibrated probability of each class.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of float of shape (N, C)
            Columns as in `classes_`; a row adds up to 1.
        """
        return self._predictions(X)

    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        return _class_targets(y)

    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        return _known_labels(y, targets)

    def _take(self, model: FittedModel) -> None:
        super()._take(model)
        self.classes_ = _classes(model)


class Classifier(_Classes, _OneText):
    """Predict the class of a text.

    X holds N texts, y their classes: strings, whole numbers or bools, at least two different ones.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        The classes in order, of the type that y had.

    See Also
    --------
    MultiLabelClassifier : Any number of labels for a text.
    Regressor : A number for a text.

    Examples
    --------
    >>> import gpt1
    >>> things = ("figs", "rain", "songs", "bells", "snow")
    >>> texts = [f"I {verb} {thing}" for verb in ("love", "hate") for thing in things]
    >>> moods = ["glad"] * 5 + ["grim"] * 5
    >>> classifier = gpt1.Classifier("runs/books", epochs=2).fit(texts, moods)
    >>> classifier.classes_.tolist()
    ['glad', 'grim']
    >>> classifier.predict_proba(["I love books"]).shape
    (1, 2)
    """

    task = "classification"


class Entailment(_Classes, _Pair):
    """Predict whether a premise entails a hypothesis, or any class of an ordered pair of texts.

    X holds N rows `(premise, hypothesis)`, y their classes: strings, whole numbers or bools.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        The classes in order, of the type that y had.

    See Also
    --------
    Similarity : Pairs whose order does not matter.

    Examples
    --------
    >>> import gpt1
    >>> who = ("a man", "a dog", "my aunt", "the cook", "the king")
    >>> pairs = [(f"{one} sleeps", f"{one} {does}") for one in who for does in ("rests", "runs")]
    >>> entailment = gpt1.Entailment("runs/books", epochs=2).fit(pairs, ["yes", "no"] * 5)
    >>> entailment.predict(pairs[:3]).shape
    (3,)
    """

    task = "entailment"
    columns = Columns(["premise", "hypothesis"], ["label"])


class Similarity(_Pair):
    """Predict how similar two texts are, in either order.

    X holds N rows of two texts. If y holds floats, they are scores: `predict` returns numbers and `score` is R^2. Any
    other y holds classes (such as same or different): `predict` returns classes, `score` is the accuracy, and there
    are `classes_` and `predict_proba`.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        The classes in order, of the type that y had; only if y held classes.

    See Also
    --------
    Entailment : Pairs whose order matters.

    Examples
    --------
    >>> import gpt1
    >>> pairs = [(f"a {one}", other) for one in ("cat", "dog", "fox") for other in (f"my {one}", "the tax law")]
    >>> similarity = gpt1.Similarity("runs/books", epochs=2).fit(pairs, [4.5, 0.5] * 3)
    >>> similarity.predict([("a dog", "a puppy")]).shape
    (1,)
    """

    task = "similarity"
    columns = Columns(["sentence1", "sentence2"], ["label"])

    def predict(self, X: Any) -> np.ndarray:
        """Return the number or the class of each pair.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of shape (N,)
            Floats, or classes of the type that y had.
        """
        predictions_NC = self._predictions(X)
        return self.classes_[predictions_NC.argmax(-1)] if hasattr(self, "classes_") else predictions_NC[:, 0]

    predict_proba = available_if(lambda self: hasattr(self, "classes_"))(_Classes.predict_proba)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2 of numbers, accuracy of classes.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.
        y : sequence of length N
            Their targets.
        sample_weight : sequence of N numbers, default None
            Weights of the rows.
        """
        measure = accuracy_score if hasattr(self, "classes_") else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if hasattr(self, "classes_"):
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        return tags

    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        return _score_targets(y) if is_scale(y) else _class_targets(y)

    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        return score_values(y).tolist() if isinstance(targets.label_type, ScoreLabels) else _known_labels(y, targets)

    def _take(self, model: FittedModel) -> None:
        super()._take(model)
        if isinstance(model.label_type, ClassLabels):
            self.classes_ = _classes(model)
        elif hasattr(self, "classes_"):
            del self.classes_


class Regressor(RegressorMixin, _OneText):
    """Predict a number for a text.

    X holds N texts, y a number for each, which the model learns in standardised form. `score` is R^2.

    See Also
    --------
    Classifier : A class of a text.

    Examples
    --------
    >>> import gpt1
    >>> texts = [f"a {kind} {thing}" for kind in ("fine", "dull") for thing in ("book", "play", "film")]
    >>> stars = [4.5, 5.0, 4.0, 1.5, 1.0, 1.0]
    >>> regressor = gpt1.Regressor("runs/books", epochs=2).fit(texts, stars)
    >>> regressor.predict(["a good book", "a bad book"]).shape
    (2,)
    """

    task = "regression"

    def predict(self, X: Any) -> np.ndarray:
        """Return the number of each row.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of float of shape (N,)
            On the scale of y.
        """
        return self._predictions(X)[:, 0]

    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        return _score_targets(y)

    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        return score_values(y).tolist()


class MultipleChoice(TextEstimator):
    """Predict which of a row's own answers is right for its context.

    X holds N rows `(context, [answer, ...])`, which may differ in their number of answers, two or more; y holds the
    number of the right answer, from 0. `score` is the accuracy.

    Examples
    --------
    >>> import gpt1
    >>> rows = [("It rains.", ["A coat.", "A swim."]), ("It snows.", ["A swim.", "A coat.", "Skis."])]
    >>> chooser = gpt1.MultipleChoice("runs/books", epochs=2).fit(rows, [0, 2])
    >>> chooser.predict_proba([("It is dry.", ["A walk.", "A coat.", "Skis."])]).shape
    (1, 3)
    """

    task = "multiple-choice"
    columns = Columns(["context"], ["label"], ["choices"])
    width = 2

    def predict(self, X: Any) -> np.ndarray:
        """Return the number of the most probable answer of each row.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of int of shape (N,)
            From 0.
        """
        return self._predictions(X).argmax(-1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each answer.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of float of shape (N, K)
            K is the largest number of answers in X; a row with fewer has 0 for the others.
        """
        return self._predictions(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.
        y : sequence of length N
            Their targets.
        sample_weight : sequence of N numbers, default None
            Weights of the rows.
        """
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def _texts(self, X: Any, name: str = "X") -> list[Texts]:
        return choices_of(X, name)

    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        labels = choice_values(y, [len(row) - 1 for row in rows]).tolist()
        return Targets(infer_label_type("choice", labels, "y"), labels)

    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        return self._targets(y, rows).labels


class MultiLabelClassifier(ClassifierMixin, _OneText):
    """Predict any number of labels for a text.

    X holds N texts; y an indicator (N, C), a column of 0 and 1 for each label, or a set or list of names per row.
    scikit-learn's cross-validation and searches refuse lists of lists, but take sets.
    `predict` always returns an indicator; the names of a row are `classes_[row == 1]`. `score` is the share of rows
    whose labels are all correct.

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        The labels: the numbers or names of y's columns, or the names in order.

    See Also
    --------
    Classifier : Exactly one class for a text.

    Examples
    --------
    >>> import gpt1
    >>> texts = ["red and round", "a square", "red", "a round red ball", "round", "a blue line"]
    >>> labels = [{"red", "round"}, set(), {"red"}, {"red", "round"}, {"round"}, set()]
    >>> labeller = gpt1.MultiLabelClassifier("runs/books", epochs=2).fit(texts, labels)
    >>> labeller.classes_.tolist()
    ['red', 'round']
    >>> labeller.predict(["round"]).shape
    (1, 2)
    """

    task = "multi-label"

    def predict(self, X: Any) -> np.ndarray:
        """Return which labels apply; the thresholds were chosen on the validation rows.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of int of shape (N, C)
            1 where a label applies, else 0; columns as in `classes_`.
        """
        predictions_NC = self._predictions(X)
        label_type = self.model_.label_type
        assert isinstance(label_type, LabelSets), "a multi-label run predicts label sets"
        return (predictions_NC >= label_type.thresholds).astype(int)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the calibrated probability of each label.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.

        Returns
        -------
        ndarray of float of shape (N, C)
            Each label's by itself, columns as in `classes_`.
        """
        return self._predictions(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose labels are all right.

        Parameters
        ----------
        X : sequence of length N
            Rows as in `fit`.
        y : sequence of length N
            Their targets.
        sample_weight : sequence of N numbers, default None
            Weights of the rows.
        """
        predicted = [frozenset(self.classes_[row == 1].tolist()) for row in self.predict(X)]
        wanted = _in_terms_of(self.classes_, y)
        check_consistent_length(predicted, wanted)
        right = [one == other for one, other in zip(predicted, wanted, strict=True)]
        return float(np.average(right, weights=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.single_output = False
        return tags

    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        sets, classes = label_sets(y)
        if not any(sets):
            raise ValueError("y holds no label at all; there is nothing to learn")
        names = [class_name(value) for value in classes.tolist()]
        labels = [frozenset(map(class_name, each)) for each in sets]
        label_type = LabelSets(names, [0.5] * len(names), most_common([sorted_names(label) for label in labels]))
        return Targets(label_type, labels, _class_type(classes))

    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        names: list[str] = targets.label_type.names  # type: ignore[union-attr]
        classes = restored_classes(names, targets.class_type or "str")
        found = [frozenset(map(class_name, each)) for each in _in_terms_of(classes, y)]
        if strange := sorted(set().union(*found) - set(names)):
            raise ValueError(f"y_valid holds the label {strange[0]!r}, which y does not")
        return found

    def _take(self, model: FittedModel) -> None:
        super()._take(model)
        self.classes_ = _classes(model)


def _class_targets(y: Any) -> Targets:
    values = class_values(y)
    classes = np.unique(values)
    if len(classes) < 2:
        raise ValueError(f"y holds only the class {classes.tolist()[0]!r}; two classes or more are needed")
    names = [class_name(value) for value in classes.tolist()]
    labels = [class_name(value) for value in values.tolist()]
    return Targets(ClassLabels(names, most_common([[label] for label in labels])), labels, _class_type(classes))


def _known_labels(y: Any, targets: Targets) -> list[str]:
    found = [class_name(value) for value in class_values(y).tolist()]
    if strange := sorted(set(found) - set(targets.label_type.names)):  # type: ignore[union-attr]
        raise ValueError(f"y_valid holds the class {strange[0]!r}, which y does not")
    return found


def _score_targets(y: Any) -> Targets:
    values = score_values(y).tolist()
    return Targets(infer_label_type("score", values, "y"), values)


def _in_terms_of(classes: np.ndarray, y: Any) -> list[frozenset[Any]]:
    """Return the label sets of y; the columns of an indicator without names are `classes`.

    Raises ValueError if there are more or fewer of these columns.
    """
    sets, found = label_sets(y)
    if found.dtype.kind != "i":
        return sets
    if len(found) != len(classes):
        raise ValueError(f"y has {len(found)} columns; it must have one for each of the {len(classes)} labels")
    return [frozenset(classes[list(each)].tolist()) for each in sets]


def _class_type(classes: np.ndarray) -> str:
    """Return the name of the classes' Python type, for `restored_classes`."""
    return type(classes.tolist()[0]).__name__


def _classes(model: FittedModel) -> np.ndarray:
    return restored_classes(model.metadata.labels or [], model.metadata.label_type or "str")
