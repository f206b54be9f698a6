"""How likely a model finds texts, and how often it prefers the good one of a pair.

- **Any causal model of transformers, with its tokenizer.** In front of a text stands what stands in front of a story
  when bits per byte are counted (`tinystories.evaluation.likelihood.start_tokens`). Where nothing does, the first
  token is not scored, and the two of a pair must share it.
- **What decides is the log-likelihood of the whole text, as in BLiMP** (https://aclanthology.org/2020.tacl-1.25).
- **No head start for the shorter text.** Where good and bad differ by a word (a deleted or doubled article), a sum of
  logarithms favours the shorter one: a model without any grammar would find every doubled article and no deleted one.
  There the log-likelihood under a unigram model is subtracted from each, as in SLOR (Pauls and Klein 2012,
  https://aclanthology.org/P12-1101; Lau, Clark and Lappin 2017, https://doi.org/10.1111/cogs.12414). The unigram is
  the model's own: the mean of all the distributions that it predicts over the texts. A model that ignores what stands
  before is its own unigram, so all these pairs are ties for it, and its accuracy is exactly one half.
- **Not for texts of one length.** A word of two tokens is far less likely under a unigram of tokens than as a word, so
  that "were" would gain on "was" wherever the vocabulary splits it (subject-verb agreement of llama2.c's stories260K
  would fall from 0.84 to 0.79). There the pairs are balanced instead: a model that ignores what stands before prefers
  "was" to "were" or the other way round, and each is right in as many pairs.
- That half is exact where no token joins a word to the mark behind it, as in GPT-2's and Llama's vocabularies.
- Padding stands on the right, where no causal model sees it, whatever the tokenizer's `padding_side` is.
- Each different text is scored once; texts of like length share a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...utils.errors import UserError
from ..likelihood import model_context, start_tokens
from ..text_statistics import wilson_interval
from .pairs import Pair


TIE = 1e-3  # nats; several times what float32 loses over a sentence, and far below what a real preference is


class TextScores(NamedTuple):
    """Arrays `[texts]`.

    Attributes:
        log_likelihood: natural logarithm of the text's probability after its context.
        unigram: the same under the mean of all distributions that the model predicted for these texts.
        tokens: how many tokens these cover.
    """

    log_likelihood: np.ndarray
    unigram: np.ndarray
    tokens: np.ndarray


class PairScore(NamedTuple):
    """What a model makes of a pair.

    Attributes:
        good, bad: log-likelihood of each text in nats.
        head_start: what the good one is ahead by its length alone, in nats: the difference of the two under the
            model's unigram where they differ in their number of words, else 0.
    """

    kind: str
    good: float
    bad: float
    head_start: float

    @property
    def margin(self) -> float:
        """Above 0 where the model prefers the good text, in nats."""
        return self.good - self.bad - self.head_start


def text_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    contexts: Sequence[str] | None = None,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> TextScores:
    """The log-likelihood of each text, after its context where `contexts` gives one ("" for none).

    Text and context are tokenised together. A token across the border counts as text, and white space at the end of
    the context does, too. Where they do not fit the model's positions, the beginning of the context is left out.

    Raises:
        UserError: for a text with nothing to score, one longer than the model's positions, a tokenizer that is not
            the model's, or a model whose output is nan.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, but is {batch_size}.")
    contexts = [""] * len(texts) if contexts is None else contexts
    if len(contexts) != len(texts):
        raise ValueError(f"There are {len(texts)} texts, but {len(contexts)} contexts.")
    where: dict[tuple[str, str], int] = {}
    rows = [where.setdefault(both, len(where)) for both in zip(contexts, texts, strict=True)]
    encoded = _encode(model, tokenizer, list(where))
    order = sorted(range(len(encoded)), key=lambda row: -len(encoded[row].ids))

    log_likelihood = np.zeros(len(encoded))
    mean = 0.0
    was_training = model.training
    model.eval()
    try:
        with tqdm(total=len(encoded), desc="scoring", unit=" texts", disable=not progress) as bar:
            for first in range(0, len(order), batch_size):
                batch = order[first : first + batch_size]
                log_probs, summed = _forward(model, [encoded[row] for row in batch])
                log_likelihood[batch] = log_probs
                mean = mean + summed
                bar.update(len(batch))
    finally:
        model.train(was_training)

    if not np.isfinite(log_likelihood).all():
        raise UserError("The model gives probabilities that are no numbers: its weights are damaged, or overflow.")
    tokens = np.array([len(row.ids) - row.start for row in encoded])
    # A model can give a token a probability that float32 rounds to nothing.
    log_mean = np.log(np.maximum(mean / tokens.sum(), np.finfo(np.float32).tiny))
    unigram = np.array([log_mean[row.ids[row.start :]].sum() for row in encoded])
    return TextScores(log_likelihood[rows], unigram[rows], tokens[rows])


class _Encoded(NamedTuple):
    ids: list[int]
    start: int  # the first token that is scored


def _encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]
) -> list[_Encoded]:
    """`pairs` of context and text."""

    def tokenize(strings: list[str]) -> list[list[int]]:
        # The name of a special token in a story is ordinary text there.
        return tokenizer(strings, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    if not pairs:
        raise UserError("There are no texts to score.")
    lead, limit = start_tokens(model, tokenizer), model_context(model)
    whole = tokenize([context + text for context, text in pairs])
    heads = sorted({context.rstrip() for context, _ in pairs} - {""})
    head_ids = dict(zip(heads, tokenize(heads), strict=True)) if heads else {}
    encoded = []
    for (context, text), ids in zip(pairs, whole, strict=True):
        before = head_ids.get(context.rstrip(), [])
        shared = next((at for at, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        excess = max(0, len(lead) + len(ids) - limit) if limit else 0
        if excess and shared - excess < (0 if lead else 1):
            raise UserError(f"A text is longer than the model's {limit} positions: {text[:60]!r}")
        ids, start = lead + ids[excess:], max(1, len(lead) + shared - excess)
        if start >= len(ids):
            raise UserError(f"There is nothing to score in the text {text[:60]!r}.")
        encoded.append(_Encoded(ids, start))
    largest, vocabulary = max(max(row.ids) for row in encoded), model.get_input_embeddings().weight.shape[0]
    if largest >= vocabulary:
        raise UserError(
            f"The tokenizer gives token {largest}, but the model has {vocabulary}: they do not belong together."
        )
    return encoded


@torch.inference_mode()
def _forward(model: PreTrainedModel, rows: list[_Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods `[rows]`, and the sum `[vocabulary]` of the distributions at all scored positions."""
    length = max(len(row.ids) for row in rows)
    # Which token fills up does not matter: nothing that is scored sees it.
    ids = torch.tensor([row.ids + row.ids[:1] * (length - len(row.ids)) for row in rows], device=model.device)
    place = torch.arange(1, length, device=model.device)
    starts = torch.tensor([[row.start] for row in rows], device=model.device)
    ends = torch.tensor([[len(row.ids)] for row in rows], device=model.device)
    # Of the tokens that are predicted, ids[:, 1:], and so of the inputs that predict them
    real = place < ends
    scored = real & (place >= starts)
    logits = model(input_ids=ids[:, :-1], attention_mask=real.long(), use_cache=False).logits
    log_probs = torch.log_softmax(logits[scored].float(), dim=-1)  # [scored tokens, vocabulary]
    of_tokens = log_probs.gather(1, ids[:, 1:][scored][:, None])[:, 0].cpu().double()
    log_likelihoods = [part.sum().item() for part in of_tokens.split([len(row.ids) - row.start for row in rows])]
    return np.array(log_likelihoods), log_probs.exp_().sum(0).cpu().double().numpy()


def score_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> list[PairScore]:
    """Score both texts of each pair, in the order of `pairs`.

    Raises:
        UserError: as `text_log_likelihoods`, and for a pair that cannot be scored without a beginning token.
    """
    if not start_tokens(model, tokenizer):
        for pair in pairs:
            if not pair.context and pair.good.split()[:1] != pair.bad.split()[:1]:
                raise UserError(
                    f"This tokenizer has no token in front, so a pair must share its first word: {pair.good!r}"
                )
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    contexts = [pair.context for pair in pairs for _ in range(2)]
    scores = text_log_likelihoods(model, tokenizer, texts, contexts, batch_size=batch_size, progress=progress)
    differ = np.array([len(pair.good.split()) != len(pair.bad.split()) for pair in pairs])
    head_starts = np.where(differ, scores.unigram[::2] - scores.unigram[1::2], 0.0).tolist()
    values = scores.log_likelihood.reshape(-1, 2).tolist()
    return [
        PairScore(pair.kind, good, bad, head_start)
        for pair, (good, bad), head_start in zip(pairs, values, head_starts, strict=True)
    ]


def accuracy(results: Sequence[PairScore], *, head_start: bool = False) -> dict[str, dict[str, float]]:
    """How often the good text wins, by kind: "accuracy", its 95 % Wilson interval from "low" to "high", and "pairs".

    Ties (less than `TIE` nats) count half. With `head_start` the shorter text keeps its advantage: the plain
    log-likelihoods are compared.
    """
    margins: dict[str, list[float]] = {}
    for result in results:
        margin = result.good - result.bad if head_start else result.margin
        margins.setdefault(result.kind, []).append(margin)
    table = {}
    for kind, values in margins.items():
        won = sum(0.5 if abs(value) < TIE else float(value > 0) for value in values)
        share, low, high = wilson_interval(won, len(values))
        table[kind] = {"accuracy": share, "low": low, "high": high, "pairs": len(values)}
    return table
