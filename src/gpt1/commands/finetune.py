"""`gpt1 finetune`: a pre-trained run and labelled rows -> a model for a task (the paper, section 3.2)."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Finetune
from gpt1.console import say, table
from gpt1.errors import RunFailed, UserError, setting
from gpt1.finetuning.defaults import MEMORY_REMEDY, FitOptions, check_base, check_options, resolve_defaults
from gpt1.finetuning.examples import check_read, input_hashes, read_rows, source_files, text_to_read, with_splits
from gpt1.finetuning.fit import save_finetuned
from gpt1.finetuning.sweep import fit_best
from gpt1.keywords import command
from gpt1.options import flat
from gpt1.results import INLINE, Result
from gpt1.resume import RUNTIME_SETTINGS, Record
from gpt1.run_folder.folder import load_run, read_metadata
from gpt1.run_folder.metadata import STOPPED, FinetuningData, RunMetadata, read_json
from gpt1.run_folder.places import check_finetuned_place
from gpt1.run_folder.shape import read_shape
from gpt1.tasks.metrics import METRICS, TaskMetrics, rows_alone
from gpt1.training import checkpoint, parallel
from gpt1.training.device import out_of_memory, setup_device
from gpt1.training.loop import Diverged
from gpt1.training.trackers import Tracking, check_trackers

BEGUN = "begun.json"  # records the settings and inputs of the states beside it
MAY_CHANGE = RUNTIME_SETTINGS | {"run", "train", "valid", "read"}  # files are compared by content, not by name


@dataclass(frozen=True)
class FinetuneResult(Result):
    """What `gpt1 finetune` prints: the model, and its scores on the validation rows."""

    task: str
    """what a row is"""
    labels: list[str]
    """names of the classes or labels, in the order of W_y's rows; empty for a score or a choice"""
    parameters: int
    """numbers in the model"""
    selected_by: str
    """the metric that selected the epoch, learning rate and seed; `last epoch` if too few rows validate to select an
    epoch and no other rate or seed was tried"""
    lr: float
    """peak learning rate"""
    seeds: dict[str, Any] | None
    """mean, deviation and values of each metric, if there are several seeds"""
    learning_rates: dict[str, float] | None
    """the selecting metric at each learning rate, if several were tried"""
    metrics: TaskMetrics = field(metadata=INLINE)
    words_alone: TaskMetrics | None
    """the same metrics of words alone: TF-IDF and a linear model, fitted on the same rows"""
    words_weight: float | None
    """weight of their scores in the sum with those of the network; 0 unless `with_words`"""
    loss: float
    """L2 on the validation rows, in nats a row"""
    task_loss: float
    """mean L2 in training, over the epoch that is kept"""
    lm_loss: float | None
    """mean L1 in training, over the epoch that is kept; left out where lambda is 0"""
    epoch: int
    """the epoch that is kept"""
    temperature: float
    """by which W_y was divided"""
    seconds: float
    """the time it took"""

    @classmethod
    def of(cls, metadata: RunMetadata) -> "FinetuneResult":
        """Return the result that gpt1.json of a finished run describes."""
        assert metadata.goal is not None, "a fine-tuned run has a label type"
        metrics, alone = METRICS[metadata.goal], metadata.metrics.get("words_alone")
        values = {"lm_loss": None} | vars(metadata) | metadata.metrics
        values |= {"metrics": metrics.from_json(metadata.metrics), "words_alone": alone and metrics.from_json(alone)}
        values["words_weight"] = metadata.words.weight if metadata.words else None
        return cls(**{one.name: values[one.name] for one in dataclasses.fields(cls)})


@command(Finetune, "run")
def finetune(settings: Finetune) -> FinetuneResult:
    """Train a model for the task on L3 = L2 + lambda L1, keep its best epoch, and write the run folder.

    A stopped training continues when it is called again with the same settings. Processes that `torchrun` started share
    each batch out. Raises UserError for wrong settings or rows, or if another process is working in the folder.
    """
    with parallel.join(settings.device) as world:
        _finetune(settings, Path(settings.out))
        return world.from_main(lambda: FinetuneResult.of(read_metadata(Path(settings.out))))


def _finetune(settings: Finetune, out: Path) -> None:
    """Make the run folder, unless it is complete."""
    began, world = time.perf_counter(), parallel.current()
    settings = with_splits(settings)
    _check(settings)
    with parallel.hold(out):
        text = text_to_read(settings)
        sources = world.from_main(lambda: source_files(settings.run, settings.train, settings.valid))
        inputs = world.from_main(lambda: input_hashes(sources, text.sources() if text else ()))
        if world.from_main(lambda: _is_done(settings, inputs)):
            say(f"{out} is already fine-tuned with these settings ({setting('fresh')} starts over)")
            return
        setup_device(settings)
        base, read = load_run(settings.run), None
        rows = read_rows(settings)
        options = resolve_defaults(FitOptions.of(settings), len(rows.train), base.body.config.width)
        world.check_batch(options.batch)
        settings = _in_effect(settings, options)
        record = Record.of(settings, inputs)
        # `_states` must be the inner context: it keeps the states of a training that runs out of memory.
        with out_of_memory(MEMORY_REMEDY), _states(out, record, settings.fresh) as folder:
            if text:
                from gpt1.pretraining.continued import read_first  # here, since it imports all that pre-trains

                base, read = read_first(
                    base, settings.run, text, folder / "read",
                    epochs=settings.read_epochs, lr=settings.read_lr, on=settings,
                )  # fmt: skip
            device, dtype = setup_device(settings)  # seeds again, so that reading text changes no other draw
            tuned = fit_best(
                base, rows, options, seeds=settings.seeds, device=device, dtype=dtype, folder=folder,
                tracking=Tracking(settings.track, out, flat(settings)) if settings.track else None,
            )  # fmt: skip
            tuned = replace(tuned, metrics=tuned.metrics | {"seconds": time.perf_counter() - began})
            run = tuned.as_run(tuned.metadata(**sources, read=read))
            world.barrier()  # the states are removed next, which others may be reading
            world.from_main(lambda: save_finetuned(out, run, dataclasses.asdict(settings), tuned.curves))


def show(result: FinetuneResult) -> RenderableType:
    """Return the closing table: what was measured, also of words alone, then mean and deviation over seeds."""
    plain = {name: value for name, value in result.items() if not isinstance(value, Mapping | list)}
    plain |= rows_alone(result.get("words_alone", {}))
    for name, found in result.get("seeds", {}).items():
        plain[f"{name}, {len(found['values'])} seeds"] = f"{found['mean']:.4f} ± {found['deviation']:.4f}"
    for rate, value in result.get("learning_rates", {}).items():
        plain[f"{result['selected_by']} at learning rate {rate}"] = value
    return table(plain, "finetune")


def _check(settings: Finetune) -> None:
    """Raise UserError for settings that cannot work, a base that is not pre-trained, or a folder that is taken."""
    options, out = FitOptions.of(settings), Path(settings.out)
    check_options(options)
    if settings.seeds < 1:
        raise UserError(f"{setting('seeds')} {settings.seeds} must be 1 or more")
    check_base(settings.run, options)
    check_read(settings)
    if out.resolve() == Path(settings.run).resolve():
        raise UserError(f"{setting('out')} {out} is the run to start from, which must stay; choose another folder")
    check_finetuned_place(out)
    check_trackers(settings.track)


def _in_effect(settings: Finetune, options: FitOptions) -> Finetune:
    """Return the settings as they are recorded: with the resolved options."""
    return replace(settings, **dataclasses.asdict(options))


def _is_done(settings: Finetune, inputs: dict[str, str]) -> bool:
    """Return whether the folder holds what these settings make of these inputs.

    Raises UserError if it holds another model, unless a fine-tuning that was to replace it was stopped.
    """
    out = Path(settings.out)
    if settings.fresh or not (out / "gpt1.json").exists():
        return False
    try:
        data = read_metadata(out).data
        if not (out / "settings.json").exists():  # as in a run that `gpt1 convert` wrote
            raise UserError(
                f"{out} holds a model whose settings are unknown; choose another {setting('out')}, or replace it with "
                f"{setting('fresh')}"
            )
        sources = {name: found for name in ("model", "train", "valid") if (found := getattr(data, name, None))}
        rows = sources["train"].rows if "train" in sources else None
        read = data.read.files if isinstance(data, FinetuningData) and data.read else []
        options = resolve_defaults(FitOptions.of(settings), rows or 1, read_shape(Path(settings.run)).width)
        began = Record(read_json(out / "settings.json"), input_hashes(sources, read))
        if difference := began.difference(Record.of(_in_effect(settings, options), inputs), MAY_CHANGE):
            raise UserError(
                f"{out} was made with {difference}; choose another {setting('out')}, or start over with "
                f"{setting('fresh')}"
            )
    except UserError:
        if _is_stopped(out):
            return False
        raise
    return True


def _is_stopped(out: Path) -> bool:
    """Return whether a fine-tuning was stopped in this folder and left a state to continue from."""
    return (out / STOPPED / BEGUN).exists() and checkpoint.any_within(out / STOPPED)


@contextmanager
def _states(out: Path, record: Record, fresh: bool) -> Iterator[Path]:
    """Yield the folder for training states, which may hold those of an earlier call.

    After a stop, a crash or a full disk they stay there for the same command to continue, if need be with a smaller
    micro-batch. They are removed once the model is written, and if the model turns out to be useless. Raises UserError
    if they are of another request, or no states at all.
    """
    folder, from_main = out / STOPPED, parallel.current().from_main

    def check_or_clear() -> None:
        if folder.exists() and any(folder.iterdir()) and not (folder / BEGUN).exists():
            another = f"choose another {setting('out')}"
            raise UserError(f"{folder} holds something that `gpt1 finetune` did not write; {another}")
        if _is_stopped(out) and not fresh:
            if began := Record.read(folder / BEGUN):
                began.check(record, out, MAY_CHANGE | {"micro_batch"})
        else:
            shutil.rmtree(folder, ignore_errors=True)

    from_main(check_or_clear)
    is_over = True
    try:
        from_main(lambda: record.write(folder / BEGUN))
        yield folder
    except BaseException as error:
        is_useless = isinstance(error, RunFailed) and not isinstance(error, Diverged | parallel.ProcessLost)
        is_over = is_useless or not checkpoint.any_within(folder)
        if isinstance(error, KeyboardInterrupt) and not is_over:
            how = "the same command" + (" without `fresh`" if fresh else "")
            stopped = str(error).partition(";")[0] or "stopped"  # drop the advice in pre-training's message
            raise KeyboardInterrupt(f"{stopped}; {how} continues from there") from None
        raise
    finally:
        if is_over and parallel.is_main():
            shutil.rmtree(folder, ignore_errors=True)
