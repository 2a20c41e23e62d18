"""Changes to the defaults of fine-tuning, and what each is worth on rows kept out of the training sets.

    python benchmarks/finetuning_ideas.py RUN DATA [--only default,muon-0.001] [--sets sst2,mrpc]
        [--sizes 100,1000] [--seeds 3]

DATA holds the folders of `benchmarks/tasks.py`. Of each set's training rows 800, or a third if that is less, are kept
out and score every model; a set's own validation and test rows are not read. Training rows are a sample of the others,
another with each seed, of which a tenth validates. Scores are those of the network, without words. Results are added to
results/finetuning_ideas.json under the weights of RUN, and are not measured again.
"""

import argparse
import statistics
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import nn

from gpt1.config import Finetune, Optim
from gpt1.console import quiet
from gpt1.data.files import sha256_of
from gpt1.finetuning import fit as fitting
from gpt1.finetuning.defaults import FitOptions
from gpt1.finetuning.examples import TaskRows
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.run_folder.starter import find_run
from gpt1.tasks.rows import LabelledRows, split_train_valid
from gpt1.training.device import setup_device
from gpt1.training.optimizer import Optimizer
from recipes import fill
from tasks import SETS, drawn, scores, training_rows

KEPT_OUT = 800
BASE = "default"
# Changes to the options of a fine-tuning and, as `optim`, to its optimizer; as `new_std`, the deviation of the new
# tokens' embeddings, in that of the pre-trained ones.
IDEAS: dict[str, dict[str, Any]] = {
    BASE: {},
    **{f"lr-{lr:g}": {"lr": lr} for lr in (2.5e-4, 5e-4, 2e-3)},
    **{f"muon-{lr:g}": {"optim": {"method": "muon", "matrix_lr": lr}} for lr in (5e-4, 1e-3, 2e-3)},
    **{f"lm-coef-{coef:g}": {"lm_coef": coef} for coef in (0.0, 0.1)},
    "decay-0.3": {"optim": {"weight_decay": 0.3}},
    "dropout-0.1": {"dropout": 0.1},
    "freeze-1": {"freeze": 1},
    "epochs-6": {"epochs": 6},
    "epochs-6-lr-0.0005": {"epochs": 6, "lr": 5e-4},
    **{f"epochs-6-dropout-{p:g}": {"epochs": 6, "dropout": p} for p in (0.2, 0.3)},
    "new-tokens-as-learnt": {"new_std": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(IDEAS))
    parser.add_argument("--sets", default="sst2,cola,mrpc,snli,stsb")
    parser.add_argument("--sizes", default="16,100,1000,all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    model, base = sha256_of(find_run(asked.run) / "model.safetensors")[:12], load_run(asked.run)
    parts = {name: split(name, asked.data) for name in asked.sets.split(",")}
    groups = {}
    for size, name in product(asked.sizes.split(","), parts):
        measure = partial(measured, base, *parts[name], name, size, asked.threads)
        groups[f"{name} {size}"] = fill(
            "finetuning_ideas", f"{model} {name} {size}", asked.only.split(","), asked.seeds, measure, "RUN DATA"
        )
    print(table(groups))


def split(name: str, data: Path) -> tuple[TaskRows, LabelledRows]:
    """Read the training rows of a set; return those to draw from, and those kept out."""
    each = SETS[name]
    rows = training_rows(Finetune(run="", train=str(data / name / each.train), out="", task=each.task))
    order: list[int] = np.random.default_rng(0).permutation(len(rows.train)).tolist()
    cut = min(KEPT_OUT, len(order) // 3)
    return replace(rows, train=rows.train.select(sorted(order[cut:]))), rows.train.select(sorted(order[:cut]))


def measured(
    base: LoadedRun, rows: TaskRows, kept_out: LabelledRows, name: str, size: str, threads: int, idea: str, seed: int
) -> dict[str, float]:
    """Fine-tune once and return the scores of the network and of words alone on the rows kept out."""
    settings = Finetune(run="", train="", out="", task=rows.task, seed=seed, threads=threads)
    device, dtype = setup_device(settings)
    train, valid = split_train_valid(rows.train.select(sorted(drawn(rows, size, seed))), seed)
    changes = dict(IDEAS[idea])
    optim, new_std = changes.pop("optim", {}), fitting.INIT_STD
    if "new_std" in changes:
        new_std = changes.pop("new_std") * base.body.tokens.weight.std().item()

    def optimizer(model: nn.Module, settings: Optim, steps: int) -> Optimizer:
        return Optimizer(model, replace(settings, **optim), steps)

    with quiet(), patch.object(fitting, "Optimizer", optimizer), patch.object(fitting, "INIT_STD", new_std):
        options = replace(FitOptions.of(settings), **changes)
        tuned = fitting.fit(base, replace(rows, train=train, valid=valid), options, device=device, dtype=dtype)
    found = scores(tuned.predictor(device, dtype), kept_out, SETS[name].metric)
    return {"lr": tuned.options.lr, "network": found["network"], "words": found["words"]}


def table(groups: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """Format means over the seeds, in percent, as a table in Markdown: the last row for words alone."""
    ideas = {idea: "network" for found in groups.values() for idea in found} | {"words alone": "words"}
    lines = [f"| | {' | '.join(groups)} | mean |", "|---" * (len(groups) + 2) + "|"]
    for idea, what in ideas.items():
        seeds = [found[BASE if what == "words" else idea].values() for found in groups.values()]
        means = [100 * statistics.mean(one[what] for one in each) for each in seeds]
        lines.append(f"| {idea} | {' | '.join(f'{mean:.1f}' for mean in means)} | {statistics.mean(means):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
