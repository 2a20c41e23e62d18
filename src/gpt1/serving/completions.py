"""OpenAI's completions: requests become texts to generate, and texts become choices."""

import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.run_folder.generation import PARTIAL_CHARACTER, FinishReason, Generation, GenerationOptions, TokenLogprob
from gpt1.serving.engine import Piece
from gpt1.serving.errors import ApiError
from gpt1.serving.models import ServedModel
from gpt1.serving.schemas import Choice, Completion, CompletionRequest, Logprobs, Text, Usage
from gpt1.tokenizer.tokenizer import Tokenizer

# What ends a text here (`FinishReason`), in OpenAI's words.
ENDINGS: dict[FinishReason, str] = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}
# Tokens before another that say how many characters it adds; two characters of UTF-8 have at most 8.
BEFORE = 8


@dataclass(frozen=True)
class Limits:
    """Limits on one request."""

    choices: int
    """texts: prompts times `n`"""
    stops: int
    """stop strings"""
    rows: int
    """texts to embed, or rows to predict"""


def token_lists(texts: Text, name: str, model: ServedModel) -> list[list[int]]:
    """Return the ids of the texts of a request, given as strings or ids. Raises ApiError for ids that do not exist."""
    listed: Sequence[Any] = [texts] if isinstance(texts, str) or (texts and isinstance(texts[0], int)) else texts
    if not listed:
        raise ApiError(400, f"{name} is an empty list; give at least one text", name)
    if isinstance(listed[0], str):
        return model.tokenizer.encode_batch(list(listed))
    vocabulary = model.tokenizer.vocabulary
    for ids in listed:
        if not ids:
            raise ApiError(400, f"{name} has an empty list of token ids; give at least one id", name)
        if (wrong := max(ids)) >= vocabulary:
            raise ApiError(400, f"{name} has the token id {wrong}; those of {model.name} are below {vocabulary}", name)
    return [list(ids) for ids in listed]


class CompletionJob:
    """A request for completions, its texts, and what is reported of them."""

    def __init__(self, request: CompletionRequest, model: ServedModel, limits: Limits) -> None:
        """Check a request and start its texts. Raises ApiError or UserError for what cannot be."""
        self.request, self.model = request, model
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        if len(stops) > limits.stops:
            raise ApiError(400, f"stop has {len(stops)} strings; at most {limits.stops} are allowed", "stop")
        n = 1 if request.n is None else request.n
        if request.best_of not in (None, n):
            raise ApiError(400, "best_of must equal n; all samples are returned", "best_of")
        if request.stream_options and not request.stream:
            raise ApiError(400, "stream_options goes only with stream", "stream_options")
        prompts: list[str | list[int]]
        if isinstance(request.prompt, str):
            prompts = [request.prompt]
        elif request.prompt and isinstance(request.prompt[0], str):
            prompts = list(request.prompt)
        else:
            prompts = list(token_lists(request.prompt, "prompt", model))
        if len(prompts) * n > limits.choices:
            most = f"at most {limits.choices} are possible"
            raise ApiError(400, f"{len(prompts)} prompts times n {n} are {len(prompts) * n} completions; {most}", "n")
        self.max_tokens = 16 if request.max_tokens is None else request.max_tokens
        options = GenerationOptions(
            max_new_tokens=max(1, self.max_tokens),
            temperature=1.0 if request.temperature is None else request.temperature,
            top_k=request.top_k or 0,
            top_p=request.top_p or 1.0,
            repetition_penalty=request.repetition_penalty or 1.0,
            stop=tuple(stops),
            seed=random.SystemRandom().getrandbits(63) if request.seed is None else request.seed,
        )
        self.texts = [
            Generation(model.tokenizer, prompt, number, options, model.context, request.logprobs, bool(request.echo))
            for prompt in prompts
            for number in range(n)
        ]
        for text in self.texts:
            if text.cut:
                raise ApiError(
                    400,
                    f"This model's maximum context length is {model.context} tokens, however the prompt has "
                    f"{text.cut + len(text.ids)} tokens; shorten it",
                    "prompt",
                    "context_length_exceeded",
                )
        self._logprobs = [_LogprobsWriter(text) for text in self.texts]

    def result(self) -> dict[str, Any]:
        """Return the response; the texts must have ended."""
        choices = [
            self._choice(n, text.text, text.logprobs, text.finish_reason, is_first=True)
            for n, text in enumerate(self.texts)
        ]
        return self._completion(choices, self._usage())

    async def chunks(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a stream from the pieces of its texts."""
        begun: set[int] = set()
        async for piece in pieces:
            is_first = piece.number not in begun
            begun.add(piece.number)
            choice = self._choice(piece.number, piece.text, piece.logprobs, piece.finish_reason, is_first)
            yield self._completion([choice], None)
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield self._completion([], self._usage())

    def _choice(
        self, number: int, piece: str, logprobs: list[TokenLogprob], reason: FinishReason | None, is_first: bool
    ) -> Choice:
        text = self.texts[number]
        if not self.max_tokens:  # a token was generated all the same
            piece = ""
            logprobs = [one for one in logprobs if one is not text.logprobs[-1]] if is_first and logprobs else []
        if self.request.echo and is_first:
            piece = text.prompt + piece
        told = self._logprobs[number].write(logprobs) if self.request.logprobs is not None else None
        ending: Any = ENDINGS[reason] if reason and self.max_tokens else "length" if reason else None
        return Choice(index=number, text=piece, logprobs=told, finish_reason=ending)

    def _completion(self, choices: list[Choice], usage: Usage | None) -> dict[str, Any]:
        completion = Completion(id=self.id, created=self.created, model=self.model.name, choices=choices, usage=usage)
        return completion.model_dump()

    def _usage(self) -> Usage:
        """Count tokens: each prompt once, and the end tokens of texts too."""
        n = self.request.n or 1
        read = sum(len(text.ids) for text in self.texts[::n])
        new = sum(len(text.new) + (text.finish_reason == "end") for text in self.texts) if self.max_tokens else 0
        return Usage(prompt_tokens=read, completion_tokens=new, total_tokens=read + new)


class _LogprobsWriter:
    """Writes the `logprobs` of a choice, from first to last; it remembers where in the text the next token begins."""

    def __init__(self, text: Generation) -> None:
        self.tokenizer: Tokenizer = text.tokenizer
        self.before: list[int] = [] if text.prompt_logprobs else list(text.ids)
        self.offset = 0 if text.prompt_logprobs else len(text.prompt)

    def write(self, logprobs: Sequence[TokenLogprob]) -> Logprobs:
        told = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for one in logprobs:
            top = None
            if one.logprob is not None:
                top = {self.tokenizer.token(i): logprob for i, logprob in (one.top | {one.id: one.logprob}).items()}
            told.tokens.append(self.tokenizer.token(one.id))
            told.token_logprobs.append(one.logprob)
            told.top_logprobs.append(top)
            told.text_offset.append(self.offset)
            near = self.before[-BEFORE:]
            self.offset += max(0, self._length([*near, one.id]) - self._length(near))
            self.before.append(one.id)
        return told

    def _length(self, ids: list[int]) -> int:
        return len(self.tokenizer.decode(ids).rstrip(PARTIAL_CHARACTER))
