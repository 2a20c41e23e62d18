"""A fine-tuned model at work: texts -> probabilities of the classes, in the order the texts came."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gpt1.config import Evaluate, Predict
from gpt1.data.collate import Example, by_length, collate
from gpt1.data.tasks import Frame, classification, fits
from gpt1.errors import UserError
from gpt1.jobs import bundle
from gpt1.nn.objectives import TaskModel
from gpt1.nn.reading import packed
from gpt1.text.tokenizer import Tokenizer
from gpt1.train.parallel import machine


@dataclass(frozen=True)
class Classifier:
    """A model and what turns rows into its input and its output into names."""

    model: TaskModel
    tokenizer: Tokenizer
    labels: list[str]
    text: str
    """column of the text in training"""
    label: str
    """column of the label in training"""
    device: torch.device

    def probabilities(self, texts: Sequence[str], batch: int) -> tuple[np.ndarray, int]:
        """probabilities_NC, float64, and how many texts were too long and cut."""
        examples, cut = make_examples(texts, self.tokenizer, self.model.body.config.context)
        scores_NC = score(self.model, examples, batch, self.tokenizer.pad_id, self.device)
        return torch.from_numpy(scores_NC).softmax(-1).numpy(), cut


def load(settings: Predict | Evaluate) -> Classifier:
    """The fine-tuned run of the settings, on the device they ask for. Raises UserError if it is only pre-trained."""
    if settings.batch < 1:
        raise UserError(f"--batch {settings.batch} must be at least 1")
    device, dtype = machine(settings)
    loaded = bundle.load(settings.run)
    if loaded.head is None:
        raise UserError(
            f"{settings.run} is pre-trained, not fine-tuned: it knows no classes; "
            f"make a classifier with `gpt1 finetune {settings.run} --train FILE --out RUN2`"
        )
    model = TaskModel(packed(loaded.body.to(device, dtype)), len(loaded.head))
    model.head.weight = nn.Parameter(loaded.head.to(device, dtype))
    columns = loaded.info["columns"]
    return Classifier(model, loaded.tokenizer, loaded.info["labels"], columns["text"], columns["label"], device)


def make_examples(
    texts: Sequence[str], tokenizer: Tokenizer, context: int, labels: Sequence[int] | None = None
) -> tuple[list[Example], int]:
    """The model's input for each text, and how many texts were too long and cut."""
    ids = tokenizer.encode_batch(list(texts))
    kept = frame(tokenizer, context)
    known: Sequence[int | None] = labels if labels is not None else [None] * len(ids)
    examples = [Example(classification(text, kept), label) for text, label in zip(ids, known, strict=True)]
    return examples, sum(not fits(text, kept) for text in ids)


def frame(tokenizer: Tokenizer, context: int) -> Frame:
    """The special tokens of stage two, which the tokenizer of a fine-tuned model has."""
    start, delimiter, extract = tokenizer.start_id, tokenizer.delimiter_id, tokenizer.extract_id
    assert start is not None and delimiter is not None and extract is not None, "a tokenizer without task tokens"
    return Frame(start, delimiter, extract, context)


@torch.inference_mode()
def score(model: TaskModel, examples: Sequence[Example], batch: int, pad_id: int, device: torch.device) -> np.ndarray:
    """scores_NC, float64, in the order of the examples."""
    model.eval()
    scores_NC = np.zeros((len(examples), model.head.out_features))
    for numbers in by_length(examples, batch):
        chosen = [examples[i] for i in numbers]
        found = model.scores(collate(chosen, pad_id, model.body.config.context).to(device))
        scores_NC[numbers] = found.double().cpu().numpy()
    return scores_NC
