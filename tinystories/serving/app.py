"""The app: `/health`, `/generate`, the page at `/`, and OpenAI's `/v1` (`completions.py`).

Design decisions
- **The engine decides, the app only speaks.** What may be waited for is refused there; here a refusal becomes 503 with
  Retry-After, and a client that leaves takes its story with it.
- **An answer has its status when the first token is there**, so a story that never gets its turn is 503 and no empty
  stream.
- **No prompt is written down anywhere**, neither in a log nor in an answer to wrong input.
- **A page by hand, not Gradio**, which is 80 MB of packages and some sixty requests before its page is there. This one
  is a single file, a policy allows it nothing but itself and this server, and it asks the API as any client does. A
  Space on the Hub, where Gradio is there anyway, offers the same with `space_app.py`.
- **FastAPI's own server-sent events** and `limits`, the package under slowapi, so nothing more is to be installed.
"""

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from ..generation.postprocess import post_process
from ..generation.presets import GREEDY, PRESETS, check_preset
from .completions import completions_router
from .engine import Engine, Finished, Order, Refused
from .middleware import RateLimit, SecurityHeaders, parse_rate_limit
from .requests import ClientGone, Stories
from .responses import Invalid, refusal
from .sampling import Sampling, chosen_seed
from .served_model import MAX_PROMPT, UNFINISHED, Teller, event_stream, sse
from .settings import Settings


MAX_BODY = 256 * 1024  # bytes


class StoryRequest(BaseModel):
    """What `/generate` takes. Settings that are left out are those of the preset, and without one the model's own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, description="text to continue")
    max_tokens: int | None = Field(None, ge=1, description="100, or the remaining context length")
    temperature: float | None = Field(None, ge=0.1, le=2.0)
    top_k: int | None = Field(None, ge=-1, description="0 or -1: off")
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    repetition_penalty: float | None = Field(None, ge=1.0, le=2.0)
    preset: str | None = Field(None, description=f"{', '.join(PRESETS)} or {GREEDY}")
    seed: int | None = Field(None, ge=-1, lt=2**32, description="the same seed generates the same text; -1: random")
    post_process: bool = Field(False, description="the last event brings the whole text, cleaned")

    @field_validator("preset")
    @classmethod
    def _known(cls, preset: str | None) -> str | None:
        if preset is not None:
            check_preset(preset)
        return preset

    def sampling(self, own: Sampling) -> Sampling:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.preset == GREEDY and (idle := [name for name in given if name != "repetition_penalty"]):
            raise Invalid(idle[0], f"The preset {GREEDY} draws nothing at random, so it takes no `{idle[0]}`.")
        base = own if self.preset is None else Sampling.of_preset(self.preset)
        return base.replace(**given)


def create_app(engine: Engine, settings: Settings, name: str) -> FastAPI:
    """The app that serves `engine`; it starts the engine and closes it.

    Args:
        name: of the model, for `/health` and `/v1/models`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    teller = Teller(engine, settings, name)
    app = FastAPI(title="tinystories", lifespan=lifespan, max_body_size=MAX_BODY, docs_url=None, redoc_url=None)
    app.include_router(completions_router(teller))
    page, policy = _page()

    if limit := parse_rate_limit(settings.rate_limit):
        app.add_middleware(RateLimit, limit=limit)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(SecurityHeaders)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> JSONResponse:
        """200 when stories can be ordered; 503 while the model loads, and when the server is about to stop."""
        ready = engine.state == "ready"
        return JSONResponse(_health(teller), 200 if ready else 503, None if ready else {"Retry-After": "2"})

    @app.post("/generate", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def generate(body: StoryRequest, request: Request) -> Response:
        """A story as server-sent events: `{"text"}` for each piece, then an event `done` with how it ended."""
        engine.check_ready()
        ids = teller.read(body.prompt)
        order = Order(
            prompt_ids=ids,
            max_tokens=teller.max_tokens(ids, body.max_tokens, default=100),
            sampling=body.sampling(teller.own_sampling),
            seed=chosen_seed(body.seed),
            deadline=teller.deadline(),
        )
        stories = Stories(engine, [order])
        await stories.begin(request)
        return event_stream(_told(stories, body, order), stories)

    _add_refusals(app)
    return app


def _health(teller: Teller) -> dict:
    engine = teller.engine
    report = {
        "status": engine.state,
        "model": teller.name,
        "parameters": None,
        "device": None,
        "context": None,
        "generation": None,
        "running": engine.running,
        "queue": engine.queue_length,
        "max_batch": engine.max_batch,
        "max_queue": engine.max_queue,
    }
    if engine.state in ("ready", "draining") and engine.model is not None:
        report["parameters"] = engine.model.num_parameters()
        report["device"] = str(engine.model.device)
        report["context"] = engine.context
        report["generation"] = vars(teller.own_sampling)
    return report


async def _told(stories: Stories, body: StoryRequest, order: Order) -> AsyncIterator[bytes]:
    story = body.prompt
    async for _, event in stories.events():
        if not isinstance(event, Finished):
            story += event.text
            yield sse({"text": event.text})
        elif event.reason == "error":
            yield sse({"message": UNFINISHED}, event="error")
        else:
            done = {
                "finish_reason": event.reason,
                "prompt_tokens": event.prompt_tokens,
                "completion_tokens": event.completion_tokens,
                "tokens_per_second": round(event.completion_tokens / max(event.seconds, 1e-6), 1),
                "seed": order.seed,
            }
            yield sse(done | ({"text": post_process(story)} if body.post_process else {}), event="done")


def _page() -> tuple[str, str]:
    """The page, and a policy that lets it run its own script and style, ask this server, and nothing else."""
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    page = page.replace("{{PRESETS}}", json.dumps({**PRESETS, GREEDY: {}}))

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def wrong_input(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may be a prompt, and need not even be text that JSON can hold.
        detail = [{"loc": list(each["loc"]), "msg": _said(each), "type": each["type"]} for each in error.errors()]
        first = detail[0]
        kind = request.headers.get("content-type", "none")
        if first["loc"] == ["body"] and "json" not in kind:
            message = f"the body must be JSON, sent with 'content-type: application/json', but its type is {kind}"
            return refusal(422, message, field="body", detail=detail)
        field = next((part for part in first["loc"][1:] if isinstance(part, str)), "body")
        return refusal(422, f"{field}: {first['msg']}", field=field, detail=detail)

    @app.exception_handler(Invalid)
    async def invalid(_: Request, error: Invalid) -> JSONResponse:
        detail = [{"loc": ["body", error.field], "msg": str(error), "type": "value_error"}]
        return refusal(error.status, str(error), field=error.field, code=error.code, detail=detail, **error.facts)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return refusal(503, str(error), retry_after=error.retry_after)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(ClientGone)
    async def client_gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=499)


def _said(error: dict) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return "not supported here"
    return f"{message}, but has {len(error['input'])}" if error["type"] == "string_too_long" else message
