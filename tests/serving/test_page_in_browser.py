"""The page as people use it, in a real browser: each view, the keyboard, a phone, hostile texts.

Needs an installed Chromium; nothing is downloaded. With GPT1_SCREENSHOTS=docs/images the last test takes the
pictures of the documentation again, of the starter model or another GPT1_RUN.
"""

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from servers import LOCAL, Running, running, until

from gpt1.serving.page import FILES
from gpt1.training import log

pytest_plugins = ["servers"]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

PHONE, DESKTOP = 360, 1280
TEXT = "The cat sat on a mat; a dog, too."
SERIOUS = ("serious", "critical")
CHOSEN = ".tokens [aria-selected=true]"
VIEWS = {
    "read": f"#/read?run=books&text={quote(TEXT)}",
    "attend": f"#/attend?run=books&text={quote(TEXT)}",
    "write": "#/write?run=books&text=cat",
    "classify": f"#/classify?run=classification&text={quote(TEXT)}",
    "compare": f"#/compare?run=books&other=classification&text={quote(TEXT)}",
    "train": "#/train?run=classification",
}


ROW = f"#/attend?run=multiple-choice&text={quote(TEXT)}&more=It+sat&more=It+ran+away&layer=1&sequence=1"

# What is there when a view has drawn everything.
READY = {
    "read": ".panel .row", "attend": ".looks .row", "write": ".stages tbody button", "classify": ".outputs",
    "compare": ".twice", "train": "polyline",
}  # fmt: skip


@pytest.fixture(scope="module")
def served(books: Path, tuned: dict[str, Path]) -> Iterator[Running]:
    folders = [books, *(tuned[task] for task in ("classification", "entailment", "multiple-choice"))]
    with log.Log(tuned["classification"], 0) as file:
        for step in range(1, 40):
            file.add(step, lm=3 - step / 40, task=1 / step, lr=0.1)
        file.add(39, val_accuracy=0.75, val_loss=0.5)
        file.add(39, sample="Once <b>upon</b>")
    with running(*folders) as server:
        yield server


class Visit:
    """A page that is visited, and what went wrong meanwhile."""

    def __init__(self, browser: Any, url: str, width: int = DESKTOP, scheme: Any = "light") -> None:
        self.url = url
        self.page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: request.url.startswith(url) or self.complaints.append(request.url))

    def go(self, address: str, wait: str = "main section") -> Any:
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/{address}")
        self.page.wait_for_selector(wait)
        return self.page


@pytest.fixture
def visit(browser: Any, served: Running) -> Iterator[Visit]:
    found = Visit(browser, served.url)
    yield found
    found.page.close()
    assert not found.complaints


def names(locator: Any) -> list[str]:
    return [text.strip() for text in locator.all_inner_texts()]


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")])
def test_every_view_fits_and_is_accessible(browser: Any, served: Running, width: int, scheme: str) -> None:
    visit = Visit(browser, served.url, width, scheme)
    for address in (*VIEWS.values(), ROW):
        view = address[2:].partition("?")[0]
        page = visit.go(address, READY[view])
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.locator("h1").inner_text().lower() == view
        assert page.locator("nav [aria-current=page]").inner_text().lower() == view
        assert not page.locator(".error").count()
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        faults = [(f["id"], f["nodes"][0]["html"][:200]) for f in found if f["impact"] in SERIOUS]
        assert not faults, (view, faults)
    visit.page.close()
    assert not visit.complaints


def test_read_with_the_keyboard(visit: Visit, served: Running) -> None:
    page = visit.go(f"{VIEWS['read']}&at=2")
    wanted = served.http.post("/v1/explain", json={"model": "books", "text": TEXT, "top": 10}).json()
    tokens = page.locator(".tokens [role=option]")
    assert tokens.count() == len(wanted["positions"])
    assert tokens.last.inner_text() == "[end]"
    page.locator(CHOSEN).focus()
    for key, n in (("ArrowRight", 3), ("ArrowLeft", 2), ("End", len(wanted["positions"]) - 1), ("Home", 0)):
        page.keyboard.press(key)
        position = wanted["positions"][n]
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        assert f"at={n}" in page.url
        assert page.locator(".panel .row.true .hidden").inner_text() == "actual token"
        told = page.locator(".panel").inner_text()
        assert f"rank {position['rank']:,}:" in told
        assert f"is {position['nats']:.2f} nats" in told, "what the sum adds"
        assert "the actual token" in told
        assert "\N{OPEN BOX} is a space; " in told
        assert told.endswith("[end] the end of the document.")
        rows = 10 + (position["id"] not in [one["id"] for one in position["alternatives"]])
        assert page.locator(".panel .row").count() == rows
    assert f"{wanted['bits_per_byte']:.3f}" in page.locator(".cards").first.inner_text()
    assert page.locator(".tokens [tabindex='0']").count() == 1
    page.get_by_label("Text to read").fill("a dog")
    page.keyboard.press("Control+Enter")
    until(lambda: page.evaluate("document.querySelectorAll('.tokens [role=option]').length < 8"))
    assert "text=a+dog" in page.url
    page.go_back()
    until(lambda: tokens.count() == len(wanted["positions"]))


def test_read_a_text_longer_than_the_context(visit: Visit) -> None:
    page = visit.go(f"#/read?run=books&text={quote('The cat sat on a mat. ' * 22)}&at=80")
    assert page.locator(".window").count() > 2
    assert page.locator(".window.here").count() == 1
    product, total = names(page.locator(".running b"))
    assert product == "0"
    assert float(total.replace("\N{MINUS SIGN}", "-")) < -104
    assert "falls below" in page.locator(".product").inner_text()
    assert page.locator(".product polyline").count() == 2


def test_attend(visit: Visit, served: Running) -> None:
    page = visit.go(f"{VIEWS['attend']}&layer=1&head=2&at=5")
    wanted = served.http.post("/v1/attention", json={"model": "books", "text": TEXT, "layer": 1}).json()
    best = max(wanted["weights"][2][5])
    assert page.locator(".looks .row").first.inner_text().endswith(f"{best:.1%}")
    assert page.locator(".tokens .soft").count() == len(wanted["tokens"]) - 6
    page.get_by_role("button", name="head 4").click()
    assert "head=3" in page.url
    page.locator(CHOSEN).focus()
    page.keyboard.press("Home")
    assert names(page.locator(".looks .row .chip")) == ["[end]"], "the first token sees itself alone"
    page.get_by_label("Block").select_option("0")
    until(lambda: page.evaluate("document.querySelector('.looks')?.textContent.includes('of block 1')"))


def test_attend_to_a_row(visit: Visit, served: Running) -> None:
    page = visit.go(f"#/attend?run=multiple-choice&text={quote(TEXT)}&more=It+sat&layer=1", "main .note")
    assert "Give it all texts of a row" in page.locator(".attend > .note").inner_text()
    page.get_by_label("answer 1").fill("It ran away")
    page.get_by_role("button", name="Read", exact=True).click()
    page.wait_for_selector(READY["attend"])
    assert names(page.locator(".tokens .special")) == ["[start]", "[delimiter]", "[extract]"]
    assert page.locator(CHOSEN).inner_text() == "[extract]"
    page.get_by_label("Sequence").select_option("answer 1")
    until(lambda: page.evaluate("document.querySelector('.tokens')?.textContent.includes('ran away')"))
    row = {"model": "multiple-choice", "text": TEXT, "more": ["It sat", "It ran away"], "layer": 1, "sequence": 1}
    best = max(served.http.post("/v1/attention", json=row).json()["weights"][0][-1])
    assert page.locator(".looks .row").first.inner_text().endswith(f"{best:.1%}")
    page.get_by_role("link", name="Classify").click()
    page.wait_for_selector(".outputs")
    assert page.get_by_label("answer 1").input_value() == "It ran away", "a row goes from view to view"
    page.get_by_label("Run").select_option("books")
    page.wait_for_selector(".classify .note")
    assert "sequence=" not in page.url


def test_attend_to_a_whole_context(visit: Visit) -> None:
    page = visit.go(f"#/attend?run=books&text={quote('The cat sat on a mat. ' * 22)}", READY["attend"])
    assert page.locator(".tokens [role=option]").count() == 64
    assert "fill the context of 64" in page.locator(".attend > .note").inner_text()
    page.locator(".labelled canvas").click(position={"x": 5, "y": 1})
    assert "at=0" in page.url
    assert names(page.locator(".looks .row .chip")) == ["[end]"]
    large, small = ".labelled canvas", ".head[aria-pressed=true] canvas"
    pixels = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    assert page.locator(small).evaluate(pixels)[:4] == [53, 100, 184, 255], "a weight of 1 has the full colour"
    assert page.locator(large).evaluate("(canvas) => canvas.width") == 64 * 15


def test_write_choose_and_branch(visit: Visit, served: Running) -> None:
    page = visit.go(VIEWS["write"], ".stages tbody button")
    first = page.locator(".stages tbody button").nth(1)
    piece = first.inner_text()
    first.click()
    until(lambda: page.evaluate("document.querySelectorAll('.tree button').length == 1"))
    written = ".tokens .token:not(.soft, .special)"
    assert names(page.locator(written)) == [piece.replace("\u2423", " ").strip()]
    page.locator(written).click()
    page.wait_for_selector(".stages .chosen")
    page.locator(".stages tbody button").nth(3).click()
    until(lambda: page.evaluate("document.querySelectorAll('.tree button').length == 2"))
    assert page.locator(".tree [aria-current]").count() == 1
    page.evaluate("Math.random = () => 0.5")  # else the draw may be the end token, which is not counted below
    page.get_by_role("button", name="Draw one token").click()
    until(lambda: page.evaluate(f"document.querySelectorAll('{written}').length == 2"))
    shared = page.url
    path = shared.partition("path=")[2].partition("&")[0].split("%2C")
    assert len(path) == 2
    page.get_by_role("button", name="Write", exact=True).click()
    page.wait_for_selector(".ending:not(:empty)", timeout=20_000)
    until(lambda: page.evaluate("document.querySelector('.buttons button').textContent == 'Write'"))
    ended, last = page.locator(".ending").inner_text(), page.locator(".tokens .token").last.inner_text()
    assert ended.startswith("[end]") if last == "[end]" else "reads at most 64 tokens" in ended
    assert page.get_by_role("button", name="Write", exact=True).is_disabled()
    page.get_by_role("button", name="Take back").click()
    assert page.get_by_role("button", name="Write", exact=True).is_enabled()
    again = visit.go(shared.partition("/#")[2].join(("#", "")), ".tree button")
    assert again.locator(written).count() == 2, "an address holds the branch"


def test_the_keyboard_keeps_its_place(visit: Visit) -> None:
    page = visit.go(VIEWS["write"], ".stages tbody button")
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    page.locator(".stages tbody button").nth(2).press("Enter")
    until(lambda: page.evaluate("document.querySelectorAll('.tree button').length == 1"))
    until(lambda: page.evaluate(focused) == page.locator(".stages tbody button").first.get_attribute("aria-label"))
    page.get_by_role("button", name="Take back").press("Enter")
    until(lambda: page.evaluate(focused) == "Write")
    page = visit.go(VIEWS["attend"], READY["attend"])
    page.get_by_label("Block").focus()
    page.keyboard.press("ArrowDown")
    until(lambda: "of block 2" in page.locator(".looks").inner_text())
    assert page.evaluate("document.activeElement.localName") == "select"


def test_a_text_that_breaks_off(visit: Visit, served: Running) -> None:
    page = visit.go(VIEWS["write"], ".stages tbody button")
    body = {"model": "books", "prompt": "cat", "max_tokens": 3}
    begun = served.http.post("/v1/generate", json=body).text.partition("data: [DONE]")[0]
    for rest, sentence in (
        ("", "The server has gone before the text was complete."),
        ('data: {"error": {"message": "the server is shutting down"}}\n\n', "The server is shutting down."),
    ):
        page.route("**/v1/generate", partial(playwright.Route.fulfill, body=begun + rest))
        page.get_by_role("button", name="Write", exact=True).click()
        page.wait_for_selector(".stages tbody button")
        assert names(page.locator(".error")) == [sentence]
        assert page.get_by_role("button", name="Write", exact=True).is_enabled()


def test_sliders_change_what_can_be_drawn(visit: Visit) -> None:
    page = visit.go(f"{VIEWS['write']}&k=3&p=1", ".stages tbody button")
    kept = page.locator(".stages .others").last.locator("td")
    assert names(kept)[-2:] == ["3", "3"]
    assert page.locator(".stages tbody tr:not(.others) td:last-child.dropped").count() == 9
    slider = page.get_by_label("temperature")
    slider.focus()
    page.keyboard.press("Home")
    until(lambda: names(kept)[-1:] == ["1"])
    assert "t=0" in page.url


def test_classify(visit: Visit, served: Running) -> None:
    page = visit.go(VIEWS["classify"])
    wanted = served.http.post("/v1/explain", json={"model": "classification", "text": TEXT}).json()
    assert page.locator(".cards b").first.inner_text() == wanted["predicted_label"]
    assert names(page.locator("p.tokens .special")) == ["start", "extract"]
    assert page.locator(".outputs li").count() == 2
    assert names(page.locator("mark")) == [one["word"] for one in wanted["words"]]
    page = visit.go("#/classify?run=entailment&text=a+cat&more=a+dog")
    assert names(page.locator("p.tokens .special")) == ["start", "delimiter", "extract"]
    rows = {tuple(row.split("\n")[::2]) for row in names(page.locator("[aria-label='The words that decided'] li"))}
    assert rows == {("a (1)", "a"), ("cat", "a"), ("a (2)", "b"), ("dog", "b")}, "a word, and the text it stands in"
    evidence = page.locator("[aria-label='Evidence of words alone'] .where")
    of = {text.partition(",")[0] for text in names(evidence)}
    assert of <= {"a", "b", "both texts"}, "texts are called by their columns"
    page = visit.go("#/classify?run=multiple-choice", "main .note")
    for name, text in (("story", "The cat"), ("answer 0", "sat"), ("answer 1", "a dog")):
        page.get_by_label(name).fill(text)
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector(".outputs")
    assert page.locator(".outputs li").count() == 2
    assert "speaks for answer" in page.locator(".legend").inner_text()
    page = visit.go("#/classify?run=books", "main .note")
    assert "knows no classes" in page.locator("main").inner_text()


def test_compare(visit: Visit) -> None:
    page = visit.go("#/compare?run=books&other=books&text=a+cat")
    assert names(page.locator(".cards b"))[2] == "+0.000"
    assert "below 0, second text reads it better" in page.locator(".cards").first.inner_text()
    page = visit.go(VIEWS["compare"])
    shown = "".join(page.locator(".tokens").first.locator("[role=option]").all_text_contents())
    assert shown.replace("[end]", "") == TEXT
    page.locator(".tokens").first.locator("[role=option]").nth(2).click()
    assert "classification" in page.locator("p[role=status]").inner_text()
    page = visit.go("#/compare?run=books&other=books&text=a+cat&text2=a+dog+sat")
    assert page.locator(".tokens").count() == 2


PIECES: list[tuple[list[str], list[str], list[tuple[str, int, int]] | None]] = [
    (["Once", " upon", " a"], ["O", "nce", " ", "up", "on a"], [("Once", 1, 6), (" upon a", 5, 9)]),
    (["a", " ", " b"], ["a", "  b"], [("a ", 3, 1), (" b", 3, 2)]),
    (["once</w>", "upon</w>"], ["Once", " upon"], [("once ", 1, 1), ("upon ", 2, 2)]),
    (["once</w>"], ["Once", "\\n"], None),
]


@pytest.mark.parametrize(("one", "two", "wanted"), PIECES, ids=range(len(PIECES)))
def test_two_tokenizations_are_matched(visit: Visit, one: list[str], two: list[str], wanted: Any) -> None:
    """The surprise of a piece is the sum of those of its tokens, which are 1, 2, 3, ... here."""
    page = visit.go("#/compare", "h1")
    sides = [[{"token": token, "nats": n} for n, token in enumerate(side, 1)] for side in (one, two)]
    match = "async ([one, two]) => (await import('/page/compare.js')).commonPieces(one, two)"
    found = page.evaluate(match, sides)
    assert (found and [(piece["token"], piece["one"], piece["two"]) for piece in found]) == wanted


def test_train_lives(visit: Visit, tuned: dict[str, Path]) -> None:
    page = visit.go(VIEWS["train"])
    headings = names(page.locator("h2"))
    assert [heading[:2] for heading in headings[:3]] == ["L2", "L1", "L3"]
    assert page.locator("blockquote").inner_text() == "Once <b>upon</b>"
    assert page.locator("polyline").count() >= 6
    with (tuned["classification"] / log.NAME).open("a") as file:
        file.write('{"step": 40, "lm": 1.0, "task": 0.1}\n')
    until(lambda: page.evaluate("document.querySelector('.cards b').textContent == '40'"))
    page.route("**/curves", lambda route: route.abort())
    page.wait_for_selector(".error")
    assert page.locator(".error").inner_text().startswith("The server does not answer.")
    page.unroute("**/curves")
    until(lambda: not page.locator(".error").count())
    assert visit.complaints == ["Failed to load resource: net::ERR_FAILED"] * len(visit.complaints)
    visit.complaints.clear()
    page = visit.go("#/train?run=entailment", "main .note")
    assert "holds no measurements" in page.locator("main").inner_text()


HOSTILE = [
    "<script>document.title = 'run'</script><img src=x onerror=alert(1)>\u202er\u202c",
    "<|end|><|start|> \x00\x1b[31m\x7f {{7*7}} Z\u0351\u036b\u0343 \U0001f469\u200d\U0001f469" + "w" * 15,
]
# Mixed at random for the slow test.
HOSTILE_PARTS = [
    "<script>document.title = 'run'</script>", "<img src=x onerror=\"document.title = 'run'\">",
    "<svg/onload=document.title='run'>", "</textarea></title></style>--></script>", "<a href=javascript:alert(1)>a</a>",
    "&lt;script&gt;&#60;b&#62;", "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}", "' OR 1=1 -- \" ; DROP TABLE runs",
    "../../etc/passwd", "\r\nSet-Cookie: a=b\r\n\r\n", "\x00\x07\x08\x1b[2J\x7f\x9b", "\u202e\u2066\u200f\u061c txet",
    "\ufeff\u200b\u2028\u2029", "<|start|> <|delimiter|> <|extract|> <|end|> [end]", "Z" + "\u0351\u036b\u0343" * 20,
    "\U0001f469\u200d\U0001f467 \U000e0041", "w" * 200, "\u05d0\u05d1 \u0627\u0644 \u4e2d", "%00%0a%3Cscript%3E",
    "__proto__ constructor toString",
]  # fmt: skip


def check_inert(visit: Visit, view: str, text: str) -> None:
    """Whether a view shows a text as text, within the width of a phone."""
    run = "classification" if view == "classify" else "books"
    page = visit.go(f"#/{view}?run={run}&text={quote(text)}", f"{READY[view]}, .error")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, (view, text)
    assert page.title().lower().startswith(view)
    assert not page.locator("main script, main img, main svg[onload], main a[href^=javascript]").count()


def test_hostile_texts_are_inert(browser: Any, served: Running) -> None:
    visit = Visit(browser, served.url, PHONE)
    for text in HOSTILE:
        for view in ("read", "attend", "write", "classify", "compare"):
            check_inert(visit, view, text)
    page = visit.go(f"#/read?run=books&text={quote(HOSTILE[1])}")
    assert page.locator(".tokens .special").count() == 1, "text does not forge the end token"
    visit.page.close()
    assert not [text for text in visit.complaints if "status of 400" not in text]


@pytest.mark.slow
def test_a_hundred_hostile_texts_are_inert(browser: Any, served: Running) -> None:
    visit, draw = Visit(browser, served.url, PHONE), random.Random(1)
    mixed = (" ".join(draw.sample(HOSTILE_PARTS, draw.randint(2, 4))) for _ in range(99 - len(HOSTILE_PARTS)))
    for number, text in enumerate([*HOSTILE_PARTS, *mixed, "a" * 1_000_000]):
        check_inert(visit, ("read", "classify", "write", "attend", "compare")[number % 5], text)
    visit.page.close()
    assert not [text for text in visit.complaints if "status of 4" not in text]


def test_errors_are_sentences_in_place(browser: Any, served: Running, books: Path) -> None:
    visit = Visit(browser, served.url)
    for address, sentence in {
        "#/read?run=nothing": "No run of the name nothing is served here; there are books",
        f"#/read?run=books&text={'cat+' * 999}": "at most 256 are explained; shorten it.",
        f"#/write?run=books&text={'cat+' * 99}": "reads 64 at most; shorten it.",
        "#/attend?run=books&layer=9": "layer must be below 2",
        "#/classify?run=entailment&text=a": "reads two texts, not 1",
    }.items():
        page = visit.go(address, ".error")
        assert sentence.lower() in page.locator(".error").inner_text().lower()
        assert page.locator("nav a").count() == 6
    page = visit.go("#/read?run=nothing", ".error")
    page.get_by_label("Run").select_option("books")  # the first one
    page.wait_for_selector(READY["read"])
    for size, sentence in ((10**5, "bytes"), (10**6, "1,000,000 characters; this page takes 200,000")):
        page = visit.go(VIEWS["read"])
        page.get_by_label("Text to read").evaluate(f"(field) => {{ field.value = 'a'.repeat({size}); }}")
        page.get_by_role("button", name="Read", exact=True).click()
        page.wait_for_selector(".error")
        assert sentence in page.locator(".error").inner_text()
        assert page.get_by_role("button", name="Read", exact=True).is_enabled()
    visit.page.close()
    # Chromium itself writes the status of a refused request to the console.
    assert not [text for text in visit.complaints if not text.startswith("Failed to load resource")]


def test_a_server_with_a_token(browser: Any, books: Path) -> None:
    rules = LOCAL.__class__(hosts=LOCAL.hosts, token="s3cret", public=FILES)
    with running(books, rules=rules) as server:
        visit = Visit(browser, server.url)
        page = visit.go(VIEWS["read"], "input[type=password]")
        for token, wanted in (("wrong", "input[type=password]"), ("s3cret", ".panel .row")):
            playwright.expect(page.get_by_label("Token")).to_have_value("")  # else the form is still the one before
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Open").click()
            page.wait_for_selector(wanted)
        assert "s3cret" not in page.url
        visit.page.close()


SHOTS = {
    "read": ("#/read", 1000, "light"), "phone": ("#/read", PHONE, "dark"),
    "write": ("#/write?text=It+was+a+dark+night,+and&k=8", 1000, "dark"),
    "attend": ("#/attend?layer=2&head=3&at=32", 1000, "light"),
}  # fmt: skip


@pytest.mark.skipif("GPT1_SCREENSHOTS" not in os.environ, reason="GPT1_SCREENSHOTS names no folder for pictures")
def test_pictures_for_the_readme(browser: Any) -> None:
    with running(os.environ.get("GPT1_RUN", "starter")) as server:
        for name, (address, width, scheme) in SHOTS.items():
            visit = Visit(browser, server.url, width, scheme)
            page = visit.go(address, READY[address[2:].partition("?")[0]])
            for row in (0, 1, 0, 2) if name == "write" else ():
                page.locator(".stages tbody button").nth(row).click()
                page.wait_for_timeout(1000)
            page.set_viewport_size({"width": width, "height": 900 if width > PHONE else 1000})
            page.screenshot(path=Path(os.environ["GPT1_SCREENSHOTS"]) / f"page-{name}.png")
            page.close()
