"""Every setting of every command, as plain dataclasses; the text under each field is its CLI help.

Nothing here imports torch, so `gpt1 --help` answers at once. A command's settings are one dataclass;
`Pretrain` and `Finetune` hold sections (`--model.width 384`, `--optim.lr 1e-3`). Sizes come from `PRESETS`,
ways of training from `RECIPES`; a recipe never changes the network.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

Preset = Literal["gpt1", "small", "tiny"]
Recipe = Literal["paper", "fast"]
Task = Literal["classification", "entailment", "similarity", "regression", "multiple-choice", "multi-label"]
Long = Literal["head", "tail", "head+tail", "windows"]
Words = Literal["hf", "2018"]
Select = Literal["auto", "accuracy", "macro_f1", "f1", "matthews", "micro_f1", "pearson", "spearman", "loss"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network's shape (the paper, section 4.1)."""

    context: int = 512
    """tokens the model sees at once"""
    width: int = 768
    """size of every hidden state"""
    depth: int = 12
    """number of Transformer blocks"""
    heads: int = 12
    """attention heads a block; must divide the width"""
    inner: int = 3072
    """size of the feed-forward layer inside a block"""
    vocabulary: int = 40_478
    """number of tokens; taken from the tokenizer of the prepared data"""
    embedding_dropout: float = 0.1
    """dropout on token + position embeddings"""
    residual_dropout: float = 0.1
    """dropout on the output of attention and of the feed-forward layer"""
    attention_dropout: float = 0.1
    """dropout on attention weights"""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How gradients become weights."""

    method: Literal["adam", "muon"] = "adam"
    """adam: decoupled-decay Adam on everything; muon: Muon on hidden matrices, AdamW on the rest"""
    lr: float = 2.5e-4
    """peak learning rate (Adam's; with muon, that of embeddings, gains and biases)"""
    matrix_lr: float = 0.0
    """Muon's peak learning rate, in AdamW's scale (match_rms_adamw); unused by adam"""
    beta1: float = 0.9
    """Adam's decay of the mean gradient"""
    beta2: float = 0.999
    """Adam's decay of the squared gradient"""
    momentum: float = 0.95
    """Muon's momentum"""
    weight_decay: float = 0.01
    """decoupled L2 on weights, not on biases or gains"""
    warmup: int = 2_000
    """updates of linear warm-up"""
    decay: Literal["cosine", "linear"] = "cosine"
    """shape of the learning rate's way down to 0"""
    clip: float = 1.0
    """largest global gradient norm; 0 does not clip"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command understands."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """number format of the heavy arithmetic; auto is bf16 where the hardware has it"""
    threads: int = 0
    """CPU threads; 0 takes every core this process may use"""
    seed: int = 1
    """the same seed on the same machine gives the same result"""


@dataclass(frozen=True, kw_only=True)
class Prepare(Command):
    """Raw text -> a tokenizer and token shards."""

    inputs: list[str]
    """files, folders or globs: txt, md, jsonl, csv, tsv, parquet, each also as .gz or .zst; a saved dataset's folder"""
    out: str
    """folder to write"""
    tokenizer: str = "bytes"
    """bytes (lossless), gpt1 (GPT-1's own kind, lower-case, lossy), or a path: tokenizer, run, OpenAI's vocabulary"""
    words: Words | None = None
    """how text is cut for OpenAI's vocabulary: hf, as in transformers; 2018, as for the released weights (spaCy)"""
    vocabulary: int = 0
    """size of a vocabulary to train; 0 chooses it from the corpus"""
    documents: Literal["file", "blank-line", "line"] = "file"
    """what a document is in a text file; a row of a table is always one document"""
    text: str = "text"
    """column of the text in jsonl, csv, tsv, parquet and saved datasets"""
    val: list[str] = field(default_factory=list)
    """files for validation; without them, a share of the documents is taken"""
    val_fraction: float = 0.01
    """share of the documents kept for validation"""
    repair: bool = True
    """mend broken Unicode with ftfy"""
    encoding: str = "utf-8"
    """encoding of the text files"""
    fresh: bool = False
    """start over, even where the folder holds a finished or interrupted preparation"""


@dataclass(frozen=True, kw_only=True)
class Pretrain(Command):
    """Token shards -> a GPT, by maximising L1 (the paper, section 3.1)."""

    data: str
    """folder written by `gpt1 prepare`"""
    out: str
    """run folder to write"""
    preset: Preset = "small"
    """size of the network: gpt1 (117M), small (about 13M), tiny (about 2M)"""
    recipe: Recipe | None = None
    """paper (Adam, warm-up, cosine) or fast (Muon, linear decay); the preset's own if not given"""
    steps: int | None = None
    """updates to make; without it, --epochs and --minutes, one pass over the training tokens is made"""
    epochs: float | None = None
    """passes over the training tokens"""
    minutes: float | None = None
    """time to train for: the speed is measured, then a number of steps is fixed and recorded"""
    init: str | None = None
    """run folder to start from, instead of random weights"""
    fresh: bool = False
    """start over, even where the run folder holds training state"""
    batch: int = 64
    """windows of `model.context` tokens in one update"""
    micro_batch: int = 0
    """windows in one forward pass; 0 chooses what fits"""
    eval_every: int = 0
    """updates between validations; 0 makes about ten a run"""
    save_every: int = 0
    """updates between checkpoints; 0 saves with every validation"""
    sample: str = ""
    """text that the samples shown at validation begin with"""
    compile: Literal["auto", "on", "off"] = "auto"
    """fused kernels by PyTorch's compiler; auto: where a compiler is found and the run is long enough to repay it"""
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True, kw_only=True)
class Plan(Pretrain):
    """Parameters, memory, speed and hours of a pre-training run, measured here before it is begun."""

    data: str = ""
    """folder written by `gpt1 prepare`; without it, random tokens of `model.vocabulary` stand in"""
    out: str = ""
    """taken so that a line for `pretrain` can be given as it is; nothing is written"""


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """A run and a prompt -> more text."""

    run: str
    """run folder"""
    prompts: list[str] = field(default_factory=lambda: [""])
    """texts to continue; an empty one starts a new document"""
    max_new_tokens: int = 100
    """longest continuation"""
    temperature: float = 1.0
    """0 is greedy decoding"""
    top_k: int = 0
    """keep the k most probable tokens; 0 keeps all"""
    top_p: float = 0.95
    """keep the most probable tokens that together reach this probability"""
    repetition_penalty: float = 1.0
    """above 1: tokens already in the text become less likely"""
    stop: list[str] = field(default_factory=list)
    """strings that end the text; they are not printed"""
    num: int = 1
    """samples a prompt"""
    stream: bool = False
    """print words as they come"""
    quantize: Literal["none", "int8"] = "none"
    """int8: weights and what they multiply rounded to 8 bits, for speed on a CPU; a little less exact"""


@dataclass(frozen=True, kw_only=True)
class Finetune(Command):
    """A run and labelled rows -> a model for a task, by maximising L3 = L2 + lambda L1 (the paper, section 3.2)."""

    run: str
    """pre-trained run folder"""
    train: str
    """labelled rows: csv, tsv, jsonl or parquet with column names, or the folder of a saved dataset"""
    out: str
    """run folder to write"""
    task: Task = "classification"
    """what a row is: a text with a class, a number or any number of labels; a pair; a context with answers"""
    valid: str | None = None
    """labelled rows to choose the best epoch by; without it, a tenth of the training rows"""
    text: str | None = None
    """column of the text, or the two of a pair with a comma between them; guessed if not given"""
    context: str | None = None
    """multiple choice: column of the context, or several with commas between them; guessed if not given"""
    choices: str | None = None
    """multiple choice: column that lists the answers, or one column an answer with commas; guessed if not given"""
    label: str | None = None
    """column of the label (multi-label: or a column of 0 and 1 for each, with commas); guessed if not given"""
    target: Literal["auto", "classes", "score"] = "auto"
    """similarity: whether labels are classes or numbers on a scale; auto: a scale where one has a fraction"""
    encoding: str = "utf-8"
    """encoding of the rows' files"""
    long: Long = "head"
    """what is read of a text longer than the context; windows: all of it in parts, whose probabilities are averaged"""
    class_weights: str = "none"
    """auto: rare classes count as much as common ones; or `NAME=WEIGHT,...`; none: each row counts the same"""
    lm_coef: float = 0.5
    """lambda, the weight of the language-model loss"""
    epochs: int = 0
    """passes over the rows; 0 takes the paper's 3, or more where that would be fewer than 120 updates"""
    patience: int = 0
    """epochs without a better validation after which training stops; 0 makes all epochs"""
    select: Select = "auto"
    """what makes an epoch the best; auto: accuracy, Pearson's r of a score, macro F1 of several labels; but where
    fewer than 50 rows validate, the last epoch is kept"""
    batch: int = 0
    """rows in one update; 0 takes the paper's 32, or 8 where there are fewer than 1,000 rows"""
    micro_batch: int = 0
    """rows in one forward pass; 0 takes what comes to 8,192 tokens; the result stays the same but for rounding"""
    lr: float = 0.0
    """peak learning rate; 0 takes 6.25e-5 for a model of the paper's size, up to 1e-3 for a smaller one"""
    warmup: float = 0.002
    """share of the updates that warm up"""
    dropout: float | None = None
    """dropout inside the network: embeddings, residuals and attention; the rates of pre-training if not given"""
    head_dropout: float = 0.1
    """dropout before the new layer W_y"""
    transfer_layers: int | None = None
    """blocks, counted from the embeddings, that start from the pre-trained ones, not random; all if not given"""
    freeze: int = 0
    """blocks that stay as pre-trained, with the embeddings beneath them; new tokens are learnt all the same"""
    from_scratch: bool = False
    """random weights instead of the pre-trained ones, the best of three learning rates: the comparison"""
    seeds: int = 1
    """runs, each with a seed of its own; mean and deviation are told, the best on validation is kept"""
    fresh: bool = False
    """start over, even where the folder holds a finished run, or one that was stopped"""


@dataclass(frozen=True, kw_only=True)
class Ablate(Finetune):
    """A run and labelled rows -> what pre-training and the auxiliary loss are worth (the paper, table 5)."""

    out: str = ""
    """JSON file to write after every model, from which the same command goes on"""
    test: str | None = None
    """labelled rows that the table's scores are of; without it, the validation rows, which the epochs are chosen by"""
    sizes: str = "10,100,all"
    """numbers of training rows, with commas: the learning curve; every sample has all classes, validation stays"""
    seeds: int = 3
    """models for every place of the table: samples, new layer, order and dropout differ"""


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """A fine-tuned run and rows -> the rows with predicted_label and named probabilities."""

    run: str
    """fine-tuned run folder"""
    input: str
    """rows: csv, tsv, jsonl, parquet, or the folder of a saved dataset"""
    out: str | None = None
    """file to write, its kind by its ending; without it, jsonl on standard output"""
    text: str | None = None
    """column of the text, or the two of a pair with a comma between them; those used in training if not given"""
    context: str | None = None
    """multiple choice: column of the context, or several with commas; those used in training if not given"""
    choices: str | None = None
    """multiple choice: column that lists the answers, or one column an answer; those used in training if not given"""
    encoding: str = "utf-8"
    """encoding of the rows' file"""
    batch: int = 64
    """rows in one forward pass"""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """A run and files -> bits per byte of text, the task's metrics on labelled rows, or accuracy by likelihood."""

    run: str
    """run folder"""
    files: list[str]
    """text files; labelled rows for a fine-tuned run; minimal pairs or choices for any run"""
    as_: Literal["auto", "text", "rows", "pairs", "choices"] = "auto"
    """how to read the files; auto: by the run and the columns. pairs, choices: the likelier text is the answer"""
    good: str | None = None
    """pairs: column of the text that should be likelier; good or sentence_good if not given"""
    bad: str | None = None
    """pairs: column of the other text; bad or sentence_bad if not given"""
    group: str | None = None
    """pairs and choices: column whose values get an accuracy each; guessed if not given"""
    normalize: Literal["none", "tokens", "bytes"] = "none"
    """pairs and choices: what the log-likelihood of an answer is divided by"""
    text: str | None = None
    """column of the text, or the two of a pair with a comma between them; those used in training if not given"""
    context: str | None = None
    """multiple choice: column of the context, or several with commas; those used in training if not given"""
    choices: str | None = None
    """multiple choice: column that lists the answers, or one column an answer; those used in training if not given"""
    label: str | None = None
    """column of the label; the one used in training if not given"""
    encoding: str = "utf-8"
    """encoding of the files"""
    batch: int = 64
    """rows in one forward pass"""


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
    """A run and a text -> how probable each token was, and how the loss comes of it."""

    run: str
    """run folder"""
    text: str
    """the text to explain"""
    html: str | None = None
    """page to write"""
    top: int = 5
    """alternatives shown at each position"""


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """What is in a folder: a run, prepared data, a tokenizer."""

    path: str
    """folder"""


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """OpenAI's 2018 release or a Hugging Face openai-gpt model -> a run; or a run -> the release's layout."""

    src: str
    """folder of the release, of a Hugging Face model or of a run; or ORGANISATION/NAME of a model on the hub"""
    out: str
    """folder to write"""
    to: Literal["run", "openai"] = "run"
    """run: a run folder, which is a Hugging Face model too; openai: the layout of OpenAI's 2018 release"""
    heads: int = 0
    """attention heads a block of a release, which does not say them; 0 makes each 64 wide, as OpenAI's are"""
    words: Words | None = None
    """how text is cut for OpenAI's vocabulary: hf, as in transformers; 2018, as for the released weights (spaCy)"""


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Runs -> one self-contained HTML page: curves, samples, metrics, settings."""

    runs: list[str]
    """run folders; also what `gpt1 evaluate --json > F` told of them, and tables of `gpt1 ablate --out F`"""
    out: str = "report.html"
    """page to write"""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """The whole story in minutes, without a download."""

    out: str = "gpt1-demo"
    """folder to write"""
    minutes: float = 2.0
    """pre-training time"""
    fresh: bool = False
    """start over, even where the folder holds an earlier demo"""


PRESETS: dict[Preset, Model] = {
    "gpt1": Model(),
    "small": Model(
        context=256, width=384, depth=6, heads=6, inner=1536,
        embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
    ),
    "tiny": Model(
        context=128, width=192, depth=4, heads=3, inner=768,
        embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
    ),
}  # fmt: skip

RECIPES: dict[Recipe, Optim] = {
    "paper": Optim(),
    "fast": Optim(
        method="muon", lr=1e-2, matrix_lr=1e-2, beta2=0.95, weight_decay=0.01, warmup=20, decay="linear",
    ),
}  # fmt: skip

DEFAULT_RECIPE: dict[Preset, Recipe] = {"gpt1": "paper", "small": "fast", "tiny": "fast"}
DEFAULT_BATCH: dict[Preset, int] = {"gpt1": 64, "small": 16, "tiny": 16}


def pretrain_defaults(preset: Preset = "small", recipe: Recipe | None = None, *, data: str, out: str) -> Pretrain:
    """The settings of a pre-training run at a preset's size and a recipe's (by default the preset's own)."""
    recipe = recipe or DEFAULT_RECIPE[preset]
    return Pretrain(
        data=data, out=out, preset=preset, recipe=recipe,
        model=PRESETS[preset], optim=RECIPES[recipe], batch=DEFAULT_BATCH[preset],
    )  # fmt: skip


def with_vocabulary(model: Model, vocabulary: int) -> Model:
    """The same shape over another tokenizer."""
    return replace(model, vocabulary=vocabulary)
