"""The arrangement of the explanation's page, from a result written by hand."""

import re
from typing import Any

from gpt1.pages.explain import WINDOWS_SHOWN, explain_page


def position(number: int, token: str, probability: float, nats: float, **more: Any) -> dict[str, Any]:
    return {
        "position": number, "id": number, "token": token, "probability": probability, "nats": nats, "rank": 1,
        "alternatives": [{"id": 99, "token": "<i>", "probability": 0.75}], "product": probability, "sum": -nats,
    } | more  # fmt: skip


def page(positions: list[dict[str, Any]], run: str = "run", **more: Any) -> str:
    windows = [{"start": 0, "stop": len(positions), "predicts": [0, len(positions)]}]
    result = {
        "model": "a language model", "context": 16, "comparable": True, "nats_per_token": 1.25, "perplexity": 3.5,
        "bits_per_byte": 0.875, "tokens": len(positions), "positions": positions, "windows": windows,
    }  # fmt: skip
    return explain_page(result | more, run)


def test_surprise_becomes_colour() -> None:
    """Two bits of twelve are a sixth of the colour; more than twelve bits are all of it."""
    text = page([position(0, "a", 0.25, 1.3862944), position(1, "b", 1e-6, 13.8)])
    assert re.findall(r'<a href="#t\d" style="--s:(\d+%)"', text) == ["17%", "100%"]


def test_the_true_token_is_shown_beside_better_ones() -> None:
    text = page([position(0, "a", 0.25, 1.4)])
    candidates = re.findall(r'class="row( true)?"><span class="chip">(.*?)</span><i style="--w:(.*?)"', text)
    assert candidates == [("", "&lt;i&gt;", "75.00%"), (" true", "a", "25.00%")]
    among = page([position(0, "a", 0.25, 1.4, alternatives=[{"id": 0, "token": "a", "probability": 0.25}])])
    assert among.count('class="chip"') == 1


def test_what_became_of_the_product_is_said() -> None:
    short = page([position(0, "a", 0.25, 1.4)])
    assert "short enough for the product, 2.50e-01; its logarithm is -1.4" in short
    zero = page([position(0, "a", 0.25, 1.4, product=0.0, sum=-104.25)], product_is_zero_at=0)
    assert "At token 0 the product falls below" in zero
    assert "The sum goes on to -104.2" in zero
    assert 'class="number zero"' in zero


def test_of_many_windows_the_first_are_shown() -> None:
    windows = [{"start": n, "stop": n + 1, "predicts": [n, n + 1]} for n in range(WINDOWS_SHOWN + 1_234)]
    text = page([position(0, "a", 0.25, 1.4)], windows=windows)
    assert text.count('<div class="window"') == WINDOWS_SHOWN
    assert "and 1,234 more" in text


def test_a_lossy_tokenizer_is_named() -> None:
    assert "not comparable: lossy tokenizer" in page([position(0, "a", 0.25, 1.4)], comparable=False)


def test_names_and_tokens_are_escaped() -> None:
    nasty = "</title></style><script>\"&'"
    text = page([position(0, nasty, 0.25, 1.4), position(1, "a", 0.25, 1.4)], run=nasty, model=nasty)
    assert "<script" not in text
    # The run in title and heading; the model; the token in the text, as a candidate, and before the next one.
    assert text.count("&lt;script&gt;") == 6
