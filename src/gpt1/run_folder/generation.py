"""Text generation: decode token ids as they are generated, and end each text for a reason."""

import random
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gpt1.config import Generate
from gpt1.data.windows import keyed_number
from gpt1.errors import UserError, setting
from gpt1.model import int8
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Decoder, Step
from gpt1.model.packed import pack
from gpt1.model.sampling import Sampling
from gpt1.options import check_threads_and_seed
from gpt1.results import Result
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import out_of_memory, use_threads

# The end token, a stop string, max_new_tokens reached, or a full context.
FinishReason = Literal["end", "stop", "length", "context"]
# What a tokenizer decodes the first bytes of an unfinished character to.
PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# After this many tokens, text that ends in a whole character is not decoded again: decoding the whole text each time
# would cost more the longer it gets.
SETTLED = 64
LAST_WORD = re.compile(r"\w*\Z")
# Texts generated together, enough to repay reading the weights from memory for each token: on a CPU, on a GPU.
CPU_BATCH, GPU_BATCH = 64, 256
# Positions whose scores over the vocabulary are held at a time.
LOGITS_AT_ONCE = 64


@dataclass(frozen=True)
class GenerationOptions:
    """How texts are generated. Raises UserError for a value outside its range."""

    max_new_tokens: int = Generate.max_new_tokens
    temperature: float = Generate.temperature
    """0: greedy decoding"""
    top_k: int = Generate.top_k
    """0: all tokens"""
    top_p: float = Generate.top_p
    repetition_penalty: float = Generate.repetition_penalty
    stop: Sequence[str] = ()
    """strings that end the text; they are not part of it"""
    beyond_context: bool = Generate.beyond_context
    """go on past the context, predicting each token from the last tokens only, see `Decoder.step`"""
    seed: int = Generate.seed

    def __post_init__(self) -> None:
        wrong = {
            f"{setting('max_new_tokens')} must be at least 1": self.max_new_tokens < 1,
            f"{setting('temperature')} must not be below 0 (0 is greedy)": self.temperature < 0,
            f"{setting('top_k')} must not be below 0 (0 keeps every token)": self.top_k < 0,
            f"{setting('top_p')} must be above 0 and at most 1": not 0 < self.top_p <= 1,
            f"{setting('repetition_penalty')} must be above 0 (1 changes nothing)": self.repetition_penalty <= 0,
            f"{setting('stop')} must not be empty": "" in self.stop,
        }
        if message := next((message for message, is_wrong in wrong.items() if is_wrong), None):
            raise UserError(message)
        check_threads_and_seed(0, self.seed)

    @property
    def sampling(self) -> Sampling:
        """How each token is drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty)


@dataclass(frozen=True)
class Sample(Result):
    """A generated text."""

    prompt: str
    """the whole prompt, even if only its end was read"""
    text: str
    """what follows the prompt"""
    tokens: int
    """number of tokens generated, without the end token"""
    finish_reason: FinishReason
    """end (the end token), stop (a stop string), length (max_new_tokens) or context (it is full)"""


@dataclass(frozen=True)
class TokenLogprob:
    """How probable a token of a text was, given those before it."""

    id: int
    logprob: float | None
    """log P of the token; None for the first of a prompt, which nothing predicts"""
    top: dict[int, float]
    """the most probable tokens in its place, with their log P"""


class Generation:
    """One prompt and the text that is being generated after it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: str | Sequence[int],
        number: int,
        options: GenerationOptions,
        context: int,
        top_logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> None:
        """Start sample `number` of `prompt`, a text or token ids; only the end of a prompt beyond the context is kept.

        With `top_logprobs`, `logprobs` records the log-probability of each token and of that many most probable
        alternatives; with `prompt_logprobs`, also for the tokens of the prompt.
        """
        self.tokenizer, self.options = tokenizer, options
        self.prompt = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        self.logprobs: list[TokenLogprob] = []
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        self.top_logprobs, self.prompt_logprobs = top_logprobs, prompt_logprobs and bool(ids)
        # An empty prompt starts a document: in the training data an end token precedes each document.
        new = 1 if options.beyond_context else options.max_new_tokens
        self.ids, self.cut = truncate_prompt(ids or [tokenizer.end_id], new, context)
        self.room = context - len(self.ids) + 1
        self.random = random.Random(keyed_number(options.seed, number, *ids))
        self.new: list[int] = []
        self.text = ""
        # The text up to here will not change; the tokens since then are decoded at every step, after the one before.
        self._settled, self._before, self._recent = "", self.ids[-1], list[int]()
        self.finish_reason: FinishReason | None = None
        self._returned = self._returned_logprobs = 0

    def add(self, token: int) -> None:
        """Append the next token, unless the text has ended."""
        if self.finish_reason:
            return
        if token == self.tokenizer.end_id:
            self.finish_reason = "end"
            return
        self.new.append(token)
        self._recent.append(token)
        # Decode after the token before, since some tokenizers drop a space before the first token.
        recent = self.tokenizer.decode([self._before, *self._recent])[len(self.tokenizer.decode([self._before])) :]
        text = (self._settled + recent).rstrip(PARTIAL_CHARACTER)
        # Not after a special token: it decodes to nothing, so it would not show that a space follows.
        if len(self._recent) >= SETTLED and not recent.endswith(PARTIAL_CHARACTER) and self.tokenizer.decode([token]):
            self._settled, self._before, self._recent = self._settled + recent, token, []
        ends = [text.find(stop) for stop in self.options.stop if stop in text]
        self.text = text[: min(ends)] if ends else text
        if ends:
            self.finish_reason = "stop"
        elif len(self.new) == self.options.max_new_tokens:
            self.finish_reason = "length"
        elif len(self.new) == self.room and not self.options.beyond_context:
            self.finish_reason = "context"

    def next_piece(self, whole_words: bool = True) -> str:
        """Return the text since the last call: whole words, up to what may be the beginning of a stop string."""
        safe = len(self.text)
        if not self.finish_reason:
            word = LAST_WORD.search(self.text, self._returned) if whole_words else None
            ends = [word.start() if word else len(self.text)]
            for stop in self.options.stop:
                begun = (size for size in range(len(stop) - 1, 0, -1) if self.text.endswith(stop[:size]))
                ends.append(len(self.text) - next(begun, 0))
            safe = min(ends)
        piece, self._returned = self.text[self._returned : safe], max(self._returned, safe)
        return piece

    def next_logprobs(self) -> list[TokenLogprob]:
        """Return those of `logprobs` that are new since the last call."""
        new, self._returned_logprobs = self.logprobs[self._returned_logprobs :], len(self.logprobs)
        return new

    def sample(self) -> Sample:
        """Return the result; the text must have ended."""
        assert self.finish_reason
        return Sample(self.prompt, self.text, len(self.new), self.finish_reason)


class GenerationBatch:
    """Texts that are generated together; they join between steps, and leave when they have ended."""

    def __init__(self, body: GPT) -> None:
        self.texts: list[Generation] = []
        self._decoder = Decoder(body)

    @torch.inference_mode()
    def join(self, texts: Sequence[Generation]) -> None:
        """Read the prompts of more texts and add the first token to each."""
        options = [text.options for text in texts]
        step = self._decoder.join(
            [text.ids for text in texts], [one.sampling for one in options], [text.random for text in texts],
            [one.max_new_tokens for one in options],
        )  # fmt: skip
        self.texts += texts
        for text, h_TD in zip(texts, step.h_NTD, strict=True):
            if text.top_logprobs is not None and text.prompt_logprobs:
                text.logprobs.append(TokenLogprob(text.ids[0], None, {}))
                for low in range(0, len(text.ids) - 1, LOGITS_AT_ONCE):
                    following = text.ids[1:][low : low + LOGITS_AT_ONCE]
                    logits_SV = self._decoder.body.logits(h_TD[low : low + len(following)]).float()
                    text.logprobs += token_logprobs(logits_SV, following, text.top_logprobs)
        self._add(texts, step)

    def step(self) -> None:
        """Add a token to each text."""
        self._add(list(self.texts), self._decoder.step())

    def leave(self, text: Generation) -> None:
        """Remove a text, which may not have ended."""
        n = self.texts.index(text)
        self._decoder.leave(n)
        last = self.texts.pop()
        if n < len(self.texts):
            self.texts[n] = last

    def _add(self, texts: Sequence[Generation], step: Step) -> None:
        for n, (text, token) in enumerate(zip(texts, step.tokens, strict=True)):
            if text.top_logprobs is not None:
                text.logprobs += token_logprobs(step.logits_NV[n : n + 1], [token], text.top_logprobs)
            text.add(token)
            if text.finish_reason:
                self.leave(text)


@torch.inference_mode()
def token_logprobs(logits_SV: Tensor, ids: Sequence[int], top: int) -> list[TokenLogprob]:
    """Return how probable each of `ids` is by the scores in its place, and the `top` most probable tokens there."""
    logp_SV = logits_SV.log_softmax(-1)
    chosen_S = logp_SV.gather(-1, torch.tensor(ids, device=logp_SV.device)[:, None])[:, 0]
    best_SK = logp_SV.topk(top)
    columns = chosen_S.tolist(), best_SK.indices.tolist(), best_SK.values.tolist()
    return [
        TokenLogprob(id, logprob, dict(zip(others, values, strict=True)))
        for id, logprob, others, values in zip(ids, *columns, strict=True)
    ]


def generate_texts(body: GPT, texts: Sequence[Generation]) -> None:
    """Generate all texts to their ends, a batch at a time."""
    batch = CPU_BATCH if body.tokens.weight.device.type == "cpu" else GPU_BATCH
    for low in range(0, len(texts), batch):
        for _ in generate_steps(body, texts[low : low + batch]):
            pass


def generate_steps(body: GPT, texts: Sequence[Generation]) -> Iterator[None]:
    """Add one token to each text at every step, until all have ended."""
    batch = GenerationBatch(body)
    batch.join(texts)
    yield
    while batch.texts:
        batch.step()
        yield


def stream_text(body: GPT, text: Generation, threads: int | None = None) -> Generator[str, None, Sample]:
    """Yield a text piece by piece as it is generated; joined, the pieces are `Sample.text`. Returns the Sample.

    `threads` is in effect while a token is generated, not while the caller handles a piece.
    """
    steps = generate_steps(body, [text])
    while not text.finish_reason:
        with use_threads(threads), out_of_memory(f"lower {setting('max_new_tokens')}"):
            next(steps)
        if piece := text.next_piece():
            yield piece
    return text.sample()


def check_quantize(quantize: str, device: torch.device) -> None:
    """Raise UserError for an unknown kind of quantization, or one that the device does not support."""
    if quantize not in ("none", "int8"):
        raise UserError(f"{setting('quantize')} {quantize}: give none or int8")
    if quantize == "int8" and not (device.type == "cpu" and int8.has_int8()):
        raise UserError(
            f"{setting('quantize')} int8: {device} has no 8-bit product here; it needs a CPU with AVX-512 VNNI. "
            "Leave it out"
        )


def prepare_for_inference(body: GPT, device: torch.device, dtype: torch.dtype, quantize: str = "none") -> GPT:
    """Convert `body`, fp32 on the CPU, in place to the form that runs fastest on `device`, and return it."""
    check_quantize(quantize, device)
    if quantize == "int8":
        return int8.quantize_int8(body).to(dtype)  # quantize first: weights are then rounded once, from fp32
    return pack(body.to(device, dtype))


def truncate_prompt(ids: list[int], new: int, context: int) -> tuple[list[int], int]:
    """Cut a prompt longer than the context to its end, with room for `new` tokens but at least half a context kept.

    Returns the ids and the number of ids cut off; a prompt that fits is returned whole.
    """
    if len(ids) <= context:
        return ids, 0
    keep = max(context - new + 1, (context + 1) // 2)
    return ids[-keep:], len(ids) - keep
