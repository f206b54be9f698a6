"""Code that all endpoints share: the model's name, limits and tokenizer, and server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from copy import deepcopy
from functools import cached_property

from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from transformers import PreTrainedTokenizerBase

from ..generation.presets import SamplingSettings
from ..generation.prompts import decode, encode_prompt, instruction
from ..story_template import StoryTemplate
from ..utils.errors import UserError
from .engine import Engine
from .errors import InvalidInput
from .settings import ServerSettings
from .stream import CompletionStream


MAX_PROMPT = 8_192  # characters; enough for a text that fills a context of 1,024 tokens
UNFINISHED = "The completion could not be finished."
# Line ends for `str.splitlines`, with which some clients split a stream, but not for server-sent events.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


class SamplingRequest(BaseModel):
    """The sampling parameters of every endpoint; by default those of the model's `generation_config.json`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: float | None = Field(None, ge=0.0, le=2.0, description="0: greedy decoding")
    top_k: int | None = Field(None, ge=-1, description="0 or -1: off")
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    repetition_penalty: float | None = Field(None, ge=1.0, le=2.0)
    seed: int | None = Field(None, ge=-1, lt=2**32, description="the same seed generates the same text; -1: random")

    def sampling(self, default: SamplingSettings) -> SamplingSettings:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        return default.replace(**{name: getattr(self, name) for name in names})


class ServedModel:
    """The model of the server, as the endpoints use it.

    Args:
        name: of the model, for clients.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, name: str):
        self.engine, self.settings, self.name = engine, settings, name
        self.created = int(time.time())

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A copy for the event loop: the engine's thread uses the original, and a tokenizer is not thread-safe."""
        return deepcopy(self.engine.tokenizer)

    @property
    def default_sampling(self) -> SamplingSettings:
        return SamplingSettings.from_generation_config(self.engine.model.generation_config.to_dict())

    @property
    def fields(self) -> list[str]:
        """The fields of the model's template; empty without one."""
        template = StoryTemplate.of_tokenizer(self.tokenizer)
        return [] if template is None else template.fields

    def encode_story(self, prompt: str, fields: dict[str, str] | None) -> list[int]:
        """Token ids of a prompt after the fields. Raises `InvalidInput` if there is neither."""
        text = self.instruction(fields) + prompt
        if not text:
            wanted = f", or give a field: {', '.join(self.fields)}" if self.fields else ""
            raise InvalidInput("prompt", f"The prompt is empty: write the beginning of the story{wanted}.")
        return self.encode(text)

    def encode(self, prompt: str) -> list[int]:
        """Raises `InvalidInput` for an empty prompt if the tokenizer has no BOS token."""
        try:
            return encode_prompt(self.tokenizer, prompt)
        except UserError as error:
            raise InvalidInput("prompt", str(error)) from None

    def instruction(self, fields: dict[str, str] | None) -> str:
        """The text in front of a story. Raises `InvalidInput` for fields that the model does not have."""
        try:
            return instruction(self.tokenizer, fields or {})
        except UserError as error:
            raise InvalidInput("fields", str(error)) from None

    def decode(self, prompt_ids: list[int]) -> str:
        """The text of a prompt of tokens. Raises `InvalidInput` for one that is not in the model's vocabulary."""
        entries = self.engine.model.config.get_text_config(decoder=True).vocab_size
        if max(prompt_ids) >= entries:
            raise InvalidInput(
                "prompt", f"There is no token with the id {max(prompt_ids)}; the vocabulary has {entries} entries."
            )
        return decode(self.tokenizer, prompt_ids)

    def max_tokens(
        self, prompt_ids: list[int], requested: int | None, default: int | None = None, field: str = "prompt"
    ) -> int:
        """The maximum length of a completion.

        Args:
            requested: None for `default`, at most the remaining context length.
            default: None for the remaining context length.
            field: parameter with the prompt, for errors.

        Raises:
            InvalidInput: with status 400 if the prompt fills the context, 422 if too many tokens are requested.
        """
        used, context = len(prompt_ids), self.engine.context
        remaining = context - used
        if remaining < 1:
            raise InvalidInput(
                field,
                f"The prompt has {used:,} tokens, but the context length of the model is {context:,}: shorten the "
                f"prompt.",
                status=400,
                code="context_length_exceeded",
                prompt_tokens=used,
                context=context,
            )
        if requested is not None and requested > remaining:
            raise InvalidInput(
                "max_tokens",
                f"max_tokens must be at most {remaining:,}: the context length is {context:,} tokens, and the prompt "
                f"has {used:,}.",
                maximum=remaining,
            )
        if requested is None:
            return remaining if default is None else min(default, remaining)
        return requested

    @staticmethod
    def seed(requested: int | None) -> int:
        """The requested seed; a random one for None and for -1, which many clients send instead."""
        return secrets.randbits(32) if requested in (None, -1) else requested

    def deadline(self) -> float:
        return time.monotonic() + self.settings.time_limit


def sse(data: dict | str, event: str | None = None) -> bytes:
    """A server-sent event with JSON, or with a literal such as `[DONE]`."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False).translate(LINE_ENDS)
    return format_sse_event(data_str=text, event=event)


def event_stream(events: AsyncIterator[bytes], completions: CompletionStream) -> Response:
    """A response of server-sent events; when it ends, even before the first event, the completions are cancelled."""

    async def end() -> None:
        completions.cancel()

    # The header stops nginx from buffering events.
    return EventSourceResponse(events, headers={"X-Accel-Buffering": "no"}, background=BackgroundTask(end))
