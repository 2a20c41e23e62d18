"""Every setting of every command, as plain dataclasses; the text under each field is its CLI help.

Nothing here imports torch, so `gpt1 --help` answers at once. A command's settings are one dataclass; `Pretrain` has
sections (`--model.width 384`, `--optim.lr 1e-3`). `PRESETS` are sizes of the network, `RECIPES` are ways to train it; a
recipe never changes the network.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

Preset = Literal["auto", "gpt1", "small", "tiny"]
Recipe = Literal["paper", "fast"]
Task = Literal["classification", "entailment", "similarity", "regression", "multiple-choice", "multi-label"]
Long = Literal["head", "tail", "head+tail", "windows"]
Words = Literal["hf", "2018"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]
EngineName = Literal["local", "ray"]
Select = Literal["auto", "accuracy", "macro_f1", "f1", "matthews", "micro_f1", "pearson", "spearman", "loss"]

# The epsilon of every LayerNorm, which config.json records.
EPSILON = 1e-5


@dataclass(frozen=True)
class PathTo:
    """Marks a setting as a path and says what must be there; `cli.paths` checks it before torch is imported."""

    what: str
    written: Literal["", "folder", "continued file", "new file"] = ""
    """how a command writes it: a folder or a file that it may continue, or a new file; empty if it reads it"""
    is_flat: bool = False
    """whether the command reads only the files directly in the folder, not its subfolders (a run's states)"""


NAMED_RUN, PRETRAINED_RUN = PathTo("a run, perhaps named", is_flat=True), PathTo("a pre-trained run", is_flat=True)
TABLE_OR_TEXTS, TEXT_FILES = PathTo("a table or texts"), PathTo("text files")
# Paths that a command reads.
AnyRun = Annotated[str, PathTo("a run", is_flat=True)]
NamedRun = Annotated[str, NAMED_RUN]
PretrainedRun = Annotated[str, PRETRAINED_RUN]
FinetunedRun = Annotated[str, PathTo("a fine-tuned run", is_flat=True)]
PreparedFolder = Annotated[str, PathTo("prepared data", is_flat=True)]
TrainingTable = Annotated[str, PathTo("a table or splits")]
Table = Annotated[str, PathTo("a table")]
TableOrTexts = Annotated[str, TABLE_OR_TEXTS]
TableOrText = Annotated[str, PathTo("a table or text file")]
Inputs = Annotated[str, TEXT_FILES]
AnyPath = Annotated[str, PathTo("a path", is_flat=True)]  # which the command itself checks
AnyModel = Annotated[str, PathTo("a model", is_flat=True)]
# Paths that a command writes: new, or holding an earlier result of the same kind.
NewFolder = Annotated[str, PathTo("a new folder", "folder")]
DataOut = Annotated[str, PathTo("prepared data to write", "folder")]
PretrainedOut = Annotated[str, PathTo("a pre-trained run to write", "folder")]
FinetunedOut = Annotated[str, PathTo("a fine-tuned run to write", "folder")]
DemoOut = Annotated[str, PathTo("a demo to write", "folder")]
AblationOut = Annotated[str, PathTo("an ablation to write", "continued file")]
TableOut = Annotated[str, PathTo("a table to write", "new file")]
VectorsOut = Annotated[str, PathTo("vectors to write", "new file")]
PageOut = Annotated[str, PathTo("a page to write", "new file")]


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network's shape (the paper, section 4.1)."""

    context: int = 512
    """tokens the model reads at once"""
    width: int = 768
    """size of every hidden state"""
    depth: int = 12
    """number of Transformer blocks"""
    heads: int = 12
    """attention heads per block; must divide the width"""
    inner: int = 3072
    """size of the feed-forward layer in each block; 4 times the width, as in the paper"""
    vocabulary: int = 0
    """vocabulary size; 0: that of the prepared data's tokenizer; without data, GPT-1's 40,478"""
    embedding_dropout: float = 0.1
    """dropout on the sum of token and position embeddings"""
    residual_dropout: float = 0.1
    """dropout on the outputs of attention and feed-forward layers"""
    attention_dropout: float = 0.1
    """dropout on attention weights"""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer and its learning-rate schedule."""

    method: Literal["adam", "muon"] = "adam"
    """adam: AdamW on all weights; muon: Muon on hidden matrices, AdamW on the rest"""
    lr: float = 2.5e-4
    """peak learning rate of AdamW (with muon: for embeddings, gains and biases)"""
    matrix_lr: float = 0.0
    """peak learning rate of Muon, on AdamW's scale (match_rms_adamw); unused with adam"""
    beta1: float = 0.9
    """AdamW's decay rate for the first moment"""
    beta2: float = 0.999
    """AdamW's decay rate for the second moment"""
    momentum: float = 0.95
    """Muon's momentum"""
    weight_decay: float = 0.01
    """decoupled weight decay; biases and gains are not decayed"""
    warmup: int = 2_000
    """number of linear warm-up updates"""
    decay: Literal["cosine", "linear"] = "cosine"
    """schedule by which the learning rate falls to 0 after warm-up"""
    cooldown: float = 1.0
    """the last fraction of the updates after warm-up, during which the learning rate falls to 0; 0: it never falls"""
    clip: float = 1.0
    """maximum global gradient norm; 0 disables clipping"""
    skip_spikes: bool = False
    """skip an update whose loss is 6 standard deviations above the mean of the previous 128; reported either way"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of every command."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """number format for matrix products; auto: bf16 where the hardware supports it"""
    threads: int = 0
    """CPU threads; 0: every core available to this process, at most OMP_NUM_THREADS"""
    seed: int = 1
    """random seed; the same seed on the same machine gives the same result"""


@dataclass(frozen=True, kw_only=True)
class Prepare(Command):
    """Raw text -> a tokenizer and token shards."""

    inputs: list[Inputs]
    """files, folders or globs: txt, md, json, jsonl, csv, tsv, parquet, xlsx (also .gz, .zst), or a saved dataset's
    folder"""
    out: DataOut
    """folder to write"""
    tokenizer: AnyPath = "bytes"
    """bytes (lossless BPE), gpt1 (lower-case BPE, lossy), or the path to a tokenizer, run or OpenAI vocabulary"""
    words: Words | None = None
    """how to split words for OpenAI's vocabulary: hf, as transformers does; 2018, as the release did (spaCy)"""
    vocabulary: int = 0
    """vocabulary size of a tokenizer to train; 0: chosen from the size of the corpus"""
    documents: Literal["file", "blank-line", "line"] = "file"
    """what counts as a document in a text file; in a table, each row is one document"""
    text: str = "text"
    """text column in json, jsonl, csv, tsv, parquet and saved datasets"""
    val: list[Inputs] = field(default_factory=list)
    """validation files; if not given, a fraction of the documents is held out"""
    val_fraction: float = 0.01
    """fraction of the documents held out for validation"""
    repair: bool = True
    """fix broken Unicode with ftfy"""
    encoding: str = "utf-8"
    """character encoding of the text files"""
    delimiter: str = "auto"
    """column separator of csv files: auto (detected from the header), tab, or a character such as ';'"""
    engine: EngineName = "local"
    """where to encode the text: local, in this process; ray, on all nodes of a Ray cluster (the one at RAY_ADDRESS, a
    running one, or a new one on this machine), with the same result; needs `pip install 'gpt1[ray]'`"""
    fresh: bool = False
    """start over even if the folder holds a finished or interrupted preparation"""


@dataclass(frozen=True, kw_only=True)
class Pretrain(Command):
    """Token shards -> a pre-trained GPT, by maximising L1 (the paper, section 3.1)."""

    data: PreparedFolder
    """folder written by `gpt1 prepare`"""
    out: PretrainedOut
    """run folder to write"""
    preset: Preset = "auto"
    """size of the network: gpt1 (117M parameters), small (about 13M), tiny (about 2M); auto: if minutes are given, the
    size that learns most in that time on this machine, else small"""
    recipe: Recipe | None = None
    """paper (Adam, long warm-up, cosine decay) or fast (Muon, linear decay); default: the preset's recipe"""
    steps: int | None = None
    """number of updates; default: one epoch, unless epochs or minutes are given"""
    epochs: float | None = None
    """number of passes over the training tokens"""
    minutes: float | None = None
    """training time: the speed is measured first, then the number of steps is fixed and recorded"""
    init: AnyRun | None = None
    """run folder to start from instead of random weights; `starter` is the installed starter model"""
    fresh: bool = False
    """start over even if the run folder holds training state"""
    batch: int = 64
    """windows of `model.context` tokens per update"""
    micro_batch: int = 0
    """windows per forward pass; 0: 4,096 tokens; halved if memory runs out, which changes only rounding"""
    eval_every: int = 0
    """updates between validations; 0: about ten validations per run"""
    save_every: int = 0
    """updates between checkpoints, in addition to the one before every validation"""
    keep: int = 2
    """newest checkpoints to keep, in addition to the one with the best validation loss"""
    sample: str = ""
    """prompt of the samples generated at each validation"""
    track: list[TrackerName] = field(default_factory=list)
    """trackers to send the metrics to as well: tensorboard (files in the run folder), wandb, trackio; each is an extra
    to install, `pip install 'gpt1[tensorboard]'`; metrics.jsonl is always written"""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """with torchrun: ddp (each process holds the whole model) or fsdp (weights, gradients and optimizer state are
    sharded); auto: ddp if these take at most half of a device's memory; no effect in a single process"""
    compile: Literal["auto", "on", "off"] = "auto"
    """compile fused kernels with torch.compile; auto: if a compiler is found and the run is long enough to benefit"""
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True, kw_only=True)
class Plan(Pretrain):
    """Estimate parameters, memory, speed and hours of a pre-training run by measuring a few updates here."""

    data: PreparedFolder = ""
    """folder written by `gpt1 prepare`; default: random tokens from a vocabulary of `model.vocabulary`"""
    out: str = ""
    """ignored, so that a `gpt1 pretrain` command line can be reused unchanged; nothing is written"""


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """A run and prompts -> generated text."""

    run: AnyRun
    """run folder, or `starter`"""
    prompts: list[str] = field(default_factory=lambda: [""])
    """texts to continue; an empty prompt starts a new document"""
    max_new_tokens: int = 100
    """maximum number of tokens to generate"""
    temperature: float = 1.0
    """sampling temperature; 0: greedy decoding"""
    top_k: int = 0
    """sample from the k most probable tokens only; 0: from all"""
    top_p: float = 0.95
    """sample from the smallest set of tokens whose probabilities add up to this value"""
    repetition_penalty: float = 1.0
    """values above 1 make tokens that already occur in the text less likely"""
    stop: list[str] = field(default_factory=list)
    """strings at which generation stops; they are not part of the output"""
    beyond_context: bool = False
    """when the context is full, drop its first quarter, read the rest again and continue; default: a full context ends
    the text"""
    num: int = 1
    """samples per prompt"""
    stream: bool = False
    """print words as they are generated"""
    quantize: Literal["none", "int8"] = "none"
    """int8: round weights and activations to 8 bits, which is faster on a CPU and slightly less accurate"""


@dataclass(frozen=True, kw_only=True)
class Finetune(Command):
    """A run and labelled rows -> a fine-tuned model, by maximising L3 = L2 + lambda L1 (the paper, section 3.2)."""

    run: PretrainedRun
    """pre-trained run folder, or `starter`, the installed starter model"""
    train: TrainingTable
    """labelled rows: csv, tsv, json, jsonl, parquet or xlsx with column names, or the folder of a saved dataset"""
    out: FinetunedOut
    """run folder to write"""
    task: Task = "classification"
    """what each row holds: a text with a class, a number or several labels; a pair of texts; a context with answers"""
    valid: Table | None = None
    """validation rows, used to select the best epoch; default: a tenth of the training rows"""
    read: list[Inputs] = field(default_factory=list)
    """unlabelled text to pre-train on further before fine-tuning: files as for `gpt1 prepare`; from a table, the text
    columns of the labelled rows if it has them, else its column `text`; labels are never read"""
    read_epochs: float = 3.0
    """number of passes over that text"""
    read_lr: float = 0.0
    """peak learning rate for that text, falling to 0; 0: a fifth of the peak of the run's recipe"""
    text: str | None = None
    """text column, or the two columns of a pair separated by a comma; guessed if not given"""
    context: str | None = None
    """multiple choice: context column, or several separated by commas; guessed if not given"""
    choices: str | None = None
    """multiple choice: column with a list of answers, or a comma-separated column for each; guessed if not given"""
    label: str | None = None
    """label column (multi-label: or one 0/1 column per label, separated by commas); guessed if not given"""
    target: Literal["auto", "classes", "score"] = "auto"
    """similarity: whether labels are classes or scores; auto: scores if any label has a fractional part"""
    encoding: str = "utf-8"
    """character encoding of the files"""
    delimiter: str = "auto"
    """column separator of csv files: auto (detected from the header), tab, or a character such as ';'"""
    skip_invalid: bool = False
    """skip rows without a text or label, and report how many, instead of refusing the file"""
    long: Long = "head"
    """which part of a text to read if it exceeds the context; windows: all of it in parts, averaging the predictions"""
    class_weights: str = "none"
    """auto or balanced: weight rare classes up so that all classes count the same; or `NAME=WEIGHT,...`; none: no
    weighting"""
    lm_coef: float = 0.5
    """lambda, the weight of the auxiliary language-model loss; 0: no auxiliary loss"""
    epochs: int = 0
    """number of passes over the rows; 0: the paper's 3, or more if that gives fewer than 120 updates"""
    patience: int = 0
    """stop after this many epochs without improvement on the validation rows; 0: never stop early"""
    select: Select = "auto"
    """metric that selects the best epoch; auto: accuracy, Pearson's r for scores, macro F1 for label sets; with fewer
    than 50 validation rows, the last epoch is kept"""
    batch: int = 0
    """rows per update; 0: the paper's 32, or 8 if there are fewer than 1,000 rows"""
    micro_batch: int = 0
    """rows per forward pass; 0: up to 8,192 tokens; results do not depend on it, except for rounding"""
    lr: float = 0.0
    """peak learning rate; 0: 6.25e-5 at the paper's size, up to 1e-3 for smaller models"""
    warmup: float | None = None
    """fraction of the updates used for warm-up; default: the paper's 0.002, or 0.1 for rates above the paper's"""
    dropout: float | None = None
    """dropout on embeddings, residuals and attention; default: the rates used in pre-training"""
    head_dropout: float = 0.1
    """dropout before the new output layer W_y"""
    transfer_layers: int | None = None
    """number of blocks, counted from the embeddings, that start from pre-trained weights; default: all"""
    freeze: int = 0
    """number of blocks to freeze, together with the embeddings; embeddings of new tokens are still trained"""
    from_scratch: bool = False
    """start from random weights and pick the best of three learning rates: the baseline for pre-training"""
    with_words: bool = False
    """add the scores of words alone (TF-IDF and a linear model, always shown for comparison) to the network's"""
    seeds: int = 1
    """number of runs with different seeds; reports mean and deviation and keeps the run that validates best"""
    track: list[TrackerName] = field(default_factory=list)
    """trackers to send the metrics to as well: tensorboard (files in the run folder), wandb, trackio; each is an extra
    to install, `pip install 'gpt1[tensorboard]'`; metrics.jsonl is always written"""
    fresh: bool = False
    """start over even if the folder holds a finished or stopped run"""


@dataclass(frozen=True, kw_only=True)
class Ablate(Finetune):
    """A run and labelled rows -> how much pre-training and the auxiliary loss contribute (the paper, table 5)."""

    out: AblationOut = ""
    """JSON file, updated after every model; a stopped ablation resumes from it"""
    test: Table | None = None
    """labelled rows to score on; default: the validation rows, which also select the epochs"""
    sizes: str = "10,100,all"
    """training-set sizes, separated by commas; each sample contains every class"""
    seeds: int = 3
    """models per cell of the table; they differ in sample, initial W_y, order and dropout"""


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """A fine-tuned run and rows -> the rows with predicted labels and probabilities."""

    run: FinetunedRun
    """fine-tuned run folder"""
    input: TableOrTexts
    """rows: csv, tsv, json, jsonl, parquet, xlsx, or the folder of a saved dataset; or the text itself; or `-`:
    standard input, with one text per line or jsonl rows"""
    more: list[str] = field(default_factory=list)
    """with a text: the second text of a pair, or the answers to a context"""
    out: TableOut | None = None
    """output file; its extension sets the format (csv, tsv, jsonl, parquet); -: jsonl on standard output (a table for a
    single text on a terminal), the default on the command line; with --json, and with None in Python, the result holds
    the rows"""
    text: str | None = None
    """text column, or the two columns of a pair separated by a comma; default: as in training"""
    context: str | None = None
    """multiple choice: context column, or several separated by commas; default: as in training"""
    choices: str | None = None
    """multiple choice: column with a list of answers, or one column for each; default: as in training"""
    encoding: str = "utf-8"
    """character encoding of the file"""
    delimiter: str = "auto"
    """column separator of csv files: auto (detected from the header), tab, or a character such as ';'"""
    skip_invalid: bool = False
    """skip rows without a text, and report how many, instead of refusing the file"""
    batch: int = 64
    """rows per forward pass"""
    engine: EngineName = "local"
    """where to predict: local, in this process; ray, on all nodes of a Ray cluster, as in `gpt1 prepare`; all of them
    must find the run folder under the same path"""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """A run and files -> bits per byte on text, metrics on labelled rows, or zero-shot accuracy."""

    run: AnyRun
    """run folder"""
    files: list[TableOrText]
    """text files; labelled rows (fine-tuned runs); minimal pairs or multiple-choice questions (any run)"""
    as_: Literal["auto", "text", "rows", "pairs", "choices"] = "auto"
    """how to read the files; auto: decided by the run and the columns; pairs, choices: zero-shot, by likelihood"""
    good: str | None = None
    """pairs: column of the text that should be more likely; default: good or sentence_good"""
    bad: str | None = None
    """pairs: column of the other text; default: bad or sentence_bad"""
    group: str | None = None
    """pairs and choices: column to report accuracy by; guessed if not given"""
    normalize: Literal["none", "tokens", "bytes"] = "none"
    """pairs and choices: unit of the length that divides the log-likelihood of a text or answer; none: no division"""
    text: str | None = None
    """text column, or the two columns of a pair separated by a comma; default: as in training"""
    context: str | None = None
    """multiple choice: context column, or several separated by commas; default: as in training"""
    choices: str | None = None
    """multiple choice: column with a list of answers, or one column for each; default: as in training"""
    label: str | None = None
    """label column; default: as in training"""
    encoding: str = "utf-8"
    """character encoding of the files"""
    delimiter: str = "auto"
    """column separator of csv files: auto (detected from the header), tab, or a character such as ';'"""
    skip_invalid: bool = False
    """skip rows without a text or label, and report how many, instead of refusing the file"""
    batch: int = 64
    """rows per forward pass"""


@dataclass(frozen=True, kw_only=True)
class Explain(Command):
    """A run and a text -> the probability of each token and the loss; of a fine-tuned run, which words decide."""

    run: AnyRun
    """run folder"""
    text: str
    """the text to explain"""
    more: list[str] = field(default_factory=list)
    """fine-tuned: the second text of a pair, or the answers to a context"""
    as_: Literal["auto", "text", "rows"] = "auto"
    """text: how likely each token is; rows: what a fine-tuned run predicts, and why; auto: rows for a fine-tuned run"""
    html: PageOut | None = None
    """HTML page to write"""
    top: int = 5
    """text: number of alternatives to show at each position"""


@dataclass(frozen=True, kw_only=True)
class Embed(Command):
    """A run and rows -> the rows with a vector for each text: the mean of the network's last hidden states."""

    run: AnyRun
    """run folder, or `starter`"""
    input: Table
    """rows: csv, tsv, json, jsonl, parquet, xlsx, or the folder of a saved dataset"""
    out: VectorsOut
    """output file; its extension sets the format: parquet and jsonl (a column `embedding`), csv and tsv (columns
    embedding_0, ...), or npy (the vectors alone)"""
    text: str | None = None
    """text column; guessed if not given"""
    encoding: str = "utf-8"
    """character encoding of the file"""
    delimiter: str = "auto"
    """column separator of csv files: auto (detected from the header), tab, or a character such as ';'"""
    skip_invalid: bool = False
    """skip rows without a text, and report how many, instead of refusing the file"""


@dataclass(frozen=True, kw_only=True)
class Serve(Command):
    """Serve runs over HTTP: OpenAI's completions and embeddings, predictions and explanations."""

    runs: list[NamedRun]
    """run folders, or `starter`; each is served under its folder's name, or as NAME with NAME=RUN"""
    host: str = "127.0.0.1"
    """address to listen on; one that other machines can reach requires a token"""
    port: int = 8000
    """port to listen on; 0: any free port"""
    token: str = ""
    """secret that every request must send as `Authorization: Bearer TOKEN`; default: the variable GPT1_TOKEN"""
    allow_host: list[str] = field(default_factory=list)
    """additional host names under which clients may reach this server; default on a public address: any"""
    allow_origin: list[str] = field(default_factory=list)
    """web origins, such as https://example.org, whose pages may call the server; default: only its own"""
    concurrency: int = 64
    """maximum number of texts generated at once; each needs memory for the keys and values of one context"""
    queue: int = 64
    """maximum number of texts and requests that wait; beyond that, clients are asked to retry (error 429)"""
    max_body: int = 65_536
    """maximum size of a request's body, in bytes"""
    max_completions: int = 8
    """maximum number of completions per request: prompts times n"""
    max_stops: int = 4
    """maximum number of stop strings per request"""
    max_rows: int = 256
    """maximum number of rows to predict or texts to embed per request"""
    timeout: float = 10.0
    """seconds a client has to send its request, and to receive each part of the answer"""
    grace: float = 20.0
    """seconds that requests in progress have to finish when the server is stopped"""


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """Describe a folder or file: a run, prepared data, a tokenizer, a Hugging Face model, a table or a text."""

    path: AnyPath
    """folder or file"""


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """OpenAI's 2018 release or a Hugging Face openai-gpt model -> a run; or a run -> OpenAI's layout."""

    src: AnyModel
    """folder of the release, a Hugging Face model or a run; or a model on the hub, as ORGANISATION/NAME"""
    out: NewFolder
    """folder to write"""
    to: Literal["run", "openai"] = "run"
    """run: a run folder, which is also a Hugging Face model; openai: the layout of OpenAI's 2018 release"""
    heads: int = 0
    """attention heads per block, which OpenAI's release does not record; 0: heads of width 64, as in GPT-1"""
    words: Words | None = None
    """how to split words for OpenAI's vocabulary: hf, as transformers does; 2018, as the release did (spaCy)"""


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Runs -> one self-contained HTML page with curves, samples, metrics and settings."""

    runs: list[AnyPath]
    """run folders; also files written by `gpt1 evaluate --json > F` and `gpt1 ablate --out F`"""
    out: PageOut = "report.html"
    """HTML page to write"""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Run everything in minutes, without a download: prepare, pre-train, generate, fine-tune, compare, report."""

    out: DemoOut = "gpt1-demo"
    """folder to write"""
    minutes: float = 2.0
    """minutes of pre-training"""
    fresh: bool = False
    """start over even if the folder holds an earlier demo"""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that a task reads; a fine-tuned run remembers those of its training rows."""

    texts: list[str]
    """columns of the text, of the two texts of a pair, or of the parts of a context"""
    label: list[str]
    """one column; for several labels, a column of 0 and 1 for each"""
    choices: list[str] = field(default_factory=list)
    """multiple choice: the column that lists the answers, or one column for each answer"""


# The settings of `Model` that further training keeps as they are.
SHAPE = ("context", "width", "depth", "heads", "inner")
GPT1_VOCABULARY = 40_478
PRESETS: dict[Preset, Model] = {
    "gpt1": Model(vocabulary=GPT1_VOCABULARY),
    "small": Model(
        context=256, width=384, depth=6, heads=6, inner=1536, vocabulary=GPT1_VOCABULARY,
        embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
    ),
    "tiny": Model(
        context=128, width=192, depth=4, heads=3, inner=768, vocabulary=GPT1_VOCABULARY,
        embedding_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0,
    ),
}  # fmt: skip

RECIPES: dict[Recipe, Optim] = {
    "paper": Optim(),
    "fast": Optim(
        method="muon", lr=1e-2, matrix_lr=1e-2, beta2=0.95, weight_decay=0.2, warmup=20, decay="linear",
    ),
}  # fmt: skip

DEFAULT_RECIPE: dict[Preset, Recipe] = {"auto": "fast", "gpt1": "paper", "small": "fast", "tiny": "fast"}
DEFAULT_BATCH: dict[Preset, int] = {"auto": 16, "gpt1": 64, "small": 16, "tiny": 16}


def preset_shape(preset: Preset) -> Model:
    """Return the shape of a preset; for auto, the one used when no time budget chooses another."""
    return PRESETS["small" if preset == "auto" else preset]


def pretrain_defaults(preset: Preset = "auto", recipe: Recipe | None = None, *, data: str, out: str) -> Pretrain:
    """Return pre-training settings with the defaults of a preset and a recipe (default: the preset's recipe)."""
    recipe = recipe or DEFAULT_RECIPE[preset]
    model = replace(preset_shape(preset), vocabulary=0)  # the prepared data decide it
    return Pretrain(
        data=data, out=out, preset=preset, recipe=recipe,
        model=model, optim=RECIPES[recipe], batch=DEFAULT_BATCH[preset],
    )  # fmt: skip
