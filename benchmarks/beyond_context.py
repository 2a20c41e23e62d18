"""What it costs to generate past the context, where the window slides, beside generating up to it.

    python benchmarks/beyond_context.py

A random network of each preset continues one text greedily, fp32 on one thread: first from three quarters of its
context until this is full, then through three slides of the window. Tokens per second of CPU time, so that other work
on the machine hardly counts.
"""

import random
import time

import torch

from gpt1.config import PRESETS
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import Decoder, slide
from gpt1.model.sampling import Sampling

SLIDES = 3


def main() -> None:
    torch.set_num_threads(1)
    print("| preset | context | tokens/s up to it | beyond it | ratio |\n|---|---|---|---|---|")
    for preset, model in PRESETS.items():
        body = GPT(model).init_weights(torch.Generator().manual_seed(1)).eval()
        cycle = slide(model.context)
        prompt = [number % 100 for number in range(model.context + 1 - cycle)]
        decoder, new = Decoder(body), (SLIDES + 1) * cycle
        decoder.join([prompt], [Sampling(temperature=0)], [random.Random(1)], [new])
        times = [time.process_time()]
        for _ in range(1, new):
            decoder.step()
            times.append(time.process_time())
        within = (cycle - 1) / (times[cycle - 1] - times[0])  # the first time includes the prompt
        beyond = SLIDES * cycle / (times[-1] - times[cycle - 1])
        print(f"| {preset} | {model.context} | {within:.1f} | {beyond:.1f} | {beyond / within:.2f} |", flush=True)


if __name__ == "__main__":
    main()
