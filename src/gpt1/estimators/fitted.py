"""What an estimator learnt: a run folder in memory, which predicts, travels between processes and is written out."""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.config import Command, Predict
from gpt1.console import quiet
from gpt1.errors import UserError
from gpt1.finetuning.predictor import Tuned, at_work
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import LoadedRun, load_run, replacing_run, save_run
from gpt1.run_folder.metadata import read_json
from gpt1.storage import write_json
from gpt1.tasks.labels import Goal, from_facts
from gpt1.tasks.rows import Texts
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import log

FLAG = re.compile(r"--([a-z][a-z-]*)")
TURN = RLock()


@contextmanager
def shielded(verbose: bool = False) -> Iterator[None]:
    """Keep a job from touching the program around it.

    Its news are dropped unless `verbose`, torch's random numbers go on as if nothing had happened, and a wrong request
    is a ValueError. Jobs seed torch, so in threads they take turns.
    """
    with TURN, torch.random.fork_rng(devices=[]), quiet(not verbose):
        try:
            yield
        except UserError as error:
            raise ValueError(FLAG.sub(lambda flag: flag[1].replace("-", "_"), str(error))) from None


@dataclass
class Fitted:
    """A fine-tuned model in memory."""

    bundle: LoadedRun
    settings: dict[str, Any]
    """those it was made with: settings.json"""
    curves: bytes
    """metrics.jsonl"""
    _ready: tuple[Command, Tuned] | None = field(default=None, compare=False, repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """gpt1.json"""
        return self.bundle.info

    @property
    def goal(self) -> Goal:
        """What it tells of a row."""
        return from_facts(self.facts)

    def answers(self, rows: Sequence[Texts], on: Command) -> np.ndarray:
        """answers_NC of rows, see `Goal.answers`; computed on the machine that `on` asks for."""
        if self._ready is None or self._ready[0] != on:
            with shielded():
                self._ready = (on, self._made_ready(on))
        return self._ready[1].answers(rows, Predict.batch)[0]

    def save(self, folder: Path) -> None:
        """Write the run folder, all of it at one stroke."""
        model = self.bundle
        with replacing_run(folder) as staged:
            (staged / log.NAME).write_bytes(self.curves)
            write_json(staged / "settings.json", self.settings)
            save_run(staged, model.body, model.tokenizer, model.info, model.head)

    @classmethod
    def load(cls, folder: Path) -> "Fitted":
        """A fine-tuned run folder. Raises UserError if it is none."""
        model = load_run(folder)
        if model.head is None:
            raise UserError(f"{folder} is pre-trained, not fine-tuned: give it to the constructor, then call fit")
        curves = folder / log.NAME
        return cls(model, read_json(folder / "settings.json"), curves.read_bytes() if curves.exists() else b"")

    def _made_ready(self, on: Command) -> Tuned:
        # The fp32 weights stay as they are, for `save`.
        return at_work(replace(self.bundle, body=copy.deepcopy(self.bundle.body)), on)

    def _head(self) -> Tensor:
        assert self.bundle.head is not None, "a fine-tuned model has a head"
        return self.bundle.head

    def __getstate__(self) -> dict[str, Any]:
        """Weights as arrays, which joblib can share between processes."""
        body = self.bundle.body
        return {
            "config": body.config,
            "weights": {name: weight.detach().numpy() for name, weight in body.state_dict().items()},
            "head": self._head().detach().numpy(),
            "tokenizer": self.bundle.tokenizer.text,
            "info": self.facts,
            "settings": self.settings,
            "curves": self.curves,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        with torch.device("meta"):
            body = GPT(state["config"])
        body.load_state_dict({name: _tensor(array) for name, array in state["weights"].items()}, assign=True)
        tokenizer = Tokenizer(json.loads(state["tokenizer"]))
        self.bundle = LoadedRun(body.eval(), tokenizer, state["info"], _tensor(state["head"]))
        self.settings, self.curves, self._ready = state["settings"], state["curves"], None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array)
