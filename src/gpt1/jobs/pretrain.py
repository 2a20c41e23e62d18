"""`gpt1 pretrain`: token shards -> a GPT (the paper, section 3.1)."""

import dataclasses
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from gpt1.config import Pretrain, with_vocabulary
from gpt1.data.shards import Manifest, TokenStream, read_manifest
from gpt1.data.windows import Windows
from gpt1.errors import UserError
from gpt1.jobs import bundle
from gpt1.jobs.console import bar, say, table
from gpt1.jobs.likelihood import likelihood
from gpt1.nn.model import GPT
from gpt1.nn.objectives import LanguageModel
from gpt1.storage import write_json
from gpt1.text.tokenizer import Tokenizer
from gpt1.train import checkpoint
from gpt1.train.log import Log
from gpt1.train.loop import Report, train
from gpt1.train.optim import Optimizer, learning_rate
from gpt1.train.parallel import machine

EVALUATIONS = 10
"""Validations in a run, unless told otherwise."""
EVALUATION_WINDOWS = 64
"""Windows an interim validation looks at; the last validation looks at everything."""
MICRO_BATCH_TOKENS = 8192
DEFAULT_EPOCHS = 1.0
FREE = {"out", "fresh", "device", "threads", "minutes", "steps", "epochs", "eval_every", "save_every", "sample"}
"""Settings that may differ when a run goes on: they do not change its weights, or are fixed as `steps` at the start."""


@dataclass(frozen=True)
class Data:
    """What `gpt1 prepare` left."""

    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream


@dataclass
class Run:
    """A run in progress."""

    folder: Path
    settings: Pretrain
    data: Data
    model: LanguageModel
    optimizer: Optimizer
    log: Log

    def body(self) -> GPT:
        """The network with its fp32 masters, sharing their memory."""
        with torch.device("meta"):
            body = GPT(self.settings.model)
        masters = {name.removeprefix("body."): m.detach() for name, m in self.optimizer.masters.items()}
        body.load_state_dict(masters, assign=True)
        return body.eval()

    def validate(self, step: int, limit: int = 0) -> dict[str, float]:
        """Log and return the validation loss; `limit` windows give an estimate."""
        found = likelihood(self.model.body, self.data.val, self.data.tokenizer.end_id, limit)
        split = self.data.manifest.val
        values = {
            "val_nats_per_token": found.nats_per_token,
            "val_bits_per_byte": found.bits_per_byte(split.tokens / split.bytes),
        }
        self.log.add(step, **values)
        return values

    def sample(self, step: int) -> str:
        """Log and return a short text from the model as it is."""
        model = bundle.Bundle(self.model.body.eval(), self.data.tokenizer, {}, None)
        text: str = model.generate(self.settings.sample, max_new_tokens=40, seed=self.settings.seed)["text"]
        self.log.add(step, sample=self.settings.sample + text)
        return self.settings.sample + text

    def save(self, step: int, **metrics: float) -> None:
        """Write the training state, then the model that others load."""
        checkpoint.save(self.folder, step, self.optimizer.state(), {})
        bundle.save(self.folder, self.body(), self.data.tokenizer, _facts(self.settings, self.data, step, metrics))
        self.log.flush()


def pretrain(settings: Pretrain) -> dict[str, Any]:
    """Train a GPT on prepared data and write the run folder; goes on where an earlier call stopped.

    Returns steps, seconds, tokens_per_second, val_nats_per_token, val_bits_per_byte and parameters. Raises UserError
    for wrong settings or data, RunFailed if the loss stops being a number.
    """
    began = time.perf_counter()
    folder = Path(settings.out)
    data = _open_data(settings)
    device, dtype = machine(settings)
    settings = _checked(_completed(settings, data), data)
    state = None if settings.fresh else checkpoint.latest(folder)
    if state is None:
        _refuse_foreign(folder)
        settings = _fix_steps(settings, data, device, dtype, began)
        write_json(folder / "settings.json", dataclasses.asdict(settings))
    else:
        settings = _recorded(settings, folder)
    step = checkpoint.facts(state)["step"] if state else 0
    if step >= (settings.steps or 0):
        say(f"{folder} is trained: all {step:,} updates are made (--fresh starts over)")
        return _result(bundle.read_info(folder))
    model, optimizer = _build(settings, data, device, dtype)
    if state:
        optimizer.load(checkpoint.load(state))
        say(f"{folder}: going on after update {step:,}")
    run = Run(folder, settings, data, model, optimizer, Log(folder, step))
    _loop(run, step, device, began)
    return _result(bundle.read_info(folder))


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table."""
    return table(result, "pretrain")


def _loop(run: Run, start: int, device: torch.device, began: float) -> None:
    settings, total = run.settings, run.settings.steps or 0
    eval_every = settings.eval_every or max(1, math.ceil(total / EVALUATIONS))
    save_every = settings.save_every or eval_every
    windows = Windows(run.data.train, settings.model.context, settings.batch, settings.micro_batch, settings.seed)
    reports = train(
        run.model, windows, run.optimizer,
        weights={"lm": 1.0}, steps=total, start=start, seed=settings.seed, device=device,
    )  # fmt: skip
    speeds: list[float] = []
    with _stop_asked() as asked, bar("{task.fields[state]}") as progress:
        task = progress.add_task("pretrain", total=total, completed=start, state="")
        for report in reports:
            speeds.append(report.tokens / report.seconds)
            _note(run, report)
            speed = statistics.median(speeds[-20:])
            progress.update(task, completed=report.step, state=f"loss {report.losses['lm']:.3f}  {speed:,.0f} tokens/s")
            last = report.step == total or asked()
            if report.step % eval_every == 0 and not last:
                values = run.validate(report.step, EVALUATION_WINDOWS)
                say(_line(report, values, run.sample(report.step)))
            if report.step % save_every == 0 and not last:
                run.save(report.step)
            if last:
                break
    if report.step < total:
        run.save(report.step)
        raise KeyboardInterrupt(f"stopped after update {report.step:,}; the same command goes on from there")
    values = run.validate(total)
    say(_line(report, values, run.sample(total)))
    run.save(total, **values, seconds=time.perf_counter() - began, tokens_per_second=statistics.median(speeds))


def _note(run: Run, report: Report) -> None:
    rate = run.settings.optim.lr * learning_rate(report.step - 1, run.settings.steps or 1, run.settings.optim)
    run.log.add(
        report.step, lm=report.losses["lm"], lr=rate, grad_norm=report.grad_norm,
        tokens=report.tokens, seconds=report.seconds,
    )  # fmt: skip


def _line(report: Report, values: dict[str, float], sample: str) -> str:
    return (
        f"update {report.step:,}: loss {report.losses['lm']:.3f}, validation {values['val_nats_per_token']:.3f} nats a "
        f"token, {values['val_bits_per_byte']:.3f} bits a byte | {' '.join(sample.split())[:120]}"
    )


def _open_data(settings: Pretrain) -> Data:
    folder = Path(settings.data)
    manifest = read_manifest(folder)
    return Data(manifest, Tokenizer.load(folder), TokenStream(folder, "train"), TokenStream(folder, "val"))


def _completed(settings: Pretrain, data: Data) -> Pretrain:
    """The settings with everything filled in that only the data tells."""
    model = with_vocabulary(settings.model, data.tokenizer.vocabulary)
    if settings.init:
        model = replace(bundle.read_model_config(Path(settings.init)), **_dropouts(settings))
        if bundle.read_info(Path(settings.init))["tokenizer"] != data.tokenizer.hash:
            raise UserError(
                f"--init {settings.init}: its tokenizer is not the one {settings.data} was prepared with; "
                f"prepare the text with --tokenizer {settings.init}"
            )
    micro_batch = settings.micro_batch or max(1, MICRO_BATCH_TOKENS // model.context)
    return replace(settings, model=model, micro_batch=min(micro_batch, settings.batch))


def _dropouts(settings: Pretrain) -> dict[str, float]:
    return {name: value for name, value in dataclasses.asdict(settings.model).items() if name.endswith("dropout")}


def _checked(settings: Pretrain, data: Data) -> Pretrain:
    model = settings.model
    if model.width % model.heads:
        raise UserError(f"--model.width {model.width} is not a multiple of --model.heads {model.heads}")
    if model.context < 2 or settings.batch < 1:
        raise UserError("--model.context must be at least 2 and --batch at least 1")
    given = [name for name in ("steps", "epochs", "minutes") if getattr(settings, name) is not None]
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)} contradict each other; give one of them")
    for name in given:
        if not getattr(settings, name) > 0:
            raise UserError(f"--{name} {getattr(settings, name)} must be more than 0")
    if len(data.train) <= model.context:
        raise UserError(
            f"{settings.data} has {len(data.train):,} training tokens, less than one window of {model.context}; "
            "add text, or lower --model.context"
        )
    return settings


def _refuse_foreign(folder: Path) -> None:
    if (folder / "config.json").exists() and not (folder / "gpt1.json").exists():
        raise UserError(f"{folder} holds something that is not a run of gpt1; choose another --out")


def _recorded(settings: Pretrain, folder: Path) -> Pretrain:
    """The settings a run began with, which a continuation must repeat."""
    recorded = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    asked = dataclasses.asdict(settings)
    for key, value in asked.items():
        if key not in FREE and recorded[key] != value:
            raise UserError(
                f"{folder} was begun with {key} = {recorded[key]}, not {value}; repeat that to go on, "
                "or give --fresh to start over"
            )
    if settings.steps and settings.steps != recorded["steps"]:
        raise UserError(f"{folder} was begun with --steps {recorded['steps']}: its learning rate is set for that many")
    return replace(settings, steps=recorded["steps"])


def _fix_steps(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype, began: float) -> Pretrain:
    """Turn epochs or minutes into a number of steps, which is what gets recorded."""
    if settings.steps:
        return settings
    if settings.minutes is None:
        per_epoch = len(data.train) / (settings.batch * settings.model.context)
        return replace(settings, steps=max(1, round((settings.epochs or DEFAULT_EPOCHS) * per_epoch)))
    step_seconds, window_seconds = _measured(settings, data, device, dtype)
    val_windows = 2 * len(data.val) / settings.model.context + EVALUATIONS * EVALUATION_WINDOWS
    left = 60 * settings.minutes - (time.perf_counter() - began) - val_windows * window_seconds
    steps = max(10, int(left / step_seconds))
    say(f"{step_seconds:.3f} seconds an update: {steps:,} updates in {settings.minutes:g} minutes")
    return replace(settings, steps=steps)


def _measured(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of one update, and of one validation window, measured on a model that is then thrown away."""
    settings = replace(settings, steps=10_000)
    model, optimizer = _build(settings, data, device, dtype)
    windows = Windows(data.train, settings.model.context, settings.batch, settings.micro_batch, settings.seed)
    until, seconds = time.perf_counter() + min(5.0, 0.05 * 60 * (settings.minutes or 1)), []
    for report in train(model, windows, optimizer, weights={"lm": 1.0}, steps=10_000, device=device):
        seconds.append(report.seconds)
        if len(seconds) >= 3 and time.perf_counter() > until:
            break
    began = time.perf_counter()
    likelihood(model.body, data.val, data.tokenizer.end_id, limit=32)
    return statistics.median(seconds[1:]), (time.perf_counter() - began) / 32


def _build(settings: Pretrain, data: Data, device: torch.device, dtype: torch.dtype) -> tuple[LanguageModel, Optimizer]:
    if settings.init:
        body = GPT(settings.model)
        body.load_state_dict(bundle.load(settings.init).body.state_dict())
    else:
        body = GPT(settings.model).init_weights(torch.Generator().manual_seed(settings.seed))
    # The optimizer copies its fp32 masters before the weights lose precision.
    model = LanguageModel(body).to(device)
    optimizer = Optimizer(model, settings.optim, settings.steps or 1)
    return model.to(dtype), optimizer


def _facts(settings: Pretrain, data: Data, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "kind": "pretrained",
        "preset": settings.preset,
        "recipe": settings.recipe,
        "seed": settings.seed,
        "steps": step,
        "of_steps": settings.steps,
        "tokens_seen": step * settings.batch * settings.model.context,
        "tokenizer": data.tokenizer.hash,
        "data": data.manifest.summary(),
        "metrics": metrics,
    }


def _result(info: dict[str, Any]) -> dict[str, Any]:
    names = ("seconds", "tokens_per_second", "val_nats_per_token", "val_bits_per_byte")
    return {"steps": info["steps"], **{name: info["metrics"][name] for name in names}, "parameters": info["parameters"]}


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the update in progress; a second one ends it at once."""
    asked: list[int] = []
    before = {}

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
