r"""Fix broken Unicode with ftfy, at the speed of a regex search: lines that ftfy would not change are skipped.

Damage is fixed: mojibake, HTML entities, control characters, terminal escapes, lone surrogates, ligatures from PDFs,
`\r\n` line ends, decomposed characters (to NFC). What a writer chose is kept: curly quotes and full-width punctuation,
which ftfy by default, and so GPT-1's release, turns into ASCII. A lossless model should see the quotes of its text.

Why a line may be skipped: ftfy works line by line (the one state that passes on is "<", see `clean`). On a line of
characters in `_PLAIN`, without an HTML entity, each of its steps does nothing, except to `\r`:

- unescape_html replaces entities only; escapes, control characters, surrogates and ligatures are not in `_PLAIN`.
- fix_encoding starts only where `ftfy.badness.BADNESS_RE` matches. Each of its alternatives needs a character that is
  not in `_PLAIN`, and matches at most `_REACH` characters.
- The characters neither compose with each other nor decompose, so any string of them is NFC.
- fix_line_breaks turns `\r\n` and `\r` into `\n`; `clean` does that itself.

A line with other characters, such as accents, is skipped if the same conditions hold when tested one by one
(`_is_clean`).
"""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

CONFIG = ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False, explain=False)
RELEASE = ftfy.TextFixerConfig(explain=False)  # what GPT-1's release did: everything that ftfy does by default

_ENTITY = r"&#?[0-9A-Za-z]{1,24};"
# ASCII and common marks; Russian (without ВГРС, frequent in mojibake of it); kana, CJK, Hangul and their marks.
_PLAIN = (
    "\t\n\x0c\r -~\xa0\xad·´–—―…‘’“”" + "АБД-ПТ-яЁё" + "\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff가-힣！-～"
)
_SUSPECT = re.compile(f"[^{_PLAIN}]|{_ENTITY}")
_SUSPECT_OR_WIDE = re.compile(f"[！-～]|{_SUSPECT.pattern}")
_WIDE = re.compile("[\u3000\uff01-\uffef]")
_REACH = 7
_LIGATURES = "".join(map(chr, ftfy.chardata.LIGATURES))
_FIXED = re.compile(
    rf"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ud800-\udfff\ufeff\ufff9-\ufffc{_LIGATURES}]|{_ENTITY}"
)


def clean(text: str, html: bool = False, config: ftfy.TextFixerConfig = CONFIG) -> str:
    """Return `ftfy.fix_text(text, config)`, computed faster; `config` is CONFIG or RELEASE.

    `html` says that an earlier part of the same document held "<", so a document may be cleaned in parts, cut at line
    ends. One difference: ftfy cuts a line of over a million characters, and may make two line ends of a `\\r\\n` there.
    """
    # After "<", ftfy treats the rest of the text as HTML and keeps its entities.
    opened = -1 if html else text.find("<") if "<" in text else len(text)
    parts = []
    done = 0
    pattern = _SUSPECT_OR_WIDE if config.fix_character_width else _SUSPECT
    suspect = pattern.search(text)
    while suspect:
        start = max(done, text.rfind("\n", done, suspect.start()) + 1)
        end = text.find("\n", suspect.start()) + 1 or len(text)
        line = text[start:end]
        if not _is_clean(line, config):
            unescape = config._replace(unescape_html=False) if opened < start else config
            parts += [text[done:start], ftfy.fix_text(line, unescape)]
            done = end
        suspect = pattern.search(text, end)
    cleaned = "".join([*parts, text[done:]]) if parts else text
    if config.uncurl_quotes:
        cleaned = ftfy.fixes.uncurl_quotes(cleaned)
    return cleaned.replace("\r\n", "\n").replace("\r", "\n") if "\r" in cleaned else cleaned


def _is_clean(line: str, config: ftfy.TextFixerConfig) -> bool:
    r"""Return whether no step of ftfy would change `line`, except for `\r` and quotes."""
    if config.fix_character_width and _WIDE.search(line):
        return False
    if _FIXED.search(line) or not unicodedata.is_normalized("NFC", line):
        return False
    near = (line[max(0, m.start() - _REACH) : m.end() + _REACH] for m in _SUSPECT.finditer(line))
    return not any(map(is_bad, near))
