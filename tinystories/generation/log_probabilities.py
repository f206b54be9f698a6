"""Log-probabilities of token ids under a causal language model; every score in this package comes from here.

- Each sequence is alone in its context, right-padded, so that it needs no attention mask.
- The dtype of the weights is kept and autocast is off; log-probabilities are float32, their sums float64.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ..utils.errors import UserError
from ..utils.evaluation_mode import evaluation_mode
from ..utils.progress import progress_bar


Score = TypeVar("Score")

TOKENS_PER_BATCH = 4096
LOGITS_PER_BATCH = 2**26  # 256 MB in float32; a single long text may need more
MIN_FILL = 0.9  # of a row in a batch: more padding costs more time than larger batches save
LOGITS_PER_CHUNK = 2**22  # cross-entropy copies its input


@torch.inference_mode()
def score_sequences(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    score: Callable[[int, torch.Tensor], Score],
    *,
    first: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Score]:
    """Apply `score(index, logits)` to the logits `[tokens, vocabulary]` of each sequence of token ids.

    Args:
        sequences: none empty, none longer than the context.
        first: for each sequence the position from which on `score` gets the logits; by default 0. Logits of earlier
            positions are not computed if `forward` has the parameter `logits_to_keep`.
        batch_size: sequences in a forward pass; by default as many as keep the memory bounded.
        progress: show a progress bar on stderr.

    Raises:
        UserError: for an encoder-decoder, or ids outside the model's vocabulary.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"`batch_size` ({batch_size}) must be at least 1.")
    vocab_size = model_vocab_size(model)
    largest = max((max(ids) for ids in sequences), default=0)
    if largest >= vocab_size:
        raise UserError(
            f"The tokenizer returns the id {largest:,}, but the model has only {vocab_size:,} embeddings: use the "
            f"tokenizer that the model was trained with."
        )
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    begins = np.zeros_like(lengths) if first is None else np.array(first, dtype=np.int64)
    can_skip = "logits_to_keep" in inspect.signature(model.forward).parameters
    order = np.argsort(-lengths, kind="stable").tolist()  # longest first, to fail at once if memory is insufficient
    tokens_per_batch = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // vocab_size)
    padding = 1 if model.config.pad_token_id == 0 else 0  # transformers warns about the pad token without a mask
    scores: dict[int, Score] = {}
    bar = progress_bar(total=int(lengths.sum()), desc="Scoring", unit=" tokens", unit_scale=True, show=progress)
    with bar, evaluation_mode(model):
        while order:
            longest = int(lengths[order[0]])
            size = batch_size or max(1, tokens_per_batch // longest)
            batch = [index for index in order[:size] if batch_size or lengths[index] >= MIN_FILL * longest]
            order = order[len(batch) :]
            rows = [[*sequences[index], *[padding] * (longest - int(lengths[index]))] for index in batch]
            skipped = int(begins[batch].min()) if can_skip else 0
            options = {"logits_to_keep": longest - skipped} if skipped else {}
            with torch.autocast(model.device.type, enabled=False):
                logits = model(input_ids=torch.tensor(rows, device=model.device), use_cache=False, **options).logits
            for index, row in zip(batch, logits, strict=True):
                scores[index] = score(index, row[begins[index] - skipped : lengths[index] - skipped])
            del logits  # before the next forward pass needs the memory
            bar.update(int(lengths[batch].sum()))
    return [scores[index] for index in range(len(sequences))]


def total_loss(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    """Sum of the cross-entropies, in nats, of logits `[tokens, vocabulary]` for `tokens`."""
    targets = torch.tensor(tokens, device=logits.device)
    chunk = max(1, LOGITS_PER_CHUNK // logits.shape[-1])
    losses = [
        cross_entropy(some.float(), wanted, reduction="none")
        for some, wanted in zip(logits.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat(losses).cpu().double().sum().item()


def model_vocab_size(model: PreTrainedModel) -> int:
    """Number of logits of a causal language model.

    Raises:
        UserError: for an encoder-decoder.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} is an encoder-decoder; only a causal language model can be scored.")
    head = model.get_output_embeddings()
    return head.weight.shape[0] if head is not None else model.config.get_text_config().vocab_size
