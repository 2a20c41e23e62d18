"""Check the paths among a command's settings before its module is imported, and torch with it.

A missing file is the most frequent mistake, and importing torch takes seconds. `config` declares what must be at each
path. The commands repeat these checks, because Python callers do not pass through here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt1.console import quiet
from gpt1.conversion.source import is_hub_id, kind_of
from gpt1.data.files import choose_splits, is_path, matches
from gpt1.data.shards import read_manifest
from gpt1.data.table_writer import VECTOR_ENDINGS, check_ending
from gpt1.data.tables import table, text_or_table
from gpt1.errors import UserError
from gpt1.options import options
from gpt1.pages.render import check_page
from gpt1.run_folder.metadata import read_metadata
from gpt1.run_folder.places import (
    check_demo_place,
    check_finetuned,
    check_finetuned_place,
    check_new_folder,
    check_pretrained,
    check_pretrained_place,
    named_runs,
    read_ablation,
)
from gpt1.storage import check_folder


def check_paths(settings: Any) -> None:
    """Raise UserError, naming the path, for the first setting whose path does not hold what it must."""
    for key, option in options(type(settings)).items():
        value = getattr(settings, key) if option.path_kind else None
        for path in value if isinstance(value, list) else [value]:
            if not path:
                continue
            if option.path_kind == "a page to write":
                check_page(path, key)  # `out` or `html`, which its message names
            elif option.path_kind in CHECKS:
                CHECKS[option.path_kind](path)


def _splits(path: str) -> None:
    with quiet():  # the command prints which split it takes
        train, _ = choose_splits(path, validate=False)
    table(train)


def _table_or_texts(given: str) -> None:
    if is_path(given):
        if not Path(given).exists():
            raise UserError(f"{given}: no such file; if it is a text, give it on standard input, with `-` in its place")
        table(given)


def _table_out(path: str) -> None:
    if path != "-":  # standard output
        check_ending(path)


def _ablation(path: str) -> None:
    check_folder(Path(path).parent)
    if Path(path).exists():
        read_ablation(Path(path))


# What must be at a path, as `config` declares it -> the function that raises UserError if it is not.
CHECKS: dict[str, Callable[[str], object]] = {
    "a run": lambda path: read_metadata(Path(path)),
    "a run, perhaps named": lambda run: [read_metadata(Path(folder)) for folder in named_runs([run]).values()],
    "a pre-trained run": check_pretrained,
    "a fine-tuned run": check_finetuned,
    "prepared data": read_manifest,
    "a table or splits": _splits,
    "a table": table,
    "a table or texts": _table_or_texts,
    "a table or text file": text_or_table,
    "text files": matches,
    "a model": lambda path: is_hub_id(path) or kind_of(path),
    "a new folder": lambda path: check_new_folder(Path(path)),
    "prepared data to write": lambda path: check_folder(Path(path)),
    "a demo to write": lambda path: check_demo_place(Path(path)),
    "a pre-trained run to write": lambda path: check_pretrained_place(Path(path)),
    "a fine-tuned run to write": lambda path: check_finetuned_place(Path(path)),
    "an ablation to write": _ablation,
    "a table to write": _table_out,
    "vectors to write": lambda path: check_ending(path, VECTOR_ENDINGS),
}
