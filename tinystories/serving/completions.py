"""OpenAI's `/v1/completions` and `/v1/models`, as its clients and lm-evaluation-harness use them.

What the API has and this server does not do is taken only with the value that asks for nothing, and refused otherwise.
"""

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from ..generation.presets import GREEDY, MIN_TEMPERATURE
from .engine import Event, Finished, Order, Piece, Token
from .requests import Stories, while_connected
from .responses import Invalid, refusal
from .sampling import Sampling, chosen_seed
from .served_model import MAX_PROMPT, UNFINISHED, Teller, event_stream, sse


MAX_CHOICES = 16
REASONS = {"stop": "stop", "length": "length", "time": "length", "shutdown": "length"}


def _kind(prompt) -> str:
    if not isinstance(prompt, list) or not prompt:
        return "text"
    return {int: "tokens", list: "lists of tokens"}.get(type(prompt[0]), "texts")


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
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 4, 100
# What this server does not do, with the values that ask for nothing.
NOT_SUPPORTED = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="only false")

    @field_validator("include_obfuscation")
    @classmethod
    def _asks_for_nothing(cls, value: bool | None) -> None:
        if value:
            raise ValueError("include_obfuscation is not supported here")


class CompletionRequest(BaseModel):
    """OpenAI's parameters, and of generate's own `top_k` and `repetition_penalty`. What is left out is as the model's
    folder says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: Prompt
    max_tokens: int | None = Field(None, ge=0, description="16, or the remaining context length; 0 only with echo")
    temperature: float | None = Field(None, ge=0.0, le=2.0, description="0: greedy decoding")
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=-1, description="0 or -1: off")
    repetition_penalty: float | None = Field(None, ge=1.0, le=2.0)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-1, lt=2**32, description="-1: a random one, as where it is left out")
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

    @field_validator(*NOT_SUPPORTED, mode="before")
    @classmethod
    def _asks_for_nothing(cls, value, info: ValidationInfo):
        if isinstance(value, dict) and not any(value.values()):
            value = {}
        allowed = NOT_SUPPORTED[info.field_name]
        if info.field_name == "best_of":  # of `n` completions the best `n` are all of them
            allowed = (*allowed, info.data.get("n"))
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise ValueError("not supported here")
        return None

    @field_validator("stop", mode="before")
    @classmethod
    def _within_limits(cls, stop):
        given = [stop] if isinstance(stop, str) else stop or []
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise ValueError(f"must be a string or a list of at most {MAX_STOP_STRINGS} strings")
        if len(given) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are allowed, but there are {len(given)}")
        for text in given:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise ValueError(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, but has {len(text)}")
        return stop

    def prompts(self) -> list[str] | list[list[int]]:
        return self.prompt if _kind(self.prompt) in ("texts", "lists of tokens") else [self.prompt]

    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, own: Sampling) -> Sampling:
        if self.temperature is not None and self.temperature < MIN_TEMPERATURE:
            return dataclasses.replace(Sampling.of_preset(GREEDY), repetition_penalty=self.repetition_penalty or 1.0)
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        return own.replace(**{name: getattr(self, name) for name in names})


def completions_router(teller: Teller) -> APIRouter:
    router = APIRouter(prefix="/v1")
    card = {"id": teller.name, "object": "model", "created": teller.started, "owned_by": "tinystories"}

    def check_model(name: str) -> JSONResponse | None:
        if name not in (teller.name, teller.settings.checkpoint):
            message = f"There is no model {name!r} here; there is {teller.name!r}."
            return refusal(404, message, field="model", code="model_not_found")

    @router.get("/models")
    async def models() -> dict:
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}", response_class=Response)
    async def model(name: str) -> Response:
        return check_model(name) or JSONResponse(card)

    @router.post("/completions", response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's completions: JSON, or with `stream` server-sent events that end with `[DONE]`."""
        if unknown := check_model(body.model):
            return unknown
        teller.engine.check_ready()
        orders, prompts = _orders(teller, body)
        completion = _Completion(teller.name, body, orders, prompts)
        stories = Stories(teller.engine, orders)
        await stories.begin(request)
        if body.stream:
            return event_stream(completion.chunks(stories), stories)
        try:
            return await while_connected(request, completion.whole(stories))
        finally:
            stories.cancel()

    return router


def _orders(teller: Teller, body: CompletionRequest) -> tuple[list[Order], list[str]]:
    """An order for each choice, and the text of its prompt."""
    if body.stream_options and not body.stream:
        raise Invalid("stream_options", "stream_options can be given only with stream.")
    if body.max_tokens == 0 and not body.echo:
        raise Invalid("max_tokens", "max_tokens can be 0 only with echo.")
    given, n = body.prompts(), body.n or 1
    if len(given) * n > MAX_CHOICES:
        raise Invalid("n", f"{len(given)} prompts with n = {n} are more than {MAX_CHOICES} choices.")
    seed = chosen_seed(body.seed)
    deadline, sampling = teller.deadline(), body.sampling(teller.own_sampling)
    orders, texts = [], []
    for prompt in given:
        if isinstance(prompt, str):
            ids, text = teller.read(prompt), prompt
        else:
            ids, text = prompt, teller.text(prompt)
        for _ in range(n):
            orders.append(
                Order(
                    prompt_ids=ids,
                    max_tokens=teller.max_tokens(ids, body.max_tokens, default=16),
                    sampling=sampling,
                    seed=(seed + len(orders)) % 2**32,
                    deadline=deadline,
                    stop=body.stop_strings(),
                    logprobs=body.logprobs,
                    prompt_logprobs=bool(body.echo) and body.logprobs is not None,
                )
            )
            texts.append(text)
    return orders, texts


class _Completion:
    """One answer to `/v1/completions`, whole or in chunks."""

    def __init__(self, model: str, body: CompletionRequest, orders: list[Order], prompts: list[str]):
        self._body, self._orders, self._prompts = body, orders, prompts
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._lengths = [0] * len(orders)  # characters that each choice has so far
        self._completion_tokens = 0

    async def whole(self, stories: Stories) -> JSONResponse:
        choices = [{"text": "", "index": index, "logprobs": None} for index in range(len(self._orders))]
        async for index, event in stories.events():
            if isinstance(event, Finished) and event.reason == "error":
                return refusal(500, UNFINISHED)
            for part in self._parts(index, event):
                choice = choices[index]
                choice["text"] += part["text"]
                choice["finish_reason"] = part["finish_reason"]
                for name, values in (part["logprobs"] or {}).items():
                    choice["logprobs"] = choice["logprobs"] or {}
                    choice["logprobs"].setdefault(name, []).extend(values)
        return JSONResponse({**self._head, "choices": choices, "usage": self._usage()})

    async def chunks(self, stories: Stories) -> AsyncIterator[bytes]:
        with_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        nothing = {"usage": None} if with_usage else {}
        async for index, event in stories.events():
            if isinstance(event, Finished) and event.reason == "error":
                yield sse({"error": {"message": UNFINISHED, "type": "server_error"}})
                return
            for part in self._parts(index, event):
                yield sse({**self._head, "choices": [part], **nothing})
        if with_usage:
            yield sse({**self._head, "choices": [], "usage": self._usage()})
        yield sse("[DONE]")

    def _parts(self, index: int, event: Event) -> list[dict]:
        """What an event adds to a choice; before its first one with `echo` also the prompt."""
        parts = []
        if self._body.echo and not self._lengths[index]:
            known = event.tokens if isinstance(event, Piece) and event.of_prompt else ()
            parts.append(self._part(index, self._prompts[index], known))
        if isinstance(event, Finished):
            self._completion_tokens += event.completion_tokens
            parts.append({**self._part(index, "", ()), "finish_reason": REASONS[event.reason]})
        elif not event.of_prompt:
            parts.append(self._part(index, event.text, event.tokens))
        return parts

    def _part(self, index: int, text: str, tokens: tuple[Token, ...]) -> dict:
        logprobs = None
        if tokens:
            logprobs = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [token.logprob for token in tokens],
                "top_logprobs": [token.alternatives for token in tokens],
                "text_offset": _offsets(text, tokens, self._lengths[index]),
            }
        self._lengths[index] += len(text)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": None}

    def _usage(self) -> dict:
        n = self._body.n or 1
        prompt_tokens = sum(len(order.prompt_ids) for order in self._orders[::n])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
        }


def _offsets(text: str, tokens: tuple[Token, ...], start: int) -> list[int]:
    """Where in a choice's text each token begins; one that is no text, as a special token, where the next one does."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append(start + place)
        place += len(token.text) if text.startswith(token.text, place) else 0
    return offsets
