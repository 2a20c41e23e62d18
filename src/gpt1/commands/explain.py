"""`gpt1 explain`: how the loss of a text comes about, token by token; or why a fine-tuned run predicts what it does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpt1.config import Explain
from gpt1.console import say, table
from gpt1.data.files import is_path
from gpt1.errors import UserError, setting
from gpt1.finetuning.explanation import ReadSequence, RowExplanation, explain_row, numbered
from gpt1.finetuning.predictor import Predictor
from gpt1.keywords import command
from gpt1.pages.explain import explain_page
from gpt1.pages.explain_row import row_page
from gpt1.pages.render import check_page
from gpt1.results import INLINE, Result
from gpt1.run_folder.explanation import TextExplanation, explain_text
from gpt1.run_folder.folder import LoadedRun, load_run
from gpt1.storage import write_text
from gpt1.tasks.labels import label_text
from gpt1.tasks.rows import read_texts
from gpt1.tasks.typed_rows import row_of_texts
from gpt1.training.device import out_of_memory, setup_device

SUMMARY = ("nats_per_token", "perplexity", "bits_per_byte", "tokens", "bytes", "comparable", "model")
# What a terminal shows of a row: sequences, tokens at each end of one, labels, and signed values.
MOST_SEQUENCES, MOST_TOKENS, MOST_OUTPUTS, MOST_SIGNED = 10, 60, 20, 12
# Bytes beyond ASCII, as `Tokenizer.pieces` writes them where a token holds only a part of a character.
SPLIT_CHARACTER = re.compile(r"(?:\\x[89a-f][0-9a-f])+")


@dataclass(frozen=True)
class ExplainResult(Result):
    """What `gpt1 explain` prints: how likely a text is, or what a fine-tuned run predicts, and why."""

    explanation: TextExplanation | RowExplanation = field(metadata=INLINE)
    page: str | None = None
    """page written"""


@command(Explain, "run", "text", "more")
def explain(settings: Explain) -> ExplainResult:
    """Explain a text, or a row of a fine-tuned run; write the page if `html` is given.

    Raises UserError for a text without tokens, and for texts that the run's task does not read.
    """
    if settings.html:
        check_page(settings.html, "html")
    if settings.top < 1:
        raise UserError(f"{setting('top')} {settings.top} must be at least 1")
    device, dtype = setup_device(settings)
    # Probabilities on a page should not show bf16's rounding, unless asked to.
    dtype = torch.float32 if settings.dtype == "auto" else dtype
    run, name = load_run(settings.run), Path(settings.run).name
    if settings.as_ == "rows" and run.head is None:
        raise UserError(f"{settings.run} is pre-trained, it predicts no labels; leave {setting('as_')} out")
    is_text = run.head is None or settings.as_ == "text"
    if is_text and settings.more:
        raise UserError(f"one text at a time, not {len(settings.more) + 1}; put it in quotes")
    if is_path(settings.text):
        say(f"{settings.text} is explained as a text; to explain a file's content, give `-` and pipe it in")
    with out_of_memory("explain a shorter text"):
        if is_text:
            explanation: TextExplanation | RowExplanation = explain_text(
                run, run.body.to(device, dtype), settings.text, settings.top
            )
        else:
            explanation = _row(settings, run, device, dtype)
    if settings.html:
        draw = row_page if isinstance(explanation, RowExplanation) else explain_page
        write_text(settings.html, draw(explanation.to_json(), name))
    return ExplainResult(explanation, settings.html or None)


def _row(settings: Explain, run: LoadedRun, device: torch.device, dtype: torch.dtype) -> RowExplanation:
    predictor = Predictor.of_run(run, device, dtype)
    texts, task = [settings.text, *settings.more], predictor.encoder.task
    row, columns = row_of_texts(texts, task, predictor.columns, "put a text in quotes")
    return explain_row(predictor, read_texts(row, columns))


def show(result: ExplainResult) -> Group:
    """Return a table with a row for each token, then the loss; or what was predicted, and why."""
    found = result.explanation
    shown = _show_row(found) if isinstance(found, RowExplanation) else _show_text(found)
    return Group(shown, Text(f"The page is {result.page}")) if result.page else shown


def _show_text(found: TextExplanation) -> Group:
    rows = Table(box=box.SIMPLE)
    for name in ("", "token", "p", "nats", "product", "sum of logs", "instead"):
        # Only the last column is cut on a narrow screen.
        rows.add_column(name, no_wrap=name != "instead", justify="left" if name in ("token", "instead") else "right")
    for p in found.positions:
        instead = "  ".join(f"{a['token']} {a['probability']:.0%}" for a in p["alternatives"] if a["id"] != p["id"])
        product = Text(f"{p['product']:.1e}") if p["product"] else Text("0", style="red")
        rows.add_row(
            str(p["position"]), Text(p["token"], style="bold"), f"{p['probability']:.2g}", f"{p['nats']:.2f}",
            product, f"{p['sum']:.2f}", Text(instead, no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip
    said = [describe_product(found)]
    if len(found.windows) > 1:
        said.append(
            f"The text was read in {len(found.windows):,} windows of {found.context:,} tokens, half a context apart; "
            "each predicts what the one before did not."
        )
    return Group(rows, table({name: found[name] for name in SUMMARY}), Text("\n".join(said)))


def _show_row(found: RowExplanation) -> Group:
    is_number = found.outputs[0].probability is None
    outputs = Table(box=box.SIMPLE)
    for name in ("", "W_y h") if is_number else ("", "W_y h", "probability", "", "words alone"):
        outputs.add_column(name, justify="right" if name else "left")
    for output in sorted(found.outputs, key=lambda one: -(one.probability or 0))[:MOST_OUTPUTS]:
        style, p, by_words = "bold" if output.name == found.about else "", output.probability, output.words_probability
        cells = [] if p is None else [f"{p:.1%}", "█" * round(20 * p), "" if by_words is None else f"{by_words:.1%}"]
        outputs.add_row(Text(_with_answer(output.name, found), style), f"{output.score:.3f}", *cells)
    measure = "the number" if is_number else f"the log-odds of {_with_answer(found.about, found)}"
    words = numbered([one.word for one in found.words])
    also = f" and {found.words_weight:g} times the scores of words alone" if found.words_weight else ""
    parts: list[RenderableType] = [
        Text(f"{found.task}: {_with_answer(label_text(found.predicted_label), found)}", style="bold"),
        Text(f"\nWhat the model reads{' (a part of it)' if found.is_cut else ''}:"),
        *(Text(describe_sequence(sequence)) for sequence in found.sequences[:MOST_SEQUENCES]),
        Text(f"\nFrom h at the extract token, by W_y{also}, to {'a number' if is_number else 'probabilities'}:"),
        outputs,
        Text(f"Which words decide: {measure} with a word, less that without it"),
        _signed_table(list(zip(words, (one.change for one in found.words), strict=True))),
    ]
    if opinion := found.words_alone:
        label = _with_answer(label_text(opinion.predicted_label), found)
        evidence = [(f"{one.feature!r} ({one.of}, {one.kind})", one.contribution) for one in opinion.evidence]
        parts += [Text(f"Words alone (TF-IDF and a linear model) say {label}:"), _signed_table(evidence)]
    return Group(*parts)


def _signed_table(values: Sequence[tuple[str, float]]) -> Table:
    """Return a table of the largest values, for and against."""
    out = Table(box=box.SIMPLE, show_header=False)
    largest = max((abs(value) for _, value in values), default=0.0) or 1.0
    for name, value in sorted(values, key=lambda one: -abs(one[1]))[:MOST_SIGNED]:
        bar = Text("█" * round(20 * abs(value) / largest), style="blue" if value > 0 else "red")
        out.add_row(Text(name), f"{value:+.3f}", bar)
    return out


def describe_sequence(sequence: ReadSequence) -> str:
    """Return a sequence as one line, special tokens by their names; of a long one the beginning and the end."""
    tokens = [one.token if one.role == "text" else f" <{one.role}> " for one in sequence.tokens]
    if len(tokens) > 2 * MOST_TOKENS:
        tokens = [*tokens[:MOST_TOKENS], " ... ", *tokens[-MOST_TOKENS:]]
    return " " + SPLIT_CHARACTER.sub(_join_bytes, "".join(tokens)).strip()


def _join_bytes(found: re.Match[str]) -> str:
    """Return the bytes of a character that was split between tokens as that character, and others as they are."""
    character = bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "replace")
    return character if character.isprintable() and "\ufffd" not in character else found[0]


def _with_answer(name: str, found: RowExplanation) -> str:
    """Add the text of an answer to its number."""
    is_answer = found.task == "multiple-choice" and name.isdecimal()
    return f"{name}: {found.texts[int(name) + 1]}" if is_answer else name


def describe_product(result: TextExplanation) -> str:
    """Say in a sentence what became of the product."""
    if result.product_is_zero_at is None:
        return f"The product is {result.positions[-1]['product']:.2e}; the sum of logarithms is {-result.nats:,.2f}."
    return (
        f"At token {result.product_is_zero_at} the product falls below the smallest number float32 can hold (1.4e-45) "
        f"and stays 0; the sum of logarithms goes on to {-result.nats:,.2f}."
    )
