"""Rows of new stories mixed with rows of the stories that a model was trained on before."""

import numpy as np
import torch

from .packing import PackedStories
from .renaming import RenamingReport


class ReplayedRows(PackedStories):
    """The rows of `new`, and in each epoch other rows of `old`, so that these are a `fraction` of all rows.

    It is used like [`PackedStories`]; the counts of tokens are those of an epoch.

    Args:
        new, old: rows of the same length.
        fraction: above 0 and below 1.
        seed: sets the order of the old rows.

    Attributes:
        replayed: old rows of an epoch, at least one.
    """

    def __init__(self, new: PackedStories, old: PackedStories, *, fraction: float, seed: int = 0):
        if new.length != old.length:
            raise ValueError(f"Rows of {new.length} and {old.length} tokens cannot be mixed.")
        self.new, self.old = new, old
        self.replayed = max(1, round(len(new) * fraction / (1 - fraction)))
        self._order = np.random.default_rng(seed).permutation(len(old))
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.stories, self.pad_token_id, self.length = new.stories, new.pad_token_id, new.length
        share = self.replayed / len(old)
        self.tokens = new.tokens + round(old.tokens * share)
        self.scored = new.scored + round(old.scored * share)
        self.bytes = new.bytes + round(old.bytes * share)
        self.padding = 1 - self.tokens / (len(self) * self.length)
        self.tokens_per_row = self.tokens / len(self)
        self.mean_attended = (
            new.tokens * new.mean_attended + (self.tokens - new.tokens) * old.mean_attended
        ) / self.tokens

    def __len__(self) -> int:
        return len(self.new) + self.replayed

    def set_epoch(self, epoch: int) -> None:
        """Choose the old rows of an epoch, and the names of characters in the new ones, if they are replaced."""
        self._epoch.fill_(epoch)
        self.new.set_epoch(epoch)

    def renaming_report(self) -> RenamingReport | None:
        return self.new.renaming_report()

    def __getitems__(self, rows: list[int]) -> list[dict[str, torch.Tensor]]:
        number, begin = len(self.new), int(self._epoch) * self.replayed
        indices = [range(len(self))[row] for row in rows]
        return [
            self.new[row] if row < number else self.old[int(self._order[(begin + row - number) % len(self._order)])]
            for row in indices
        ]
