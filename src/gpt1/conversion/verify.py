"""Whether a converted model does what its source does: the same logits, the same token ids; else it is not kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from gpt1.config import Model
from gpt1.conversion import reference
from gpt1.conversion.hugging_face import in_order
from gpt1.errors import RunFailed
from gpt1.model.gpt import GPT
from gpt1.tokenizer.bpe_files import read_bpe
from gpt1.tokenizer.openai import TOKENIZER
from gpt1.tokenizer.tokenizer import Tokenizer, recut

TEXTS = (
    "Once upon a time there was a cat.",
    "THE CAT SAT ON THE MAT; the dog (a big one) didn't!",
    "In 1984, 3.5% of $1,000 was $35...\n\tTabs, new lines  and   spaces.",
    "Café naïve über — “quoted” 春 😀",
    "",
)
TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest of all, or of 1: several times the rounding of fp32."""


def probe(vocabulary: int, context: int) -> np.ndarray:
    """A sequence that fills the context with ids from all over the vocabulary."""
    return np.linspace(0, vocabulary - 1, context).astype(np.int64)


def probe_words(vocabulary: dict[str, int], most: int = 1000) -> list[str]:
    """Plain words of a `</w>` vocabulary, from all over it, and words made of two of them, which must come apart."""
    whole = sorted(token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    plain = [word for word in whole if word.isascii() and word.isalpha() and word.islower()]
    chosen = plain[:: len(plain) // most + 1]
    return chosen + [one + other for one, other in zip(chosen, reversed(chosen), strict=True)]


def released_logits(folder: Path, heads: int, ids_T: np.ndarray) -> np.ndarray:
    """logits_PV by the arrays of OpenAI's layout, read and used as `reference` does."""
    return reference.logits(reference.released(folder), heads, ids_T)


def foreign_logits(folder: Path, model: Model, ids_T: np.ndarray) -> tuple[str, np.ndarray]:
    """logits_PV of a Hugging Face folder, by transformers where it is installed, else by `reference`; and which."""
    try:
        import transformers
    except ImportError:
        arrays = (tensor.float().numpy() for tensor in in_order(folder, model))
        return "its arrays", reference.logits(arrays, model.heads, ids_T)
    with _silent(transformers), torch.no_grad():
        network = transformers.OpenAIGPTLMHeadModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        h_TD = network.transformer(torch.from_numpy(ids_T)[None])[0][0]
        return f"transformers {transformers.__version__}", network.lm_head(h_TD[-reference.PLACES :]).numpy()


@torch.no_grad()
def own_logits(body: GPT, ids_T: np.ndarray) -> np.ndarray:
    """logits_PV of our network."""
    h_1TD = body(torch.from_numpy(ids_T)[None])
    return body.logits(h_1TD[0, -reference.PLACES :]).numpy()


def same_logits(expected_PV: np.ndarray, found_PV: np.ndarray, out: Path) -> dict[str, Any]:
    """How many logits were compared, and the largest difference. Raises RunFailed if it is more than rounding."""
    difference = float(np.abs(expected_PV - found_PV).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected_PV).max())):
        raise RunFailed(f"{out} is not written: its logits would differ by up to {difference:.3g} from the source's")
    return {"logits": expected_PV.size, "largest_difference": difference}


def same_tokens(tokenizer: Tokenizer, source: Path, pair: tuple[Path, Path] | None, out: Path) -> int:
    """How many ids were compared with those by a source's vocabulary and merges, `pair`, or by its tokenizer.json.

    Raises RunFailed where they differ.
    """
    compared = 0
    if tokenizer.kind == "openai2018":
        tokenizer = recut(tokenizer, "gpt1")  # no file says how spaCy cuts; the vocabulary must agree
    for text, expected in _spelled(*pair) if pair else _encoded(source / TOKENIZER):
        if tokenizer.encode(text) != expected:
            raise RunFailed(f"{out} is not written: it would give {text[:40]!r} other token ids than {source}")
        compared += len(expected)
    return compared


def _spelled(vocabulary: Path, merges: Path) -> Iterator[tuple[str, list[int]]]:
    """Words, and their ids by the two files. How a text falls into words is not in them."""
    ids, pairs = read_bpe(vocabulary, merges)
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    for word in probe_words(ids):
        yield word, reference.bpe(word, ids, ranks)


def _encoded(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Texts, and their ids by tokenizer.json as it is, which the source's other readers go by."""
    ours = Tokenizer.load(file)
    definition = recut(ours, "gpt1").text if ours.kind == "openai2018" else file.read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_str(definition)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in (*TEXTS, *probe_words(tokenizer.get_vocab())):
        yield text, tokenizer.encode(text, add_special_tokens=False).ids


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without its notes on heads that it does not need and its progress bar."""
    logging = transformers.utils.logging
    before, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if had_bar:
            logging.enable_progress_bar()
