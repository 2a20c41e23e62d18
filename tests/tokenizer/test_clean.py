"""Repair is ftfy's, wherever the fast path is taken."""

import itertools
from pathlib import Path

import ftfy
import pytest
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt1.tokenizer.clean import _SUSPECT, CONFIG, RELEASE, clean

TROUBLE = [*"".join(MOJIBAKE_CATEGORIES.values()), *"abcZ019 .,?!'&;<#\n\r\t\x0b\x0c\x00\x1b\x7f\x85\x9d[m"]
TROUBLE += [*"ÃÂâ€ÎÐØÙà×œŒžŸ€™“”‘’–—…ﬁﬂĳŉＡ！　ｱ\u0301\u0327\u2028\u2029\u206a\ufeff\ufffc\ufffd\u2126", "\r\n"]
TROUBLE += ["&amp;", "&lt;", "&EACUTE;", "&#x2019;", "&#233;", "&nbsp", "\x1b[31m", "â€™", "Ã©", "Ã ", "вЂ", "ГўВЂВ"]
TROUBLE += [*"вГРСДяЁЂ漢字かが한글각ᄀᆨ\u3099、。"]
troubled = st.lists(st.sampled_from(TROUBLE), max_size=30).map("".join)


def oracle(text: str) -> str:
    return ftfy.fix_text(text, CONFIG)


@settings(max_examples=2000, deadline=None)
@given(troubled | st.text())
@example("&amp;\n<b>&amp;</b>\n&amp; â€™\n")
@example("&amp;â€™<b>\n&amp;\r\nplain\rcafé\r\n")
@example("café\n“curly” — it’s\ne\u0301\n")
def test_any_text_is_repaired_as_by_ftfy(text: str) -> None:
    assert clean(text) == oracle(text)
    assert clean(text, config=RELEASE) == ftfy.fix_text(text)


def test_no_run_of_plain_characters_looks_bad_to_ftfy() -> None:
    alphabet = [*"\xa0\xad·´–—―…‘’“”aA0 .вДЁ漢か한！"]
    assert not any(map(_SUSPECT.search, alphabet))
    assert not BADNESS_RE.search("".join(map("".join, itertools.product(alphabet, repeat=4))))


def test_surrogates_become_characters() -> None:
    assert clean("\ud83d\udca9 \udca9") == "\U0001f4a9 \ufffd"


def test_curly_quotes_and_wide_punctuation_are_no_damage() -> None:
    assert clean("“It’s” ，ｏｋ") == "“It’s” ，ｏｋ"


def test_a_long_line_without_an_end() -> None:
    text = "plain " * 200_000 + "Ã©"
    assert clean(text) == oracle(text)


@pytest.mark.slow
def test_every_line_of_real_books_is_repaired_as_by_ftfy(shared_data: Path) -> None:
    for file in [*sorted((shared_data / "books").glob("*.txt"))[::10], *(shared_data / "wikitext-2").glob("*.txt")]:
        text = file.read_text(encoding="utf-8")
        assert clean(text) == oracle(text), file
        assert clean(text, config=RELEASE) == ftfy.fix_text(text), file
