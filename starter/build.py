"""Make the starter's folder from a pre-trained run: `python starter/build.py RUN`.

The weights are rounded to bfloat16, which halves the file; the card that is there, README.md, stays. Says what the
rounding costs if the run's prepared DATA is given: `python starter/build.py RUN DATA`.
"""

import argparse
from pathlib import Path

import torch

from gpt1.data.shards import read_manifest
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.pretraining.defaults import open_data
from gpt1.run_folder.folder import load_run, save_tensors
from gpt1.run_folder.hugging_face import to_hf
from gpt1.training.likelihood import likelihood

MODEL = Path(__file__).parent / "src/gpt1_starter/model"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=MODEL, help="folder to write (default: the package's)")
    asked = parser.parse_args()
    try:
        build(asked.run, asked.data, asked.out)
    except UserError as error:
        parser.error(str(error))


def build(run_folder: Path, data: Path | None, out: Path) -> None:
    """Write the folder `out`. Raises UserError, before anything is written, if `run_folder` or `data` is wrong."""
    run, card = load_run(run_folder), out / "README.md"
    if run.metadata.kind != "pretrained":
        raise UserError(f"{run_folder} is fine-tuned; give a pre-trained run")
    if data and read_manifest(data).tokenizer != run.tokenizer.hash:
        raise UserError(f"{data} was prepared with another tokenizer than that of {run_folder}")
    losses = {"fp32": bits_per_byte(run.body.eval(), data)} if data else {}
    tensors = {name: tensor.bfloat16() for name, tensor in to_hf(run.body).items()}
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    save_tensors(out, run.body.config, tensors, run.tokenizer, run.metadata)
    if text:
        card.write_text(text, encoding="utf-8")
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 2**20:.1f} MiB")
    if data:
        losses["bf16"] = bits_per_byte(load_run(out).body.eval(), data)
        print("\n".join(f"{name}: {loss:.4f} bits per byte" for name, loss in losses.items()))


@torch.inference_mode()
def bits_per_byte(body: GPT, folder: Path) -> float:
    """Return the bits per byte of the validation text of prepared data."""
    with open_data(folder) as data:
        found = likelihood(body, data.val, data.tokenizer.end_id)
        return found.bits_per_byte(data.manifest.val.tokens / data.manifest.val.bytes)


if __name__ == "__main__":
    main()
