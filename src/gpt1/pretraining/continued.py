"""Continued pre-training: a run goes on with stage one on other text, such as the unlabelled text of a task.

Its tokenizer and recipe stay. The text is read a few times, at a learning rate below that of pre-training. Further
pre-training on a task's own text before fine-tuning: Howard and Ruder 2018, section 3.2; Gururangan et al. 2020.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt1.config import PRETRAINED_RUN, TEXT_FILES, Command, Finetune, Pretrain, pretrain_defaults
from gpt1.console import say
from gpt1.data.documents import Corpus, ReadOptions, at_whitespace, blocks, text_files
from gpt1.data.files import File, sha256_of
from gpt1.data.prepare import prepare_folder
from gpt1.data.shards import read_manifest
from gpt1.errors import UserError
from gpt1.keywords import checked, from_keywords, sections_of
from gpt1.options import options
from gpt1.pretraining.job import PretrainResult, pretrain_folder
from gpt1.remote import local_path, output_path
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.metadata import ReadSummary, Source, read_metadata
from gpt1.run_folder.shape import read_shape
from gpt1.run_folder.starter import find_run
from gpt1.storage import write_text
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import parallel

# The peak learning rate, as a fraction of the recipe's.
LR_SHARE = 0.2
# Batches are small enough for one pass over the text to have MIN_UPDATES updates, if it holds that many windows, and at
# most one update in WARMUP_SHARE warms up.
MIN_UPDATES, WARMUP_SHARE = 20, 10
# Runs of unknown recipe, as converted ones, follow the paper's from its width on.
PAPER_WIDTH = 768
# How a message names the function that `settings` are passed to.
CALL = "continue_pretraining()"
# Fraction of the documents that is held out to measure the loss, and the least text, in characters, that is enough.
VAL_FRACTION, MIN_CHARACTERS = 0.01, 200


@dataclass(frozen=True)
class UnlabelledText:
    """Files to read, and how."""

    files: list[File]
    options: ReadOptions
    in_memory: bool = False
    """whether the texts came as strings, so that the name of the file they were written to means nothing to anybody"""

    @classmethod
    def of(cls, texts: Any, options: ReadOptions, work: Path) -> "UnlabelledText":
        """Return the text that `texts` means: the name of a file, several `pathlib.Path`, or the texts themselves.

        Texts are written to a file in the folder `work`. Raises UserError for a file that does not exist, and TypeError
        for anything else.
        """
        given = [texts] if isinstance(texts, str | os.PathLike) else list(texts)
        if not given:
            raise UserError("there are no texts to train on; give some")
        is_file = [isinstance(texts, str) or isinstance(one, os.PathLike) for one in given]
        if all(is_file):
            return cls(text_files([local_path(os.fspath(one), TEXT_FILES) for one in given], options), options)
        for number, (one, named) in enumerate(zip(given, is_file, strict=True)):
            if named or not isinstance(one, str):
                raise TypeError(f"text {number} is {repr(one)[:40]}; give strings, or files as pathlib.Path")
        if all(map(os.path.isfile, given)):  # Path.is_file raises OSError for a long text
            raise TypeError(f"{given[0]} is the name of a file, not a text; give files as pathlib.Path")
        if (size := sum(len(str(text)) for text in given)) < MIN_CHARACTERS:
            raise UserError(
                f"{given[0]!r}: {size} characters of text are too few to train on; give more, or files as pathlib.Path"
            )
        path = work / "texts.jsonl"
        write_text(path, "".join(json.dumps({options.text: text}) + "\n" for text in given))
        return cls([File(path, named=True)], replace(options, columns=()), in_memory=True)

    def sources(self) -> list[Source]:
        """Return the files with their hashes, without a path if the texts were in memory."""
        paths = [file.path for file in self.files]
        return [Source(path=None if self.in_memory else str(path), sha256=sha256_of(path)) for path in paths]

    def named(self, file: File) -> str:
        """Return what a message calls a file."""
        return "the texts" if self.in_memory else str(file.path)

    def check(self) -> None:
        """Read everything once. Raises UserError for a file without text, or one that cannot be read."""
        size = 0
        for file in self.files:
            found = sum(len(text) for block in blocks([file], self.options, at_whitespace) for text in block.texts)
            if not found:
                remedy = "give some" if self.in_memory else "leave it out"
                raise UserError(f"{self.named(file)}: no text to read; {remedy}")
            size += found
        if size < MIN_CHARACTERS:
            names = "the texts" if self.in_memory else ", ".join(file.path.name for file in self.files)
            raise UserError(f"{names}: {size} characters of text are too few to train on; give more text")


def continue_pretraining(
    run: str | Path,
    texts: str | Path | Iterable[str] | Iterable[Path],
    out: str | Path,
    *,
    epochs: float = Finetune.read_epochs,
    lr: float = Finetune.read_lr,
    text: str = ReadOptions.text,
    encoding: str = ReadOptions.encoding,
    **settings: Any,
) -> PretrainResult:
    """Pre-train a run further on unlabelled texts, into the new run folder `out` (the paper, section 3.1).

    This is what `gpt1 finetune --read` does first; do it once if several models start from the result.

    Parameters
    ----------
    run : str or Path
        Pre-trained run folder, or `starter`. It stays as it is.
    texts : str, Path, or iterable of str or of Path
        Texts; or files as `gpt1 prepare` takes them: one name, or several `pathlib.Path`.
    out : str or Path
        Run folder to write.
    epochs : float, default 3.0
        Passes over the texts; one hundredth of them is held out to measure the loss.
    lr : float, default 0.0
        Peak learning rate, which falls to 0; 0: a fifth of the recipe's.
    text : str, default "text"
        Text column of files that are tables.
    encoding : str, default "utf-8"
        Character encoding of the files.
    **settings
        Other settings of `gpt1.pretrain`, such as `batch`, `steps`, `optim`, `device` or `seed`. By default the recipe
        is the run's, and where texts are few, batches are smaller and the warm-up is shorter.

    Returns
    -------
    PretrainResult
        What `gpt1.pretrain` returns.

    Raises
    ------
    UserError
        (a ValueError) for files without text and settings that cannot work.
    TypeError
        For an unknown name or a value of another type.

    Examples
    --------
    >>> gpt1.continue_pretraining("starter", reviews, out="runs/reviews")
    >>> gpt1.Classifier("runs/reviews").fit(texts, labels)
    """
    with TemporaryDirectory() as work, output_path(out) as place:
        run = Path(local_path(os.fspath(run), PRETRAINED_RUN))
        found = UnlabelledText.of(texts, ReadOptions(text=text, encoding=encoding), Path(work))
        data = Path(work) / "data"
        return pretrain_folder(_prepare(run, found, data, place, epochs, lr, settings))


def read_first(
    base: LoadedRun,
    run: str | Path,
    text: UnlabelledText,
    folder: Path,
    *,
    epochs: float,
    lr: float,
    on: Command,
) -> tuple[LoadedRun, ReadSummary]:
    """Return `base`, the pre-trained run `run`, trained further on unlabelled text, and what was read.

    `on` says on which device and with how many threads to train, in which number format and from which seed.
    A training that was stopped continues from the states in `folder`. Raises UserError for text that cannot be read or
    is too short, before anything is trained.
    """
    out, from_main = folder / "run", parallel.current().from_main
    common = {one.name: getattr(on, one.name) for one in fields(Command)}
    settings = from_main(lambda: _prepare(Path(run), text, folder / "data", out, epochs, lr, common))
    tokens = read_manifest(folder / "data").train.tokens
    if not from_main(lambda: (out / "gpt1.json").exists() and read_metadata(out).metrics):  # else it is complete
        say(f"reading {tokens:,} tokens of unlabelled text, {epochs:g} times")
        pretrain_folder(settings)
    found = read_metadata(out)
    summary = ReadSummary(
        files=from_main(text.sources),
        tokens=tokens,
        epochs=epochs,
        lr=settings.optim.lr,
        steps=found.steps or 0,
        val_nats_per_token=found.metrics["val_nats_per_token"],
    )
    return replace(base, body=load_run(out).body), summary


def _prepare(
    run: Path, text: UnlabelledText, data: Path, out: Path, epochs: float, lr: float, settings: dict[str, Any]
) -> Pretrain:
    """Encode the text into the folder `data`, and return the settings to train on it.

    Raises UserError if the text cannot be read or does not fill a window.
    """
    asked = checked(options(Pretrain), sections_of(Pretrain), settings, CALL)
    text.check()
    seed = asked.get("seed", Command.seed)
    corpus = Corpus(text.files, [], text.options, VAL_FRACTION, seed)
    how = asdict(text.options) | {"columns": list(text.options.columns), "seed": seed}
    prepare_folder(data, corpus, Tokenizer.load(find_run(run)), True, settings=how, fresh=False)
    tokens, shape, metadata = read_manifest(data).train.tokens, read_shape(run), read_metadata(run)
    if tokens <= shape.context:
        raise UserError(
            f"{text.named(text.files[0])}: {tokens:,} tokens of text are not enough for a window of {shape.context}; "
            "give more"
        )
    recipe = metadata.recipe or ("paper" if shape.width >= PAPER_WIDTH else None)
    usual = pretrain_defaults(metadata.preset or "small", recipe, data=str(data), out=str(out))
    # Each process has a part of every batch.
    batch = max(parallel.current().size, min(usual.batch, tokens // (shape.context * MIN_UPDATES)))
    lr = lr or LR_SHARE * usual.optim.lr
    given = {
        "data": data, "out": out, "init": run, "preset": usual.preset, "recipe": usual.recipe, "model": shape,
        "batch": batch, "optim.lr": lr, "optim.matrix_lr": lr, "optim.decay": "linear",
    }  # fmt: skip
    if all(asked.get(name) is None for name in ("steps", "minutes")):
        given["epochs"] = epochs
    # Intervals follow the updates that will be made.
    tokens_per_step = max(1, asked.get("batch", batch) * shape.context)
    steps = asked.get("steps") or max(1, round(epochs * tokens / tokens_per_step))
    given["eval_every"] = math.ceil(steps / max(1.0, epochs))
    given["optim.warmup"] = min(usual.optim.warmup, max(1, steps // WARMUP_SHARE))
    found: Pretrain = from_keywords(Pretrain, (), (), given | asked, CALL)
    return found
