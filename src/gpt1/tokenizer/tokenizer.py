"""Strings <-> token ids. `tokenizer.json` alone defines the ids, so every tool that reads it agrees.

Special tokens cannot be forged. They are entries of the BPE vocabulary that no merge makes, and they are not declared
as `added_tokens`, which `tokenizers` would look for in the text: a user who types `<|end|>` gets its characters.
In transformers `split_special_tokens` says the same.
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
from gpt1.tokenizer import openai_2018 as openai2018
from gpt1.tokenizer.pretokenize import WORDS

END, PAD = "<|end|>", "<|pad|>"
START, DELIMITER, EXTRACT = "<|start|>", "<|delimiter|>", "<|extract|>"
UNKNOWN = "<unk>"

Own = Literal["bytes", "gpt1", "openai2018"]
Kind = Literal[Own, "custom"]

WORDS_A_GROUP = 1_000
"""Words that `tokenizers` encodes in one go; each group is one thread's work."""


class Tokenizer:
    """A vocabulary with its special tokens; the same object after `save` and `load`.

    kind: bytes (lossless byte-level BPE), gpt1 (GPT-1's own kind: lower-case, `</w>`, lossy), openai2018 (the same, but
    words are cut as in OpenAI's release, `tokenizer.openai_2018`, which tokenizer.json comes near to), custom.
    """

    def __init__(self, definition: dict[str, Any]) -> None:
        """`definition` is a parsed tokenizer.json; end and pad are appended where it has none.

        Raises UserError if it needs spaCy and there is none.
        """
        bare = definition | {"truncation": None, "padding": None, "post_processor": None}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_with_tokens(bare, [END, PAD])))
        self.text = self._tokenizer.to_str()
        """tokenizer.json, without truncation and template"""
        self._definition: dict[str, Any] = json.loads(self.text)
        self.hash = hashlib.sha256(self.text.encode()).hexdigest()
        """sha256 of `text`: all that decides the ids"""
        self.vocabulary = max(self._tokenizer.get_vocab().values()) + 1
        """number of ids, special tokens included"""
        self.kind: Kind = _kind(self._definition)
        self._cuts = self.kind == "openai2018"
        """whether we cut the words, not `tokenizers`"""
        if self._cuts:
            openai2018.check_spacy()
            self._tokenizer.normalizer = self._tokenizer.pre_tokenizer = None
        self._tokenizer.encode_special_tokens = True
        self.lossless = self.kind == "bytes"
        """whether decode(encode(text)) == text for every text; of a custom tokenizer nothing is promised"""
        self.end_id = self._id(END)
        self.pad_id = self._id(PAD)
        unknown = self._definition["model"].get("unk_token")
        self.unknown_id: int | None = None if unknown is None else self._tokenizer.token_to_id(unknown)
        """what stands for text that the vocabulary cannot spell; a lossless tokenizer has none"""
        self.start_id, self.delimiter_id, self.extract_id = map(
            self._tokenizer.token_to_id, (START, DELIMITER, EXTRACT)
        )
        named = (self.end_id, self.pad_id, self.start_id, self.delimiter_id, self.extract_id)
        self._special = {i for i in named if i is not None}

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a folder that `save` wrote, or any tokenizer.json.

        Raises UserError if there is no such file or it is no tokenizer.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UserError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        try:
            return cls(json.loads(file.read_text(encoding="utf-8")))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{file}: not a tokenizer that this version can read ({error})") from error

    def save(
        self, folder: str | Path, context: int, template: bool = False, cut: Literal["left", "right"] = "right"
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json (Hugging Face's names) for a model of `context` tokens.

        With `template`, Hugging Face adds the task tokens as in the paper, figure 1: `start a extract`, or
        `start a delimiter b extract`; a text that is too long is cut at the side `cut` so that they stay.
        """
        whole = tokenizers.Tokenizer.from_str(self.text)
        if template:
            whole.post_processor = self._template()
        whole.enable_truncation(context, direction=cut)
        write_text(Path(folder) / "tokenizer.json", whole.to_str(pretty=True))
        write_json(Path(folder) / "tokenizer_config.json", self._config(context, cut))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; no special token is added, none can come out of the text itself."""
        return self._tokenizer.encode(self._read(text), is_pretokenized=self._cuts, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text."""
        encodings = self._tokenizer.encode_batch_fast(
            [self._read(text) for text in texts], is_pretokenized=self._cuts, add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def standardized(self, text: str) -> str:
        """What is to be cut by `split.PATTERNS`: the text itself, but for kind openai2018."""
        return openai2018.standardized(text) if self._cuts else text

    def encode_words(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """How many ids each word has, and the ids of all; much faster than `encode_batch` for many short strings.

        The words are those that `split.PATTERNS` finds in `standardized` text.
        """
        if not self._cuts:
            return self._encode_words(words)
        parts = [openai2018.split(word) for word in words]
        lengths, ids = self._encode_words([part for word in parts for part in word])
        ends = np.cumsum([len(word) for word in parts])
        return np.diff(np.concatenate(([0], np.cumsum(lengths)))[ends], prepend=0), ids

    def _encode_words(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        groups = [words[start : start + WORDS_A_GROUP] for start in range(0, len(words), WORDS_A_GROUP)]
        # not encode_batch_fast: that does not say which word an id came from
        encoded = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        word_of = [np.asarray(e.word_ids, np.int64) for e in encoded]
        lengths = [np.bincount(of, minlength=len(group)) for of, group in zip(word_of, groups, strict=True)]
        ids = [np.asarray(e.ids, np.uint32) for e in encoded]
        return np.concatenate(lengths, dtype=np.int64), np.concatenate(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens and ids outside the vocabulary have none. Never raises.

        Bytes that are not UTF-8 (half a character) become U+FFFD.
        """
        plain = [i for i in map(int, ids) if 0 <= i < self.vocabulary and i not in self._special]
        return self._tokenizer.decode(plain, skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        r"""One printable string a token: "\n" as its escape, bytes that are half a character as "\xe2"."""
        return [self._piece(i) for i in map(int, ids)]

    def split(self, text: str) -> list[str]:
        """The words of `text`, normalised, as the BPE sees them."""
        if self._cuts:
            return openai2018.words(text)
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]

    def with_task_tokens(self) -> "Tokenizer":
        """The same tokenizer with start, delimiter and extract appended (stage two; the paper, section 3.3)."""
        return Tokenizer(_with_tokens(self._definition, [START, DELIMITER, EXTRACT]))

    def _read(self, text: str) -> str | list[str]:
        """What `tokenizers` is given."""
        return openai2018.words(text) if self._cuts else valid(text)

    def _piece(self, i: int) -> str:
        token = self._tokenizer.id_to_token(i) if i >= 0 else None
        if token is None:
            return ""
        if i not in self._special and self.kind == "bytes":
            token = bytes(_BYTE_OF[character] for character in token).decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)

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
            "eos_token": END,
            "pad_token": PAD,
            "padding_side": "right",
            "truncation_side": cut,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        task_tokens = {"bos_token": START, "sep_token": DELIMITER, "cls_token": EXTRACT}
        return config | (task_tokens if self.start_id is not None else {})


def blank(kind: Own, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer of one of our own kinds, from its BPE table."""
    if kind == "bytes":
        model = models.BPE(vocabulary, merges)
    else:
        model = models.BPE(vocabulary, merges, unk_token=UNKNOWN, end_of_word_suffix="</w>", fuse_unk=False)
    return Tokenizer(_cut_as(kind, tokenizers.Tokenizer(model)))


def recut(tokenizer: Tokenizer, kind: Own) -> Tokenizer:
    """The same vocabulary, with text cut into words as by another kind."""
    return Tokenizer(_cut_as(kind, tokenizers.Tokenizer.from_str(tokenizer.text)))


def _cut_as(kind: Own, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """The definition of `tokenizer` once text is cut into words as by `kind`."""
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
        near = [normalizers.Replace(Regex(pattern), by) for pattern, by in openai2018.NEAR_TEXT]
        tokenizer.normalizer = normalizers.Sequence([*near, normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(openai2018.NEAR_WORDS), behavior="removed", invert=True)
        lines = decoders.Replace(Regex(" ?\\n ?"), "\n")
        tokenizer.decoder = decoders.Sequence([decoders.BPEDecoder(suffix="</w>"), decoders.Fuse(), lines])
    definition: dict[str, Any] = json.loads(tokenizer.to_str())
    return definition


def byte_symbols() -> list[str]:
    """The printable character that stands for each of the 256 bytes in a byte-level vocabulary (GPT-2's table)."""
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
    if pre_tokenizer.get("pattern") == {"Regex": openai2018.NEAR_WORDS}:
        return "openai2018"
    own = pre_tokenizer.get("type") == "BertPreTokenizer" and model.get("end_of_word_suffix") == "</w>"
    return "gpt1" if own else "custom"


def _with_tokens(definition: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """`definition` with those of `tokens` it lacks appended at the end of its vocabulary."""
    model, added = definition["model"], _undeclared(definition)
    definition = definition | {"added_tokens": added}
    known = {token["content"]: token["id"] for token in added}
    vocabulary = model["vocab"]
    words = {piece[0]: i for i, piece in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    known |= words
    size = max(known.values(), default=-1) + 1
    new = {token: size + i for i, token in enumerate(t for t in tokens if t not in known)}
    if model["type"] == "BPE" and not model["ignore_merges"]:
        return definition | {"model": model | {"vocab": vocabulary | new}}
    # Other models look whole words up in their vocabulary; there a special token is safer as an added one.
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return definition | {"added_tokens": [*added, *({"id": i, "content": token} | flags for token, i in new.items())]}


def _undeclared(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """The added tokens but ours; transformers declares them when it saves a tokenizer."""
    ours = {END, PAD, START, DELIMITER, EXTRACT} & set(definition["model"]["vocab"])
    return [token for token in definition["added_tokens"] if token["content"] not in ours]


def valid(text: str) -> str:
    """`text`, its lone surrogates (which no UTF-8 text can hold) replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
