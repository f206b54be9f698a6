"""OpenAI's `/v1/completions`, as used by its clients and by lm-evaluation-harness, and `/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from ..generation.best_of import best_first, missing_word_faults
from ..text.faults import find_faults
from .detokenizer import token_text
from .engine import Event, Finished, GenerationRequest, TextDelta, TokenLogprob
from .errors import InvalidInput
from .openai_api import FINISH_REASONS, MAX_CHOICES, OpenAIRequest, OpenAIResponse, neutral_value, unknown_model
from .served_model import MAX_PROMPT, ServedModel
from .stream import CompletionStream


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


class CompletionRequest(OpenAIRequest):
    """The body of `/v1/completions`."""

    prompt: Prompt
    max_tokens: int | None = Field(None, ge=0, description="16, or the remaining context length; 0 only with echo")
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="completions of which the n with the fewest faults are returned"
    )
    suffix: str | None = Field(None, description="only empty")

    @field_validator("suffix", mode="before")
    @classmethod
    def _unsupported(cls, value, info: ValidationInfo):
        return neutral_value(value, info, {"suffix": (None, "")})

    @property
    def candidates(self) -> int:
        """Number of completions that are generated for each prompt."""
        return self.best_of or self.n or 1

    @property
    def chooses(self) -> bool:
        """Whether only the best of the completions are returned."""
        return self.candidates > (self.n or 1)

    def prompts(self) -> list:
        """Strings or lists of token ids."""
        return list(self.prompt) if _kind(self.prompt) in ("texts", "lists of tokens") else [self.prompt]


def completions_router(model: ServedModel) -> APIRouter:
    router = APIRouter(prefix="/v1")
    card = {"id": model.name, "object": "model", "created": model.created, "owned_by": "tinystories"}

    @router.get("/models")
    async def list_models() -> dict:
        return {"object": "list", "data": [card]}

    @router.get("/models/{name:path}", response_class=Response)
    async def retrieve_model(name: str) -> Response:
        return unknown_model(model, name) or JSONResponse(card)

    @router.post("/completions", response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's completions: JSON, or with `stream` server-sent events that end with `[DONE]`."""
        if unknown := unknown_model(model, body.model):
            return unknown
        model.engine.check_ready()
        requests, prompts = _generation_requests(model, body)
        response = _CompletionResponse(model, body, requests, prompts)
        return await response.send(CompletionStream(model.engine, requests), request, streamed=bool(body.stream))

    return router


def _generation_requests(model: ServedModel, body: CompletionRequest) -> tuple[list[GenerationRequest], list[str]]:
    """A request for each choice, and the text of its prompt."""
    body.check_stream_options()
    if body.max_tokens == 0 and not body.echo:
        raise InvalidInput("max_tokens", 'max_tokens can be 0 only with "echo": true.')
    if body.candidates < (body.n or 1):
        raise InvalidInput("best_of", f"best_of must be at least n = {body.n}, but is {body.best_of}.")
    if body.chooses and body.stream:
        raise InvalidInput("best_of", "The best of several completions cannot be streamed: remove best_of or stream.")
    prompts, n = body.prompts(), body.candidates
    if len(prompts) * n > MAX_CHOICES:
        name = "best_of" if body.chooses else "n"
        count = f"{len(prompts)} prompts with {name} = {n}"
        raise InvalidInput(name, f"{count} exceed the maximum of {MAX_CHOICES} choices.")
    front = model.instruction(body.fields)
    if front and not isinstance(prompts[0], str):
        raise InvalidInput("fields", "fields need a prompt of text, not of tokens; it may be empty.")
    seed = model.seed(body.seed)
    deadline, sampling = model.deadline(), body.sampling(model.default_sampling)
    requests: list[GenerationRequest] = []
    texts = []
    for prompt in prompts:
        if isinstance(prompt, str):
            text = front + prompt
            ids = model.encode(text)
        else:
            ids, text = prompt, model.decode(prompt)
        for _ in range(n):
            requests.append(
                GenerationRequest(
                    prompt_ids=ids,
                    max_tokens=model.max_tokens(ids, body.max_tokens, default=16),
                    sampling=sampling,
                    seed=(seed + len(requests)) % 2**32,
                    deadline=deadline,
                    stop=body.stop_strings(),
                    # The log-probabilities of tokens decide between completions with equally many faults.
                    logprobs=0 if body.chooses and body.logprobs is None else body.logprobs,
                    prompt_logprobs=bool(body.echo) and body.logprobs is not None,
                )
            )
            texts.append(text)
    return requests, texts


class _CompletionResponse(OpenAIResponse):
    """The response of `/v1/completions`.

    Args:
        prompts: text of the prompt of each choice.
    """

    id_prefix, object_names = "cmpl", ("text_completion", "text_completion")

    def __init__(
        self, model: ServedModel, body: CompletionRequest, requests: list[GenerationRequest], prompts: list[str]
    ):
        super().__init__(model, body, requests, body.candidates)
        self._echo, self._prompts = bool(body.echo), prompts
        self._front, self._wanted = model.instruction(body.fields), (body.fields or {}).get("words", "")
        self._with_logprobs = body.logprobs is not None
        self._lengths = [0] * len(requests)  # characters of each choice so far

    def choice(self, index: int) -> dict:
        return {"text": "", "index": index, "logprobs": None}

    def add(self, choice: dict, part: dict) -> None:
        choice["text"] += part["text"]
        for name, values in (part["logprobs"] or {}).items():
            choice["logprobs"] = choice["logprobs"] or {}
            choice["logprobs"].setdefault(name, []).extend(values)

    def chosen(self, choices: list[dict]) -> list[dict]:
        """The best `n` completions of each prompt, best first, with the indices of the response."""
        if self._per_prompt == self._n:
            return choices
        best = []
        for first in range(0, len(choices), self._per_prompt):
            group = choices[first : first + self._per_prompt]
            prompt = "" if self._echo else self._prompts[first]
            faults = [self._faults(prompt + each["text"], each["finish_reason"] == "stop") for each in group]
            echoed = len(self._requests[first].prompt_ids) if self._echo and self._with_logprobs else 0
            places = best_first(faults, [_likelihood(each, echoed) for each in group])[: self._n]
            best += [group[place] for place in places]
        for index, choice in enumerate(best):
            choice["index"] = index
            choice["logprobs"] = choice["logprobs"] if self._with_logprobs else None
        return best

    def _faults(self, text: str, ended: bool) -> int:
        story = text[len(self._front) :]
        return len(find_faults(story, ended)) + len(missing_word_faults(story, self._wanted))

    def parts(self, index: int, event: Event) -> list[dict]:
        """What an event adds to a choice; with `echo`, the first one also adds the prompt."""
        parts = []
        if self._echo and not self._lengths[index]:
            tokens = event.tokens if isinstance(event, TextDelta) and event.of_prompt else ()
            parts.append(self._part(index, self._prompts[index], tokens))
        if isinstance(event, Finished):
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


def _likelihood(choice: dict, echoed: int) -> float:
    """Mean log-probability per token of a completion, without those of the prompt, which `echo` puts before it."""
    tokens = (choice["logprobs"] or {"token_logprobs": []})["token_logprobs"][echoed:]
    return sum(tokens) / max(1, len(tokens))


def _offsets(text: str, tokens: tuple[TokenLogprob, ...], start: int) -> list[int]:
    """Where each token starts in a choice's text; a token without text starts where the next one does."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append(start + place)
        place += len(token.text) if text.startswith(token.text, place) else 0
    return offsets
