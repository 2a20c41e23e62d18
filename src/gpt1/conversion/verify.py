"""Check that a converted model has the weights, logits and token ids of its source; otherwise it is not kept.

Legend: T tokens, P positions, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from gpt1.config import Model
from gpt1.errors import RunFailed
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import uninitialised
from gpt1.run_folder.hugging_face import BLOCK_NAMES, TRANSPOSED
from gpt1.storage import is_utf8
from gpt1.tokenizer.openai import TOKENIZER, read_bpe
from gpt1.tokenizer.tokenizer import UNKNOWN, Tokenizer

TEXTS = (
    "Once upon a time there was a cat.",
    "THE CAT SAT ON THE MAT; the dog (a big one) didn't!",
    "In 1984, 3.5% of $1,000 was $35...\n\tTabs, new lines  and   spaces.",
    "Café naïve über — “quoted” 春 😀",
    "",
)
# The last positions of a sequence, whose logits are compared; they depend on every position before them.
POSITIONS_COMPARED = 32
# Largest difference of two logits, as a share of the largest logit, or of 1: several times the rounding of fp32.
TOLERANCE = 1e-4


def probe(model: Model) -> Tensor:
    """Return ids_T of a sequence that fills the context with ids from all over the vocabulary."""
    return torch.linspace(0, model.vocabulary - 1, model.context, dtype=torch.float64).long()


@torch.no_grad()
def logits_of(body: GPT, ids_T: Tensor) -> Tensor:
    """Return logits_PV of our network."""
    return body.logits(body(ids_T[None])[0, -POSITIONS_COMPARED:])


def named_by_place(model: Model, arrays: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield our names and layout of `arrays`, which come in the order of OpenAI's release.

    On the way to a run folder weights are found by Hugging Face's names, here by their place, so a wrong name shows.
    """
    modules = [f"blocks.{layer}.{module}" for layer in range(model.depth) for module in BLOCK_NAMES]
    inner = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    for name, array in zip(["positions.weight", "tokens.weight", *inner], arrays, strict=True):
        yield name, (array.T if name.endswith(TRANSPOSED) else array).float()


@torch.no_grad()
def network_of(model: Model, arrays: Iterable[Tensor]) -> GPT:
    """Return our network with `arrays`, which come in the order of OpenAI's release, as its weights."""
    body = uninitialised(model)
    weights = body.state_dict()
    for name, array in named_by_place(model, arrays):
        weights[name].copy_(array)
    return body.eval()


def logits_by_transformers(folder: Path, ids_T: Tensor) -> tuple[str, Tensor] | None:
    """Return the name of transformers with its version, and its logits_PV.

    None if it is not installed, or for a folder whose name is not UTF-8, which it does not open.
    """
    if not is_utf8(folder):
        return None
    try:
        import transformers
    except ImportError:
        return None
    with _silent(transformers), torch.no_grad():
        network = transformers.OpenAIGPTLMHeadModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        h_TD = network.transformer(ids_T[None])[0][0]
        return f"transformers {transformers.__version__}", network.lm_head(h_TD[-POSITIONS_COMPARED:])


def check_weights(model: Model, arrays: Iterable[Tensor], found: GPT, out: Path) -> None:
    """Raise RunFailed if a weight of `found` differs from its place in `arrays`, of a network of shape `model`.

    Rows of tokens that only one of them has are ignored.
    """
    weights = found.state_dict()
    for name, expected in named_by_place(model, arrays):
        rows = min(len(expected), len(weights[name])) if name == "tokens.weight" else None
        if not torch.equal(expected[:rows], weights[name][:rows]):
            raise RunFailed(f"{out} is not written: {name} would differ from the source's")


def check_logits(expected_PV: Tensor, found_PV: Tensor, out: Path) -> dict[str, Any]:
    """Return how many logits were compared, and the largest difference.

    Tokens that only one of the two has are ignored. Raises RunFailed if the difference is more than rounding.
    """
    V = min(expected_PV.shape[1], found_PV.shape[1])
    difference = float((expected_PV[:, :V] - found_PV[:, :V]).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected_PV.abs().max())):  # `not`, since NaN must fail
        raise RunFailed(f"{out} is not written: its logits would differ by up to {difference:.3g} from the source's")
    return {"logits": len(expected_PV) * V, "largest_difference": difference}


def check_tokens(tokenizer: Tokenizer, source: Path, pair: tuple[Path, Path] | None, out: Path) -> int:
    """Return how many ids were compared with those by the files `pair`, vocabulary and merges, or by tokenizer.json.

    Raises RunFailed if they differ.
    """
    if tokenizer.kind == "openai2018":
        tokenizer = tokenizer.with_pretokenizer("gpt1")  # no file says how spaCy splits; the vocabulary must agree
    if pair:  # these files do not say how text is split into words, so only words are compared
        ids, merges = read_bpe(*pair)
        model = tokenizers.models.BPE(ids, merges, unk_token=UNKNOWN, end_of_word_suffix="</w>")
        expected, texts = tokenizers.Tokenizer(model), probe_words(ids)
    else:
        theirs = Tokenizer.load(source / TOKENIZER)
        definition = (source / TOKENIZER).read_text("utf-8")
        if theirs.kind == "openai2018":
            definition = theirs.with_pretokenizer("gpt1").text
        expected = tokenizers.Tokenizer.from_str(definition)
        expected.no_truncation()
        expected.no_padding()
        texts = [*TEXTS, *probe_words(expected.get_vocab())]
    compared = 0
    for text in texts:
        ids_expected = expected.encode(text, add_special_tokens=False).ids
        if tokenizer.encode(text) != ids_expected:
            raise RunFailed(f"{out} is not written: it would give {text[:40]!r} other token ids than {source}")
        compared += len(ids_expected)
    return compared


def probe_words(vocabulary: dict[str, int], most: int = 1000) -> list[str]:
    """Return plain words from all over a `</w>` vocabulary, and compounds of two of them, which must be split."""
    whole = sorted(token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    plain = [word for word in whole if word.isascii() and word.isalpha() and word.islower()]
    chosen = plain[:: len(plain) // most + 1]
    return chosen + [one + other for one, other in zip(chosen, reversed(chosen), strict=True)]


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing a progress bar and warnings about heads that are not used."""
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
