"""Shared by the routes: finding a request's run and row, waiting for the engine, server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

from fastapi import Request

from gpt1.serving.engine import Busy, Closing
from gpt1.serving.errors import RETRY_AFTER, ApiError, as_api_error, shutting_down
from gpt1.serving.models import ServedModel
from gpt1.serving.schemas import TextOrRow
from gpt1.tasks.rows import Texts

T = TypeVar("T")


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """Return a run by its name. Raises ApiError for an unknown name."""
    if name not in models:
        known = ", ".join(models)
        raise ApiError(404, f"The model {name!r} does not exist; there are {known}", "model", "model_not_found")
    return models[name]


def row_asked(model: ServedModel, body: TextOrRow) -> Texts | None:
    """Return the row that a request means; None if its text is to be read as a text. Raises ApiError or UserError."""
    if body.as_ == "rows" and model.predictor is None:
        raise ApiError(400, f"{model.name} is pre-trained, it predicts no labels; leave as out", "as")
    if model.predictor is not None and body.as_ != "text":
        return model.row([body.text, *(body.more or [])])
    if body.more:
        raise ApiError(400, "more goes only with the rows of a fine-tuned run", "more")
    return None


async def answer(request: Request, work: Awaitable[T]) -> T:
    """Wait for the engine's answer, or cancel it when the client leaves."""
    found, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((found, gone), return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise ApiError(499, "the client has left")
        return found.result()
    except Busy:
        sentence = "too many requests are waiting; try again in a moment"
        raise ApiError(429, sentence, code="rate_limit_exceeded", headers={"Retry-After": RETRY_AFTER}) from None
    except Closing:
        raise shutting_down() from None
    except Exception as error:
        raise as_api_error(error) from error
    finally:
        found.cancel()
        gone.cancel()


async def events(first: dict[str, Any], chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Yield chunks as server-sent events; an error on the way becomes the last one."""
    try:
        yield _event(first)
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as error:
        closing = ApiError(503, "the server is shutting down; the text is not complete")
        yield _event((closing if isinstance(error, Closing) else as_api_error(error)).body())
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
