"""Errors as OpenAI's API reports them: one JSON object with a message."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from gpt1.data.tables import InvalidRow
from gpt1.errors import UserError
from gpt1.tokenizer.tokenizer import replace_surrogates

# What a field may hold where pydantic would complain of each of its types in turn, or name only a bound.
ALTERNATIVES = {
    "prompt": "a string, a list of strings, a list of token ids, or a list of such lists",
    "input": "a string, a list of strings, a list of token ids, or a list of such lists",
    "stop": "a string or a list of strings",
    "presence_penalty": "0; this server has repetition_penalty",
    "frequency_penalty": "0; this server has repetition_penalty",
    "logit_bias": "empty",
    "suffix": "null",
}
# Seconds after which a client that was refused may try again.
RETRY_AFTER = "1"
TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the answer."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        detail = ErrorDetail(message=replace_surrogates(str(self)), type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump()

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def shutting_down() -> ApiError:
    """Return the answer to a request that a stopping server does not begin, or does not end."""
    return ApiError(503, "the server is shutting down", headers={"Retry-After": RETRY_AFTER})


def as_api_error(error: BaseException) -> ApiError:
    """Convert any error to a response; the client sees no internals."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRow):
        return ApiError(400, error.fault)  # its remedy is a setting of the commands
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    return ApiError(500, "the server failed to answer; its log says why")


def add_handlers(app: FastAPI) -> None:
    """Make every error of an application a JSON object."""

    @app.exception_handler(ApiError)
    @app.exception_handler(UserError)
    @app.exception_handler(Exception)
    async def answer(_request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _validation_error(error).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        is_chat = request.url.path.endswith("/chat/completions")
        chat = "; these models continue a text and do not chat: use /v1/completions" if is_chat else ""
        sentences = {
            # What FastAPI says of every error of `json` but a JSONDecodeError.
            400: "the body is not JSON: it is not UTF-8, is nested too deeply, or has a number of too many digits",
            404: f"there is no {request.method} {request.url.path} here; /openapi.json lists what there is{chat}",
            405: f"{request.url.path} does not answer {request.method}",
        }
        message = sentences.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


def _validation_error(error: RequestValidationError) -> ApiError:
    first: dict[str, Any] = error.errors()[0]
    where = [str(part) for part in first["loc"][1:]]  # after "body"
    field = replace_surrogates(where[0]) if where else None
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}")
    if field is None:
        return ApiError(400, "the body must be a JSON object, with the header Content-Type: application/json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {field}", field, "unknown_parameter")
    if first["type"] == "missing" and len(where) == 1:
        return ApiError(400, f"you must provide a {field} parameter", field, "missing_required_parameter")
    if field == "prompt" and not any("list[str]" in one["loc"] for one in error.errors()):
        return ApiError(400, "prompt must be a string or a list of token ids, one text", field)
    if first["type"] == "too_short":
        return ApiError(400, f"{field} is an empty list; give at least one", field)
    if field in ALTERNATIVES:
        return ApiError(400, f"{field} must be {ALTERNATIVES[field]}", field)
    message = str(first["msg"]).removeprefix("Value error, ").replace("a valid dictionary", "a JSON object")
    place = replace_surrogates(":".join(where))
    return ApiError(400, f"{place}: {message[:1].lower()}{message[1:]}", field)
