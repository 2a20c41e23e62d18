"""The page that explains a prediction: arrange a `RowExplanation` (`--json` of `gpt1 explain`) for its template."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.finetuning.explanation import numbered
from gpt1.pages.charts import strip
from gpt1.pages.render import number, render

SEQUENCES_SHOWN, OUTPUTS_SHOWN, WORDS_SHOWN = 12, 20, 20
# What the texts of a row are called.
PARTS = {"entailment": ("premise", "hypothesis"), "similarity": ("one text", "the other text")}


def row_page(found: Mapping[str, Any], run: str) -> str:
    """Return the page for an explained row; `run` is the name of the model."""
    is_choice, words = found["task"] == "multiple-choice", found.get("words_alone")
    called = "answer " if is_choice else ""
    outputs = sorted(found["outputs"], key=lambda one: -one.get("probability", 0.0))
    answers = {str(n): text for n, text in enumerate(found["texts"][1:])} if is_choice else {}
    names = numbered([one["word"] for one in found["words"]])
    reads = [_arrange_sequence(found, n) for n in range(min(len(found["sequences"]), SEQUENCES_SHOWN))]
    return render(
        "explain_row.html",
        title=f"Why {run} predicts {called}{label(found['predicted_label'])}",
        found=found,
        about=found["about"],
        subject=called + found["about"],
        is_number="probability" not in outputs[0],
        answers=answers,
        texts=_arrange_texts(found),
        decisive=_signed([(name, "", one["change"]) for name, one in zip(names, found["words"], strict=True)])[
            :WORDS_SHOWN
        ],
        sequences=reads,
        more_sequences=len(found["sequences"]) - len(reads),
        outputs=outputs[:OUTPUTS_SHOWN],
        more_outputs=max(0, len(outputs) - OUTPUTS_SHOWN),
        words_alone=words,
        words_label=called + label(words["predicted_label"]) if words else "",
        words_about=called + words["about"] if words else "",
        evidence=_signed(
            [(e["feature"], e["of"] if len(found["texts"]) > 1 else "", e["contribution"]) for e in words["evidence"]]
            if words
            else []
        ),
        agrees=words and words["predicted_label"] == found["predicted_label"],
    )


def label(predicted: Any) -> str:
    """Format a predicted label: a name, several, or a number."""
    if isinstance(predicted, list):
        return ", ".join(predicted) or "none of the labels"
    return number(predicted) if isinstance(predicted, float) else str(predicted)


def _arrange_texts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cut each text of the row into pieces: words that were left out, shaded by their change, and what is between."""
    largest = max((abs(one["change"]) for one in found["words"]), default=0.0) or 1.0
    texts = []
    for n, text in enumerate(found["texts"]):
        pieces, end = [], 0
        for one in (one for one in found["words"] if one["text"] == n):
            pieces.append({"text": text[end : one["start"]], "kind": ""})
            kind, share = ("for" if one["change"] > 0 else "against"), f"{abs(one['change']) / largest:.0%}"
            pieces.append({"text": one["word"], "kind": kind, "share": share, "change": f"{one['change']:+.3f}"})
            end = one["stop"]
        texts.append({"name": _text_name(found, n), "pieces": [*pieces, {"text": text[end:], "kind": ""}]})
    return texts


def _text_name(found: Mapping[str, Any], n: int) -> str:
    if found["task"] == "multiple-choice":
        return f"answer {n - 1}" if n else "context"
    return PARTS.get(found["task"], ("text",))[n]


def _arrange_sequence(found: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Name a sequence, and draw its hidden state."""
    sequence, windows = found["sequences"][n], found["windows"]
    each = len(found["sequences"]) // windows
    name = {"multiple-choice": f"answer {n % each}", "similarity": ("one order", "the other order")[n % 2]}
    said = [name.get(found["task"], "")] if each > 1 else []
    said += [f"window {n // each + 1} of {windows}"] if windows > 1 else []
    words = f"hidden state of {len(sequence['h'])} numbers, from {min(sequence['h']):.2f} to {max(sequence['h']):.2f}"
    return {"name": ", ".join(said), "tokens": sequence["tokens"], "h": strip(sequence["h"], words), "words": words}


def _signed(values: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """Arrange named values as bars, the largest first, whatever their sign."""
    largest = max((abs(value) for *_, value in values), default=0.0) or 1.0
    return [
        {
            "name": name, "note": note, "value": f"{value:+.3f}", "kind": "for" if value > 0 else "against",
            "width": f"{abs(value) / largest:.1%}",
        }
        for name, note, value in sorted(values, key=lambda one: -abs(one[2]))
    ]  # fmt: skip
