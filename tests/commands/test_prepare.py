"""`gpt1 prepare`: ids, splits, continuing after an interruption, and requests that cannot be met."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from conftest import NOT_UTF8, RayNodes, only_linux_names
from gpt1 import config
from gpt1.cli import main as cli
from gpt1.commands.prepare import PrepareResult, prepare, show
from gpt1.data import documents
from gpt1.data import prepare as making
from gpt1.data.documents import Corpus, FileGroup, Portion, document_hash
from gpt1.data.prepare import State, safe_cut
from gpt1.data.shards import ShardWriter, TokenStream, read_manifest
from gpt1.errors import RunFailed, UserError
from gpt1.tokenizer.clean import clean
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import BpeTrainer, train

WORDS = "the a hare tortoise ran slept and won lost race, hill. over “morning” naïve It’s 1,234 żółw".split()
VOCABULARY = 300


def story(seed: int, words: int = 120) -> str:
    """Nonsense in lines and paragraphs."""
    chosen = np.random.default_rng(seed).integers(len(WORDS), size=words)
    return "".join(WORDS[n] + ("\n\n" if i % 40 == 39 else "\n" if i % 12 == 11 else " ") for i, n in enumerate(chosen))


STORIES = [story(seed) for seed in range(30)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of thirty stories."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(STORIES):
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8", newline="")
    return folder


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a story or so, many shards."""
    monkeypatch.setattr(documents, "BLOCK", 900)
    monkeypatch.setattr(making, "SHARD_TOKENS", 1000)


def run(out: Path, *inputs: Path | str, **settings: Any) -> PrepareResult:
    defaults = {"vocabulary": VOCABULARY, "val_fraction": 0.1}
    return prepare(config.Prepare(inputs=[str(x) for x in inputs], out=str(out), **{**defaults, **settings}))


def ids(out: Path, split: Any) -> list[int]:
    stream = TokenStream(out, split)
    return stream.read(0, len(stream)).tolist()


def texts(out: Path, split: Any) -> list[str]:
    """The documents of a split, decoded."""
    tokenizer, found = Tokenizer.load(out), [[]]
    for token in ids(out, split):
        found[-1].append(token)
        if token == tokenizer.end_id:
            found.append([])
    assert found.pop() == []
    return [tokenizer.decode(document) for document in found]


def result_bytes(out: Path) -> dict[str, bytes]:
    """Every file of a result, but for how long it took and where things lay."""
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    manifest = json.loads(found.pop("manifest.json"))
    kept = {key: value for key, value in manifest.items() if key not in ("seconds", "settings", "inputs")}
    return found | {"manifest.json": json.dumps(kept).encode()}


# What comes out


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt1"])
def test_ids_are_those_of_each_document(tokenizer: str, corpus: Path, tmp_path: Path, in_small_steps: None) -> None:
    result = run(tmp_path / "out", corpus, tokenizer=tokenizer, vocabulary=0)
    found = Tokenizer.load(tmp_path / "out")
    expected: dict[str, list[int]] = {"train": [], "val": []}
    for text, hashed in zip(STORIES, document_hash(1, 0, len(STORIES)), strict=True):
        expected["val" if hashed < 0.1 else "train"] += [*found.encode(clean(text)), found.end_id]
    for split in ("train", "val"):
        assert ids(tmp_path / "out", split) == expected[split]
    assert len(read_manifest(tmp_path / "out").train.shards) > 3
    assert result["documents"] == 30
    assert result["tokens"] == len(expected["train"]) + len(expected["val"])
    assert result["bytes"] == sum(len(text.encode()) for text in STORIES)
    assert (result["vocabulary"], result["tokenizer"], result["unknown_rate"]) == (found.vocabulary, tokenizer, 0)
    json.dumps(result.to_json())
    show(result)


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in STORIES))


WRITERS: dict[str, Callable[[Path], None]] = {
    "jsonl": as_jsonl,
    "json": lambda path: path.write_text(json.dumps([{"text": text} for text in STORIES])) and None,
    "csv": lambda path: polars.DataFrame({"text": STORIES}).write_csv(path),
    "parquet": lambda path: polars.DataFrame({"text": STORIES}).write_parquet(path),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_the_same_shards(kind: str, packing: str, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / f"stories.{kind}"
    WRITERS[kind](path)
    if packing:
        packed = (gzip if packing == ".gz" else zstandard).compress(path.read_bytes())
        path = path.with_name(path.name + packing)
        path.write_bytes(packed)
    run(tmp_path / "out", path)
    run(tmp_path / "same", corpus)
    one, other = result_bytes(tmp_path / "out"), result_bytes(tmp_path / "same")
    del one["manifest.json"], other["manifest.json"]
    assert one == other


@only_linux_names
def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / f"{NOT_UTF8}.txt"
    path.write_text("".join(STORIES), encoding="utf-8")
    run(tmp_path / NOT_UTF8, path)
    assert [one["path"] for one in read_manifest(tmp_path / NOT_UTF8).inputs] == [str(path)]
    assert run(tmp_path / NOT_UTF8, path)["unchanged"]


def test_blocks_and_shards_change_no_token(
    corpus: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "CUT_WINDOW", 20)
    run(tmp_path / "whole", corpus)
    request.getfixturevalue("in_small_steps")
    monkeypatch.setattr(documents, "BLOCK", 100)
    run(tmp_path / "steps", corpus)
    for split in ("train", "val"):
        assert ids(tmp_path / "steps", split) == ids(tmp_path / "whole", split)
    whole, steps = read_manifest(tmp_path / "whole"), read_manifest(tmp_path / "steps")
    assert (whole.train.bytes, whole.train.documents) == (steps.train.bytes, steps.train.documents)


def test_what_repair_does_is_recorded_and_bytes_are_those_given(tmp_path: Path) -> None:
    broken = "schÃ¶n und gut\n" * 40
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{n} {broken}"}) + "\n" for n in range(9)))
    run(tmp_path / "cleaned", tmp_path / "a.jsonl", vocabulary=260)
    run(tmp_path / "raw", tmp_path / "a.jsonl", vocabulary=260, repair=False)
    assert "schön und gut" in texts(tmp_path / "cleaned", "val")[0]
    assert "schÃ¶n und gut" in texts(tmp_path / "raw", "val")[0]
    cleaned, raw = read_manifest(tmp_path / "cleaned"), read_manifest(tmp_path / "raw")
    assert (cleaned.settings["repair"], raw.settings["repair"]) == (True, False)
    assert cleaned.train.bytes == raw.train.bytes
    assert cleaned.train.tokens < raw.train.tokens


def test_a_tokenizer_you_have(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "first", corpus)
    result = run(tmp_path / "second", corpus / "03.txt", tokenizer=str(tmp_path / "first"), vocabulary=0)
    assert read_manifest(tmp_path / "second").tokenizer == read_manifest(tmp_path / "first").tokenizer
    assert result["tokenizer"] == "bytes"


def test_unknown_tokens_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("plain words " * 100)
    (tmp_path / "val.txt").write_text("plain 亀亀 words")
    result = run(
        tmp_path / "out", tmp_path / "train.txt", val=[str(tmp_path / "val.txt")], tokenizer="gpt1", vocabulary=0
    )
    assert result["unknown_rate"] == pytest.approx(read_manifest(tmp_path / "out").unknown_tokens / result["tokens"])
    assert result["unknown_rate"] > 0


# What validates


def test_the_split_depends_on_the_seed_alone(corpus: Path, tmp_path: Path) -> None:
    chosen = {}
    for seed in (1, 2):
        run(tmp_path / f"{seed}", corpus, seed=seed, val_fraction=0.3, vocabulary=0)
        chosen[seed] = texts(tmp_path / f"{seed}", "val")
        assert chosen[seed] == [clean(STORIES[n]) for n in range(30) if document_hash(seed, n, 1)[0] < 0.3]
    assert chosen[1] != chosen[2]


def test_document_hashes_are_uniform() -> None:
    drawn = document_hash(7, 0, 100_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs((drawn < 0.01).mean() - 0.01) < 0.001
    assert document_hash(7, 500, 3).tolist() == drawn[500:503].tolist()


def test_one_document_at_least_validates(corpus: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "out", corpus, val_fraction=1e-9)
    assert (result["train_documents"], result["val_documents"]) == (29, 1)


@pytest.mark.parametrize("block", [1 << 20, 300, 270])
def test_of_one_document_the_tail_validates(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BLOCK", block)
    monkeypatch.setattr(making, "CUT_WINDOW", 20)
    text = STORIES[0] + STORIES[1]
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    run(tmp_path / "out", tmp_path / "a.txt", repair=False, vocabulary=0)
    at = int(0.9 * len(text))
    assert texts(tmp_path / "out", "train") == [text[:at]]
    assert texts(tmp_path / "out", "val") == [text[at:]]


def test_shakespeare(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "tinyshakespeare.txt"
    result = run(tmp_path / "out", path, vocabulary=1024)
    text = path.read_text(encoding="utf-8")
    assert texts(tmp_path / "out", "train") == [text[: int(0.9 * len(text))]]  # nanoGPT's split, to the character
    assert texts(tmp_path / "out", "val") == [text[int(0.9 * len(text)) :]]
    assert result["bytes"] == 1_115_394


def test_chosen_files_validate_and_do_not_train(corpus: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "out", corpus, val=[str(corpus / "0[12].txt")])
    assert texts(tmp_path / "out", "val") == [clean(text) for text in STORIES[1:3]]
    assert (result["train_documents"], result["val_documents"]) == (28, 2)
    assert [entry["split"] for entry in read_manifest(tmp_path / "out").inputs].count("val") == 2


def test_the_tokenizer_sees_no_validation_text(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("zzzzzz " * 1000)
    run(tmp_path / "one", corpus, val=[str(tmp_path / "val.txt")])
    run(tmp_path / "two", corpus, val=[str(corpus / "00.txt"), str(tmp_path / "val.txt")])
    own = train((clean(text) for text in STORIES[1:]), "bytes", VOCABULARY)
    assert Tokenizer.load(tmp_path / "two").hash == own.hash != Tokenizer.load(tmp_path / "one").hash


# Cutting a long document

TOKENIZERS = [train(STORIES, "bytes", VOCABULARY), train(STORIES, "gpt1")]


@given(st.text(alphabet="ab. \n\r\té’\u0301\u2028\x85<&;1", max_size=120), st.sampled_from(TOKENIZERS), st.booleans())
def test_a_safe_cut_changes_no_id(text: str, tokenizer: Tokenizer, cleaned: bool) -> None:
    fix: Callable[[str], str] = clean if cleaned else str
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "CUT_WINDOW", 30)
        at = safe_cut(tokenizer, cleaned)(text)
    assert tokenizer.encode(fix(text)) == tokenizer.encode(fix(text[:at])) + tokenizer.encode(fix(text[at:]))


def test_a_long_document_is_repaired_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ftfy leaves the entities of a document alone once it has met "<", however far back."""
    monkeypatch.setattr(documents, "BLOCK", 100)
    monkeypatch.setattr(making, "CUT_WINDOW", 20)
    text = "one &lt; two\n" * 20 + "<p>\n" + "three &gt; two\n" * 100
    for number, part in enumerate((text, text.replace("<", "{"))):
        (tmp_path / f"{number}.txt").write_text(part)
        run(tmp_path / f"out{number}", tmp_path / f"{number}.txt", vocabulary=0)
        whole = clean(part)
        found = texts(tmp_path / f"out{number}", "train") + texts(tmp_path / f"out{number}", "val")
        assert "".join(found) == whole
        assert ("&gt;" in whole) == (number == 0)


def test_a_cut_is_found_at_a_line_end_or_else_at_a_space() -> None:
    for tokenizer in TOKENIZERS:
        cut = safe_cut(tokenizer, True)
        assert cut("words and\r\n words" + "x" * 2000) == len("words and")
        assert cut("words and  words" + "x" * 2000) == len("words and")
        assert cut("x" * 5000) == 0


THREADS = """
import sys
from gpt1.cli.main import main
assert main(sys.argv[1:]) == 0
import polars
print(polars.thread_pool_size())
"""


def test_the_command_line_sets_the_number_of_threads(corpus: Path, tmp_path: Path) -> None:
    command = ["prepare", str(corpus), "--out", str(tmp_path / "out"), "--val-fraction", "0.1", "--threads", "3"]
    done = subprocess.run([sys.executable, "-c", THREADS, *command], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "3"
    assert "too late" not in done.stderr


def test_threads_asked_for_too_late_are_said_to_be(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "out", corpus, threads=polars.thread_pool_size() + 1)
    assert "came too late" in capsys.readouterr().err


# Again, interrupted, and changed


def test_nothing_to_do(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(tmp_path / "out", corpus)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    corpus.rename(tmp_path / "moved")
    second = run(tmp_path / "out", tmp_path / "moved", threads=1)
    assert dict(second) == dict(first) | {"unchanged": True}
    assert first["unchanged"] is False
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps
    assert "nothing to do" in capsys.readouterr().err


def test_changes_are_noticed(corpus: Path, tmp_path: Path, in_small_steps: None) -> None:
    run(tmp_path / "out", corpus)
    shards = len(list((tmp_path / "out").glob("train-*.bin")))
    assert run(tmp_path / "out", corpus, fresh=True)["unchanged"] is False
    for others, words in (({"val_fraction": 0.2}, "with val_fraction 0.1, not 0.2"), ({"seed": 2}, "with seed")):
        with pytest.raises(UserError, match=f"{words}.*fresh"):
            run(tmp_path / "out", corpus, **others)
    assert run(tmp_path / "out", corpus, val_fraction=0.2, fresh=True)["unchanged"] is False
    for path in sorted(corpus.iterdir())[10:]:
        path.unlink()
    with pytest.raises(UserError, match="made with other content of the input files; choose another out, or start"):
        run(tmp_path / "out", corpus, val_fraction=0.2)
    assert run(tmp_path / "out", corpus, val_fraction=0.2, fresh=True)["documents"] == 10
    assert len(list((tmp_path / "out").glob("train-*.bin"))) < shards
    (corpus / "00.txt").write_text("other words\n" * 50)
    assert run(tmp_path / "out", corpus, val_fraction=0.2, fresh=True)["unchanged"] is False
    (tmp_path / "out" / "train-00000.bin").write_bytes(b"")
    assert run(tmp_path / "out", corpus, val_fraction=0.2)["unchanged"] is False
    run(tmp_path / "new", corpus, val_fraction=0.2)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "new")


def test_a_tokenizer_that_was_swapped_is_made_again(corpus: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", corpus)
    run(tmp_path / "new", corpus)
    run(tmp_path / "other", corpus, vocabulary=290)
    (tmp_path / "out" / "tokenizer.json").write_bytes((tmp_path / "other" / "tokenizer.json").read_bytes())
    assert run(tmp_path / "out", corpus)["unchanged"] is False
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "new")


class Killed(BaseException):
    """As sudden as a power cut."""


def test_going_on_after_any_pair_of_shards(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", corpus)
    save, saved = State.save, 0

    def save_and_die(state: State, folder: Path) -> None:
        nonlocal saved
        save(state, folder)
        saved += 1
        raise Killed

    monkeypatch.setattr(State, "save", save_and_die)
    while not (tmp_path / "out" / "manifest.json").exists():
        before = saved
        try:
            run(tmp_path / "out", corpus)
        except Killed:
            (tmp_path / "out" / "unfinished" / ".train-00001.bin.x.tmp").touch()  # as a kill in mid-write leaves it
            with pytest.raises(UserError, match="interrupted; repeat"):
                TokenStream(tmp_path / "out", "train")
        if saved == before + 1 > 20:
            monkeypatch.setattr(State, "save", save)
    assert saved > 5
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "whole")


def test_going_on_while_the_result_moves_to_its_place(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", corpus)
    replace, left = Path.replace, 0

    def replace_or_die(path: Path, target: Path) -> Path:
        nonlocal left
        if path.parent.name == "unfinished" != target.parent.name:
            if left == 0:
                raise Killed
            left -= 1
        return replace(path, target)

    run(tmp_path / "out", corpus, val_fraction=0.5)
    monkeypatch.setattr(Path, "replace", replace_or_die)
    for left in range(3):
        with pytest.raises(Killed):
            run(tmp_path / "out", corpus, fresh=left == 0)
        with pytest.raises(UserError):
            read_manifest(tmp_path / "out")
    left = 10**6
    run(tmp_path / "out", corpus)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "whole")


def test_a_damaged_shard_of_an_interrupted_run_is_made_again(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", corpus)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ShardWriter, "close_shard", _die_at_the_third_shard)
        run(tmp_path / "out", corpus)
    (tmp_path / "out" / "unfinished" / "train-00000.bin").write_bytes(b"??")
    run(tmp_path / "out", corpus)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "whole")


CLOSE = ShardWriter.close_shard


def _die_at_the_third_shard(writer: ShardWriter) -> None:
    if len(writer.shards) == 2:
        raise Killed
    CLOSE(writer)


SLOW = """
import os, sys, time
from gpt1.config import Prepare
from gpt1.commands.prepare import prepare
from gpt1.data import documents
from gpt1.data import prepare as making
save = making.State.save
documents.BLOCK, making.SHARD_TOKENS = 900, 1000
def slowly(state, folder):
    save(state, folder)
    time.sleep(0.2)
    while len(sys.argv) > 3 and not os.path.exists(sys.argv[3]):
        time.sleep(0.01)
making.State.save = slowly
prepare(Prepare(inputs=[sys.argv[1]], out=sys.argv[2], vocabulary=300, val_fraction=0.1))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_in_the_middle(corpus: Path, tmp_path: Path, in_small_steps: None) -> None:
    run(tmp_path / "whole", corpus)
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(corpus), str(out)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (out / "unfinished" / "train-00002.bin").exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = (out / "unfinished" / "train-00000.bin").stat().st_ino
    run(out, corpus)
    assert (out / "train-00000.bin").stat().st_ino == kept, "the finished shard was made again"
    assert result_bytes(out) == result_bytes(tmp_path / "whole")


def test_a_full_disk_leaves_the_old_result(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "out", corpus)
    before = result_bytes(tmp_path / "out")
    write = ShardWriter.write

    def full(writer: ShardWriter, *args: Any) -> None:
        if len(writer.shards) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", full)
        line = f"prepare {corpus} --out {tmp_path / 'out'} --val-fraction 0.3 --fresh"
        assert cli.main(line.split()) == 1
    after = {name: raw for name, raw in before.items() if name != "manifest.json"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.bin")}.items() <= after.items()
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert run(tmp_path / "out", corpus)["unchanged"] is True


def test_out_of_memory_leaves_whole_shards_and_continues(
    corpus: Path,
    tmp_path: Path,
    in_small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / "whole", corpus)
    write = ShardWriter.write

    def no_memory(writer: ShardWriter, *args: Any) -> None:
        if len(writer.shards) == 2:
            raise MemoryError
        write(writer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", no_memory)
        line = f"prepare {corpus} --out {tmp_path / 'out'} --val-fraction 0.1 --vocabulary {VOCABULARY}"
        assert cli.main(line.split()) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("gpt1 prepare: out of memory")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
    kept = (tmp_path / "out" / "unfinished" / "train-00001.bin").stat().st_ino
    run(tmp_path / "out", corpus)
    assert (tmp_path / "out" / "train-00001.bin").stat().st_ino == kept
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "whole")


def test_a_tokenizer_that_does_not_fit_into_memory_is_not_called_damaged(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TOKENIZERS[0].save(tmp_path, 64)

    def no_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Tokenizer, "__init__", no_memory)
    with pytest.raises(MemoryError):
        Tokenizer.load(tmp_path)


def test_two_processes_at_once(corpus: Path, tmp_path: Path) -> None:
    """The second is refused at once, told who is at work, and changes nothing; the first finishes."""
    out, go = tmp_path / "out", tmp_path / "go"
    waiting = [sys.executable, "-c", SLOW, str(corpus), str(out), str(go)]
    first = subprocess.Popen(waiting, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (out / "unfinished" / "state.json").exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    command = [sys.executable, "-m", "gpt1", "prepare", str(corpus), "--out", str(out), "--fresh"]
    second = subprocess.run(command, capture_output=True, text=True)
    go.touch()
    assert second.returncode == 2
    assert f"{out} is in use by process {first.pid} on " in second.stderr.splitlines()[-1]
    assert first.wait(60) == 0
    run(tmp_path / "alone", corpus)
    assert texts(out, "train") == texts(tmp_path / "alone", "train")
    assert sorted(path.name for path in out.glob("[!tv]*")) == ["manifest.json"]
    assert not (out / ".lock").exists()


def test_another_request_does_not_discard_an_interrupted_one(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ShardWriter, "close_shard", _die_at_the_third_shard)
        run(tmp_path / "out", corpus)
    with pytest.raises(UserError, match=r"out was begun with seed 1, not 2; repeat the .*start over with fresh"):
        run(tmp_path / "out", corpus, seed=2)
    assert run(tmp_path / "out", corpus, seed=2, fresh=True)["unchanged"] is False


def test_a_folder_of_an_earlier_version_is_recognised(corpus: Path, tmp_path: Path) -> None:
    """Its fingerprint was computed in another way; settings and inputs are compared themselves."""
    run(tmp_path / "out", corpus)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "0" * 64}))
    assert run(tmp_path / "out", corpus)["unchanged"] is True
    with pytest.raises(UserError, match="made with seed 1, not 2"):
        run(tmp_path / "out", corpus, seed=2)


def test_a_given_tokenizer_is_the_same_wherever_it_lies(corpus: Path, tmp_path: Path) -> None:
    for name, size in (("a", 300), ("b", 300), ("c", 290)):
        train(STORIES, "bytes", size).save(tmp_path / name, 64)
    run(tmp_path / "out", corpus, tokenizer=str(tmp_path / "a"), vocabulary=0)
    assert run(tmp_path / "out", corpus, tokenizer=str(tmp_path / "b"), vocabulary=0)["unchanged"] is True
    with pytest.raises(UserError, match="made with other content of tokenizer"):
        run(tmp_path / "out", corpus, tokenizer=str(tmp_path / "c"), vocabulary=0)
    with pytest.raises(UserError, match=r"made with tokenizer .*a, not gpt1"):
        run(tmp_path / "out", corpus, tokenizer="gpt1", vocabulary=0)


def test_an_interrupted_replacement_goes_on_without_fresh(
    corpus: Path, tmp_path: Path, in_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "out", corpus)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ShardWriter, "close_shard", _die_at_the_third_shard)
        run(tmp_path / "out", corpus, val_fraction=0.2, fresh=True)
    first = (tmp_path / "out" / "unfinished" / "train-00000.bin").stat().st_ino
    run(tmp_path / "out", corpus, val_fraction=0.2)
    assert (tmp_path / "out" / "train-00000.bin").stat().st_ino == first, "it is not made again"


def test_a_warning_if_most_of_the_text_is_validation_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [tmp_path / "short.txt", tmp_path / "long.txt"]
    for path, count in zip(names, (20, 400), strict=True):
        path.write_text("the cat sat on the mat. " * count)
    seeds = {seed: run(tmp_path / str(seed), *names, seed=seed, vocabulary=0) for seed in range(4)}
    said = capsys.readouterr().err.splitlines()
    large = [found["val_tokens"] > 0.3 * found["tokens"] for found in seeds.values()]
    assert 0 < sum(large) < len(large), "the seed decides which of the two it is"
    assert sum("of the tokens are validation text" in line for line in said) == sum(large)


def test_an_input_that_changes_meanwhile(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = BpeTrainer.learn

    def change_and_learn(*given: Any) -> Tokenizer:
        (corpus / "05.txt").write_text("shorter")
        return learn(*given)

    monkeypatch.setattr(BpeTrainer, "learn", change_and_learn)
    with pytest.raises(RunFailed, match="an input changed"):
        run(tmp_path / "out", corpus)
    assert not (tmp_path / "out" / "unfinished").exists()


# On Ray


def test_ray_gives_the_same_bytes(
    corpus: Path, tmp_path: Path, in_small_steps: None, ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one node, on two of which one dies, and where it continues what was begun without Ray.

    Nodes read small files themselves; the large one is read here.
    """
    monkeypatch.setattr(documents, "LARGE", 3000)
    (corpus / "12-large.txt").write_text("".join(STORIES[:12]), encoding="utf-8")
    run(tmp_path / "local", corpus)
    ray_nodes(1)
    run(tmp_path / "one", corpus, engine="ray")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ShardWriter, "close_shard", _die_at_the_third_shard)
        run(tmp_path / "continued", corpus)
    run(tmp_path / "continued", corpus, engine="ray")
    kill_one, portions, seen = ray_nodes(2), Corpus.portions, list[Portion]()

    def portions_with_a_death(*given: Any) -> Iterator[Portion]:
        for number, portion in enumerate(portions(*given)):
            if number == 8 and len(given) > 1:  # the second pass, which encodes
                kill_one()
            seen.append(portion)
            yield portion

    monkeypatch.setattr(Corpus, "portions", portions_with_a_death)
    run(tmp_path / "killed", corpus, engine="ray")
    assert {type(portion) for portion in seen} == {FileGroup, tuple}
    for out in ("one", "continued", "killed"):
        assert result_bytes(tmp_path / out) == result_bytes(tmp_path / "local")


@pytest.mark.slow
def test_ctrl_c_also_ends_a_cluster_that_was_started_for_it(tmp_path: Path) -> None:
    def nodes() -> set[str]:
        return set(subprocess.run(["pgrep", "-x", "raylet"], capture_output=True, text=True).stdout.split())

    before = nodes()
    (tmp_path / "corpus").mkdir()
    for number in range(20):
        (tmp_path / "corpus" / f"{number}.txt").write_text("".join(STORIES) * 60, encoding="utf-8")
    command = [sys.executable, "-m", "gpt1", "prepare", "corpus", "--out", "out", "--engine", "ray"]
    settings = os.environ | {"RAY_ADDRESS": "local"}
    job = subprocess.Popen(command, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "unfinished" / "state.json").exists():
        assert job.poll() is None
        time.sleep(0.1)
    assert nodes() - before
    job.send_signal(signal.SIGINT)
    assert job.communicate(timeout=60)[1].splitlines()[-1] == "gpt1 prepare: stopped; the same command continues"
    assert job.returncode == 130
    assert not nodes() - before


# Bad requests


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("none.txt --out out", "none.txt: no such file or folder"),
        ("void --out out", "void: an empty folder"),
        ("blank.txt --out out", "blank.txt: no text, 1 empty documents"),
        ("blank.txt blank.csv --out out", "blank.txt and 1 more: no text, 3 empty documents"),
        ("a.txt --val blank.txt --out out", "blank.txt: no text, 1 empty documents"),
        ("a.txt --val a.txt --out out", "a.txt: no file left to train on"),
        (
            "latin.txt --out out",
            "latin.txt:1: byte 1 (0xe9) is not utf-8 text; give the file's encoding with --encoding",
        ),
        ("binary.bin --out out", "binary.bin:1: byte 2 is NUL, so this is not utf-8 text"),
        ("a.txt --encoding utf9 --out out", "--encoding utf9: no such text encoding"),
        ("tiny.txt --out out", "one document of 2 characters is too small to keep 0.01 of it for validation"),
        ("tiny.txt --tokenizer tokenizer.json --out out", "one document of 2 characters is too small"),
        (
            "a.txt b.txt --val-fraction 0.999 --out out",
            "all 2 documents were assigned to validation; lower --val-fraction or",
        ),
        ("a.txt --val-fraction 0 --out out", "--val-fraction 0 must be between 0 and 1"),
        ("a.txt --val-fraction 1.5 --out out", "--val-fraction 1.5 must be between 0 and 1"),
        ("bad.jsonl --out out", "bad.jsonl:2: no field text; it has body"),
        ("bad.jsonl --text body --out out", "bad.jsonl:1: no field body; it has text"),
        ("t.csv --out out", "t.csv: no column text; it has body, n: choose one with --text"),
        ("cut.txt.gz --out out", "cut.txt.gz: damaged or truncated"),
        ("cut.txt.zst --out out", "cut.txt.zst: damaged or truncated"),
        (
            "a.txt b.txt --vocabulary 5000 --out out",
            "--vocabulary 5,000 is too large for this corpus: its",
        ),
        ("a.txt b.txt --vocabulary 10 --out out", "at least 258"),
        ("a.txt --tokenizer none --out out", "--tokenizer none is neither bytes nor gpt1, nor a file or folder"),
        ("a.txt --device gpu --out out", "--device gpu: text is prepared on the CPU"),
        ("a.txt --out t.csv/x", "--out t.csv/x: t.csv is a file"),
        ("a.txt --tokenizer t.csv --out out", "t.csv: not a tokenizer"),
        ("a.txt --tokenizer x --vocabulary 9 --out out", "--vocabulary is for a tokenizer to be trained"),
        ("sub --out sub/out", "--out sub/out lies inside the input folder sub"),
        ("sub --out sub", "--out sub lies inside the input folder sub"),
        ("sub/c.txt --out sub", "--out sub holds the input sub/c.txt"),
        ("a.txt b.txt --out sub", "--out sub holds something else (c.txt)"),
        ("a.txt b.txt --out t.csv", "--out t.csv is a file"),
        ("done --out out", "done is prepared already; train on it: `gpt1 pretrain done --out RUN`"),
        ("a.txt --val run --out out", "run is a run, not text; to train it further, `gpt1 pretrain DATA --init run"),
    ],
)
def test_one_line_and_nothing_written(
    line: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_bad_inputs()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["prepare", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert answer in err.splitlines()[-1].replace(os.sep, "/")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It would be read several times, and hold nothing but the first time."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: a pipe, which can be read only once; write its content to a"):
        run(tmp_path / "out", tmp_path / "pipe")


def _write_bad_inputs() -> None:
    for name in ("void", "sub", "done", "run"):
        Path(name).mkdir()
    for name in ("done/manifest.json", "done/train-00000.bin", "run/gpt1.json", "run/README.md"):
        Path(name).write_bytes(b"{}")
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        Path(name).write_text(STORIES[0], encoding="utf-8")
    Path("blank.txt").write_text(" \n\n")
    Path("blank.csv").write_text('text,n\n,1\n"  ",2\n')
    Path("tiny.txt").write_text("hi")
    Path("latin.txt").write_bytes(b"h\xe9 ho")
    Path("binary.bin").write_bytes(b"PK\0\1\2")
    Path("bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    Path("t.csv").write_text("body,n\na,1\n")
    TOKENIZERS[0].save(".", 64)
    Path("cut.txt.gz").write_bytes(gzip.compress(STORIES[0].encode())[:-9])
    Path("cut.txt.zst").write_bytes(zstandard.compress(STORIES[0].encode())[:-9])


def test_a_table_without_text_that_merely_lies_in_the_folder(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "books.tsv").write_text("file\ttitle\na.txt\tA\n")
    (corpus / "about.json").write_text('{\n  "title": "Tales"\n}')
    (corpus / "titles.json").write_text('[{"title": "Tales"}]')
    assert run(tmp_path / "out", corpus)["documents"] == 30
    said = " ".join(capsys.readouterr().err.split())
    assert "books.tsv: left out, it has no column text" in said
    assert "titles.json: left out, it has no column text" in said
    assert (
        "about.json:1: the line ends before its object does; give one object a line, or a file with an array of" in said
    )
    with pytest.raises(UserError, match="no column text; it has file, title"):
        run(tmp_path / "other", corpus, corpus / "books.tsv", fresh=True)
