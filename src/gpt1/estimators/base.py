"""What the estimators of all tasks share: scikit-learn's contract around `finetuning.fit_best`."""

import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Columns, Command, Long, Prepare, Select, Task, pretrain_defaults
from gpt1.data.files import sha256_of
from gpt1.errors import UserError, setting
from gpt1.estimators.fitted import FittedModel, isolated
from gpt1.estimators.inputs import names_of, texts_of
from gpt1.finetuning.defaults import FitOptions, check_base, check_options
from gpt1.finetuning.examples import TaskRows
from gpt1.finetuning.sweep import fit_best
from gpt1.options import convert
from gpt1.run_folder.folder import load_run, read_metadata
from gpt1.run_folder.metadata import Source
from gpt1.run_folder.places import check_finetuned_place
from gpt1.run_folder.shape import read_shape
from gpt1.run_folder.starter import find_run
from gpt1.storage import write_text
from gpt1.tasks.labels import LabelType
from gpt1.tasks.rows import LabelledRows, Texts, split_train_valid, warn_of_faults
from gpt1.training.device import out_of_memory, setup_device

# Continued pre-training: batches are small enough for one pass over the texts to have at least MIN_UPDATES updates, and
# at most one update in WARMUP_SHARE warms up.
MIN_UPDATES, WARMUP_SHARE = 20, 10


@dataclass(frozen=True)
class Targets:
    """What y asks the model to learn."""

    label_type: LabelType
    labels: list[Any]
    """of each row, see `LabelledRows`"""
    class_type: str | None = None
    """the Python type of the classes in y: `int`, `float`, `bool` or `str`"""


class TextEstimator(BaseEstimator):
    """A pre-trained run, fine-tuned by `fit` (the paper, section 3.2).

    The parameters are the settings of `gpt1 finetune`, where 0 lets the rows and the model decide; `random_state` is
    its seed. `fit` sets `metrics_`, those of the best epoch on the validation rows, and among them `words_alone`, those
    of TF-IDF with a linear model; and `n_features_in_`. Wrong parameters and rows raise ValueError or TypeError. With
    `verbose`, progress is printed on standard error.
    """

    task: ClassVar[Task]
    columns: ClassVar[Columns]
    """the columns that a saved run reads, if X was no DataFrame with names of its own"""
    width: ClassVar[int]
    """columns of X"""

    def __init__(
        self,
        run: str | Path,
        *,
        lr: float = 0.0,
        epochs: int = 0,
        batch: int = 0,
        lm_coef: float = 0.5,
        long: Long = "head",
        class_weights: str = "none",
        dropout: float | None = None,
        head_dropout: float = 0.1,
        patience: int = 0,
        select: Select = "auto",
        transfer_layers: int | None = None,
        freeze: int = 0,
        from_scratch: bool = False,
        with_words: bool = False,
        device: str = "auto",
        dtype: Literal["auto", "bf16", "fp32"] = "auto",
        threads: int = 0,
        random_state: int | np.random.RandomState | None = 1,
        verbose: bool = False,
    ) -> None:
        self.run = run
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

    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None) -> Self:
        """Fine-tune the run on the rows X with the targets y; keep the epoch that is best on the validation rows.

        X and y are lists, arrays, or Series and DataFrames of pandas or polars. Without X_valid and y_valid, a tenth
        of the rows validates.
        """
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        texts = self._texts(X)
        check_consistent_length(texts, y)
        if (X_valid is None) != (y_valid is None):
            raise ValueError("X_valid and y_valid belong together; give both or neither")
        if X_valid is None and len(texts) < 2:
            raise ValueError("X has 1 sample; two or more are needed, as one of them validates")
        targets = self._targets(y, texts)
        train, columns = _labelled("X", texts, targets.labels), self._columns(X, y)
        with isolated(self.verbose):
            seed = self._seed()
            options = replace(self._parameters(FitOptions), seed=seed)
            check_options(options)
            check_base(self.run, options)
            if X_valid is None:
                train, valid = split_train_valid(train, seed)
            else:
                texts_valid = self._texts(X_valid)
                check_consistent_length(texts_valid, y_valid)
                valid = _labelled("X_valid", texts_valid, self._labels(y_valid, texts_valid, targets))
            on = replace(self._parameters(Command), seed=seed)
            rows = TaskRows(self.task, targets.label_type, columns, train, valid)
            self._take(self._fitted(rows, options, on, targets.class_type))
        if names := names_of(X):
            self.feature_names_in_: np.ndarray = np.array(names, dtype=object)
        return self

    def save(self, folder: str | Path) -> None:
        """Write a run folder, as `gpt1 finetune` does; `gpt1 predict` and transformers read it too.

        Replaces a fine-tuned run that may be there.
        """
        check_is_fitted(self)
        folder = Path(folder)
        with isolated():
            check_finetuned_place(folder)
            self.model_.save(folder)

    @classmethod
    def load(cls, folder: str | Path, **parameters: Any) -> Self:
        """Return a fitted estimator from a run folder that `save` or `gpt1 finetune` wrote for the same task.

        Its parameters are the settings of the run, except for those given here, the device and the threads. Of a
        converted run, whose settings are unknown, they are the defaults, and `run` is the folder.
        """
        with isolated():
            model = FittedModel.load(Path(folder))
            if (task := model.metadata.task) != cls.task:
                raise UserError(f"{folder} is fine-tuned for {task}, not for {cls.task}, what {cls.__name__} is for")
        names = inspect.signature(cls).parameters.keys() - {"device", "threads"}
        settings = {name: value for name, value in model.settings.items() if name in names}
        if "seed" in model.settings:
            settings["random_state"] = model.settings["seed"]
        loaded = cls(**({"run": str(folder)} | settings | parameters))
        loaded._take(model)
        return loaded

    def continue_pretraining(self, texts: Any, out: str | Path, *, epochs: float = 1.0, **settings: Any) -> Self:
        """Pre-train the run further on unlabelled texts, into the new run folder `out` (the paper, section 3.1).

        Returns a new estimator, not yet fitted, whose `run` is `out`; this one stays as it is. The run's own recipe is
        followed, except for `settings` (those of `config.Pretrain`: `steps`, `batch`, `optim`); where texts are few,
        batches are smaller and the warm-up is shorter.
        """
        with isolated(self.verbose), TemporaryDirectory() as temporary:
            run, data = str(self.run), str(Path(temporary) / "data")
            settings = asdict(self._parameters(Command)) | {"seed": self._seed()} | settings
            metadata, context = read_metadata(Path(run)), read_shape(Path(run)).context
            corpus = Path(temporary) / "texts.jsonl"
            write_text(corpus, "".join(json.dumps({"text": text}) + "\n" for (text,) in texts_of(texts)))
            prepared = prepare(Prepare(inputs=[str(corpus)], out=data, tokenizer=run, seed=settings["seed"]))
            usual = pretrain_defaults(metadata.preset or "small", metadata.recipe, data=data, out=str(out))
            batch = max(1, min(usual.batch, prepared["train_tokens"] // (context * MIN_UPDATES)))
            steps = max(1, round(epochs * prepared["train_tokens"] / (batch * context)))
            optim = replace(usual.optim, warmup=min(usual.optim.warmup, max(1, steps // WARMUP_SHARE)))
            passes = None if {"steps", "minutes"} & settings.keys() else epochs
            pretrain(replace(usual, **({"init": run, "batch": batch, "epochs": passes, "optim": optim} | settings)))
        return type(self)(**(self.get_params(deep=False) | {"run": str(out)}))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    @abstractmethod
    def _texts(self, X: Any) -> list[Texts]:
        """Return the texts of each row."""

    @abstractmethod
    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        """Return what y asks the model to learn of the rows."""

    @abstractmethod
    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        """Return the labels of validation rows."""

    def _fitted(self, rows: TaskRows, options: FitOptions, on: Command, class_type: str | None) -> FittedModel:
        """Do what `gpt1 finetune` does, without its files."""
        base = load_run(self.run)
        warn_of_faults(rows.train, rows.valid, rows.label_type.kind)
        device, dtype = setup_device(on.device, on.dtype, on.threads, on.seed)
        with out_of_memory(f"lower {setting('batch')}"):
            tuned = fit_best(base, rows, options, device=device, dtype=dtype)
        weights = find_run(self.run) / "model.safetensors"
        model = Source(path=str(weights), sha256=sha256_of(weights))
        metadata = tuned.metadata(model, train=Source(path=None, sha256=_hash(rows.train)))
        metadata = replace(metadata, label_type=class_type)
        target = {"target": rows.label_type.kind} if self.task == "similarity" else {}
        settings = {"run": str(self.run), "task": self.task, **target} | asdict(on) | asdict(options)
        return FittedModel(tuned.as_run(metadata), settings, tuned.curves)

    def _take(self, model: FittedModel) -> None:
        """Store the fine-tuned model and set the attributes of a fitted estimator."""
        self.model_ = model
        self.metrics_ = model.metadata.metrics
        self.n_features_in_ = self.width

    def _predictions(self, X: Any) -> np.ndarray:
        """Return predictions_NC, see `tasks.labels`."""
        check_is_fitted(self)
        before, names = getattr(self, "feature_names_in_", None), names_of(X)
        if before is not None and names and names != list(before):
            raise ValueError(
                "The feature names should match those that were passed during fit: "
                f"they were {', '.join(before)}, not {', '.join(names)}"
            )
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
        names = [field.name for field in fields(kind) if field.name in given]
        return kind(**{name: convert(hints[name], given[name], name) for name in names})

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _labelled(name: str, rows: list[Texts], labels: list[Any]) -> LabelledRows:
    where = [f"row {number} of {name}" for number in range(len(rows))]
    return LabelledRows(rows, labels, where, [row[0] for row in rows])


def _hash(data: LabelledRows) -> str:
    """Return the sha256 of rows that come from no file."""
    labels = [sorted(label) if isinstance(label, frozenset) else label for label in data.labels]
    return hashlib.sha256(json.dumps([data.texts, labels]).encode()).hexdigest()
