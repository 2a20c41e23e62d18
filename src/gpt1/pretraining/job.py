"""A pre-training in its run folder: begun, continued after a stop, or found complete (the paper, section 3.1)."""

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gpt1.config import Model, Pretrain
from gpt1.console import say
from gpt1.errors import UserError, setting
from gpt1.options import flat
from gpt1.pretraining.defaults import (
    BEGUN,
    MAY_CHANGE,
    MEMORY_REMEDY,
    PreparedData,
    begun_record,
    epoch_steps,
    is_long,
    open_data,
    resolve_compile,
    resolve_defaults,
    resume_settings,
    warn_of_warmup,
)
from gpt1.pretraining.run import PretrainingRun, build
from gpt1.results import Result
from gpt1.resume import Record
from gpt1.run_folder.metadata import read_json, read_metadata
from gpt1.run_folder.places import check_pretrained_place
from gpt1.storage import write_json
from gpt1.training import checkpoint, parallel
from gpt1.training.device import out_of_memory, setup_device
from gpt1.training.log import Log, read
from gpt1.training.loop import LoopState
from gpt1.training.trackers import Tracking, check_trackers


@dataclass(frozen=True)
class PretrainResult(Result):
    """What `gpt1 pretrain` prints: the validation loss of the finished run, its speed and size."""

    steps: int
    """updates made"""
    seconds: float
    """time from the last start of the command to the end of training"""
    tokens_per_second: float
    """median over the updates, validations and saves not included"""
    val_nats_per_token: float
    """loss on all of the validation text"""
    val_bits_per_byte: float
    """the same loss for each byte of text, by which lossless tokenizers can be compared"""
    parameters: int
    """number of weights"""


def pretrain_folder(settings: Pretrain) -> PretrainResult:
    """Train a GPT on prepared data and write the run folder; continue where an earlier call was stopped.

    Processes that `torchrun` started share the work out. Raises UserError for wrong settings or data, or if another
    process is working in the folder, and RunFailed if the loss is not finite or memory runs out.
    """
    with parallel.join(settings.device):
        return _pretrain(settings, Path(settings.out))


def _pretrain(settings: Pretrain, folder: Path) -> PretrainResult:
    started, world = time.perf_counter(), parallel.current()
    check_pretrained_place(folder)
    check_trackers(settings.track)
    data_of = open_data(Path(settings.data), check=world.part)
    with parallel.hold(folder), data_of as data, out_of_memory(MEMORY_REMEDY):
        device, dtype = setup_device(settings)
        micro_batch, settings = settings.micro_batch, resolve_defaults(settings, data)
        world.check_batch(settings.batch)
        state = world.from_main(lambda: None if settings.fresh else checkpoint.latest(folder))
        result = world.from_main(lambda: None if settings.fresh else _finished(folder))
        notes = checkpoint.read_notes(state) if state else {}
        done: int = notes.get("step", 0)
        if state is None and result is None:
            settings = _begin(settings, data, device, dtype, started)
        else:
            result, settings = _resume(settings, data, result, micro_batch, device)
            if result is not None:
                return result
        steps = settings.steps or 0
        model, optimizer = build(settings, steps, device, dtype)
        if sharding := optimizer.sharding:
            say(f"{world.size} processes shard weights, gradients and optimizer state ({setting('parallel')} fsdp)")
        elif world.size > 1:
            say(f"{world.size} processes split each batch ({setting('parallel')} ddp)")
        if state is not None:
            optimizer.load(checkpoint.load(state, sharding.rows if sharding else None))
            say(f"{folder}: continuing after update {done:,}")
        # A validation is complete with its sample. The closing one is made again, since the run was not finished.
        validated = done < steps and any(row["step"] == done and "sample" in row for row in read(folder))
        tracking = Tracking(settings.track, folder, flat(settings)) if settings.track else None
        states_of = checkpoint.Checkpoints(folder, settings.keep, shared_out=sharding is not None)
        with Log(folder, done, validated, tracking) as log, states_of as states:
            loop = LoopState(**notes.get("loop", {}))
            run = PretrainingRun(folder, settings, data, model, optimizer, log, device, states, loop)
            run.finish(started, run.train(done))
    result = world.from_main(lambda: _finished(folder))
    assert result is not None, "the run was just saved with its metrics"
    return result


def _begin(
    settings: Pretrain, data: PreparedData, device: torch.device, dtype: torch.dtype, started: float
) -> Pretrain:
    """Fix the number of updates, record the request, and return the settings in effect."""
    folder = Path(settings.out)
    steps = settings.steps or epoch_steps(settings, len(data.train))
    settings = replace(settings, compile=resolve_compile(settings.compile, is_long(settings, steps), device))
    asked = settings
    if settings.minutes:
        # Here, since other runs measure nothing.
        from gpt1.pretraining.budget import fit_to_minutes, is_open
        from gpt1.pretraining.throughput import steps_in_time

        if is_open(settings):
            settings, why = fit_to_minutes(settings, data.train, device, dtype)
            say(why)
        steps = steps_in_time(settings, data, device, dtype, started)
    warn_of_warmup(settings, steps)
    settings = replace(settings, steps=steps, epochs=None, minutes=None)

    def write() -> Pretrain:
        checkpoint.clear(folder)  # else a stop before the first save would leave an older run to be continued
        if (folder / "gpt1.json").exists():  # an older model stays until the first save, but is no result of this run
            write_json(folder / "gpt1.json", replace(read_metadata(folder), metrics={}).to_json())
        write_json(folder / "settings.json", dataclasses.asdict(settings))  # first: it marks the folder as a run
        begun_record(replace(asked, steps=steps), data).write(folder / checkpoint.FOLDER / BEGUN)
        return settings

    return parallel.current().from_main(write)


def _resume(
    settings: Pretrain, data: PreparedData, result: PretrainResult | None, micro_batch: int, device: torch.device
) -> tuple[PretrainResult | None, Pretrain]:
    """Return the result of a run that is complete, if it is, and the settings in effect to continue it.

    `result` is that of the model in the folder, None if its training is not complete. `micro_batch` is the one that is
    asked for; 0: as before. `compile` too stays as before unless it is asked for. Raises UserError for a request that
    the run was not begun with.
    """
    folder, world = Path(settings.out), parallel.current()
    path = folder / checkpoint.FOLDER / BEGUN
    if (record := Record.read(path)) is None:
        raise UserError(f"{path} is missing; choose another {setting('out')}, or start over with {setting('fresh')}")
    record.check(begun_record(settings, data), folder, MAY_CHANGE)
    if result is not None and result.steps != record.settings["steps"]:
        result = None  # of an older run
    settings = resume_settings(settings, record, len(data.train), is_finished=result is not None)
    if result is not None:
        say(
            f"{folder} is complete: all {result.steps:,} updates are done; to train further, give "
            f"{setting('init')} {folder} and another {setting('out')} ({setting('fresh')} starts over)"
        )
        return result, settings
    before = record.settings["compile"]
    if (now := resolve_compile(settings.compile, before == "on", device)) != before:
        say(f"the run was begun with {setting('compile')} {before}; with {now} its numbers differ by rounding")
    in_effect = read_json(folder / "settings.json")  # differ from the request if a budget chose the size
    settings = replace(
        settings, model=Model(**in_effect["model"]), micro_batch=micro_batch or in_effect["micro_batch"], compile=now
    )
    world.from_main(lambda: write_json(folder / "settings.json", dataclasses.asdict(settings)))
    return None, settings


def _finished(folder: Path) -> PretrainResult | None:
    """Return the result of a run that is complete; None if its last validation has not been saved yet."""
    metadata = read_metadata(folder) if (folder / "gpt1.json").exists() else None
    if metadata is None or not metadata.metrics:
        return None
    names = [one.name for one in dataclasses.fields(PretrainResult)]
    values = metadata.metrics | {"steps": metadata.steps, "parameters": metadata.parameters}
    return PretrainResult(**{name: values[name] for name in names})
