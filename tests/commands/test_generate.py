"""Generation as a user meets it: texts, endings, streaming, prompts too long, settings out of range."""

import inspect
import random
import re
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from gpt1.commands.generate import generate, show
from gpt1.config import Generate, Model
from gpt1.errors import RunFailed, UserError
from gpt1.model.gpt import GPT
from gpt1.model.int8 import has_int8
from gpt1.model.kv_cache import Step
from gpt1.run_folder import generation
from gpt1.run_folder.folder import LoadedRun, load_run, save_run
from gpt1.run_folder.generation import SETTLED, Generation, GenerationOptions, Sample, truncate_prompt
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.openai import read_vocabulary
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

TEXT = "Once upon a time there was a cat. The cat sat on a mat; a dog, too: été 春 🤗. "
CONTEXT = 32
LOOSE = Generate(run="", temperature=1.0, top_p=1.0, max_new_tokens=20)
OPTIONS = GenerationOptions(top_p=1.0, max_new_tokens=20)
needs_int8 = pytest.mark.skipif(not has_int8(), reason="this CPU has no 8-bit product")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([TEXT * 30], "bytes", 300)


@pytest.fixture(scope="module")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    model = Model(context=CONTEXT, width=32, depth=2, heads=4, inner=128, vocabulary=tokenizer.vocabulary)
    folder = tmp_path_factory.mktemp("run")
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    save_run(folder, body, tokenizer, RunMetadata(kind="pretrained"))
    return str(folder)


@pytest.fixture
def says(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """Make the model say a given text, then end tokens; returns the text's ids."""

    def script(text: str) -> list[int]:
        ids = tokenizer.encode(text)

        class Decoder:
            def __init__(self, _body: object) -> None:
                self.said: list[int] = []  # number of tokens of each row

            def join(self, prompts: list[list[int]], *_how: object) -> Step:
                self.said += [0] * len(prompts)
                return self.step()

            def step(self) -> Step:
                self.said = [count + 1 for count in self.said]
                tokens = [ids[n - 1] if n <= len(ids) else tokenizer.end_id for n in self.said]
                return Step(tokens, torch.empty(0), torch.empty(len(tokens), 0))

            def leave(self, n: int) -> None:
                self.said[n] = self.said[-1]
                self.said.pop()

        monkeypatch.setattr(generation, "Decoder", Decoder)
        return ids

    return script


def samples(run: str, **settings: object) -> list[Sample]:
    asked = replace(LOOSE, run=run, threads=1, **({"dtype": "fp32"} | settings))  # type: ignore[arg-type]
    return generate(asked)["samples"]


def test_several_prompts_and_samples_are_deterministic_and_independent(run: str) -> None:
    together = samples(run, prompts=["Once", "", "A dog, too"], num=3)
    assert [sample["prompt"] for sample in together] == ["Once"] * 3 + [""] * 3 + ["A dog, too"] * 3
    assert len({sample["text"] for sample in together}) == 9
    assert together[3:6] == samples(run, prompts=[""], num=3)
    assert together[:1] == samples(run, prompts=["Once"])
    assert samples(run, prompts=["Once"], seed=2) != together[:1]


# From Python


def test_python_generates_what_the_command_does(run: str) -> None:
    import gpt1

    sample = gpt1.load(run).generate("Once upon a time", max_new_tokens=5, seed=3)
    assert sample == samples(run, prompts=["Once upon a time"], max_new_tokens=5, seed=3, top_p=0.95)[0]


def test_python_generates_a_result_for_each_prompt(run: str) -> None:
    loaded, prompts = load_run(run), ["Once", "", "A dog, too"]
    together = loaded.generate(prompts, max_new_tokens=20, top_p=1.0)
    assert together == [loaded.generate(one, max_new_tokens=20, top_p=1.0) for one in prompts]
    assert together == loaded.generate(iter(prompts), max_new_tokens=20, top_p=1.0)
    assert loaded.generate(["Once"], max_new_tokens=20, top_p=1.0) == together[:1]
    assert loaded.generate([]) == []


def test_python_stops_at_one_string_or_several(run: str, says: Callable) -> None:
    says("The cat sat.")
    loaded = load_run(run)
    assert loaded.generate("a ", stop=" sat").text == loaded.generate("a ", stop=[".", " sat"]).text == "The cat"


@pytest.mark.parametrize(
    ("prompt", "keywords", "answer"),
    [
        (3, {}, "generate() argument 'prompt' must be a list of strings, not 3 (int)"),
        (["a", None], {}, "item 1 of generate() argument 'prompt' must be a string, not None"),
        ("a", {"temperature": "hot"}, "generate() argument 'temperature' must be a number, not 'hot' (str)"),
        ("a", {"stop": [1]}, "item 0 of generate() argument 'stop' must be a string, not 1 (int)"),
        (["a"], {"stream": True}, "generate() streams one prompt, a string; leave out stream=True for several"),
        ("a", {"temprature": 1.0}, "LoadedRun.generate() got an unexpected keyword argument 'temprature'"),
    ],
)
def test_python_names_what_it_does_not_understand(run: str, prompt: object, keywords: dict, answer: str) -> None:
    with pytest.raises(TypeError) as caught:
        load_run(run).generate(prompt, **keywords)
    assert str(caught.value).startswith(answer)


def test_help_of_generate_has_the_defaults_of_the_command() -> None:
    shown = inspect.signature(LoadedRun.generate).parameters
    for one in fields(GenerationOptions):
        default = getattr(Generate, one.name, ())
        assert shown[one.name].default == default
        written = "()" if default == () else default
        assert f"{one.name} : " in (LoadedRun.generate.__doc__ or "")
        assert re.search(rf"\b{one.name} : .*, default {re.escape(str(written))}\n", LoadedRun.generate.__doc__ or "")


def test_what_load_returns_is_printed_in_one_line(run: str) -> None:
    shown = repr(load_run(run))
    assert shown.startswith("LoadedRun(pretrained, ")
    assert shown.endswith(" parameters, context 32, vocabulary 300)")
    sample = Sample("Once", "x" * 500, 100, "length")
    assert len(repr(sample)) < 150


FORMS = [{"dtype": "bf16"}, pytest.param({"quantize": "int8"}, marks=needs_int8)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_python_uses_the_form_asked_for_and_leaves_the_loaded_network_alone(run: str, form: dict) -> None:
    loaded = load_run(run)
    before = {name: weight.clone() for name, weight in loaded.body.state_dict().items()}
    sample = loaded.generate("Once", top_p=1.0, max_new_tokens=20, **form)
    (wanted,) = samples(run, prompts=["Once"], **form)
    assert sample == wanted
    assert loaded.generate("Once", top_p=1.0, max_new_tokens=20) == samples(run, prompts=["Once"])[0]
    after = loaded.body.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    first, second = (loaded._converted("cpu", form.get("dtype", "fp32"), form.get("quantize", "none")) for _ in "ab")
    assert first is second is not loaded.body


def test_python_streams_pieces_that_add_up_to_the_text(run: str, says: Callable) -> None:
    says("The cat sat. 🤗")
    loaded = load_run(run)
    pieces = loaded.generate("a ", stream=True, max_new_tokens=30)
    assert iter(pieces) is pieces
    found = list(pieces)
    assert len(found) > 3
    assert "".join(found) == loaded.generate("a ", max_new_tokens=30).text == "The cat sat. 🤗"


def test_python_threads_are_for_generating_only(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, before, seen = load_run(run), torch.get_num_threads(), []
    real = GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda *args: seen.append(torch.get_num_threads()) or real(*args))
    state = torch.get_rng_state()
    loaded.generate("Once", threads=before + 1, max_new_tokens=3)
    for _ in loaded.generate("Once", threads=before + 1, max_new_tokens=3, stream=True):
        assert torch.get_num_threads() == before
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "tpu"}, {"dtype": "fp16"}, {"threads": -1}, {"quantize": "int4"}, {"seed": -1}, {"top_p": 0.0},
        {"max_new_tokens": 0}, {"stop": [""]},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_python_refuses_what_cannot_be(run: str, wrong: dict, stream: bool) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        load_run(run).generate("a", stream=stream, **wrong)


@pytest.mark.parametrize("unknown", [{"num": 3}, {"prompts": ["a"]}, {"max_tokens": 3}], ids=str)
def test_python_refuses_settings_that_it_has_not(run: str, unknown: dict) -> None:
    with pytest.raises(TypeError, match=next(iter(unknown))):
        load_run(run).generate("a", **unknown)


# The command


@needs_int8
def test_8_bit_weights_write_too(run: str) -> None:
    (sample,) = samples(run, prompts=["Once"], quantize="int8")
    assert sample["tokens"] == 20 or sample["finish_reason"] == "end"


def test_8_bit_weights_without_the_product_are_refused(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.model.int8.has_int8", lambda: False)
    with pytest.raises(UserError, match="quantize int8: cpu has no 8-bit product") as caught:
        samples(run, quantize="int8")
    assert "\n" not in str(caught.value)


def test_every_ending_says_why(run: str, says: Callable) -> None:
    ids = says("The cat sat on a mat; a dog")
    (ended,) = samples(run, prompts=["x"], max_new_tokens=25)
    assert dict(ended) == {
        "prompt": "x", "text": "The cat sat on a mat; a dog", "tokens": len(ids), "finish_reason": "end",
    }  # fmt: skip
    (long,) = samples(run, prompts=["x"], max_new_tokens=3)
    assert (long["tokens"], long["finish_reason"]) == (3, "length")
    (stopped,) = samples(run, prompts=["x"], stop=["zzz", "mat; a", "sat on a mat"], max_new_tokens=25)
    assert (stopped["text"], stopped["finish_reason"]) == ("The cat ", "stop")


def test_a_full_context_ends_the_text(run: str, tokenizer: Tokenizer) -> None:
    (full,) = samples(run, prompts=["Once upon"], max_new_tokens=500, temperature=0)
    assert full["finish_reason"] == "context"
    assert full["tokens"] == CONTEXT - len(tokenizer.encode("Once upon")) + 1


BEYOND = {"beyond_context": True, "max_new_tokens": 3 * CONTEXT}


def test_a_text_goes_on_beyond_the_context(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["Once upon", "A dog", TEXT * 2]
    together = samples(run, prompts=prompts, num=2, **BEYOND)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("past the context of 32 tokens the window slides") == 1
    assert "from the last 25 to 32 tokens" in said
    assert {sample["finish_reason"] for sample in together} <= {"length", "end"}
    assert max(sample["tokens"] for sample in together) == 3 * CONTEXT
    for number, prompt in enumerate(prompts):
        assert samples(run, prompts=[prompt], num=2, **BEYOND) == together[2 * number : 2 * number + 2]
    within = samples(run, prompts=prompts[:1], max_new_tokens=3 * CONTEXT)[0]
    assert within["finish_reason"] == "context"
    assert together[0]["text"].startswith(within["text"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streamed_beyond_the_context_is_the_same(run: str, temperature: float) -> None:
    loaded = load_run(run)
    whole = loaded.generate("Once upon", temperature=temperature, **BEYOND)
    assert whole.tokens > CONTEXT
    assert "".join(loaded.generate("Once upon", temperature=temperature, stream=True, **BEYOND)) == whole.text


def test_a_stop_string_across_the_edge_ends_the_text(run: str, tokenizer: Tokenizer) -> None:
    loaded = load_run(run)
    text = loaded.generate("Once upon", **BEYOND).text
    room = CONTEXT - len(tokenizer.encode("Once upon")) + 1
    edge = len(loaded.generate("Once upon", max_new_tokens=room).text)
    stop = text[edge - 4 : edge + 4]
    assert text.index(stop) == edge - 4
    sample = loaded.generate("Once upon", stop=[stop], **BEYOND)
    assert (sample.text, sample.finish_reason) == (text[: edge - 4], "stop")
    assert "".join(loaded.generate("Once upon", stop=[stop], stream=True, **BEYOND)) == sample.text


def test_a_long_prompt_fills_the_whole_window(run: str, tokenizer: Tokenizer) -> None:
    loaded = load_run(run)
    window = tokenizer.encode(TEXT * 3)[-CONTEXT:]
    logits_V = loaded.body.logits(loaded.body(torch.tensor([window])))[0, -1]
    sample = loaded.generate(TEXT * 3, temperature=0, max_new_tokens=1, beyond_context=True)
    assert sample.text == tokenizer.decode([window[-1], int(logits_V.argmax())])[len(tokenizer.decode(window[-1:])) :]


def test_of_a_text_that_fits_nothing_is_said(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = samples(run, prompts=["Once"], max_new_tokens=5)
    assert samples(run, prompts=["Once"], max_new_tokens=5, beyond_context=True) == usual
    assert "slides" not in capsys.readouterr().err


def test_stop_strings_that_are_probably_meant_otherwise_are_told(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    samples(run, max_new_tokens=1, stop=["END", "Once upon"])
    assert "no prompt, so a new document begins: 'END', 'Once upon' are all stop" in capsys.readouterr().err
    samples(run, prompts=["Once"], max_new_tokens=1, stop=["\\n"])
    assert "stop holds a backslash and an n; in bash, a line end is written $'\\n'" in capsys.readouterr().err
    samples(run, prompts=["Once"], max_new_tokens=1, stop=["END", "\n"])
    assert "stop" not in capsys.readouterr().err


def test_the_name_of_a_file_as_a_prompt_is_told(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (prompt := tmp_path / "story.txt").write_text("Once", encoding="utf-8")
    assert samples(run, prompts=["Once", str(prompt)], max_new_tokens=1)[1]["prompt"] == str(prompt)
    assert "prompt 2 is the name of a file" in capsys.readouterr().err
    samples(run, prompts=["a\0b", "x" * 5_000], max_new_tokens=1)
    assert "name of a file" not in capsys.readouterr().err


def test_a_prompt_too_long_keeps_its_end_and_says_so(
    run: str, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = TEXT * 3
    kept = tokenizer.encode(prompt)[-(CONTEXT - 7) :]
    (cut,) = samples(run, prompts=[prompt], max_new_tokens=8, temperature=0)
    (end,) = samples(run, prompts=[tokenizer.decode(kept)], max_new_tokens=8, temperature=0)
    assert tokenizer.encode(tokenizer.decode(kept)) == kept
    assert (cut["text"], cut["tokens"], cut["prompt"]) == (end["text"], 8, prompt)
    said = " ".join(capsys.readouterr().err.split())
    assert f"prompt 1 has {len(tokenizer.encode(prompt))} tokens, more than the context of 32" in said
    assert said.count("prompt 1") == 1


@pytest.mark.parametrize(("size", "new", "keep"), [(32, 99, 32), (33, 1, 32), (33, 8, 25), (90, 99, 16)])
def test_how_much_is_kept(size: int, new: int, keep: int) -> None:
    ids, cut = truncate_prompt(list(range(size)), new, CONTEXT)
    assert ids == list(range(size))[-keep:]
    assert cut == size - keep


def pieces(tokenizer: Tokenizer, text: str, **settings: object) -> tuple[list[str], str]:
    """What streaming shows at each step, and the text in the end."""
    options = replace(OPTIONS, max_new_tokens=500, **settings)  # type: ignore[arg-type]
    row = Generation(tokenizer, "a", 0, options, context=1000)
    shown = []
    for token in [*tokenizer.encode(text), tokenizer.end_id]:
        row.add(token)
        shown.append(row.next_piece())
    return shown, row.text


def test_streaming_shows_whole_characters_and_words(tokenizer: Tokenizer) -> None:
    text = "The cat sätß 🤗🤗, 春 ok"
    shown, whole = pieces(tokenizer, text)
    assert "".join(shown) == whole == text
    cuts = list(accumulate(len(piece) for piece in shown if piece))[:-1]
    assert len(cuts) > 5
    assert not any(text[cut - 1].isalnum() and text[cut].isalnum() for cut in cuts)


@pytest.mark.parametrize("stop", ["a mat", " mat", "t on a m", "sat on a mat; a"])
def test_streaming_never_shows_a_stop_string(tokenizer: Tokenizer, stop: str) -> None:
    text = "The cat sat on a mat; a dog sat on"
    shown, whole = pieces(tokenizer, text, stop=[stop, "never"])
    assert "".join(shown) == whole == text[: text.index(stop)]


def test_what_only_began_like_a_stop_string_is_shown_in_the_end(tokenizer: Tokenizer) -> None:
    shown, whole = pieces(tokenizer, "a dog, too: été.", stop=["été. no"])
    assert "".join(shown) == whole == "a dog, too: été."


@pytest.mark.parametrize("kind", ["bytes", "gpt1", "openai2018"])
def test_a_long_text_is_decoded_as_if_at_once(kind: str, openai_folder: Path) -> None:
    """Also for ids at random, which are seldom whole characters."""
    if kind == "openai2018":
        pytest.importorskip("spacy")
        found = read_vocabulary(openai_folder, "2018")
    else:
        found = train([TEXT * 30], kind)  # type: ignore[arg-type]
    ids = found.encode((TEXT + "\n") * 12)
    numbers = random.Random(3)
    mixed = [number for number in (numbers.randrange(found.vocabulary) for _ in range(400)) if number != found.end_id]
    for new in (ids, mixed, [*ids[:70], *mixed]):
        row = Generation(found, "a", 0, replace(OPTIONS, max_new_tokens=5000), context=9000)
        shown = ""
        for number, token in enumerate(new, 1):
            row.add(token)
            shown += row.next_piece()
            whole = found.decode([row.ids[-1], *new[:number]])[len(found.decode(row.ids[-1:])) :]
            assert row.text == whole.rstrip("\N{REPLACEMENT CHARACTER}")
            assert row.text.startswith(shown)
        assert len(new) > 3 * SETTLED


def test_half_a_character_is_not_text(tokenizer: Tokenizer) -> None:
    row = Generation(tokenizer, "a", 0, replace(OPTIONS, max_new_tokens=2), context=1000)
    for byte in tokenizer.encode("\N{SNOWMAN}")[:2]:
        row.add(byte)
    assert (row.text, row.finish_reason, row.next_piece()) == ("", "length", "")


def test_stream_prints_to_standard_output_what_the_result_holds(
    run: str, says: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    says("The cat sat. 🤗")
    result = generate(replace(LOOSE, run=run, prompts=["a ", "b "], stream=True, threads=1))
    assert capsys.readouterr().out == "a The cat sat. 🤗\n\nb The cat sat. 🤗\n\n"
    assert [sample["text"] for sample in result["samples"]] == ["The cat sat. 🤗"] * 2
    assert show(result) is None
    assert show(replace(result, streamed=False)) == "a The cat sat. 🤗\n\nb The cat sat. 🤗"


def test_gpt1s_own_kind_keeps_the_space_behind_the_prompt() -> None:
    tokenizer = train([TEXT * 30], "gpt1")
    row = Generation(tokenizer, "Once upon", 0, OPTIONS, context=100)
    for token in tokenizer.encode("a time"):
        row.add(token)
    assert row.text == " a time"


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -0.1}, {"top_k": -1}, {"repetition_penalty": 0.0},
        {"max_new_tokens": 0}, {"num": 0}, {"stop": ["x", ""]},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))) as caught:
        generate(replace(LOOSE, run="nowhere", **wrong))
    assert "\n" not in str(caught.value)


def test_the_stream_of_random_numbers_is_the_samples_own(tokenizer: Tokenizer) -> None:
    rows = [Generation(tokenizer, prompt, n, OPTIONS, 100) for prompt in ("a", "b") for n in range(2)]
    assert len({row.random.random() for row in rows}) == 4


@pytest.mark.parametrize("stream", [True, False])
def test_running_out_of_memory_says_what_to_lower(run: str, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr("gpt1.model.kv_cache.KVCache", lambda *_: torch.empty(2**55))
    with pytest.raises(RunFailed, match=r"out of memory; lower .*max_new_tokens") as caught:
        samples(run, stream=stream)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunFailed, match="out of memory; lower max_new_tokens"):
        load_run(run).generate("a")


def test_the_result_is_one_json_document(run: str) -> None:
    result = generate(replace(LOOSE, run=run, prompts=["Once"], max_new_tokens=2, threads=1))
    assert list(result.to_json()) == ["samples", "tokens_per_second", "streamed"]
    assert list(result.to_json()["samples"][0]) == ["prompt", "text", "tokens", "finish_reason"]
