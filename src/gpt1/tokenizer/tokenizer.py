"""Convert between strings and token ids. `tokenizer.json` alone defines the ids, so every tool that reads it agrees.

Text cannot forge special tokens. They are entries of the BPE vocabulary that no merge produces, and not `added_tokens`,
which `tokenizers` would look for in the text: a user who types `<|end|>` gets the ids of its characters. In
transformers, `split_special_tokens` has the same effect.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from gpt1.errors import UserError
from gpt1.storage import write_json, write_text
from gpt1.tokenizer.pretokenize import (
    APPROXIMATE_NORMALIZER,
    APPROXIMATE_WORDS,
    WORDS,
    check_spacy,
    split_piece_2018,
    standardize_2018,
    words_2018,
)  # fmt: skip

END, PAD = "<|end|>", "<|pad|>"
START, DELIMITER, EXTRACT = "<|start|>", "<|delimiter|>", "<|extract|>"
UNKNOWN = "<unk>"

OwnKind = Literal["bytes", "gpt1", "openai2018"]
Kind = Literal[OwnKind, "custom"]

WORDS_PER_GROUP = 1_000  # words that one thread of `tokenizers` encodes at a time


class Tokenizer:
    """A vocabulary with its special tokens; unchanged by `save` and `load`.

    kind: `bytes` (lossless byte-level BPE), `gpt1` (GPT-1's own kind: lower-case, `</w>`, lossy), `openai2018` (the
    same, but text is pre-tokenized by `tokenizer.pretokenize`, which tokenizer.json only approximates), or `custom`.
    """

    def __init__(self, definition: dict[str, Any]) -> None:
        """Build from a parsed tokenizer.json, appending the end and pad tokens if it lacks them.

        Raises UserError if it needs spaCy and spaCy is not installed.
        """
        bare = definition | {"truncation": None, "padding": None, "post_processor": None}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_with_tokens(bare, [END, PAD])))
        self.text = self._tokenizer.to_str()
        """tokenizer.json, without truncation and template"""
        self._definition: dict[str, Any] = json.loads(self.text)
        self.hash = hashlib.sha256(self.text.encode()).hexdigest()
        """sha256 of `text`, which alone determines the ids"""
        self.vocabulary = max(self._tokenizer.get_vocab().values()) + 1
        """number of ids, special tokens included"""
        self.kind: Kind = _kind(self._definition)
        self._is_2018 = self.kind == "openai2018"
        if self._is_2018:  # we split the words, not `tokenizers`
            check_spacy()
            self._tokenizer.normalizer = self._tokenizer.pre_tokenizer = None
        self._tokenizer.encode_special_tokens = True
        self.lossless = self.kind == "bytes"
        """whether decode(encode(text)) == text for every text; unknown, so False, for a custom tokenizer"""
        self.end_id = self._id(END)
        self.pad_id = self._id(PAD)
        unknown = self._definition["model"].get("unk_token")
        self.unknown_id: int | None = None if unknown is None else self._tokenizer.token_to_id(unknown)
        """id for text that the vocabulary cannot spell; None if the tokenizer has no such token"""
        self.start_id, self.delimiter_id, self.extract_id = map(
            self._tokenizer.token_to_id, (START, DELIMITER, EXTRACT)
        )
        self.first_id = self.end_id if self.start_id is None else self.start_id
        """what a sequence begins with: end, which closes the document before it, or start (`bos_token`)"""
        named = (self.end_id, self.pad_id, self.start_id, self.delimiter_id, self.extract_id)
        self._special = {i for i in named if i is not None}

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[dict[str, Any]]]:
        """Pickle the definition; a pickled `tokenizers.Tokenizer` loses what is set on it here."""
        return Tokenizer, (self._definition,)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load from a folder that `save` wrote, or from any tokenizer.json.

        Raises UserError if there is no such file or it is not a tokenizer.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UserError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        try:
            return cls(json.loads(file.read_text(encoding="utf-8")))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except MemoryError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{file}: not a tokenizer that this version can read ({error})") from error

    def save(
        self, folder: str | Path, context: int, template: bool = False, cut: Literal["left", "right"] = "right"
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json, Hugging Face's files, for a model of `context` tokens.

        With `template`, Hugging Face's libraries add the task tokens as in the paper, figure 1: `start a extract`, or
        `start a delimiter b extract`. They truncate a long text on the side `cut`, and keep the task tokens.
        """
        whole = tokenizers.Tokenizer.from_str(self.text)
        if template:
            whole.post_processor = self._template()
        whole.enable_truncation(context, direction=cut)
        write_text(Path(folder) / "tokenizer.json", whole.to_str(pretty=True))
        write_json(Path(folder) / "tokenizer_config.json", self._config(context, cut))

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`. No special token is added, and none can come from the text itself."""
        return self._tokenizer.encode(self._prepared(text), is_pretokenized=self._is_2018, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` does."""
        encodings = self._tokenizer.encode_batch_fast(
            [self._prepared(text) for text in texts], is_pretokenized=self._is_2018, add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def standardize(self, text: str) -> str:
        """Return the text that `pretokenize.PATTERNS` applies to: `text` itself, except for kind openai2018."""
        return standardize_2018(text) if self._is_2018 else text

    def encode_words(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the number of ids of each word, and the ids of all; much faster than `encode_batch` for short strings.

        The words must be those that `pretokenize.PATTERNS` finds in `standardize`d text.
        """
        if not self._is_2018:
            return self._encode_words(words)
        parts = [split_piece_2018(word) for word in words]
        lengths, ids = self._encode_words([part for word in parts for part in word])
        ends = np.cumsum([len(word) for word in parts])
        return np.diff(np.concatenate(([0], np.cumsum(lengths)))[ends], prepend=0), ids

    def _encode_words(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        groups = [words[start : start + WORDS_PER_GROUP] for start in range(0, len(words), WORDS_PER_GROUP)]
        # not encode_batch_fast, which does not say which word an id came from
        encoded = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        word_of = [np.asarray(e.word_ids, np.int64) for e in encoded]
        lengths = [np.bincount(of, minlength=len(group)) for of, group in zip(word_of, groups, strict=True)]
        ids = [np.asarray(e.ids, np.uint32) for e in encoded]
        return np.concatenate(lengths, dtype=np.int64), np.concatenate(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without special tokens and ids outside the vocabulary. Never raises.

        Bytes that are not UTF-8, such as half a character, become U+FFFD.
        """
        plain = [i for i in map(int, ids) if 0 <= i < self.vocabulary and i not in self._special]
        return self._tokenizer.decode(plain, skip_special_tokens=False)

    def token(self, i: int) -> str:
        r"""Return a token as text: bytes that are half a character as "\xe2", `</w>` and special tokens as they are."""
        token = self._tokenizer.id_to_token(i) if i >= 0 else None
        if token is None:
            return ""
        if i not in self._special and self.kind == "bytes":
            token = bytes(_BYTE_OF[character] for character in token).decode("utf-8", "backslashreplace")
        return token

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""Return one printable string per token: "\n" as its escape, bytes that are half a character as "\xe2"."""
        tokens = (self.token(int(i)) for i in ids)
        return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in t) for t in tokens]

    def pretokenize(self, text: str) -> list[str]:
        """Return the words of `text`, normalized, that BPE is applied to."""
        if self._is_2018:
            return words_2018(text)
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]

    def with_task_tokens(self) -> "Tokenizer":
        """Return the same tokenizer with start, delimiter and extract appended (the paper, section 3.3)."""
        return Tokenizer(_with_tokens(self._definition, [START, DELIMITER, EXTRACT]))

    def with_pretokenizer(self, kind: OwnKind) -> "Tokenizer":
        """Return a tokenizer with the same vocabulary that pre-tokenizes as `kind` does."""
        return Tokenizer(_with_pretokenizer(tokenizers.Tokenizer.from_str(self.text), kind))

    def _prepared(self, text: str) -> str | list[str]:
        """Return the input for `tokenizers`: text without lone surrogates, or words that are already split."""
        return words_2018(text) if self._is_2018 else replace_surrogates(text)

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    def _template(self) -> processors.TemplateProcessing:
        if self.start_id is None or self.delimiter_id is None or self.extract_id is None:
            raise ValueError("a template needs with_task_tokens()")
        return processors.TemplateProcessing(
            single=f"{START} $A {EXTRACT}",
            pair=f"{START} $A {DELIMITER} $B {EXTRACT}",
            special_tokens=[(START, self.start_id), (DELIMITER, self.delimiter_id), (EXTRACT, self.extract_id)],
        )

    def _config(self, context: int, cut: str) -> dict[str, Any]:
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "bos_token": END if self.start_id is None else START,
            "eos_token": END,
            "pad_token": PAD,
            "padding_side": "right",
            "truncation_side": cut,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        task_tokens = {"sep_token": DELIMITER, "cls_token": EXTRACT}
        return config | (task_tokens if self.start_id is not None else {})


def bpe_tokenizer(kind: OwnKind, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Return a tokenizer of one of our own kinds with the given BPE table."""
    if kind == "bytes":
        model = models.BPE(vocabulary, merges)
    else:
        model = models.BPE(vocabulary, merges, unk_token=UNKNOWN, end_of_word_suffix="</w>", fuse_unk=False)
    return Tokenizer(_with_pretokenizer(tokenizers.Tokenizer(model), kind))


def _with_pretokenizer(tokenizer: tokenizers.Tokenizer, kind: OwnKind) -> dict[str, Any]:
    """Set normalizer, pre-tokenizer and decoder of `tokenizer` to those of `kind`; return its definition."""
    if kind == "bytes":
        split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "gpt1":
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    else:
        near = [normalizers.Replace(Regex(pattern), by) for pattern, by in APPROXIMATE_NORMALIZER]
        tokenizer.normalizer = normalizers.Sequence([*near, normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(APPROXIMATE_WORDS), behavior="removed", invert=True)
        lines = decoders.Replace(Regex(" ?\\n ?"), "\n")
        tokenizer.decoder = decoders.Sequence([decoders.BPEDecoder(suffix="</w>"), decoders.Fuse(), lines])
    definition: dict[str, Any] = json.loads(tokenizer.to_str())
    return definition


def byte_symbols() -> list[str]:
    """Return the printable character that represents each of the 256 bytes in a byte-level vocabulary (GPT-2's)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    symbol = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbol[byte] for byte in range(256)]


_BYTE_OF = {symbol: byte for byte, symbol in enumerate(byte_symbols())}


def _kind(definition: dict[str, Any]) -> Kind:
    pre_tokenizer, model = definition["pre_tokenizer"] or {}, definition["model"]
    if definition["normalizer"] is None and any(
        part.get("pattern") == {"Regex": WORDS} for part in pre_tokenizer.get("pretokenizers", [])
    ):
        return "bytes"
    if pre_tokenizer.get("pattern") == {"Regex": APPROXIMATE_WORDS}:
        return "openai2018"
    own = pre_tokenizer.get("type") == "BertPreTokenizer" and model.get("end_of_word_suffix") == "</w>"
    return "gpt1" if own else "custom"


def _with_tokens(definition: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return `definition` with those of `tokens` that it lacks appended to its vocabulary."""
    model = definition["model"]
    vocabulary = model["vocab"]
    ids = {piece[0]: i for i, piece in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    # transformers declares our special tokens as added ones when it saves a tokenizer; undo that.
    ours = {END, PAD, START, DELIMITER, EXTRACT} & ids.keys()
    added = [token for token in definition.get("added_tokens", ()) if token["content"] not in ours]
    definition = definition | {"added_tokens": added}
    known = {token["content"]: token["id"] for token in added} | ids
    size = max(known.values(), default=-1) + 1
    new = {token: size + i for i, token in enumerate(t for t in tokens if t not in known)}
    # Files of earlier versions of `tokenizers` name neither the type nor this setting; only BPE has merges.
    if "merges" in model and not model.get("ignore_merges"):
        return definition | {"model": model | {"vocab": vocabulary | new}}
    # Other models look up whole words in their vocabulary, where text could forge a token; an added one is safer.
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return definition | {"added_tokens": [*added, *({"id": i, "content": token} | flags for token, i in new.items())]}


def replace_surrogates(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
