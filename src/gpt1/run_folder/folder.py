"""Save and load run folders: models that both gpt1 and Hugging Face load. Format: docs/formats.md.

gpt1.json (`metadata`) is written last, so a folder that has it is complete.
"""

import copy
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt1 import __version__
from gpt1.config import Model
from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.options import check_threads_and_seed
from gpt1.run_folder.hugging_face import CHOICE_BIAS, HEAD, TensorFile, from_hf, read_shape, to_hf, to_hf_config
from gpt1.run_folder.metadata import RunMetadata, Versions, read_json, read_metadata
from gpt1.run_folder.model_card import model_card
from gpt1.run_folder.starter import find_run
from gpt1.storage import atomic, save_file, write_json, write_text
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import choose_device

if TYPE_CHECKING:
    from gpt1.run_folder.generation import Sample
    from gpt1.tasks.words import WordsModel

# Keys of gpt1.json that stay the same throughout a run; a folder in which they differ holds another model.
IDENTITY = ("kind", "task", "labels", "tokenizer", "data")
# Folder inside a run folder where new files wait to replace the old ones.
STAGED = ".unfinished"


@dataclass(frozen=True)
class LoadedRun:
    """A loaded run folder."""

    body: GPT
    """the network, fp32, on the CPU, in evaluation mode"""
    tokenizer: Tokenizer
    metadata: RunMetadata
    """gpt1.json"""
    head: Tensor | None = None
    """W_y (C, D) of a fine-tuned run; row i belongs to `metadata.labels[i]`, if it has labels"""
    words: "WordsModel | None" = None
    """words alone, if `metadata.words` says that the run has them"""
    _copies: dict[tuple[torch.device, torch.dtype, str], GPT] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @overload
    def generate(self, prompt: str = "", *, stream: Literal[False] = False, **settings: Any) -> "Sample": ...

    @overload
    def generate(self, prompt: str = "", *, stream: Literal[True], **settings: Any) -> Iterator[str]: ...

    def generate(
        self,
        prompt: str = "",
        *,
        stream: bool = False,
        device: str = "cpu",
        dtype: str = "fp32",
        threads: int | None = None,
        quantize: str = "none",
        **options: Any,
    ) -> "Sample | Iterator[str]":
        """Generate one text: a Sample with prompt, text, tokens and finish_reason; or, with `stream`, its pieces.

        `options` are the fields of `GenerationOptions`: max_new_tokens, temperature, top_k, top_p, repetition_penalty,
        stop and seed. By default the network runs as it was loaded, fp32 on the CPU, with torch's own number of
        threads; for another `device`, `dtype` or `quantize` (int8) it is copied and converted, and the last copy kept.
        With `stream` an iterator yields whole words as they are generated; joined, they are the text.

        Raises UserError for a value that is out of range or that this machine cannot do, TypeError for an unknown name.
        """
        from gpt1.run_folder.generation import Generation, GenerationOptions, stream_text  # not every run generates

        chosen = GenerationOptions(**options)
        check_threads_and_seed(threads or 0, chosen.seed)
        body = self._converted(device, dtype, quantize)
        text = Generation(self.tokenizer, prompt, 0, chosen, body.config.context)
        pieces = stream_text(body, text, threads)
        if stream:
            return pieces
        for _ in pieces:
            pass
        return text.sample()

    def _converted(self, device: str, dtype: str, quantize: str) -> GPT:
        """Return the network in the form that settings of `generate` ask for."""
        from gpt1.run_folder.generation import check_quantize, prepare_for_inference

        form = *choose_device(device, dtype), quantize
        check_quantize(quantize, form[0])
        if form == (torch.device("cpu"), torch.float32, "none"):
            return self.body
        if form not in self._copies:
            self._copies.clear()
            self._copies[form] = prepare_for_inference(copy.deepcopy(self.body), *form)
        return self._copies[form]


def save_run(
    folder: str | Path,
    body: GPT,
    tokenizer: Tokenizer,
    metadata: RunMetadata,
    head: Tensor | None = None,
    words: "WordsModel | None" = None,
) -> None:
    """Write a run folder, replacing the model it may hold; the same arguments give the same bytes.

    `metadata` needs `kind`, with a head `task`, `goal`, `labels` and `columns`, and `words` if these are given; the
    model's size, the tokenizer and the versions are filled in here. Raises UserError if Hugging Face's `openai-gpt`
    cannot express the network.
    """
    save_tensors(folder, body.config, to_hf(body, head, metadata.goal), tokenizer, metadata, words)


def save_tensors(
    folder: str | Path,
    model: Model,
    tensors: dict[str, Tensor],
    tokenizer: Tokenizer,
    metadata: RunMetadata,
    words: "WordsModel | None" = None,
) -> None:
    """Write a run folder as `save_run` does, from Hugging Face's tensors, head included."""
    special_ids = {"end": tokenizer.end_id, "pad": tokenizer.pad_id}
    config = to_hf_config(model, special_ids, metadata.goal, metadata.labels or ())
    metadata = replace(
        metadata,
        parameters=sum(tensor.numel() for name, tensor in tensors.items() if name != CHOICE_BIAS),
        context=model.context,
        vocabulary=model.vocabulary,
        tokenizer=tokenizer.hash,
        tokenizer_kind=tokenizer.kind,
        versions=Versions(python=platform.python_version(), torch=str(torch.__version__), gpt1=__version__),
    )
    with replacing_run(Path(folder)) as staged:
        with atomic(staged / "model.safetensors") as temporary:
            # transformers refuses a file that does not say which framework wrote it.
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_json(staged / "config.json", config)
        write_json(staged / "generation_config.json", {k: v for k, v in config.items() if k.endswith("_token_id")})
        cut: Literal["left", "right"] = "left" if metadata.long == "tail" else "right"
        tokenizer.save(staged, model.context, template=metadata.goal is not None, cut=cut)
        if words:
            from gpt1.run_folder.words_file import save_words

            save_words(staged, words)
        write_text(staged / "README.md", model_card(metadata))
        write_json(staged / "gpt1.json", metadata.to_json())


@contextmanager
def replacing_run(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder to write a run into. On success its files move to `folder`; on any error they are removed.

    All files are complete on disk before the first one moves, so a full disk leaves the old model as it was.
    """
    staged, is_new = folder / STAGED, not folder.exists()
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        _move_into(folder, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _move_into(folder: Path, staged: Path) -> None:
    """Move staged files to their places, gpt1.json last. Until then a folder that held another model is incomplete."""
    marker = folder / "gpt1.json"
    if marker.exists():
        old, new = read_json(marker), read_json(staged / marker.name)
        if any(old.get(key) != new.get(key) for key in IDENTITY):
            marker.unlink()
    for path in sorted(staged.iterdir(), key=lambda path: path.name == marker.name):
        path.replace(folder / path.name)


def load_run(path: str | Path) -> LoadedRun:
    """Load a run folder, or the installed `starter`.

    Raises UserError if the folder is missing, incomplete, damaged, of a newer format or another architecture.
    """
    folder = find_run(path)
    metadata, model = read_metadata(folder), read_shape(folder)
    body = uninitialised(model)
    weights = folder / "model.safetensors"
    head = from_hf(body, TensorFile(weights), str(weights))
    tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != metadata.tokenizer or tokenizer.vocabulary != model.vocabulary:
        raise UserError(f"{folder}: tokenizer.json is not the one this model was trained with")
    if (head is None) != (metadata.kind == "pretrained"):
        raise UserError(
            f"{folder}: gpt1.json says {metadata.kind}, but {HEAD} is {'missing' if head is None else 'present'}"
        )
    words = None
    if metadata.words:
        from gpt1.run_folder.words_file import load_words  # imports scipy, and a pre-trained run has no words

        words = load_words(folder, metadata)
    return LoadedRun(body.eval(), tokenizer, metadata, head, words)


def uninitialised(model: Model) -> GPT:
    """Return a network on the CPU whose weights are whatever the memory held; they must be overwritten."""
    with torch.device("cpu"), _NoInit():
        return GPT(model)


class _NoInit(TorchFunctionMode):
    """Build modules without initialising their weights, which are about to be overwritten.

    Module constructors fill their parameters by functions of `torch.nn.init`. Under this mode PyTorch hands us every
    such call, and we return the tensor as it is; all other calls go through. At GPT-1's size this saves drawing 117
    million random numbers. Building on the "meta" device also works, but imports torch's compiler and sympy.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
