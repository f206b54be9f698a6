"""The metrics of an evaluation during training: bits per byte, and nats per token for each word class."""

import math
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ..data.packing import IGNORE_INDEX, PackedStories
from ..evaluation.token_classes import CLASSES, TokenClassifier


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy `[batch, length]` in nats at the position of the predicted token; 0 where the label is -100."""
    losses = torch.zeros(labels.shape, dtype=torch.float, device=logits.device)
    losses[:, 1:] = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).view(labels.shape[0], -1)
    return losses


class PackedMetrics:
    """`compute_metrics` of a `Trainer` that evaluates on `rows` with [`token_losses`].

    It accepts the losses of all rows at once, as a list of batches (`eval_do_concat_batches: false`), or batch by
    batch (`batch_eval_metrics: true`), in which case it returns the metrics with the last batch.
    """

    def __init__(self, rows: PackedStories, eos_token_id: int, classify: TokenClassifier):
        self.rows, self.eos_token_id, self.classify = rows, eos_token_id, classify
        self._classes: np.ndarray | None = None
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self._batches.append((_joined(prediction.predictions), _joined(prediction.label_ids)))
        if not compute_result:
            return {}
        losses, labels = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        self._batches.clear()
        if self._classes is None:
            ids = (self.rows[number]["input_ids"].tolist() for number in range(len(self.rows)))
            self._classes = np.stack([self.classify(row) for row in ids])
        scored = labels != IGNORE_INDEX
        nats = losses[scored & (labels != self.eos_token_id)].sum(dtype=np.float64)
        metrics = {
            "bits_per_byte": float(nats / math.log(2) / self.rows.bytes),
            "nats_per_token": float(losses[scored].mean(dtype=np.float64)),
        }
        for number, name in enumerate(CLASSES):
            of_class = scored & (self._classes == number)
            if of_class.any():
                metrics[f"nats_per_token_{name}"] = float(losses[of_class].mean(dtype=np.float64))
        return metrics


def scored_classes(rows: PackedStories, classify: TokenClassifier) -> set[str]:
    """The word classes that evaluations on `rows` have a metric for."""
    found: set[int] = set()
    for number in range(len(rows)):
        row = rows[number]
        found |= set(classify(row["input_ids"].tolist())[row["labels"].numpy() != IGNORE_INDEX].tolist())
        if len(found) == len(CLASSES):
            break
    return {CLASSES[number] for number in found}


def _joined(values: Any) -> np.ndarray:
    if isinstance(values, (list, tuple)):
        return np.concatenate([_joined(value) for value in values])
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values
