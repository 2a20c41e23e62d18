"""Where a figure comes from: the machine, the versions and the day, beside the result of a benchmark."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt1 import __version__
from gpt1.storage import write_json

RESULTS = Path(__file__).parent / "results"
FLAGS = ("amx_bf16", "avx512_bf16", "avx512_f", "avx2")


def record(name: str, command: str, result: dict[str, Any]) -> None:
    """Write results/NAME.json; `command` is what a reader would type to measure it again."""
    packages = ("torch", "tokenizers", "polars", "numpy", "transformers", "scikit-learn")
    value = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"gpt1": __version__, "python": platform.python_version()} | {p: version(p) for p in packages},
        "result": result,
    }
    write_json(RESULTS / f"{name}.json", value)


def machine() -> str:
    """Processor, cores, the vector units that matter here, and the GPU if there is one."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    units = next((flag for flag in FLAGS if has.get(flag)), platform.machine())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{has.get('cpu_name') or platform.processor() or platform.machine()}, {cores} cores, {units}{gpu}"
