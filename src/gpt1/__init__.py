"""gpt1: pre-train a GPT on your own text, then fine-tune it on your labels (Radford et al. 2018).

Public names are imported on first use, so `import gpt1` is fast. A command is a function that takes its settings as
keywords, or as one dataclass of `gpt1.config`, and returns a `gpt1.results.Result`: `gpt1.pretrain("data", out="run",
minutes=2)`. `gpt1.load("run")` generates text. Each task is also an estimator that follows scikit-learn's contract:
`gpt1.Classifier("run").fit(texts, labels)`. A caller's mistakes raise ValueError or TypeError.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt1 import config
    from gpt1.commands.ablate import ablate
    from gpt1.commands.convert import convert
    from gpt1.commands.demo import demo
    from gpt1.commands.embed import embed
    from gpt1.commands.evaluate import evaluate
    from gpt1.commands.explain import explain
    from gpt1.commands.finetune import finetune
    from gpt1.commands.generate import generate
    from gpt1.commands.info import info
    from gpt1.commands.plan import plan
    from gpt1.commands.predict import predict
    from gpt1.commands.prepare import prepare
    from gpt1.commands.pretrain import pretrain
    from gpt1.commands.report import report
    from gpt1.commands.serve import serve
    from gpt1.estimators.embedder import Embedder
    from gpt1.estimators.tasks import (
        Classifier,
        Entailment,
        MultiLabelClassifier,
        MultipleChoice,
        Regressor,
        Similarity,
    )
    from gpt1.pretraining.continued import continue_pretraining
    from gpt1.run_folder.folder import load_run as load

if "OMP_WAIT_POLICY" not in os.environ:
    # How long OpenMP's threads spin while they wait. With libgomp's 300,000 rounds, two trainings on one machine take
    # five times as long as one, and more; with 1,000, twice as long, and one alone loses a few percent if its network
    # is tiny. Read once, when torch is loaded. docs/benchmarks.md has the measurements.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__all__ = [
    "Classifier", "Embedder", "Entailment", "MultiLabelClassifier", "MultipleChoice", "Regressor", "Similarity",
    "ablate", "config", "continue_pretraining", "convert", "demo", "embed", "evaluate", "explain", "finetune",
    "generate", "info", "load", "plan", "predict", "prepare", "pretrain", "report", "serve",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker would believe in every name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'gpt1' has no attribute {name!r}")
        if name == "config":
            return import_module("gpt1.config")
        if name == "Embedder":
            return import_module("gpt1.estimators.embedder").Embedder
        if name[0].isupper():
            return getattr(import_module("gpt1.estimators.tasks"), name)
        if name == "load":
            return import_module("gpt1.run_folder.folder").load_run
        if name == "continue_pretraining":
            return import_module("gpt1.pretraining.continued").continue_pretraining
        return getattr(import_module(f"gpt1.commands.{name}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
