"""Models that transformers saved, now or long ago, become runs: transformers' own model and tokenizer are oracles."""

import copy
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import NOT_UTF8, one_line, only_linux_names
from gpt1.commands.convert import convert
from gpt1.config import Columns, Convert, Model
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.metadata import RunMetadata
from gpt1.tokenizer.openai import write_bpe
from gpt1.tokenizer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

SAMPLES = [
    "Once upon a time there was a cat; the other cat (a dog, in f",
    "THE CAT, Été: 3 dogs & a\n\tcat..",
    "naïve 春",
]
CONTEXT, WIDTH, DEPTH = 24, 32, 3


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer) -> Any:
    """A tiny random OpenAIGPTLMHeadModel over the vocabulary without end and pad."""
    torch.manual_seed(5)
    config = transformers.OpenAIGPTConfig(
        vocab_size=tokenizer.vocabulary - 2, n_positions=CONTEXT, n_embd=WIDTH, n_layer=DEPTH, n_head=4
    )
    model = transformers.OpenAIGPTLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter == 1))
    return model


@pytest.fixture
def folder(theirs: Any, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """The model and its tokenizer, as transformers writes them."""
    place = tmp_path / "theirs"
    theirs.save_pretrained(place)
    write_bpe(tokenizer, tokenizer.vocabulary - 2, tmp_path / "vocab.json", tmp_path / "merges.txt")
    their_tokenizer(tmp_path).save_pretrained(place)
    return place


def their_tokenizer(folder: Path) -> Any:
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]]
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return transformers.OpenAIGPTTokenizer(vocab=ids, merges=merges)


def run_of(folder: Path, out: Path) -> dict[str, Any]:
    return convert(Convert(src=str(folder), out=str(out)))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@torch.no_grad()
def same_logits(theirs: Any, run: Path) -> None:
    body = load_run(run).body.double()  # in fp32 the two networks' own rounding would be all there is to see
    theirs = copy.deepcopy(theirs).double()
    tokens_NT = torch.randint(0, theirs.config.vocab_size, (3, CONTEXT), generator=torch.Generator().manual_seed(8))
    expected = theirs(tokens_NT).logits
    assert expected.std() > 0.5
    logits = body.logits(body(tokens_NT))[..., : theirs.config.vocab_size]
    assert torch.allclose(logits, expected, atol=1e-6, rtol=0)


def test_safetensors(folder: Path, theirs: Any, tmp_path: Path) -> None:
    result = run_of(folder, tmp_path / "run")
    same_logits(theirs, tmp_path / "run")
    assert result["compared_with"].startswith("transformers")
    assert (result["source"], result["new_tokens"], result["left_out"]) == ("huggingface", ["<|end|>", "<|pad|>"], [])
    assert result["largest_difference"] < 1e-5
    ours = load_run(tmp_path / "run").tokenizer
    for text in SAMPLES:
        assert ours.encode(text) == transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_tensors(
    legacy: bool, folder: Path, theirs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(folder, tmp_path / "safe")
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    run_of(folder, tmp_path / "run")
    same_logits(theirs, tmp_path / "run")
    assert "weights_only=True" in capsys.readouterr().err
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("safe", "run")]
    assert same[0] == same[1]


@only_linux_names
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_whose_name_is_not_utf8(name: str, folder: Path, theirs: Any, tmp_path: Path) -> None:
    if name == "pytorch_model.bin":
        torch.save(theirs.state_dict(), folder / name)
        (folder / "model.safetensors").unlink()
    source = folder.rename(tmp_path / NOT_UTF8)
    assert run_of(source, tmp_path / NOT_UTF8 / "run")["compared_with"]
    same_logits(theirs, (tmp_path / NOT_UTF8 / "run").rename(tmp_path / "run"))


def test_tensors_as_old_versions_named_them(folder: Path, theirs: Any, tmp_path: Path) -> None:
    """Without the prefix, with the tied output matrix and with the causal mask and the numbers of positions."""
    old = {name.removeprefix("transformer."): t.clone() for name, t in theirs.state_dict().items()}
    mask = torch.ones(CONTEXT, CONTEXT).tril().view(1, 1, CONTEXT, CONTEXT)
    constants = {f"h.{i}.attn.bias": mask.clone() for i in range(DEPTH)} | {"position_ids": torch.arange(CONTEXT)}
    run_of(folder, tmp_path / "new")
    save_file(old | constants, folder / "model.safetensors", {"format": "pt"})
    run_of(folder, tmp_path / "run")
    for name, tensor in weights(tmp_path / "new").items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name]), name
    save_file(old | constants | {"h.1.attn.bias": mask + 1}, folder / "model.safetensors")
    refused(folder, "h.1.attn.bias", "not the constant")


def test_half_precision_and_parts(folder: Path, theirs: Any, tmp_path: Path) -> None:
    theirs_half = transformers.OpenAIGPTLMHeadModel.from_pretrained(folder, dtype=torch.float16)
    (folder / "model.safetensors").unlink()
    theirs_half.save_pretrained(folder, max_shard_size="30KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    run_of(folder, tmp_path / "run")
    for name, tensor in theirs_half.state_dict().items():
        if name != "lm_head.weight":
            assert torch.equal(weights(tmp_path / "run")[name][: len(tensor)], tensor.float()), name
    parts[1].unlink()
    refused(folder, parts[1].name, "no such file")
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    refused(folder, "model.safetensors.index.json", "weight_map")


def test_eight_bits_and_sixty_four(folder: Path, tmp_path: Path) -> None:
    file, name = folder / "model.safetensors", "transformer.h.1.mlp.c_fc.weight"
    whole = load_file(file)
    for dtype in (torch.float8_e4m3fn, torch.float64):
        save_file({key: tensor.to(dtype) for key, tensor in whole.items()}, file, {"format": "pt"})
        run_of(folder, tmp_path / str(dtype))
        assert torch.equal(weights(tmp_path / str(dtype))[name], whole[name].to(dtype).float())
    save_file(whole | {name: torch.full_like(whole[name], 1e300, dtype=torch.float64)}, file)
    refused(folder, name, "holds 1e+300 at (0, 0)")


def test_three_ways_to_write_one_vocabulary(folder: Path, tmp_path: Path) -> None:
    run_of(folder, tmp_path / "run")
    expected = load_run(tmp_path / "run").tokenizer
    (folder / "tokenizer.json").unlink()
    for names in (("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")):
        for name, like in zip(names, ("vocab.json", "merges.txt"), strict=True):
            (folder / name).write_bytes((tmp_path / like).read_bytes())
        run_of(folder, tmp_path / "run" / names[0])
        found = load_run(tmp_path / "run" / names[0]).tokenizer
        assert found.kind == "gpt1"
        for text in SAMPLES:
            assert found.encode(text) == expected.encode(text) == their_tokenizer(tmp_path)(text)["input_ids"]
        for name in names:
            (folder / name).unlink()
    refused(folder, "no tokenizer", "vocab.json with merges.txt")


def test_ours_to_theirs_to_ours(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = Model(context=CONTEXT, width=WIDTH, depth=DEPTH, heads=4, inner=4 * WIDTH, vocabulary=tokenizer.vocabulary)
    body = GPT(model).init_weights(torch.Generator().manual_seed(2))
    save_run(tmp_path / "ours", body, tokenizer, RunMetadata(kind="pretrained"))
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert run_of(tmp_path / "theirs", tmp_path / "again")["new_tokens"] == []
    before, after = weights(tmp_path / "ours"), weights(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert load_run(tmp_path / "again").body.config == model
    for text in [*SAMPLES, "<|end|> is text"]:
        assert load_run(tmp_path / "again").tokenizer.encode(text) == tokenizer.encode(text)


HEADS = {
    "OpenAIGPTForSequenceClassification": ["score.weight"],
    "OpenAIGPTDoubleHeadsModel": ["multiple_choice_head.summary.bias", "multiple_choice_head.summary.weight"],
}


@pytest.mark.parametrize("name", HEADS)
def test_other_peoples_heads_are_left_out(
    name: str, folder: Path, theirs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(folder, tmp_path / "bare")
    getattr(transformers, name).from_pretrained(folder).save_pretrained(folder)
    capsys.readouterr()
    assert run_of(folder, tmp_path / "run")["left_out"] == HEADS[name]
    assert f"{', '.join(HEADS[name])} left out" in capsys.readouterr().err
    assert weights(tmp_path / "run").keys() == weights(tmp_path / "bare").keys()
    same_logits(theirs, tmp_path / "run")


def test_our_own_heads_stay(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tuned = tokenizer.with_task_tokens()
    body = GPT(Model(context=16, width=32, depth=1, heads=4, inner=128, vocabulary=tuned.vocabulary)).init_weights()
    metadata = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=["a", "b"], columns=Columns(["text"], ["label"])
    )
    save_run(tmp_path / "tuned", body, tuned, metadata, torch.randn(2, 32))
    assert run_of(tmp_path / "tuned", tmp_path / "copy")["source"] == "run"
    for path in (tmp_path / "tuned").iterdir():
        assert path.read_bytes() == (tmp_path / "copy" / path.name).read_bytes(), path.name


def test_without_transformers_the_arrays_are_the_oracle(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = run_of(folder, tmp_path / "run")
    assert (result["compared_with"], result["largest_difference"] < 1e-5) == ("its arrays", True)


def test_a_model_of_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert "model.safetensors" in allow_patterns
        if "pytorch_model.bin" in allow_patterns:
            raise OSError("such a model is nowhere\nand so on")
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    convert(Convert(src="some-people/openai-gpt", out="run"))
    assert asked == ["some-people/openai-gpt"]
    assert "downloading it from Hugging Face's hub" in capsys.readouterr().err
    assert "some-people/openai-gpt" in str(load_run("run").metadata.converted_from)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"some-people/openai-gpt: .* \(such a model is nowhere\)"):
        convert(Convert(src="some-people/openai-gpt", out="other"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install gpt1\[hf\]"):
        convert(Convert(src="some-people/openai-gpt", out="other"))
    asked.clear()
    with pytest.raises(UserError, match="theirs/none: no such folder"):
        convert(Convert(src="theirs/none", out="other"))
    assert not asked, "a name inside a folder that is here is never sent out"


def refused(folder: Path, *words: str) -> None:
    """Converting is one line of UserError with all words, and nothing is left."""
    out = folder.parent / "refused"
    with one_line(*words):
        run_of(folder, out)
    assert not out.exists()


class Evil:
    """What a pickle may do when it is read: run a program that leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, ([sys.executable, "-c", f"open({str(self.file)!r}, 'w')"],)


@pytest.mark.parametrize("saved", ["torch.save", "torch.save, legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_not_run(saved: str, folder: Path, theirs: Any, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    evil = {**theirs.state_dict(), "transformer.extra": Evil(tmp_path / "ran")}
    file = folder / "pytorch_model.bin"
    if saved == "pickle":
        file.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    else:
        torch.save(evil, file, _use_new_zipfile_serialization="legacy" not in saved)
    refused(folder, "pytorch_model.bin", "refused", "not run")
    assert not (tmp_path / "ran").exists()
    # The pickle is a real one: whoever reads it otherwise runs it.
    if saved == "pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_file_that_is_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights", "model.safetensors or pytorch_model.bin")
    file = folder / "pytorch_model.bin"
    torch.save([torch.zeros(2)], file)
    refused(folder, "pytorch_model.bin", "dictionary of tensors")
    whole = file.read_bytes()
    for damaged in (b"", b"nothing", whole[:-300], b"\x80\x02.", b"\x80\x02X\x05\x00\x00\x00"):
        file.write_bytes(damaged)
        refused(folder, "pytorch_model.bin")
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(folder, "pytorch_model.bin", "a pointer of Git LFS")
    torch.save({1: torch.zeros(2), "a": torch.zeros(2)}, file)
    refused(folder, "pytorch_model.bin", "by name")


def test_a_safetensors_file_whose_header_lies(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def lying(**changes: Any) -> bytes:
        name = "transformer.h.1.mlp.c_fc.weight"
        text = json.dumps(header | {name: header[name] | changes}).encode()
        return struct.pack("<Q", len(text)) + text + data

    for damaged in (
        whole[:-4],
        lying(shape=[WIDTH, 5 * WIDTH]),
        lying(data_offsets=[0, 10**12]),
        lying(data_offsets=[8, 4]),
        lying(dtype="F99"),
        struct.pack("<Q", 2**62) + whole[8:],
        struct.pack("<Q", size + 7) + whole[8:],
        b"",
    ):
        file.write_bytes(damaged)
        refused(folder, "model.safetensors is damaged")


def test_a_tensor_or_shape_without_a_partner(folder: Path) -> None:
    file, name = folder / "model.safetensors", "transformer.h.1.mlp.c_fc.weight"
    whole = load_file(file)

    def given(tensors: dict[str, torch.Tensor], *words: str) -> None:
        save_file(tensors, file)
        refused(folder, "model.safetensors", *words)

    given({k: v for k, v in whole.items() if k != name}, name, "is missing")
    given(whole | {"transformer.h.3.ln_1.weight": torch.zeros(WIDTH)}, "transformer.h.3.ln_1.weight", "is unknown")
    given(whole | {"classifier.weight": torch.zeros(2)}, "classifier.weight", "is unknown")
    given(whole | {"h.1.mlp.c_fc.weight": whole[name].clone()}, name, "occurs twice")
    given(whole | {name: whole[name].T.contiguous()}, name, "(128, 32)", "(32, 128)")
    given(whole | {name: whole[name].int()}, name, "int32")
    given(whole | {name: whole[name] / 0}, name, "at (0, 0)")
    nan = whole[name].clone()
    nan[3, 5] = float("nan")
    given(whole | {name: nan}, name, "nan at (3, 5)")
    output = whole["transformer.tokens_embed.weight"] + 1
    given(whole | {"lm_head.weight": output}, "lm_head.weight differs from transformer.tokens_embed.weight")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, ("gpt2", "pre-LN", "converted")),
        ({"model_type": "bert"}, ("bert", "openai-gpt")),
        ({"afn": "relu"}, ("afn", "relu")),
        ({"layer_norm_epsilon": 1e-12}, ("layer_norm_epsilon", "1e-12")),
        ({"n_head": 5}, ("n_head 5", "n_embd 32")),
        ({"n_embd": "wide"}, ("n_embd", "'wide'")),
        ({"n_layer": 0}, ("n_layer", "0")),
        ({"vocab_size": 99}, ("tokens_embed.weight", "(99, 32)")),
    ],
)
def test_another_architecture(change: dict[str, Any], words: tuple[str, ...], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    refused(folder, *words)


def test_a_vocabulary_of_another_size(folder: Path, tmp_path: Path) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    definition["model"]["vocab"]["zzz"] = 81
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    refused(folder, "tokenizer.json has 82 tokens", "81 rows")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    refused(folder, "tokenizer.json", "not a tokenizer")
