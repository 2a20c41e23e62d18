"""A pre-training run in progress: its parts, and what is done with it between updates."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from gpt1.config import Pretrain
from gpt1.console import say
from gpt1.errors import RunFailed, UserError
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.defaults import Data, steps_of_epochs
from gpt1.run_folder.folder import LoadedRun, load_run, save_run
from gpt1.run_folder.metadata import PretrainingData, RunMetadata
from gpt1.training import checkpoint
from gpt1.training.device import compiler_error, prepare_for_training
from gpt1.training.likelihood import likelihood
from gpt1.training.log import Log
from gpt1.training.optimizer import Optimizer

SAMPLE_TOKENS = 40
LONG_MINUTES, LONG_WORK = 5.0, 3e14
"""Minutes, or floating-point operations, of a run that repays half a minute of compiling."""


@dataclass(frozen=True)
class Run:
    """A run in progress."""

    folder: Path
    settings: Pretrain
    steps: int
    data: Data
    model: LanguageModel
    optimizer: Optimizer
    log: Log
    device: torch.device

    def validate(self, step: int, limit: int = 0) -> dict[str, float]:
        """Log and return the validation loss; `limit` windows give an estimate. Raises RunFailed if it is no number."""
        with torch.compiler.set_stance("force_eager"):  # its shapes are not those of training
            found = likelihood(self.model.body, self.data.val, self.data.tokenizer.end_id, limit)
        if not math.isfinite(found.nats_per_token):
            raise RunFailed(
                f"update {step:,}: the validation loss is not a number any more; "
                "start over with a lower --optim.lr and --optim.matrix-lr, and --fresh"
            )
        split = self.data.manifest.val
        values = {
            "val_nats_per_token": found.nats_per_token,
            "val_bits_per_byte": found.bits_per_byte(split.tokens / split.bytes),
        }
        self.log.add(step, **values)
        return values

    def sample(self, step: int) -> str:
        """Log and return a short text from the model as it is."""
        model = LoadedRun(self.model.body.eval(), self.data.tokenizer, RunMetadata(kind="pretrained"))
        with torch.compiler.set_stance("force_eager"):
            found = model.generate(self.settings.sample, max_new_tokens=SAMPLE_TOKENS, seed=self.settings.seed)
        self.log.add(step, sample=self.settings.sample + found["text"])
        return self.settings.sample + found["text"]

    def save(self, step: int, **metrics: float) -> None:
        """Write the training state, then the model that others load."""
        checkpoint.save(self.folder, step, self.optimizer.state(), {"data": self.data.manifest.fingerprint})
        save_run(self.folder, self._masters(), self.data.tokenizer, self._facts(step, metrics))
        self.log.flush()

    def _masters(self) -> GPT:
        """The network with its fp32 masters, sharing their memory."""
        with torch.device("meta"):
            body = GPT(self.settings.model)
        masters = {name.removeprefix("body."): m.detach() for name, m in self.optimizer.masters.items()}
        body.load_state_dict(masters, assign=True)
        return body

    def _facts(self, step: int, metrics: dict[str, float]) -> RunMetadata:
        settings = self.settings
        return RunMetadata(
            kind="pretrained",
            preset=settings.preset,
            recipe=settings.recipe,
            seed=settings.seed,
            steps=step,
            of_steps=self.steps,
            tokens_seen=step * settings.batch * settings.model.context,
            data=PretrainingData.of(self.data.manifest),
            metrics=metrics,
        )


def build(settings: Pretrain, steps: int, device: torch.device, dtype: torch.dtype) -> tuple[LanguageModel, Optimizer]:
    """A model ready for its first update, and its optimizer."""
    if settings.init:
        body = load_run(settings.init).body
    else:
        body = GPT(settings.model).init_weights(torch.Generator().manual_seed(settings.seed))
    # The optimizer copies its fp32 masters before the weights lose precision.
    model = LanguageModel(body).to(device)
    optimizer = Optimizer(model, settings.optim, steps)
    prepare_for_training(model, device, compile=settings.compile == "on")
    return model.to(dtype), optimizer


def compiling(settings: Pretrain, data: Data, device: torch.device) -> Literal["on", "off"]:
    """Whether to compile this run. Raises UserError if that was asked for and cannot be."""
    model, steps = settings.model, settings.steps or steps_of_epochs(settings, data)
    weights = model.depth * (4 * model.width**2 + 2 * model.width * model.inner) + model.vocabulary * model.width
    work = 6 * weights * steps * settings.batch * model.context
    is_long = settings.minutes >= LONG_MINUTES if settings.minutes else work >= LONG_WORK
    if settings.compile == "off" or (settings.compile == "auto" and not is_long):
        return "off"
    if not (error := compiler_error(device)):
        return "on"
    if settings.compile == "on":
        raise UserError(f"--compile on: the compiler does not work here ({error}); use --compile off")
    say(f"training without compiled kernels: the compiler does not work here ({error})")
    return "off"
