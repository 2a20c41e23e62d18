r"""Pre-tokenization: how each kind of tokenizer splits text into the words that BPE is applied to.

`bytes`: one regular expression, `WORDS`. A word includes the one space before it and an apostrophe inside it (" don't",
" Mary’s"); digits come in threes; newlines, other blanks and symbols form runs of their own. Letters are code-point
ranges, not `\p{L}`, because two regex engines may follow two editions of Unicode. The pattern has three properties:

- Every character matches one alternative, so the words of a text, joined, are the text.
- It has no look-around and no anchor, so a word alone is split as it was in its text. `tokenizer.bulk` relies on this
  to encode each distinct word once.
- No word is longer than `2 * MAX_RUN + 2` characters, so a text without spaces takes linear time.

`gpt1`: BERT's rule, which `tokenizers` implements.

`openai2018`: what OpenAI's 2018 release did (its `text_utils.py`), and so what its weights were trained on. ftfy cleans
the text, quotes, dashes and ellipses become ASCII, spaCy's English rules split it, words are lower-cased. White space
between two words is dropped, except that a line end is a word. ftfy and spaCy are today's versions, whose rules have
changed a little. Two differences keep the time linear:

- Each piece between spaces is split by itself, as spaCy did in 2018, and results are cached. Today's spaCy also looks
  for its special cases (":D") across spaces; it discards those it finds there, and may then miss one that overlaps.
- spaCy takes time quadratic in the number of marks, so a piece of more than `MAX_PIECE` characters is cut: between
  two marks if possible, else after `MAX_WORD` characters.
"""

import functools
import importlib.util
import re
import threading
from collections.abc import Iterator
from typing import Any

from gpt1.errors import UserError

MAX_RUN = 32  # letters, or symbols, in one word of kind `bytes`; a longer run continues as the next word

# Letters of every script. Outside ASCII, symbols lie in blocks of their own, so a few ranges suffice.
_LETTER_RANGES = (
    (0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x1FFF),
    (0x2C00, 0x2DFF), (0x3040, 0xD7FF), (0xF900, 0xFDFF), (0xFE70, 0xFEFE), (0x10000, 0x1EFFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_LETTERS = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _LETTER_RANGES)
_RUN = f"{{1,{MAX_RUN}}}"
_APOSTROPHES = r"['\x{2019}]"
_BLANKS = r" \t\x0B\x0C"

# The words of kind `bytes`, in syntax that both Oniguruma (in `tokenizers`) and Rust's regex (in polars) read.
WORDS = "|".join((
    rf" ?[{_LETTERS}]{_RUN}(?:{_APOSTROPHES}[{_LETTERS}]{_RUN})?",
    r" ?[0-9]{1,3}",
    rf" ?[^{_LETTERS}0-9{_BLANKS}\r\n]{_RUN}",
    rf"[\r\n]{_RUN}",
    rf"[{_BLANKS}]{_RUN}",
))  # fmt: skip

# For each kind, pieces of text that its tokenizer encodes independently of their surroundings. `gpt1` drops blanks, and
# its normalizer changes characters one by one (only combining marks depend on their neighbours, and never across a
# blank). `openai2018` applies to standardized text, where "\n" stands between blanks as words do.
PATTERNS = {"bytes": WORDS, "gpt1": r"[^ \t\r\n]+", "openai2018": "[^ ]+"}

MAX_PIECE = 300  # characters that spaCy splits at once
MAX_WORD = 10_000  # characters after which a longer piece is cut anywhere; no English word is as long
CACHED_LENGTH, CACHED_PIECES = 64, 1 << 17  # longest piece whose words are cached, and how many pieces
CACHED_STRINGS = 300_000  # strings that spaCy may cache; it never drops any, so beyond this it is reloaded

_ASCII = {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"}
_SAME_MARKS = re.compile(r"""([-~!";?+,)(\\/*[\]}{|_])\1*""")
_LINE_END = re.compile(r"\s*\n\s*")
_BETWEEN_MARKS = re.compile(r"(?<=\W)(?=\W)")
_EXTRA_BLANKS = re.compile(r" [^\S\n]+|[^\S\n ][^\S\n]*")  # everything but a space that stands alone
_spacy_lock = threading.Lock()

# What tokenizer.json holds for kind `openai2018`, since ftfy and spaCy do not fit into it: an approximation, for tools
# that read nothing else. APPROXIMATE_WORDS identifies a file of this kind, so changing it changes the format.
APPROXIMATE_NORMALIZER = (
    ("[\u02bc\u2018-\u201b´]", "'"), ("[\u201c-\u201f]", '"'), ("[—–―]", "-"), ("…", "..."),
    (r"\A\s+|\s+\z", ""), (r"\s*\n\s*", "\n"),
)  # fmt: skip
_END = r"(?!\w)"
_CLITIC = rf"'(?:m|d|re|ve|ll){_END}"
APPROXIMATE_WORDS = "|".join((
    r"\n", r"-+", r"~+", r"\\+", r"/+", r"\|+", r"_+", r"\.\.+",
    rf"n't{_END}|\w+?(?=n't{_END})|'s{_END}|{_CLITIC}",
    rf"(?:i|s?he|it|we|you|they|th[ai][st]|th[eo]se|there|wh[oy]|what|where|when|how)(?={_CLITIC})",
    rf"(?:could|should|would|might|must)(?='ve{_END})",
    rf"(?:ai|are|ca|could|did|does|do|had|has|is|must|need|should|was|were|wo|would)(?=nt{_END})",
    rf"i(?=(?:d|m|ve){_END})|(?:s?he|that|there|what|where|who|how|when|why)(?=s{_END})",
    rf"(?:he|we|you|they)(?=d{_END})|(?:we|you|they)(?=ve{_END})|(?:you|they)(?=re{_END})",
    rf"can(?=not{_END})|gon(?=na{_END})|got(?=ta{_END})",
    r"(?:mrs?|ms|messrs|drs?|st|prof|[js]r|vs|gen|rev|gov|sen|rep|adm|inc|co|corp|ltd|ph\.d|mt|bros|e\.g|i\.e)\.",
    r"(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.",
    rf"(?:[a-z]\.)+(?:[a-z]{_END}\.?)?",
    rf"'(?:em|cause|bout|til|nuff|cos|coz|cuz){_END}|(?:ol|goin|doin|nothin|somethin|lovin|havin)'{_END}",
    rf"\d+(?=(?:[ap]\.?m|[ckm]?m|[km]?g){_END})|\d+(?:[:.]\d+)+",
    rf"[^\W_]+(?:[.&@][^\W_]+|'(?!s{_END})[^\W_]+)*",
    r"\S",
))  # fmt: skip


def check_spacy() -> None:
    """Raise UserError if spaCy is not installed. Does not import it, which would take a second."""
    if importlib.util.find_spec("spacy") is None:
        raise UserError("splitting words as OpenAI's 2018 release did needs spaCy: pip install 'gpt1[openai2018]'")


def standardize_2018(text: str) -> str:
    """Return `text` as the release passes it to spaCy: pieces separated by one space, each line end being a piece."""
    from gpt1.tokenizer.clean import RELEASE, clean  # imports ftfy, which no other kind needs here

    text = clean(text, config=RELEASE)
    for mark, plain in _ASCII.items():
        text = text.replace(mark, plain)
    text = _LINE_END.sub(" \n ", _SAME_MARKS.sub(r" \g<0> ", text))
    return _EXTRA_BLANKS.sub(" ", text).strip()


def words_2018(text: str) -> list[str]:
    r"""Return the words of `text` that BPE is applied to; a line end is the word "\n"."""
    return [word for piece in standardize_2018(text).split(" ") for word in split_piece_2018(piece)]


def split_piece_2018(piece: str) -> tuple[str, ...]:
    """Return the words of one piece, between two spaces, of standardized text; none if it is empty."""
    return _cached_split(piece) if len(piece) <= CACHED_LENGTH else _split(piece)


def clear_cache_2018() -> None:
    """Drop all cached words, spaCy's own included."""
    _cached_split.cache_clear()
    _english.cache_clear()


def _split(piece: str) -> tuple[str, ...]:
    with _spacy_lock:
        if len(_english().vocab.strings) > CACHED_STRINGS:
            _english.cache_clear()
        return tuple(token.text.lower() for part in _short_parts(piece) for token in _english().tokenizer(part))


_cached_split = functools.lru_cache(CACHED_PIECES)(_split)


def _short_parts(piece: str) -> Iterator[str]:
    start = 0
    while len(piece) - start > MAX_PIECE:
        found = _BETWEEN_MARKS.search(piece, start + MAX_PIECE, start + MAX_WORD)
        end = found.start() if found else start + MAX_WORD
        yield piece[start:end]
        start = end
    yield piece[start:]


@functools.lru_cache(1)
def _english() -> Any:
    import spacy  # an extra, and slow to import

    return spacy.blank("en")
