"""`gpt1 finetune`: a pre-trained run and labelled rows -> a classifier (the paper, section 3.2)."""

import dataclasses
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType
from torch import Tensor, nn

from gpt1.config import Finetune, Optim, with_vocabulary
from gpt1.data.collate import Epochs, Example
from gpt1.errors import UserError
from gpt1.jobs import bundle
from gpt1.jobs.classifier import make_examples, score
from gpt1.jobs.console import bar, say, table
from gpt1.jobs.labelled import Columns, Labelled, class_names, guess_columns, label_numbers, read_labelled, split, warn
from gpt1.jobs.metrics import classification_metrics
from gpt1.nn.model import GPT, INIT_STD
from gpt1.nn.objectives import TaskModel
from gpt1.storage import write_json
from gpt1.text.tokenizer import Tokenizer
from gpt1.train.log import Log
from gpt1.train.loop import train
from gpt1.train.optim import Optimizer
from gpt1.train.parallel import machine

PAPER_LR, PAPER_WIDTH, PAPER_BATCH, PAPER_EPOCHS = 6.25e-5, 768, 32, 3
FEW_ROWS, SMALL_BATCH, FEWEST_UPDATES = 1_000, 8, 120
FREE = {"out", "fresh", "device", "threads"}
"""Settings that do not change the result."""
CHOSEN = {"epochs", "batch", "micro_batch", "lr"}
"""Settings of which 0 leaves the choice to `settle`."""


@dataclass(frozen=True)
class Data:
    """Training and validation rows, ready for the model."""

    columns: Columns
    names: list[str]
    train: list[Example]
    valid: list[Example]
    valid_labels: list[str]


@dataclass(frozen=True)
class Best:
    """The weights after the best epoch so far."""

    epoch: int
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


def finetune(settings: Finetune) -> dict[str, Any]:
    """Train a classifier on L3 = L2 + lambda L1, keep its best epoch, and write the run folder.

    Returns the validation metrics of the best epoch (n, accuracy, macro_f1, ...), its number, and seconds.
    Raises UserError for wrong settings or rows.
    """
    began = time.perf_counter()
    out = Path(settings.out)
    if _is_done(settings):
        say(f"{out} is fine-tuned with these settings already (--fresh starts over)")
        return _result(bundle.read_info(out))
    base = bundle.load(settings.run)
    if base.head is not None:
        raise UserError(f"{settings.run} is fine-tuned already; start from the pre-trained run it came from")
    device, dtype = machine(settings)
    tokenizer = base.tokenizer.with_task_tokens()
    data = _read(settings, tokenizer, base.body.config.context)
    settings = settle(settings, len(data.train), base.body.config.width)
    model = _build(settings, base.body, tokenizer, len(data.names)).to(device)
    steps = settings.epochs * -(-len(data.train) // settings.batch)
    optimizer = Optimizer(model, _optim(settings, steps), steps)
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpt1.json").unlink(missing_ok=True)  # what lay here before is no longer whole
    write_json(out / "settings.json", dataclasses.asdict(settings))
    best = _train(settings, model.to(dtype), optimizer, data, tokenizer.pad_id, device)
    facts = _facts(settings, base.info, data, best, time.perf_counter() - began)
    _save(out, model.body, best, tokenizer, facts)
    return _result(bundle.read_info(out))


def show(result: dict[str, Any]) -> RenderableType:
    """The closing table."""
    return table({name: value for name, value in result.items() if not isinstance(value, dict | list)}, "finetune")


def settle(settings: Finetune, rows: int, width: int) -> Finetune:
    """The settings with every 0 that means "choose" filled in.

    The paper's values; but where rows are few, smaller and more updates, since three passes would teach nothing, and
    for a narrower network a higher rate, in inverse proportion to the square of its width.
    """
    batch = settings.batch or (PAPER_BATCH if rows >= FEW_ROWS else SMALL_BATCH)
    epochs = settings.epochs or max(PAPER_EPOCHS, -(-FEWEST_UPDATES // -(-rows // batch)))
    lr = settings.lr or PAPER_LR * (PAPER_WIDTH / width) ** 2
    return replace(settings, batch=batch, epochs=epochs, micro_batch=settings.micro_batch or batch, lr=lr)


def _read(settings: Finetune, tokenizer: Tokenizer, context: int) -> Data:
    columns = guess_columns(settings)
    found = read_labelled(settings.train, columns, settings.encoding)
    if settings.valid:
        learnt, valid = found, read_labelled(settings.valid, columns, settings.encoding)
    elif len(found.texts) < 2:
        raise UserError(f"{settings.train}: one row; add rows, since some must validate")
    else:
        order = np.random.default_rng(settings.seed).permutation(len(found.texts)).tolist()
        learnt, valid = split(found, order)
    names = class_names(found, settings.train, columns.label)
    warn(learnt, valid)
    return Data(
        columns, names,
        _examples(learnt, names, columns, tokenizer, context, "training"),
        _examples(valid, names, columns, tokenizer, context, "validation"),
        valid.labels,
    )  # fmt: skip


def _examples(
    data: Labelled, names: list[str], columns: Columns, tokenizer: Tokenizer, context: int, role: str
) -> list[Example]:
    examples, cut = make_examples(data.texts, tokenizer, context, label_numbers(data, names, columns.label))
    if cut:
        say(f"{role}: {cut:,} of {len(examples):,} texts are longer than {context - 2} tokens; their heads are kept")
    return examples


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


def _optim(settings: Finetune, steps: int) -> Optim:
    return Optim(lr=settings.lr, warmup=max(1, round(settings.warmup * steps)), decay="linear")


def _train(
    settings: Finetune, model: TaskModel, optimizer: Optimizer, data: Data, pad_id: int, device: torch.device
) -> Best:
    epochs = Epochs(data.train, settings.batch, settings.micro_batch, pad_id, settings.seed)
    steps, log = settings.epochs * epochs.per_epoch, Log(Path(settings.out), 0)
    weights, best = {"task": 1.0, "lm": settings.lm_coef}, None
    reports = train(model, epochs, optimizer, weights=weights, steps=steps, seed=settings.seed, device=device)
    with bar("{task.fields[state]}") as progress:
        task = progress.add_task("finetune", total=steps, state="")
        for report in reports:
            losses = report.losses
            log.add(report.step, **losses, grad_norm=report.grad_norm, tokens=report.tokens, seconds=report.seconds)
            state = f"task {losses['task']:.3f}  lm {losses['lm']:.3f}  {report.tokens / report.seconds:,.0f} tokens/s"
            progress.update(task, completed=report.step, state=state)
            if report.step % epochs.per_epoch == 0:
                epoch = report.step // epochs.per_epoch
                best = _better(best, epoch, _validate(model, data, settings.batch, pad_id, device), optimizer)
                log.add(report.step, valid_accuracy=best.metrics["accuracy"], best_epoch=best.epoch)
    log.flush()
    assert best is not None
    return best


def _validate(model: TaskModel, data: Data, batch: int, pad_id: int, device: torch.device) -> dict[str, Any]:
    scores_NC = torch.from_numpy(score(model, data.valid, batch, pad_id, device))
    predicted = [data.names[i] for i in scores_NC.argmax(-1).tolist()]
    labels_N = torch.tensor([example.label for example in data.valid])
    loss = nn.functional.cross_entropy(scores_NC, labels_N).item()
    return classification_metrics(data.valid_labels, predicted, data.names) | {"loss": loss}


def _better(best: Best | None, epoch: int, found: dict[str, Any], optimizer: Optimizer) -> Best:
    """The better of two epochs, by accuracy, then by loss."""
    say(f"epoch {epoch}: validation accuracy {found['accuracy']:.4f}, loss {found['loss']:.4f}")
    if best and (found["accuracy"], -found["loss"]) <= (best.metrics["accuracy"], -best.metrics["loss"]):
        return best
    return Best(epoch, found, {name: master.detach().clone() for name, master in optimizer.masters.items()})


def _save(out: Path, body: GPT, best: Best, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    tuned = GPT(body.config)
    tuned.load_state_dict({n.removeprefix("body."): w for n, w in best.weights.items() if n.startswith("body.")})
    bundle.save(out, tuned, tokenizer, facts, head=best.weights["head.weight"].cpu())


def _facts(settings: Finetune, base: dict[str, Any], data: Data, best: Best, seconds: float) -> dict[str, Any]:
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
        "steps": settings.epochs * -(-len(data.train) // settings.batch),
        "data": {"pretraining": base.get("data"), "rows": len(data.train)},
        "metrics": {**best.metrics, "epoch": best.epoch, "seconds": seconds},
    }


def _is_done(settings: Finetune) -> bool:
    """Whether the run folder holds the result of these very settings. Raises UserError if it holds another's."""
    out = Path(settings.out)
    if settings.fresh or not (out / "gpt1.json").exists():
        return False
    recorded = out / "settings.json"
    before = json.loads(recorded.read_text(encoding="utf-8")) if recorded.exists() else {}
    asked = {k: v for k, v in dataclasses.asdict(settings).items() if k not in FREE and (v or k not in CHOSEN)}
    if any(before.get(key) != value for key, value in asked.items()):
        raise UserError(f"{out} holds a run made with other settings; choose another --out, or --fresh to replace it")
    return True


def _result(info: dict[str, Any]) -> dict[str, Any]:
    return {"task": info["task"], "labels": info["labels"], "parameters": info["parameters"], **info["metrics"]}
