"""What the estimators of all tasks share: scikit-learn's contract around `gpt1 finetune` on rows in memory."""

import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from gpt1.config import Command, Finetune, Long, Select, Task
from gpt1.data.journal import sha256_of
from gpt1.errors import UserError
from gpt1.estimators.continued import continued
from gpt1.estimators.fitted import Fitted, shielded
from gpt1.estimators.inputs import names_of, texts_of
from gpt1.finetuning.data import made_ready
from gpt1.finetuning.defaults import check, check_place, settle
from gpt1.finetuning.sweep import facts_of, run_trials
from gpt1.options import convert
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.tasks.columns import Columns
from gpt1.tasks.labels import Goal
from gpt1.tasks.rows import Labelled, Texts, split, warn

MACHINE = ("device", "dtype", "threads")
"""Parameters that say where the work is done, not what is learnt."""


@dataclass(frozen=True)
class Targets:
    """What y asks the model to tell."""

    goal: Goal
    labels: list[Any]
    """of each row, see `Labelled`"""
    facts: dict[str, Any]
    """what gpt1.json must remember beside the goal"""


class TextEstimator(BaseEstimator):
    """A pre-trained run, fine-tuned by `fit` (the paper, section 3.2).

    The parameters are the settings of `gpt1 finetune`, where 0 lets the rows and the model decide; `random_state` is
    its seed. `fit` makes `metrics_`, those of the best epoch on the validation rows, and `n_features_in_`. Wrong
    parameters and rows raise ValueError or TypeError. With `verbose`, progress is told on standard error.
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
        self.device = device
        self.dtype = dtype
        self.threads = threads
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None) -> Self:
        """Fine-tune the run on rows X, of which y is to be told; keep the epoch that is best on the validation rows.

        X and y are lists, arrays, or Series and DataFrames of pandas or polars. Without X_valid and y_valid, a tenth
        of the rows validates.
        """
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        rows = self._rows(X)
        check_consistent_length(rows, y)
        if (X_valid is None) != (y_valid is None):
            raise ValueError("X_valid and y_valid belong together; give both or neither")
        if X_valid is None and len(rows) < 2:
            raise ValueError("X has 1 sample; two or more are needed, as one of them validates")
        targets = self._targets(y, rows)
        columns = self._columns(X, y)
        learnt = _labelled("X", rows, targets.labels)
        with shielded(self.verbose), TemporaryDirectory() as scratch:
            settings = self._settings(Path(scratch) / "run", targets.goal)
            check(settings)
            valid = None
            if X_valid is not None:
                held_out = self._rows(X_valid)
                check_consistent_length(held_out, y_valid)
                valid = _labelled("X_valid", held_out, self._labels(y_valid, held_out, targets))
            model = _fitted(settings, columns, targets, learnt, valid, Path(scratch))
        self._take(model)
        if names := names_of(X):
            self.feature_names_in_: np.ndarray = np.array(names, dtype=object)
        return self

    def save(self, folder: str | Path) -> None:
        """Write what was learnt as a run folder, as `gpt1 finetune` does; `gpt1 predict` and transformers read it too.

        Replaces a fine-tuned run that may be there.
        """
        check_is_fitted(self)
        folder = Path(folder)
        with shielded():
            check_place(folder)
            self.model_.save(folder)

    @classmethod
    def load(cls, folder: str | Path, **parameters: Any) -> Self:
        """A fitted estimator from a run folder that `save` or `gpt1 finetune` wrote for the same task.

        Its parameters are the settings of the run, but for those given, the device and the threads.
        """
        with shielded():
            model = Fitted.load(Path(folder))
            if (task := model.facts["task"]) != cls.task:
                raise UserError(f"{folder} is fine-tuned for {task}, not for {cls.task}, what {cls.__name__} is for")
        known = inspect.signature(cls).parameters
        elsewhere = {"device", "threads"}
        settings = {name: value for name, value in model.settings.items() if name in known.keys() - elsewhere}
        seed = {"random_state": model.settings["seed"]}
        loaded = cls(**(settings | seed | parameters))
        loaded._take(model)
        return loaded

    def continue_pretraining(self, texts: Any, out: str | Path, *, epochs: float = 1.0, **settings: Any) -> Self:
        """Pre-train the run further on unlabelled texts, into the new run folder `out` (the paper, section 3.1).

        Returns a new estimator, not yet fitted, whose `run` is `out`; this one stays as it is. `settings` are those of
        `config.Pretrain` (`steps`, `batch`, `optim`); without them the base's own recipe is followed.
        """
        with shielded(self.verbose):
            found = [text for (text,) in texts_of(texts)]
            machine = {name: getattr(self, name) for name in MACHINE}
            continued(str(self.run), found, str(out), epochs, {"seed": self._seed(), **machine, **settings})
        return type(self)(**(self.get_params(deep=False) | {"run": str(out)}))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    @abstractmethod
    def _rows(self, X: Any) -> list[Texts]:
        """What the model reads of the rows."""

    @abstractmethod
    def _targets(self, y: Any, rows: Sequence[Texts]) -> Targets:
        """What it learns to tell of them."""

    @abstractmethod
    def _labels(self, y: Any, rows: Sequence[Texts], targets: Targets) -> list[Any]:
        """The labels of validation rows."""

    def _take(self, model: Fitted) -> None:
        """Become fitted."""
        self.model_ = model
        self.metrics_ = model.facts["metrics"]
        self.n_features_in_ = self.width

    def _answers(self, X: Any) -> np.ndarray:
        """answers_NC, see `Goal.answers`."""
        check_is_fitted(self)
        self._check_names(X)
        rows = self._rows(X)
        return self.model_.answers(rows, Command(device=self.device, dtype=self.dtype, threads=self.threads))

    def _check_names(self, X: Any) -> None:
        before, names = getattr(self, "feature_names_in_", None), names_of(X)
        if before is not None and names and names != list(before):
            raise ValueError(
                "The feature names should match those that were passed during fit: "
                f"they were {', '.join(before)}, not {', '.join(names)}"
            )

    def _columns(self, X: Any, y: Any) -> Columns:
        """What the columns of a table for the saved run are called."""
        usual, names, label = self.columns, names_of(X), getattr(y, "name", None)
        texts, choices = usual.texts, usual.choices
        if names and choices:
            texts, choices = names[:1], names[1:]
        elif names:
            texts = names
        named = isinstance(label, str) and label and label not in (*texts, *choices)
        return Columns(texts, [str(label)] if named else usual.label, choices)

    def _settings(self, out: Path, goal: Goal) -> Finetune:
        kinds = get_type_hints(Finetune)
        values = {name: value for name, value in self.get_params(deep=False).items() if name in kinds and name != "run"}
        given = {name: convert(kinds[name], value, name) for name, value in values.items()}
        if self.task == "similarity":
            given["target"] = goal.kind
        return Finetune(run=str(self.run), train="", out=str(out), task=self.task, seed=self._seed(), **given)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _labelled(name: str, rows: list[Texts], labels: list[Any]) -> Labelled:
    where = [f"row {number} of {name}" for number in range(len(rows))]
    return Labelled(rows, labels, where, [row[0] for row in rows])


def _fitted(
    settings: Finetune, columns: Columns, targets: Targets, learnt: Labelled, valid: Labelled | None, scratch: Path
) -> Fitted:
    """What `gpt1 finetune` does, without its files."""
    base = load_run(settings.run)
    if valid is None:
        learnt, valid = split(learnt, settings.seed)
    warn(learnt, valid, targets.goal.kind)
    settings = settle(settings, len(learnt.rows), base.body.config.width)
    data = made_ready(settings, targets.goal, learnt, valid, base)
    trial, told = run_trials(settings, data, base.body, scratch)
    weights = Path(settings.run) / "model.safetensors"
    sources: dict[str, dict[str, Any]] = {
        "model": {"path": str(weights), "sha256": sha256_of(weights)},
        "train": {"path": None, "sha256": _hash(learnt), "rows": len(learnt.rows)},
    }
    facts = facts_of(trial.best, columns, base.info, sources) | told | targets.facts
    model = LoadedRun(trial.best.body.eval(), data.reader.tokenizer, facts, trial.best.head)
    return Fitted(model, asdict(settings), trial.curves)


def _hash(data: Labelled) -> str:
    """sha256 of rows that lie in no file."""
    labels = [sorted(label) if isinstance(label, frozenset) else label for label in data.labels]
    return hashlib.sha256(json.dumps([data.texts, labels]).encode()).hexdigest()
