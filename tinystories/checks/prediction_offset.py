"""What a trained model has learnt to predict, measured on whole stories that it was not trained on.

Design decisions:

- Each story is alone in its context, behind the start token, without packing.
- The logits at position t are scored against tokens t, t+1 and t+2, all over the same tokens. A model scores best on
  what it was trained on: t+1 is the standard objective, t+2 means labels that were shifted twice, t none at all.
- Differences are compared per story, and count where they are three times their standard error.
- Where the model is no better than a uniform distribution over the vocabulary, the result is inconclusive.
"""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.likelihood import context_length, encode, score_sequences, start_tokens, total_loss
from ..generation.generate import eos_token_ids
from ..generation.prompts import added_tokens
from .batches import START_ADVICE
from .findings import Finding


HORIZONS = (1, 2, 0)
TRAINED = 0.1  # nats by which a model must be better than a uniform distribution
COPIES = 0.5  # nats at t itself; an untrained model with tied embeddings favours its input, too, but less
UNUSED_START = 0.5  # nats per token on the first words from which a missing start token is an error


def beginning_of_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What stands in front of a story: the beginning of text or, where there is none, the end of text."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if token is None else [token]


def context_of(model: PreTrainedModel) -> int:
    """Tokens of a story that are scored: the context of the model, 512 if it has no limit, and at most 2,048."""
    return min(context_length(model) or 512, 2048)


def check_objective(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: list[str]
) -> tuple[list[Finding], bool]:
    """Findings on held-out stories, and whether the model is trained well enough for further checks."""
    check = "objective"
    context = context_of(model)
    begin = start_tokens(model, tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # llama2.c's models end a story with the token that begins the next one.
    stops = eos_token_ids(model, tokenizer)
    whole = [begin + ids + end for ids in encode(tokenizer, stories)]
    rows = [ids[:context] for ids in whole if len(ids) > 8]
    if not rows:
        return [Finding(check, "inconclusive", "the stories are too short")], False
    vocabulary = model.get_input_embeddings().num_embeddings
    if max(map(max, rows)) >= vocabulary:
        return [
            Finding(
                check,
                "error",
                f"the tokenizer gives ids up to {max(map(max, rows)):,}, but the model has {vocabulary:,} embeddings",
                "This is not the tokenizer that the model was trained with: name that one with --tokenizer.",
            )
        ], False

    def score(index: int, logits: torch.Tensor) -> tuple[dict[int, float], float]:
        ids = rows[index]
        return {
            horizon: total_loss(logits[2 - horizon : len(ids) - horizon], ids[2:]) / (len(ids) - 2)
            for horizon in HORIZONS
        }, loss_of_eos(index, logits)

    def loss_of_eos(_: int, logits: torch.Tensor) -> float:
        return -float(log_softmax(logits[-2].float(), -1)[stops].logsumexp(0))

    scores = score_sequences(model, rows, score)
    losses = {horizon: [nats[horizon] for nats, _ in scores] for horizon in HORIZONS}
    weights = [len(ids) - 2 for ids in rows]
    targets = [token for ids in rows for token in ids[2:]]
    whole = [ids for ids in whole if len(ids) > 8]
    ends = [nats for ids, (_, nats) in zip(whole, scores, strict=True) if end and len(ids) <= context]
    if end and len(ends) < 10:
        # Of stories longer than the context, the last part.
        ends += score_sequences(model, [ids[-context:] for ids in whole if len(ids) > context], loss_of_eos)

    mean = {horizon: float(np.average(losses[horizon], weights=weights)) for horizon in HORIZONS}
    blind = math.log(vocabulary)
    counts = np.bincount(targets)
    shares = counts[counts > 0] / len(targets)
    by_frequency = float(-(shares * np.log(shares)).sum())
    seen = (
        f"{mean[1]:.3f} nats per token at t+1, {mean[2]:.3f} at t+2, {mean[0]:.3f} at t itself, on {len(targets):,} "
        f"tokens of {len(rows):,} stories (uniform distribution: {blind:.2f}; unigram: {by_frequency:.2f})"
    )
    best = min(HORIZONS, key=mean.get)
    second = min((horizon for horizon in HORIZONS if horizon != best), key=mean.get)
    if mean[best] > blind - TRAINED:
        return [
            Finding(
                check, "inconclusive", f"{seen}: it predicts nothing yet", "Check again when the model is trained."
            )
        ], False
    if not math.isfinite(sum(mean.values())):
        return [
            Finding(check, "error", f"{seen}: the loss is not finite", "The weights are damaged; train again.")
        ], False
    apart = np.array(losses[second]) - np.array(losses[best])
    error = apart.std(ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
    if apart.mean() < max(3 * error, 0.02):
        return [
            Finding(
                check,
                "inconclusive",
                f"{seen}: the difference is too small ({apart.mean():.3f}, standard error {error:.3f})",
                "Check again when the model is better trained, or with a larger --limit.",
            )
        ], False
    if best == 2:
        return [
            Finding(
                check,
                "error",
                f"{seen}: it predicts the token after the next one",
                "Its labels were shifted twice, in the data and in the model: give labels equal to input_ids and "
                "train again. Models with this error leave out articles.",
            )
        ], False
    if best == 0 and mean[0] > COPIES:
        return [
            Finding(
                check,
                "inconclusive",
                f"{seen}: it favours the token it was given, as an untrained model with tied embeddings does",
                "Check again when the model is trained.",
            )
        ], False
    if best == 0:
        return [
            Finding(
                check,
                "error",
                f"{seen}: it repeats the token it was given",
                "Its labels were never shifted: score token t+1 at position t and train again.",
            )
        ], False
    findings = [Finding(check, "ok", f"{seen}: it predicts the next token")]
    findings.append(_check_stopping(ends, np.mean([len(ids) for ids in whole]), tokenizer))
    return findings, True


def _check_stopping(ends: list[float], mean_length: float, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Whether the end of text is likelier at the end of a story than anywhere (one in the tokens of a story)."""
    check = "stopping"
    if tokenizer.eos_token_id is None:
        return Finding(
            check,
            "error",
            "the tokenizer has no eos_token",
            "Give it one: without an end-of-text token a model cannot learn to stop.",
        )
    if not ends:
        return Finding(check, "inconclusive", "no story has an end")
    anywhere = math.log(mean_length)
    middle = float(np.median(ends))
    seen = (
        f"at the end of {len(ends):,} stories {tokenizer.eos_token!r} has a probability of {math.exp(-middle):.2g} "
        f"(median); its frequency per token is {math.exp(-anywhere):.2g}"
    )
    if middle > anywhere:
        return Finding(
            check,
            "error",
            f"{seen}: it has not learnt to stop",
            "Append the end-of-text token to each story, keep its label, and pad with another token.",
        )
    return Finding(check, "ok", seen)


def check_beginning(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: list[str]) -> Finding:
    """Whether the tokenizer puts in front of a prompt what the model expects there: the loss on the first words of
    stories, with and without the start token."""
    check = "beginning of text, as learnt"
    begin = beginning_of_text(tokenizer)
    openings = [ids[:12] for ids in encode(tokenizer, stories[:64]) if len(ids) >= 12]
    if not begin or not openings:
        return Finding(
            check, "inconclusive", "the tokenizer has no start token" if not begin else "the stories are too short"
        )

    def nats(prefix: list[int]) -> float:
        # Without a prefix nothing precedes the first token, so it is left out in both.
        at = len(prefix)
        losses = score_sequences(
            model,
            [prefix + ids[:-1] for ids in openings],
            lambda index, logits: total_loss(logits[at:], openings[index][1:]) / (len(openings[index]) - 1),
        )
        return float(np.mean(losses))

    without, with_it = nats([]), nats(begin)
    adds = added_tokens(tokenizer)[0][:1] == begin
    token = tokenizer.decode(begin)
    seen = f"the first words have a loss of {with_it:.3f} nats per token behind {token!r} and {without:.3f} without"
    does = f"the tokenizer puts {'it' if adds else 'nothing'} in front of a prompt"
    if abs(with_it - without) < 0.02 or (with_it < without) == adds:
        return Finding(check, "ok", f"{seen}; {does}")
    if with_it < without:
        status = "error" if without - with_it > UNUSED_START else "note"
        return Finding(check, status, f"{seen}, but {does}", START_ADVICE)
    return Finding(check, "note", f"{seen}, but {does}", "Encode prompts with add_special_tokens=False.")


def by_hand(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> dict[int, float]:
    """Cross-entropy of logits `[rows, length, vocabulary]` and labels `[rows, length]` for each shift between them."""
    length = labels.shape[1]
    return {
        shift: float(
            cross_entropy(
                logits[:, : length - shift].flatten(0, 1), labels[:, shift:].flatten(), label_smoothing=smoothing
            )
        )
        for shift in sorted(HORIZONS)
    }


def which_shift(loss: float, candidates: dict[int, float]) -> tuple[int | None, bool]:
    """The shift whose cross-entropy `loss` is, or None; and whether that can be said.

    A loss may be rounded as bfloat16 rounds, but the right candidate must be ten times as near as any other.
    """
    away = {shift: abs(value - loss) for shift, value in candidates.items()}
    nearest, second = sorted(away, key=away.get)[:2]
    if not away[nearest] <= 1e-2 * max(1.0, abs(loss)):
        return None, True
    clear = away[second] > 10 * max(away[nearest], 1e-6 * max(1.0, abs(loss)))
    return (nearest, True) if clear else (None, False)


def check_model_shift(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, story: str) -> Finding:
    """Whether the model itself shifts labels that equal the inputs, once: what any Trainer relies on."""
    check = "shift in the model"
    ids = torch.tensor([(beginning_of_text(tokenizer) + encode(tokenizer, [story])[0])[: context_of(model)]])
    # A GPU that is asked for an embedding that does not exist fails for the rest of the process.
    if ids.max() >= model.get_input_embeddings().num_embeddings:
        return Finding(check, "inconclusive", "the tokenizer gives ids that the model does not have")
    with torch.no_grad():
        output = model.eval()(input_ids=ids.to(model.device), labels=ids.to(model.device), use_cache=False)
    loss = float(output.loss)
    candidates = by_hand(output.logits.float().cpu(), ids)
    shift, clear = which_shift(loss, candidates)
    figures = ", ".join(f"{value:.4f} with {shifts}" for shifts, value in candidates.items())
    seen = f"loss {loss:.4f} on labels equal to the inputs; by hand, by shifts: {figures}"
    if shift == 1:
        return Finding(check, "ok", f"one: {seen}")
    if not clear:
        return Finding(check, "inconclusive", f"{seen}: the logits are too similar")
    return Finding(
        check,
        "error",
        f"{'none of these' if shift is None else shift}: {seen}",
        "With labels equal to the inputs, a Trainer would train this model on the wrong token.",
    )
