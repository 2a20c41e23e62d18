"""Prediction with a fine-tuned model: rows in, probabilities or numbers out, in input order.

Axes: N rows or examples, C classes, labels or answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt1.config import Columns, Command, Long, Task
from gpt1.data.collate import Example, Label, by_length, collate
from gpt1.model.gpt import GPT
from gpt1.model.objectives import TaskModel, task_losses
from gpt1.model.packed import pack
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.places import check_finetuned
from gpt1.tasks.inputs import TASKS, Frame, fits, truncate
from gpt1.tasks.labels import LabelType, from_metadata
from gpt1.tasks.rows import Texts
from gpt1.tasks.words import WordsModel, WordsShare
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import parallel
from gpt1.training.device import setup_device


@dataclass(frozen=True)
class Examples:
    """Rows as the network reads them."""

    examples: list[Example]
    rows_N: np.ndarray
    """the row that each example was made of; a row that is read in windows has several examples"""
    too_long: int
    """rows that are longer than the context"""

    def mean_by_row(self, values_NC: np.ndarray) -> np.ndarray:
        """Return the mean over each row's examples."""
        return mean_by_row(values_NC, self.rows_N)


@dataclass(frozen=True)
class RowEncoder:
    """Encodes the rows of a task as sequences of token ids (the paper, figure 1)."""

    task: Task
    tokenizer: Tokenizer
    """with the task tokens"""
    context: int
    long: Long = "head"

    def encode(
        self, rows: Sequence[Texts], targets: Sequence[Label] | None = None, weights: Sequence[float] | None = None
    ) -> Examples:
        """Return the examples of rows; `targets` are what the loss compares their scores with, `weights` their weights.

        Each window of a row that is read in windows has the row's weight.
        """
        start, delimiter, extract = self.tokenizer.start_id, self.tokenizer.delimiter_id, self.tokenizer.extract_id
        assert start is not None and delimiter is not None and extract is not None, "a tokenizer without task tokens"
        frame, transform = Frame(start, delimiter, extract, self.context), TASKS[self.task]
        ids = iter(self.tokenizer.encode_batch([text for row in rows for text in row]))
        examples, owners, too_long = [], [], 0
        for n, row in enumerate(rows):
            texts = [next(ids) for _ in row]
            too_long += not fits(texts, frame)
            for version in truncate(texts, frame, self.long):
                target = targets[n] if targets is not None else None
                examples.append(Example(transform(version, frame), target, weights[n] if weights else None))
                owners.append(n)
        return Examples(examples, np.array(owners), too_long)


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model on a device, ready to predict rows."""

    model: TaskModel
    encoder: RowEncoder
    label_type: LabelType
    columns: Columns
    """those of training"""
    device: torch.device
    words: WordsModel | None
    """words alone; None for a run that was made without them"""
    share: WordsShare
    """what the words add to the network's scores"""

    @classmethod
    def build(
        cls,
        body: GPT,
        head_CD: Tensor,
        encoder: RowEncoder,
        label_type: LabelType,
        columns: Columns,
        device: torch.device,
        dtype: torch.dtype,
        words: WordsModel | None = None,
        share: WordsShare | None = None,
    ) -> "Predictor":
        """Return a predictor on a device from a network and its W_y. The body's weights are moved, not copied."""
        model = TaskModel(pack(body.to(device, dtype)), len(head_CD), label_type.kind)
        model.head.weight = nn.Parameter(head_CD.to(device))
        return cls(model.eval(), encoder, label_type, columns, device, words, share or WordsShare())

    @classmethod
    def of_run(cls, run: LoadedRun, device: torch.device, dtype: torch.dtype) -> "Predictor":
        """Return a predictor on a device from a fine-tuned run. The body's weights are moved, not copied."""
        assert run.head is not None, "a fine-tuned run has a head"
        metadata = run.metadata
        assert metadata.task and metadata.columns, "a fine-tuned run has both"
        encoder = RowEncoder(metadata.task, run.tokenizer, run.body.config.context, metadata.long or "head")
        label_type = from_metadata(metadata.to_json())
        share = WordsShare(metadata.words.weight, metadata.words.temperature) if metadata.words else None
        return cls.build(run.body, run.head, encoder, label_type, metadata.columns, device, dtype, run.words, share)

    def predict(self, rows: Sequence[Texts], batch: int) -> tuple[np.ndarray, int]:
        """Return predictions_NC, see `tasks.labels`, and how many rows are longer than the context.

        The prediction for a row that is read in windows is the mean over its windows.
        """
        examples, scores_NC = self.scores(rows, batch)
        return examples.mean_by_row(self.label_type.predictions(scores_NC)), examples.too_long

    def predict_parts(self, rows: Sequence[Texts], batch: int) -> dict[str, np.ndarray]:
        """Return predictions_NC of the `run`, of its `words` if it has them, and of its `network` if both are added."""
        examples, scores_NC = self.network_scores(rows, batch)
        parts = {}
        if self.words:
            words_NC = self.words.scores(rows)
            parts["words"] = self.label_type.predictions(words_NC)
            if self.share.weight:
                parts["network"] = examples.mean_by_row(self.label_type.predictions(scores_NC))
                scores_NC = self.share.add(scores_NC, words_NC[examples.rows_N])
        return parts | {"run": examples.mean_by_row(self.label_type.predictions(scores_NC))}

    def scores(self, rows: Sequence[Texts], batch: int) -> tuple[Examples, np.ndarray]:
        """Return the examples of rows and the scores_NC of them that predictions are made from, words included."""
        examples, scores_NC = self.network_scores(rows, batch)
        if self.words and self.share.weight:
            scores_NC = self.share.add(scores_NC, self.words.scores(rows)[examples.rows_N])
        return examples, scores_NC

    def to_columns(self, prediction_C: np.ndarray, row: Texts) -> dict[str, Any]:
        """Return `predicted_label` and `probabilities` of a row; for a choice, only those of the row's own answers."""
        answers = len(row) - 1 if self.label_type.kind == "choice" else len(prediction_C)
        return self.label_type.to_columns(prediction_C[:answers])

    def network_scores(self, rows: Sequence[Texts], batch: int) -> tuple[Examples, np.ndarray]:
        """Return the examples of rows and the network's scores_NC of them."""
        examples = self.encoder.encode(rows)
        pad_id = self.encoder.tokenizer.pad_id
        return examples, score(self.model, examples.examples, batch, pad_id, self.device)

    def predict_by_words(self, rows: Sequence[Texts]) -> np.ndarray:
        """Return predictions_NC of words alone, which the run must have."""
        assert self.words is not None, "a run that was made without words"
        return self.label_type.predictions(self.words.scores(rows))


def load_predictor(folder: str | Path, settings: Command) -> Predictor:
    """Load a fine-tuned run onto the device that the settings ask for. Raises UserError if it is only pre-trained."""
    check_finetuned(folder)
    run = load_run(folder)
    return Predictor.of_run(run, *setup_device(settings))


@torch.inference_mode()
def score(model: TaskModel, examples: Sequence[Example], batch: int, pad_id: int, device: torch.device) -> np.ndarray:
    """Return scores_NC, float64, in the order of the examples; -inf where a row has fewer answers than another.

    Several processes share the batches out, and each returns all scores.
    """
    model.eval()
    world = parallel.current()
    outputs = max(len(e.sequences) for e in examples) if model.label_kind == "choice" else model.head.out_features
    scores_NC = np.zeros((len(examples), outputs))
    for numbers in by_length(examples, batch)[world.part]:
        chosen = [examples[i] for i in numbers]
        found = model.scores(collate(chosen, pad_id, model.body.config.context).to(device))
        scores_NC[numbers] = -np.inf
        scores_NC[numbers, : found.shape[1]] = found.cpu().double().numpy()  # Apple's GPUs lack float64
    world.sum_tensors([torch.from_numpy(scores_NC)])
    return scores_NC


def mean_by_row(values_NC: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
    """Return the mean over each row's examples; `rows_N` is the row of each example."""
    counts_N = np.bincount(rows_N)
    sums_NC = np.zeros((len(counts_N), values_NC.shape[1]))
    np.add.at(sums_NC, rows_N, values_NC)
    return sums_NC / counts_N[:, None]


def losses(label_type: LabelType, scores_NC: np.ndarray, labels: Sequence[Any]) -> np.ndarray:
    """Return L2 of each row, in nats."""
    targets_N = torch.tensor([label_type.target(label) for label in labels])
    return task_losses(label_type.kind, torch.from_numpy(scores_NC), targets_N).numpy()


def mean_loss(label_type: LabelType, scores_NC: np.ndarray, labels: Sequence[Any]) -> float:
    """Return L2 in nats a row."""
    return float(losses(label_type, scores_NC, labels).mean())
