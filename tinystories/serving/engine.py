"""The engine: one thread that uses the model, a bounded queue, and a batch for continuous batching.

- Only the engine's thread uses the model. Other threads submit requests and get events through callbacks, which must
  not block. A slow client does not delay others: its events wait in memory, at most one per token.
- Each round processes queued prompts for as long as the previous token took, at least one, and then generates a token
  for every running request. So new requests slow down the running ones at most by about a factor of two.
- A request is accepted or refused immediately, and ends by its deadline, whether it is running or queued.
- Continuous batching of transformers takes 300 ms per token on a CPU on which this engine takes 10 to 40 ms, uses one
  random state for all requests, and ignores the repetition penalty.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..generation.generate import context_length, eos_token_ids
from ..generation.native.speculation import Guess
from ..generation.presets import SamplingSettings
from ..generation.sampling import Sampler
from ..utils.errors import UserError
from .batch import ContinuousBatch, Drafting
from .detokenizer import Detokenizer, token_text


logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class GenerationRequest:
    """A completion to generate.

    Attributes:
        max_tokens: maximum length of the completion; with 0, only the prompt is processed.
        deadline: time of `time.monotonic()` at which it ends.
        stop: strings that end the completion; they are not part of it.
        logprobs: number of alternatives reported with each token; None: no log-probabilities.
        prompt_logprobs: whether to report those of the prompt, too.
        forced: tokens with which the completion begins, instead of sampled ones.
    """

    prompt_ids: list[int]
    max_tokens: int
    sampling: SamplingSettings
    seed: int
    deadline: float
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False
    forced: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log-probability under the model, before sampling settings; None for the first token.

    `alternatives` are the log-probabilities of the most probable tokens by their ids, most probable first.
    """

    id: int
    text: str
    logprob: float | None
    alternatives: dict[int, float] | None


@dataclass(frozen=True)
class TextDelta:
    """New text of a completion, with the log-probabilities of its tokens if they were requested."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    of_prompt: bool = False


@dataclass(frozen=True)
class Finished:
    """The last event of a completion.

    `reason` is "stop" (EOS or a stop string), "length" (`max_tokens`), "time" (the deadline), "shutdown" or "error".
    `seconds` excludes the time in the queue.
    """

    reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


Event = TextDelta | Finished


class ServiceUnavailable(Exception):
    """A refused request, which may be accepted `retry_after` seconds later."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(eq=False)
class RequestState:
    """A submitted request, until its `Finished` event."""

    request: GenerationRequest
    on_event: Callable[[Event], None]
    cancelled: bool = False
    detokenizer: Detokenizer = field(init=False, repr=False)
    completion_tokens: int = 0
    last_token: int = 0
    started: float = 0.0
    pending_logprobs: list[TokenLogprob] = field(default_factory=list)


class Engine:
    """Generates completions with one model. Every method can be called from any thread and returns immediately.

    Args:
        load: returns the model and its tokenizer; called in the engine's thread.
        max_batch: maximum number of running completions.
        max_queue: maximum number of queued completions.
        on_state: called in the engine's thread when `state` becomes "ready" or "failed".

    Attributes:
        state: "loading", "ready", "failed" (see `error`), "draining" or "closed".
        model, tokenizer, eos_ids: from `load`; they exist when `loaded` is true.
        context: context length of the model, in tokens.
        tokens_generated: over all requests.
    """

    def __init__(
        self,
        load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
        *,
        max_batch: int = 32,
        max_queue: int = 64,
        on_state: Callable[[], None] = lambda: None,
    ):
        self.max_batch, self.max_queue = max_batch, max_queue
        self.state, self.loaded = "loading", False
        self.error: BaseException | None = None
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.eos_ids: set[int]
        self.context: int
        self.tokens_generated = 0
        self._load, self._on_state = load, on_state
        self._queued: deque[RequestState] = deque()
        self._running: list[RequestState] = []  # in the order of the batch's rows
        self._changed = threading.Condition()
        self._shutdown_at = float("inf")
        self._seconds_per_completion, self._seconds_per_token = 5.0, 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def queue_length(self) -> int:
        return len(self._queued)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(
        self, requests: list[GenerationRequest], on_events: list[Callable[[Event], None]]
    ) -> list[RequestState]:
        """Queue requests, all of them or none.

        Args:
            on_events: for each request a callback for its events; called in the engine's thread.

        Raises:
            ServiceUnavailable: while the model loads, during shutdown, or if the queue is full.
        """
        states = [RequestState(request, on_event) for request, on_event in zip(requests, on_events, strict=True)]
        with self._changed:
            self.check_ready()
            free = self.max_batch - len(self._running) + self.max_queue - len(self._queued)
            if len(states) > free:
                seconds = (len(self._queued) / self.max_batch + 1) * self._seconds_per_completion
                raise ServiceUnavailable("The queue is full: try again later.", min(60, max(1, round(seconds))))
            self._queued.extend(states)
            self._changed.notify()
        return states

    def check_ready(self) -> None:
        """Raises `ServiceUnavailable` unless the state is "ready"."""
        if self.state != "ready":
            what = "model is still loading" if self.state == "loading" else "server is shutting down"
            raise ServiceUnavailable(f"The {what}: try again later.", retry_after=5)

    def cancel(self, state: RequestState) -> None:
        """Stop generating a completion; there are no further events for it."""
        state.cancelled = True
        with self._changed:
            if state in self._queued:
                self._queued.remove(state)

    def drain(self, seconds: float) -> None:
        """Refuse new requests, and end accepted ones after this many seconds."""
        # Called by a signal handler, so it must not wait for a lock that its own thread may hold.
        if self.state in ("loading", "ready"):
            self.state, self._shutdown_at = "draining", time.monotonic() + seconds

    def close(self) -> None:
        """Stop the thread after the current token; completions end with the reason "shutdown"."""
        with self._changed:
            self.state = "closed"
            self._changed.notify()
        if self._thread.is_alive() and self.loaded:
            self._thread.join(timeout=10)

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            self.model, self.tokenizer = self._load()
            self.loaded = True
            context = context_length(self.model)
            if context is None:
                raise UserError("The server needs a model whose config has a context length.")
            self.context = context
            self._batch = ContinuousBatch(self.model, self.max_batch, self.context)
            self._sampler = Sampler(self.max_batch, self.context, self.model.device)
            self.eos_ids = set(eos_token_ids(self.model, self.tokenizer))
        except BaseException as error:
            self.state, self.error = "failed", error
            self._on_state()
            return
        if ignored := unsupported_settings(self.model.generation_config):
            logger.warning("These settings in generation_config.json are ignored: %s.", ", ".join(ignored))
        with self._changed:
            self.state = "ready" if self.state == "loading" else self.state
        self._on_state()
        while self.state != "closed":
            with self._changed:
                while not (self._queued or self._running or self.state == "closed"):
                    self._changed.wait()
            try:
                self._round()
            except Exception:
                logger.exception("A generation step failed; the running completions are aborted.")
                self._finish_all("error")
        self._finish_all("shutdown")
        while state := self._next_queued():
            self._send(state, _finished(state, "shutdown"))

    def _round(self) -> None:
        self._remove_ended()
        began = time.monotonic()
        while len(self._running) < self.max_batch and (state := self._next_queued()):
            self._start(state)
            if time.monotonic() - began >= self._seconds_per_token:
                break
        if not self._running:
            return
        began = time.monotonic()
        logits = self._batch.step([state.last_token for state in self._running], self._drafting())
        tokens = self._sampler.sample(logits)
        self._seconds_per_token = time.monotonic() - began
        for state, token, row in zip(list(self._running), tokens, logits, strict=True):
            self._append(state, token, row)

    def _drafting(self) -> Drafting | None:
        """How to draft tokens of the only running request; None for several."""
        if len(self._running) != 1 or self._running[0].request.forced:
            return None
        request = self._running[0].request

        def begin() -> Guess:
            sampler = self._sampler.fork(0)
            return lambda logits: sampler.sample(logits)[0] or 0  # None for NaN, for which any draft is as good

        # The logits after the last token are not needed.
        return Drafting(begin, len(request.prompt_ids) + request.max_tokens - 2, self.eos_ids)

    def _remove_ended(self) -> None:
        """Remove requests whose client has disconnected or whose time is over."""
        now = time.monotonic()
        for state in list(self._running):
            if state.cancelled:
                self._remove(state)
            elif reason := self._time_over(state, now):
                self._finish(state, reason)
        with self._changed:
            late = [(state, reason) for state in self._queued if (reason := self._time_over(state, now))]
            for state, _ in late:
                self._queued.remove(state)
        for state, reason in late:
            self._send(state, _finished(state, reason))

    def _time_over(self, state: RequestState, now: float) -> str | None:
        if now > state.request.deadline:
            return "time"
        return "shutdown" if now > self._shutdown_at else None

    def _next_queued(self) -> RequestState | None:
        with self._changed:
            return self._queued.popleft() if self._queued else None

    def _start(self, state: RequestState) -> None:
        """Process the prompt of a request and generate its first token."""
        request = state.request
        state.started = time.monotonic()
        try:
            state.detokenizer = Detokenizer(self.tokenizer, request.prompt_ids, request.stop)
            logits = self._batch.add(request.prompt_ids, all_logits=request.prompt_logprobs)
            try:
                self._sampler.add(request.sampling, request.prompt_ids, request.seed)
            except Exception:
                self._batch.remove(len(self._running))
                raise
        except Exception:
            logger.exception("A completion could not be started.")
            return self._send(state, _finished(state, "error"))
        self._running.append(state)
        if request.prompt_logprobs:
            scored = zip(request.prompt_ids[1:], logits, strict=False)
            first = request.prompt_ids[0]
            tokens = [TokenLogprob(first, token_text(self.tokenizer, first), None, None)]
            tokens += [self._logprob(token, row, request.logprobs or 0) for token, row in scored]
            self._send(state, TextDelta("", tuple(tokens), of_prompt=True))
        if request.max_tokens:
            (token,) = self._sampler.sample(logits[-1:], first=len(self._running) - 1)
            self._append(state, token, logits[-1])
        else:
            self._finish(state, "length")

    def _append(self, state: RequestState, token: int | None, logits: torch.Tensor) -> None:
        """Append a token, sampled from logits `[vocab]`, to a completion, or finish it."""
        try:
            reason = self._append_token(state, token, logits)
        except Exception:
            logger.exception("A completion could not be continued.")
            reason = "error"
        if reason:
            self._finish(state, reason)

    def _append_token(self, state: RequestState, token: int | None, logits: torch.Tensor) -> str | None:
        request = state.request
        if token is None:
            logger.error("The model's logits are NaN or infinite; the completion is aborted.")
            return "error"
        if state.completion_tokens < len(request.forced):
            token = request.forced[state.completion_tokens]
        if token in self.eos_ids:
            return "stop"
        state.last_token = token
        state.completion_tokens += 1
        self.tokens_generated += 1
        if request.logprobs is not None:
            state.pending_logprobs.append(self._logprob(token, logits, request.logprobs))
        if text := state.detokenizer.push(token):
            self._send(state, TextDelta(text, tuple(state.pending_logprobs)))
            state.pending_logprobs.clear()
        if state.detokenizer.stopped:
            return "stop"
        return "length" if state.completion_tokens == request.max_tokens else None

    def _logprob(self, token: int, logits: torch.Tensor, alternatives: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(-1)
        best = logprobs.topk(alternatives)
        return TokenLogprob(
            token,
            token_text(self.tokenizer, token),
            logprobs[token].item(),
            dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        )

    def _finish(self, state: RequestState, reason: str) -> None:
        rest = state.detokenizer.close()
        if rest or state.pending_logprobs:
            self._send(state, TextDelta(rest, tuple(state.pending_logprobs)))
        if state.detokenizer.stopped and reason == "length":
            reason = "stop"
        seconds = time.monotonic() - state.started
        self._seconds_per_completion += 0.1 * (seconds - self._seconds_per_completion)
        self._remove(state)
        self._send(state, _finished(state, reason, seconds))

    def _remove(self, state: RequestState) -> None:
        """Remove a request from the batch, whose last row moves to its place."""
        row = self._running.index(state)
        self._batch.remove(row)
        self._sampler.remove(row)
        self._running[row] = self._running[-1]
        self._running.pop()

    def _finish_all(self, reason: str) -> None:
        """Finish all running completions, also if a failed step has left the batch in an undefined state."""
        states, self._running = self._running, []
        self._batch.clear()
        self._sampler.clear()
        for state in states:
            self._send(state, _finished(state, reason))

    def _send(self, state: RequestState, event: Event) -> None:
        if state.cancelled:
            return
        try:
            state.on_event(event)
        except Exception:  # the receiver no longer exists, for example because its event loop was closed
            state.cancelled = True


def _finished(state: RequestState, reason: str, seconds: float = 0.0) -> Finished:
    return Finished(reason, len(state.request.prompt_ids), state.completion_tokens, seconds)


def unsupported_settings(config: GenerationConfig) -> list[str]:
    """Settings of a `generation_config.json` that `SamplingSettings` does not have."""
    names = (
        "bad_words_ids", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "guidance_scale",
        "exponential_decay_length_penalty", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
        "num_beams", "penalty_alpha", "sequence_bias", "suppress_tokens", "top_h", "typical_p",
    )  # fmt: skip
    given = config.to_diff_dict()
    return [name for name in names if given.get(name) not in (None, 0, 1, 1.0)]
