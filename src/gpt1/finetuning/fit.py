"""Fine-tuning in memory: a pre-trained run and labelled rows -> a model for a task (the paper, section 3.2).

`fit` trains one model with one seed and learning rate; `sweep.fit_best` calls it for several and keeps the best.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from gpt1.config import Columns, Optim
from gpt1.console import say
from gpt1.data.collate import Epochs
from gpt1.finetuning.defaults import (
    LAST_EPOCH,
    MIN_VALID_ROWS,
    FitOptions,
    keeps_last_epoch,
    resolve_defaults,
    scratch_lrs,
    selected_metric,
)
from gpt1.finetuning.epochs import Collapsed, EpochTrainer, Progress, train_epochs
from gpt1.finetuning.examples import TaskExamples, TaskRows, build_examples
from gpt1.finetuning.predictor import Predictor, RowEncoder, mean_loss
from gpt1.finetuning.words_alone import choose_share, fit_words, usual_share
from gpt1.model.gpt import GPT, INIT_STD
from gpt1.model.objectives import TaskModel
from gpt1.run_folder.folder import LoadedRun, replacing_run, save_run
from gpt1.run_folder.metadata import (
    FinetuningData,
    PretrainingData,
    ReadSummary,
    RunMetadata,
    Source,
    WordsSummary,
)
from gpt1.storage import write_json
from gpt1.tasks.labels import LabelType, to_metadata
from gpt1.tasks.words import WordsModel, WordsShare
from gpt1.training import log, parallel
from gpt1.training.device import prepare_for_training
from gpt1.training.optimizer import Optimizer
from gpt1.training.trackers import Tracking

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model, with everything needed to predict, to save it, and to report how it was trained."""

    body: GPT
    """fp32, on the CPU, in evaluation mode"""
    head_CD: Tensor
    """W_y, divided by the temperature"""
    encoder: RowEncoder
    label_type: LabelType
    """calibrated on the validation rows"""
    columns: Columns
    options: FitOptions
    """resolved"""
    base: RunMetadata
    """gpt1.json of the pre-trained run"""
    train_rows: int
    """training rows"""
    steps: int
    """updates made"""
    metrics: dict[str, Any]
    """on the validation rows, after the epoch that is kept; `epoch` and `temperature`; `words_alone`, their metrics"""
    curves: bytes
    """metrics.jsonl"""
    words: WordsModel
    """words alone"""
    share: WordsShare
    """their contribution to the network's scores"""
    learning_rates: dict[str, float] | None = None
    """the selecting metric at each learning rate, if several were tried"""
    seeds: dict[str, dict[str, Any]] | None = None
    """mean, deviation and values of each metric over the seeds, if there are several"""

    @property
    def metric(self) -> str:
        """The metric that epochs and models are compared by."""
        return selected_metric(self.options, self.label_type)

    @property
    def selected_by(self) -> str:
        """The metric that selected the epoch, learning rate or seed; `last epoch` where nothing was selected."""
        is_only_one = self.learning_rates is None and self.seeds is None
        return LAST_EPOCH if is_only_one and keeps_last_epoch(self.options, self.metrics["n"]) else self.metric

    def predictor(self, device: torch.device, dtype: torch.dtype) -> Predictor:
        """Return a predictor on a device. The weights are moved there, not copied."""
        return Predictor.build(
            self.body, self.head_CD, self.encoder, self.label_type, self.columns, device, dtype, self.words, self.share
        )

    def metadata(
        self, model: Source, train: Source, valid: Source | None = None, read: ReadSummary | None = None
    ) -> RunMetadata:
        """Return the content of gpt1.json; the arguments name and hash what the model was made from."""
        options, base = self.options, self.base
        data = FinetuningData(
            model=model,
            train=replace(train, rows=self.train_rows),
            valid=valid,
            read=read,
            pretraining=base.data if isinstance(base.data, PretrainingData) else None,
        )
        return RunMetadata(
            kind="finetuned",
            task=self.encoder.task,
            **to_metadata(self.label_type),
            columns=self.columns,
            long=options.long,
            lm_coef=options.lm_coef,
            lr=options.lr,
            from_scratch=options.from_scratch,
            words=WordsSummary(weight=self.share.weight, temperature=self.share.temperature),
            seed=options.seed,
            preset=base.preset,
            recipe=base.recipe,
            steps=self.steps,
            data=data,
            selected_by=self.selected_by,
            metrics=self.metrics,
            learning_rates=self.learning_rates,
            seeds=self.seeds,
        )

    def as_run(self, metadata: RunMetadata) -> LoadedRun:
        """Return the model as a run in memory."""
        return LoadedRun(self.body, self.encoder.tokenizer, metadata, self.head_CD, self.words)


def fit(
    base: LoadedRun,
    rows: TaskRows,
    options: FitOptions,
    *,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    examples: TaskExamples | None = None,
    words: WordsModel | None = None,
    share: tuple[WordsShare, LabelType] | None = None,
    folder: Path | None = None,
    keep_end: bool = False,
    title: str = "finetune",
    tracking: Tracking | None = None,
) -> FineTuned:
    """Fine-tune on L3 = L2 + lambda L1, validate after each epoch, and return the best epoch's model, calibrated.

    With few validation rows, the last epoch is kept instead. `examples` and `words` can be passed to avoid computing
    them again. `share` is the words' contribution, and the label type calibrated on the sum, chosen elsewhere because
    there are too few validation rows. With a `folder` the training can be stopped: it continues from the state that an
    earlier call left there. `keep_end` also leaves a state at the end, so that a finished training is not repeated. If
    the first epoch collapses, so that every row gets the same scores, training restarts at a quarter of the rate.
    Several processes split each batch, and all return the same model. Raises UserError for options that do not go
    with the rows, and RunFailed if a gradient or loss is not finite.
    """
    width = base.body.config.width
    options = resolve_defaults(options, len(rows.train), width)
    if not options.lr:
        options = replace(options, lr=scratch_lrs(width)[1])
    examples = examples or build_examples(base, rows, options)
    with nullcontext(folder) if folder else TemporaryDirectory() as work:
        place, resumable = Path(work), folder is not None
        while True:
            trainer = build_trainer(base.body, examples, options, device, dtype)
            try:
                progress = train_epochs(
                    trainer, place, title, resumable=resumable, keep_end=resumable and keep_end, tracking=tracking
                )
                break
            except Collapsed as error:
                options = replace(options, lr=options.lr / 4)
                say(f"{error.args[0]}: starting again with {options.lr:g}")
                place /= f"lr-{options.lr:.3g}"
                if tracking:
                    tracking = tracking.of_part(f"{tracking.part}/{place.name}".strip("/"), lr=options.lr)
        curves = parallel.current().from_main((place / log.NAME).read_bytes)
    words = words or fit_words_alone(rows, options, examples)
    return _calibrated(trainer, progress, curves, rows, base.metadata, words, share)


def fit_words_alone(rows: TaskRows, options: FitOptions, examples: TaskExamples) -> WordsModel:
    """Fit words alone like the network: on the same rows, by the same metric, with the same class weights."""
    metric, weights_C = selected_metric(options, rows.label_type), examples.class_weights_C
    return parallel.current().from_main(
        lambda: fit_words(rows.task, rows.label_type, rows.train, rows.valid, metric, weights_C)
    )


def build_trainer(
    base: GPT, examples: TaskExamples, options: FitOptions, device: torch.device, dtype: torch.dtype
) -> EpochTrainer:
    """Return a training with resolved options before its first update: network, optimizer and batches."""
    pad_id = examples.encoder.tokenizer.pad_id
    batches = Epochs(
        examples.train.examples, options.batch, options.micro_batch, pad_id, options.seed, parallel.current().part
    )
    steps = options.epochs * batches.per_epoch
    assert options.warmup is not None, "options are resolved"
    model = build_network(base, examples, options).to(device)
    optim = Optim(
        lr=options.lr, warmup=max(1, round(options.warmup * steps)), decay="linear",
        # Weight decay would shrink the frozen rows of the token matrix.
        weight_decay=0.0 if options.freeze else Optim.weight_decay,
    )  # fmt: skip
    # The optimizer copies its fp32 masters before the weights lose precision.
    optimizer = Optimizer(model, optim, steps)
    prepare_for_training(model, device, compile=False)  # each sequence length would be compiled separately
    return EpochTrainer(options, examples, batches, model.to(dtype), optimizer, device)


def build_network(base: GPT, examples: TaskExamples, options: FitOptions) -> TaskModel:
    """Return the network before its first update: as much of the pre-trained body as the options transfer, and W_y.

    The token matrix gains rows for the task tokens, drawn like the other new weights from the options' seed.
    """
    generator = torch.Generator().manual_seed(options.seed)
    config = replace(base.config, vocabulary=examples.encoder.tokenizer.vocabulary)
    if (p := options.dropout) is not None:
        config = replace(config, embedding_dropout=p, residual_dropout=p, attention_dropout=p)
    body = GPT(config).init_weights(generator)
    if not options.from_scratch:
        new_VD = torch.empty(config.vocabulary - base.config.vocabulary, config.width)
        new_VD.normal_(0.0, INIT_STD, generator=generator)
        layers = config.depth if options.transfer_layers is None else options.transfer_layers
        weights = {name: weight for name, weight in base.state_dict().items() if _block_of(name) < layers}
        weights["tokens.weight"] = torch.cat([weights["tokens.weight"], new_VD])
        body.load_state_dict(body.state_dict() | weights)
    if options.freeze:
        for name, weight in body.named_parameters():
            if name != "tokens.weight" and _block_of(name) < options.freeze:
                weight.requires_grad_(False)
        known = base.config.vocabulary  # rows of the token matrix; only those of new tokens are trained
        body.tokens.weight.register_hook(lambda g_VD: torch.cat([torch.zeros_like(g_VD[:known]), g_VD[known:]]))
    label_type = examples.label_type
    model = TaskModel(body, label_type.outputs, label_type.kind, options.head_dropout, examples.class_weights_C)
    return model.init_head(generator)


def save_finetuned(folder: Path, run: LoadedRun, settings: dict[str, Any], curves: bytes) -> None:
    """Write a fine-tuned run with its settings and curves into its folder, all files together."""
    with replacing_run(folder) as staged:
        (staged / log.NAME).write_bytes(curves)
        if settings:
            write_json(staged / "settings.json", settings)
        save_run(staged, run.body, run.tokenizer, run.metadata, run.head, run.words)
        if not settings:  # none are known of a converted run; those of the model that it replaces are not its own
            (folder / "settings.json").unlink(missing_ok=True)


def _block_of(name: str) -> int:
    """Return the number of a weight's block; -1 for the embeddings beneath block 0."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else -1


def _calibrated(
    trainer: EpochTrainer,
    progress: Progress,
    curves: bytes,
    rows: TaskRows,
    base: RunMetadata,
    words: WordsModel,
    given: tuple[WordsShare, LabelType] | None,
) -> FineTuned:
    """Fit temperature and thresholds on the validation rows, if there are enough of them; return the model.

    With words, their weight is chosen next and the sum is calibrated. W_y is still calibrated for the network alone,
    since other programs do not use the words.
    """
    examples, best, options = trainer.examples, progress.best, trainer.options
    assert best is not None, "there is at least one epoch"
    label_type, temperature = examples.label_type, 1.0
    labels, rows_N = examples.valid_labels, examples.valid.rows_N
    of_examples = [labels[row] for row in rows_N]
    enough = len(labels) >= MIN_VALID_ROWS
    if enough:
        label_type, temperature = label_type.calibrated(best.scores_NC, of_examples)
    scores_NC, share = best.scores_NC / temperature, WordsShare()
    metrics = best.metrics | {"epoch": best.epoch, "temperature": temperature}
    alone, words_NC = words.label_type(label_type), words.scores(rows.valid.texts)
    metrics["words_alone"] = alone.metrics(labels, alone.predictions(words_NC)).to_json()
    if options.with_words and enough:
        share, label_type = choose_share(label_type, scores_NC, words_NC[rows_N], rows_N, labels)
    elif options.with_words:
        share, label_type = given or (usual_share(label_type), label_type)
    scores_NC = share.add(scores_NC, words_NC[rows_N])
    if enough or share.weight:  # else the scores are those that the epoch's loss was measured on
        metrics["loss"] = mean_loss(label_type, scores_NC, of_examples)
    predictions_NC = examples.valid.mean_by_row(label_type.predictions(scores_NC))
    metrics |= label_type.metrics(labels, predictions_NC).to_json()
    weights = {name.removeprefix("body."): weight.cpu() for name, weight in progress.weights.items()}
    # The head is divided here, so that every program that loads the run gives calibrated probabilities.
    head_CD = weights.pop("head.weight") / temperature
    body = GPT.from_weights(trainer.model.body.config, weights).eval()
    return FineTuned(
        body=body, head_CD=head_CD, encoder=examples.encoder, label_type=label_type, columns=rows.columns,
        options=options, base=base, train_rows=len(rows.train), steps=progress.step, metrics=metrics, curves=curves,
        words=words, share=share,
    )  # fmt: skip
