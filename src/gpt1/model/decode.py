"""Generation: append the next token, repeat. Each step costs one token, since keys and values are kept."""

import random
from collections.abc import Iterator, Sequence

import torch

from gpt1.model.cuda_graphs import replayed
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Writing
from gpt1.model.sampling import Sampling


@torch.inference_mode()
def decode(
    body: GPT, prompts: Sequence[Sequence[int]], sampling: Sampling, streams: Sequence[random.Random], steps: int
) -> Iterator[list[int]]:
    """Yield the next id of each prompt, `steps` times or until every context is full; close it to stop sooner.

    Each prompt has 1 .. context ids, and draws from its own stream of random numbers: its tokens do not depend on
    the prompts beside it (but for rounding). With p ids it can take context - p + 1 more, the last one from a full
    context; ids yielded for it after that mean nothing. `body` must be in evaluation mode.
    """
    longest, steps = max(map(len, prompts)), min(steps, body.config.context - min(map(len, prompts)) + 1)
    if body.tokens.weight.device.type == "cuda":
        yield from replayed(body, prompts, sampling, streams, steps)
        return
    writing = Writing(body, len(prompts), longest + steps - 1, sampling)
    writing.begin(body, prompts, streams, steps)
    yield writing.tokens_N1[:, 0].tolist()
    for read in range(longest + 1, longest + steps):
        writing.step(body, read, writing.ragged)
        yield writing.tokens_N1[:, 0].tolist()
