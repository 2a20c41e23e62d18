"""OpenAI's 2018 layout: its forward pass, written out here once more, is the oracle; there and back is the same."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import one_line
from gpt1.commands.convert import convert
from gpt1.config import Columns, Convert, Model
from gpt1.conversion.verify import probe_words
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.openai import read_bpe, write_bpe
from gpt1.tokenizer.tokenizer import END, PAD, Tokenizer
from gpt1.tokenizer.train_bpe import train

CONTEXT, WIDTH, DEPTH, HEADS = 24, 32, 3, 4
# Shapes of a block in the released params_shapes.json, at another width.
PER_BLOCK = [
    [1, 32, 96], [96], [1, 32, 32], [32], [32], [32], [1, 32, 128], [128], [1, 128, 32], [32], [32], [32],
]  # fmt: skip
# Tokens of the `tokenizer` fixture, without end and pad.
TOKENS = 81


@pytest.fixture
def release(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A tiny release with random weights that look trained: gains and biases are not 1 and 0."""
    folder = tmp_path / "release"
    plain = tokenizer.vocabulary - 2
    shapes = [[CONTEXT, WIDTH], [plain, WIDTH], *PER_BLOCK * DEPTH]
    row = np.random.default_rng(3).standard_normal(sum(math.prod(s) for s in shapes)).astype(np.float32) * 0.3
    write_row(folder, row)
    (folder / "params_shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    write_bpe(tokenizer, plain, folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe")
    return folder


def write_row(folder: Path, row: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(np.array_split(row, 10)):
        np.save(folder / f"params_{number}.npy", part)


def read_row(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(folder / f"params_{number}.npy") for number in range(10)])


def to_run(release: Path, out: Path) -> dict[str, Any]:
    return convert(Convert(src=str(release), out=str(out), heads=HEADS))


def to_openai(run: Path, out: Path) -> dict[str, Any]:
    return convert(Convert(src=str(run), out=str(out), to="openai"))


def released_forward(folder: Path, ids: list[int]) -> np.ndarray:
    """Logits (T, V) as the released train.py computes them: whole arrays, one head and one position at a time."""
    shapes = json.loads((folder / "params_shapes.json").read_text(encoding="utf-8"))
    flat = np.split(read_row(folder).astype(np.float64), np.cumsum([math.prod(s) for s in shapes]))[:-1]
    params = [array.reshape(shape) for array, shape in zip(flat, shapes, strict=True)]
    we = np.concatenate([params[1], params[0]])  # one table: tokens, then positions, which are looked up by id
    h = np.stack([we[i] + we[len(params[1]) + t] for t, i in enumerate(ids)])
    for layer in range(DEPTH):
        w = params[2 + 12 * layer : 14 + 12 * layer]
        q, k, v = np.split(h @ w[0][0] + w[1], 3, axis=1)
        a = np.zeros_like(h)
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            for t in range(len(ids)):
                scores = k[: t + 1, part] @ q[t, part] / math.sqrt(WIDTH / HEADS)
                p = np.exp(scores - scores.max())
                a[t, part] = p / p.sum() @ v[: t + 1, part]
        n = layer_norm(h + a @ w[2][0] + w[3], w[4], w[5])
        u = n @ w[6][0] + w[7]
        u = 0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = layer_norm(n + u @ w[8][0] + w[9], w[10], w[11])
    return h @ params[1].T


def layer_norm(x: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * g + b


@torch.no_grad()
def test_a_release_becomes_a_run_that_computes_what_it_did(release: Path, tmp_path: Path) -> None:
    result = to_run(release, tmp_path / "run")
    run = load_run(tmp_path / "run")
    ids = np.random.default_rng(1).integers(0, TOKENS, CONTEXT).tolist()
    expected = released_forward(release, ids)
    logits = run.body.logits(run.body(torch.tensor([ids])))[0, :, :TOKENS].numpy()
    assert expected.std() > 0.5
    assert np.abs(logits - expected).max() < 1e-5
    assert result["largest_difference"] == 0, "the weights are the same"
    assert result["logits"] == CONTEXT * TOKENS
    assert result["tokens"] > 30
    assert (result["source"], result["vocabulary"], result["context"]) == ("openai", TOKENS + 2, CONTEXT)
    assert result["new_tokens"] == [END, PAD]
    assert result["parameters"] == run.metadata.parameters == len(read_row(release)) + 2 * WIDTH
    assert run.tokenizer.kind == "gpt1"
    assert "openai" in str(run.metadata.converted_from)


def bpe(word: str, ids: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """The ids of one word: the neighbours that training merged first are merged, until there are none."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        first, second = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        for symbol in symbols:
            if merged and (merged[-1], symbol) == (first, second):
                merged[-1] += symbol
            else:
                merged.append(symbol)
        symbols = merged
    return [ids.get(symbol, ids["<unk>"]) for symbol in symbols]


def test_bpe_by_hand() -> None:
    """The first merge learnt goes first wherever it stands, from left to right; what nothing merges stays."""
    ids = {token: i for i, token in enumerate("<unk> a b a</w> b</w> ab abb aa aa</w>".split())}
    ranks = {("a", "b"): 0, ("a", "a"): 1, ("ab", "b"): 2, ("a", "a</w>"): 3}

    def spelled(word: str) -> list[str]:
        return [list(ids)[i] for i in bpe(word, ids, ranks)]

    assert spelled("abba") == ["abb", "a</w>"]
    assert spelled("aaaa") == ["aa", "aa</w>"]
    assert spelled("aab") == ["aa", "b</w>"]
    assert spelled("c") == ["<unk>"]


def test_words_get_the_ids_of_the_two_files(release: Path, tmp_path: Path) -> None:
    to_run(release, tmp_path / "run")
    ids, merges = read_bpe(release / "encoder_bpe_40000.json", release / "vocab_40000.bpe")
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ours, words = load_run(tmp_path / "run").tokenizer, probe_words(ids)
    assert len(words) > 10
    for word in words:
        assert ours.encode(word) == bpe(word, ids, ranks)


def test_new_tokens_are_the_mean_of_all_and_never_likelier(release: Path, tmp_path: Path) -> None:
    to_run(release, tmp_path / "run")
    run = load_run(tmp_path / "run")
    rows = run.body.tokens.weight.detach()
    assert torch.allclose(rows[TOKENS], rows[:TOKENS].mean(0), atol=1e-7)
    assert torch.equal(rows[TOKENS], rows[TOKENS + 1])
    p_NTV = run.body.logits(run.body(torch.arange(CONTEXT)[None])).softmax(-1)
    assert (p_NTV[..., TOKENS:] <= 1 / TOKENS).all(), "exp(mean) is at most the mean of exp"


def test_there_and_back(release: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """release -> run -> release: every number, shape, merge and id."""
    to_run(release, tmp_path / "run")
    result = to_openai(tmp_path / "run", tmp_path / "back")
    assert sorted(path.name for path in release.iterdir()) == sorted(p.name for p in (tmp_path / "back").iterdir())
    for path in release.iterdir():
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name
    assert (result["vocabulary"], result["largest_difference"] < 1e-5) == (TOKENS, True)


@pytest.mark.parametrize("trained", [True, False])
def test_back_and_there(trained: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """run -> release -> run: the same bytes, also of end and pad where they were trained."""
    model = Model(context=CONTEXT, width=64, depth=2, heads=1, inner=256, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(1))
    if not trained:
        rows = body.tokens.weight.data
        rows[-2:] = torch.from_numpy(rows[:-2].numpy().mean(0, dtype=np.float64))
    save_run(tmp_path / "run", body, tokenizer, RunMetadata(kind="pretrained"))
    assert to_openai(tmp_path / "run", tmp_path / "release")["vocabulary"] == TOKENS + 2 * trained
    convert(Convert(src=str(tmp_path / "release"), out=str(tmp_path / "again")))  # 64 wide: one head
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert load_run(tmp_path / "again").tokenizer.hash == tokenizer.hash
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()


def test_twice_the_same(release: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        to_run(release, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_parts_of_any_size_are_one_row(release: Path, tmp_path: Path) -> None:
    row = read_row(release)
    bounds = [0, 1, 2, 700, 701, 5000, 5001, 5002, 20000, 20001, len(row)]
    to_run(release, tmp_path / "even")
    for number in range(10):
        np.save(release / f"params_{number}.npy", row[bounds[number] : bounds[number + 1]])
    to_run(release, tmp_path / "odd")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("even", "odd")]
    assert weights[0] == weights[1]


def test_openais_own_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    shapes = [[16, 64], [40478, 64], *([size if size == 1 else 2 * size for size in shape] for shape in PER_BLOCK)]
    write_row(folder, np.random.default_rng(1).standard_normal(sum(map(math.prod, shapes))).astype(np.float32))
    (folder / "params_shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe"):
        (folder / name).write_bytes((shared_data / "gpt1-vocab" / name).read_bytes())
    result = convert(Convert(src=str(folder), out=str(tmp_path / "run")))
    assert (result["vocabulary"], result["heads"], result["tokens"] > 2000) == (40480, 1, True)
    assert to_openai(tmp_path / "run", tmp_path / "back")["vocabulary"] == 40478
    assert (folder / "vocab_40000.bpe").read_bytes() == (tmp_path / "back" / "vocab_40000.bpe").read_bytes()
    ids = [json.loads((f / "encoder_bpe_40000.json").read_text(encoding="utf-8")) for f in (folder, tmp_path / "back")]
    assert ids[0] == ids[1]


def refused(release: Path, out: Path, *words: str) -> None:
    """Converting is one line of UserError with all words, and nothing is left."""
    with one_line(*words):
        to_run(release, out)
    assert not out.exists()


def test_files_that_are_missing(release: Path, tmp_path: Path) -> None:
    for name in [path.name for path in release.iterdir()]:
        whole = (release / name).read_bytes()
        (release / name).unlink()
        refused(release, tmp_path / "run", name, "is missing")
        (release / name).write_bytes(whole)


def test_a_shard_cut_short_or_of_another_kind(release: Path, tmp_path: Path) -> None:
    shard = release / "params_4.npy"
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", b"no numpy file"):
        shard.write_bytes(damaged)
        refused(release, tmp_path / "run", "params_4.npy", "damaged or cut short")
    part = np.load(release / "params_3.npy")
    for other in (part.astype(np.float64), part[None], part.astype(np.int32)):
        np.save(shard, other)
        refused(release, tmp_path / "run", "params_4.npy", "one row of float32")
    shard.write_bytes(whole)
    np.save(release / "params_10.npy", part)
    refused(release, tmp_path / "run", "params_10.npy", "one too many")


def test_a_shard_is_never_unpickled(release: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    np.save(release / "params_0.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused(release, tmp_path / "run", "params_0.npy")
    assert not (tmp_path / "ran").exists()


def test_shapes_that_do_not_add_up(release: Path, tmp_path: Path) -> None:
    shapes = json.loads((release / "params_shapes.json").read_text(encoding="utf-8"))

    def given(value: object, *words: str) -> None:
        (release / "params_shapes.json").write_text(json.dumps(value), encoding="utf-8")
        refused(release, tmp_path / "run", "params_shapes.json", *words)

    total = len(read_row(release))
    given([[CONTEXT + 1, WIDTH], *shapes[1:]], f"{total + WIDTH:,}", f"{total:,}")
    given(shapes[:-1], f"{len(shapes) - 1} shapes")
    given([*shapes[:4], [1, 32, 31], *shapes[5:]], "shape 4", "transformer.h.0.attn.c_proj.weight", "[1, 32, 32]")
    given([[CONTEXT, 32.5], *shapes[1:]], "list of shapes")
    given({}, "list of shapes")
    (release / "params_shapes.json").write_text("[[", encoding="utf-8")
    refused(release, tmp_path / "run", "params_shapes.json", "damaged")


def test_a_vocabulary_of_another_size(release: Path, tmp_path: Path) -> None:
    ids = json.loads((release / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    (release / "encoder_bpe_40000.json").write_text(json.dumps({**ids, "zzz": len(ids)}), encoding="utf-8")
    refused(release, tmp_path / "run", "encoder_bpe_40000.json", f"{TOKENS + 1} tokens", f"{TOKENS} rows")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"a": "b"}, ("'a'", "'b'")),
        ({"a": 1}, ("same id, 1",)),
        ({"a": 10_000}, ("'a'", "10000", f"0 to {TOKENS - 1}")),
        ({"<unk>": None}, ("'<unk>'", "None")),
    ],
)
def test_ids_that_are_none(changed: dict[str, Any], words: tuple[str, ...], release: Path, tmp_path: Path) -> None:
    file = release / "encoder_bpe_40000.json"
    ids = json.loads(file.read_text(encoding="utf-8"))
    assert ids["a"] != 1
    file.write_text(json.dumps(ids | changed), encoding="utf-8")
    refused(release, tmp_path / "run", file.name, *words)


@pytest.mark.parametrize("line", ["t", "t h e", "", "t  h", "qq qq", " t"])
def test_a_merges_file_with_a_bad_line(line: str, release: Path, tmp_path: Path) -> None:
    file = release / "vocab_40000.bpe"
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([*lines[:7], line, *lines[7:]]), encoding="utf-8")
    refused(release, tmp_path / "run", "vocab_40000.bpe, line 8", repr(line))


def test_weights_that_are_no_numbers(release: Path, tmp_path: Path) -> None:
    row = read_row(release)
    row[CONTEXT * WIDTH + 5 * WIDTH + 2] = np.nan
    write_row(release, row)
    refused(release, tmp_path / "run", "transformer.tokens_embed.weight", "nan", "(5, 2)")


def test_heads(release: Path, tmp_path: Path) -> None:
    for heads, words in ((0, ("32", "64", "heads")), (5, ("heads 5", "32"))):
        with pytest.raises(UserError) as caught:
            convert(Convert(src=str(release), out=str(tmp_path / "run"), heads=heads))
        assert all(word in str(caught.value) for word in words)


def test_what_openais_layout_cannot_hold(release: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def cannot(src: Path, words: str) -> None:
        with pytest.raises(UserError, match=words):
            to_openai(src, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    cannot(release, "takes a run folder")
    to_run(release, tmp_path / "run")
    small = Model(context=8, width=64, depth=1, heads=1, inner=256)
    other = train(["a cat " * 20], "bytes", 260)
    body = GPT(replace(small, vocabulary=260)).init_weights()
    save_run(tmp_path / "bytes", body, other, RunMetadata(kind="pretrained"))
    cannot(tmp_path / "bytes", "kind bytes")
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["a", "b"], columns=Columns(["text"], ["label"])
    )
    tuned = tokenizer.with_task_tokens()
    body = GPT(replace(small, vocabulary=tuned.vocabulary)).init_weights()
    save_run(tmp_path / "tuned", body, tuned, metadata, torch.zeros(2, 64))
    cannot(tmp_path / "tuned", "fine-tuned")
    body.tokens.weight.data[0, 0] = math.inf
    save_run(tmp_path / "infinite", body, tuned, RunMetadata(kind="pretrained"))
    cannot(tmp_path / "infinite", r"tokens_embed.weight holds inf at \(0, 0\)")
