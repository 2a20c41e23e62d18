"""The size of a network for the time there is: `gpt1 pretrain DATA --minutes 10`, without a preset.

In the same time a larger network learns more from each token but reads fewer of them. For any amount of arithmetic
there is a best number of tokens per weight (Hoffmann et al. 2022), which docs/benchmarks.md measures for runs of
minutes.
"""

import math
from dataclasses import replace

import torch

from gpt1.config import Pretrain, preset_shape
from gpt1.data.windows import Stream
from gpt1.model.gpt import weights_in_products
from gpt1.pretraining.defaults import MICRO_BATCH_TOKENS
from gpt1.pretraining.run import build
from gpt1.pretraining.throughput import SCHEDULE_STEPS, seconds_per_update, update_pairs
from gpt1.training import parallel

# (width, depth, context), from small to large; heads are 64 wide.
SIZES = (
    (64, 3, 128), (128, 2, 128), (128, 3, 128), (192, 4, 128), (256, 5, 256), (384, 6, 256), (512, 8, 256),
    (640, 10, 512), (768, 12, 512),
)  # fmt: skip
# Tokens to read for each weight that multiplies them.
TOKENS_PER_WEIGHT = 3.0
# Seconds of updates that measure this machine.
SECONDS = 2.0


def is_open(settings: Pretrain) -> bool:
    """Return whether the time decides the size: `minutes` are given, but no preset, starting run or shape."""
    shape = replace(preset_shape(settings.preset), vocabulary=settings.model.vocabulary)
    return settings.preset == "auto" and bool(settings.minutes) and not settings.init and settings.model == shape


def fit_to_minutes(
    settings: Pretrain, stream: Stream, device: torch.device, dtype: torch.dtype
) -> tuple[Pretrain, str]:
    """Return the settings with the size that learns most in `minutes`, and a sentence that says why.

    The rate of arithmetic is measured on a few updates of one size; it differs little between sizes.
    """
    minutes, tried = settings.minutes or 0, sized(settings, SIZES[3])
    model, optimizer = build(tried, SCHEDULE_STEPS, device, dtype)
    reports = update_pairs(model, optimizer, tried, stream, device)
    update = seconds_per_update(reports, tried, min(SECONDS, 0.6 * minutes))
    update = parallel.current().from_main(lambda: update)
    work = 60 * minutes * tried.batch * tried.model.context / update * weights_in_products(tried.model)

    def misfit(one: Pretrain) -> float:
        """Return the log of the factor by which the tokens per weight miss the optimum."""
        return abs(math.log(work / weights_in_products(one.model) ** 2 / TOKENS_PER_WEIGHT))

    chosen = min((sized(settings, size) for size in SIZES), key=misfit)
    weights, shape = weights_in_products(chosen.model), chosen.model
    why = (
        f"{minutes:g} minutes are about {work / weights:,.0f} tokens for {weights:,} weights here, so the "
        f"network is {shape.width} wide and {shape.depth} deep"
    )
    return chosen, why


def sized(settings: Pretrain, size: tuple[int, int, int]) -> Pretrain:
    """Return the settings with a network of a size."""
    width, depth, context = size
    model = replace(settings.model, width=width, depth=depth, context=context, heads=width // 64, inner=4 * width)
    return replace(settings, model=model, micro_batch=min(settings.micro_batch, max(1, MICRO_BATCH_TOKENS // context)))
