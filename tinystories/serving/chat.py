"""OpenAI's `/v1/chat/completions`, for chat front ends.

The chat template of the tokenizer makes a prompt of the messages, as in `pipeline` and `transformers serve`. With that
of this project, the last user message is the beginning of a story, and the answer continues it; earlier messages and
system messages are ignored. That of a model that was trained with a template also takes the lines of that template,
such as `Words: dragon, key`. If the last message is the assistant's, the answer continues that one.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

from ..generation.prompts import encode_chat
from ..utils.errors import UserError
from .detokenizer import token_text
from .engine import Event, Finished, GenerationRequest, TokenLogprob
from .errors import InvalidInput
from .openai_api import FINISH_REASONS, OpenAIRequest, OpenAIResponse, neutral_value, unknown_model
from .served_model import MAX_PROMPT, ServedModel
from .stream import CompletionStream


# Unsupported parameters, with the values that change nothing.
NEUTRAL: dict[str, tuple] = {
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "reasoning_effort": (None, "none"),
}
NEUTRAL_OF_MESSAGES: dict[str, tuple] = {
    name: (None, [], "") for name in ("refusal", "annotations", "audio", "tool_calls", "function_call")
}


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"] = Field(description="no images and no audio")
    text: str


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Tag("parts")],
    Discriminator(lambda content: "parts" if isinstance(content, list) else "text"),
]


class Message(BaseModel):
    """A message, also as a client returns that of an answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: str | None = Field(None, description="has no effect")
    refusal: Any = Field(None, description="only null")
    annotations: Any = Field(None, description="only empty")
    audio: Any = Field(None, description="only null")
    tool_calls: Any = Field(None, description="only empty")
    function_call: Any = Field(None, description="only null")

    @field_validator(*NEUTRAL_OF_MESSAGES, mode="before")
    @classmethod
    def _unsupported(cls, value, info: ValidationInfo):
        return neutral_value(value, info, NEUTRAL_OF_MESSAGES)

    def as_text(self) -> dict[str, str]:
        """The message as chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(OpenAIRequest):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, description="by default the remaining context length")
    max_tokens: int | None = Field(None, ge=1, description="the older name of max_completion_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Any = Field(None, description="only text")
    modalities: Any = Field(None, description="only text")
    tools: Any = Field(None, description="only empty")
    tool_choice: Any = Field(None, description="only none or auto")
    parallel_tool_calls: bool | None = Field(None, description="has no effect")
    reasoning_effort: Any = Field(None, description="only none")

    @field_validator(*NEUTRAL, mode="before")
    @classmethod
    def _unsupported(cls, value, info: ValidationInfo):
        return neutral_value(value, info, NEUTRAL)


def chat_router(model: ServedModel) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/chat/completions", response_class=Response)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """OpenAI's chat completions: JSON, or with `stream` server-sent events that end with `[DONE]`."""
        if unknown := unknown_model(model, body.model):
            return unknown
        model.engine.check_ready()
        requests = _generation_requests(model, body)
        response = _ChatResponse(model, body, requests)
        return await response.send(CompletionStream(model.engine, requests), request, streamed=bool(body.stream))

    return router


def _generation_requests(model: ServedModel, body: ChatRequest) -> list[GenerationRequest]:
    """A request for each choice."""
    body.check_stream_options()
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput("top_logprobs", 'top_logprobs needs "logprobs": true.')
    asked = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(asked) > 1:
        raise InvalidInput("max_tokens", "max_tokens and max_completion_tokens differ: remove max_tokens.")
    messages = [message.as_text() for message in body.messages]
    used = next((each for each in reversed(messages) if each["role"] == "user"), messages[-1])
    if len(used["content"]) > MAX_PROMPT:
        length = f"{len(used['content']):,} characters"
        raise InvalidInput("messages", f"The last user message has {length}, but {MAX_PROMPT:,} are allowed.")
    model.instruction(body.fields)
    try:
        ids = encode_chat(model.tokenizer, messages, body.fields)
    except UserError as error:
        raise InvalidInput("messages", str(error)) from None
    max_tokens = model.max_tokens(ids, next(iter(asked), None), field="messages")
    seed, deadline, sampling = model.seed(body.seed), model.deadline(), body.sampling(model.default_sampling)
    return [
        GenerationRequest(
            prompt_ids=ids,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=(seed + number) % 2**32,
            deadline=deadline,
            stop=body.stop_strings(),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        for number in range(body.n or 1)
    ]


class _ChatResponse(OpenAIResponse):
    """The response of `/v1/chat/completions`; the first chunk of each choice has the role."""

    id_prefix, object_names = "chatcmpl", ("chat.completion", "chat.completion.chunk")

    def __init__(self, model: ServedModel, body: ChatRequest, requests: list[GenerationRequest]):
        super().__init__(model, body, requests)
        self._begun: set[int] = set()

    def choice(self, index: int) -> dict:
        return {"index": index, "message": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None}

    def add(self, choice: dict, part: dict) -> None:
        choice["message"]["content"] += part["delta"].get("content", "")
        if part["logprobs"]:
            choice["logprobs"] = choice["logprobs"] or {"content": [], "refusal": None}
            choice["logprobs"]["content"] += part["logprobs"]["content"]

    def parts(self, index: int, event: Event) -> list[dict]:
        parts = []
        if index not in self._begun:
            self._begun.add(index)
            parts.append(self._part(index, {"role": "assistant", "content": "", "refusal": None}))
        if isinstance(event, Finished):
            parts.append({**self._part(index, {}), "finish_reason": FINISH_REASONS[event.reason]})
        else:
            logprobs = {"content": list(map(self._logprob, event.tokens)), "refusal": None} if event.tokens else None
            parts.append({**self._part(index, {"content": event.text}), "logprobs": logprobs})
        return parts

    @staticmethod
    def _part(index: int, delta: dict) -> dict:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _logprob(self, token: TokenLogprob) -> dict:
        alternatives = [
            _entry(token_text(self._tokenizer, number), logprob)
            for number, logprob in (token.alternatives or {}).items()
        ]
        return {**_entry(token.text, token.logprob), "top_logprobs": alternatives}


def _entry(text: str, logprob: float | None) -> dict:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
