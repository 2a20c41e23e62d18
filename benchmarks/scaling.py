"""Training on paper: arithmetic, memory and messages of an update, from 117M weights to 7B and from 1 GPU to 1,024.

`python benchmarks/scaling.py` compares the formulas with what small models do here, computes the tables of
docs/scaling-arithmetic.md from them, prints these and writes results/scaling.json. The loopback interface is counted
whole; `unshare -rn sh -c 'ip link set lo up; python benchmarks/scaling.py'` gives it to this script alone.

GPT-3's sizes and batches (Brown et al. 2020, table 2.1), with this project's network. Memory is in bytes, time in
seconds.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gpt1.config import PRESETS, RECIPES, Model, Pretrain, Recipe
from gpt1.data.prepare import SHARD_TOKENS
from gpt1.model.cross_entropy import SLICE_BYTES
from gpt1.model.gpt import count_parameters, flops_per_token
from gpt1.pretraining.defaults import MICRO_BATCH_TOKENS
from gpt1.pretraining.memory import gradients_fit, memory_parts
from gpt1.training import parallel
from growth import muon_flops
from record import RESULTS, record

# NVIDIA H100 SXM, data sheet: half of 1,979 teraFLOPS "with sparsity", 80 GB, 3.35 TB/s; 8 to a machine.
PEAK, CAPACITY, MEMORY_BANDWIDTH, MACHINE = 989e12, 80e9, 3.35e12, 8
# Share of PEAK while computing: Llama 3 reached 0.38 to 0.43 (Dubey et al. 2024), torchtitan 0.33 to 0.39 with FSDP2.
UTILISATION = 0.40
# Bytes a second from GPU to GPU. NCCL reckons with 360 GB/s for this NVLink (450 each way). A ring through a machine
# uses all of its eight 400 Gb/s cards, 400 GB/s, of which the same 360 are assumed to be reached.
LINK = 360e9
# Seconds of a step of a ring and of a tree, within a machine and between machines, and of any message (NCCL's
# tuning.cc, protocol Simple).
RING, TREE, MESSAGE = (3.4e-6, 14e-6), (4e-6, 14e-6), 8.4e-6
# Bytes that AdamW reads and writes for a weight: master, gradient, moments, and the copy in bfloat16.
UPDATE_TRAFFIC = 34

GPUS = (1, 8, 64, 256, 1024)
WAYS = ("DDP", "FSDP")
BASE = replace(PRESETS["gpt1"], context=2048)
# Shape, and tokens in an update.
SIZES: dict[str, tuple[Model, int]] = {
    "117M": (PRESETS["gpt1"], 2**19),
    "345M": (replace(BASE, width=1024, depth=24, heads=16, inner=4096), 2**19),
    "1.3B": (replace(BASE, width=2048, depth=24, heads=16, inner=8192), 2**20),
    "2.6B": (replace(BASE, width=2560, depth=32, heads=32, inner=10240), 2**20),
    "6.6B": (replace(BASE, width=4096, depth=32, heads=32, inner=16384), 2**21),
}


# Formulas


def state_bytes(shape: Model, recipe: Recipe = "paper") -> int:
    """Return what a process holds throughout: bfloat16 weights, fp32 masters, gradients and moments."""
    return sum(state_parts(shape, recipe).values())


def state_parts(shape: Model, recipe: Recipe) -> dict[str, int]:
    """Return the same by part."""
    return memory_parts(Pretrain(data="", out="", model=shape, optim=RECIPES[recipe]), torch.bfloat16)


def saved_bytes(shape: Model, recipe: Recipe = "paper") -> int:
    """Return the size of a training state on disk: masters and moments."""
    return state_bytes(shape, recipe) - 6 * count_parameters(shape)[0]


def activation_bytes(shape: Model, tokens: int, mask: int = 1) -> int:
    """Return what the forward pass of `tokens` keeps for the backward pass, before the loss.

    In a block: 16 widths in bfloat16 (both norms' inputs and outputs, q, k, v, attention's output, and the two wide
    tensors around the GELU), two dropout masks of `mask` bytes an element, and fp32 numbers of attention and norms.
    This is the 34 s b h of Korthikanti et al. (2022), for attention that does not keep its T x T weights.
    """
    width = shape.width
    return tokens * (shape.depth * ((32 + 2 * mask) * width + 4 * shape.heads + 16) + (2 + mask) * width)


def loss_bytes(shape: Model, tokens: int) -> int:
    """Return what the loss takes: a slice of logits, and gradients of the last hidden states and the output matrix."""
    logits = min(SLICE_BYTES, 2 * tokens * shape.vocabulary)
    return 2 * (tokens + shape.vocabulary) * shape.width + logits


def muon_bytes(shape: Model) -> int:
    """Return what Muon takes in one process while it orthogonalises the largest stack of matrices of one shape.

    That is all feed-forward matrices: five copies in bfloat16, and three stacks of squares.
    """
    wide = 2 * shape.depth * shape.width * shape.inner
    return 10 * wide + 6 * 2 * shape.depth * shape.width**2


def peak_bytes(shape: Model, tokens: int, recipe: Recipe = "paper", mask: int = 1) -> int:
    """Return the most that one process holds: the state, and a micro-batch or what Muon needs."""
    passing = activation_bytes(shape, tokens, mask) + loss_bytes(shape, tokens)
    return state_bytes(shape, recipe) + max(passing, muon_bytes(shape) if recipe == "fast" else 0)


def holds_gradients(shape: Model, gpus: int) -> bool:
    """Return whether under FSDP there is room for whole fp32 gradients, so that they are sent once an update."""
    return gradients_fit(state_parts(shape, "paper"), gpus, CAPACITY)


def fsdp_bytes(shape: Model, tokens: int, gpus: int, mask: int = 1) -> int:
    """Return the most that one process holds under fully sharded data parallelism, with AdamW.

    A share of masters, gradients and moments, two blocks' weights (one computes, the next is on its way) and the
    embeddings; whole gradients if there is room.
    """
    count, in_matrices = count_parameters(shape)
    gathered = 2 * (2 * in_matrices // shape.depth + embedding_weights(shape))
    whole = 4 * count if holds_gradients(shape, gpus) else 0
    passing = activation_bytes(shape, tokens, mask) + loss_bytes(shape, tokens)
    return 16 * count // gpus + gathered + whole + passing


def embedding_weights(shape: Model) -> int:
    """Return the number of weights outside of the blocks."""
    return (shape.vocabulary + shape.context) * shape.width


def ddp_sent(shape: Model, gpus: int) -> float:
    """Return the bytes that a process sends in an update: fp32 gradients around a ring, once to add, once to spread."""
    return 2 * (gpus - 1) / gpus * 4 * count_parameters(shape)[0]


def fsdp_sent(shape: Model, times: int, gpus: int) -> float:
    """Return the bytes that a process sends in an update of so many micro-batches under FSDP.

    For each micro-batch bfloat16 weights, those of blocks for the forward and again for the backward pass; fp32
    gradients as often, or once if they are held.
    """
    count = count_parameters(shape)[0]
    gathered = times * 2 * (2 * count - embedding_weights(shape))
    reduced = (1 if holds_gradients(shape, gpus) else times) * 4 * count
    return (gpus - 1) / gpus * (gathered + reduced)


def ring_seconds(size: float, gpus: int, passes: int) -> float:
    """Return the time of `passes` of `size` bytes around a ring: one to gather or to scatter, two to reduce to all."""
    machines = math.ceil(gpus / MACHINE)
    steps = (gpus - machines) * RING[0] + (machines - 1) * RING[1]
    return MESSAGE + passes * ((gpus - 1) / gpus * size / LINK + steps)


def reduce_seconds(size: float, gpus: int) -> float:
    """Return the time of an all-reduce, by a ring or a tree, whichever is faster."""
    steps = (min(gpus, MACHINE) - 1) * TREE[0] + math.log2(max(1, gpus / MACHINE)) * TREE[1]
    return min(ring_seconds(size, gpus, 2), MESSAGE + 2 * (size / LINK + steps))


def micro_batches(tokens: int, gpus: int) -> int:
    """Return how many micro-batches of at most 4,096 tokens a GPU makes of its part of an update."""
    return max(1, math.ceil(tokens / gpus / MICRO_BATCH_TOKENS))


def update_seconds(shape: Model, tokens: int, gpus: int, way: str) -> dict[str, float]:
    """Return the time of an update by part, and the share of it in which a GPU computes; `way` is one of `WAYS`.

    Under DDP gradients are exchanged when all are complete, as `parallel.World.sum_tensors` does. Under FSDP weights
    and gradients are on their way while others are computed with: an update takes as long as the slower of the two.
    """
    count = count_parameters(shape)[0]
    compute = tokens / gpus * flops_per_token(shape) / (PEAK * UTILISATION)
    update = UPDATE_TRAFFIC * count / MEMORY_BANDWIDTH
    exchange = 0.0
    if gpus > 1 and way == "DDP":
        messages = math.ceil(count / parallel.BUCKET)
        exchange = messages * reduce_seconds(4 * count / messages, gpus)
    elif gpus > 1:
        root, block = embedding_weights(shape), (count - embedding_weights(shape)) / shape.depth
        times = micro_batches(tokens, gpus)
        gather = 2 * shape.depth * ring_seconds(2 * block, gpus, 1) + ring_seconds(2 * root, gpus, 1)
        reduce = shape.depth * ring_seconds(4 * block, gpus, 1) + ring_seconds(4 * root, gpus, 1)
        busy = times * gather + (1 if holds_gradients(shape, gpus) else times) * reduce
        exchange, update = max(0.0, busy - compute), update / gpus
    seconds = compute + exchange + update
    return {"compute": compute, "exchange": exchange, "update": update, "seconds": seconds,
            "efficiency": compute / seconds}  # fmt: skip


def save_interval(stall: float, between_failures: float) -> float:
    """Return the seconds between saves that lose least, if a save stops training for `stall` (Young 1974)."""
    return math.sqrt(2 * stall * between_failures)


def lost(stall: float, interval: float, between_failures: float, restart: float) -> float:
    """Return the share of time lost: to saves, to work done since the last one, and to restarts."""
    return stall / interval + (interval / 2 + restart) / between_failures


# Tables

Table = list[list[str]]


def sizes_table() -> Table:
    """Return what a size is made of, and takes in one process."""
    rows = [["", "width, depth, context", "weights, million", "GFLOP a token", "state, AdamW, GB", "Muon, GB",
             "Muon's update, GB more", "4,096 tokens, GB", "of which the loss", "saved state, GB"]]  # fmt: skip
    for name, (shape, _) in SIZES.items():
        count = count_parameters(shape)[0]
        passing = activation_bytes(shape, MICRO_BATCH_TOKENS), loss_bytes(shape, MICRO_BATCH_TOKENS)
        rows.append([name, f"{shape.width}, {shape.depth}, {shape.context}", f"{count / 1e6:,.0f}",
                     f"{flops_per_token(shape) / 1e9:.2f}", gigabytes(state_bytes(shape)),
                     gigabytes(state_bytes(shape, "fast")), gigabytes(muon_bytes(shape)), gigabytes(sum(passing)),
                     gigabytes(passing[1]), gigabytes(saved_bytes(shape))])  # fmt: skip
    return rows


def memory_table() -> Table:
    """Return what each GPU holds, with 4,096 tokens in a micro-batch; in brackets what a GPU of 80 GB does not hold."""
    rows = [["GB on each GPU", "DDP, AdamW", "DDP, Muon", *(f"FSDP, {gpus:,} GPUs" for gpus in GPUS[1:])]]
    for name, (shape, _) in SIZES.items():
        found = [peak_bytes(shape, MICRO_BATCH_TOKENS), peak_bytes(shape, MICRO_BATCH_TOKENS, "fast")]
        found += [fsdp_bytes(shape, MICRO_BATCH_TOKENS, gpus) for gpus in GPUS[1:]]
        rows.append([name, *(gigabytes(one) if one <= CAPACITY else f"({gigabytes(one)})" for one in found)])
    return rows


def sent_table() -> Table:
    """Return what each GPU sends in an update."""
    chosen = (8, 1024)
    rows = [["GB sent by each GPU", "tokens in an update", *(f"DDP, {gpus:,} GPUs" for gpus in chosen),
             *(f"FSDP, {gpus:,} GPUs" for gpus in chosen)]]  # fmt: skip
    for name, (shape, tokens) in SIZES.items():
        rows.append([name, f"{tokens:,}", *(gigabytes(ddp_sent(shape, gpus)) for gpus in chosen),
                     *(gigabytes(fsdp_sent(shape, micro_batches(tokens, gpus), gpus)) for gpus in chosen)])  # fmt: skip
    return rows


def time_table() -> Table:
    """Return seconds an update and efficiency; "-" where the model does not fit, or a GPU would have no window."""
    rows = [["seconds an update, efficiency", "", *(f"{gpus:,} GPU{'s' * (gpus > 1)}" for gpus in GPUS)]]
    for name, (shape, tokens) in SIZES.items():
        for way in WAYS:
            found = [update_seconds(shape, tokens, gpus, way) for gpus in GPUS]
            cells = [f"{one['seconds']:.3g}, {100 * one['efficiency']:.0f} %" for one in found]
            possible = [is_possible(shape, tokens, gpus, way) for gpus in GPUS]
            rows.append([name, way, *(cell if can else "-" for cell, can in zip(cells, possible, strict=True))])
    return rows


def muon_table() -> Table:
    """Return what Muon's products, which every process makes alone, add to those of a GPU's tokens."""
    rows = [["Muon's products", "as many as of tokens", *(f"{gpus:,} GPUs" for gpus in GPUS[1:])]]
    for name, (shape, tokens) in SIZES.items():
        own = muon_flops(shape) / flops_per_token(shape)
        rows.append([name, f"{own:,.0f}", *(f"+{100 * own / (tokens / gpus):,.0f} %" for gpus in GPUS[1:])])
    return rows


def days_table() -> Table:
    """Return days for 20 tokens a weight (Hoffmann et al. 2022), and for 1e12 tokens, the faster way that fits."""
    rows = [["days", "tokens, billion", *(f"{gpus:,} GPU{'s' * (gpus > 1)}" for gpus in GPUS)]]
    for name, (shape, tokens) in SIZES.items():
        for total in (20.0 * count_parameters(shape)[0], 1e12):
            cells = []
            for gpus in GPUS:
                possible = [update_seconds(shape, tokens, gpus, way)["seconds"] for way in WAYS
                            if is_possible(shape, tokens, gpus, way)]  # fmt: skip
                days = total / tokens * min(possible, default=math.nan) / 86400
                cells.append(f"{days:,.0f}" if days >= 10 else f"{days:.2g}" if possible else "-")
            rows.append([name, f"{total / 1e9:,.3g}" if total < 1e12 else f"{total / 1e9:,.0f}", *cells])
    return rows


def data_table(tokens: float = 1e12) -> Table:
    """Return what 1e12 tokens are, from what was measured on books (results/prepare.json, corpus.json)."""
    bytes_per_token = measured("prepare")["bytes_per_token"]
    gigabyte = next(row for row in measured("corpus")["rows"] if row["megabytes"] == 1000)
    check = measured("checkpoints")["check_megabytes_per_second"] * 1e6
    text = tokens * bytes_per_token
    hours = {what: gigabyte[what] * text / 1e9 / 3600
             for what in ("seconds_training_tokenizer", "seconds_encoding", "seconds")}  # fmt: skip
    return [
        ["1e12 tokens", ""],
        ["text", f"{text / 1e12:.2f} TB, at {bytes_per_token:.2f} bytes a token"],
        ["shards, vocabulary up to 65,536 (uint16)", f"{2 * tokens / 1e12:.0f} TB"],
        ["shards, larger vocabulary (uint32)", f"{4 * tokens / 1e12:.0f} TB"],
        ["number of shards", f"{math.ceil(tokens / SHARD_TOKENS):,}"],
        ["gpt1 prepare, one process on 2 cores", f"{hours['seconds']:.0f} hours"],
        ["of which the tokenizer", f"{hours['seconds_training_tokenizer']:.0f} hours"],
        ["of which encoding", f"{hours['seconds_encoding']:.0f} hours"],
        ["sha256 of all shards, one process", f"{2 * tokens / check / 60:.0f} minutes"],
        ["windows of 512, in an epoch", f"{tokens / 512 / 1e9:.2f}e9"],
    ]


# Hours between failures, and with how many GPUs: OPT-175B (Zhang et al. 2022), Llama 3 (419 in 54 days).
FAILURES = {"OPT-175B": (7.5, 1024), "Llama 3": (54 * 24 / 419, 16_384)}
# Bytes a second, assumed: from a GPU to its machine's memory over PCIe; from one process to shared storage.
TO_HOST, TO_STORAGE = 25e9, 2e9
RESTART = 300.0  # seconds, assumed, besides checking shards and reading the state


def restart_table(gpus: int = 1024) -> Table:
    """Return the best interval between saves and the share of time lost, under DDP: one process writes all."""
    rows = [["", "failures as of", "hours between failures", "training stands still, s", "writing, s",
             "best interval, minutes", "lost", "lost, saves every 3 hours"]]  # fmt: skip
    for name in ("117M", "1.3B", "2.6B"):
        shape, _ = SIZES[name]
        stall, writing = saved_bytes(shape) / TO_HOST, saved_bytes(shape) / TO_STORAGE
        for source, (hours, of) in FAILURES.items():
            between = hours * 3600 * of / gpus
            interval = max(writing, save_interval(stall, between))  # one write at a time
            shares = [lost(stall, every, between, RESTART + writing) for every in (interval, 3 * 3600)]
            rows.append([name, source, f"{between / 3600:.1f}", f"{stall:.2g}", f"{writing:.0f}",
                         f"{interval / 60:.2g}", *(f"{100 * share:.1f} %" for share in shares)])  # fmt: skip
    return rows


TABLES = {
    "sizes": sizes_table, "memory": memory_table, "sent": sent_table, "time": time_table, "muon": muon_table,
    "days": days_table, "data": data_table, "restarts": restart_table,
}  # fmt: skip


def is_possible(shape: Model, tokens: int, gpus: int, way: str) -> bool:
    """Return whether 4,096 tokens fit on each GPU with AdamW, and each has a window of the batch."""
    is_whole = way == "DDP" or gpus == 1
    needed = peak_bytes(shape, MICRO_BATCH_TOKENS) if is_whole else fsdp_bytes(shape, MICRO_BATCH_TOKENS, gpus)
    return needed <= CAPACITY and gpus <= tokens // shape.context


def measured(name: str) -> dict[str, Any]:
    """Return the result that another benchmark has recorded."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["result"]


def gigabytes(size: float) -> str:
    """Return a size with three digits."""
    return f"{size / 1e9:.2f}" if size < 9.995e9 else f"{size / 1e9:,.1f}" if size < 99.95e9 else f"{size / 1e9:,.0f}"


def markdown(table: Iterable[Sequence[str]]) -> str:
    """Return a table whose first row is its head."""
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "|" + "---|" * (head.count(" | ") + 1), *rows])


def main() -> None:
    from scaling_checks import checks

    found = list(checks())
    table = [["", "formula", "measured", "ratio"]]
    for one in found:
        table.append([one["what"], f"{one['formula']:,.0f}", f"{one['measured']:,.0f}",
                      f"{one['measured'] / one['formula']:.4f}"])  # fmt: skip
    tables = {name: make() for name, make in TABLES.items()}
    for name, rows in ({"checks": table} | tables).items():
        print(f"{name}\n\n{markdown(rows)}\n")
    record("scaling", "unshare -rn sh -c 'ip link set lo up; python benchmarks/scaling.py'", {"checks": found} | tables)


if __name__ == "__main__":
    main()
