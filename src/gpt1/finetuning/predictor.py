"""A fine-tuned model at work: rows -> answers, in the order the rows came."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gpt1.config import Command, Long, Task
from gpt1.data.collate import Example, Label, by_length, collate
from gpt1.errors import UserError
from gpt1.model.objectives import TaskModel
from gpt1.model.packed import packed
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.tasks.columns import Columns
from gpt1.tasks.inputs import TASKS, Frame, fits, fitted
from gpt1.tasks.labels import Goal, from_facts
from gpt1.tasks.rows import Texts
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import machine


@dataclass(frozen=True)
class Examples:
    """Rows as the model reads them."""

    examples: list[Example]
    owners_N: np.ndarray
    """the row that each example belongs to; one of several windows is an example of its own"""
    cut: int
    """rows that are longer than the context"""

    def by_row(self, values_NC: np.ndarray) -> np.ndarray:
        """The mean over each row's examples."""
        counts_N = np.bincount(self.owners_N)
        sums_NC = np.zeros((len(counts_N), values_NC.shape[1]))
        np.add.at(sums_NC, self.owners_N, values_NC)
        return sums_NC / counts_N[:, None]


@dataclass(frozen=True)
class Reader:
    """How a task's rows become the model's input."""

    task: Task
    tokenizer: Tokenizer
    context: int
    long: Long = "head"

    def examples(self, rows: Sequence[Texts], labels: Sequence[Label] | None = None) -> Examples:
        """The examples of rows, and what the loss is to compare their scores with."""
        frame, transform = self._frame(), TASKS[self.task]
        ids = iter(self.tokenizer.encode_batch([text for row in rows for text in row]))
        found, owners, cut = [], [], 0
        for n, row in enumerate(rows):
            texts = [next(ids) for _ in row]
            cut += not fits(texts, frame)
            for version in fitted(texts, frame, self.long):
                found.append(Example(transform(version, frame), labels[n] if labels is not None else None))
                owners.append(n)
        return Examples(found, np.array(owners), cut)

    def _frame(self) -> Frame:
        start, delimiter, extract = self.tokenizer.start_id, self.tokenizer.delimiter_id, self.tokenizer.extract_id
        assert start is not None and delimiter is not None and extract is not None, "a tokenizer without task tokens"
        return Frame(start, delimiter, extract, self.context)


@dataclass(frozen=True)
class Tuned:
    """A model, what turns rows into its input, and what its output means."""

    model: TaskModel
    reader: Reader
    goal: Goal
    columns: Columns
    """those of training"""
    device: torch.device

    def answers(self, rows: Sequence[Texts], batch: int) -> tuple[np.ndarray, int]:
        """answers_NC, see `Goal.answers`, and how many rows were longer than the context.

        The answer of a row in windows is the mean of theirs.
        """
        found = self.reader.examples(rows)
        scores_NC = score(self.model, found.examples, batch, self.reader.tokenizer.pad_id, self.device)
        return found.by_row(self.goal.answers(scores_NC)), found.cut


def load(folder: str | Path, settings: Command) -> Tuned:
    """A fine-tuned run, on the device the settings ask for. Raises UserError if it is only pre-trained."""
    loaded = load_run(folder)
    if loaded.head is None:
        raise UserError(
            f"{folder} is pre-trained, not fine-tuned: it knows no classes; "
            f"make a classifier with `gpt1 finetune {folder} --train FILE --out RUN2`"
        )
    return at_work(loaded, settings)


def at_work(loaded: LoadedRun, on: Command) -> Tuned:
    """A fine-tuned model on the device that `on` asks for; its body's weights are taken over, not copied."""
    device, dtype = machine(on)
    assert loaded.head is not None, "a fine-tuned model has a head"
    goal, info = from_facts(loaded.info), loaded.info
    model = TaskModel(packed(loaded.body.to(device, dtype)), len(loaded.head), goal.kind)
    model.head.weight = nn.Parameter(loaded.head.to(device))
    reader = Reader(info["task"], loaded.tokenizer, loaded.body.config.context, info["long"])
    return Tuned(model.eval(), reader, goal, Columns(**info["columns"]), device)


@torch.inference_mode()
def score(model: TaskModel, examples: Sequence[Example], batch: int, pad_id: int, device: torch.device) -> np.ndarray:
    """scores_NC, float64, in the order of the examples; -inf where a row has fewer answers than another."""
    model.eval()
    outputs = max(len(e.sequences) for e in examples) if model.goal == "choice" else model.head.out_features
    scores_NC = np.full((len(examples), outputs), -np.inf)
    for numbers in by_length(examples, batch):
        chosen = [examples[i] for i in numbers]
        found = model.scores(collate(chosen, pad_id, model.body.config.context).to(device))
        scores_NC[numbers, : found.shape[1]] = found.double().cpu().numpy()
    return scores_NC
