"""`gpt1 convert`: other people's GPT-1 -> a run, or a run -> OpenAI's layout; compared with its source, then kept."""

import time
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from gpt1.config import Convert, Model
from gpt1.console import say, table
from gpt1.conversion.external import adopted, parameters, unknown_tokens, usable
from gpt1.conversion.hugging_face import download, is_hub_id, read_folder
from gpt1.conversion.openai_release import MERGES, VOCABULARY, is_release, read_release, write_release
from gpt1.conversion.verify import foreign_logits, own_logits, probe, released_logits, same_logits, same_tokens
from gpt1.errors import UserError
from gpt1.run_folder.folder import load_run, read_metadata, read_shape, replacing_run, save_tensors
from gpt1.run_folder.hugging_face import TensorFile
from gpt1.run_folder.metadata import RunMetadata
from gpt1.storage import check_folder
from gpt1.tokenizer.openai import cut_as, vocabulary_files
from gpt1.tokenizer.tokenizer import END, PAD, Tokenizer


def convert(settings: Convert) -> dict[str, Any]:
    """Write the folder `settings.out`, which must be new or empty, from `settings.src`.

    Returns source (openai, huggingface or run), to, parameters, context, vocabulary, heads, new_tokens, left_out, what
    was compared (compared_with, logits, tokens, largest_difference) and seconds. Raises UserError for a source that is
    wrong, RunFailed if what was written does not do what the source does; then nothing is left of it.
    """
    began, out = time.perf_counter(), Path(settings.out)
    check_folder(out)
    if out.is_dir() and (held := sorted(path.name for path in out.iterdir())):
        raise UserError(f"--out {out} holds something else ({', '.join(held[:3])}); choose an empty or a new folder")
    folder = download(settings.src) if is_hub_id(settings.src) else Path(settings.src)
    kind = _kind(folder)
    if settings.heads and kind != "openai":
        raise UserError(f"--heads is for OpenAI's release, which does not say them; {folder / 'config.json'} does")
    if settings.words and (settings.to == "openai" or kind == "run"):
        raise UserError("--words is for what is converted to a run; a run keeps its own way, OpenAI's files say none")
    if settings.to == "openai":
        result = _to_release(folder, kind, out)
    else:
        result = _copy(folder, out) if kind == "run" else _to_run(settings, folder, kind, out)
    return {"source": kind, "to": settings.to, **result, "seconds": time.perf_counter() - began}


def show(result: dict[str, Any]) -> RenderableType:
    """What was done and compared."""
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in result.items()}
    return table({name: value for name, value in shown.items() if value != ""}, "convert")


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        what = "this is a file; give the folder it lies in" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    if (folder / "gpt1.json").exists():
        return "run"
    if is_release(folder):
        return "openai"
    if (folder / "config.json").exists():
        return "huggingface"
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{folder}: neither OpenAI's release (params_shapes.json), nor a Hugging Face model (config.json), nor a run "
        f"(gpt1.json); it holds {held}"
    )


def _to_run(settings: Convert, folder: Path, kind: str, out: Path) -> dict[str, Any]:
    found = read_release(folder, settings.heads) if kind == "openai" else read_folder(folder)
    model, tokenizer = found.model, found.tokenizer
    if settings.words:
        tokenizer = cut_as(tokenizer, settings.words, folder)
    if found.left_out:
        say(f"{folder}: {', '.join(found.left_out)} left out; the language model under that head is converted")
    info = RunMetadata(kind="pretrained", converted_from=f"{kind}: {settings.src}")
    with replacing_run(out) as staged:
        save_tensors(staged, *adopted(found), tokenizer, info)
        ids_T = probe(model.vocabulary, model.context)
        if kind == "openai":
            way, expected_PV = "its arrays", released_logits(folder, model.heads, ids_T)
        else:
            way, expected_PV = foreign_logits(folder, model, ids_T)
        loaded = load_run(staged)
        compared = same_logits(expected_PV, own_logits(loaded.body, ids_T)[:, : model.vocabulary], out)
        pair = (folder / VOCABULARY, folder / MERGES) if kind == "openai" else vocabulary_files(folder)
        compared["tokens"] = same_tokens(loaded.tokenizer, folder, pair, out)
    return _result(loaded.body.config, way, compared) | {
        "new_tokens": unknown_tokens(tokenizer, model.vocabulary), "left_out": list(found.left_out),
    }  # fmt: skip


def _copy(folder: Path, out: Path) -> dict[str, Any]:
    """The model of a run as it is, head and facts included."""
    info, model = read_metadata(folder), read_shape(folder)
    weights = TensorFile(folder / "model.safetensors")
    with replacing_run(out) as staged:
        tensors = {name: usable(name, tensor, tuple(tensor.shape), weights.path) for name, tensor in weights.items()}
        save_tensors(staged, model, tensors, Tokenizer.load(folder), info)
        tensors.clear()  # the comparison needs the memory
        ids_T = probe(model.vocabulary, model.context)
        way, expected_PV = foreign_logits(folder, model, ids_T)
        loaded = load_run(staged)
        compared = same_logits(expected_PV, own_logits(loaded.body, ids_T), out)
        compared["tokens"] = same_tokens(loaded.tokenizer, folder, None, out)
    return _result(model, way, compared)


def _to_release(folder: Path, kind: str, out: Path) -> dict[str, Any]:
    if kind != "run":
        raise UserError(f"--to openai takes a run folder; convert {folder} to one first, then that to openai")
    if read_metadata(folder).kind != "pretrained":
        raise UserError(
            f"{folder}: W_y of a fine-tuned run has no place in OpenAI's layout; convert the run it was tuned from"
        )
    model, tokenizer = read_shape(folder), Tokenizer.load(folder)
    with replacing_run(out) as staged:
        written = write_release(staged, model, TensorFile(folder / "model.safetensors"), tokenizer)
        if written.vocabulary == model.vocabulary:
            say(f"{folder}: {END} and {PAD} were trained, so they go along as tokens of their own")
        ids_T = probe(written.vocabulary, model.context)
        found_PV = released_logits(staged, model.heads, ids_T)
        expected_PV = own_logits(load_run(folder).body, ids_T)[:, : written.vocabulary]
        compared = same_logits(expected_PV, found_PV, out)
        compared["tokens"] = same_tokens(tokenizer, folder, (staged / VOCABULARY, staged / MERGES), out)
    return _result(written, "the arrays written", compared)


def _result(model: Model, way: str, compared: dict[str, Any]) -> dict[str, Any]:
    size = {"parameters": parameters(model), "context": model.context, "vocabulary": model.vocabulary}
    return size | {"heads": model.heads, "new_tokens": [], "left_out": [], "compared_with": way, **compared}
