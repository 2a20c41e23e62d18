"""`gpt1 embed`: rows -> the same rows with a vector for each text, as the server's `/v1/embeddings` gives it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from gpt1.config import Embed
from gpt1.console import bar, warn
from gpt1.data.table_writer import VECTOR_ENDINGS, check_ending, table_writer
from gpt1.data.tables import Row, TableOptions, columns, rows, table
from gpt1.errors import UserError
from gpt1.keywords import command
from gpt1.results import Result
from gpt1.run_folder.embedding import embed as vectors_of
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.generation import prepare_for_inference
from gpt1.storage import atomic
from gpt1.tasks.columns import text_column
from gpt1.tasks.rows import valid_rows
from gpt1.training.device import setup_device

# Rows held in memory; among them, texts of similar length share a batch.
ROWS_AT_ONCE = 1024
COLUMN = "embedding"
Write = Callable[[Sequence[Row], np.ndarray], None]


@dataclass(frozen=True)
class EmbedResult(Result):
    """What `gpt1 embed` prints."""

    rows: int
    """rows with a vector"""
    width: int
    """numbers in a vector"""
    tokens: int
    """tokens of all texts"""
    out: str
    """the file written"""


@command(Embed, "run", "input")
def embed(settings: Embed) -> EmbedResult:
    """Write the rows with their vectors, in input order and bounded memory.

    A text longer than the context is read in parts, see `run_folder.embedding`. Raises UserError for wrong rows, a
    missing column, or a folder that is not a run.
    """
    check_ending(settings.out, VECTOR_ENDINGS)
    file, options = table(settings.input), TableOptions.of(settings)
    names = columns(file, options)
    column = text_column(file, names, settings.text)
    # A first pass over the rows: a wrong one is found before hours of work, and the size of an array is known.
    texts = valid_rows(rows(file, options, only=[column]), lambda row: row.text(column), options, settings.input)
    total = sum(1 for _ in texts)
    device, dtype = setup_device(settings)
    run = load_run(settings.run)
    body, done, tokens = prepare_for_inference(run.body, device, dtype), 0, 0
    source = valid_rows(rows(file, options), lambda row: row.text(column), options)
    new = "" if _is_array(settings.out) else f"{COLUMN}_0" if _is_flat(settings.out) else COLUMN
    if new in names:
        warn(f"{file.path} has a column {new} already; the vector replaces it")
    with _writer(settings.out, total, body.config.width) as write, bar() as progress:
        task = progress.add_task("embed, rows", total=total)
        while block := list(islice(source, ROWS_AT_ONCE)):
            ids = run.tokenizer.encode_batch([text for _, text in block])
            if empty := [row for (row, _), each in zip(block, ids, strict=True) if not each]:
                raise UserError(f"{empty[0].where}: the tokenizer finds no tokens in column {column}; drop the row")
            write([row for row, _ in block], vectors_of(body, ids))
            done, tokens = done + len(block), tokens + sum(map(len, ids))
            progress.update(task, completed=done)
    return EmbedResult(done, body.config.width, tokens, settings.out)


def show(result: EmbedResult) -> str:
    """Say where the vectors are."""
    return f"{result.rows:,} vectors of {result.width:,} numbers in {result.out}"


def _is_array(out: str) -> bool:
    """Return whether only the vectors are written."""
    return out.lower().endswith(".npy")


def _is_flat(out: str) -> bool:
    """Return whether each number of a vector has a column of its own."""
    return out.lower().endswith((".csv", ".tsv"))


@contextmanager
def _writer(out: str, total: int, width: int) -> Iterator[Write]:
    """Yield a function that writes the next rows with their vectors, in the format of the file's name."""
    if _is_array(out):
        with atomic(out) as temporary:
            array, filled = np.lib.format.open_memmap(temporary, "w+", np.dtype("<f4"), (total, width)), 0

            def fill(_found: Sequence[Row], vectors_ND: np.ndarray) -> None:
                nonlocal filled
                array[filled : filled + len(vectors_ND)] = vectors_ND
                filled += len(vectors_ND)

            yield fill
            array.flush()
        return
    with table_writer(out) as write_rows:

        def write(found: Sequence[Row], vectors_ND: np.ndarray) -> None:
            named = [
                {f"{COLUMN}_{n}": x for n, x in enumerate(vector)} if _is_flat(out) else {COLUMN: vector}
                for vector in vectors_ND.tolist()
            ]
            write_rows([replace(row, values=row.values | each) for row, each in zip(found, named, strict=True)])

        yield write
