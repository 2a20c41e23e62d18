"""What an estimator has learned: a fine-tuned run in memory, which predicts, is pickled, and is saved as a folder."""

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch

from gpt1.config import Command, Predict
from gpt1.console import python_warnings, quiet
from gpt1.errors import UserError
from gpt1.finetuning.fit import save_finetuned
from gpt1.finetuning.predictor import Predictor
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.metadata import RunMetadata, read_json
from gpt1.tasks.labels import LabelType, from_metadata
from gpt1.tasks.rows import Texts
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import log
from gpt1.training.device import preserve_torch_state, setup_device, use_threads

_turns = {"lock": RLock()}
if hasattr(os, "register_at_fork"):  # a thread that has the lock does not exist in the child
    os.register_at_fork(after_in_child=lambda: _turns.update(lock=RLock()))


@contextmanager
def isolated(verbose: bool = False) -> Iterator[None]:
    """Keep a job from affecting the program around it.

    Messages are dropped unless `verbose`, but warnings become Python's; torch's threads and random state are restored.
    Jobs seed torch, so those of several threads take turns.
    """
    with _turns["lock"], preserve_torch_state(), quiet(not verbose), python_warnings():
        yield


@dataclass
class FittedModel:
    """A fine-tuned model in memory."""

    run: LoadedRun
    settings: dict[str, Any] = field(repr=False)
    """those it was made with: settings.json; none of a converted run"""
    curves: bytes = field(repr=False)
    """metrics.jsonl"""
    _predictor: tuple[Command, Predictor] | None = field(default=None, compare=False, repr=False)

    @property
    def metadata(self) -> RunMetadata:
        """The content of gpt1.json."""
        return self.run.metadata

    @property
    def label_type(self) -> LabelType:
        """The label type of the run, see `tasks.labels`."""
        return from_metadata(self.metadata.to_json())

    def predict(self, rows: Sequence[Texts], on: Command) -> np.ndarray:
        """Return predictions_NC, see `tasks.labels`, computed on the device that `on` asks for."""
        if self._predictor is None or self._predictor[0] != on:
            with isolated():
                # A copy, since the fp32 weights must stay as they are for `save`.
                run = replace(self.run, body=copy.deepcopy(self.run.body))
                self._predictor = on, Predictor.of_run(run, *setup_device(on))
        with use_threads(on.threads):
            return self._predictor[1].predict(rows, Predict.batch)[0]

    def save(self, folder: Path) -> None:
        """Write the run folder, all files together."""
        save_finetuned(folder, self.run, self.settings, self.curves)

    @classmethod
    def load(cls, folder: Path) -> "FittedModel":
        """Load a fine-tuned run folder. Raises UserError if it is only pre-trained."""
        run = load_run(folder)
        if run.head is None:
            raise UserError(f"{folder} is pre-trained, not fine-tuned: give it to the constructor, then call fit")
        settings, curves = folder / "settings.json", folder / log.NAME
        return cls(
            run,
            read_json(settings) if settings.exists() else {},
            curves.read_bytes() if curves.exists() else b"",
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with weights as arrays, which joblib can share between processes."""
        body, head = self.run.body, self.run.head
        assert head is not None, "a fine-tuned run has a head"
        return {
            "config": body.config,
            "weights": {name: weight.detach().numpy() for name, weight in body.state_dict().items()},
            "head": head.detach().numpy(),
            "words": self.run.words,
            "tokenizer": self.run.tokenizer.text,
            "metadata": self.metadata,
            "settings": self.settings,
            "curves": self.curves,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        weights = {name: torch.tensor(array) for name, array in state["weights"].items()}
        body = GPT.from_weights(state["config"], weights)
        tokenizer, head_CD = Tokenizer(json.loads(state["tokenizer"])), torch.tensor(state["head"])
        self.run = LoadedRun(body.eval(), tokenizer, state["metadata"], head_CD, state["words"])
        self.settings, self.curves, self._predictor = state["settings"], state["curves"], None
