"""Train a tokenizer on the stories of a corpus, or on a sample of them; each is trained once and cached.

More stories hardly change the bytes per token (docs/data.md has figures), but take longer.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer

from tinystories.tokenization import PreTrainedTokenizerFast, build_tokenizer, train_bpe

from ..utils.paths import write_atomically
from .corpus import Corpus


_CACHE_VERSION = 1


def corpus_tokenizer(
    corpus: Corpus, vocab_size: int, stories: int | Literal["all"], *, model_max_length: int
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on the training stories, which is cached beside them.

    Args:
        vocab_size, model_max_length: as for `train_bpe`.
        stories: number of stories to train on: evenly spaced in the corpus, or the first ones of a stream.

    Raises:
        TokenizerError: as `train_bpe`.
    """
    sample = sample_stories(corpus.train, stories)
    cache = _cache_file(corpus, [vocab_size, "all" if sample is corpus.train else stories])
    if cache is not None and cache.is_file():
        return build_tokenizer(Tokenizer.from_file(str(cache)), model_max_length)
    texts = (batch["text"] for batch in sample.iter(batch_size=1_000))
    total = len(sample) if isinstance(sample, Dataset) else None if stories == "all" else stories
    tokenizer = train_bpe(texts, vocab_size, model_max_length=model_max_length, total=total)
    if cache is not None:
        write_atomically(cache, tokenizer.backend_tokenizer.to_str())
    return tokenizer


def sample_stories(train: Dataset | IterableDataset, stories: int | Literal["all"]) -> Dataset | IterableDataset:
    """The stories that a tokenizer is trained on."""
    if stories == "all":
        return train
    if isinstance(train, IterableDataset):
        return train.take(stories)
    return train if stories >= len(train) else train.select(np.arange(stories) * len(train) // stories)


def describe_sample(train: Dataset | IterableDataset, stories: int | Literal["all"]) -> str | None:
    """The sample in words; None if it is the corpus."""
    if isinstance(train, IterableDataset):
        return None if stories == "all" else f"the first {stories:,} stories"
    if stories == "all" or stories >= len(train):
        return None
    return f"{stories:,} of {len(train):,} stories, evenly spaced"


def _cache_file(corpus: Corpus, settings: list) -> Path | None:
    """Where the tokenizer is cached; None for a corpus in memory, or if the user has turned off caching."""
    files = corpus.validation.cache_files
    if not files or not datasets.is_caching_enabled():
        return None
    key = Hasher.hash([_CACHE_VERSION, version("tokenizers"), corpus.fingerprint, *settings])
    return Path(files[0]["filename"]).parent / f"tokenizer-{key}.json"
