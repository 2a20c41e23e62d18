"""How OpenAI's 2018 release cut text into words: mended, standardised, split by spaCy's English rules, lower-cased.

Its weights were trained on that, so a model that starts from them should read the same. Behaviour as in its
`text_utils.py`; ftfy and spaCy are today's, whose rules have moved on a little since. What comes of it:

- Quotes, dashes and the ellipsis become ASCII; accents stay. White space between two words is nothing, or one line end.
- So each piece between spaces is split by itself, as spaCy did in 2018, and one that comes again need not be split
  again. Today's spaCy also looks for its special cases (":D") across spaces. It drops those it finds there, and with
  them may miss a true one that overlaps; here none is missed.
- spaCy needs time quadratic in the number of marks, so a piece of more than `LONGEST` characters is cut: between two
  marks or, where there are none, after `FAR`.
"""

import functools
import importlib.util
import re
import threading
from collections.abc import Iterator
from typing import Any

from gpt1.errors import UserError

LONGEST = 300
"""Characters of a piece that spaCy splits at once."""
FAR = 10_000
"""Characters after which a longer piece is cut anywhere; no word of English has as many."""
SHORT = 64
"""Characters of a piece whose words are remembered."""
MOST_PIECES = 1 << 17
"""Pieces remembered."""
MOST_STRINGS = 300_000
"""Strings that spaCy may remember; it forgets none, so past that it starts afresh."""

_ASCII = {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"}
_MARKS = re.compile(r"""([-~!";?+,)(\\/*[\]}{|_])\1*""")
"""A run of the same mark."""
_LINE_END = re.compile(r"\s*\n\s*")
_BETWEEN_MARKS = re.compile(r"(?<=\W)(?=\W)")
_BLANKS = re.compile(r" [^\S\n]+|[^\S\n ][^\S\n]*")
"""All but a space that stands alone, which may stay."""
_spacy_at_work = threading.Lock()

NEAR_TEXT = (
    ("[\u02bc\u2018-\u201b´]", "'"), ("[\u201c-\u201f]", '"'), ("[—–―]", "-"), ("…", "..."),
    (r"\A\s+|\s+\z", ""), (r"\s*\n\s*", "\n"),
)  # fmt: skip
_END = r"(?!\w)"
_CLITIC = rf"'(?:m|d|re|ve|ll){_END}"
NEAR_WORDS = "|".join((
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
"""What tokenizer.json says in the place of all this, for tools that know nothing else: ftfy and spaCy do not fit there.

By the pattern we know the kind again, so to change it is to change the format.
"""


def check_spacy() -> None:
    """Raise UserError if spaCy is not installed; importing it would take a second."""
    if importlib.util.find_spec("spacy") is None:
        raise UserError("words are cut as in OpenAI's 2018 release, which needs spaCy: pip install 'gpt1[openai2018]'")


def standardized(text: str) -> str:
    """`text` as the release hands it to spaCy: pieces with one space between them, a line end being a piece."""
    from gpt1.tokenizer.clean import RELEASE, repair

    text = repair(text, config=RELEASE)
    for mark, plain in _ASCII.items():
        text = text.replace(mark, plain)
    text = _LINE_END.sub(" \n ", _MARKS.sub(r" \g<0> ", text))
    return _BLANKS.sub(" ", text).strip()


def words(text: str) -> list[str]:
    r"""The words of `text` that BPE sees; a line end is the word "\n"."""
    return [word for piece in standardized(text).split(" ") for word in split(piece)]


def split(piece: str) -> tuple[str, ...]:
    """The words of a piece between two spaces of standardised text; of an empty one, none."""
    return _remembered(piece) if len(piece) <= SHORT else _split(piece)


def _split(piece: str) -> tuple[str, ...]:
    with _spacy_at_work:
        return tuple(token.text.lower() for part in _parts(piece) for token in _splitter()(part))


_remembered = functools.lru_cache(MOST_PIECES)(_split)


def forget() -> None:
    """Start afresh: no piece is remembered, by us or by spaCy."""
    _remembered.cache_clear()
    _english.cache_clear()


def _parts(piece: str) -> Iterator[str]:
    start = 0
    while len(piece) - start > LONGEST:
        found = _BETWEEN_MARKS.search(piece, start + LONGEST, start + FAR)
        end = found.start() if found else start + FAR
        yield piece[start:end]
        start = end
    yield piece[start:]


def _splitter() -> Any:
    if len(_english().vocab.strings) > MOST_STRINGS:
        _english.cache_clear()
    return _english().tokenizer


@functools.lru_cache(1)
def _english() -> Any:
    import spacy  # an extra, and slow to import

    return spacy.blank("en")
