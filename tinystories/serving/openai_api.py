"""What the endpoints of OpenAI's API share: parameters, the response as a whole or in chunks, and errors.

Parameters of the API that this server does not support are accepted only with a value that changes nothing.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ..generation.presets import GREEDY, MIN_TEMPERATURE, SamplingSettings
from .engine import Event, Finished, GenerationRequest
from .errors import InvalidInput, error_response
from .served_model import UNFINISHED, SamplingRequest, ServedModel, event_stream, sse
from .stream import CompletionStream, while_connected


MAX_CHOICES = 16
MAX_STOP_STRINGS, MAX_STOP_LENGTH = 4, 100
FINISH_REASONS = {"stop": "stop", "length": "length", "time": "length", "shutdown": "length"}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="only false")

    @field_validator("include_obfuscation")
    @classmethod
    def _unsupported(cls, value: bool | None) -> None:
        if value:
            raise ValueError("include_obfuscation is not supported by this server")


def neutral_value(value, info: ValidationInfo, neutral: dict[str, tuple]) -> None:
    """A validator of unsupported parameters: None for a value that changes nothing.

    Args:
        neutral: by parameter, the values that change nothing.
    """
    if isinstance(value, dict) and not any(value.values()):
        value = {}
    allowed = neutral[str(info.field_name)]
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
        raise ValueError("this value is not supported by this server; remove the parameter")


class OpenAIRequest(SamplingRequest):
    """The parameters that completions and chat completions share, with `top_k` and `repetition_penalty`."""

    model: str
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    fields: dict[str, str] | None = Field(None, description="of the model's template, such as words")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="has no effect")
    metadata: dict[str, str] | None = Field(None, description="has no effect")
    prompt_cache_key: str | None = Field(None, description="has no effect")
    safety_identifier: str | None = Field(None, description="has no effect")
    service_tier: str | None = Field(None, description="only auto or default")
    store: bool | None = Field(None, description="only false")
    frequency_penalty: float | None = Field(None, description="only 0")
    presence_penalty: float | None = Field(None, description="only 0")
    logit_bias: dict[str, float] | None = Field(None, description="only empty")

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias", "service_tier", "store", mode="before")
    @classmethod
    def _neutral(cls, value, info: ValidationInfo):
        neutral = {
            "frequency_penalty": (None, 0),
            "presence_penalty": (None, 0),
            "logit_bias": (None, {}),
            "service_tier": (None, "auto", "default"),
            "store": (None, False),
        }
        return neutral_value(value, info, neutral)

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

    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, default: SamplingSettings) -> SamplingSettings:
        if self.temperature is not None and self.temperature < MIN_TEMPERATURE:
            return SamplingSettings.from_preset(GREEDY).replace(repetition_penalty=self.repetition_penalty)
        return super().sampling(default)

    def check_stream_options(self) -> None:
        if self.stream_options and not self.stream:
            raise InvalidInput("stream_options", 'stream_options needs "stream": true.')


def unknown_model(model: ServedModel, name: str) -> JSONResponse | None:
    """An error response for another model than the one served."""
    if name in (model.name, model.settings.checkpoint):
        return None
    message = f"There is no model {name!r}; this server serves {model.name!r}."
    return error_response(404, message, field="model", code="model_not_found")


class OpenAIResponse(ABC):
    """The response to one request, complete or in chunks.

    Args:
        requests: one for each completion that is generated.
        per_prompt: number of completions of each prompt.
    """

    id_prefix: str
    object_names: tuple[str, str]  # of a complete response, and of a chunk

    def __init__(
        self, model: ServedModel, body: OpenAIRequest, requests: list[GenerationRequest], per_prompt: int | None = None
    ):
        self._tokenizer, self._requests = model.tokenizer, requests
        self._n, self._per_prompt = body.n or 1, per_prompt or body.n or 1
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "object": self.object_names[0],
            "created": int(time.time()),
            "model": model.name,
        }
        self._completion_tokens = 0

    @abstractmethod
    def parts(self, index: int, event: Event) -> list[dict]:
        """What an event adds to a choice, as the choices of chunks."""

    @abstractmethod
    def choice(self, index: int) -> dict:
        """An empty choice of a complete response."""

    @abstractmethod
    def add(self, choice: dict, part: dict) -> None:
        """Add a part to a choice of a complete response."""

    def chosen(self, choices: list[dict]) -> list[dict]:
        """The choices of a complete response, of those that were generated."""
        return choices

    async def send(self, stream: CompletionStream, request: Request, *, streamed: bool) -> Response:
        await stream.begin(request)
        if streamed:
            return event_stream(self._chunks(stream), stream)
        try:
            return await while_connected(request, self._complete(stream))
        finally:
            stream.cancel()

    async def _complete(self, stream: CompletionStream) -> JSONResponse:
        choices = list(map(self.choice, range(len(self._requests))))
        async for index, event in stream.events():
            if isinstance(event, Finished) and event.reason == "error":
                return error_response(500, UNFINISHED)
            for part in self._counted_parts(index, event):
                self.add(choices[index], part)
                choices[index]["finish_reason"] = part["finish_reason"]
        return JSONResponse({**self._head, "choices": self.chosen(choices), "usage": self._usage()})

    async def _chunks(self, stream: CompletionStream) -> AsyncIterator[bytes]:
        head = {**self._head, "object": self.object_names[1]}
        no_usage = {"usage": None} if self._with_usage else {}
        async for index, event in stream.events():
            if isinstance(event, Finished) and event.reason == "error":
                yield sse({"error": {"message": UNFINISHED, "type": "server_error"}})
                return
            for part in self._counted_parts(index, event):
                yield sse({**head, "choices": [part], **no_usage})
        if self._with_usage:
            yield sse({**head, "choices": [], "usage": self._usage()})
        yield sse("[DONE]")

    def _counted_parts(self, index: int, event: Event) -> list[dict]:
        if isinstance(event, Finished):
            self._completion_tokens += event.completion_tokens
        return self.parts(index, event)

    def _usage(self) -> dict:
        prompt_tokens = sum(len(request.prompt_ids) for request in self._requests[:: self._per_prompt])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
        }
