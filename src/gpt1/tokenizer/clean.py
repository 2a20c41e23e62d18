r"""Broken Unicode mended by ftfy, at the speed of a search: a line that cannot need it is not shown to ftfy.

What is damage is mended: mojibake, HTML entities, control characters, terminal escapes, lone surrogates, ligatures
left by a PDF, foreign line ends, characters not composed (NFC). What a writer chose is kept: curly quotes and
full-width punctuation, which ftfy by default, and GPT-1's release with it, makes straight and narrow. A lossless model
of a text with curly quotes should have seen curly quotes. (`tokenizer.openai_2018` asks for them all the same.)

Why a line may be skipped. ftfy works line by line (state passes from line to line only by "<", see `repair`), and on
a line of the characters in `_PLAIN` without an HTML entity each of its steps does nothing, `\r` apart:

- unescape_html replaces entities only; the escapes, controls, surrogates and ligatures are not in `_PLAIN`;
- fix_encoding starts only if `ftfy.badness.BADNESS_RE` is found. Each of its alternatives needs a character that is
  not in `_PLAIN`, and is at most `_REACH` characters long;
- these characters neither compose with each other nor decompose, so any string of them is NFC;
- fix_line_breaks turns `\r\n` and `\r` into `\n`; `repair` does that itself.

A line with other characters, say accents, is skipped after asking the same questions one by one (`_stays`).
"""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

CONFIG = ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False, explain=False)
"""What is mended."""
RELEASE = ftfy.TextFixerConfig(explain=False)
"""What GPT-1's release mended: all that ftfy does by default."""

_ENTITY = r"&#?[0-9A-Za-z]{1,24};"
# ASCII and "common" marks; then Russian (but ВГРС, which mojibake of it is full of), kana, CJK, Hangul and their marks.
_PLAIN = (
    "\t\n\x0c\r -~\xa0\xad·´–—―…‘’“”" + "АБД-ПТ-яЁё" + "\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff가-힣！-～"
)
_SUSPECT = re.compile(f"[^{_PLAIN}]|{_ENTITY}")
_SUSPECT_OR_WIDE = re.compile(f"[！-～]|{_SUSPECT.pattern}")
_WIDE = re.compile("[\u3000\uff01-\uffef]")
_REACH = 7
_LIGATURES = "".join(map(chr, ftfy.chardata.LIGATURES))
_MENDED = re.compile(
    rf"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ud800-\udfff\ufeff\ufff9-\ufffc{_LIGATURES}]|{_ENTITY}"
)


def repair(text: str, html: bool = False, config: ftfy.TextFixerConfig = CONFIG) -> str:
    """`ftfy.fix_text(text, config)`, faster; `config` is CONFIG or RELEASE.

    `html` says that an earlier part of the same document held "<": so it may be mended in parts, cut at line ends.
    One difference: in a line of more than a million characters ftfy may cut a `\\r\\n` in two and make two lines of it.
    """
    # Once a line has held "<", ftfy takes the rest for HTML and leaves its entities alone.
    opened = -1 if html else text.find("<") if "<" in text else len(text)
    parts = []
    done = 0
    pattern = _SUSPECT_OR_WIDE if config.fix_character_width else _SUSPECT
    suspect = pattern.search(text)
    while suspect:
        start = max(done, text.rfind("\n", done, suspect.start()) + 1)
        end = text.find("\n", suspect.start()) + 1 or len(text)
        line = text[start:end]
        if not _stays(line, config):
            unescape = config._replace(unescape_html=False) if opened < start else config
            parts += [text[done:start], ftfy.fix_text(line, unescape)]
            done = end
        suspect = pattern.search(text, end)
    mended = "".join([*parts, text[done:]]) if parts else text
    if config.uncurl_quotes:
        mended = ftfy.fixes.uncurl_quotes(mended)
    return mended.replace("\r\n", "\n").replace("\r", "\n") if "\r" in mended else mended


def _stays(line: str, config: ftfy.TextFixerConfig) -> bool:
    r"""Whether ftfy would leave `line` as it is, `\r` and quotes apart: no step of it finds anything."""
    if config.fix_character_width and _WIDE.search(line):
        return False
    if _MENDED.search(line) or not unicodedata.is_normalized("NFC", line):
        return False
    near = (line[max(0, m.start() - _REACH) : m.end() + _REACH] for m in _SUSPECT.finditer(line))
    return not any(map(is_bad, near))
