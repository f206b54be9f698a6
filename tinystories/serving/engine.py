"""Who is served when: one thread that owns the model, a bounded queue before it, and a story for each order.

Design decisions
- **One thread** loads the model and does all of its work; everybody else only puts orders into the queue and gets
  events back, through a callback that must not block. So there is no lock around the model.
- **Stories join and leave between two tokens.** In each round prompts are read for as long as the last token took,
  one at least, then every story gets one token. So newcomers never make the others more than about twice as slow, and
  many who come at once do not wait for one token each.
- **Nobody waits for a slow reader.** Events of a story are at most as many as its tokens; they are kept for the
  reader, and the story's place is free as soon as it is written.
- **An order is taken or refused at once**, all of its stories or none. What is taken ends by its deadline, in the
  queue as in the batch.
- **transformers' own continuous batching** was tried first: on a CPU it takes 300 ms a token where this takes 10 to
  40, its requests share one random state, and a penalty on repetition is left out.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batch import StoryBatch
from .detokenizer import StoryText, token_name
from .sampling import Sampler, Sampling, unserved


logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Order:
    """One story to be written.

    Attributes:
        prompt_ids: how it begins.
        max_tokens: most tokens after that; with 0 only the prompt is read.
        sampling: how its tokens are drawn.
        seed: of its own random numbers.
        deadline: when it must have ended, on the clock of `time.monotonic`.
        stop: strings that end it.
        logprobs: how many alternatives are told for each token; None: no log-probabilities at all.
        prompt_logprobs: whether those of the prompt are told, too.
    """

    prompt_ids: list[int]
    max_tokens: int
    sampling: Sampling
    seed: int
    deadline: float
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False


@dataclass(frozen=True)
class Token:
    """A token with its log-probability under the model, before anything of `Sampling`; None for the first one."""

    text: str
    logprob: float | None
    alternatives: dict[str, float] | None


@dataclass(frozen=True)
class Piece:
    """Text that can be shown now, and what is known of its tokens where that was ordered."""

    text: str
    tokens: tuple[Token, ...] = ()
    of_prompt: bool = False


@dataclass(frozen=True)
class Finished:
    """The last event of a story.

    `reason` is "stop" (it ended by itself or by a stop string), "length" (`max_tokens`), "time" (its deadline),
    "shutdown" (the server had to go) or "error". `seconds` counts from its first turn, so without the queue.
    """

    reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


Event = Piece | Finished


class Refused(Exception):
    """An order that is not taken; `retry_after` seconds later it may be."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(eq=False)
class Ticket:
    """A story that was ordered, until its `Finished` event."""

    order: Order
    on_event: Callable[[Event], None]
    cancelled: bool = False
    text: StoryText | None = None
    written: int = 0
    last_token: int = 0
    began: float = 0.0
    untold: list[Token] = field(default_factory=list)


class Engine:
    """Writes stories with one model. Every method may be called from any thread and returns at once.

    Args:
        load: gives the model and its tokenizer; called in the engine's thread.
        max_batch: most stories at once.
        max_queue: most stories that wait for a place.
        on_state: called in the engine's thread when `state` has changed to "ready" or "failed".

    Attributes:
        state: "loading", "ready", "failed" (see `error`), "draining" or "closed".
        tokens_written: of all stories so far.
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
        self.state, self.error = "loading", None
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.tokens_written = 0
        self._load, self._on_state = load, on_state
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []  # in the order of the batch's rows
        self._changed = threading.Condition()
        self._last_moment = float("inf")
        self._seconds_a_story, self._seconds_a_token = 5.0, 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def queue_length(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def context(self) -> int:
        """Most tokens of prompt and story together."""
        return self.model.config.get_text_config(decoder=True).max_position_embeddings

    def submit(self, orders: list[Order], on_events: list[Callable[[Event], None]]) -> list[Ticket]:
        """Put stories into the queue, all of them or none.

        Args:
            on_events: for each order what is called, in the engine's thread, with its events.

        Raises:
            Refused: while the model loads, when the server is about to stop, and where the queue is too full.
        """
        tickets = [Ticket(order, on_event) for order, on_event in zip(orders, on_events, strict=True)]
        with self._changed:
            self.check_ready()
            free = self.max_batch - len(self._running) + self.max_queue - len(self._waiting)
            if len(tickets) > free:
                rounds = len(self._waiting) / self.max_batch + 1
                retry_after = min(60, max(1, round(rounds * self._seconds_a_story)))
                raise Refused("Too many requests are waiting.", retry_after)
            self._waiting.extend(tickets)
            self._changed.notify()
        return tickets

    def check_ready(self) -> None:
        """Raises `Refused` unless the state is "ready"."""
        if self.state != "ready":
            what = "is still loading" if self.state == "loading" else "accepts no new requests"
            raise Refused(f"The model {what}.", retry_after=5)

    def cancel(self, ticket: Ticket) -> None:
        """Write no more of a story; it gets no further event."""
        ticket.cancelled = True
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def drain(self, seconds: float) -> None:
        """Take no more stories, and end those that are still written after so many seconds."""
        # No lock here: a signal handler calls this, perhaps while its own thread holds the lock.
        if self.state in ("loading", "ready"):
            self.state, self._last_moment = "draining", time.monotonic() + seconds

    def close(self) -> None:
        """Stop the thread after the token it is at; stories end with the reason "shutdown"."""
        with self._changed:
            self.state = "closed"
            self._changed.notify()
        if self._thread.is_alive() and self.model is not None:
            self._thread.join(timeout=10)

    # ---- the engine's thread

    def _run(self) -> None:
        try:
            self.model, self.tokenizer = self._load()
            self._batch = StoryBatch(self.model, self.max_batch, self.context)
            self._sampler = Sampler(self.max_batch, self.context, self.model.device)
            self._ends = self._end_tokens()
        except BaseException as error:
            self.state, self.error = "failed", error
            self._on_state()
            return
        if beyond := unserved(self.model.generation_config):
            logger.warning("generation_config.json asks for %s, which the server does not do.", ", ".join(beyond))
        with self._changed:
            self.state = "ready" if self.state == "loading" else self.state
        self._on_state()
        while self.state != "closed":
            with self._changed:
                while not (self._waiting or self._running or self.state == "closed"):
                    self._changed.wait()
            try:
                self._round()
            except Exception:
                logger.exception("A round of the engine failed; the completions in it end here.")
                self._give_up("error")
        self._give_up("shutdown")
        while ticket := self._next_waiting():
            self._tell(ticket, _ended(ticket, "shutdown"))

    def _end_tokens(self) -> set[int]:
        own = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return ends - {None}

    def _round(self) -> None:
        self._leave()
        began = time.monotonic()
        while len(self._running) < self.max_batch and (ticket := self._next_waiting()):
            self._begin(ticket)
            if time.monotonic() - began >= self._seconds_a_token:
                break
        if not self._running:
            return
        began = time.monotonic()
        logits = self._batch.step([ticket.last_token for ticket in self._running])
        tokens = self._sampler.pick(logits)
        self._seconds_a_token = time.monotonic() - began
        for ticket, token, row in zip(list(self._running), tokens, logits, strict=True):
            self._advance(ticket, token, row)

    def _leave(self) -> None:
        """Stories whose reader has gone, or whose time is over."""
        now = time.monotonic()
        for ticket in list(self._running):
            if ticket.cancelled:
                self._drop(ticket)
            elif reason := self._over(ticket, now):
                self._finish(ticket, reason)
        with self._changed:
            late = [ticket for ticket in self._waiting if self._over(ticket, now)]
            for ticket in late:
                self._waiting.remove(ticket)
        for ticket in late:
            self._tell(ticket, _ended(ticket, self._over(ticket, now)))

    def _over(self, ticket: Ticket, now: float) -> str | None:
        if now > ticket.order.deadline:
            return "time"
        return "shutdown" if now > self._last_moment else None

    def _next_waiting(self) -> Ticket | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def _begin(self, ticket: Ticket) -> None:
        order = ticket.order
        ticket.began = time.monotonic()
        try:
            ticket.text = StoryText(self.tokenizer, order.prompt_ids, order.stop)
            logits = self._batch.add(order.prompt_ids, all_logits=order.prompt_logprobs)
            try:
                self._sampler.add(order.sampling, order.prompt_ids, order.seed)
            except Exception:
                self._batch.remove(len(self._running))
                raise
        except Exception:
            logger.exception("A completion could not be started.")
            return self._tell(ticket, _ended(ticket, "error"))
        self._running.append(ticket)
        if order.prompt_logprobs:
            known = zip(order.prompt_ids[1:], logits, strict=False)
            tokens = [Token(token_name(self.tokenizer, order.prompt_ids[0]), None, None)]
            tokens += [self._token(token, row, order.logprobs) for token, row in known]
            self._tell(ticket, Piece("", tuple(tokens), of_prompt=True))
        if order.max_tokens:
            (token,) = self._sampler.pick(logits[-1:], first=len(self._running) - 1)
            self._advance(ticket, token, logits[-1])
        else:
            self._finish(ticket, "length")

    def _advance(self, ticket: Ticket, token: int | None, logits: torch.Tensor) -> None:
        """Give a story its next token, which was drawn from logits `[vocab]`, or end it."""
        try:
            reason = self._write(ticket, token, logits)
        except Exception:
            logger.exception("A completion could not be continued.")
            reason = "error"
        if reason:
            self._finish(ticket, reason)

    def _write(self, ticket: Ticket, token: int | None, logits: torch.Tensor) -> str | None:
        if token is None:
            logger.error("The model's logits are NaN or infinite; the completion ends here.")
            return "error"
        if token in self._ends:
            return "stop"
        ticket.last_token = token
        ticket.written += 1
        self.tokens_written += 1
        if ticket.order.logprobs is not None:
            ticket.untold.append(self._token(token, logits, ticket.order.logprobs))
        if text := ticket.text.push(token):
            self._tell(ticket, Piece(text, tuple(ticket.untold)))
            ticket.untold.clear()
        if ticket.text.stopped:
            return "stop"
        return "length" if ticket.written == ticket.order.max_tokens else None

    def _token(self, token: int, logits: torch.Tensor, alternatives: int) -> Token:
        logprobs = logits.float().log_softmax(-1)
        best = logprobs.topk(alternatives)
        names = {
            token_name(self.tokenizer, index): value
            for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        return Token(token_name(self.tokenizer, token), logprobs[token].item(), names)

    def _finish(self, ticket: Ticket, reason: str) -> None:
        rest = ticket.text.close()
        if rest or ticket.untold:
            self._tell(ticket, Piece(rest, tuple(ticket.untold)))
        if ticket.text.stopped and reason == "length":
            reason = "stop"
        seconds = time.monotonic() - ticket.began
        self._seconds_a_story += 0.1 * (seconds - self._seconds_a_story)
        self._drop(ticket)
        self._tell(ticket, _ended(ticket, reason, seconds))

    def _drop(self, ticket: Ticket) -> None:
        """Take a story out of the batch, whose last row moves to its place."""
        row = self._running.index(ticket)
        self._batch.remove(row)
        self._sampler.remove(row)
        self._running[row] = self._running[-1]
        self._running.pop()

    def _give_up(self, reason: str) -> None:
        """End all stories of the batch at once, whatever state it is in."""
        tickets, self._running = self._running, []
        self._batch.clear()
        self._sampler.clear()
        for ticket in tickets:
            self._tell(ticket, _ended(ticket, reason))

    def _tell(self, ticket: Ticket, event: Event) -> None:
        if ticket.cancelled:
            return
        try:
            ticket.on_event(event)
        except Exception:  # the listener is gone, as an event loop that was closed
            ticket.cancelled = True


def _ended(ticket: Ticket, reason: str, seconds: float = 0.0) -> Finished:
    return Finished(reason, len(ticket.order.prompt_ids), ticket.written, seconds)
