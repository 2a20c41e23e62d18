"""Texts that a model continues: from ids to text as it grows, and why it ended."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict

from gpt1.config import Generate
from gpt1.data.windows import keyed_number
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import generate_ids
from gpt1.model.sampling import Sampling
from gpt1.tokenizer.tokenizer import Tokenizer

FinishReason = Literal["end", "stop", "length", "context"]
"""The end token, a stop string, max_new_tokens, or a full context."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of the first bytes of a character."""


class Sample(TypedDict):
    """A finished continuation: `text` comes after `prompt` and has `tokens` tokens, the end token not counted."""

    prompt: str
    text: str
    tokens: int
    finish_reason: FinishReason


class Continuation:
    """One prompt and the text that grows behind it."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, number: int, settings: Generate, context: int) -> None:
        """Sample `number` of `prompt`; of a prompt longer than the context only the end is kept."""
        self.tokenizer, self.prompt, self.settings = tokenizer, prompt, settings
        ids = tokenizer.encode(prompt)
        # An empty prompt starts a document, and what stands before a document is an end token.
        self.ids, self.cut = kept_end(ids or [tokenizer.end_id], settings.max_new_tokens, context)
        self.room = context - len(self.ids) + 1
        self.stream = random.Random(keyed_number(settings.seed, number, *ids))
        self.new: list[int] = []
        self.text = ""
        self.shown = 0
        self.finish_reason: FinishReason | None = None

    def add(self, token: int) -> None:
        """Append the next token, unless the text has ended."""
        if self.finish_reason:
            return
        if token == self.tokenizer.end_id:
            self.finish_reason = "end"
            return
        self.new.append(token)
        # Decoded behind the prompt's last token, since some tokenizers drop a space in front of the first.
        last = self.ids[-1:]
        text = self.tokenizer.decode(last + self.new)[len(self.tokenizer.decode(last)) :].rstrip(UNFINISHED)
        ends = [text.find(stop) for stop in self.settings.stop if stop in text]
        self.text = text[: min(ends)] if ends else text
        if ends:
            self.finish_reason = "stop"
        elif len(self.new) == self.settings.max_new_tokens:
            self.finish_reason = "length"
        elif len(self.new) == self.room:
            self.finish_reason = "context"

    def fresh(self) -> str:
        """The text not asked for before, in whole words, without what may become a stop string."""
        safe = len(self.text) if self.finish_reason else self._safe()
        fresh, self.shown = self.text[self.shown : safe], max(self.shown, safe)
        return fresh

    def sample(self) -> Sample:
        """The result; only of a text that has ended."""
        assert self.finish_reason
        return {
            "prompt": self.prompt, "text": self.text, "tokens": len(self.new), "finish_reason": self.finish_reason,
        }  # fmt: skip

    def _safe(self) -> int:
        word = re.search(r"\w*\Z", self.text)
        ends = [word.start() if word else 0]
        for stop in self.settings.stop:
            begun = (size for size in range(len(stop) - 1, 0, -1) if self.text.endswith(stop[:size]))
            ends.append(len(self.text) - next(begun, 0))
        return min(ends)


def continuations(body: GPT, tokenizer: Tokenizer, settings: Generate) -> list[Continuation]:
    """The texts that `settings` ask for, not yet begun. Raises UserError for settings that mean nothing."""
    check(settings)
    context = body.config.context
    return [
        Continuation(tokenizer, prompt, number, settings, context)
        for prompt in settings.prompts
        for number in range(settings.num)
    ]


def advance(body: GPT, rows: Sequence[Continuation], settings: Generate) -> Iterator[None]:
    """Let all rows grow together, one token at each step, until every one has ended."""
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty)
    prompts, streams = [row.ids for row in rows], [row.stream for row in rows]
    for ids in generate_ids(body, prompts, sampling, streams, settings.max_new_tokens):
        for row, token in zip(rows, ids, strict=True):
            row.add(token)
        yield
        if all(row.finish_reason for row in rows):
            return


def rows_at_once(body: GPT) -> int:
    """Texts to let grow together: as many as make the weights' way from memory worth it."""
    return 64 if body.tokens.weight.device.type == "cpu" else 256


def continue_texts(body: GPT, tokenizer: Tokenizer, settings: Generate) -> list[Sample]:
    """Every sample of every prompt, `num` of the first one first."""
    rows = continuations(body, tokenizer, settings)
    for low in range(0, len(rows), at_once := rows_at_once(body)):
        for _ in advance(body, rows[low : low + at_once], settings):
            pass
    return [row.sample() for row in rows]


def kept_end(ids: list[int], new: int, context: int) -> tuple[list[int], int]:
    """The last ids of a prompt longer than the context, with room for `new` ones but at least half a context kept.

    Returns them and the number of ids cut off; a prompt that fits stays as it is.
    """
    if len(ids) <= context:
        return ids, 0
    keep = max(context - new + 1, (context + 1) // 2)
    return ids[-keep:], len(ids) - keep


def check(settings: Generate) -> None:
    """Raises UserError for a setting outside its range."""
    wrong = {
        "--max-new-tokens must be at least 1": settings.max_new_tokens < 1,
        "--temperature must not be below 0 (0 is greedy)": settings.temperature < 0,
        "--top-k must not be below 0 (0 keeps every token)": settings.top_k < 0,
        "--top-p must be above 0 and at most 1": not 0 < settings.top_p <= 1,
        "--repetition-penalty must be above 0 (1 changes nothing)": settings.repetition_penalty <= 0,
        "--num must be at least 1": settings.num < 1,
        "--stop must not be empty": "" in settings.stop,
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)
