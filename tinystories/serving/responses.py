"""Answers that say no, all in one shape: that of OpenAI's API, and for wrong input FastAPI's `detail` beside it."""

from fastapi.responses import JSONResponse


TYPES = {404: "not_found", 408: "timeout", 429: "rate_limit_exceeded", 500: "server_error", 503: "overloaded"}


class Invalid(Exception):
    """Wrong input that no schema can see, for the `field` of that name; `facts` go into the answer."""

    def __init__(self, field: str, message: str, *, status: int = 422, code: str | None = None, **facts):
        super().__init__(message)
        self.field, self.status, self.code, self.facts = field, status, code, facts


def refusal(
    status: int,
    message: str,
    *,
    field: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
    headers: dict[str, str] | None = None,
    detail: list | None = None,
    **facts,
) -> JSONResponse:
    """`{"error": {"message", "type", "param", "code", ...}}`, and when to come again in seconds."""
    error = {
        "message": message,
        "type": TYPES.get(status, "invalid_request_error"),
        "param": field,
        "code": code,
        **facts,
    }
    headers = {**(headers or {}), **({"Retry-After": str(retry_after)} if retry_after is not None else {})}
    return JSONResponse({"error": error, **({"detail": detail} if detail else {})}, status, headers)
