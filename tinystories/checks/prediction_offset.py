"""Check which token a trained model predicts, on whole stories that it was not trained on.

- Each story is alone in its context, after the start token, without packing.
- The logits at position t are scored against tokens t, t+1 and t+2, all over the same tokens. The loss is lowest for
  the objective of training: t+1 is the standard one, t+2 means labels that were shifted twice, t labels that were not
  shifted.
- Differences are computed per story, and are significant from three times their standard error on.
- If the model is not better than a uniform distribution over the vocabulary, the result is inconclusive.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.likelihood import encode, model_vocab_size, score_sequences, start_tokens, total_loss
from ..generation.generate import context_length, eos_token_ids
from ..generation.prompts import added_tokens
from .batch_contents import NO_EOS_ADVICE, START_ADVICE
from .findings import Finding, as_check, error, inconclusive, note, ok


OFFSETS = (0, 1, 2)
TRAINED = 0.1  # nats by which a model must be better than a uniform distribution
# Nats at t below which a model copies its input; with tied embeddings, an untrained model also prefers it, but less.
COPIES = 0.5
LEAST_DIFFERENCE = 0.02  # nats per token
UNUSED_START = 0.5  # nats per token on the first words from which a missing start token is an error
LEAST_TOKENS, OPENING = 9, 12  # of a story that is scored, and of its beginning
LEAST_ENDS = 10  # with fewer complete stories, the ends of longer ones are scored, too
OPENINGS = 64  # stories whose beginnings are scored
LATER = "Train longer and check again."


class StoryLosses(NamedTuple):
    """Losses of held-out stories.

    Attributes:
        offsets: nats per token of each story at t, t+1 and t+2, `[stories, 3]`.
        ends: nats of the end-of-text token after complete stories.
        tokens: scored token ids of all stories.
        scored: scored tokens of each story.
        mean_length: tokens of a story, start and end included.
    """

    offsets: np.ndarray
    ends: list[float]
    tokens: list[int]
    scored: list[int]
    mean_length: float


def beginning_of_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token id before a story: BOS or, if the tokenizer has none, EOS."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if token is None else [token]


def scored_context(model: PreTrainedModel) -> int:
    """Tokens of a story that are scored: the context of the model, 512 if it has no limit, and at most 2,048."""
    return min(context_length(model) or 512, 2048)


def score_offsets(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> StoryLosses:
    """The losses of stories at each offset.

    Raises:
        UserError: for token ids without an embedding.
    """
    context = scored_context(model)
    begin = start_tokens(model, tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # llama2.c's models end a story with the token that begins the next one.
    stops = eos_token_ids(model, tokenizer)
    complete = [begin + ids + end for ids in encode(tokenizer, stories)]
    complete = [ids for ids in complete if len(ids) >= LEAST_TOKENS]
    rows = [ids[:context] for ids in complete]

    def loss_of_end(_: int, logits: torch.Tensor) -> float:
        return -float(log_softmax(logits[-2].float(), -1)[stops].logsumexp(0))

    def score(index: int, logits: torch.Tensor) -> tuple[list[float], float]:
        ids = rows[index]
        totals = [total_loss(logits[2 - offset : len(ids) - offset], ids[2:]) for offset in OFFSETS]
        return [total / (len(ids) - 2) for total in totals], loss_of_end(index, logits)

    scores = score_sequences(model, rows, score)
    ends = [nats for ids, (_, nats) in zip(complete, scores, strict=True) if end and len(ids) <= context]
    if end and len(ends) < LEAST_ENDS:
        # For stories longer than the context, their last part is scored.
        ends += score_sequences(model, [ids[-context:] for ids in complete if len(ids) > context], loss_of_end)
    return StoryLosses(
        offsets=np.array([losses for losses, _ in scores]),
        ends=ends,
        tokens=[token for ids in rows for token in ids[2:]],
        scored=[len(ids) - 2 for ids in rows],
        mean_length=float(np.mean([len(ids) for ids in complete])) if complete else 0.0,
    )


@as_check("objective")
def check_objective(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> list[Finding]:
    """Which token the model predicts on held-out stories and, if it is the next one, how stories end and begin."""
    known = model_vocab_size(model)
    largest = max((max(ids, default=0) for ids in encode(tokenizer, stories)), default=0)
    if largest >= known:
        return [
            error(
                f"the tokenizer returns ids up to {largest:,}, but the model has {known:,} embeddings",
                "This is not the tokenizer that the model was trained with: specify the right one with --tokenizer.",
            )
        ]
    losses = score_offsets(model, tokenizer, stories)
    if not losses.scored:
        return [inconclusive("the stories are too short")]
    finding = _judge_offsets(losses, known)
    if finding.status != "ok":
        return [finding]
    return [finding, *check_stopping(losses, tokenizer), *check_beginning(model, tokenizer, stories)]


def _judge_offsets(losses: StoryLosses, vocab_size: int) -> Finding:
    mean = np.average(losses.offsets, axis=0, weights=losses.scored)
    uniform = math.log(vocab_size)
    counts = np.bincount(losses.tokens)
    rates = counts[counts > 0] / len(losses.tokens)
    evidence = (
        f"{mean[1]:.3f} nats per token at t+1, {mean[2]:.3f} at t+2, {mean[0]:.3f} at t itself, on "
        f"{len(losses.tokens):,} tokens of {len(losses.scored):,} stories (uniform distribution: {uniform:.2f}; "
        f"unigram: {-(rates * np.log(rates)).sum():.2f})"
    )
    if not np.isfinite(mean).all():
        return error(f"{evidence}: the loss is not finite", "The weights are damaged; train again.")
    best, second, _ = np.argsort(mean, kind="stable")
    if mean[best] > uniform - TRAINED:
        return inconclusive(f"{evidence}: the model is not better than a uniform distribution yet", LATER)
    difference = losses.offsets[:, second] - losses.offsets[:, best]
    deviation = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    if difference.mean() < max(3 * deviation, LEAST_DIFFERENCE):
        return inconclusive(
            f"{evidence}: the difference is too small ({difference.mean():.3f}, standard error {deviation:.3f})",
            "Train longer and check again, or use a larger --limit.",
        )
    if best == 1:
        return ok(f"{evidence}: the model predicts the next token")
    if best == 2:
        return error(
            f"{evidence}: the model predicts the token after the next one",
            "The labels were shifted twice, in the data and in the model: set labels equal to input_ids and train "
            "again, or repair the model by fine-tuning, with `tinystories finetune STORIES --init_from MODEL`. Models "
            "with this error omit articles.",
        )
    if mean[0] > COPIES:
        cause = "the model predicts the current token, as untrained models with tied embeddings do"
        return inconclusive(f"{evidence}: {cause}", LATER)
    return error(
        f"{evidence}: the model predicts the current token",
        "The labels were not shifted: compute the loss at position t on token t+1 and train again.",
    )


@as_check("stopping")
def check_stopping(losses: StoryLosses, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether EOS is more probable at the end of a story than on average, which is once per story length."""
    if tokenizer.eos_token_id is None:
        return error("the tokenizer has no eos_token", NO_EOS_ADVICE)
    if not losses.ends:
        return inconclusive("no story was scored to its end")
    probability, frequency = math.exp(-float(np.median(losses.ends))), 1 / losses.mean_length
    evidence = (
        f"at the end of {len(losses.ends):,} stories {tokenizer.eos_token!r} has a probability of {probability:.2g} "
        f"(median); its frequency per token is {frequency:.2g}"
    )
    if probability >= frequency:
        return ok(evidence)
    return error(
        f"{evidence}: the model has not learnt to stop",
        "Append the end-of-text token to each story, keep its label, and pad with another token.",
    )


@as_check("learnt start token")
def check_beginning(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> Finding:
    """Whether the tokenizer adds the start token to prompts if the model was trained with it, judged by the loss on
    the first words of stories with and without that token."""
    begin = beginning_of_text(tokenizer)
    openings = [ids[:OPENING] for ids in encode(tokenizer, stories[:OPENINGS]) if len(ids) >= OPENING]
    if not begin:
        return inconclusive("the tokenizer has no start token")
    if not openings:
        return inconclusive("the stories are too short")

    def loss_behind(prefix: list[int]) -> float:
        # Without a prefix nothing precedes the first token, so it is left out in both.
        losses = score_sequences(
            model,
            [prefix + ids[:-1] for ids in openings],
            lambda index, logits: total_loss(logits[len(prefix) :], openings[index][1:]) / (OPENING - 1),
        )
        return float(np.mean(losses))

    without, behind = loss_behind([]), loss_behind(begin)
    adds = added_tokens(tokenizer)[0][:1] == begin
    evidence = (
        f"the loss on the first words is {behind:.3f} nats per token after {tokenizer.decode(begin)!r} and "
        f"{without:.3f} without this token"
    )
    fact = f"the tokenizer {'adds it' if adds else 'does not add it'} in front of prompts"
    if abs(behind - without) < LEAST_DIFFERENCE or (behind < without) == adds:
        return ok(f"{evidence}; {fact}")
    if adds:
        return note(f"{evidence}, but {fact}", "Encode prompts with add_special_tokens=False.")
    judge = error if without - behind > UNUSED_START else note
    return judge(f"{evidence}, but {fact}", START_ADVICE)
