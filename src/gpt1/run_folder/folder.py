"""Save and load run folders: models that both gpt1 and Hugging Face load. Format: docs/formats.md.

gpt1.json (`metadata`) is written last, so a folder that has it is complete.
"""

import copy
import platform
import reprlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gpt1 import __version__
from gpt1.config import Generate, Model
from gpt1.errors import UserError, setting
from gpt1.keywords import check, checked
from gpt1.model.gpt import GPT
from gpt1.options import check_threads_and_seed, options
from gpt1.run_folder.hugging_face import HEAD, SpecialIds, TensorFile, from_hf, to_hf, to_hf_config
from gpt1.run_folder.metadata import STAGED, RunMetadata, Versions, read_json, read_metadata
from gpt1.run_folder.shape import CHOICE_BIAS, read_shape
from gpt1.run_folder.starter import find_run
from gpt1.storage import atomic, save_file, write_json, write_text
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training.device import choose_device, out_of_memory, use_threads

if TYPE_CHECKING:
    from gpt1.run_folder.generation import Sample
    from gpt1.tasks.words import WordsModel

# Keys of gpt1.json that stay the same throughout a run; a folder in which they differ holds another model.
IDENTITY = ("kind", "task", "labels", "tokenizer", "data")


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A loaded run folder; `generate` continues texts."""

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
    def generate(self, prompt: str = "", *, stream: Literal[True], **settings: Any) -> Iterator[str]: ...

    @overload
    def generate(self, prompt: str = "", *, stream: Literal[False] = False, **settings: Any) -> "Sample": ...

    @overload
    def generate(self, prompt: Iterable[str], *, stream: Literal[False] = False, **settings: Any) -> "list[Sample]": ...

    def generate(  # type: ignore[misc]  # the overloads are about what is returned, the keywords stand here
        self,
        prompt: str | Iterable[str] = "",
        *,
        max_new_tokens: int = Generate.max_new_tokens,
        temperature: float = Generate.temperature,
        top_k: int = Generate.top_k,
        top_p: float = Generate.top_p,
        repetition_penalty: float = Generate.repetition_penalty,
        stop: str | Sequence[str] = (),
        beyond_context: bool = Generate.beyond_context,
        seed: int = Generate.seed,
        stream: bool = False,
        device: str = "cpu",
        dtype: str = "fp32",
        threads: int | None = None,
        quantize: str = "none",
    ) -> "Sample | list[Sample] | Iterator[str]":
        """Generate a text after each prompt.

        By default the network runs as it was loaded, fp32 on the CPU, with torch's own number of threads. For another
        `device`, `dtype` or `quantize` it is copied and converted; the last copy is kept.

        Parameters
        ----------
        prompt : str or iterable of str, default ""
            Text to continue, or several, which are generated together; "" starts a new document.
        max_new_tokens : int, default 100
            Maximum number of tokens to generate.
        temperature : float, default 1.0
            Sampling temperature; 0: greedy decoding.
        top_k : int, default 0
            Sample from the k most probable tokens only; 0: from all.
        top_p : float, default 0.95
            Sample from the smallest set of tokens whose probabilities add up to this value.
        repetition_penalty : float, default 1.0
            Values above 1 make tokens that already occur in the text less likely.
        stop : str or sequence of str, default ()
            Strings at which generation stops; they are not part of the text.
        beyond_context : bool, default False
            Go on when the context is full, from the last tokens only; by default a full context ends the text.
        seed : int, default 1
            Random seed. A text depends on the seed and its prompt, not on the other prompts.
        stream : bool, default False
            Return an iterator over whole words as they are generated; joined, they are the text. One prompt only.
        device : str, default "cpu"
            auto, cpu, cuda, cuda:1 or mps.
        dtype : str, default "fp32"
            Number format for matrix products: auto, bf16 or fp32.
        threads : int, default None
            CPU threads while generating; None: torch's own number; 0: every core.
        quantize : {"none", "int8"}, default "none"
            int8: round weights and activations to 8 bits, which is faster on a CPU and slightly less accurate.

        Returns
        -------
        Sample, list of Sample, or iterator of str
            One Sample for a string, a list for an iterable of strings. A Sample has `prompt`, `text`, `tokens` and
            `finish_reason`.

        Raises
        ------
        UserError
            (a ValueError) for a value that is out of range or that this machine cannot do.
        TypeError
            For an unknown name or a value of another type.

        Examples
        --------
        >>> run = gpt1.load("runs/books")
        >>> run.generate("Once upon a time", max_new_tokens=20).text
        >>> [sample.text for sample in run.generate(["The sea", "The hills"], temperature=0)]
        >>> for piece in run.generate("Once", stream=True):
        ...     print(piece, end="")
        """
        # Imported here, since most callers of `load_run` do not generate.
        from gpt1.run_folder.generation import Generation, GenerationOptions, generate_texts, stream_text

        prompts = check(list[str], prompt, "generate() argument 'prompt'", "prompt")
        given = {
            "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "repetition_penalty": repetition_penalty, "stop": stop,
            "beyond_context": beyond_context, "seed": seed,
        }  # fmt: skip
        chosen = GenerationOptions(**checked(options(Generate), {}, given, "generate()"))
        check_threads_and_seed(threads or 0, chosen.seed)
        body = self._converted(device, dtype, quantize)
        context = body.config.context
        texts = [Generation(self.tokenizer, one, 0, chosen, context) for one in prompts]
        if stream:
            if not isinstance(prompt, str):
                raise TypeError("generate() streams one prompt, a string; leave out stream=True for several")
            return stream_text(body, texts[0], threads)
        with use_threads(threads), out_of_memory(f"lower {setting('max_new_tokens')}, or give fewer prompts"):
            generate_texts(body, texts)
        samples = [text.sample() for text in texts]
        return samples[0] if isinstance(prompt, str) else samples

    def __repr__(self) -> str:
        metadata, size = self.metadata, self.body.config
        what: str = metadata.task or metadata.kind
        if metadata.labels:
            what += f" into {reprlib.repr(metadata.labels)}"
        return (
            f"LoadedRun({what}, {metadata.parameters or 0:,} parameters, context {size.context}, "
            f"vocabulary {size.vocabulary:,})"
        )

    def _converted(self, device: str, dtype: str, quantize: str) -> GPT:
        """Return the network in the form that the settings of `generate` require."""
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
    from gpt1.run_folder.model_card import model_card  # here, since loading a run needs none

    special_ids: SpecialIds = {"first": tokenizer.first_id, "end": tokenizer.end_id, "pad": tokenizer.pad_id}
    config = to_hf_config(model, special_ids, metadata.goal, metadata.labels or ())
    if metadata.goal:
        config["gpt1"] = metadata.carried()
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
        marker = folder / "gpt1.json"
        if marker.exists():  # a folder that held another model is incomplete until its marker, the last file, has moved
            old, new = read_json(marker), read_json(staged / marker.name)
            if any(old.get(key) != new.get(key) for key in IDENTITY):
                marker.unlink()
        for path in sorted(staged.iterdir(), key=lambda path: path.name == marker.name):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


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
    """Return a network on the CPU with uninitialised weights, which must be overwritten."""
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
