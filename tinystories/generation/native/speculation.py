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
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from .draft_length import DraftLength
from .engine import Engine, NativeModel, SingleRow


Guess = Callable[[torch.Tensor], int]  # logits `[1, vocab]` of the draft -> its next token
Memory = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]  # keys and values of each layer, as for `SingleRow`


class Lookahead:
    """The logits of tokens that are likely to follow in one sequence.

    Args:
        begin: called with the ids of the sequence `[1, length]` at the start of each draft; returns a function that
            chooses the drafted tokens, one after another.
        last: index of the last token of the sequence whose logits may be needed.
        eos_ids: tokens after which the sequence ends.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        engine: Engine,
        begin: Callable[[torch.Tensor], Guess],
        last: int,
        eos_ids: frozenset[int] = frozenset(),
    ):
        self._model, self._engine, self._begin, self._last, self._eos_ids = model, engine, begin, last, eos_ids
        self._length = DraftLength(engine.costs)
        self._draft: NativeModel | None = None
        self._next = 0  # index of the first token in `_tokens`
        self._tokens: list[int] = []  # drafted and passed
        self._logits = torch.empty(0, 0)  # after each of them `[tokens, vocab]`

    @property
    def off(self) -> bool:
        """Whether drafting is not faster; then there are no logits for the rest of the sequence."""
        return self._length.off

    def logits(self, ids: torch.Tensor, reserve: Callable[[int], Memory]) -> torch.Tensor | None:
        """Logits `[1, vocab]` after the last of `ids` `[1, length]`; None if they must be computed without drafts.

        The keys and values of that token are then in the cache, which the caller must extend by one token.

        Args:
            reserve: makes space in the cache for that many tokens behind those before the last of `ids`.
        """
        past, token = ids.shape[1] - 1, int(ids[0, -1])
        if self._tokens and self._next == past and self._engine.draft(self._model) is self._draft:
            accepted = self._tokens[0] == token
            self._length.judge(accepted)
            if accepted:
                return self._take()
        return self._take() if self._compute(ids, past, token, reserve) else None

    def _take(self) -> torch.Tensor:
        logits = self._logits[:1]
        self._next, self._tokens, self._logits = self._next + 1, self._tokens[1:], self._logits[1:]
        return logits

    def _compute(self, ids: torch.Tensor, past: int, token: int, reserve: Callable[[int], Memory]) -> bool:
        self._tokens = []
        count = min(self._length.choose(), max(0, self._last - past))
        native = self._engine.native(self._model)
        if native is None or self.off:
            return False
        memory = reserve(count + 1)
        tokens = [token, *(self._drafted(memory, ids, past, count) if count else ())]
        began = time.perf_counter()
        logits = SingleRow(native, *memory, most=len(tokens))(tokens, past)
        if logits is None:
            return False
        self._engine.costs.add_pass(len(tokens), time.perf_counter() - began)
        self._next, self._tokens, self._logits = past, tokens, logits
        return True

    def _drafted(self, memory: Memory, ids: torch.Tensor, past: int, count: int) -> list[int]:
        self._draft = self._engine.draft(self._model)
        if self._draft is None:
            return []
        began = time.perf_counter()
        step, guess = SingleRow(self._draft, *memory), self._begin(ids)
        token, tokens, steps = int(ids[0, -1]), [], 0
        while steps < count:
            logits = step([token], past + steps)
            if logits is None:
                return []
            steps += 1
            token = guess(logits)
            if token in self._eos_ids:
                break  # no logits are needed after it
            tokens.append(token)
        self._engine.costs.add_draft(steps, time.perf_counter() - began)
        return tokens
