"""A source of stories, and the options with which it is opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from datasets import Dataset, IterableDataset

from ...utils.errors import UserError
from ..readers import ReadOptions


VERSION = 3  # in every cache key: raise it when the same source would give other rows


@dataclass(frozen=True)
class SourceOptions:
    """The arguments of `load_corpus` that say how a source is read."""

    read: ReadOptions
    seed: int
    streaming: bool
    num_proc: int | None
    cache_dir: str | None


class Source(NamedTuple):
    """A source, with a function that reads each of its splits, since reading can take minutes."""

    name: str
    splits: Mapping[str, Callable[[], Dataset | IterableDataset]]
    revision: str = ""

    def read(self, split: str) -> Dataset | IterableDataset:
        """The stories of a split; "test" stands in for a missing "validation".

        Raises:
            UserError: if there is no such split, or its files cannot be read.
        """
        if split == "validation" and split not in self.splits:
            split = "test"
        if split not in self.splits:
            raise UserError(
                f"{self.name} has no {split} split, only {', '.join(self.splits)}; specify the files instead."
            )
        return self.splits[split]()

    def read_validation(self) -> Dataset | IterableDataset:
        """The validation split, which is all of a source with one split."""
        return self.read("validation" if len(self.splits) > 1 else next(iter(self.splits)))


def first_cause(error: BaseException) -> BaseException:
    """The original error, which `datasets` wraps in others."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error
