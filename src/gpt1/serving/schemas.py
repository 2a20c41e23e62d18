"""Requests and responses. Completions and embeddings are OpenAI's, field by field; unknown fields are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = str | list[str] | list[TokenId] | list[list[TokenId]]
Neutral = Annotated[float, Field(ge=0, le=0)]
"""a setting that OpenAI has and gpt1 has not: only the value that changes nothing is accepted"""


class Strict(BaseModel):
    """A request: exact types, finite numbers, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream holds besides the text."""

    include_usage: bool | None = None
    """whether a last chunk counts the tokens"""
    include_obfuscation: bool | None = None
    """accepted, without effect"""


class CompletionRequest(Strict):
    """Prompts to continue."""

    model: str
    prompt: Text = ""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, lt=2**31)] | None = 1
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    user: str | None = None
    best_of: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    suffix: None = None
    presence_penalty: Neutral | None = 0.0
    frequency_penalty: Neutral | None = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # Not OpenAI's: settings of `gpt1 generate`, under the names that other servers use.
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = 0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = 1.0


class Logprobs(BaseModel):
    """How probable each token was."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    """A completion, or the next piece of one."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    """Number of tokens that were read and generated."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Completion(BaseModel):
    """Completions, `n` of the first prompt, then those of the next; or a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model: str
    input: Text
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    user: str | None = None


class Embedding(BaseModel):
    """The vector of a text: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """A vector for each text."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class PredictRequest(Strict):
    """Rows to predict, with the columns that the run was fine-tuned on."""

    model: str
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Prediction(BaseModel):
    """What `gpt1 predict` adds to a row."""

    index: int
    predicted_label: str | int | float | list[str]
    probabilities: dict[str, float] | None = None


class Predictions(BaseModel):
    """A prediction for each row."""

    object: Literal["list"] = "list"
    model: str
    data: list[Prediction]


class TextOrRow(Strict):
    """A text; or for a fine-tuned run a row, whose other texts are `more`."""

    model: str
    text: str
    more: list[str] | None = None
    as_: Annotated[Literal["auto", "text", "rows"] | None, Field(alias="as")] = "auto"


class ExplainRequest(TextOrRow):
    """A text, or a row of a fine-tuned run."""

    top: Annotated[int, Field(ge=1, le=100)] | None = 5


class AttentionRequest(TextOrRow):
    """A text or a row, and the block whose attention is wanted."""

    layer: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """from 0, the one that reads the embeddings"""
    sequence: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """of a row that is read as several sequences: which one"""
    encoding_format: Literal["float", "base64"] | None = "float"


class PieceOfText(BaseModel):
    """A token."""

    id: int
    token: str
    """as text; bytes that are half a character as `\\xe2`"""
    special: str | None = None
    """`end`, `pad`, `start`, `delimiter` or `extract`"""


class AttentionWeights(BaseModel):
    """What each token of a text or a row looks at."""

    model: str
    layer: int
    layers: int
    heads: int
    sequence: int
    sequences: int
    """of a row: both orders of a pair, or one for each answer; for each window"""
    tokens: list[PieceOfText]
    """the end token before the text, then the text; of a row, the sequence between its special tokens"""
    is_cut: bool
    """whether the text or the row is longer than what was read of it"""
    left_out: int
    """tokens at the end of a text that were not read"""
    weights: list[list[list[float]]] | str
    """of each head and token: the weights of the tokens up to it; or base64 of all of them in this order, each a
    little-endian 16-bit integer, in 65,535ths"""


class NextRequest(Strict):
    """A text, and how its next token would be drawn."""

    model: str
    prompt: str | list[TokenId] = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top: Annotated[int, Field(ge=1, le=100)] = 12
    """candidates, the most probable first"""
    chosen: TokenId | None = None
    """a token that is shown too"""
    uniform: Annotated[float, Field(ge=0, lt=1)] | None = None
    """a number that draws a token"""


class Candidate(PieceOfText):
    """A token that may be next, on its way from score to probability."""

    rank: int
    """1: the most probable"""
    logprob: float
    """logarithm of the network's own probability, at temperature 1"""
    logit: float
    scaled: float | None
    """logit divided by the temperature; null at temperature 0, or if it is too large for a number"""
    softmax: float
    """probability after softmax; at temperature 0 all of it is the first one's"""
    top_k: float
    """after top-k"""
    top_p: float
    """after top-p: the token is drawn from these"""


class NextToken(BaseModel):
    """The distribution of the next token, step by step."""

    model: str
    prompt: list[PieceOfText]
    room: int
    """tokens that can be generated, this one included"""
    candidates: list[Candidate]
    kept: dict[str, int]
    """tokens that can be drawn after `softmax`, `top_k` and `top_p`"""
    drawn: int | None
    """id of the token that `uniform` draws"""


class GenerateRequest(Strict):
    """A prompt to continue, token by token."""

    model: str
    prompt: str | list[TokenId] = ""
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] = 100
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Curves(BaseModel):
    """What was measured while a run was trained."""

    model: str
    lm_coef: float | None
    """lambda of L3 = L2 + lambda L1; null for a run that is only pre-trained"""
    steps: int
    """updates so far"""
    curves: dict[str, list[tuple[float, float]]]
    """(update, value) of each measurement, consecutive ones averaged to at most 400 points; `l3` of a fine-tuning"""
    samples: list[tuple[int, str]]
    """(update, text that the model wrote)"""


class ModelCard(BaseModel):
    """A run that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["gpt1"] = "gpt1"
    kind: str
    task: str | None
    labels: list[str] | None
    columns: dict[str, list[str]] | None
    context: int
    vocabulary: int
    parameters: int | None


class ModelList(BaseModel):
    """The runs that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the server works."""

    status: str
