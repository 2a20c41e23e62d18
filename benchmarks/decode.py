"""Tokens per second of text generation, one sequence at a time and in a batch, beside transformers' openai-gpt.

Random weights, with a gain that makes the distribution about as peaked as a trained model's. `python
benchmarks/decode.py` prints the figures and writes benchmarks/results/decode.json. Transformers keeps no keys and
values for this architecture, so each of its steps reads the whole text again; its number format is the same as ours.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from gpt1.config import PRESETS, Command, Model
from gpt1.jobs.hugging_face import to_hf, to_hf_config
from gpt1.nn.decode import decode
from gpt1.nn.model import GPT, INIT_STD
from gpt1.nn.sampling import Sampling
from gpt1.train.parallel import machine
from record import record

PROMPT, REPEATS = 16, 5
GREEDY, USUAL = Sampling(temperature=0), Sampling(top_p=0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--new", type=int, default=96, help="tokens to write")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    device, dtype = machine(Command(device=asked.device, dtype=asked.dtype))
    rows = {
        name: measure(network(replace(PRESETS[name], vocabulary=vocabulary)), device, dtype, asked.new)
        for name, vocabulary in (("gpt1", 40_478), ("small", 8_192))
    }
    result = {
        "device": str(device), "threads": torch.get_num_threads(), "dtype": str(dtype),
        "prompt": PROMPT, "new_tokens": asked.new, "tokens_per_second": rows,
    }  # fmt: skip
    record("decode", "python benchmarks/decode.py", result)
    print(json.dumps(result, indent=2))


@torch.no_grad()
def network(model: Model) -> GPT:
    """A random GPT whose next-token distribution has logits some 4 nats apart."""
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    body.blocks[-1].feed_forward_norm.weight.fill_(4 / (INIT_STD * model.width**0.5))
    return body


def measure(body: GPT, device: torch.device, dtype: torch.dtype, new: int) -> dict[str, float]:
    """Tokens per second by way of writing."""
    theirs = transformers_model(body).to(device, dtype).eval()
    body = body.to(device, dtype).eval()
    prompt = list(range(1, PROMPT + 1))
    ids = torch.tensor([prompt], device=device)

    def ours(rows: int, sampling: Sampling) -> None:
        streams = [random.Random(row) for row in range(rows)]
        for _ in decode(body, [prompt] * rows, sampling, streams, new):
            pass

    def peer() -> None:
        theirs.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)

    ways = {
        "greedy": (new, lambda: ours(1, GREEDY)),
        "top_p": (new, lambda: ours(1, USUAL)),
        "batch_16": (16 * new, lambda: ours(16, USUAL)),
        "transformers": (new, peer),
    }
    # In turns, so that a busy moment of the machine falls on all of them.
    seconds = [{name: timed(work, device) for name, (_, work) in ways.items()} for _ in range(1 + REPEATS)][1:]
    return {name: round(n / statistics.median(s[name] for s in seconds), 1) for name, (n, _) in ways.items()}


def transformers_model(body: GPT) -> torch.nn.Module:
    """The same weights in the peer."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**to_hf_config(body.config, {"end": 0, "pad": 0})))
    model.load_state_dict(to_hf(body), strict=False)
    model.tie_weights()
    return model


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
