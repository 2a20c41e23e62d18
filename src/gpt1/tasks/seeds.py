"""Models that differ only in their seed: mean and deviation of what they scored. No torch, so a page may ask too."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def over_seeds(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every metric that is a number: `mean`, `deviation` (of a sample; None of one value) and `values`."""
    names = [name for name, value in metrics[0].items() if isinstance(value, float)]
    each = {name: [found[name] for found in metrics] for name in names}
    return {
        name: {"mean": statistics.mean(values), "deviation": _deviation(values), "values": values}
        for name, values in each.items()
    }


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
