"""A pre-training run: its model and optimizer, and the loop that trains, validates, samples and saves."""

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from gpt1.config import Pretrain
from gpt1.console import bar, say
from gpt1.data.windows import Stream, Windows
from gpt1.errors import RunFailed, UserError, setting
from gpt1.model.gpt import GPT, count_parameters
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.defaults import PreparedData
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.generation import Generation, GenerationOptions, generate_texts
from gpt1.run_folder.metadata import PretrainingData, RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import checkpoint, log
from gpt1.training.device import compiler_error, prepare_for_training
from gpt1.training.interrupt import stop_requested
from gpt1.training.likelihood import Likelihood, likelihood
from gpt1.training.loop import StepReport, train
from gpt1.training.optimizer import Optimizer, learning_rate

# Validations in a run, unless `eval_every` is given.
VALIDATIONS = 10
# Windows that an interim validation reads; the last one reads all of the validation text.
VALIDATION_WINDOWS = 64
SAMPLE_TOKENS = 40
# Minutes, or floating-point operations, from which a run is long enough to repay half a minute of compiling.
LONG_MINUTES, LONG_WORK = 5.0, 3e14


@dataclass(frozen=True)
class PretrainingRun:
    """A run in progress, in its folder."""

    folder: Path
    settings: Pretrain
    """resolved, with the number of `steps`"""
    data: PreparedData
    model: LanguageModel
    optimizer: Optimizer
    log: log.Log
    device: torch.device

    def train(self, start: int) -> None:
        """Make the updates from `start` to the end, with validations, samples and checkpoints in between.

        Raises KeyboardInterrupt, after saving, if a stop is requested, and RunFailed if a loss is not finite.
        """
        settings, steps = self.settings, self.optimizer.steps
        eval_every, save_every = intervals(steps, settings.eval_every, settings.save_every)
        windows = Windows(self.data.train, settings.model.context, settings.batch, settings.micro_batch, settings.seed)
        reports = train(
            self.model, windows, self.optimizer,
            weights={"lm": 1.0}, steps=steps, start=start, seed=settings.seed, device=self.device,
        )  # fmt: skip
        # A GPU is still working on an update when its report comes: log it one update later instead of waiting.
        lag = 0 if self.device.type == "cpu" else 1
        pending: list[StepReport] = []
        speeds: list[float] = []
        with stop_requested() as is_stopping, bar("{task.fields[state]}") as progress:
            task = progress.add_task("pretrain", total=steps, completed=start, done_before=start, state="")

            def log_pending(keep: int) -> None:
                while len(pending) > keep:
                    report = pending.pop(0)
                    self._log_update(report)
                    speeds.append(report.tokens / report.seconds)
                    state = f"loss {report.losses['lm']:.3f}  {statistics.median(speeds[-20:]):,.0f} tokens/s"
                    progress.update(task, completed=report.step, state=state)

            for report in reports:
                pending.append(report)
                is_last, is_validation = report.step == steps, report.step % eval_every == 0
                log_pending(0 if is_last or is_validation else lag)
                if is_last:
                    break  # `finish` validates and saves
                if is_validation:
                    self.validate(report.step, VALIDATION_WINDOWS)
                stopping = is_stopping()
                if report.step % save_every == 0 or stopping:
                    log_pending(0)
                    self.save(report.step)
                if stopping:
                    raise KeyboardInterrupt(
                        f"stopped after update {report.step:,}; the same command continues from there"
                    )

    def finish(self, started: float) -> None:
        """Validate on everything and save the finished run; `started` is `time.perf_counter()` at its beginning."""
        metrics = self.validate(self.optimizer.steps)
        self.log.flush()
        speeds = [row["tokens"] / row["seconds"] for row in log.read(self.folder) if "tokens" in row]
        seconds = time.perf_counter() - started
        metrics = {"seconds": seconds, "tokens_per_second": statistics.median(speeds), **metrics}
        self.save(self.optimizer.steps, metrics)

    def validate(self, step: int, windows: int = 0) -> dict[str, float]:
        """Log and show the validation loss, estimated from some `windows` if given, and a sample; return the loss."""
        found = validation_likelihood(self.model.body, self.data.val, self.data.tokenizer.end_id, step, windows)
        val = self.data.manifest.val
        metrics = {
            "val_nats_per_token": found.nats_per_token,
            "val_bits_per_byte": found.bits_per_byte(val.tokens / val.bytes),
        }
        text = sample(self.model.body, self.data.tokenizer, self.settings.sample, self.settings.seed)
        self.log.add(step, **metrics)
        self.log.add(step, sample=text)
        say(
            f"update {step:,}: validation {metrics['val_nats_per_token']:.3f} nats a token, "
            f"{metrics['val_bits_per_byte']:.3f} bits a byte | {' '.join(text.split())[:160]}"
        )
        return metrics

    def save(self, step: int, metrics: dict[str, float] | None = None) -> None:
        """Write the training state, then the model."""
        settings = self.settings
        metadata = RunMetadata(
            kind="pretrained",
            preset=settings.preset,
            recipe=settings.recipe,
            seed=settings.seed,
            steps=step,
            of_steps=self.optimizer.steps,
            tokens_seen=step * settings.batch * settings.model.context,
            data=PretrainingData.of(self.data.manifest),
            metrics=metrics or {},
        )
        save_state_and_run(self.folder, step, self.model.body, self.optimizer, self.data.tokenizer, metadata)
        self.log.flush()

    def _log_update(self, report: StepReport) -> None:
        optim = self.settings.optim
        lr = optim.lr * learning_rate(report.step - 1, self.optimizer.steps, optim)
        measured = {"grad_norm": report.grad_norm, "tokens": report.tokens, "seconds": report.seconds}
        self.log.add(report.step, lm=report.losses["lm"], lr=lr, **measured)


def build(settings: Pretrain, steps: int, device: torch.device, dtype: torch.dtype) -> tuple[LanguageModel, Optimizer]:
    """Return a model ready for its first update, and its optimizer."""
    if settings.init:
        body = load_run(settings.init).body
    else:
        body = GPT(settings.model).init_weights(torch.Generator().manual_seed(settings.seed))
    model = LanguageModel(body).to(device)
    optimizer = Optimizer(model, settings.optim, steps)  # copies its fp32 masters before the weights lose precision
    prepare_for_training(model, device, compile=settings.compile == "on")
    return model.to(dtype), optimizer


def validation_likelihood(body: GPT, val: Stream, end_id: int, step: int, windows: int = 0) -> Likelihood:
    """Return the likelihood of the validation text, estimated from some `windows` if given.

    Raises RunFailed, naming the update `step`, if it is not finite.
    """
    with torch.compiler.set_stance("force_eager"):  # compile no kernels for shapes that training does not use
        found = likelihood(body, val, end_id, windows)
    if not math.isfinite(found.nats_per_token):
        raise RunFailed(
            f"update {step:,}: the validation loss is not finite; start over with a lower {setting('optim.lr')} and "
            f"{setting('optim.matrix_lr')}, and {setting('fresh')}"
        )
    return found


def sample(body: GPT, tokenizer: Tokenizer, prompt: str, seed: int) -> str:
    """Return the prompt and a short continuation."""
    options = GenerationOptions(max_new_tokens=SAMPLE_TOKENS, seed=seed)
    text = Generation(tokenizer, prompt, 0, options, body.config.context)
    with torch.compiler.set_stance("force_eager"):
        generate_texts(body.eval(), [text])
    return prompt + text.text


def save_state_and_run(
    folder: Path, step: int, body: GPT, optimizer: Optimizer, tokenizer: Tokenizer, metadata: RunMetadata
) -> None:
    """Write the training state after update `step`, then the run with the optimizer's fp32 weights."""
    checkpoint.save(folder, step, optimizer.state(), {})
    masters = {name.removeprefix("body."): master.detach() for name, master in optimizer.masters.items()}
    save_run(folder, GPT.from_weights(body.config, masters), tokenizer, metadata)


def intervals(steps: int, eval_every: int, save_every: int) -> tuple[int, int]:
    """Return the updates between validations and between checkpoints; 0 stands for the default."""
    eval_every = eval_every or max(1, math.ceil(steps / VALIDATIONS))
    return eval_every, save_every or eval_every


def is_long(settings: Pretrain, steps: int) -> bool:
    """Return whether a run of `steps` updates is long enough for compiled kernels to repay their compilation."""
    if settings.minutes:
        return settings.minutes >= LONG_MINUTES
    model = settings.model
    weights = count_parameters(model)[1] + model.vocabulary * model.width
    return 6 * weights * steps * settings.batch * model.context >= LONG_WORK


def resolve_compile(requested: Literal["auto", "on", "off"], auto: bool, device: torch.device) -> Literal["on", "off"]:
    """Return whether to compile, which `auto` decides where the request is "auto" and the compiler works.

    Raises UserError if "on" is requested and the compiler does not work.
    """
    if requested == "off" or (requested == "auto" and not auto):
        return "off"
    if not (error := compiler_error(device)):
        return "on"
    if requested == "on":
        raise UserError(
            f"{setting('compile')} on: the compiler does not work here ({error}); use {setting('compile')} off"
        )
    say(f"training without compiled kernels: the compiler does not work here ({error})")
    return "off"
