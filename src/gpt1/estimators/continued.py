"""Pre-training a run further on texts in memory: `gpt1 prepare`, then `gpt1 pretrain --init`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt1.commands.prepare import prepare
from gpt1.commands.pretrain import pretrain
from gpt1.config import Prepare, pretrain_defaults
from gpt1.run_folder.folder import read_metadata, read_shape
from gpt1.storage import write_text

FEWEST_UPDATES = 20
"""in a pass over the texts, for which the batch is made smaller"""
LONGEST_WARMUP = 10
"""One update in so many warms up, or fewer."""


def continued(run: str, texts: Sequence[str], out: str, epochs: float, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the run folder `out`: the run, trained further in `epochs` passes over the texts; returns its metrics.

    Follows the recipe of the run, but for `settings` (`config.Pretrain`); where texts are few, with smaller batches and
    a shorter warm-up. Raises UserError as the two commands do.
    """
    info, context = read_metadata(Path(run)), read_shape(Path(run)).context
    with TemporaryDirectory() as scratch:
        corpus, data = Path(scratch) / "texts.jsonl", str(Path(scratch) / "data")
        write_text(corpus, "".join(json.dumps({"text": text}) + "\n" for text in texts))
        found = prepare(Prepare(inputs=[str(corpus)], out=data, tokenizer=run, seed=settings["seed"]))
        usual = pretrain_defaults(info.get("preset") or "small", info.get("recipe"), data=data, out=out)
        batch = max(1, min(usual.batch, found["train_tokens"] // (context * FEWEST_UPDATES)))
        steps = max(1, round(epochs * found["train_tokens"] / (batch * context)))
        optim = replace(usual.optim, warmup=min(usual.optim.warmup, max(1, steps // LONGEST_WARMUP)))
        asked = replace(usual, init=run, batch=batch, epochs=epochs, optim=optim)
        if {"steps", "minutes"} & settings.keys():
            asked = replace(asked, epochs=None)
        return pretrain(replace(asked, **settings))
