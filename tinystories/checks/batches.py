"""Batches of a `Trainer`'s own dataloader, and the stories in them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor
from transformers import Trainer

from ..utils.evaluation_mode import evaluation_mode
from ..utils.random_state import preserved_random_state
from .forward import model_of


# At least BATCHES are taken, and more until they have TOKENS, but at most MOST_BATCHES.
BATCHES, MOST_BATCHES, TOKENS = 2, 16, 8_000


@contextmanager
def restored(trainer: Trainer) -> Iterator[None]:
    """Restore random states, modes, buffers and the dataloaders of a trainer after the block."""
    model, loaders = model_of(trainer), trainer.accelerator._dataloaders
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    known = len(loaders)
    try:
        with preserved_random_state(), evaluation_mode(model):
            yield
    finally:
        del loaders[known:]
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                buffer.copy_(before)
                module._buffers[name] = buffer


def take_batches(trainer: Trainer) -> list[dict]:
    """The first batches of the trainer's own dataloader, as its collator makes them."""
    loader = trainer.get_train_dataloader()
    # The wrapped loader: accelerate's own would mark its gradient state as within an epoch.
    taken, tokens = [], 0
    for batch in islice(getattr(loader, "base_dataloader", loader), MOST_BATCHES):
        taken.append(batch)
        tokens += batch["input_ids"].numel() if isinstance(batch.get("input_ids"), Tensor) else 0
        if len(taken) >= BATCHES and tokens >= TOKENS:
            break
    return taken


@dataclass
class Rows:
    """Rows of a batch and the stories in them.

    Attributes:
        inputs: of the model; `input_ids` and `labels` are `[rows, length]`.
        stories: `(row, first, end)` of each story, without padding.
        marked: whether the stories were found by `position_ids` that restart; otherwise by the end-of-text token.
        padding: bool `[rows, length]`.
    """

    inputs: dict
    stories: list[tuple[int, int, int]]
    marked: bool
    padding: Tensor

    @property
    def ids(self) -> Tensor:
        return self.inputs["input_ids"]

    @property
    def labels(self) -> Tensor:
        return self.inputs["labels"]

    def select(self, chosen: Sequence[int]) -> "Rows":
        """The rows with these numbers."""
        chosen, total = list(chosen), len(self.ids)
        inputs = {
            name: value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == total else value
            for name, value in self.inputs.items()
        }
        stories = [(chosen.index(row), first, end) for row, first, end in self.stories if row in chosen]
        return Rows(inputs, stories, self.marked, self.padding[chosen])

    def with_most_stories(self, count: int) -> "Rows":
        """The `count` rows that hold the most stories."""
        stories = [sum(row == number for row, _, _ in self.stories) for number in range(len(self.ids))]
        return self.select(sorted(sorted(range(len(self.ids)), key=lambda row: -stories[row])[:count]))


def find_stories(inputs: dict, eos: int | None, pad: int | None) -> Rows:
    """Find the stories in a batch: they begin where `position_ids` restart or, if there are none, after each
    end-of-text token."""
    ids = inputs["input_ids"]
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    padding = torch.zeros_like(ids, dtype=torch.bool)
    if pad is not None and pad != eos:
        padding |= ids == pad
    if mask is not None and mask.shape == ids.shape:
        padding |= mask == 0
    starts = torch.zeros_like(padding)
    starts[:, 0] = True
    starts[:, 1:] = padding[:, 1:] != padding[:, :-1]
    marked = False
    if positions is not None and positions.shape == ids.shape:
        again = positions.diff(dim=-1) != 1
        marked = bool((again & ~padding[:, 1:]).any())
        starts[:, 1:] |= again
    stories = []
    for row in range(len(ids)):
        for first, end in pairwise([*starts[row].nonzero().flatten().tolist(), ids.shape[1]]):
            if padding[row, first]:
                continue
            begins = [first]
            ends = torch.zeros_like(ids[row]) if marked or eos is None else ids[row] == eos
            for place in ends.nonzero().flatten().tolist():
                # At the beginning of a story, the end-of-text token is its BOS token.
                if begins[-1] < place < end - 1:
                    begins.append(place + 1)
            stories += [(row, begin, stop) for begin, stop in pairwise([*begins, end])]
    return Rows(inputs, stories, marked, padding)
