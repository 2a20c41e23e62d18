"""Generation beside transformers: tokens per second, time to the first token, and what 8-bit weights change.

`python benchmarks/decode.py` measures random networks of the presets' sizes, with a gain that makes their distributions
about as peaked as a trained model's, and writes benchmarks/results/decode.json; `--only` measures some parts again and
keeps the others' figures. `--agree RUN TEXT` compares the 8-bit weights of a trained run with the others on a text. On
a GPU 256 texts at once are measured too. `--only "small bf16" --rows 1 2` is a short trial.

The peers are `openai-gpt`, the same network with the same weights, for which transformers keeps no keys and values, so
each step reads the whole text again; and `gpt2` of the same size, which keeps them. All are greedy except "top-p".
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.config import PRESETS, Command, Model
from gpt1.model.gpt import GPT, INIT_STD, Block
from gpt1.model.int8 import has_int8, quantize_int8
from gpt1.model.kv_cache import Decoder
from gpt1.model.packed import pack
from gpt1.model.sampling import Sampling
from gpt1.run_folder.folder import load_run
from gpt1.run_folder.hugging_face import to_hf, to_hf_config
from gpt1.training.device import setup_device
from record import RESULTS, record

# Number of texts, tokens of each prompt, new tokens of each; it is timed.
Writer = Callable[[int, int, int], None]
PROMPT, NEW, CONTEXT, REPEATS = 32, 128, 512, 5
ROWS = {"cpu": [1, 16], "cuda": [1, 16, 256]}
GREEDY, TOP_P = Sampling(temperature=0), Sampling(top_p=0.95)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Preset and number format of a part -> its vocabulary.
PARTS = {"gpt1 bf16": 40_478, "gpt1 fp32": 40_478, "small bf16": 8_192}
# Seconds after which a writer is not measured again: reading many texts again at every step takes minutes.
ENOUGH = 10
# Windows of a context's length that --agree reads.
WINDOWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--rows", nargs="+", type=int, help="texts written at once (default: 1 16, on a GPU also 256)")
    parser.add_argument("--agree", nargs=2, metavar=("RUN", "TEXT"), help="a trained run and a file it has not read")
    asked = parser.parse_args()
    device, _ = setup_device(Command(device=asked.device))
    parts = [] if asked.agree else asked.only or list(PARTS)
    rows = asked.rows or ROWS[device.type]
    measured: dict[str, Any] = {part: measure(part, device, rows) for part in parts}
    if asked.agree:
        measured["agreement"] = agreement(*map(Path, asked.agree))
    about = {"device": str(device), "threads": torch.get_num_threads(), "prompt": PROMPT, "new_tokens": NEW}
    name = "decode" if device.type == "cpu" else f"decode-{device.type}"
    if not asked.rows:
        record(name, f"python benchmarks/decode.py --device {asked.device}", _kept(name) | about | measured)
    print(json.dumps(measured, indent=2))


def _kept(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()).get("result", {}) if path.exists() else {}
    return {part: figures for part, figures in old.items() if part in (*PARTS, "agreement")}


def measure(part: str, device: torch.device, rows_at_once: list[int]) -> dict[str, dict[str, float]]:
    """Measure each writer: tokens/s of one text and of many, ms to a first token, tokens/s of reading 512."""
    preset, dtype = part.split()
    model = PRESETS[preset]  # type: ignore[index]
    context = min(CONTEXT, model.context)
    writers = all_writers(replace(model, vocabulary=PARTS[part]), device, DTYPES[dtype])
    cases = {"tokens_per_second" + f"_{rows}" * (rows > 1): (rows, PROMPT, NEW) for rows in rows_at_once} | {
        "first_token_ms": (1, PROMPT, 1),
        f"prefill_{context}_tokens_per_second": (1, context, 1),
    }
    figures: dict[str, dict[str, float]] = {writer: {} for writer in writers}
    for case, (rows, prompt, new) in cases.items():
        for name, seconds in by_turns(writers, device, rows, prompt, new).items():
            unit = 1000 * seconds if case.endswith("ms") else rows * (prompt if new == 1 else new) / seconds
            figures[name][case] = round(unit, 1)
    return figures


def by_turns(writers: dict[str, Writer], device: torch.device, rows: int, prompt: int, new: int) -> dict[str, float]:
    """Return the median seconds of each writer, measured in turns, so that a busy moment of the machine affects all."""
    for write in writers.values():
        write(rows, prompt, min(new, 3))
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(REPEATS):
        for name, write in writers.items():
            if sum(seconds[name]) < ENOUGH:
                seconds[name].append(timed(device, partial(write, rows, prompt, new)))
    return {name: statistics.median(values) for name, values in seconds.items()}


def all_writers(model: Model, device: torch.device, dtype: torch.dtype) -> dict[str, Writer]:
    """Return what is measured: ours, then the peers."""
    ours = pack(network(model).to(device, dtype))
    writers = {"gpt1": _ours(ours, GREEDY), "gpt1, top-p": _ours(ours, TOP_P)}
    if device.type == "cpu" and has_int8() and dtype == torch.bfloat16:
        writers["gpt1, int8"] = _ours(quantize_int8(network(model)).to(dtype), GREEDY)
    writers["transformers openai-gpt"] = _theirs(openai_gpt(network(model)).to(device, dtype))
    writers["transformers gpt2"] = _theirs(gpt2(model).to(device, dtype))
    return writers


@torch.no_grad()
def network(model: Model) -> GPT:
    """Return a random GPT whose next-token distribution has logits some 4 nats apart."""
    body = GPT(model).init_weights(torch.Generator().manual_seed(1)).eval()
    last = body.blocks[-1]
    assert isinstance(last, Block)
    last.feed_forward_norm.weight.fill_(4 / (INIT_STD * model.width**0.5))
    return body


def openai_gpt(body: GPT) -> Any:
    """Return the peer with the same weights."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**to_hf_config(body.config, {"first": 0, "end": 0, "pad": 0})))
    model.load_state_dict(to_hf(body), strict=False)
    model.tie_weights()
    return model.eval()


def gpt2(model: Model) -> Any:
    """Return a random peer of the same size, which keeps keys and values."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=model.vocabulary, n_positions=model.context, n_embd=model.width, n_layer=model.depth,
        n_head=model.heads, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def _ours(body: GPT, sampling: Sampling) -> Writer:
    def write(rows: int, prompt: int, new: int) -> None:
        decoder, streams = Decoder(body), [random.Random(row) for row in range(rows)]
        decoder.join([_prompt(prompt)] * rows, [sampling] * rows, streams, [new] * rows)
        for _ in range(1, new):
            decoder.step()

    return write


def _theirs(model: Any) -> Writer:
    def write(rows: int, prompt: int, new: int) -> None:
        ids = torch.tensor([_prompt(prompt)] * rows, device=model.device)
        seen = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=seen, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )

    return write


def _prompt(tokens: int) -> list[int]:
    return list(range(1, tokens + 1))


def timed(device: torch.device, work: Callable[[], None]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.inference_mode()
def agreement(run: Path, text: Path) -> dict[str, Any]:
    """Return how bf16 differs from fp32, and int8 from bf16, in predicting each token of a text from those before it.

    `same` is the share of equal most probable tokens, `kl` the mean divergence and `loss` the added loss, nats a token.
    """
    model = load_run(run)
    context = model.body.config.context
    ids = torch.tensor(model.tokenizer.encode(text.read_text())[: WINDOWS * context])
    ids_NT = ids[: len(ids) // context * context].view(-1, context)
    exact = _log_p(model.body, ids_NT)
    int8 = _log_p(quantize_int8(load_run(run).body).bfloat16(), ids_NT)
    bf16 = _log_p(pack(model.body.bfloat16()), ids_NT)
    return {
        "tokens": ids_NT[:, 1:].numel(), "fp32_nats": _nats(exact, ids_NT),
        "bf16_from_fp32": _differences(exact, bf16, ids_NT), "int8_from_bf16": _differences(bf16, int8, ids_NT),
    }  # fmt: skip


def _log_p(body: GPT, ids_NT: Tensor) -> Tensor:
    return torch.cat([body.logits(body(row_NT[:, :-1])).float().log_softmax(-1) for row_NT in ids_NT.split(8)])


def _nats(log_p_NTV: Tensor, ids_NT: Tensor) -> float:
    return -float(log_p_NTV.gather(-1, ids_NT[:, 1:, None]).double().mean())


def _differences(old_NTV: Tensor, new_NTV: Tensor, ids_NT: Tensor) -> dict[str, float]:
    same = (old_NTV.argmax(-1) == new_NTV.argmax(-1)).double().mean()
    kl = F.kl_div(new_NTV.double(), old_NTV.double(), log_target=True, reduction="none").sum(-1).mean()
    loss = _nats(new_NTV, ids_NT) - _nats(old_NTV, ids_NT)
    return {"same": round(float(same), 4), "kl": round(float(kl), 6), "loss": round(loss, 6)}


if __name__ == "__main__":
    main()
