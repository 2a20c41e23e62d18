"""Nothing is lost: jobs are killed, stopped, starved of disk and given damaged data; what they make stays the same.

Every attempt is a process of its own, forked from this one so that it need not import torch again, on a network so
small that a run takes less than a second. Linux only. tests/test_faults.py does a little of it.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sklearn.feature_extraction.text
import sklearn.linear_model  # noqa: F401
import torch
import torch._dynamo

from gpt1.commands.finetune import finetune
from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Finetune, Model, Prepare, Pretrain, Recipe, pretrain_defaults
from gpt1.data import documents
from gpt1.data import prepare as preparing
from gpt1.data.docstrings import topics
from gpt1.data.shards import TokenStream, check_content, read_manifest
from gpt1.errors import UserError
from gpt1.finetuning import epochs
from gpt1.pretraining import run as pretraining
from gpt1.training import checkpoint, log
from gpt1.training.loop import train
from record import record

SIZE = Model(context=16, width=32, depth=2, heads=2, inner=128)  # dropout on: 0.1 everywhere
# What a save asks of the operating system, in `storage.atomic` and around it.
OPERATIONS = [(os, "open"), (os, "close"), (os, "fsync"), (Path, "chmod"), (Path, "replace"), (Path, "unlink")]
KILLED, STOPPED = -signal.SIGKILL, 130


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder, and what has to come out the same however often it was killed."""

    name: str
    run: Callable[[Path], object]
    digest: Callable[[Path], str]


# Jobs


def jobs(folder: Path, texts: int = 12) -> dict[str, Job]:
    """Return the commands by name, with the data that they read in `folder`."""
    text, rows = folder / "topics.txt", folder / "train.csv"
    text.write_text("\n".join(topics()[:texts]), encoding="utf-8")
    words = ("loves", "good"), ("adores", "good"), ("hates", "bad"), ("fears", "bad")
    names, things = ("the hare", "my old dog", "a green bird", "one grey cat"), ("the sea", "cold rain", "ripe figs")
    lines = [f"{name} {verb} {thing},{label}" for name in names for verb, label in words for thing in things]
    rows.write_text("\n".join(["text,label", *random.Random(0).sample(lines, len(lines))]) + "\n", encoding="utf-8")
    assert in_child(lambda: prepare(preparation(text, folder / "data"))) == 0
    assert in_child(lambda: pretrain(pretraining_of(folder / "data", folder / "base", "fast", steps=1))) == 0
    usual: dict[str, Any] = {"epochs": 6, "batch": 8, "lr": 3e-3, "dtype": "fp32", "threads": 1}
    tuning = Finetune(run=str(folder / "base"), train=str(rows), out="", **usual)
    return {
        "prepare": Job("prepare", lambda out: prepare(preparation(text, out)), prepared),
        "pretrain": Job("pretrain", lambda out: pretrain(pretraining_of(folder / "data", out, "fast")), trained),
        "finetune": Job("finetune", lambda out: finetune(replace(tuning, out=str(out))), trained),
    }


def preparation(text: Path, out: Path) -> Prepare:
    return Prepare(inputs=[str(text)], out=str(out), vocabulary=300, val_fraction=0.1, documents="blank-line")


def pretraining_of(data: Path, out: Path, recipe: Recipe, **changes: Any) -> Pretrain:
    usual: dict[str, Any] = {"model": SIZE, "batch": 4, "micro_batch": 2, "steps": 30, "threads": 1}
    usual |= {"save_every": 3, "eval_every": 10}
    return replace(pretrain_defaults("tiny", recipe, data=str(data), out=str(out)), **(usual | changes))


def prepared(out: Path) -> str:
    return hashed(*(path.read_bytes() for path in [*sorted(out.glob("*.bin")), out / "tokenizer.json"]))


def trained(out: Path) -> str:
    """The weights, the curves but for their times, and the last state of a pre-training."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in log.read(out)]
    state = checkpoint.latest(out)
    parts = [(out / "model.safetensors").read_bytes(), json.dumps(rows).encode()]
    return hashed(*parts, *([tensors_of(state).encode()] if state else []))


def tensors_of(state: Path) -> str:
    """The bits of all tensors of a state: weights, momenta and moments."""
    tensors = checkpoint.load(state)
    return hashed(*(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors)))


def hashed(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


# Processes


def in_child(work: Callable[[], object], after: float | None = None) -> int:
    """Run `work` in a process of its own, killed after so many seconds; return its exit code, negative for a signal.

    This process itself must have run none of it, since thread pools do not survive a fork.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with quietly():
                work()
            code = 0
        except KeyboardInterrupt:
            code = STOPPED
        except OSError:
            pass  # a full disk, on purpose
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_small_steps(work: Callable[[], object], after: float | None = None) -> int:
    """Run `work` as `in_child` does, with small blocks and shards, and fine-tuning that saves as often as it can."""

    def run() -> None:
        documents.BLOCK, documents.LARGE, preparing.SHARD_TOKENS = 2000, 2000, 400
        epochs.SAVE_SECONDS = epochs.EPOCH_SECONDS = 0.0
        work()

    return in_child(run, after)


@contextmanager
def quietly() -> Any:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # noqa: PTH123
        yield


def count_operations(act: Callable[[int], object], only_states: bool) -> None:
    """Call `act` with the number of each operation of a save, before and after it and in the middle of a write.

    With `only_states`, those of training states alone. Called in a child, which is changed for good.
    """
    numbers, saving = itertools.count(), [not only_states]

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if saving[0]:
                act(next(numbers))
            result = real(*args, **kwargs)
            if saving[0]:
                act(next(numbers))
            return result

        return operation

    for owner, name in OPERATIONS:
        setattr(owner, name, watched(getattr(owner, name)))
    save, save_file = checkpoint.save, checkpoint.save_file

    def marked(*args: Any, **kwargs: Any) -> Any:
        saving[0] = True
        try:
            return save(*args, **kwargs)
        finally:
            saving[0] = not only_states

    def cut(tensors: Any, path: Path, metadata: Any) -> None:
        """A write that is interrupted has written a part."""
        save_file(tensors, path, metadata)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        act(next(numbers))
        path.write_bytes(whole)

    checkpoint.save, checkpoint.save_file = marked, cut


def operations_of(job: Job, out: Path) -> int:
    """How many operations the saves of an undisturbed run make; those of its states, if it has any."""
    seen = out.with_suffix(".count")

    def counted() -> None:
        count_operations(lambda n: seen.write_text(str(n)), has_states(job))
        job.run(out)

    assert in_small_steps(counted) == 0, f"{job.name} failed undisturbed"
    return int(seen.read_text()) + 1


def has_states(job: Job) -> bool:
    return job.name != "prepare"


# Kills


def kill_often(job: Job, folder: Path, kills: int, during_saves: int, seed: int) -> dict[str, Any]:
    """Kill a job at random times, and in the middle of its saves, again and again; compare every result."""
    rng, whole = random.Random(seed), folder / "whole"
    started = time.perf_counter()
    assert in_small_steps(lambda: job.run(whole)) == 0
    duration, expected = time.perf_counter() - started, job.digest(whole)
    operations = operations_of(job, folder / "counted")
    kinds = rng.sample([True] * during_saves + [False] * (kills - during_saves), kills)
    counts, finished, attempt = {"kills": 0, "during_saves": 0, "runs": 0, "different": 0}, True, 0
    while kinds or not finished:
        if finished:
            attempt += 1
        out, finished = folder / f"run-{attempt}", False
        in_save = kinds.pop() if kinds else None
        at = rng.randrange(operations) if rng.random() < 0.5 else rng.randrange(min(60, operations))

        def work(out: Path = out, in_save: bool | None = in_save, at: int = at) -> None:
            if in_save:
                count_operations(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == at else None, has_states(job))
            job.run(out)

        code = in_small_steps(work, rng.uniform(0.0, 1.2 * duration) if in_save is False else None)
        assert code in (0, KILLED), f"{job.name} ended with {code}"
        counts["kills"] += code == KILLED
        counts["during_saves"] += bool(in_save) and code == KILLED
        if code == 0 and in_save is not None:
            kinds.insert(0, in_save)  # it was over before; another time
        for state in out.rglob("step-*.safetensors"):
            checkpoint.read_notes(state)
            checkpoint.load(state)
        if finished := code == 0:
            counts["runs"] += 1
            counts["different"] += job.digest(out) != expected
            left = [path.name for path in out.rglob("*") if path.name.endswith(".tmp")]
            assert not left, f"{out} still holds {left}"
            shutil.rmtree(out)
    return counts


# Errors of the disk


def fail_often(job: Job, folder: Path, errors: int, seed: int) -> dict[str, Any]:
    """Let an operation of a save fail in each run, as on a full disk, then repeat the command; compare every result."""
    rng, whole = random.Random(seed), folder / "whole"
    assert in_small_steps(lambda: job.run(whole)) == 0
    expected, operations = job.digest(whole), operations_of(job, folder / "counted")
    counts = {"errors": 0, "went_on": 0, "failed": 0, "different": 0}

    def fail(number: int, at: int) -> None:
        if number == at:
            raise OSError(28, "No space left on device")

    for number in range(errors):
        out, at = folder / f"failed-{number}", rng.randrange(operations)

        def work(out: Path = out, at: int = at) -> None:
            count_operations(lambda n: fail(n, at), has_states(job))
            job.run(out)

        code = in_small_steps(work)
        counts["errors"] += 1
        counts["went_on" if code == 0 else "failed"] += 1
        assert in_small_steps(lambda out=out: job.run(out)) == 0  # type: ignore[misc]
        counts["different"] += job.digest(out) != expected
        shutil.rmtree(out)
    return counts


def full_disk(folder: Path, data: Path, megabytes: int = 1) -> str:
    """Train on a disk that is too small for the states; "not possible" where a disk cannot be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size={megabytes}m tmpfs {disk} 2>/dev/null"):
        return "not possible"
    try:
        (disk / "ballast").write_bytes(bytes(megabytes * 1_000_000 - 450_000))
        settings = pretraining_of(data, disk / "run", "fast")
        codes = [in_child(lambda: pretrain(settings))]
        (disk / "ballast").unlink()
        codes.append(in_child(lambda: pretrain(settings)))
        whole = folder / "whole"
        codes.append(in_child(lambda: pretrain(replace(settings, out=str(whole)))))
        same = (whole / "model.safetensors").read_bytes() == (disk / "run" / "model.safetensors").read_bytes()
        return f"exit codes {codes}, {'the same model' if same else 'another model'}"
    finally:
        os.system(f"umount {disk}")


# Stops


def stop_often(data: Path, folder: Path, stops: int, later: int, seed: int) -> dict[str, Any]:
    """Stop pre-trainings after a random update, continue them, and compare all tensors `later` updates later."""
    rng, steps, counts = random.Random(seed), 2 * later + 20, {"stops": 0, "different": 0}
    recipes: tuple[Recipe, ...] = ("paper", "fast")

    def run(out: Path, recipe: Recipe, stop: int | None) -> None:
        """Note the state of the random numbers after each update, and ask for a stop after update `stop`."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            with (out.parent / f"{out.name}.random").open("a") as file:
                for report in train(*args, **kwargs):
                    file.write(f"{report.step} {hashed(torch.get_rng_state().numpy().tobytes())}\n")
                    file.flush()
                    if report.step == stop:
                        signal.raise_signal(signal.SIGTERM)
                    yield report

        pretraining.train = watched
        save_every = 1 if stop is None else steps
        pretrain(pretraining_of(data, out, recipe, steps=steps, save_every=save_every, eval_every=steps, keep=steps))

    for recipe in recipes:
        assert in_child(lambda recipe=recipe: run(folder / recipe, recipe, None)) == 0  # type: ignore[misc]
    for number in range(stops):
        recipe, stop, out = recipes[number % 2], rng.randint(1, later), folder / "stopped"
        for at in (stop, stop + later):
            code = in_child(lambda recipe=recipe, at=at, out=out: run(out, recipe, at))  # type: ignore[misc]
            assert code == STOPPED, f"it ended with {code}"
        expected = folder / recipe / checkpoint.FOLDER / f"step-{stop + later:08d}.safetensors"
        found = checkpoint.latest(out)
        assert found is not None and found.name == expected.name
        lines = [(folder / f"{name}.random").read_text().splitlines() for name in (recipe, "stopped")]
        numbers = {line for name in lines for line in name if line.startswith(f"{stop + later} ")}
        counts["stops"] += 1
        counts["different"] += tensors_of(found) != tensors_of(expected) or len(numbers) != 1
        shutil.rmtree(out)
        (folder / "stopped.random").unlink()
    return counts


# Data


def flip_bits(folder: Path, shards: int, seed: int) -> dict[str, Any]:
    """Flip one bit in each of so many shards, one at a time, and count those that are named."""
    rng, text, data = random.Random(seed), folder / "all.txt", folder / "bits"
    text.write_text("\n".join(topics())[:200_000], encoding="utf-8")
    in_small_steps(lambda: prepare(preparation(text, data)))
    manifest = read_manifest(data)
    chosen = rng.sample([shard.file for shard in manifest.train.shards + manifest.val.shards], shards)
    found = 0
    for name in chosen:
        path = data / name
        whole = path.read_bytes()
        raw = bytearray(whole)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        try:
            check_content(data, manifest)
        except UserError as error:
            found += str(error).startswith(f"{path}: damaged") and "gpt1 prepare" in str(error)
        path.write_bytes(whole)
    check_content(data, manifest)
    return {"shards": shards, "found": found, "tokens": len(TokenStream(data, "train"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--later", type=int, default=200, help="updates after a stop at which states are compared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the result, and record nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result["flipped_bits"] = flip_bits(folder, options.shards, options.seed)
        print(result, file=sys.stderr)
        work = jobs(folder)
        share = {"prepare": 0.25, "pretrain": 0.4, "finetune": 0.35}
        for job in work.values() if options.kills else ():
            kills = round(share[job.name] * options.kills)
            (place := folder / job.name).mkdir()
            result[f"killed_{job.name}"] = kill_often(job, place, kills, kills // 2, options.seed)
            print(job.name, result[f"killed_{job.name}"], file=sys.stderr)
            (place := folder / f"{job.name}-errors").mkdir()
            result[f"errors_{job.name}"] = fail_often(job, place, max(1, kills // 8), options.seed)
            print(job.name, result[f"errors_{job.name}"], file=sys.stderr)
        (place := folder / "full").mkdir()
        result["full_disk"] = full_disk(place, folder / "data")
        print(result["full_disk"], file=sys.stderr)
        if not options.stops:
            result["stopped_pretrain"] = {"stops": 0}
        else:
            (place := folder / "stops").mkdir()
            result["stopped_pretrain"] = stop_often(folder / "data", place, options.stops, options.later, options.seed)
    result["seconds"] = time.perf_counter() - started
    print(json.dumps(result))
    if not options.json:
        words = f"--kills {options.kills} --stops {options.stops} --shards {options.shards} --seed {options.seed}"
        record("faults" if options.kills else "stops", f"python benchmarks/faults.py {words}", result)


if __name__ == "__main__":
    main()
