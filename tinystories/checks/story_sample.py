"""The sample of a corpus that is checked, and the checks of its text."""

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

import datasets
from transformers import PreTrainedTokenizerBase

from ..data.corpus import Corpus
from .english import check_writing
from .findings import Finding, as_check
from .held_out import check_held_out
from .text_quality import check_text_quality
from .verdict import check_validation_stories


Stories = TypeVar("Stories", list[str], datasets.Dataset)
TRAINING_STORIES = 10  # training stories searched for validation stories, as a multiple of the limit
TOKENIZER_STORIES = 20_000  # about 16 MB of text: enough to learn a vocabulary of 10,000 from


def evenly(stories: Stories, most: int) -> Stories:
    """At most `most` of the stories, spread evenly."""
    step = max(1, math.ceil(len(stories) / most))
    if isinstance(stories, datasets.Dataset):
        return stories.select(range(0, len(stories), step))
    return stories[::step]


@dataclass
class StorySample:
    """Stories of a corpus, spread evenly over it.

    Attributes:
        corpus: with as many training stories as batches and a tokenizer need.
        train, validation: its texts.
        of_train: number of training stories in the whole corpus; None for a stream.
        of_validation: number of validation stories in the whole corpus.
        limit: number of training stories that are checked.
        is_replacement: whether it is the built-in sample instead of the requested corpus.
    """

    corpus: Corpus
    train: list[str]
    validation: list[str]
    of_train: int | None
    of_validation: int
    limit: int
    is_replacement: bool = False

    @classmethod
    def of(cls, corpus: Corpus, limit: int, is_replacement: bool = False) -> "StorySample":
        most = max(limit * TRAINING_STORIES, TOKENIZER_STORIES)
        if isinstance(corpus.train, datasets.IterableDataset):
            of_train = None
            train = datasets.Dataset.from_list(list(corpus.train.take(most)))
        else:
            of_train, train = len(corpus.train), evenly(corpus.train, most)
        validation = evenly(corpus.validation, limit)
        fingerprint = f"{corpus.fingerprint}-{most}-{limit}"
        small = dataclasses.replace(corpus, train=train, validation=validation, fingerprint=fingerprint)
        texts = train["text"][:], validation["text"][:]
        return cls(small, *texts, of_train, len(corpus.validation), limit, is_replacement)

    @property
    def checked(self) -> list[str]:
        """The training stories that are checked."""
        return evenly(self.train, self.limit)

    def for_batches(self) -> Corpus:
        """The corpus with as many training stories as are checked."""
        train = evenly(self.corpus.train, self.limit)
        return dataclasses.replace(self.corpus, train=train, fingerprint=f"{self.corpus.fingerprint}-rows")

    def check_text(
        self, tokenizer: PreTrainedTokenizerBase | None, *, strict: bool, cleaned: dict | None
    ) -> list[Finding]:
        """Findings on the text alone; the arguments are those of [`check_text_quality`]."""
        total = None if self.of_train is None else self.of_train + self.of_validation
        # Validation first, as cleaning reads them.
        stories = [*self.validation, *self.checked]
        searched = evenly(self.train, self.limit * TRAINING_STORIES)
        return [
            *check_text_quality(stories, tokenizer, strict=strict, of=total, cleaned=cleaned),
            *self._check_writing(),
            *check_held_out(searched, self.validation, self.of_train or len(self.train), self.of_validation),
            *check_validation_stories(self.of_train, self.of_validation),
        ]

    @as_check("text: language")
    def _check_writing(self) -> list[Finding]:
        """Findings on the training stories, and those on the validation stories that differ from them."""
        findings = check_writing(self.checked)
        known = {(finding.check, finding.status) for finding in findings}
        return findings + [
            dataclasses.replace(finding, check=f"{finding.check} (validation)")
            for finding in check_writing(self.validation, "validation")
            if finding.status in ("error", "note") and (finding.check, finding.status) not in known
        ]
