"""Speculative decoding of one sequence: an int8 copy of the weights drafts, a pass of the weights checks the drafts.

- Each step still returns the logits of the weights, bit-identical to those of a step without drafts. So the loop of
  `generate()`, with its processors, random numbers, criteria and streamers, is unchanged, and so is every text. Wrong
  drafts only cost time.
- The copy uses the cache of the weights: it reads the keys and values of earlier tokens, and writes its own behind
  them, which the pass replaces. Drafts lie behind the filled part of the cache until they are chosen.
- A pass reads all weights once for any number of tokens, which takes most of its time if they do not fit into the
  processor's cache. `DraftLength` measures whether drafting is faster.
"""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from transformers import PreTrainedModel

from .draft_length import DraftLength
from .engine import Engine, NativeModel, SingleRow


MIN_NEW_TOKENS = 30  # fewer are not worth a copy of the weights
Guess = Callable[[torch.Tensor], int]  # logits `[1, vocab]` of the draft -> its next token
Memory = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]  # keys and values of each layer, as for `SingleRow`


class Lookahead:
    """The logits of tokens that are likely to follow in one sequence; use `Lookahead.of`.

    Args:
        last: index of the last token of the sequence whose logits may be needed.
        eos_ids: tokens after which the sequence ends.
    """

    def __init__(self, model: PreTrainedModel, engine: Engine, last: int, eos_ids: Collection[int]):
        self._model, self._engine, self._last, self._eos_ids = model, engine, last, frozenset(eos_ids)
        self._length = DraftLength(engine.costs)
        self._draft: NativeModel | None = None
        self._next = 0  # index of the first token in `_tokens`
        self._tokens: list[int] = []  # drafted and passed
        self._logits = torch.empty(0, 0)  # after each of them `[tokens, vocab]`

    @classmethod
    def of(
        cls, model: PreTrainedModel, engine: Engine, past: int, last: int, eos_ids: Collection[int]
    ) -> "Lookahead | None":
        """The lookahead of a sequence with `past` tokens; None if drafting is not supported or not worthwhile."""
        if engine.draft_weights is None or last - past < MIN_NEW_TOKENS:
            return None
        native = engine.native(model)
        if native is None or native.has_dynamic_rope or not engine.costs.pays():
            return None
        return cls(model, engine, last, eos_ids)

    @property
    def off(self) -> bool:
        """Whether drafting is not faster; then there are no logits for the rest of the sequence."""
        return self._length.off

    def logits(
        self, token: int, past: int, begin: Callable[[], Guess], reserve: Callable[[int], Memory]
    ) -> torch.Tensor | None:
        """Logits `[1, vocab]` after a token that follows `past` ones; None if they must be computed without drafts.

        Its keys and values are then in the cache, which the caller must extend by one token.

        Args:
            begin: called at the start of a draft; returns a function that chooses the tokens that follow, one after
                another.
            reserve: makes space in the cache for that many tokens after the `past` ones.
        """
        if self._tokens and self._next == past and self._engine.draft(self._model) is self._draft:
            accepted = self._tokens[0] == token
            self._length.judge(accepted)
            if accepted:
                return self._take()
        return self._take() if self._compute(token, past, begin, reserve) else None

    def _take(self) -> torch.Tensor:
        logits = self._logits[:1]
        self._next, self._tokens, self._logits = self._next + 1, self._tokens[1:], self._logits[1:]
        return logits

    def _compute(self, token: int, past: int, begin: Callable[[], Guess], reserve: Callable[[int], Memory]) -> bool:
        """Draft tokens and pass them after this one."""
        self._tokens = []
        count = min(self._length.choose(), max(0, self._last - past))
        native = self._engine.native(self._model)
        if native is None or self.off:
            return False
        memory = reserve(count + 1)
        tokens = [token, *(self._drafted(token, past, count, begin, memory) if count else ())]
        began = time.thread_time()
        logits = SingleRow(native, *memory, most=len(tokens))(tokens, past)
        if logits is None:
            return False
        self._engine.costs.add_pass(len(tokens), time.thread_time() - began)
        self._next, self._tokens, self._logits = past, tokens, logits
        return True

    def _drafted(self, token: int, past: int, count: int, begin: Callable[[], Guess], memory: Memory) -> list[int]:
        self._draft = self._engine.draft(self._model)
        if self._draft is None:
            return []
        began = time.thread_time()
        step, guess = SingleRow(self._draft, *memory), begin()
        tokens: list[int] = []
        steps = 0
        while steps < count:
            logits = step([token], past + steps)
            if logits is None:
                return []
            steps += 1
            token = guess(logits)
            if token in self._eos_ids:
                break  # no logits are needed after it
            tokens.append(token)
        self._engine.costs.add_draft(steps, time.thread_time() - began)
        return tokens
