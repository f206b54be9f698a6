"""How the next tokens of stories are drawn: as `generate` would draw each of them, all of them at once.

Design decisions
- **The same token as the plain way**, which is transformers' processors, a softmax and `torch.multinomial`, with the
  random numbers of a story's own seed. Those are drawn as `multinomial` draws them, one for each entry of the
  vocabulary, and the token is the one with the largest quotient of probability and random number.
- **Only the likeliest tokens are looked at.** The plain way sorts the vocabulary for top-p, story by story. Here the
  `top_k` likeliest, or some where top-k is off, are found for all stories at once, and all else is done with those.
- **Random numbers are half made.** `multinomial` takes the logarithm of a uniform number for each entry; only those
  of the likeliest tokens are needed. Where this torch makes them in another way, which is looked at first, all are
  made.
- **In doubt the plain way.** Sums over fewer numbers round differently. Where that could turn anything, as at two
  equal logits, a share that ends within `MARGIN` of top-p or two quotients as close as that, and where the candidates
  do not reach top-p, the story's token is drawn the plain way, from the same random numbers.
"""

import dataclasses
import secrets
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..generation.presets import GREEDY, PRESETS, check_preset


CANDIDATES = 128  # tokens that are looked at where top-k does not say how many, and most
MARGIN = 1e-5  # of a share: far above what rounding does to single precision


def chosen_seed(asked: int | None) -> int:
    """The seed asked for; a random one for None, and for -1, which many clients send for it."""
    return secrets.randbits(32) if asked is None or asked == -1 else asked


@dataclass(frozen=True)
class Sampling:
    """The settings of `generate` that can be asked for; the defaults are those of `generate`."""

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @classmethod
    def of_preset(cls, preset: str) -> "Sampling":
        """Raises `UserError` for an unknown preset."""
        check_preset(preset)
        return cls(do_sample=preset != GREEDY, **PRESETS.get(preset, {}))

    @classmethod
    def of_model(cls, config: GenerationConfig) -> "Sampling":
        """As the model's own `generation_config.json` says, or "balanced" where that does not sample."""
        if not config.do_sample:
            return cls.of_preset("balanced")
        given = {field.name: getattr(config, field.name) for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def replace(self, **changes: float | None) -> "Sampling":
        """With the `changes` that are not None; a `top_k` of -1 is none, as many clients write it."""
        given = {name: value for name, value in changes.items() if value is not None}
        if given.get("top_k") == -1:
            given["top_k"] = 0
        return dataclasses.replace(self, **given)

    def processors(self) -> LogitsProcessorList:
        steps = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            steps.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample and self.temperature != 1.0:
            steps.append(TemperatureLogitsWarper(self.temperature))
        if self.do_sample and self.top_k:
            steps.append(TopKLogitsWarper(self.top_k))
        if self.do_sample and self.top_p < 1.0:
            steps.append(TopPLogitsWarper(self.top_p))
        return steps


UNSERVED = (
    "bad_words_ids",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "min_length",
    "min_new_tokens",
    "min_p",
    "no_repeat_ngram_size",
    "num_beams",
    "penalty_alpha",
    "sequence_bias",
    "suppress_tokens",
    "top_h",
    "typical_p",
)


def unserved(config: GenerationConfig) -> list[str]:
    """What a `generation_config.json` asks for beyond `Sampling`."""
    asked = config.to_diff_dict()
    return [name for name in UNSERVED if asked.get(name) not in (None, 0, 1, 1.0)]


@dataclass(eq=False)
class _Row:
    sampling: Sampling
    processors: LogitsProcessorList
    generator: torch.Generator
    length: int

    @property
    def cuts(self) -> int:
        """How many of the likeliest tokens have to be looked at."""
        if not self.sampling.do_sample:
            return 1
        return min(self.sampling.top_k or CANDIDATES, CANDIDATES)


class Sampler:
    """Draws the next token of each of several stories; row i is the story that was added i-th, until one leaves.

    Args:
        capacity: most stories at once.
        context: most tokens of a story, its prompt included.
    """

    def __init__(self, capacity: int, context: int, device: torch.device):
        self._rows: list[_Row] = []
        self._ids = torch.zeros(capacity, context, dtype=torch.long, device=device)
        self._uniform = exponentials_are_logarithms(device)

    def add(self, sampling: Sampling, prompt_ids: list[int], seed: int) -> None:
        """A story becomes the last row.

        Args:
            prompt_ids: what the penalty on repetition sees from the beginning.
            seed: of its random numbers, which are those of `generate` after `set_seed(seed)`.

        Raises:
            ValueError: for settings that transformers refuses.
        """
        generator = torch.Generator(self._ids.device).manual_seed(seed)
        ids = self._ids[len(self._rows)]
        ids[: len(prompt_ids)] = torch.tensor(prompt_ids, device=ids.device)
        ids[len(prompt_ids) :] = prompt_ids[0]  # so that what is behind a story repeats what is in it
        self._rows.append(_Row(sampling, sampling.processors(), generator, len(prompt_ids)))

    def remove(self, row: int) -> None:
        """Take a story out; the last row takes its place."""
        last = self._rows.pop()
        if row != len(self._rows):
            self._ids[row] = self._ids[len(self._rows)]
            self._rows[row] = last

    def clear(self) -> None:
        """Take all stories out."""
        self._rows = []

    @torch.inference_mode()
    def pick(self, logits: torch.Tensor, first: int = 0) -> list[int | None]:
        """The next tokens of the stories from row `first`; None where the logits are no numbers.

        Args:
            logits: `[stories, vocab]`.
        """
        rows = self._rows[first : first + len(logits)]
        states = [row.generator.get_state() if row.sampling.do_sample else None for row in rows]
        tokens, sure = self._pick(rows, self._penalised(logits, rows, first), self._draw(rows, logits))
        for place, row in enumerate(rows):
            if not sure[place]:
                seen = self._ids[first + place : first + place + 1, : row.length]
                try:
                    tokens[place] = _pick_plainly(row, states[place], seen, logits[place])
                except RuntimeError:  # which is what `multinomial` says of shares that are no numbers
                    tokens[place] = None
        places, lengths = range(first, first + len(rows)), [row.length for row in rows]
        written = torch.tensor([token or 0 for token in tokens], device=logits.device)
        self._ids[torch.tensor(places), torch.tensor(lengths)] = written
        for row in rows:
            row.length += 1
        return tokens

    def _draw(self, rows: list[_Row], logits: torch.Tensor) -> torch.Tensor:
        """For each entry of the vocabulary a random number, uniform or exponential."""
        dtype = torch.float64 if self._uniform else torch.float32
        draws = torch.empty(logits.shape, dtype=dtype, device=logits.device)
        for row, numbers in zip(rows, draws, strict=True):
            if row.sampling.do_sample:
                (numbers.uniform_ if self._uniform else numbers.exponential_)(generator=row.generator)
        return draws

    def _penalised(self, logits: torch.Tensor, rows: list[_Row], first: int) -> torch.Tensor:
        penalties = [row.sampling.repetition_penalty for row in rows]
        scores = logits.float()
        if all(penalty == 1.0 for penalty in penalties):
            return scores
        penalty = torch.tensor(penalties, device=logits.device)[:, None]
        ids = self._ids[first : first + len(rows), : max(row.length for row in rows)]
        seen = scores.gather(1, ids)
        return scores.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))

    def _pick(
        self, rows: list[_Row], scores: torch.Tensor, draws: torch.Tensor
    ) -> tuple[list[int | None], list[bool]]:
        """Tokens, drawn among the likeliest ones, and for each whether it is the one of the plain way."""
        count, entries = scores.shape
        width = min(max(row.cuts for row in rows) + 1, entries)  # one more, to see whether it is as likely as the last
        values, indices = scores.topk(width)
        drawn = draws.gather(1, indices).double().cpu().numpy()
        values, indices = values.cpu().numpy(), indices.cpu().numpy()  # from here on numpy, whose calls are cheaper

        settings = [row.sampling for row in rows]
        sampled = np.array([each.do_sample for each in settings])
        temperature = np.array([each.temperature if each.do_sample else 1.0 for each in settings], np.float32)
        top_k = np.array([min(each.top_k or entries, entries) if each.do_sample else 1 for each in settings])
        top_p = np.array([each.top_p if each.do_sample else 1.0 for each in settings])
        with np.errstate(all="ignore"):
            values = values / temperature[:, None]
            peak = values[:, 0].copy()
            weights = np.exp((values - peak[:, None]).astype(np.float64))
            weights[np.arange(width) >= top_k[:, None]] = 0.0
            total = weights.sum(-1)
            for place in np.flatnonzero(top_k > width):
                whole = (scores[place] / temperature[place].item() - peak[place].item()).double().exp().sum()
                total[place] = whole.item()
            share = weights / total[:, None]
            # What a token and all that are less likely have together; top-p wants that above 1 - top_p.
            beyond = 1.0 - (share.cumsum(-1) - share) - (1.0 - top_p[:, None])
            cut = (top_p < 1.0)[:, None]
            stays = (weights > 0) & ((beyond > 0) | ~cut)
            stays[:, 0] = True
            if self._uniform:
                drawn = -np.log1p(-drawn)
            quotient = np.where(stays, np.where(sampled[:, None], share / drawn, 1.0), 0.0)
            every = np.arange(count)
            first = quotient.argmax(-1)
            best = quotient[every, first]
            quotient[every, first] = 0.0

            number = np.isfinite(peak)
            kept = stays.sum(-1)
            close = (cut & (weights > 0) & (np.abs(beyond) < MARGIN)).any(-1)
            tied = (values[every, kept - 1] == values[every, np.minimum(kept, width - 1)]) & (kept < width)
            unreached = (kept == width) & (width < entries)
            clear = best - quotient.max(-1) >= MARGIN * best
        sure = ~number | (clear & ~(close | tied | unreached))
        tokens = indices[every, first].tolist()
        return [token if fine else None for token, fine in zip(tokens, number, strict=True)], sure.tolist()


def _pick_plainly(row: _Row, state: torch.Tensor | None, seen: torch.Tensor, logits: torch.Tensor) -> int:
    """The token for `logits` `[vocab]` after the tokens `seen` `[1, length]`, with random numbers from `state` on."""
    scores = row.processors(seen, logits[None].to(torch.float32, copy=True))
    if not row.sampling.do_sample:
        return scores.argmax().item()
    row.generator.set_state(state)
    shares = scores.softmax(-1)
    if not torch.isfinite(shares).all():
        # What `multinomial` says itself on a CPU; on a GPU it would end all stories.
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    return torch.multinomial(shares, num_samples=1, generator=row.generator).item()


def exponentials_are_logarithms(device: torch.device) -> bool:
    """Whether `exponential_` takes logarithms of what `uniform_` draws in double precision."""
    ours, theirs = (torch.Generator(device).manual_seed(7) for _ in range(2))
    for size in (1, 5, 3_000):
        uniform = torch.empty(size, dtype=torch.float64, device=device).uniform_(generator=ours)
        exponential = torch.empty(size, device=device).exponential_(generator=theirs)
        if not torch.allclose(-torch.log1p(-uniform), exponential.double(), rtol=1e-6, atol=0.0):
            return False
    return torch.equal(ours.get_state(), theirs.get_state())
