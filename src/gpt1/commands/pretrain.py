"""`gpt1 pretrain`: token shards -> a GPT (the paper, section 3.1)."""

import dataclasses
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from gpt1.config import Pretrain
from gpt1.console import bar, say, table
from gpt1.data.windows import Windows
from gpt1.errors import UserError
from gpt1.pretraining.defaults import Data, open_data, recorded, settle, steps_of_epochs
from gpt1.pretraining.run import Run, build, compiling
from gpt1.pretraining.throughput import EVALUATION_WINDOWS, EVALUATIONS, MANY, measure
from gpt1.run_folder.folder import read_metadata
from gpt1.storage import check_folder, write_json
from gpt1.training import checkpoint
from gpt1.training.device import setup_device
from gpt1.training.interrupt import stop_requested
from gpt1.training.log import Log, read
from gpt1.training.loop import StepReport, train
from gpt1.training.optimizer import learning_rate


def pretrain(settings: Pretrain) -> dict[str, Any]:
    """Train a GPT on prepared data and write the run folder; goes on where an earlier call stopped.

    Returns steps, seconds, tokens_per_second, val_nats_per_token, val_bits_per_byte and parameters. Raises UserError
    for wrong settings or data, RunFailed if the loss stops being a number.
    """
    began = time.perf_counter()
    folder = Path(settings.out)
    _check_place(folder)
    data = open_data(Path(settings.data))
    device, dtype = setup_device(settings.device, settings.dtype, settings.threads, settings.seed)
    settings = settle(settings, data)
    state = None if settings.fresh else checkpoint.latest(folder)
    settings = recorded(settings, data, state) if state else _begin(settings, data, device, dtype, began)
    done, steps = checkpoint.read_notes(state)["step"] if state else 0, settings.steps or 0
    if state and done == steps and (metrics := _closing(folder, steps)):
        say(
            f"{folder} is trained: all {steps:,} updates are made; to train further, "
            f"--init {folder} with another --out (--fresh starts over)"
        )
        return metrics
    model, optimizer = build(settings, steps, device, dtype)
    if state:
        optimizer.load(checkpoint.load(state))
        say(f"{folder}: going on after update {done:,}")
    run = Run(folder, settings, steps, data, model, optimizer, Log(folder, done), device)
    _train(run, done)
    _finish(run, began)
    return _closing(folder, steps)


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table."""
    return table(result, "pretrain")


def _check_place(folder: Path) -> None:
    """Raise UserError if a pre-training may not be written to the folder: something else is there."""
    check_folder(folder)
    if (folder / "gpt1.json").exists() and read_metadata(folder).kind != "pretrained":
        raise UserError(f"--out {folder} holds a fine-tuned run; choose another folder")


def _begin(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype, began: float) -> Pretrain:
    """Fix the number of steps and write the settings down."""
    folder = Path(settings.out)
    if (folder / "config.json").exists() and not (folder / "settings.json").exists():
        raise UserError(f"{folder} holds a model that was not pre-trained here; choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "settings.json").exists():
        raise UserError(f"--out {folder} is not empty and holds no run; choose another folder")
    settings = replace(settings, compile=compiling(settings, data, device))
    if settings.minutes:
        settings = replace(settings, steps=_steps_in_time(settings, data, device, dtype, began))
    elif not settings.steps:
        settings = replace(settings, steps=steps_of_epochs(settings, data))
    checkpoint.clear(folder)  # or a stop before the first save would go on from an older run's state
    write_json(folder / "settings.json", dataclasses.asdict(settings))
    return settings


def _train(run: Run, start: int) -> None:
    """Make the updates, with validations, samples and checkpoints between them."""
    settings = run.settings
    eval_every = settings.eval_every or max(1, math.ceil(run.steps / EVALUATIONS))
    save_every = settings.save_every or eval_every
    windows = Windows(run.data.train, settings.model.context, settings.batch, settings.micro_batch, settings.seed)
    reports = train(
        run.model, windows, run.optimizer,
        weights={"lm": 1.0}, steps=run.steps, start=start, seed=settings.seed, device=run.device,
    )  # fmt: skip
    behind = run.device.type != "cpu"  # a GPU is still at an update when its report comes; its numbers are read later
    waiting: list[StepReport] = []
    speeds: list[float] = []
    with stop_requested() as asked, bar("{task.fields[state]}") as progress:
        task = progress.add_task("pretrain", total=run.steps, completed=start, state="")

        def note(left: int) -> None:
            while len(waiting) > left:
                report = waiting.pop(0)
                speeds.append(report.tokens / report.seconds)
                state = f"loss {report.losses['lm']:.3f}  {statistics.median(speeds[-20:]):,.0f} tokens/s"
                progress.update(task, completed=report.step, state=state)
                _note(run, report)

        for report in reports:
            waiting.append(report)
            last, look = report.step == run.steps, report.step % eval_every == 0
            note(0 if last or look else behind)
            if last:
                break
            if look:
                say(_line(report.step, run.validate(report.step, EVALUATION_WINDOWS), run.sample(report.step)))
            stopping = asked()
            if report.step % save_every == 0 or stopping:
                note(0)
                run.save(report.step)
            if stopping:
                raise KeyboardInterrupt(f"stopped after update {report.step:,}; the same command goes on from there")


def _finish(run: Run, began: float) -> None:
    values = run.validate(run.steps)
    say(_line(run.steps, values, run.sample(run.steps)))
    run.log.flush()
    speeds = [row["tokens"] / row["seconds"] for row in read(run.folder) if "tokens" in row]
    seconds = time.perf_counter() - began
    run.save(run.steps, seconds=seconds, tokens_per_second=statistics.median(speeds), **values)


def _note(run: Run, report: StepReport) -> None:
    rate = run.settings.optim.lr * learning_rate(report.step - 1, run.steps, run.settings.optim)
    run.log.add(
        report.step, lm=report.losses["lm"], lr=rate, grad_norm=report.grad_norm,
        tokens=report.tokens, seconds=report.seconds,
    )  # fmt: skip


def _line(step: int, values: dict[str, float], sample: str) -> str:
    return (
        f"update {step:,}: validation {values['val_nats_per_token']:.3f} nats a token, "
        f"{values['val_bits_per_byte']:.3f} bits a byte | {' '.join(sample.split())[:160]}"
    )


def _steps_in_time(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype, began: float) -> int:
    """Updates that fit into `minutes`, measured on a model that is then thrown away."""
    seconds = 60 * (settings.minutes or 0)
    model, optimizer = build(settings, MANY, device, dtype)
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), settings, MANY, data, model, optimizer, Log(Path(name), 0), device)
        pace = measure(run, min(5.0, 0.05 * seconds))
    steps = pace.steps(max(0.0, seconds - (time.perf_counter() - began)), settings)
    say(f"{pace.update:.3f} seconds an update: {steps:,} updates in {settings.minutes:g} minutes")
    return steps


def _closing(folder: Path, steps: int) -> dict[str, Any]:
    """The result of a run that made all its updates; empty if its closing validation is not written yet."""
    metadata = read_metadata(folder) if (folder / "gpt1.json").exists() else None
    if metadata is None or metadata.steps != steps or not metadata.metrics:
        return {}
    return {"steps": steps, **metadata.metrics, "parameters": metadata.parameters}
