"""Log-likelihoods of texts, and how often a model prefers the good sentence of a pair.

- The log-likelihoods of the whole texts are compared, as in BLiMP (https://aclanthology.org/2020.tacl-1.25).
- Where good and bad differ in their number of words, a sum of log-probabilities favours the shorter one. There the
  log-likelihood under a unigram model is subtracted from each, as in SLOR (Pauls and Klein 2012,
  https://aclanthology.org/P12-1101; Lau, Clark and Lappin 2017, https://doi.org/10.1111/cogs.12414). The unigram is
  the mean of all distributions that the model itself predicts for the texts, so a model that ignores context ties.
- Pairs of equal length are balanced instead, because a unigram over tokens penalises words of several tokens.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...generation.generate import context_length
from ...utils.errors import UserError
from ..intervals import wilson_interval
from ..likelihood import check_finite, encode, model_vocab_size, score_sequences, start_tokens
from .pairs import Pair


TIE = 1e-3  # nats; several times what float32 loses over a sentence, and far below a real preference


class TextScores(NamedTuple):
    """Arrays `[texts]`.

    Attributes:
        log_likelihood: of the text after its context, in nats.
        unigram: the same under the mean of all distributions that the model predicted for these texts.
        tokens: number of scored tokens.
        by_token: the log-likelihoods of the scored tokens of each text, arrays `[tokens]`.
    """

    log_likelihood: np.ndarray
    unigram: np.ndarray
    tokens: np.ndarray
    by_token: list[np.ndarray]


class PairScore(NamedTuple):
    """The scores of a pair in nats.

    Attributes:
        good, bad: log-likelihood of each text.
        length_bias: advantage of the good text by its length alone: the difference under the unigram model if the
            texts differ in their number of words, else 0.
    """

    kind: str
    good: float
    bad: float
    length_bias: float

    @property
    def margin(self) -> float:
        """Positive if the model prefers the good text."""
        return self.good - self.bad - self.length_bias


def text_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    contexts: Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> TextScores:
    """The log-likelihood of each text, given its context where `contexts` has one ("" for none).

    Context and text are tokenised together; a token that spans the border, and white space at the end of the context,
    belong to the text. A context that does not fit the model is truncated on the left. Without a start token, the
    first token of a text without context is not scored.

    Raises:
        UserError: for a text without a token to score or longer than the model's context, a tokenizer that does not
            fit the model, or non-finite log-likelihoods.
    """
    contexts = [""] * len(texts) if contexts is None else contexts
    position: dict[tuple[str, str], int] = {}
    rows = [position.setdefault(both, len(position)) for both in zip(contexts, texts, strict=True)]
    unique = list(position)
    sequences, first = _encode_after_context(model, tokenizer, unique)
    summed = torch.zeros(model_vocab_size(model), dtype=torch.float64)

    def score(index: int, logits: torch.Tensor) -> np.ndarray:
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        targets = torch.tensor(sequences[index][first[index] :], device=logits.device)
        by_token = log_probs.gather(1, targets[:, None])[:, 0].cpu().double().numpy()
        summed.add_(log_probs.exp_().sum(0).cpu().double())
        return by_token

    inputs = [ids[:-1] for ids in sequences]
    begins = [position - 1 for position in first]
    by_token = score_sequences(model, inputs, score, first=begins, batch_size=batch_size, progress=progress)
    log_likelihood = np.array([values.sum() for values in by_token])
    check_finite(model, log_likelihood)
    tokens = np.array([len(ids) - begin for ids, begin in zip(sequences, first, strict=True)])
    # float32 can round a probability to 0.
    log_mean = np.log(np.maximum(summed.numpy() / tokens.sum(), np.finfo(np.float32).tiny))
    unigram = np.array([log_mean[ids[begin:]].sum() for ids, begin in zip(sequences, first, strict=True)])
    return TextScores(log_likelihood[rows], unigram[rows], tokens[rows], [by_token[row] for row in rows])


def _encode_after_context(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]
) -> tuple[list[list[int]], list[int]]:
    """Token ids of `pairs` of context and text, and the index of the first scored token of each."""
    if not pairs:
        raise UserError("There are no texts to score.")
    start, limit = start_tokens(model, tokenizer), context_length(model)
    heads = encode(tokenizer, [context.rstrip() for context, _ in pairs])
    sequences, first = [], []
    for (_, text), head, ids in zip(pairs, heads, encode(tokenizer, ["".join(both) for both in pairs]), strict=True):
        shared = common_tokens(head, ids)
        excess = max(0, len(start) + len(ids) - limit) if limit else 0
        if excess and shared - excess < (0 if start else 1):
            raise UserError(f"A text is longer than the model's context of {limit} tokens: {text[:60]!r}")
        sequences.append(start + ids[excess:])
        first.append(max(1, len(start) + shared - excess))
        if first[-1] >= len(sequences[-1]):
            raise UserError(f"The text {text[:60]!r} has no tokens to score.")
    return sequences, first


def common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens with which both begin."""
    return len(os.path.commonprefix([list(one), list(other)]))


def score_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    batch_size: int | None = None,
    progress: bool = True,
) -> list[PairScore]:
    """Score both texts of each pair, in the order of `pairs`.

    Raises:
        UserError: as `text_log_likelihoods`, and for a pair that differs in its first word if the model has neither
            a start token nor a context.
    """
    if not start_tokens(model, tokenizer):
        for pair in pairs:
            if not pair.context and pair.good.split()[:1] != pair.bad.split()[:1]:
                raise UserError(
                    f"This tokenizer has no start token, so both sentences of a pair must share their first word: "
                    f"{pair.good!r}"
                )
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    contexts = [pair.context for pair in pairs for _ in range(2)]
    scores = text_log_likelihoods(model, tokenizer, texts, contexts, batch_size=batch_size, progress=progress)
    lengths_differ = np.array([len(pair.good.split()) != len(pair.bad.split()) for pair in pairs])
    length_biases = np.where(lengths_differ, scores.unigram[::2] - scores.unigram[1::2], 0.0).tolist()
    good, bad = scores.log_likelihood[::2].tolist(), scores.log_likelihood[1::2].tolist()
    return [PairScore(pair.kind, *values) for pair, *values in zip(pairs, good, bad, length_biases, strict=True)]


def accuracy(results: Sequence[PairScore], *, correct_length: bool = True) -> dict[str, dict[str, float]]:
    """Accuracy of each kind: the fraction of pairs in which the model prefers the good text. Ties (a difference of
    less than `TIE` nats) count half.

    Args:
        correct_length: subtract the length bias; plain log-likelihoods favour shorter texts.

    Returns:
        By kind: "accuracy", the ends "low" and "high" of its 95% Wilson interval, and the number of "pairs".
    """
    margins: dict[str, list[float]] = {}
    for result in results:
        margin = result.margin if correct_length else result.good - result.bad
        margins.setdefault(result.kind, []).append(margin)
    return {kind: win_rate(values) for kind, values in margins.items()}


def mean_accuracy(kinds: Mapping[str, Mapping[str, float]]) -> float | None:
    """The mean over the kinds of [`accuracy`], regardless of their numbers of pairs; None without kinds."""
    return float(np.mean([kind["accuracy"] for kind in kinds.values()])) if kinds else None


def win_rate(margins: Sequence[float]) -> dict[str, float]:
    """The fraction of positive margins: its "accuracy", "low" and "high", and the number of "pairs"."""
    won = sum(0.5 if abs(value) < TIE else float(value > 0) for value in margins)
    rate, low, high = wilson_interval(won, len(margins))
    return {"accuracy": rate, "low": low, "high": high, "pairs": len(margins)}
