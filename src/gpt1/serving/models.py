"""The runs that a server holds, by name."""

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.finetuning.explanation import explain_row
from gpt1.finetuning.predictor import Predictor
from gpt1.model.gpt import GPT
from gpt1.results import Result
from gpt1.run_folder.embedding import embed
from gpt1.run_folder.explanation import explain_text
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.generation import prepare_for_inference
from gpt1.run_folder.places import named_runs
from gpt1.run_folder.starter import find_run
from gpt1.tasks.rows import Texts, read_texts
from gpt1.tasks.typed_rows import row_of_texts
from gpt1.tokenizer.tokenizer import Tokenizer

PREDICT_BATCH = 64


@dataclass(frozen=True)
class ServedModel:
    """A run, ready to answer."""

    name: str
    folder: Path
    """where it was loaded from"""
    run: LoadedRun
    """as loaded: fp32, on the CPU"""
    body: GPT
    """the network on its device, in the form that is fastest there"""
    predictor: Predictor | None
    """None for a run that is only pre-trained"""
    exact: GPT
    """the network as `gpt1 explain` uses it: in fp32, unless bf16 was asked for"""
    exact_predictor: Predictor | None
    created: int
    """when it was loaded, seconds since 1970"""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return self.run.tokenizer

    @property
    def context(self) -> int:
        """Tokens the model reads at once."""
        return self.body.config.context

    def predict(self, rows: Sequence[Texts]) -> list[dict[str, Any]]:
        """Return what `gpt1 predict` adds to each row; the run must be fine-tuned."""
        assert self.predictor
        predictions_NC, _ = self.predictor.predict(rows, PREDICT_BATCH)
        return [self.predictor.to_columns(one_C, row) for one_C, row in zip(predictions_NC, rows, strict=True)]

    def embed(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the vector of each text, given as token ids."""
        return list(embed(self.body, texts))

    def row(self, texts: Sequence[str]) -> Texts:
        """Return texts as a row of the run, which must be fine-tuned. Raises UserError if its task reads other ones."""
        assert self.predictor
        return read_texts(*row_of_texts(texts, self.predictor.encoder.task, self.predictor.columns))

    def sequences(self, row: Texts) -> tuple[list[list[int]], bool]:
        """Return the sequences that a row is read as, and whether the row is longer than what is read of it."""
        assert self.predictor
        encoder = self.predictor.encoder
        read = encoder.encode([row])
        is_cut = read.too_long > 0 and encoder.long != "windows"
        return [list(ids) for example in read.examples for ids in example.sequences], is_cut

    def explain(self, asked: Sequence[tuple[str, int] | Texts]) -> list[dict[str, Any]]:
        """Return what `gpt1 explain` prints of each text, given with a number of alternatives to a token, or row."""
        return [self._explain(one).to_json() for one in asked]

    def _explain(self, asked: tuple[str, int] | Texts) -> Result:
        match asked:
            case (str(text), int(top)):
                return explain_text(self.run, self.exact, text, top)
            case row:
                assert self.exact_predictor
                return explain_row(self.exact_predictor, row)

    def describe(self) -> dict[str, Any]:
        """Return what `GET /v1/models` says of it."""
        metadata, config = self.run.metadata, self.body.config
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "gpt1",
            "kind": metadata.kind,
            "task": metadata.task,
            "labels": metadata.labels,
            "columns": asdict(metadata.columns) if metadata.columns else None,
            "context": config.context,
            "vocabulary": config.vocabulary,
            "parameters": metadata.parameters,
        }


def load_models(
    runs: Iterable[str], device: torch.device, dtype: torch.dtype, is_exact: bool = True
) -> dict[str, ServedModel]:
    """Load runs onto a device, by name; with `is_exact`, explanations are computed in fp32, on the CPU.

    Raises UserError for two runs of one name, or for what is not a run.
    """
    models = {}
    for name, folder in named_runs(runs).items():
        run = load_run(folder)
        is_loaded_form = (device.type, dtype) == ("cpu", torch.float32)
        needs_both = is_exact and not is_loaded_form
        body = prepare_for_inference(copy.deepcopy(run.body) if needs_both else run.body, device, dtype)
        predictor = exact = None
        if run.head is not None:
            predictor = exact = Predictor.of_run(replace(run, body=body), device, dtype)
            if needs_both:
                exact = Predictor.of_run(run, torch.device("cpu"), torch.float32)
        models[name] = ServedModel(
            name, find_run(folder), run, body, predictor, run.body if needs_both else body, exact, int(time.time())
        )
    return models
