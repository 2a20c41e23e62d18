"""OpenAI's vocabulary, and which of two ways text is cut into words before it: the files do not say."""

from pathlib import Path

from gpt1.config import Words
from gpt1.errors import UserError
from gpt1.tokenizer.bpe_files import read_bpe
from gpt1.tokenizer.tokenizer import Own, Tokenizer, blank, recut

KINDS: dict[Words, Own] = {"hf": "gpt1", "2018": "openai2018"}
"""hf: as transformers' `OpenAIGPTTokenizer` cuts (BERT's rule, accents dropped); 2018: as the release did."""

TOKENIZER = "tokenizer.json"
RELEASED = ("encoder_bpe_40000.json", "vocab_40000.bpe")
PAIRS = (("vocab.json", "merges.txt"), RELEASED)
"""Vocabulary and merges, as old versions of transformers saved them and as OpenAI did."""


def find_tokenizer(path: str | Path, words: Words | None = None) -> Tokenizer:
    """The tokenizer at `path`: a tokenizer.json, a folder that holds one, or the folder of a vocabulary.

    Without `words` a tokenizer.json keeps its own way, a bare vocabulary takes hf. Raises UserError if there is none,
    it is damaged, or of a kind that has no such choice.
    """
    if vocabulary_files(Path(path)):
        return read_vocabulary(path, words or "hf")
    if Path(path).is_dir() and not (Path(path) / TOKENIZER).exists():
        looked = "; ".join([TOKENIZER, *(" and ".join(pair) for pair in PAIRS)])
        raise UserError(f"{path}: a folder without a tokenizer; it must hold one of {looked}")
    tokenizer = Tokenizer.load(path)
    return tokenizer if words is None else cut_as(tokenizer, words, path)


def cut_as(tokenizer: Tokenizer, words: Words, path: str | Path) -> Tokenizer:
    """The same vocabulary under a way of cutting. Raises UserError if that at `path` is not of OpenAI's kind."""
    if tokenizer.kind not in KINDS.values():
        raise UserError(f"--words {words} is for OpenAI's kind of vocabulary; that of {path} is {tokenizer.kind}")
    return tokenizer if tokenizer.kind == KINDS[words] else recut(tokenizer, KINDS[words])


def read_vocabulary(folder: str | Path, words: Words = "hf") -> Tokenizer:
    """The tokenizer that a folder's vocabulary and merges make; end and pad follow as the next two ids.

    Raises UserError if there are no such files, and for what is wrong in them as `read_bpe` does.
    """
    names = vocabulary_files(Path(folder))
    if names is None:
        looked = " nor ".join(" and ".join(pair) for pair in PAIRS)
        raise UserError(f"{folder}: holds neither {looked}; name the folder of a vocabulary")
    return blank(KINDS[words], *read_bpe(*names))


def vocabulary_files(folder: Path) -> tuple[Path, Path] | None:
    """Vocabulary and merges, where there is no tokenizer.json, which would go before them."""
    if (folder / TOKENIZER).exists():
        return None
    return next(((folder / a, folder / b) for a, b in PAIRS if (folder / a).exists() or (folder / b).exists()), None)
