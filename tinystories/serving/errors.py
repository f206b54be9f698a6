"""Error responses in the format of OpenAI's API, with FastAPI's `detail` for invalid input."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from .engine import ServiceUnavailable
from .stream import ClientDisconnected


TYPES = {404: "not_found", 429: "rate_limit_exceeded", 500: "server_error", 503: "overloaded"}


class InvalidInput(Exception):
    """Invalid input in `field` that the schema cannot express; `extra` is added to the response."""

    def __init__(self, field: str, message: str, *, status: int = 422, code: str | None = None, **extra):
        super().__init__(message)
        self.field, self.status, self.code, self.extra = field, status, code, extra


def error_response(
    status: int,
    message: str,
    *,
    field: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
    headers: Mapping[str, str] | None = None,
    detail: list | None = None,
    **extra,
) -> JSONResponse:
    """`{"error": {"message", "type", "param", "code", ...}}`; `retry_after` is in seconds."""
    kind = TYPES.get(status, "invalid_request_error")
    body: dict = {"error": {"message": message, "type": kind, "param": field, "code": code, **extra}}
    if detail:
        body["detail"] = detail
    headers = dict(headers or {}) | ({"Retry-After": str(retry_after)} if retry_after is not None else {})
    return JSONResponse(body, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may be a prompt, and need not be valid JSON text.
        detail = [{"loc": list(each["loc"]), "msg": _message(each), "type": each["type"]} for each in error.errors()]
        first = detail[0]
        content_type = request.headers.get("content-type", "none")
        if first["loc"] == ["body"] and "json" not in content_type:
            field = "body"
            message = f"the body must be JSON, sent with 'content-type: application/json', not {content_type}"
        else:
            field = next((part for part in first["loc"][1:] if isinstance(part, str)), "body")
            message = f"{field}: {first['msg']}"
        return error_response(422, message, field=field, detail=detail)

    @app.exception_handler(InvalidInput)
    async def invalid_input(_: Request, error: InvalidInput) -> JSONResponse:
        detail = [{"loc": ["body", error.field], "msg": str(error), "type": "value_error"}]
        options = {"field": error.field, "code": error.code, "detail": detail, **error.extra}
        return error_response(error.status, str(error), **options)

    @app.exception_handler(ServiceUnavailable)
    async def unavailable(_: Request, error: ServiceUnavailable) -> JSONResponse:
        return error_response(503, str(error), retry_after=error.retry_after)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(ClientDisconnected)
    async def disconnected(_: Request, __: ClientDisconnected) -> Response:
        return Response(status_code=499)


def _message(error: dict) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "unknown parameter"
    return f"{message}, but has {len(error['input'])}" if error["type"] == "string_too_long" else message
