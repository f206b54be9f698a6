"""How often a model prefers the true text of a probe.

- The texts are compared from the first word that differs to the end of its sentence; in the kinds `order` and
  `middle`, where whole sentences differ, to the end of the next one.
- A context that does not fit the model is truncated on the left. A probe is not scored if this removes what its bad
  text contradicts.
- Where a sentence of another story replaces one, the log-likelihood of each text without a context is subtracted: what
  remains is the pointwise mutual information of text and context. Otherwise the more common sentence often wins.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...generation.generate import context_length
from ..likelihood import encode, start_tokens
from ..minimal_pairs.scoring import common_tokens, text_log_likelihoods, win_rate
from .kinds import KINDS, distance_range
from .probes import Probe


class ProbeScore(NamedTuple):
    """The scores of a probe in nats.

    Attributes:
        margin: log-likelihood of the good text minus that of the bad text, positive if the model prefers the good one.
        word_margin: the same for the word alone, if the texts differ in one word.
    """

    probe: Probe
    margin: float
    word_margin: float | None


def score_probes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probes: Sequence[Probe],
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> list[ProbeScore]:
    """Score both texts of each probe, in the order of `probes`, without those that do not fit the model's context.

    Raises:
        UserError: as `text_log_likelihoods`.
    """
    probes = [probe for probe, fits in zip(probes, _fit(model, tokenizer, probes), strict=True) if fits]
    if not probes:
        return []
    texts = [text for probe in probes for text in (probe.good, probe.bad)]
    contexts = [probe.context for probe in probes for _ in range(2)]
    scores = text_log_likelihoods(model, tokenizer, texts, contexts, batch_size=batch_size, progress=progress)
    log_likelihood = scores.log_likelihood
    exchanged = np.repeat([KINDS[probe.kind].sentences_exchanged for probe in probes], 2)
    if exchanged.any():
        alone = [text for text, other in zip(texts, exchanged, strict=True) if other]
        log_likelihood[exchanged] -= text_log_likelihoods(
            model, tokenizer, alone, batch_size=batch_size, progress=progress
        ).log_likelihood
    margins = (log_likelihood[::2] - log_likelihood[1::2]).tolist()
    word_scores = _word_scores(tokenizer, probes, scores.by_token)
    return [
        ProbeScore(probe, margin, None if probe.words is None else good - bad)
        for probe, margin, good, bad in zip(probes, margins, word_scores[::2], word_scores[1::2], strict=True)
    ]


def _fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe]) -> list[bool]:
    """Whether the model's context has room for each probe from `earlier` on."""
    limit = context_length(model)
    if limit is None or not probes:
        return [True] * len(probes)
    start = len(start_tokens(model, tokenizer))
    before = encode(tokenizer, [probe.context[: probe.earlier].rstrip() for probe in probes])
    good, bad = (
        encode(tokenizer, [probe.context + text for probe, text in zip(probes, texts, strict=True)])
        for texts in ([probe.good for probe in probes], [probe.bad for probe in probes])
    )
    room = limit - max(start, 1)  # without a start token, the first token is not scored
    return [
        max(len(one), len(other)) - common_tokens(head, one) <= room
        for head, one, other in zip(before, good, bad, strict=True)
    ]


def _word_scores(
    tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe], by_token: Sequence[np.ndarray]
) -> list[float]:
    """Log-likelihood of the first word of each good and each bad text; 0 where a probe has no such word."""
    texts = [(probe.context, text) for probe in probes for text in (probe.good, probe.bad)]
    words = [word for probe in probes for word in (probe.words or ("", ""))]
    whole = encode(tokenizer, [context + text for context, text in texts])
    to_word = encode(tokenizer, [context + word for (context, _), word in zip(texts, words, strict=True)])
    rest = [len(ids) - common_tokens(head, ids) for head, ids in zip(to_word, whole, strict=True)]
    return [
        float(values[: len(values) - after].sum()) if word else 0.0
        for values, after, word in zip(by_token, rest, words, strict=True)
    ]


def accuracy(scores: Sequence[ProbeScore]) -> dict[str, dict[str, float]]:
    """Accuracy of each kind: the fraction of probes in which the model prefers the good text. Ties count half.

    Returns:
        By kind: "accuracy", the ends "low" and "high" of its 95% Wilson interval, and the number of "pairs"; where the
        texts differ in one word, the same for the word alone as "word_accuracy", "word_low" and "word_high".
    """
    table = {}
    for kind, own in _by_kind(scores).items():
        table[kind] = win_rate([score.margin for score in own])
        words = [score.word_margin for score in own if score.word_margin is not None]
        if words:
            rate = win_rate(words)
            table[kind] |= {f"word_{key}": rate[key] for key in ("accuracy", "low", "high")}
    return table


def accuracy_by_distance(scores: Sequence[ProbeScore]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy as in [`accuracy`], by kind and [`distance_range`], for the kinds with distances."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind, own in _by_kind(scores).items():
        ranges: dict[str, list[float]] = {}
        for score in sorted((s for s in own if s.probe.distance is not None), key=lambda s: s.probe.distance or 0):
            ranges.setdefault(distance_range(score.probe.distance or 0), []).append(score.margin)
        if ranges:
            table[kind] = {name: win_rate(margins) for name, margins in ranges.items()}
    return table


def _by_kind(scores: Sequence[ProbeScore]) -> dict[str, list[ProbeScore]]:
    kinds: dict[str, list[ProbeScore]] = {}
    for score in scores:
        kinds.setdefault(score.probe.kind, []).append(score)
    return kinds
