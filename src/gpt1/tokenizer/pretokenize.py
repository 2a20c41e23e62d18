r"""How the `bytes` tokenizer cuts text into words: one regular expression, the same in every engine.

A word keeps the one space before it and an apostrophe inside it (" don't", " Mary’s"); digits go in threes; newlines,
other blanks and symbols make runs of their own. Letters are given as code-point ranges, not as `\p{L}`: two engines
may know two editions of Unicode, ranges they read alike. Three properties follow from the form of the pattern:

- Every character falls under one alternative, so the words of a text, joined, are the text.
- There is no look-around and no anchor, so a word met alone is cut as it was in its text. That is what lets
  `tokenizer.bulk` encode each distinct word once.
- No word is longer than `2 * LONGEST + 2` characters, so a text without spaces costs time linear in its length.
"""

LONGEST = 32
"""Letters, or symbols, in one run; what is longer goes on as the next word."""

# Letters of every script; outside ASCII the symbols stand apart in blocks, so a few ranges are enough.
_LETTER_RANGES = (
    (0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x1FFF),
    (0x2C00, 0x2DFF), (0x3040, 0xD7FF), (0xF900, 0xFDFF), (0xFE70, 0xFEFE), (0x10000, 0x1EFFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_LETTERS = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _LETTER_RANGES)
_RUN = f"{{1,{LONGEST}}}"
_APOSTROPHES = r"['\x{2019}]"
_BLANKS = r" \t\x0B\x0C"

WORDS = "|".join((
    rf" ?[{_LETTERS}]{_RUN}(?:{_APOSTROPHES}[{_LETTERS}]{_RUN})?",
    r" ?[0-9]{1,3}",
    rf" ?[^{_LETTERS}0-9{_BLANKS}\r\n]{_RUN}",
    rf"[\r\n]{_RUN}",
    rf"[{_BLANKS}]{_RUN}",
))  # fmt: skip
"""The pattern; Oniguruma (in `tokenizers`) and Rust's regex (in polars) both read it."""

PATTERNS = {"bytes": WORDS, "gpt1": r"[^ \t\r\n]+", "openai2018": "[^ ]+"}
"""For each kind, pieces of text that its tokenizer encodes independently of their surroundings.

The `gpt1` tokenizer drops blanks, its normaliser changes characters one by one (only combining marks look at their
neighbours, and never over a blank), so it too may be fed what stands between blanks. `openai2018` cuts standardised
text, where "\n" stands between blanks as words do (`tokenizer.openai_2018`).
"""
