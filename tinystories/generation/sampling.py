"""Sampling the next token of many sequences at once, each with the token that `generate()` would sample for it alone.

- Scores are processed in the order of `generate()`: repetition penalty, temperature, top-k, top-p.
- Top-p is a C kernel on the CPU, which does not sort the vocabulary. Rows in which rounding could decide, and other
  devices, use transformers' `TopPLogitsWarper`. `generate()` of a natively decoded model uses the same kernel.
- Each sequence has its own seed, and the random numbers that `torch.multinomial` would draw with it.
"""

import copy
import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from transformers import TopPLogitsWarper

from ..utils.errors import UserError
from .native.build import library
from .presets import SamplingSettings


class NativeTopPWarper(TopPLogitsWarper):
    """`TopPLogitsWarper` with the C kernel: the same tokens remain, in a thirtieth of the time."""

    @classmethod
    def of(cls, warper: TopPLogitsWarper) -> "NativeTopPWarper":
        return cls(warper.top_p, warper.filter_value, warper.min_tokens_to_keep)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if scores.ndim != 2 or scores.requires_grad:
            return super().__call__(input_ids, scores)
        top_p = torch.full((len(scores),), self.top_p, dtype=torch.float64)
        return filter_top_p(scores, top_p, self.filter_value, self.min_tokens_to_keep)  # type: ignore[return-value]


def filter_top_p(
    scores: torch.Tensor, top_p: torch.Tensor, filter_value: float = -torch.inf, min_tokens_to_keep: int = 1
) -> torch.Tensor:
    """`scores` `[rows, vocab]` with `filter_value` for the tokens that `TopPLogitsWarper` removes.

    Args:
        top_p: `[rows]` in float64 on the CPU; 1 removes nothing.
    """
    native = _library() if scores.dtype == torch.float32 and scores.device.type == "cpu" else None
    if native:
        scores, removed_mass = scores.contiguous(), 1 - top_p
        kept, scratch = torch.empty_like(scores), torch.empty(3 * scores.shape[1])
        decided = torch.empty(len(scores), dtype=torch.bool)
        native.tinystories_top_p(
            scores.data_ptr(), *scores.shape, removed_mass.data_ptr(), min_tokens_to_keep, filter_value,
            kept.data_ptr(), scratch.data_ptr(), decided.data_ptr(),
        )  # fmt: skip
    else:
        kept, decided = scores.clone(), top_p >= 1
    for value in set(top_p[~decided].tolist()):
        rows = (~decided & (top_p == value)).to(scores.device)
        kept[rows] = TopPLogitsWarper(value, filter_value, min_tokens_to_keep)(None, scores[rows])
    return kept


@cache
def _library() -> ctypes.CDLL | None:
    try:
        return library()
    except UserError:
        return None


@dataclass(eq=False)
class _Row:
    settings: SamplingSettings
    generator: torch.Generator
    length: int


class Sampler:
    """Samples the next token of each of several sequences; row i is the i-th that was added, until one is removed.

    Args:
        capacity: maximum number of sequences.
        context: maximum length of a sequence, prompt included.
    """

    def __init__(self, capacity: int, context: int, device: torch.device):
        self._rows: list[_Row] = []
        self._ids = torch.zeros(capacity, context, dtype=torch.long, device=device)
        self._uniform = exponential_is_log_of_uniform(device)
        self._buffer = torch.empty(0, 0, dtype=torch.float64 if self._uniform else torch.float32, device=device)

    def add(self, settings: SamplingSettings, prompt_ids: list[int], seed: int) -> None:
        """Append a sequence as the last row.

        Args:
            prompt_ids: counted by the repetition penalty.
            seed: gives the random numbers of `generate()` after `set_seed(seed)`.
        """
        generator = torch.Generator(self._ids.device).manual_seed(seed)
        ids = self._ids[len(self._rows)]
        ids[: len(prompt_ids)] = torch.tensor(prompt_ids, device=ids.device)
        ids[len(prompt_ids) :] = prompt_ids[0]  # so that unused positions add no token to the repetition penalty
        self._rows.append(_Row(settings, generator, len(prompt_ids)))

    def remove(self, row: int) -> None:
        """Remove a sequence; the last row takes its place."""
        last = self._rows.pop()
        if row != len(self._rows):
            self._ids[row] = self._ids[len(self._rows)]
            self._rows[row] = last

    def clear(self) -> None:
        self._rows = []

    def fork(self, row: int) -> "Sampler":
        """A sampler for the same sequence, with the same random numbers to come; this one does not change with it."""
        forked, source = copy.copy(self), self._rows[row]
        generator = torch.Generator(self._ids.device).set_state(source.generator.get_state())
        forked._rows = [_Row(source.settings, generator, source.length)]
        forked._ids = self._ids[row : row + 1].clone()
        return forked

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, first: int = 0) -> list[int | None]:
        """The next token of each sequence from row `first` on; None if the logits are NaN or infinite.

        Args:
            logits: `[sequences, vocab]`.
        """
        rows = self._rows[first : first + len(logits)]
        settings = [row.settings for row in rows]
        scores = self._penalized(logits.float(), rows, first)
        sampled = torch.tensor([each.do_sample for each in settings])
        tokens = torch.zeros(len(rows), dtype=torch.long, device=logits.device)
        finite = torch.ones(len(rows), dtype=torch.bool, device=logits.device)
        if not sampled.all():
            best, tokens = scores.max(-1)
            finite = best.isfinite()
        if sampled.any():
            drawn, valid = self._draw(scores, rows)
            on_device = sampled.to(logits.device)
            tokens, finite = torch.where(on_device, drawn, tokens), torch.where(on_device, valid, finite)
        lengths = torch.tensor([row.length for row in rows], device=logits.device)
        self._ids[torch.arange(first, first + len(rows), device=logits.device), lengths] = tokens
        for row in rows:
            row.length += 1
        return [token if ok else None for token, ok in zip(tokens.tolist(), finite.tolist(), strict=True)]

    def _penalized(self, scores: torch.Tensor, rows: list[_Row], first: int) -> torch.Tensor:
        penalties = [row.settings.repetition_penalty for row in rows]
        if all(penalty == 1.0 for penalty in penalties):
            return scores
        penalty = torch.tensor(penalties, device=scores.device)[:, None]
        ids = self._ids[first : first + len(rows), : max(row.length for row in rows)]
        seen = scores.gather(1, ids)
        return scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))

    def _draw(self, scores: torch.Tensor, rows: list[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """A token of each row, drawn as `torch.multinomial` draws it, and whether the probabilities are finite."""
        settings = [row.settings for row in rows]
        temperature = torch.tensor([each.temperature for each in settings], device=scores.device)
        scores, candidates = filter_top_k(scores / temperature[:, None], [each.top_k for each in settings])
        top_p = torch.tensor([each.top_p for each in settings], dtype=torch.float64)
        if (top_p < 1).any():
            scores = filter_top_p(scores, top_p)
        probabilities = scores.softmax(-1)
        noise = self._noise(rows, scores)
        if candidates is not None:
            probabilities, noise = probabilities.gather(1, candidates), noise.gather(1, candidates)
        if self._uniform:
            noise = torch.log1p(-noise).neg().float()
        drawn = (probabilities / noise).argmax(-1, keepdim=True)
        tokens = drawn if candidates is None else candidates.gather(1, drawn)
        return tokens[:, 0], probabilities.isfinite().all(-1)

    def _noise(self, rows: list[_Row], scores: torch.Tensor) -> torch.Tensor:
        """A random number for each entry of the vocabulary, uniform or exponential."""
        if self._buffer.shape[1] != scores.shape[1]:
            self._buffer = self._buffer.new_ones(len(self._ids), scores.shape[1])
        noise = self._buffer[: len(rows)]
        for row, numbers in zip(rows, noise, strict=True):
            if row.settings.do_sample:
                (numbers.uniform_ if self._uniform else numbers.exponential_)(generator=row.generator)
        return noise


def filter_top_k(scores: torch.Tensor, top_k: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`scores` `[rows, vocab]` with -inf below the `top_k`-th largest of each row; 0 is off.

    Returns:
        the scores, and the indices `[rows, width]` that include all others than -inf; None if these may be many.
    """
    vocab = scores.shape[1]
    limits = torch.tensor([min(k, vocab) or vocab for k in top_k], device=scores.device)[:, None]
    width = int(limits.max())
    if width < vocab:
        values, indices = scores.topk(width + 1)
        stays = ~(values < values.gather(1, limits - 1))  # NaN stays
        if not stays[:, -1].any():  # otherwise there are more tokens that are as likely as the last
            values = values.masked_fill(~stays, -torch.inf)
            return torch.full_like(scores, -torch.inf).scatter_(1, indices, values), indices
    limited = [k for k in limits.flatten().tolist() if k < vocab]
    if not limited:
        return scores, None
    smallest = scores.topk(max(limited)).values.gather(1, limits.clamp(max=max(limited)) - 1)
    return scores.masked_fill((scores < smallest) & (limits < vocab), -torch.inf), None


def exponential_is_log_of_uniform(device: torch.device) -> bool:
    """Whether `exponential_` is the logarithm of the doubles that `uniform_` draws.

    Then only the logarithms of the likely tokens need to be computed, which takes a quarter of the time.
    """
    ours, theirs = (torch.Generator(device).manual_seed(7) for _ in range(2))
    for size in (1, 5, 3_000):
        uniform = torch.empty(size, dtype=torch.float64, device=device).uniform_(generator=ours)
        exponential = torch.empty(size, device=device).exponential_(generator=theirs)
        if not torch.allclose(-torch.log1p(-uniform), exponential.double(), rtol=1e-6, atol=0.0):
            return False
    return torch.equal(ours.get_state(), theirs.get_state())
