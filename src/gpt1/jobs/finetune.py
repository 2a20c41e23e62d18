"""`gpt1 finetune`: a pre-trained run and labelled rows -> a classifier (the paper, section 3.2)."""

import dataclasses
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType
from torch import Tensor
from torch.nn import functional as F

from gpt1.config import Finetune, Optim, with_vocabulary
from gpt1.data.collate import Epochs, Example
from gpt1.jobs import bundle
from gpt1.jobs.classifier import make_examples, score
from gpt1.jobs.console import bar, say, table
from gpt1.jobs.finetune_settings import check, is_done, settle, sources
from gpt1.jobs.labelled import Columns, Labelled, class_names, guess_columns, label_numbers, read_labelled, split, warn
from gpt1.jobs.metrics import classification_metrics
from gpt1.nn.model import GPT, INIT_STD
from gpt1.nn.objectives import TaskModel
from gpt1.storage import write_json
from gpt1.text.tokenizer import Tokenizer
from gpt1.train.log import Log
from gpt1.train.loop import Report, train
from gpt1.train.optim import Optimizer
from gpt1.train.parallel import machine


@dataclass(frozen=True)
class Data:
    """Training and validation rows, ready for the model."""

    columns: Columns
    names: list[str]
    train: list[Example]
    valid: list[Example]


@dataclass(frozen=True)
class Run:
    """A fine-tuning in progress."""

    settings: Finetune
    data: Data
    epochs: Epochs
    model: TaskModel
    optimizer: Optimizer
    device: torch.device

    def validate(self) -> dict[str, Any]:
        """The metrics on the validation rows, and their mean `loss` (L2) in nats."""
        data = self.data
        scores_NC = torch.from_numpy(score(self.model, data.valid, self.epochs.batch, self.epochs.pad_id, self.device))
        classes_N = torch.tensor([example.label for example in data.valid])
        gold, predicted = ([data.names[i] for i in found.tolist()] for found in (classes_N, scores_NC.argmax(-1)))
        loss = F.cross_entropy(scores_NC, classes_N).item()
        return classification_metrics(gold, predicted, data.names) | {"loss": loss}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the fp32 weights as they are."""
        return {name: master.detach().clone() for name, master in self.optimizer.masters.items()}


@dataclass(frozen=True)
class Best:
    """The model after the best epoch so far."""

    epoch: int
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


def finetune(settings: Finetune) -> dict[str, Any]:
    """Train a classifier on L3 = L2 + lambda L1, keep its best epoch, and write the run folder at one stroke.

    Returns the validation metrics of the best epoch (n, accuracy, macro_f1, ...), its number, and seconds.
    Raises UserError for wrong settings or rows.
    """
    began = time.perf_counter()
    check(settings)
    made_from = sources(settings)
    if is_done(settings, made_from):
        say(f"{settings.out} is fine-tuned with these settings already (--fresh starts over)")
        return _result(bundle.read_info(Path(settings.out)))
    base = bundle.load(settings.run)
    tokenizer = base.tokenizer.with_task_tokens()
    data = _read(settings, tokenizer, base.body.config.context)
    run = _begin(settings, data, base.body, tokenizer)
    with bundle.replacing(Path(settings.out)) as folder:
        best = _train(run, folder)
        facts = _facts(run, best, base.info, made_from)
        facts["metrics"]["seconds"] = time.perf_counter() - began
        write_json(folder / "settings.json", dataclasses.asdict(run.settings))
        bundle.save(folder, _body(run, best), tokenizer, facts, head=best.weights["head.weight"])
    return _result(bundle.read_info(Path(settings.out)))


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table."""
    return table({name: value for name, value in result.items() if not isinstance(value, dict | list)}, "finetune")


def _read(settings: Finetune, tokenizer: Tokenizer, context: int) -> Data:
    columns = guess_columns(settings)
    found = read_labelled(settings.train, columns, settings.encoding)
    names = class_names(found, settings.train, columns.label)
    if settings.valid:
        learnt, valid = found, read_labelled(settings.valid, columns, settings.encoding)
    else:
        order = np.random.default_rng(settings.seed).permutation(len(found.texts)).tolist()
        learnt, valid = split(found, order)
    warn(learnt, valid)
    training, validation = (
        _examples(role, rows, label_numbers(rows, names, columns.label), tokenizer, context)
        for role, rows in (("training", learnt), ("validation", valid))
    )
    return Data(columns, names, training, validation)


def _examples(role: str, rows: Labelled, classes: list[int], tokenizer: Tokenizer, context: int) -> list[Example]:
    examples, cut = make_examples(rows.texts, tokenizer, context, classes)
    if cut:
        say(f"{role}: {cut:,} of {len(examples):,} texts are longer than {context - 2} tokens; their heads are kept")
    return examples


def _begin(settings: Finetune, data: Data, base: GPT, tokenizer: Tokenizer) -> Run:
    device, dtype = machine(settings)
    settings = settle(settings, len(data.train), base.config.width)
    model = _build(settings, base, tokenizer, len(data.names)).to(device)
    epochs = Epochs(data.train, settings.batch, settings.micro_batch, tokenizer.pad_id, settings.seed)
    steps = settings.epochs * epochs.per_epoch
    optim = Optim(lr=settings.lr, warmup=max(1, round(settings.warmup * steps)), decay="linear")
    # The optimizer copies its fp32 masters before the weights lose precision.
    optimizer = Optimizer(model, optim, steps)
    return Run(settings, data, epochs, model.to(dtype), optimizer, device)


def _build(settings: Finetune, base: GPT, tokenizer: Tokenizer, classes: int) -> TaskModel:
    """The pre-trained body with rows for the new tokens, or a random one; and a new head."""
    generator = torch.Generator().manual_seed(settings.seed)
    rate = settings.dropout
    config = replace(
        with_vocabulary(base.config, tokenizer.vocabulary),
        embedding_dropout=rate, residual_dropout=rate, attention_dropout=rate,
    )  # fmt: skip
    body = GPT(config).init_weights(generator)
    if not settings.from_scratch:
        new = tokenizer.vocabulary - base.config.vocabulary
        rows = torch.empty(new, config.width).normal_(0.0, INIT_STD, generator=generator)
        weights = base.state_dict()
        body.load_state_dict(weights | {"tokens.weight": torch.cat([weights["tokens.weight"], rows])})
    return TaskModel(body, classes, settings.head_dropout).init_head(generator)


def _train(run: Run, folder: Path) -> Best:
    """Make the updates, log them in `folder`, validate after each epoch, and return the best."""
    settings, steps, log, best = run.settings, run.optimizer.steps, Log(folder, 0), None
    reports = train(
        run.model, run.epochs, run.optimizer,
        weights={"task": 1.0, "lm": settings.lm_coef}, steps=steps, seed=settings.seed, device=run.device,
    )  # fmt: skip
    with closing(log.file), bar("{task.fields[state]}") as progress:
        task = progress.add_task("finetune", total=steps, state="")
        for report in reports:
            log.add(
                report.step, **report.losses,
                grad_norm=report.grad_norm, tokens=report.tokens, seconds=report.seconds,
            )  # fmt: skip
            progress.update(task, completed=report.step, state=_state(report))
            if report.step % run.epochs.per_epoch == 0:
                epoch, found = report.step // run.epochs.per_epoch, run.validate()
                say(f"epoch {epoch}: validation accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}")
                log.add(report.step, val_accuracy=found["accuracy"], val_loss=found["loss"])
                log.flush()
                if best is None or _rank(found) > _rank(best.metrics):
                    best = Best(epoch, found, run.weights())
    assert best is not None, "there is at least one epoch"
    return best


def _rank(metrics: dict[str, Any]) -> tuple[float, float]:
    """What makes an epoch better than another: accuracy, then loss."""
    return metrics["accuracy"], -metrics["loss"]


def _state(report: Report) -> str:
    losses = report.losses
    return f"task {losses['task']:.3f}  lm {losses['lm']:.3f}  {report.tokens / report.seconds:,.0f} tokens/s"


def _body(run: Run, best: Best) -> GPT:
    with torch.device("meta"):
        body = GPT(run.model.body.config)
    mine = {name.removeprefix("body."): w for name, w in best.weights.items() if name.startswith("body.")}
    body.load_state_dict(mine, assign=True)
    return body


def _facts(run: Run, best: Best, base: dict[str, Any], made_from: dict[str, dict[str, Any]]) -> dict[str, Any]:
    settings, data = run.settings, run.data
    made_from["train"]["rows"] = len(data.train)
    return {
        "kind": "finetuned",
        "task": settings.task,
        "labels": data.names,
        "columns": dataclasses.asdict(data.columns),
        "lm_coef": settings.lm_coef,
        "from_scratch": settings.from_scratch,
        "seed": settings.seed,
        "preset": base.get("preset"),
        "recipe": base.get("recipe"),
        "steps": run.optimizer.steps,
        "data": made_from | {"pretraining": base.get("data")},
        "metrics": {**best.metrics, "epoch": best.epoch},
    }


def _result(facts: dict[str, Any]) -> dict[str, Any]:
    return {"task": facts["task"], "labels": facts["labels"], "parameters": facts["parameters"], **facts["metrics"]}
