"""The base of all estimators: scikit-learn's contract around `finetuning.fit_best`."""

import hashlib
import inspect
import json
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from gpt1.config import Columns, Command, Finetune, Long, Select, Task
from gpt1.data.files import sha256_of
from gpt1.errors import UserError, setting
from gpt1.estimators.fitted import FittedModel, isolated
from gpt1.estimators.inputs import (
    check_length,
    check_names,
    named_weights,
    names_of,
    record_names,
    row_weights,
    texts_of,
)
from gpt1.finetuning.defaults import FitOptions, check_base, check_options
from gpt1.finetuning.examples import TaskRows
from gpt1.finetuning.sweep import fit_best
from gpt1.keywords import check, parameter, refuse_unknown
from gpt1.options import convert, options
from gpt1.remote import output_path
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.metadata import Source
from gpt1.run_folder.places import check_finetuned_place
from gpt1.run_folder.starter import find_run
from gpt1.tasks.labels import LabelType, ScoreLabels, infer_label_type
from gpt1.tasks.rows import LabelledRows, Texts, split_train_valid, warn_of_faults
from gpt1.training.device import out_of_memory, setup_device

# What a parameter is, where it differs from the setting of `gpt1 finetune` that has its name.
PARAMETERS = """\
run : str or Path
    Folder of the pre-trained run to start from, or "starter", the installed starter model.
read : list of str, str, Path or list of Path, default None
    Unlabelled text to pre-train on further before fine-tuning: texts, the name of a file, or files as `pathlib.Path`.
class_weights : {"none", "auto", "balanced"}, str or dict, default "none"
    "balanced", or "auto": weight rare classes up so that all count the same. A dict gives weights by class,
    `{"spam": 5.0}`, and 1 to the others; so does "spam=5,ham=1". Only of classes and labels.
random_state : int, RandomState or None, default 1
    Seed of W_y, order, dropout and the split into training and validation rows. None: another one at each fit.
verbose : bool, default False
    Print progress on standard error.
"""
# What `fit` sets besides the attributes that an estimator's own docstring names; `{width}` is that of X.
ATTRIBUTES = """\
n_features_in_ : int
    Columns of X: {width}.
feature_names_in_ : ndarray of str
    Names of the columns, if X was a DataFrame or its rows were dicts.
metrics_ : dict
    Metrics on the validation rows after the epoch that is kept; `words_alone` holds those of TF-IDF with a linear
    model on the same rows, and `words_weight` is the weight of their scores in the sum, 0 unless `with_words`.
model_ : FittedModel
    The fine-tuned model: weights, tokenizer, metadata.
"""


@dataclass(frozen=True)
class Targets:
    """The targets that y defines."""

    label_type: LabelType
    labels: list[Any]
    """of each row, see `LabelledRows`"""
    class_type: str | None = None
    """the Python type of the classes in y: `int`, `float`, `bool` or `str`"""

    def scaled_by(self, weights: Sequence[float]) -> "Targets":
        """Return the same targets; if they are scores, with the mean and scale of those that have a weight.

        The number of a row of weight 0 may stand for one that is missing.
        """
        weighed = [label for label, weight in zip(self.labels, weights, strict=True) if weight]
        if not isinstance(self.label_type, ScoreLabels) or len(set(weighed)) < 2:
            return self
        return replace(self, label_type=infer_label_type("score", weighed, "y"))


class TextEstimator(BaseEstimator):
    """A pre-trained run, fine-tuned by `fit` (the paper, section 3.2).

    The parameters are the settings of `gpt1 finetune`; 0 derives a default from the rows and the model. Subclasses'
    docstrings include their documentation. Invalid parameters and rows raise ValueError or TypeError.
    """

    task: ClassVar[Task]
    columns: ClassVar[Columns]
    """the columns that a saved run reads, if X was no DataFrame with names of its own"""
    width: ClassVar[int]
    """columns of X"""

    @refuse_unknown
    def __init__(
        self,
        run: str | Path,
        *,
        read: Any = None,
        read_epochs: float = Finetune.read_epochs,
        read_lr: float = Finetune.read_lr,
        lr: float = Finetune.lr,
        epochs: int = Finetune.epochs,
        batch: int = Finetune.batch,
        lm_coef: float = Finetune.lm_coef,
        long: Long = Finetune.long,
        class_weights: str | Mapping[Any, float] = Finetune.class_weights,
        dropout: float | None = Finetune.dropout,
        head_dropout: float = Finetune.head_dropout,
        patience: int = Finetune.patience,
        select: Select = Finetune.select,
        transfer_layers: int | None = Finetune.transfer_layers,
        freeze: int = Finetune.freeze,
        from_scratch: bool = Finetune.from_scratch,
        with_words: bool = Finetune.with_words,
        device: str = Finetune.device,
        dtype: Literal["auto", "bf16", "fp32"] = Finetune.dtype,
        threads: int = Finetune.threads,
        random_state: int | np.random.RandomState | None = Finetune.seed,
        verbose: bool = False,
    ) -> None:
        self.run = run
        self.read = read
        self.read_epochs = read_epochs
        self.read_lr = read_lr
        self.lr = lr
        self.epochs = epochs
        self.batch = batch
        self.lm_coef = lm_coef
        self.long = long
        self.class_weights = class_weights
        self.dropout = dropout
        self.head_dropout = head_dropout
        self.patience = patience
        self.select = select
        self.transfer_layers = transfer_layers
        self.freeze = freeze
        self.from_scratch = from_scratch
        self.with_words = with_words
        self.device = device
        self.dtype = dtype
        self.threads = threads
        self.random_state = random_state
        self.verbose = verbose

    def __init_subclass__(cls, **more: Any) -> None:
        """Add the parameters, and the attributes that all have, to the docstring of an estimator."""
        super().__init_subclass__(**more)
        if "task" not in vars(cls):  # a base of estimators
            return
        intro, *sections = re.split(r"\n\n(?=[A-Z][A-Za-z ]+\n---)", inspect.getdoc(cls) or "")
        title, own = "Attributes\n----------\n", ""
        if sections and sections[0].startswith(title):
            own = sections.pop(0).removeprefix(title) + "\n"
        attributes = title + own + ATTRIBUTES.format(width=cls.width).rstrip()
        cls.__doc__ = "\n\n".join([intro, f"Parameters\n----------\n{_parameters_doc()}", attributes, *sections])

    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None) -> Self:
        """Fine-tune the run; keep the epoch that is best on the validation rows.

        Parameters
        ----------
        X : sequence of length N
            Rows, as the class documents them: a list, tuple or array, or a Series or DataFrame of pandas or polars.
        y : sequence of length N
            Their targets.
        X_valid, y_valid : sequences, default None
            Validation rows: they select the epoch and calibrate the probabilities. None: a tenth of X; rows with the
            same first text stay together.
        sample_weight : sequence of N numbers, default None
            Weight of each row in training, 0 or more. In each update, the losses of a row (the paper's L2 and L1)
            are multiplied by its weight, and their sum is divided by the sum of the update's weights, not by the number
            of rows. So only ratios matter: equal weights are the same as None, to the last bit, and a row of weight 2
            counts as two copies in the same update. Words alone get the weights, divided by their mean, as
            scikit-learn's `sample_weight`. `class_weights` apply in addition. Validation rows are not weighted.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For invalid parameters, rows and targets; the message names the row.
        TypeError
            For containers and values of a wrong type.
        """
        texts = self._texts(X)
        check_length(y, "y", texts)
        weights = row_weights(sample_weight, len(texts))
        if (X_valid is None) != (y_valid is None):
            raise ValueError("X_valid and y_valid belong together; give both or neither")
        if X_valid is None and len(texts) < 2:
            raise ValueError("X has 1 sample; two or more are needed, as one of them validates")
        targets = self._targets(y, texts)
        if weights:
            targets = targets.scaled_by(weights)
        train, columns = replace(_labelled("X", texts, targets.labels), weights=weights), self._columns(X, y)
        with isolated(self.verbose):
            seed = self._seed()
            options = replace(self._parameters(FitOptions), seed=seed)
            check_options(options)
            check_base(find_run(self.run), options)
            if X_valid is None:
                train, valid = split_train_valid(train, seed)
            else:
                texts_valid = self._texts(X_valid, "X_valid")
                check_length(y_valid, "y_valid", texts_valid)
                valid = _labelled("X_valid", texts_valid, self._labels(y_valid, texts_valid, targets))
            if train.weights is not None and not any(train.weights):
                raise ValueError("sample_weight is 0 for every row but those that validate; give X_valid and y_valid")
            on = replace(self._parameters(Command), seed=seed)
            rows = TaskRows(self.task, targets.label_type, columns, train, valid)
            self._take(self._fitted(rows, options, on, targets.class_type))
        record_names(self, X)
        return self

    def save(self, folder: str | Path) -> None:
        """Write a run folder, as `gpt1 finetune` does; `gpt1 predict` and transformers read it too.

        Parameters
        ----------
        folder : str or Path
            Folder to write. A fine-tuned run in it is replaced; anything else in it raises ValueError.
        """
        check_is_fitted(self)
        with isolated(), output_path(folder) as place:
            check_finetuned_place(place)
            self.model_.save(place)

    @classmethod
    def load(cls, folder: str | Path, **parameters: Any) -> Self:
        """Return a fitted estimator from a run folder that `save` or `gpt1 finetune` wrote for the same task.

        Parameters
        ----------
        folder : str or Path
            The run folder.
        **parameters
            Constructor parameters to set, such as `device`. The others come from the run's settings, except device and
            threads; for a converted run, whose settings are unknown, they are the defaults, and `run` is the folder.

        Returns
        -------
        estimator
            Fitted, with the same predictions as the one that was saved.
        """
        with isolated():
            model = FittedModel.load(find_run(folder))
            if (task := model.metadata.task) != cls.task:
                raise UserError(f"{folder} is fine-tuned for {task}, not for {cls.task}, what {cls.__name__} is for")
        names = inspect.signature(cls).parameters.keys() - {"device", "threads"}
        settings = {name: value for name, value in model.settings.items() if name in names}
        if "seed" in model.settings:
            settings["random_state"] = model.settings["seed"]
        if "read" in settings:  # `gpt1 finetune` has a list of names, which here would be texts
            settings["read"] = [Path(name) for name in settings["read"]] or None
        loaded = cls(**({"run": str(folder)} | settings | parameters))
        loaded._take(model)
        return loaded

    def continue_pretraining(
        self, texts: Any, out: str | Path, *, epochs: float = Finetune.read_epochs, **settings: Any
    ) -> Self:
        """Pre-train the run further on unlabelled texts (the paper, section 3.1), as `gpt1.continue_pretraining` does.

        Parameters
        ----------
        texts : sequence of str, str, Path or list of Path
            Unlabelled texts, one document each; or the name of a file, or files as `pathlib.Path`.
        out : str or Path
            Run folder to write.
        epochs : float, default 3.0
            Number of passes over the texts.
        **settings
            Other arguments of `gpt1.continue_pretraining`, such as `lr`, `steps` and `batch`.

        Returns
        -------
        estimator
            A new, unfitted estimator whose `run` is `out`; this one is unchanged.
        """
        from gpt1.pretraining.continued import continue_pretraining  # here, since few estimators pre-train

        with isolated(self.verbose):
            on = asdict(self._parameters(Command)) | {"seed": self._seed()}
            continue_pretraining(self.run, _unlabelled(texts, "texts"), out, epochs=epochs, **(on | settings))
        return type(self)(**(self.get_params(deep=False) | {"run": str(out)}))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    @abstractmethod
    def _texts(self, X: Any, name: str = "X") -> list[Texts]:
        """Return the texts of each row; messages call the rows `name`."""

    @abstractmethod
    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        """Return the targets of the rows, from y."""

    @abstractmethod
    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        """Return the labels of validation rows."""

    def _fitted(self, rows: TaskRows, options: FitOptions, on: Command, class_type: str | None) -> FittedModel:
        """Do what `gpt1 finetune` does, without its files."""
        base, read = load_run(self.run), None
        if self.read is not None:
            from gpt1.data.documents import ReadOptions
            from gpt1.pretraining.continued import UnlabelledText, read_first

            epochs, lr = (convert(float, getattr(self, name), name) for name in ("read_epochs", "read_lr"))
            with TemporaryDirectory() as work:
                text = UnlabelledText.of(_unlabelled(self.read, "read"), ReadOptions(), Path(work))
                base, read = read_first(base, self.run, text, Path(work), epochs=epochs, lr=lr, on=on)
        warn_of_faults(rows.train, rows.valid, rows.label_type.kind)
        device, dtype = setup_device(on)
        with out_of_memory(f"lower {setting('batch')}"):
            tuned = fit_best(base, rows, options, device=device, dtype=dtype)
        weights = find_run(self.run) / "model.safetensors"
        model = Source(path=str(weights), sha256=sha256_of(weights))
        metadata = tuned.metadata(model, train=Source(path=None, sha256=_hash(rows.train)), read=read)
        metadata = replace(metadata, label_type=class_type)
        target = {"target": rows.label_type.kind} if self.task == "similarity" else {}
        settings = {"run": str(self.run), "task": self.task, **target} | asdict(on) | asdict(options)
        return FittedModel(tuned.as_run(metadata), settings, tuned.curves)

    def _take(self, model: FittedModel) -> None:
        """Store the fine-tuned model and set the attributes of a fitted estimator."""
        self.model_ = model
        words = model.metadata.words
        self.metrics_ = model.metadata.metrics | ({"words_weight": words.weight} if words else {})
        self.n_features_in_ = self.width

    def _predictions(self, X: Any) -> np.ndarray:
        """Return predictions_NC, see `tasks.labels`."""
        check_is_fitted(self)
        check_names(self, X)
        on = Command(device=self.device, dtype=self.dtype, threads=self.threads)
        return self.model_.predict(self._texts(X), on)

    def _columns(self, X: Any, y: Any) -> Columns:
        """Return the names of the columns of a table for the saved run."""
        usual, names, label = self.columns, names_of(X), getattr(y, "name", None)
        texts, choices = usual.texts, usual.choices
        if names and choices:
            texts, choices = names[:1], names[1:]
        elif names:
            texts = names
        named = isinstance(label, str) and label and label not in (*texts, *choices)
        return Columns(texts, [str(label)] if named else usual.label, choices)

    def _parameters(self, kind: type[Any]) -> Any:
        """Return an instance of a dataclass, made from the parameters that are its fields, with their types checked."""
        hints, given = get_type_hints(kind), self.get_params(deep=False)
        given["class_weights"] = named_weights(given["class_weights"])
        found = {}
        for name in (field.name for field in fields(kind) if field.name in given):
            value = given[name]
            if isinstance(value, np.generic):  # a search may draw parameters from an array
                value = value.item()
            if name != "class_weights":
                # On the command line "3" is a number, in Python it is not.
                of_type = check(hints[name], value, name, name) if isinstance(value, str) else value
                value = convert(hints[name], of_type, name)
            found[name] = value
        return kind(**found)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


@cache
def _parameters_doc() -> str:
    """Return the documentation of the constructor's parameters in numpydoc's form."""
    known = options(Finetune)
    own = {text.partition(" : ")[0]: text for text in re.split(r"\n(?=\w)", PARAMETERS.strip())}
    names = [name for name in inspect.signature(TextEstimator.__init__).parameters if name != "self"]
    return "\n".join(own.get(name) or "\n".join(parameter(name, known[name])) for name in names)


def _unlabelled(texts: Any, name: str) -> Any:
    """Return texts, from every container that X may be, as a list; names of files are returned unchanged."""
    if isinstance(texts, str | os.PathLike) or (
        isinstance(texts, list) and any(isinstance(one, Path) for one in texts)
    ):
        return texts
    return [text for (text,) in texts_of(texts, name)]


def _labelled(name: str, rows: list[Texts], labels: list[Any]) -> LabelledRows:
    where = [f"row {number} of {name}" for number in range(len(rows))]
    return LabelledRows(rows, labels, where, [row[0] for row in rows])


def _hash(data: LabelledRows) -> str:
    """Return the sha256 of rows that come from no file."""
    labels = [sorted(label) if isinstance(label, frozenset) else label for label in data.labels]
    content = [data.texts, labels] + ([data.weights] if data.weights else [])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
