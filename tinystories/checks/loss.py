"""Check which token the loss scores: the shift of the labels and that of the model must add up to one.

- The loss of a training step is compared with the cross-entropy of the logits for each shift.
- The loss may have a rounding error of bfloat16, but it must be ten times closer to the cross-entropy of the correct
  shift than to any other.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from ..data.packing import IGNORE_INDEX
from ..evaluation.likelihood import encode, model_vocab_size
from .batches import Rows
from .findings import Finding, as_check, error, inconclusive, note, ok
from .forward import model_of, training_logits, training_loss
from .prediction_offset import beginning_of_text, scored_context


SHIFTS = ("no shift", "one shift", "two shifts")

ROUNDING = 1e-2  # relative, of a loss in bfloat16
FEW = 4  # labels of a row


class Shift(NamedTuple):
    """The shift between logits and labels in a loss.

    Attributes:
        number: 0, 1 or 2; None if the loss matches no shift, or if the shifts cannot be distinguished.
        clear: whether they can be distinguished.
        evidence: the loss, and the cross-entropy of each shift.
    """

    number: int | None
    clear: bool
    evidence: str


def find_shift(loss: float, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Shift:
    """Compare a loss with the cross-entropies of logits `[rows, length, vocabulary]` and labels `[rows, length]`."""
    losses = [
        float(
            cross_entropy(
                logits[:, : labels.shape[1] - shift].flatten(0, 1),
                labels[:, shift:].flatten(),
                label_smoothing=smoothing,
            )
        )
        for shift in range(len(SHIFTS))
    ]
    figures = ", ".join(f"{value:.4f} with {name}" for value, name in zip(losses, SHIFTS, strict=True))
    evidence = f"the loss is {loss:.4f}; cross-entropy of the logits is {figures}"
    distances, scale = np.abs(np.array(losses) - loss), max(1.0, abs(loss))
    nearest, second, _ = np.argsort(distances)
    if not distances[nearest] <= ROUNDING * scale:
        return Shift(None, True, evidence)
    clear = distances[second] > 10 * max(distances[nearest], 1e-6 * scale)
    return Shift(int(nearest) if clear else None, bool(clear), evidence)


@as_check("next token")
def check_loss(trainer: Trainer, rows: Rows, offset: int | None) -> list[Finding]:
    """Which token the training loss scores at each position.

    Args:
        offset: of the labels in the data, from [`label_offset`].
    """
    model_of(trainer).train()
    inputs = dict(rows.inputs)
    weights = inputs.pop("loss_weights", None)
    findings = []
    if weights is not None and (weights != 1).any():
        evidence = f"the loss has token weights of up to {float(weights.max()):g}, unlike the standard objective"
        advice = "No published story model needed token weights to learn articles."
        findings.append(note(evidence, advice, check="loss"))
    shift = _training_shift(trainer, inputs)
    if not shift.clear:
        # Over few labels, the cross-entropies differ enough even for an untrained model.
        few = _training_shift(trainer, {**inputs, "labels": _few_labels(rows.labels)})
        shift = few._replace(evidence=shift.evidence)
    if shift.number is not None and offset is not None and offset + shift.number == 1:
        findings += check_accumulation(trainer, inputs, shift.number)
    return [_judge_shift(shift, offset, trainer.args.label_smoothing_factor), *findings]


def _judge_shift(shift: Shift, offset: int | None, smoothing: float) -> Finding:
    if not shift.clear:
        return inconclusive(f"{shift.evidence}: the logits are too similar to distinguish the shifts")
    if shift.number is None:
        advice = "Use the model's own loss: plain cross-entropy, one shift, no weights."
        return error(f"{shift.evidence}: the loss differs from all of these", advice)
    if offset is None:
        return inconclusive(f"{shift.evidence}; but the labels differ from the inputs (see `labels`)")
    where = f"the labels are shifted by {offset} in the data and by {shift.number} in the model"
    where += f", with label smoothing {smoothing:g}" if smoothing else ""
    distance = offset + shift.number
    if distance == 1:
        return ok(f"position t is scored on token t+1: {where}; {shift.evidence}")
    return error(
        f"position t is scored on token {f't+{distance}' if distance else 't itself'}: {where}; {shift.evidence}",
        "Shift exactly once: set labels equal to input_ids and let the model shift.",
    )


def _training_shift(trainer: Trainer, inputs: dict) -> Shift:
    smoothing = float(trainer.args.label_smoothing_factor)
    logits, loss = training_logits(trainer, inputs), training_loss(trainer, inputs)
    return find_shift(loss, logits, inputs["labels"].cpu(), smoothing)


def _few_labels(labels: Tensor) -> Tensor:
    """The first few scored labels of each row, without its first two positions; the rest is not scored."""
    scored = labels != IGNORE_INDEX
    scored[:, :2] = False
    return labels.masked_fill(~scored | (scored.cumsum(1) > FEW), IGNORE_INDEX)


@as_check("gradient accumulation")
def check_accumulation(trainer: Trainer, inputs: dict, shift: int) -> Finding | list[Finding]:
    """Whether the loss over several batches is the mean over all their tokens."""
    args = trainer.args
    if args.gradient_accumulation_steps == 1 or args.world_size > 1 or not trainer.model_accepts_loss_kwargs:
        return []
    scored = int((inputs["labels"][:, shift:] != IGNORE_INDEX).sum())
    loss, halved = training_loss(trainer, inputs), training_loss(trainer, inputs, num_items=2 * scored)
    rounding = ROUNDING * max(1.0, loss)
    if abs(halved - loss / 2) <= rounding:
        return ok("the loss is divided by the scored tokens of all accumulated batches")
    if abs(halved - loss) > rounding:
        return []
    return error(
        f"the model accepts `num_items_in_batch`, but does not divide the loss by it ({halved:.4f} instead of "
        f"{loss / 2:.4f})",
        "Pass the **kwargs of forward to the loss function.",
    )


@as_check("label shift in the model")
def check_model_shift(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, story: str) -> Finding:
    """Whether the model shifts labels that equal the inputs exactly once, as every Trainer assumes."""
    ids = torch.tensor([(beginning_of_text(tokenizer) + encode(tokenizer, [story])[0])[: scored_context(model)]])
    # On a GPU, looking up a missing embedding makes the GPU unusable for the rest of the process.
    if ids.max() >= model_vocab_size(model):
        return inconclusive("the tokenizer returns ids that the model does not have")
    with torch.no_grad():
        output = model.eval()(input_ids=ids.to(model.device), labels=ids.to(model.device), use_cache=False)
    shift = find_shift(float(output.loss), output.logits.float().cpu(), ids)
    if shift.number == 1:
        return ok(f"one shift (with labels equal to the inputs, {shift.evidence})")
    if not shift.clear:
        return inconclusive(f"{shift.evidence}: the logits are too similar to distinguish the shifts")
    return error(
        f"{'unknown shift' if shift.number is None else SHIFTS[shift.number]} (with labels equal to the inputs, "
        f"{shift.evidence})",
        "With labels equal to the inputs, a Trainer would train this model on the wrong token.",
    )
