"""The explanation must add up: to the likelihood of `evaluate`, to 1, and to a page that loads nothing."""

import html.parser
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from conftest import one_line
from gpt1.cli.main import main
from gpt1.commands.explain import describe_sequence, explain, show
from gpt1.config import Columns, Explain, Model
from gpt1.data.windows import Ids
from gpt1.errors import UserError
from gpt1.finetuning.explanation import ReadSequence, ReadToken
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train
from gpt1.training.likelihood import likelihood

TEXT = "Once upon a time there was a cat. The cat sat on a mat; a dog, too.\n"
NASTY = "</td><script>alert(1)</script> & \"quotes\" 'n' [bold]x[/bold] <|end|> été 春"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXT * 30], "bytes", 290)


@pytest.fixture(scope="module")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Model(context=16, width=32, depth=2, heads=4, inner=128, vocabulary=tokenizer.vocabulary)
    folder = tmp_path_factory.mktemp("run")
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    save_run(folder, body, tokenizer, RunMetadata(kind="pretrained"))
    return folder


def asked(run: Path, text: str, **more: object) -> dict:
    return explain(Explain(run=str(run), text=text, threads=1, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a", TEXT, TEXT * 5])
def test_it_is_the_likelihood_that_evaluate_measures(run: Path, tokenizer: Tokenizer, text: str) -> None:
    result = asked(run, text)
    ids = [*tokenizer.encode(text), tokenizer.end_id]
    expected = likelihood(load_run(run).body, Ids(ids), tokenizer.end_id)
    assert result["tokens"] == expected.tokens == len(ids)
    assert [p["id"] for p in result["positions"]] == ids
    assert result["nats"] == pytest.approx(expected.nats, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(expected.nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(expected.nats / len(ids)), rel=1e-4)
    json.dumps(result.to_json(), allow_nan=False)


def test_keys_of_the_result(run: Path, tmp_path: Path) -> None:
    """Their order, and that a product that is never 0 is null; `page` only if one is written."""
    keys = [
        "nats_per_token", "perplexity", "bits_per_byte", "comparable", "nats", "tokens", "bytes", "context", "model",
        "text", "product_is_zero_at", "windows", "positions",
    ]  # fmt: skip
    result = asked(run, "a").to_json()
    assert list(result) == keys
    assert result["product_is_zero_at"] is None
    assert list(asked(run, "a", html=str(tmp_path / "page.html"))) == [*keys, "page"]


def test_windows_predict_every_token_once(run: Path) -> None:
    result = asked(run, TEXT * 5)
    predicted = [t for w in result["windows"] for t in range(*w["predicts"])]
    assert predicted == list(range(result["tokens"]))
    assert all(w["stop"] - w["start"] <= 16 and w["start"] <= w["predicts"][0] for w in result["windows"])
    assert len(result["windows"]) > 5


def test_the_distribution_at_a_position(run: Path, tokenizer: Tokenizer) -> None:
    everything = asked(run, "The cat", top=10_000)
    for p in everything["positions"]:
        probabilities = {a["id"]: a["probability"] for a in p["alternatives"]}
        assert len(probabilities) == tokenizer.vocabulary
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert probabilities[p["id"]] == pytest.approx(p["probability"]) == pytest.approx(math.exp(-p["nats"]))
        assert p["rank"] == 1 + sum(q > p["probability"] for q in probabilities.values())
    assert "".join(p["token"] for p in everything["positions"][:-1]) == "The cat"
    assert everything["positions"][-1]["id"] == tokenizer.end_id


def test_the_product_underflows_and_the_sum_does_not(run: Path) -> None:
    result = asked(run, TEXT)
    product, total = np.float32(1), 0.0
    for p in result["positions"]:
        product, total = product * np.float32(p["probability"]), total - p["nats"]
        assert p["product"] == float(product)
        assert p["sum"] == pytest.approx(total)
    at = result["product_is_zero_at"]
    assert [p["product"] == 0 for p in result["positions"]] == [i >= at for i in range(result["tokens"])]
    assert -115 < result["positions"][at]["sum"] < -100, "log of the smallest float32 is -103.3"
    assert asked(run, "a")["product_is_zero_at"] is None


class Page(html.parser.HTMLParser):
    """Collects tags, what they point to, and the text; `stack` is empty if every tag was closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.stack: list[str] = []
        self.targets: list[str] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "wbr"):
            self.stack.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] == ["a"]:
            self.texts.append(data)


def test_the_page_is_whole_safe_and_alone(run: Path, tmp_path: Path) -> None:
    result = asked(run, NASTY + TEXT, html=str(tmp_path / "page.html"))
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert result["page"] == str(tmp_path / "page.html")
    assert page.stack == []
    assert "script" not in page.tags
    assert page.targets == [f"#t{i}" for i in range(result["tokens"])]
    assert "".join(page.texts) == "".join(p["token"] for p in result["positions"])
    assert "http" not in source.replace("http-equiv", "")
    assert "url(" not in source
    assert source.count('class="row true"') == result["tokens"], "the true token is marked at each position"


def test_the_table_holds_text_as_it_is(run: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(show(asked(run, NASTY)))
    shown = out.getvalue()
    assert "nats_per_token" in shown
    assert "stays 0" in shown
    assert all(piece in shown for piece in ("[", "<", "&"))


def test_what_looks_like_a_file_and_where_the_page_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["explain", str(run), "rows.csv", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("rows.csv is explained as a text; ")
    assert out.replace("\n", "").endswith(f"The page is {page}")


def test_bad_requests(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the text has no tokens"):
        asked(run, "")
    with pytest.raises(UserError, match="top 0"):
        asked(run, "a", top=0)
    with pytest.raises(UserError, match="no such run folder"):
        asked(tmp_path / "nowhere", "a")


# A fine-tuned run


def tuned(folder: Path, tokenizer: Tokenizer, task: str, goal: str, labels: list[str], texts: int = 1) -> Path:
    with_tokens = tokenizer.with_task_tokens()
    model = Model(context=32, width=32, depth=1, heads=4, inner=128, vocabulary=with_tokens.vocabulary)
    columns = Columns([f"text{n}" for n in range(texts)], ["label"], ["choices"] if goal == "choice" else [])
    metadata = RunMetadata(kind="finetuned", task=task, goal=goal, labels=labels, columns=columns)  # type: ignore[arg-type]
    body = GPT(model).init_weights(torch.Generator().manual_seed(2))
    save_run(
        folder,
        body,
        with_tokens,
        metadata,
        torch.randn(max(1, len(labels)), 32, generator=torch.Generator().manual_seed(3)),
    )
    return folder


@pytest.fixture(scope="module")
def classifier(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned"), tokenizer, "classification", "classes", ["a", "<b>"])


def test_of_a_fine_tuned_run_the_prediction_is_explained(classifier: Path) -> None:
    result = asked(classifier, "The cat sat.").to_json()
    assert list(result) == [
        "task", "texts", "predicted_label", "about", "outputs", "context", "windows", "is_cut", "sequences", "words",
        "together", "words_weight", "temperature",
    ]  # fmt: skip
    assert [one["word"] for one in result["words"]] == ["The", "cat", "sat", "."]
    assert sum(one["probability"] for one in result["outputs"]) == pytest.approx(1)
    assert list(result["outputs"][0]) == ["name", "score", "probability"], "this run knows no words"
    json.dumps(result, allow_nan=False)


def test_as_text_the_language_model_of_a_fine_tuned_run_is_explained(classifier: Path) -> None:
    result = asked(classifier, "The cat", as_="text")
    assert "fine-tuned" in result["model"]
    assert len(result["positions"]) == result["tokens"]


def test_pairs_and_answers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pair = tuned(tmp_path / "pair", tokenizer, "entailment", "classes", ["no", "yes"], texts=2)
    found = asked(pair, "The cat sat.", more=["A dog, too."])
    assert found["texts"] == ["The cat sat.", "A dog, too."]
    choice = tuned(tmp_path / "choice", tokenizer, "multiple-choice", "choice", [])
    found = asked(choice, "There was", more=["a cat", "a dog", "a mat"])
    assert [one.name for one in found["outputs"]] == ["0", "1", "2"]
    assert f"{found['about']}: {found['texts'][found['predicted_label'] + 1]}" in shown_of(found)
    for run, more, said in ((pair, [], "entailment reads two texts"), (choice, ["a"], "two answers or more")):
        with one_line(said):
            asked(run, "The cat", more=more)
    with one_line("entailment reads two texts, not 3; put a text in quotes"):
        asked(pair, "The", more=["cat", "sat"])


def shown_of(result: object) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(show(result))  # type: ignore[arg-type]
    return out.getvalue()


def test_a_row_on_a_terminal(classifier: Path) -> None:
    shown = shown_of(asked(classifier, "The cat [bold]sat[/bold]. The end"))
    assert "The page is" not in shown
    assert "<start> The cat [bold]sat[/bold]. The end <extract>" in shown
    for words in ("classification: ", "W_y h", "the log-odds of", "The (1)", "The (2)", "<b>"):
        assert words in shown, words


def test_a_class_called_number_is_a_class(tokenizer: Tokenizer, tmp_path: Path) -> None:
    run = tuned(tmp_path / "run", tokenizer, "classification", "classes", ["number", "word"])
    result = asked(run, "The cat", html=str(tmp_path / "page.html"))
    assert "probability" in shown_of(result)
    assert "The page is" in shown_of(result)
    assert "its log-odds" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_number_and_windows_on_a_terminal(run: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    columns, with_tokens = Columns(["text"], ["label"]), tokenizer.with_task_tokens()
    model = Model(context=32, width=32, depth=1, heads=4, inner=128, vocabulary=with_tokens.vocabulary)
    metadata = RunMetadata(
        kind="finetuned", task="regression", goal="score", labels=[], columns=columns, mean=3.0, scale=2.0
    )
    save_run(tmp_path / "score", GPT(model).init_weights(), with_tokens, metadata, torch.ones(1, 32))
    shown = shown_of(asked(tmp_path / "score", "The cat"))
    assert "regression: " in shown and "the number with a word" in shown and "probability" not in shown
    assert "windows of 16 tokens, half a context apart" in shown_of(asked(run, TEXT))
    assert "windows" not in shown_of(asked(run, "a"))


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ([" sch", "\\xc3", "\\xb6", "n"], "schön"),
        (["\\xe2\\x82", "\\xac", "5"], "€5"),
        (["a\\xc3", "b\\n", "\\x07"], "a\\xc3b\\n\\x07"),  # half a character, and what a terminal must not get
    ],
)
def test_a_character_that_is_split_between_tokens_is_shown_whole(tokens: list[str], line: str) -> None:
    sequence = ReadSequence([ReadToken(n, token, "text") for n, token in enumerate(tokens)], [], [])
    assert describe_sequence(sequence) == f" {line}"


def test_the_page_of_a_row_is_whole_safe_and_alone(classifier: Path, tmp_path: Path) -> None:
    result = asked(classifier, NASTY, html=str(tmp_path / "page.html"))
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert result["page"] == str(tmp_path / "page.html")
    assert page.stack == [] and page.targets == []
    assert "script" not in page.tags
    assert "url(" not in source
    assert source.count("<mark ") == len(result["words"])


def test_bad_requests_for_rows(run: Path, classifier: Path) -> None:
    with one_line("is pre-trained, it predicts no labels; leave as_ out"):
        asked(run, "a", as_="rows")
    with one_line("one text at a time, not 2"):
        asked(run, "a", more=["b"])
    with one_line("one text at a time, not 2"):
        asked(classifier, "a", more=["b"], as_="text")
    with one_line("classification reads one text, not 2"):
        asked(classifier, "a", more=["b"])
    with one_line("an empty text"):
        asked(classifier, " ")
