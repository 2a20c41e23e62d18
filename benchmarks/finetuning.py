"""Fine-tuning with batches sorted by length, against padding every row to 128 tokens in the same loop.

    python benchmarks/finetuning.py RUN DATA [--updates 195] [--only sst2,mrpc]

RUN is a pre-trained run; DATA holds the folders sst2 and mrpc. Both ways make the same updates, one by turns, from the
same weights: the seconds of all updates, those with a shape never seen before included, are compared with the tokens
of both. The loss over the vocabulary leaves padding out both ways, so the weights that meet a token are compared too.
An epoch's useful tokens are counted, and in fp32 the scores of rows in batches are compared with those of each row by
itself padded to 128. Figures go to results/finetuning.json, beside those of runs of other sizes.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gpt1.batch import IGNORE, Batch
from gpt1.config import Command, Finetune, Optim, Task
from gpt1.console import quiet
from gpt1.data.collate import Epochs, collate
from gpt1.finetuning.defaults import FitOptions, resolve_defaults
from gpt1.finetuning.examples import TaskExamples, build_examples, read_rows
from gpt1.finetuning.fit import build_network
from gpt1.finetuning.predictor import score
from gpt1.run_folder.folder import LoadedRun, load_run, read_metadata
from gpt1.training.device import prepare_for_training, setup_device
from gpt1.training.loop import StepReport, train
from gpt1.training.optimizer import Optimizer
from record import RESULTS, record

WIDE = 128
SETS: dict[str, Task] = {"sst2": "classification", "mrpc": "similarity"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path)
    parser.add_argument("--updates", type=int, default=195)
    parser.add_argument("--only", default=",".join(SETS))
    asked = parser.parse_args()
    found = {name: measured(asked.run, asked.data / name, SETS[name], asked.updates) for name in asked.only.split(",")}
    kept = json.loads((RESULTS / "finetuning.json").read_text())["result"]
    size = f"{read_metadata(Path(asked.run)).parameters / 1e6:.0f}M"
    kept[size] = kept.get(size, {}) | found
    record("finetuning", "python benchmarks/finetuning.py RUN DATA", kept)


def measured(run: str, folder: Path, task: Task, updates: int) -> dict[str, Any]:
    """Speeds, shares and the largest difference of one set."""
    with quiet():
        base = load_run(run)
        asked = Finetune(run=run, train=str(folder / "train.tsv"), out="", task=task)
        rows = read_rows(asked)
        options = resolve_defaults(FitOptions.of(asked), len(rows.train), base.body.config.width)
        examples = build_examples(base, rows, options)
    pad_id = examples.encoder.tokenizer.pad_id
    epochs = Epochs(examples.train.examples, options.batch, 0, pad_id, options.seed)
    ways = {
        "sorted": turns(options, examples, base, epochs),
        "padded": turns(options, examples, base, lambda step: [widened(batch, pad_id) for batch in epochs(step)]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(updates):
        for name, reports in ways.items():
            seconds[name].append(next(reports).seconds)
    batches = [batch for step in range(updates) for batch in epochs(step)]
    real = sum(useful(batch) for batch in batches)
    wide = sum(batch.tokens_NKT[..., 0].numel() * max(WIDE, batch.tokens_NKT.shape[-1]) for batch in batches)
    epoch = [batch for step in range(epochs.per_epoch) for batch in epochs(step)]
    shapes = {tuple(batch.tokens_NKT.shape) for batch in epoch}
    shape = base.body.config
    in_blocks, in_loss = 12 * shape.depth * shape.width**2, shape.vocabulary * shape.width
    ratio, allowed = sum(seconds["padded"]) / sum(seconds["sorted"]), wide / real
    by_weights = (wide * in_blocks + real * in_loss) / (real * (in_blocks + in_loss))
    result = {
        "updates": updates, "shapes": len(shapes),
        "useful": sum(map(useful, epoch)) / sum(batch.tokens_NKT.numel() for batch in epoch),
        "tokens_per_second": real / sum(seconds["sorted"]), "padded_tokens_per_second": real / sum(seconds["padded"]),
        "ratio": ratio, "allowed": allowed, "share_of_allowed": ratio / allowed,
        "allowed_by_weights": by_weights, "share_of_allowed_by_weights": ratio / by_weights,
        "largest_difference": difference(options, examples, base),
    }  # fmt: skip
    print(folder.name, {name: round(value, 6) for name, value in result.items()})
    return result


def turns(
    options: FitOptions, examples: TaskExamples, base: LoadedRun, batches: Callable[[int], list[Batch]]
) -> Iterator[StepReport]:
    """Fine-tuning as `gpt1 finetune` does it, update by update."""
    device, dtype = setup_device(Command())
    model = build_network(base.body, examples, options).to(device)
    prepare_for_training(model, device, compile=False)
    optimizer = Optimizer(model, Optim(lr=options.lr, warmup=1, decay="linear"), 10_000)
    return train(
        model.to(dtype), batches, optimizer, weights={"task": 1.0, "lm": options.lm_coef}, steps=10_000, device=device,
    )  # fmt: skip


def widened(batch: Batch, pad_id: int) -> Batch:
    """The batch with every row as long as WIDE."""
    missing = max(0, WIDE - batch.tokens_NKT.shape[-1])
    tokens, targets = (
        F.pad(batch.tokens_NKT, (0, missing), value=pad_id),
        F.pad(batch.targets_NKT, (0, missing), value=IGNORE),
    )
    return replace(batch, tokens_NKT=tokens, targets_NKT=targets)


def useful(batch: Batch) -> int:
    """Tokens that are no padding."""
    assert batch.extract_NK is not None and batch.real_NK is not None
    return int(((batch.extract_NK + 1) * batch.real_NK).sum())


@torch.inference_mode()
def difference(options: FitOptions, examples: TaskExamples, base: LoadedRun) -> float:
    """Between the scores of validation rows in sorted batches, and one by one padded to WIDE, in fp32."""
    model = build_network(base.body, examples, options).eval()
    rows, pad_id, cpu = examples.valid.examples[:200], examples.encoder.tokenizer.pad_id, torch.device("cpu")
    together = score(model, rows, 64, pad_id, cpu)
    alone = np.concatenate([model.scores(widened(collate([e], pad_id, WIDE), pad_id)).numpy() for e in rows])
    return float(np.abs(together - alone).max())


if __name__ == "__main__":
    main()
