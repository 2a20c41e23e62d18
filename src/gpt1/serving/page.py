"""The page at `/`: its files, and the routes that only it needs, which show the model's steps one at a time."""

import asyncio
import base64
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gpt1.errors import UserError
from gpt1.model.attention_weights import attention_weights
from gpt1.model.sampling import Sampling, draw, probabilities, sampling_device
from gpt1.pages.charts import thinned
from gpt1.run_folder.generation import Generation, GenerationOptions
from gpt1.serving.answers import answer, events, find_model, row_asked
from gpt1.serving.engine import Engine, Piece
from gpt1.serving.errors import ApiError
from gpt1.serving.models import ServedModel
from gpt1.serving.schemas import AttentionRequest, AttentionWeights, Curves, GenerateRequest, NextRequest, NextToken
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.training import log

# The most probable tokens that are sent with each generated one.
ALTERNATIVES = 10
# Measurements of each update, shown as curves.
CURVES = ("lm", "task", "lr", "grad_norm")
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {
    "/" if path.name == "index.html" else f"/page/{path.name}": (path.read_bytes(), KINDS[Path(path.name).suffix])
    for path in files("gpt1.serving").joinpath("static").iterdir()
}
"""The page's files by path: content and type. They are the same for everyone and say nothing about the runs."""


class PageRoutes:
    """The page's files and routes."""

    def __init__(self, models: Mapping[str, ServedModel], engine: Engine, aside: Engine) -> None:
        self.models, self.engine, self.aside = models, engine, aside
        self.router = APIRouter()
        get, post = self.router.get, self.router.post
        for path in FILES:
            get(path, include_in_schema=False)(self.file)
        post("/v1/attention", response_model=AttentionWeights, tags=["gpt1"])(self.attention)
        post("/v1/next", response_model=NextToken, tags=["gpt1"])(self.next_token)
        stream: dict[int | str, dict[str, Any]] = {
            200: {"description": "Events, one for each token.", "content": {"text/event-stream": {"schema": {}}}}
        }
        post("/v1/generate", response_class=StreamingResponse, responses=stream, tags=["gpt1"])(self.generate)
        get("/v1/models/{model:path}/curves", response_model=Curves, tags=["gpt1"])(self.curves)

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        content, kind = FILES[request.url.path]
        return Response(content, media_type=kind)

    async def attention(self, body: AttentionRequest, request: Request) -> Response:
        """Return what each token of a text, the end token before it included, or of a row looks at in each head."""
        model = find_model(self.models, body.model)
        config, tokenizer = model.body.config, model.tokenizer
        if body.layer >= config.depth:
            raise ApiError(
                400, f"layer must be below {config.depth}, which is how many blocks {model.name} has", "layer"
            )
        row, left_out = row_asked(model, body), 0
        if row is not None:
            sequences, is_cut = model.sequences(row)
        else:
            ids = [tokenizer.end_id, *tokenizer.encode(body.text)]
            sequences, left_out = [ids[: config.context]], max(0, len(ids) - config.context)
            is_cut = left_out > 0
        if body.sequence >= len(sequences):
            sentence = f"sequence must be below {len(sequences)}, the number of sequences of this row"
            raise ApiError(400, sentence, "sequence")
        tokens = sequences[body.sequence]

        def compute() -> dict[str, Any]:
            tokens_T = torch.tensor(tokens, device=model.exact.tokens.weight.device)
            weights_HTS = attention_weights(model.exact, tokens_T, body.layer).cpu().double().numpy()
            return {
                "model": model.name,
                "layer": body.layer,
                "layers": config.depth,
                "heads": config.heads,
                "sequence": body.sequence,
                "sequences": len(sequences),
                "tokens": pieces(tokenizer, tokens),
                "is_cut": is_cut,
                "left_out": left_out,
                "weights": _packed(weights_HTS) if body.encoding_format == "base64" else _triangles(weights_HTS),
            }

        return JSONResponse(await self._compute(request, compute))

    async def next_token(self, body: NextRequest, request: Request) -> Response:
        """Return the distribution of the next token on its way from scores to the draw."""
        model = find_model(self.models, body.model)
        ids = _prompt(model, body.prompt)
        if body.chosen is not None and body.chosen >= model.tokenizer.vocabulary:
            raise ApiError(400, f"chosen must be below {model.tokenizer.vocabulary}", "chosen")

        def compute() -> dict[str, Any]:
            return {"model": model.name} | next_token(model, ids, body)

        return JSONResponse(await self._compute(request, compute))

    async def generate(self, body: GenerateRequest, request: Request) -> Response:
        """Continue a prompt as `/v1/completions` does, and tell every token's id, its probability and alternatives."""
        model = find_model(self.models, body.model)
        _prompt(model, body.prompt)
        seed = random.SystemRandom().getrandbits(63) if body.seed is None else body.seed
        options = GenerationOptions(body.max_tokens, body.temperature, body.top_k, body.top_p, seed=seed)
        most = min(ALTERNATIVES, model.tokenizer.vocabulary)
        text = Generation(model.tokenizer, body.prompt, 0, options, model.context, most)
        told = _tokens(self.engine.stream(body.model, [text]), model.tokenizer)
        first: dict[str, Any] = await answer(request, anext(told))
        return StreamingResponse(events(first, told), media_type="text/event-stream")

    async def curves(self, model: str) -> Response:
        """Return what has been measured so far while a run was trained, and the texts that it wrote."""
        served = find_model(self.models, model)
        path = served.folder / log.NAME
        stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
        try:
            measured = await asyncio.to_thread(read_curves, served.folder, served.run.metadata.lm_coef, stamp)
        except UserError:  # it names a path, which is nothing for a client
            raise ApiError(500, f"{log.NAME} of {model} is damaged; `gpt1 report` says where") from None
        return JSONResponse({"model": model, "lm_coef": served.run.metadata.lm_coef} | measured)

    async def _compute(self, request: Request, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a computation of a request beside the generation of texts."""

        def work(computations: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
            return [one() for one in computations]

        (found,) = await answer(request, self.aside.compute(work, [compute]))
        return found


@torch.inference_mode()
def next_token(model: ServedModel, ids: Sequence[int], asked: NextRequest) -> dict[str, Any]:
    """Return the candidates for the token after `ids`, their probabilities after each sampling step, and the draw."""
    body = model.exact
    device = body.tokens.weight.device
    h_1D = body(torch.tensor([ids], device=device))[:, -1]
    logits_1V = body.logits(h_1D).float().to(sampling_device(device))
    logp_V = logits_1V[0].log_softmax(-1)
    rank_V = logits_1V[0].argsort(descending=True, stable=True).argsort() + 1
    if asked.temperature == 0:
        first_1V = torch.zeros_like(logits_1V).scatter_(1, logits_1V.max(-1, keepdim=True).indices, 1.0)
        stages = dict.fromkeys(("softmax", "top_k", "top_p"), first_1V)
    else:
        stages = {
            "softmax": probabilities(logits_1V, Sampling(asked.temperature)),
            "top_k": probabilities(logits_1V, Sampling(asked.temperature, asked.top_k)),
            "top_p": probabilities(logits_1V, Sampling(asked.temperature, asked.top_k, asked.top_p)),
        }
    drawn = None
    if asked.uniform is not None:
        sampling = Sampling(asked.temperature, asked.top_k, asked.top_p)
        uniform_1 = torch.tensor([asked.uniform], dtype=torch.float64, device=logits_1V.device)
        drawn = int(draw(logits_1V, sampling, uniform_1))
    shown = logits_1V[0].topk(min(asked.top, logits_1V.shape[1])).indices.tolist()
    shown += [i for i in dict.fromkeys((asked.chosen, drawn)) if i is not None and i not in shown]
    candidates = [
        piece
        | {"rank": int(rank_V[i]), "logprob": float(logp_V[i]), "logit": (logit := float(logits_1V[0, i]))}
        | {"scaled": scaled if asked.temperature and math.isfinite(scaled := logit / asked.temperature) else None}
        | {name: float(p_1V[0, i]) for name, p_1V in stages.items()}
        for i, piece in zip(shown, pieces(model.tokenizer, shown), strict=True)
    ]
    return {
        "prompt": pieces(model.tokenizer, ids),
        "room": model.context - len(ids) + 1,
        "candidates": candidates,
        "kept": {name: int((p_1V > 0).sum()) for name, p_1V in stages.items()},
        "drawn": drawn,
    }


def _triangles(weights_HTS: np.ndarray) -> list[list[list[float]]]:
    return [[row[: t + 1] for t, row in enumerate(head)] for head in weights_HTS.round(4).tolist()]


def _packed(weights_HTS: np.ndarray) -> str:
    """Return the triangles in base64, each weight as a 16-bit integer: a third of their size as text."""
    t, s = np.tril_indices(weights_HTS.shape[1])
    return base64.b64encode((weights_HTS[:, t, s] * 65_535).round().astype("<u2").tobytes()).decode()


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return tokens as the page shows them: `id`, `token` and the name of a `special` one, which is no text."""
    special = {
        tokenizer.end_id: "end", tokenizer.pad_id: "pad", tokenizer.start_id: "start",
        tokenizer.delimiter_id: "delimiter", tokenizer.extract_id: "extract",
    }  # fmt: skip
    return [{"id": i, "token": t, "special": special.get(i)} for i, t in zip(ids, tokenizer.pieces(ids), strict=True)]


@lru_cache(maxsize=16)
def read_curves(folder: Path, lm_coef: float | None, stamp: tuple[int, int]) -> dict[str, Any]:
    """Return the `steps`, `curves` and `samples` of a run's metrics.jsonl; `stamp` changes when the file does.

    `l3` is the sum that fine-tuning minimises, L2 + lambda L1.
    """
    rows = log.read(folder)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if lm_coef is not None and {"lm", "task"} <= row.keys():
            row = row | {"l3": row["task"] + lm_coef * row["lm"]}
        for name, value in row.items():
            is_curve = name in (*CURVES, "l3") or name.startswith("val_")
            if is_curve and isinstance(value, int | float) and abs(value) < float("inf"):
                curves.setdefault(name, []).append((row["step"], value))
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "curves": {name: thinned(points) for name, points in curves.items()},
        "samples": [(row["step"], row["sample"]) for row in rows if "sample" in row],
    }


def _prompt(model: ServedModel, prompt: str | Sequence[int]) -> list[int]:
    """Return a prompt's ids, at most a context of them; an empty one begins a document. Raises ApiError."""
    vocabulary = model.tokenizer.vocabulary
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if ids and (wrong := max(ids)) >= vocabulary:
        raise ApiError(400, f"prompt has the token id {wrong}; those of {model.name} are below {vocabulary}", "prompt")
    if len(ids) > model.context:
        sentence = f"the prompt has {len(ids):,} tokens, and {model.name} reads {model.context:,} at most; shorten it"
        raise ApiError(400, sentence, "prompt", "context_length_exceeded")
    return ids or [model.tokenizer.end_id]


async def _tokens(steps: AsyncIterator[Piece], tokenizer: Tokenizer) -> AsyncIterator[dict[str, Any]]:
    """Yield each token that was generated: what it is, how probable it was, and what might have stood in its place."""
    async for step in steps:
        for one in step.logprobs:
            others = zip(pieces(tokenizer, list(one.top)), one.top.values(), strict=True)
            alternatives = [other | {"logprob": logprob} for other, logprob in others]
            (piece,) = pieces(tokenizer, [one.id])
            yield piece | {
                "logprob": one.logprob, "alternatives": alternatives, "finish_reason": step.finish_reason,
            }  # fmt: skip
