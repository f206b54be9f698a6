"""Speculative decoding in `generate()`: its cache carries a lookahead, which the model's `forward` asks for logits.

Drafted tokens are those that `generate()` would choose if the logits of the draft were those of the weights. They are
chosen by the same logits processors, and sampled with a copy of torch's random generator, so that each token gets the
random numbers that it gets in `generate()`. Neither the generator nor the processors change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import logits_process

from ..sampling import NativeTopPWarper, exponential_is_log_of_uniform
from .cache import PreallocatedCacheLayer
from .engine import Engine
from .speculation import Guess, Lookahead, Memory


# Processors whose result depends only on their arguments, so that they can be called for drafts, too.
STATELESS = {
    NativeTopPWarper,
    *(
        getattr(logits_process, name)
        for name in (
            "EpsilonLogitsWarper", "EtaLogitsWarper", "ExponentialDecayLengthPenalty", "ForcedBOSTokenLogitsProcessor",
            "ForcedEOSTokenLogitsProcessor", "InfNanRemoveLogitsProcessor", "LogitNormalization",
            "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "MinPLogitsWarper",
            "NoBadWordsLogitsProcessor", "NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
            "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor",
            "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper",
        )
    ),
}  # fmt: skip
LIKELY = 64  # tokens, one of which is nearly always sampled; only their random numbers are computed


class GenerateLookahead:
    """The lookahead of one call of `generate()`.

    Attributes:
        sequence: prompt and completion `[1, length]`, to be set before each step.
        off: whether drafting is not faster.
    """

    def __init__(self, lookahead: Lookahead, guesses: "Guesses"):
        self._lookahead, self._guesses = lookahead, guesses
        self.sequence = torch.empty(1, 0, dtype=torch.int64)

    @property
    def off(self) -> bool:
        return self._lookahead.off

    def logits(
        self, ids: torch.Tensor, positions: torch.Tensor | None, mask: torch.Tensor | None, cache: Cache
    ) -> torch.Tensor | None:
        """The logits `[1, 1, vocab]` of a forward step with these arguments; None if it has to compute them."""
        layers: list[Any] = cache.layers
        past = layers[0].get_seq_length()
        if (
            ids.shape != (1, 1)
            or self.sequence.shape[1] != past + 1
            or not torch.equal(self.sequence[:, -1:], ids)
            or (positions is not None and positions.tolist() != [[past]])
            or (mask is not None and (mask.shape != self.sequence.shape or not bool((mask == 1).all())))
            or any(type(layer) is not PreallocatedCacheLayer or layer.get_seq_length() != past for layer in layers)
        ):
            return None

        def reserve(new: int) -> Memory:
            for layer in layers:
                batch, heads, _, dim = layer.keys.shape
                layer.reserve(batch, heads, new, dim)
            return [layer.memory[0] for layer in layers], [layer.memory[1] for layer in layers]

        logits = self._lookahead.logits(int(ids), past, lambda: self._guesses(self.sequence), reserve)
        if logits is None:
            return None
        for layer in layers:
            layer.extend(1)
        return logits[None]


def lookahead_of(cache: object) -> GenerateLookahead | None:
    """The lookahead that a cache carries."""
    lookahead = vars(cache).get("lookahead")
    return None if lookahead is None or lookahead.off else lookahead


@contextmanager
def lookahead_in(
    model: PreTrainedModel,
    engine: Engine,
    ids: torch.Tensor,
    processors: LogitsProcessorList,
    config: GenerationConfig,
    cache: object,
) -> Iterator[None]:
    """Within the block, the cache of `generate()` carries a lookahead, if speculation is supported.

    Args:
        ids: the prompt `[1, length]`.
        processors, config, cache: those of `generate()`.
    """
    found = None
    if (
        type(cache) is DynamicCache
        and len(ids) == 1
        and not config.is_assistant
        and config.max_length is not None
        and all(type(processor) in STATELESS for processor in processors)
    ):
        eos = config._eos_token_tensor
        last = config.max_length - 2  # the logits after the last token are not needed
        found = Lookahead.of(model, engine, ids.shape[1], last, [] if eos is None else eos.flatten().tolist())
    if found is None:
        yield
        return
    vars(cache)["lookahead"] = GenerateLookahead(found, Guesses(processors, bool(config.do_sample)))
    try:
        yield
    finally:
        del vars(cache)["lookahead"]


class Guesses:
    """Chooses drafted tokens like `generate()`; call it at the start of each draft.

    Args:
        processors: of `generate()`; all must be in `STATELESS`.
        do_sample: whether tokens are sampled.
    """

    def __init__(self, processors: LogitsProcessorList, do_sample: bool):
        self._processors, self._do_sample = processors, do_sample

    def __call__(self, ids: torch.Tensor) -> Guess:
        """A function for the tokens that follow `ids` `[1, length]`, one after another."""
        generator = torch.Generator().set_state(torch.default_generator.get_state()) if self._do_sample else None

        def guess(logits: torch.Tensor) -> int:
            nonlocal ids
            scores = logits
            for processor in self._processors:
                scores = processor(ids, scores)
            token = int(scores.argmax()) if generator is None else sample(scores[0], generator)
            if self._processors:
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            return token

        return guess


def sample(scores: torch.Tensor, generator: torch.Generator) -> int:
    """A token, from scores `[vocab]`, nearly always that of `torch.multinomial` with this generator."""
    probabilities = scores.softmax(-1)
    if not _exponential_is_log_of_uniform():
        return int((probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax())
    uniform = torch.empty(scores.shape, dtype=torch.float64).uniform_(generator=generator)
    likely, tokens = probabilities.topk(min(LIKELY, len(probabilities)))
    return int(tokens[(likely / -torch.log1p(-uniform[tokens]).float()).argmax()])


@cache
def _exponential_is_log_of_uniform() -> bool:
    return exponential_is_log_of_uniform(torch.device("cpu"))
