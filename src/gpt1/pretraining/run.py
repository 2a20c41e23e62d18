"""A pre-training run: its model and optimizer, and the loop that trains, validates, samples and saves."""

import math
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress

from gpt1.config import Pretrain
from gpt1.console import bar, say
from gpt1.data.windows import Stream, Windows
from gpt1.errors import RunFailed, setting
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel
from gpt1.pretraining.defaults import PreparedData
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import PretrainingData, RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import checkpoint, log, parallel
from gpt1.training.device import prepare_for_training
from gpt1.training.interrupt import Stopped, StopRequest, stop_requested
from gpt1.training.likelihood import Likelihood, likelihood
from gpt1.training.loop import LoopState, StepReport, train
from gpt1.training.optimizer import Optimizer, learning_rate
from gpt1.training.sharding import shard

# Validations in a run, unless `eval_every` is given.
VALIDATIONS = 10
# Windows that an interim validation reads; the last one reads all of the validation text.
VALIDATION_WINDOWS = 64
SAMPLE_TOKENS = 40
# The speed that is shown is the median of so many updates.
SHOWN_SPEEDS = 20


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
    states: checkpoint.Checkpoints
    loop: LoopState

    def train(self, start: int) -> dict[str, float]:
        """Make the updates from `start` to the end, validate on everything, and return that validation.

        In between, a state is saved before each validation, and the model after it. Raises KeyboardInterrupt, after
        saving, if a stop is requested, and RunFailed if a loss is not finite.
        """
        settings, steps, step = self.settings, self.optimizer.steps, start
        eval_every, save_every = intervals(steps, settings.eval_every, settings.save_every)
        world, context = parallel.current(), settings.model.context
        windows = Windows(self.data.train, context, settings.batch, settings.micro_batch, settings.seed, world.part)
        scores = world.from_main(self._interim_scores)
        self.states.best = min(scores, key=scores.__getitem__, default=None)
        with stop_requested() as stop, bar("{task.fields[state]}") as progress:
            reports = train(
                self.model, windows, self.optimizer, weights={"lm": 1.0}, steps=steps, start=start, seed=settings.seed,
                device=self.device, state=self.loop, largest=() if self.device.type == "cpu" else windows(start),
                give_up=stop.is_urgent,
            )  # fmt: skip
            updates = UpdateLog(self, progress, start)

            def validate() -> None:
                scores[step] = self.validate(step, stop, VALIDATION_WINDOWS)["val_nats_per_token"]
                self.states.best = min(scores, key=scores.__getitem__)

            try:
                if 0 < start < steps and start % eval_every == 0 and start not in scores:
                    validate()  # an earlier process ended between the state and its validation
                saved = start
                for report in reports:
                    stop.agree()
                    step, stopping = report.step, stop()  # a request that comes later waits for the next update
                    is_validation = step % eval_every == 0 and step < steps
                    is_due = is_validation or step % save_every == 0 or step == steps or stopping
                    updates.add(report, at_once=is_due)
                    if is_due:
                        self.save_state(step, required=stopping)
                        saved = step
                    if is_validation and not stopping:
                        validate()
                    if is_due and step < steps:
                        self.save_model(step, required=stopping)
                    if stopping:
                        raise Stopped
                if stop() and saved < step:  # an update was given up
                    updates.write()
                    self.save_state(step, required=True)
                return self.validate(steps, stop)
            except Stopped:
                self.states.wait()
                how = f"after update {step:,}; the same command continues from there" if step else "before an update"
                raise KeyboardInterrupt(f"stopped {how}") from None

    def finish(self, started: float, metrics: dict[str, float]) -> None:
        """Save the finished run with its last validation; `started` is `time.perf_counter()` at its beginning."""
        self.log.flush()

        def speed() -> float:
            return statistics.median(row["tokens"] / row["seconds"] for row in log.read(self.folder) if "tokens" in row)

        measured = {
            "seconds": time.perf_counter() - started,
            "tokens_per_second": parallel.current().from_main(speed),
        }
        self.save_model(self.optimizer.steps, measured | metrics, required=True)

    def validate(self, step: int, stop: StopRequest, windows: int = 0) -> dict[str, float]:
        """Log and show the validation loss, estimated from some `windows` if given, and a sample; return the loss.

        Raises Stopped, before it logs anything, if a stop is requested, and RunFailed, without the state of this
        update, if the loss is not finite.
        """
        body, data = whole_body(self.model.body, self.optimizer), self.data
        with stop.at_once():
            try:
                found = validation_likelihood(body, data.val, data.tokenizer.end_id, step, windows)
            except RunFailed:
                self.states.discard(step)  # an earlier one may be good
                raise
            prompt, seed = self.settings.sample, self.settings.seed
            text = parallel.current().from_main(lambda: sample(body, data.tokenizer, prompt, seed))
        metrics = {
            "val_nats_per_token": found.nats_per_token,
            "val_bits_per_byte": found.bits_per_byte(data.manifest.val.tokens / data.manifest.val.bytes),
        }
        self.log.add(step, **metrics)
        self.log.add(step, sample=text)
        say(
            f"update {step:,}: validation {metrics['val_nats_per_token']:.3f} nats per token, "
            f"{metrics['val_bits_per_byte']:.3f} bits per byte | {' '.join(text.split())[:160]}"
        )
        return metrics

    def save_state(self, step: int, *, required: bool = False) -> None:
        """Begin to write the training state; see `Checkpoints.save`."""
        self.log.flush()  # what a state continues from has been logged
        self.states.save(step, self.optimizer.state(), {"loop": asdict(self.loop)}, required=required)

    def save_model(self, step: int, metrics: dict[str, float] | None = None, *, required: bool = False) -> None:
        """Begin to write the model into the run folder; see `Checkpoints.start`."""
        if not (self.states.is_writer or self.optimizer.sharding):
            return
        settings = self.settings
        metadata = RunMetadata(
            kind="pretrained",
            preset=settings.preset,
            recipe=settings.recipe,
            seed=settings.seed,
            steps=step,
            of_steps=self.optimizer.steps,
            tokens_seen=step * settings.batch * settings.model.context,
            init=None if settings.init is None else str(settings.init),
            data=PretrainingData.of(self.data.manifest),
            metrics=metrics or {},
        )
        self.states.wait()
        if (body := copy_body(self.model.body, self.optimizer)) is None:
            return
        write = partial(save_run, self.folder, body, self.data.tokenizer, metadata)
        self.states.start(write, "model", required=required)

    def _interim_scores(self) -> dict[int, float]:
        """Return the validation losses so far, by update."""
        rows = [row for row in log.read(self.folder) if "val_nats_per_token" in row]
        return {row["step"]: row["val_nats_per_token"] for row in rows if row["step"] < self.optimizer.steps}


class UpdateLog:
    """Log and show the updates of a run. On a GPU this lags one update behind, so as not to wait for numbers."""

    def __init__(self, run: PretrainingRun, progress: Progress, start: int) -> None:
        self.run, self.progress = run, progress
        self.task = progress.add_task(
            "pretrain", total=run.optimizer.steps, completed=start, done_before=start, state=""
        )
        self.lag = 0 if run.device.type == "cpu" else 1
        self.waiting: list[StepReport] = []
        self.speeds: list[float] = []

    def add(self, report: StepReport, at_once: bool) -> None:
        """Log what is ready; with `at_once` wait for this update too."""
        self.waiting.append(report)
        self.write(0 if at_once else self.lag)

    def write(self, keep: int = 0) -> None:
        """Log the updates that wait, except the last `keep`."""
        optim, steps = self.run.settings.optim, self.run.optimizer.steps
        while len(self.waiting) > keep:
            report = self.waiting.pop(0)
            lr = optim.lr * learning_rate(report.step - 1, steps, optim)
            self.run.log.add(report.step, lm=report.losses["lm"], lr=lr, **report.measured)
            self.speeds = [*self.speeds, report.tokens / report.seconds][-SHOWN_SPEEDS:]
            state = f"loss {report.losses['lm']:.3f}  {statistics.median(self.speeds):,.0f} tokens/s"
            self.progress.update(self.task, completed=report.step, state=state)


def build(settings: Pretrain, steps: int, device: torch.device, dtype: torch.dtype) -> tuple[LanguageModel, Optimizer]:
    """Return a model ready for its first update, and its optimizer."""
    if settings.init:
        body = load_run(settings.init).body
    else:
        body = GPT(settings.model).init_weights(torch.Generator().manual_seed(settings.seed))
    model = LanguageModel(body)
    if parallel.current().size > 1:
        from gpt1.pretraining.memory import can_hold_gradients, choose_parallel  # here: one process has no choice

        if choose_parallel(settings, dtype, device) == "fsdp":
            prepare_for_training(model, device, compile=settings.compile == "on")
            sharding = shard(model, device, dtype, can_hold_gradients(settings, dtype, device))
            return model, Optimizer(model, settings.optim, steps, sharding)
    model.to(device)
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
    from gpt1.run_folder.generation import Generation, GenerationOptions, generate_texts  # training needs none of it

    options = GenerationOptions(max_new_tokens=SAMPLE_TOKENS, seed=seed)
    text = Generation(tokenizer, prompt, 0, options, body.config.context)
    with torch.compiler.set_stance("force_eager"):
        generate_texts(body.eval(), [text])
    return prompt + text.text


def whole_body(body: GPT, optimizer: Optimizer) -> GPT:
    """Return the network to validate and sample with: if its weights are shared out, a copy with all of them.

    All processes call this together, and gather the weights once, in the number format in which they train.
    """
    if (sharding := optimizer.sharding) is None:
        return body
    weights = {name.removeprefix("body."): sharding.whole(name, sharding.dtype) for name in optimizer.masters}
    return GPT.from_weights(body.config, weights)


def copy_body(body: GPT, optimizer: Optimizer) -> GPT | None:
    """Return the network with a copy of the optimizer's fp32 weights, on the CPU.

    If its weights are shared out, all processes call this together, and only the first one gets a network.
    """
    if (sharding := optimizer.sharding) is None:
        copies = checkpoint.copy_to_host(optimizer.masters)
    else:
        copies = {}
        for name in optimizer.masters:  # one by one: together they may not fit on the device
            whole = sharding.whole(name)
            if parallel.is_main():
                copies |= checkpoint.copy_to_host({name: whole})
    weights = {name.removeprefix("body."): copy for name, copy in copies.items()}
    return GPT.from_weights(body.config, weights) if weights else None


def intervals(steps: int, eval_every: int, save_every: int) -> tuple[int, int]:
    """Return the updates between validations and between checkpoints; 0 stands for the default."""
    eval_every = eval_every or max(1, math.ceil(steps / VALIDATIONS))
    return eval_every, save_every or eval_every
