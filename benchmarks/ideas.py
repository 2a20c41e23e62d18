"""Ideas for learning faster that recipe `fast` does not use, and what each is worth on the same number of tokens.

    python benchmarks/ideas.py DATA [--preset tiny] [--updates 640] [--seeds 3] [--only short-first,ema-0.99]

DATA is a folder that `gpt1 prepare` wrote. Every idea is a change to what one update reads or keeps, around the loop
that `gpt1 pretrain` uses, so `fast` here is what that command does. Results are added to results/ideas.json under the
data's fingerprint, preset and updates, and are not measured again.
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.batch import Batch
from gpt1.config import DEFAULT_BATCH, PRESETS, RECIPES, Pretrain
from gpt1.data.windows import Windows
from gpt1.pretraining.defaults import PreparedData, open_data, resolve_defaults
from gpt1.pretraining.run import build, validation_likelihood
from gpt1.training.device import setup_device
from gpt1.training.loop import train
from recipes import fill, table


@dataclass(frozen=True)
class Idea:
    """A change to recipe `fast`."""

    phases: tuple[tuple[float, float, float], ...] = ((1, 1, 1),)
    """of the training tokens this share, in windows of this part of the context, this part of the tokens an update"""
    masked: float = 0.0
    """share of the input tokens that are replaced by random ones; the targets stay"""
    dropout: tuple[float, float] = (0.0, 1.0)
    """probability, from this share of the updates on"""
    ema: float = 0.0
    """the validated weights are a moving average over updates, of this decay"""
    optim: dict[str, Any] = field(default_factory=dict)


BASE = "fast"
IDEAS = {
    BASE: Idea(),
    "short-first": Idea(phases=((0.3, 0.25, 1), (0.3, 0.5, 1), (0.4, 1, 1))),
    "batch-ramp": Idea(phases=((0.1, 1, 0.25), (0.2, 1, 0.5), (0.7, 1, 1))),
    "masked-0.05": Idea(masked=0.05),
    "masked-0.15": Idea(masked=0.15),
    "dropout-0.1": Idea(dropout=(0.1, 0.0)),
    "dropout-0.1-in-second-half": Idea(dropout=(0.1, 0.5)),
    "ema-0.98": Idea(ema=0.98),
    "ema-0.98-constant-rate": Idea(ema=0.98, optim={"cooldown": 0.0}),
    "cooldown-0.3": Idea(optim={"cooldown": 0.3}),
    "cooldown-0.6": Idea(optim={"cooldown": 0.6}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--updates", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(IDEAS))
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    with open_data(asked.data) as data:
        group = f"{data.manifest.fingerprint[:12]} {asked.preset} {asked.updates}"
        names = asked.only.split(",")
        found = fill("ideas", group, names, asked.seeds, lambda name, seed: measured(asked, data, IDEAS[name], seed))
    print(table(found, BASE))


def measured(asked: argparse.Namespace, data: PreparedData, idea: Idea, seed: int) -> dict[str, float]:
    """Pre-train once and return validation bits per byte."""
    settings = Pretrain(
        data=str(asked.data), out="", preset=asked.preset, seed=seed, threads=asked.threads, compile="on",
        model=replace(PRESETS[asked.preset], vocabulary=data.tokenizer.vocabulary), batch=DEFAULT_BATCH[asked.preset],
        optim=replace(RECIPES["fast"], **idea.optim),
    )  # fmt: skip
    settings = resolve_defaults(settings, data)
    device, dtype = setup_device(settings)
    plan = schedule(idea, settings, asked.updates, data)
    model, optimizer = build(settings, len(plan), device, dtype)
    weights = optimizer.masters
    mean: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def batches(step: int) -> list[Batch]:
        windows, number = plan[step]
        set_dropout(model, idea.dropout[0] if step >= idea.dropout[1] * len(plan) else 0.0)
        return [with_random_inputs(part, idea.masked, settings.model.vocabulary, generator) for part in windows(number)]

    for report in train(model, batches, optimizer, weights={"lm": 1.0}, steps=len(plan), seed=seed, device=device):
        if idea.ema:
            update_mean(mean, weights, min(idea.ema, report.step / (report.step + 10)))
    with torch.no_grad():
        for name, value in (mean or weights).items():
            optimizer.weights[name].copy_(value)
    found = validation_likelihood(model.body, data.val, data.tokenizer.end_id, len(plan))
    bits = found.bits_per_byte(data.manifest.val.tokens / data.manifest.val.bytes)
    return {"bits_per_byte": bits, "updates": len(plan)}


def schedule(idea: Idea, settings: Pretrain, updates: int, data: PreparedData) -> list[tuple[Windows, int]]:
    """Return for each update the windows it reads from, and the number of its batch in them."""
    plan, context = [], settings.model.context
    for seed, (share, length, size) in enumerate(idea.phases, settings.seed):
        T, batch = round(length * context), round(settings.batch * size / length)
        windows = Windows(data.train, T, batch, max(1, settings.micro_batch * context // T), seed)
        plan += [(windows, number) for number in range(round(updates * share / size))]
    return plan


def with_random_inputs(batch: Batch, share: float, vocabulary: int, generator: torch.Generator) -> Batch:
    """Return the batch with a random `share` of its input tokens replaced by random ones."""
    if not share:
        return batch
    tokens = batch.tokens_NKT
    replaced = torch.rand(tokens.shape, generator=generator) < share
    return replace(
        batch, tokens_NKT=tokens.where(~replaced, torch.randint(vocabulary, tokens.shape, generator=generator))
    )


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the probability of each dropout of the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


@torch.no_grad()
def update_mean(mean: dict[str, Tensor], weights: dict[str, nn.Parameter], decay: float) -> None:
    """Move the average of each weight towards its value now."""
    for name, value in weights.items():
        mean[name] = value.detach().clone() if name not in mean else mean[name].lerp_(value, 1 - decay)


if __name__ == "__main__":
    main()
