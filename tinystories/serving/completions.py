"""OpenAI's `/v1/completions` and `/v1/models`, as used by its clients and by lm-evaluation-harness.

Parameters of the API that this server does not support are accepted only with a value that changes nothing.
"""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from ..generation.presets import GREEDY, MIN_TEMPERATURE, SamplingSettings
from .detokenizer import token_text
from .engine import Event, Finished, GenerationRequest, TextDelta, TokenLogprob
from .errors import InvalidInput, error_response
from .served_model import MAX_PROMPT, UNFINISHED, SamplingRequest, ServedModel, event_stream, sse
from .stream import CompletionStream, while_connected


MAX_CHOICES = 16
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 4, 100
FINISH_REASONS = {"stop": "stop", "length": "length", "time": "length", "shutdown": "length"}
# Unsupported parameters, with the values that change nothing.
UNSUPPORTED = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
}


def _kind(prompt) -> str:
    if not isinstance(prompt, list):
        return "text"
    return {int: "tokens", list: "lists of tokens"}.get(type(prompt[0]), "texts") if prompt else "tokens"


Text = Annotated[str, Field(max_length=MAX_PROMPT)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Several = Field(max_length=MAX_CHOICES)
Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[list[Text], Several, Tag("texts")]
    | Annotated[list[Tokens], Several, Tag("lists of tokens")],
    Discriminator(_kind),
]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="only false")

    @field_validator("include_obfuscation")
    @classmethod
    def _unsupported(cls, value: bool | None) -> None:
        if value:
            raise ValueError("include_obfuscation is not supported by this server")


class CompletionRequest(SamplingRequest):
    """OpenAI's parameters, with `top_k` and `repetition_penalty`."""

    model: str
    prompt: Prompt
    max_tokens: int | None = Field(None, ge=0, description="16, or the remaining context length; 0 only with echo")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="has no effect")
    metadata: dict[str, str] | None = Field(None, description="has no effect")
    prompt_cache_key: str | None = Field(None, description="has no effect")
    safety_identifier: str | None = Field(None, description="has no effect")
    service_tier: str | None = Field(None, description="only auto or default")
    store: bool | None = Field(None, description="only false")
    best_of: int | None = Field(None, description="only 1")
    frequency_penalty: float | None = Field(None, description="only 0")
    presence_penalty: float | None = Field(None, description="only 0")
    logit_bias: dict[str, float] | None = Field(None, description="only empty")
    suffix: str | None = Field(None, description="only empty")

    @field_validator(*UNSUPPORTED, mode="before")
    @classmethod
    def _unsupported(cls, value, info: ValidationInfo):
        if isinstance(value, dict) and not any(value.values()):
            value = {}
        neutral = UNSUPPORTED[str(info.field_name)]
        if info.field_name == "best_of":  # the best `n` of `n` completions are all of them
            neutral = (*neutral, info.data.get("n"))
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral):
            raise ValueError("this value is not supported by this server; remove the parameter")
        return None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_limits(cls, stop):
        given = [stop] if isinstance(stop, str) else stop or []
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise ValueError(f"must be a string or a list of at most {MAX_STOP_STRINGS} strings")
        if len(given) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are allowed, but there are {len(given)}")
        for text in given:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise ValueError(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, but has {len(text)}")
        return stop

    def prompts(self) -> list:
        """Strings or lists of token ids."""
        return list(self.prompt) if _kind(self.prompt) in ("texts", "lists of tokens") else [self.prompt]

    def sampling(self, default: SamplingSettings) -> SamplingSettings:
        if self.temperature is not None and self.temperature < MIN_TEMPERATURE:
            return SamplingSettings.from_preset(GREEDY).replace(repetition_penalty=self.repetition_penalty)
        return super().sampling(default)


def completions_router(model: ServedModel) -> APIRouter:
    router = APIRouter(prefix="/v1")
    card = {"id": model.name, "object": "model", "created": model.created, "owned_by": "tinystories"}

    def check_model(name: str) -> JSONResponse | None:
        if name in (model.name, model.settings.checkpoint):
            return None
        message = f"There is no model {name!r}; this server serves {model.name!r}."
        return error_response(404, message, field="model", code="model_not_found")

    @router.get("/models")
    async def list_models() -> dict:
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}", response_class=Response)
    async def retrieve_model(name: str) -> Response:
        return check_model(name) or JSONResponse(card)

    @router.post("/completions", response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's completions: JSON, or with `stream` server-sent events that end with `[DONE]`."""
        if unknown := check_model(body.model):
            return unknown
        model.engine.check_ready()
        requests, prompts = _generation_requests(model, body)
        response = _CompletionResponse(model, body, requests, prompts)
        stream = CompletionStream(model.engine, requests)
        await stream.begin(request)
        if body.stream:
            return event_stream(response.chunks(stream), stream)
        try:
            return await while_connected(request, response.complete(stream))
        finally:
            stream.cancel()

    return router


def _generation_requests(model: ServedModel, body: CompletionRequest) -> tuple[list[GenerationRequest], list[str]]:
    """A request for each choice, and the text of its prompt."""
    if body.stream_options and not body.stream:
        raise InvalidInput("stream_options", 'stream_options needs "stream": true.')
    if body.max_tokens == 0 and not body.echo:
        raise InvalidInput("max_tokens", 'max_tokens can be 0 only with "echo": true.')
    prompts, n = body.prompts(), body.n or 1
    if len(prompts) * n > MAX_CHOICES:
        raise InvalidInput("n", f"{len(prompts)} prompts with n = {n} exceed the maximum of {MAX_CHOICES} choices.")
    seed = model.seed(body.seed)
    deadline, sampling = model.deadline(), body.sampling(model.default_sampling)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    requests: list[GenerationRequest] = []
    texts = []
    for prompt in prompts:
        ids, text = (model.encode(prompt), prompt) if isinstance(prompt, str) else (prompt, model.decode(prompt))
        for _ in range(n):
            requests.append(
                GenerationRequest(
                    prompt_ids=ids,
                    max_tokens=model.max_tokens(ids, body.max_tokens, default=16),
                    sampling=sampling,
                    seed=(seed + len(requests)) % 2**32,
                    deadline=deadline,
                    stop=stop,
                    logprobs=body.logprobs,
                    prompt_logprobs=bool(body.echo) and body.logprobs is not None,
                )
            )
            texts.append(text)
    return requests, texts


class _CompletionResponse:
    """The response of `/v1/completions`, complete or in chunks."""

    def __init__(
        self, model: ServedModel, body: CompletionRequest, requests: list[GenerationRequest], prompts: list[str]
    ):
        self._tokenizer, self._body, self._requests, self._prompts = model.tokenizer, body, requests, prompts
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        self._lengths = [0] * len(requests)  # characters of each choice so far
        self._completion_tokens = 0

    async def complete(self, stream: CompletionStream) -> JSONResponse:
        choices: list[dict] = [{"text": "", "index": index, "logprobs": None} for index in range(len(self._requests))]
        async for index, event in stream.events():
            if isinstance(event, Finished) and event.reason == "error":
                return error_response(500, UNFINISHED)
            for part in self._parts(index, event):
                choice = choices[index]
                choice["text"] += part["text"]
                choice["finish_reason"] = part["finish_reason"]
                for name, values in (part["logprobs"] or {}).items():
                    choice["logprobs"] = choice["logprobs"] or {}
                    choice["logprobs"].setdefault(name, []).extend(values)
        return JSONResponse({**self._head, "choices": choices, "usage": self._usage()})

    async def chunks(self, stream: CompletionStream) -> AsyncIterator[bytes]:
        with_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        no_usage = {"usage": None} if with_usage else {}
        async for index, event in stream.events():
            if isinstance(event, Finished) and event.reason == "error":
                yield sse({"error": {"message": UNFINISHED, "type": "server_error"}})
                return
            for part in self._parts(index, event):
                yield sse({**self._head, "choices": [part], **no_usage})
        if with_usage:
            yield sse({**self._head, "choices": [], "usage": self._usage()})
        yield sse("[DONE]")

    def _parts(self, index: int, event: Event) -> list[dict]:
        """What an event adds to a choice; with `echo`, the first one also adds the prompt."""
        parts = []
        if self._body.echo and not self._lengths[index]:
            tokens = event.tokens if isinstance(event, TextDelta) and event.of_prompt else ()
            parts.append(self._part(index, self._prompts[index], tokens))
        if isinstance(event, Finished):
            self._completion_tokens += event.completion_tokens
            parts.append({**self._part(index, "", ()), "finish_reason": FINISH_REASONS[event.reason]})
        elif not event.of_prompt:
            parts.append(self._part(index, event.text, event.tokens))
        return parts

    def _part(self, index: int, text: str, tokens: tuple[TokenLogprob, ...]) -> dict:
        logprobs = None
        if tokens:
            logprobs = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [self._alternatives(token) for token in tokens],
                "text_offset": _offsets(text, tokens, self._lengths[index]),
            }
        self._lengths[index] += len(text)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": None}

    def _alternatives(self, token: TokenLogprob) -> dict[str, float] | None:
        """By text; of tokens with the same text, such as "cat" with and without a space, the most probable."""
        if token.alternatives is None:
            return None
        alternatives: dict[str, float] = {}
        for index, logprob in token.alternatives.items():
            alternatives.setdefault(token_text(self._tokenizer, index), logprob)
        return alternatives

    def _usage(self) -> dict:
        prompt_tokens = sum(len(request.prompt_ids) for request in self._requests[:: self._body.n or 1])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
        }


def _offsets(text: str, tokens: tuple[TokenLogprob, ...], start: int) -> list[int]:
    """Where each token starts in a choice's text; a token without text starts where the next one does."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append(start + place)
        place += len(token.text) if text.startswith(token.text, place) else 0
    return offsets
