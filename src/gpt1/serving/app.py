"""The HTTP API: routes from requests to the engine and back. OpenAI's where OpenAI has them."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from gpt1 import __version__
from gpt1.data.tables import InvalidRow, Row
from gpt1.serving.answers import answer, events, find_model, row_asked
from gpt1.serving.completions import CompletionJob, Limits, token_lists
from gpt1.serving.engine import Engine
from gpt1.serving.errors import ApiError, ErrorBody, add_handlers, shutting_down
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import ServedModel
from gpt1.serving.page import PageRoutes
from gpt1.serving.schemas import (
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    ExplainRequest,
    Health,
    ModelCard,
    ModelList,
    Predictions,
    PredictRequest,
)
from gpt1.tasks.rows import Texts, read_texts

# How long the end of the process waits for the step or explanation in progress.
LAST_SECONDS = 5
# The longest text that is explained token by token, in contexts.
EXPLAINED_CONTEXTS = 4
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request is wrong.",
        401: "The token is missing or wrong.",
        404: "There is no such model.",
        408: "The request took too long to arrive.",
        413: "The body is too large.",
        429: "Too many requests wait; try again.",
        500: "The server is at fault.",
        503: "The server is shutting down.",
    }.items()
}

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Completions; with `stream`, events.", "content": {"text/event-stream": {"schema": {}}}}
}


class Api:
    """The routes of a server."""

    def __init__(
        self, models: Mapping[str, ServedModel], engine: Engine, aside: Engine, limits: Limits, metrics: Metrics
    ) -> None:
        self.models, self.engine, self.limits, self.metrics = models, engine, limits, metrics
        self.aside = aside
        """computes explanations, one at a time: they take seconds, in which no stream should wait"""
        self.router = APIRouter(responses=ERRORS)
        get, post = self.router.get, self.router.post
        post("/v1/completions", response_model=Completion, responses=STREAM, tags=["OpenAI"])(self.completions)
        post("/v1/embeddings", response_model=Embeddings, tags=["OpenAI"])(self.embeddings)
        get("/v1/models", response_model=ModelList, tags=["OpenAI"])(self.list_models)
        get("/v1/models/{model:path}", response_model=ModelCard, tags=["OpenAI"])(self.describe_model)
        post("/v1/predict", response_model=Predictions, response_model_exclude_none=True, tags=["gpt1"])(self.predict)
        post("/v1/explain", response_model=dict[str, Any], tags=["gpt1"])(self.explain)
        get("/healthz", response_model=Health, tags=["operation"])(self.healthz)
        get("/readyz", response_model=Health, tags=["operation"])(self.readyz)
        get("/metrics", response_class=PlainTextResponse, tags=["operation"])(self.prometheus)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continue prompts, as `gpt1 generate` does; with `stream`, by server-sent events."""
        began, job = time.perf_counter(), CompletionJob(body, find_model(self.models, body.model), self.limits)
        if not body.stream:
            await answer(request, self.engine.generate(body.model, job.texts))
            return JSONResponse(job.result())
        chunks = job.chunks(self.engine.stream(body.model, job.texts))
        # Wait for the first token, so that a request that cannot be answered gets a status instead of a stream.
        first: dict[str, Any] = await answer(request, anext(chunks))
        self.metrics.first_token_seconds.observe(time.perf_counter() - began)
        return StreamingResponse(events(first, chunks), media_type="text/event-stream")

    async def embeddings(self, body: EmbeddingRequest, request: Request) -> Response:
        """Return the mean of the last hidden states of each text, as `gpt1 embed` does."""
        model = find_model(self.models, body.model)
        texts = token_lists(body.input, "input", model)
        self._check_rows(len(texts), "input")
        if not all(texts):
            raise ApiError(400, f"input {texts.index([])} has no tokens; give it a text", "input")
        if body.dimensions not in (None, width := model.body.config.width):
            raise ApiError(400, f"dimensions must be {width} for {model.name}, or left out", "dimensions")
        vectors = await answer(request, self.engine.compute(model.embed, texts))
        if body.encoding_format == "base64":
            told = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            told = [vector.tolist() for vector in vectors]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(told)]
        read = sum(map(len, texts))
        usage = {"prompt_tokens": read, "completion_tokens": 0, "total_tokens": read}
        return JSONResponse({"object": "list", "data": data, "model": model.name, "usage": usage})

    async def predict(self, body: PredictRequest, request: Request) -> Response:
        """Predict rows, as `gpt1 predict` does; a row has the columns that the run was fine-tuned on."""
        model = find_model(self.models, body.model)
        if model.predictor is None:
            raise ApiError(400, f"{model.name} is pre-trained, not fine-tuned: it knows no classes", "model")
        self._check_rows(len(body.rows), "rows")
        columns = model.predictor.columns
        try:
            rows = [read_texts(Row(Path("rows"), n, values), columns) for n, values in enumerate(body.rows)]
        except InvalidRow as error:
            needed = ", ".join([*columns.texts, *columns.choices])
            raise ApiError(400, f"{error.fault}; a row of {model.name} has the keys {needed}", "rows") from None
        found = await answer(request, self.engine.compute(model.predict, rows))
        data = [{"index": n} | prediction for n, prediction in enumerate(found)]
        return JSONResponse({"object": "list", "model": model.name, "data": data})

    async def explain(self, body: ExplainRequest, request: Request) -> Response:
        """Return what `gpt1 explain --json` prints: how likely each token is, or which words a prediction rests on."""
        model = find_model(self.models, body.model)
        asked: tuple[str, int] | Texts | None = row_asked(model, body)
        if asked is None:
            most, tokens = EXPLAINED_CONTEXTS * model.context, len(model.tokenizer.encode(body.text))
            if tokens > most:
                sentence = f"for {model.name} the text has {tokens:,} tokens; at most {most:,} are explained"
                raise ApiError(400, f"{sentence}; shorten it", "text")
            asked = body.text, body.top or 5
        (found,) = await answer(request, self.aside.compute(model.explain, [asked]))
        return JSONResponse(found)

    async def list_models(self) -> dict[str, Any]:
        """List the runs that are served."""
        return {"object": "list", "data": [model.describe() for model in self.models.values()]}

    async def describe_model(self, model: str) -> dict[str, Any]:
        """Describe a run that is served."""
        return find_model(self.models, model).describe()

    async def healthz(self) -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    async def readyz(self) -> dict[str, str]:
        """Say whether requests are answered."""
        if not self.engine.is_ready:
            raise shutting_down()
        return {"status": "ready"}

    async def prometheus(self) -> Response:
        """Return the metrics, for Prometheus."""
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _check_rows(self, count: int, name: str) -> None:
        if count > self.limits.rows:
            raise ApiError(400, f"{name} has {count} entries; at most {self.limits.rows} are allowed", name)


def create_app(models: Mapping[str, ServedModel], engine: Engine, limits: Limits, metrics: Metrics) -> FastAPI:
    """Return the application; the engine runs while it does.

    There are no pages under /docs: FastAPI's load scripts from elsewhere. The description is /openapi.json.
    """

    aside = Engine({}, concurrency=0, queue=engine.queue, rows_at_once=1)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        aside.start()
        try:
            yield
        finally:
            aside.close(0)
            engine.close(0)
            for one in (engine, aside):
                await asyncio.to_thread(one.join, LAST_SECONDS)

    app = FastAPI(
        title="gpt1", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    add_handlers(app)
    # The page's first: a name may have slashes (`NAME=RUN`), so the route of a model would also match its curves.
    app.include_router(PageRoutes(models, engine, aside).router, responses=ERRORS)
    app.include_router(Api(models, engine, aside, limits, metrics).router)
    _name_models(app, list(models))
    return app


def _name_models(app: FastAPI, names: list[str]) -> None:
    """List the names of the models in the description of the API."""
    description = app.openapi()
    for schema in description["components"]["schemas"].values():
        if schema.get("additionalProperties") is False and "model" in schema["properties"]:  # a request
            schema["properties"]["model"]["enum"] = names
    (parameter,) = description["paths"]["/v1/models/{model}"]["get"]["parameters"]
    parameter["schema"]["enum"] = names
    app.openapi_schema = description
