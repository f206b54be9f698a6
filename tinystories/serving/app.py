"""The app: `/health`, `/generate`, the page at `/`, `/alternatives`, and OpenAI's `/v1` (`completions.py`,
`chat.py`).

- The status of a response is sent with its first event, so a request that is never started gets 503 instead of an
  empty stream. If a client disconnects, its completions are cancelled.
- No prompt is logged or repeated in an error response.
- The page is sent as one file without dependencies; Gradio would add 80 MB of packages and some sixty requests.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field, field_validator

from ..generation.postprocess import post_process
from ..generation.presets import GREEDY, PRESETS, SamplingSettings, check_preset
from .alternatives import alternatives_router
from .chat import chat_router
from .completions import completions_router
from .engine import Engine, Finished, GenerationRequest
from .errors import InvalidInput, add_error_handlers
from .middleware import RateLimit, SecurityHeaders, parse_rate_limit
from .served_model import MAX_PROMPT, UNFINISHED, SamplingRequest, ServedModel, event_stream, sse
from .settings import ServerSettings
from .stream import CompletionStream


MAX_BODY = 256 * 1024  # bytes


class StoryRequest(SamplingRequest):
    """The body of `/generate`. Missing settings are those of the preset, or else of the model."""

    prompt: str = Field(max_length=MAX_PROMPT, description="text to continue; may be empty if there are fields")
    fields: dict[str, str] | None = Field(None, description="of the model's template, such as words")
    max_tokens: int | None = Field(None, ge=1, description="by default the remaining context length")
    temperature: float | None = Field(None, ge=0.1, le=2.0)
    preset: str | None = Field(None, description=f"{', '.join(PRESETS)} or {GREEDY}")
    post_process: bool = Field(False, description="add the post-processed text to the last event")

    @field_validator("preset")
    @classmethod
    def _known(cls, preset: str | None) -> str | None:
        if preset is not None:
            check_preset(preset)
        return preset

    def sampling(self, default: SamplingSettings) -> SamplingSettings:
        for name in ("temperature", "top_k", "top_p") if self.preset == GREEDY else ():
            if getattr(self, name) is not None:
                message = f"The preset {GREEDY} does not sample, so `{name}` has no effect: remove it."
                raise InvalidInput(name, message)
        return super().sampling(default if self.preset is None else SamplingSettings.from_preset(self.preset))


def create_app(engine: Engine, settings: ServerSettings, name: str) -> FastAPI:
    """The app that serves `engine`; it starts the engine and closes it.

    Args:
        name: name of the model in `/health` and `/v1/models`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()

    model = ServedModel(engine, settings, name)
    app = FastAPI(title="tinystories", lifespan=lifespan, max_body_size=MAX_BODY, docs_url=None, redoc_url=None)
    app.include_router(completions_router(model))
    app.include_router(chat_router(model))
    app.include_router(alternatives_router(model))
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
    add_error_handlers(app)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> JSONResponse:
        """200 when the server accepts requests; 503 while the model loads and during shutdown."""
        ready = engine.state == "ready"
        return JSONResponse(_health(model), 200 if ready else 503, None if ready else {"Retry-After": "2"})

    @app.post("/generate", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def generate(body: StoryRequest, request: Request) -> Response:
        """Server-sent events: `{"text"}` for each piece of the story, then an event `done` with its statistics."""
        engine.check_ready()
        ids = model.encode_story(body.prompt, body.fields)
        story = GenerationRequest(
            prompt_ids=ids,
            max_tokens=model.max_tokens(ids, body.max_tokens),
            sampling=body.sampling(model.default_sampling),
            seed=model.seed(body.seed),
            deadline=model.deadline(),
        )
        completions = CompletionStream(engine, [story])
        await completions.begin(request)
        return event_stream(_story_events(completions, body, story.seed), completions)

    return app


def _health(model: ServedModel) -> dict:
    engine = model.engine
    loaded = engine.state in ("ready", "draining") and engine.loaded
    return {
        "status": engine.state,
        "model": model.name,
        "parameters": engine.model.num_parameters() if loaded else None,
        "device": str(engine.model.device) if loaded else None,
        "context": engine.context if loaded else None,
        "generation": vars(model.default_sampling) if loaded else None,
        "fields": model.fields if loaded else None,
        "running": engine.running,
        "queue": engine.queue_length,
        "max_batch": engine.max_batch,
        "max_queue": engine.max_queue,
    }


async def _story_events(completions: CompletionStream, body: StoryRequest, seed: int) -> AsyncIterator[bytes]:
    story = body.prompt
    async for _, event in completions.events():
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
                "seed": seed,
            }
            yield sse(done | ({"text": post_process(story)} if body.post_process else {}), event="done")


def _page() -> tuple[str, str]:
    """The page, and a Content-Security-Policy that allows its own script and style, and requests to this server."""
    folder = resources.files(__package__).joinpath("page")
    page, style, *scripts = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "story.js", "page.js")
    )
    script = "".join(scripts)
    presets = json.dumps({**PRESETS, GREEDY: {}})
    for name, text in {"STYLE": style, "PRESETS": presets, "SCRIPT": script}.items():
        page = page.replace(f"{{{{{name}}}}}", text)

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
