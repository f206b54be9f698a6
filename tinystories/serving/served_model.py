"""What all endpoints share: one model's name, limits and tokenizer, and how an event is written."""

import json
import time
from collections.abc import AsyncIterator
from copy import deepcopy
from functools import cached_property

from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.background import BackgroundTask
from transformers import PreTrainedTokenizerBase

from ..generation.prompts import encode_prompt
from ..utils.errors import UserError
from .engine import Engine
from .requests import Stories
from .responses import Invalid
from .sampling import Sampling
from .settings import Settings


MAX_PROMPT = 2_048  # characters
UNFINISHED = "The completion could not be generated to its end."
# Ends of lines to str.splitlines, by which some clients cut a stream, though not to server-sent events.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


class Teller:
    """
    Args:
        name: what clients call the model.
    """

    def __init__(self, engine: Engine, settings: Settings, name: str):
        self.engine, self.settings, self.name = engine, settings, name
        self.started = int(time.time())

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A copy: the engine's thread uses the engine's, and two threads must not use one."""
        return deepcopy(self.engine.tokenizer)

    @property
    def own_sampling(self) -> Sampling:
        return Sampling.of_model(self.engine.model.generation_config)

    def read(self, prompt: str) -> list[int]:
        """Ids of a prompt. Raises `Invalid` for an empty one where the tokenizer has no token to begin with."""
        try:
            return encode_prompt(self.tokenizer, prompt)
        except UserError as error:
            raise Invalid("prompt", str(error)) from None

    def text(self, prompt_ids: list[int]) -> str:
        """Of a prompt that came as tokens. Raises `Invalid` for one that the model does not have."""
        entries = self.engine.model.config.get_text_config(decoder=True).vocab_size
        if max(prompt_ids) >= entries:
            raise Invalid("prompt", f"There is no token {max(prompt_ids)}; the vocabulary has {entries}.")
        return self.tokenizer.decode(prompt_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def max_tokens(self, prompt_ids: list[int], asked: int | None, default: int) -> int:
        """Tokens that a story may have after its prompt: what was asked for, or the default where there is room.

        Raises:
            Invalid: with status 400 for a prompt that fills the context, 422 where more was asked for than is left.
        """
        used, context = len(prompt_ids), self.engine.context
        room = context - used
        if room < 1:
            raise Invalid(
                "prompt",
                f"The prompt is {used} tokens long, but the model's context is {context}: shorten the prompt.",
                status=400,
                code="context_length_exceeded",
                prompt_tokens=used,
                context=context,
            )
        if asked is not None and asked > room:
            raise Invalid(
                "max_tokens",
                f"The context is {context} tokens and the prompt takes {used}: max_tokens can be at most {room}.",
                maximum=room,
            )
        return min(default, room) if asked is None else asked

    def deadline(self) -> float:
        return time.monotonic() + self.settings.time_limit


def sse(data: dict | str, event: str | None = None) -> bytes:
    """A server-sent event with JSON, or with a word of a protocol such as `[DONE]`."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False).translate(LINE_ENDS)
    return format_sse_event(data_str=text, event=event)


def event_stream(events: AsyncIterator[bytes], stories: Stories) -> Response:
    """A stream of `events`, with which the `stories` end, also where not one of them was sent."""

    async def end() -> None:
        stories.cancel()

    # The header is for nginx, which would otherwise keep the events until there are many.
    return EventSourceResponse(events, headers={"X-Accel-Buffering": "no"}, background=BackgroundTask(end))
