"""`/alternatives`: the words that the model could have generated instead of a word of a story.

- Probabilities are the model's, before sampling settings. That of a word is the product of those of its tokens.
- Each of the most probable tokens is completed to a word by greedy decoding, all of them in one batch.
- The `logprobs` of `/v1/completions` are not sufficient: they are for tokens, and with SentencePiece without spaces.
"""

import math
import re
from collections import defaultdict
from operator import itemgetter

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ..generation.presets import GREEDY, SamplingSettings
from .engine import Finished, GenerationRequest, ServiceUnavailable, TokenLogprob
from .served_model import MAX_PROMPT, UNFINISHED, ServedModel
from .stream import CompletionStream, while_connected


MAX_WORD_TOKENS = 8
WORD = re.compile(r"\s*([\w\u0300-\u036f'’-]+|[^\w\s]+)")  # as in page/story.js; the range: combining accents
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # at the end of a text: part of a character


class AlternativesRequest(BaseModel):
    """The body of `/alternatives`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(max_length=MAX_PROMPT, description="the text before the word")
    fields: dict[str, str] | None = Field(None, description="of the model's template, such as words")
    word: str = Field(min_length=1, max_length=100, description="the word, with the space before it")
    n: int = Field(5, ge=1, le=10, description="number of tokens that are completed to words")


class Alternative(BaseModel):
    text: str = Field(description="a word, with the space before it; empty for the end of the story")
    probability: float


class Alternatives(BaseModel):
    probability: float | None = Field(
        description="probability of the word; null if its first token begins before the word"
    )
    alternatives: list[Alternative] = Field(description="the most probable first, the word itself included")


def alternatives_router(model: ServedModel) -> APIRouter:
    router = APIRouter()

    @router.post("/alternatives")
    async def alternatives(body: AlternativesRequest, request: Request) -> Alternatives:
        """The most probable words after a prompt, and the probability of the word that follows it."""
        engine = model.engine
        engine.check_ready()
        prompt, whole = (model.encode_story(text, body.fields) for text in (body.prompt, body.prompt + body.word))
        remaining = model.max_tokens(prompt, None)
        word = whole[len(prompt) :] if whole[: len(prompt)] == prompt and len(whole) <= engine.context else []
        # Without a word, any token can be forced, because its alternatives do not depend on it.
        begins = [tuple(word or prompt[-1:])]
        [tokens] = await _complete(model, request, prompt, begins, len(begins[0]), min(body.n, engine.max_batch))
        candidates = tokens[0].alternatives or {}

        special = {*model.tokenizer.all_special_ids, *engine.eos_ids}
        begins = [(token,) for token in candidates if token not in special]
        words: dict[str, float] = defaultdict(float)  # several tokens can begin the same word
        for completion in await _complete(model, request, prompt, begins, min(MAX_WORD_TOKENS, remaining), 0):
            found, length = first_word(model, prompt, [token.id for token in completion])
            if found.strip():
                words[found] += _probability(completion[:length])
        for token in engine.eos_ids & candidates.keys():
            words[""] += math.exp(candidates[token])
        probability = _probability(tokens) if word else None
        if probability:  # several words can begin with the same token, and greedy decoding finds only one of them
            words[body.word] = max(words[body.word], probability)
        by_probability = sorted(words.items(), key=itemgetter(1), reverse=True)
        return Alternatives(
            probability=probability,
            alternatives=[Alternative(text=text, probability=each) for text, each in by_probability],
        )

    return router


def first_word(model: ServedModel, prompt: list[int], ids: list[int]) -> tuple[str, int]:
    """The first word of a completion `ids` of `prompt`, and the number of its tokens; all if the word does not end."""
    start, word = len(model.decode(prompt)), ""
    for length in range(1, len(ids) + 1):
        text = model.decode([*prompt, *ids[:length]])[start:].rstrip(INCOMPLETE)
        match = WORD.match(text)
        if match and match.end() < len(text):  # the next word has begun, maybe with the token that ends this one
            return (word, length - 1) if match[0] == word else (match[0], length)
        word = match[0] if match else text
    return word, len(ids)


def _probability(tokens: list[TokenLogprob]) -> float:
    return math.exp(sum(token.logprob or 0.0 for token in tokens))


async def _complete(
    model: ServedModel,
    request: Request,
    prompt: list[int],
    begins: list[tuple[int, ...]],
    max_tokens: int,
    logprobs: int,
) -> list[list[TokenLogprob]]:
    """For each of `begins`, the tokens of a completion that begins with it, by greedy decoding."""
    if not begins:
        return []
    requests = [
        GenerationRequest(
            prompt_ids=prompt,
            max_tokens=max_tokens,
            sampling=SamplingSettings.from_preset(GREEDY),
            seed=0,
            deadline=model.deadline(),
            logprobs=logprobs,
            forced=begin,
        )
        for begin in begins
    ]
    stream = CompletionStream(model.engine, requests)
    tokens: list[list[TokenLogprob]] = [[] for _ in begins]

    async def collect() -> None:
        async for index, event in stream.events():
            if not isinstance(event, Finished):
                tokens[index] += event.tokens
            elif event.reason == "error":
                raise HTTPException(500, UNFINISHED)
            elif event.reason in ("time", "shutdown"):
                raise ServiceUnavailable(UNFINISHED, retry_after=5)

    await stream.begin(request)
    try:
        await while_connected(request, collect())
    finally:
        stream.cancel()
    return tokens
