"""Statistics of stories as plain text: lengths and endings, repetition, made-up words, text copied from training.

- A rate is the number of events over the number of opportunities in all texts, with a bootstrap interval over texts.
- N-grams ignore case and punctuation.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from ..text.sentences import ends_with_punctuation
from .intervals import Interval, ratio_interval, wilson_interval


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, numbers included; an apostrophe inside a word belongs to it."""
    return _WORD.findall(text.lower().replace("’", "'"))


def slice_words(text: str, start: int = 0, stop: int | None = None) -> str:
    """The part of the text from word `start` up to word `stop`, by default to its end; words as in [`words`]."""
    found = list(_WORD.finditer(text))
    if start >= len(found):
        return ""
    return text[found[start].start() : found[stop - 1].end() if stop is not None and stop < len(found) else len(text)]


def vocabulary(texts: Iterable[str], at_least: int = 1) -> frozenset[str]:
    """The words that occur at least `at_least` times in `texts`."""
    counts = Counter(word for text in texts for word in words(text))
    return frozenset(word for word, count in counts.items() if count >= at_least)


def out_of_vocabulary_rate(texts: Iterable[str], known: Collection[str], **options) -> Interval:
    """Fraction of the words of `texts` that are not in `known`; `options` are those of [`ratio_interval`].

    With the [`vocabulary`] of the training stories, these are the words that a model made up.
    """
    counts = [(sum(word not in known for word in found), len(found)) for found in map(words, texts)]
    return ratio_interval(*columns(counts, 2), **options)


def lengths_and_endings(
    texts: Sequence[str], finished: Sequence[bool] | None = None, *, confidence: float = 0.95
) -> dict[str, Interval | float]:
    """Mean lengths of texts, and how they end.

    Args:
        finished: for each text, whether it ended with EOS.

    Returns:
        `mean_words`, `mean_bytes` (UTF-8), `final_punctuation` (fraction of texts that end in . ! ? or …, perhaps with
        closing quotes or brackets), and with `finished` also `finished` (EOS rate). Intervals are Wilson's.

    Raises:
        ValueError: for a single string, or if `finished` has another length.
    """
    check_texts(texts)
    count = len(texts)
    punctuated = sum(map(ends_with_punctuation, texts))
    statistics: dict[str, Interval | float] = {
        "mean_words": sum(len(words(text)) for text in texts) / count if count else math.nan,
        "mean_bytes": sum(len(text.encode()) for text in texts) / count if count else math.nan,
        "final_punctuation": wilson_interval(punctuated, count, confidence=confidence),
    }
    if finished is not None:
        if len(finished) != count:
            raise ValueError(f"`finished` has {len(finished)} values, but there are {count} texts.")
        statistics["finished"] = wilson_interval(sum(map(bool, finished)), count, confidence=confidence)
    return statistics


def check_texts(texts: Sequence[str]) -> None:
    """Raise a `ValueError` for a single string, which `evaluate` passes on as a list of its characters."""
    characters = len(texts) > 1 and any(texts) and all(len(text) <= 1 for text in texts)
    if isinstance(texts, (str, bytes)) or characters:
        raise ValueError("The texts are a single string: pass a list of texts.")


def columns(rows: list[tuple], count: int) -> np.ndarray:
    """Rows of `count` integers as arrays `[count, rows]`, also if there are no rows."""
    return np.array(rows, dtype=np.int64).reshape(-1, count).T


def repetition(texts: Sequence[str], **options) -> dict[str, Interval | float]:
    """How much texts repeat themselves and each other.

    Args:
        options: those of [`ratio_interval`].

    Returns:
        `distinct_1`, `distinct_2`, `distinct_3`: distinct n-grams of all texts over all their n-grams (J. Li et al.
            2016, arXiv 1510.03055); NaN without n-grams. They fall with the amount of text: compare equal amounts.
        `repeated_4grams`: fraction of 4-grams that occurred earlier in the same text (S. Welleck et al. 2019, arXiv
            1908.04319, there as a mean over texts).
        `longest_repeated_run`: words in the longest sequence that occurs twice in a text (the two may overlap), mean
            over texts; `longest_repeated_run_max`: the maximum over texts.
    """
    check_texts(texts)
    found = [words(text) for text in texts]
    statistics: dict[str, Interval | float] = {}
    for n in (1, 2, 3):
        grams = {gram for each in found for gram in _ngrams(each, n)}
        total = sum(max(0, len(each) - n + 1) for each in found)
        statistics[f"distinct_{n}"] = len(grams) / total if total else math.nan
    counts = [max(0, len(each) - 3) for each in found]
    distinct = [len(set(_ngrams(each, 4))) for each in found]
    statistics["repeated_4grams"] = ratio_interval(np.subtract(counts, distinct), counts, **options)
    longest = longest_repeated_runs(texts)
    statistics["longest_repeated_run"] = ratio_interval(longest, np.ones(len(texts)), **options)
    statistics["longest_repeated_run_max"] = float(longest.max()) if len(texts) else math.nan
    return statistics


def longest_repeated_runs(texts: Sequence[str]) -> np.ndarray:
    """Length in words of the longest sequence that occurs at least twice in each text, int64 `[texts]`."""
    check_texts(texts)
    ids, owner = word_ids(texts)
    longest = np.zeros(len(texts), dtype=np.int64)
    per_text = owner * (ids.max(initial=0) + 1) + ids  # the same word has another number in another text
    for n, at in _grow(per_text, ids, owner, lambda at, gram: np.bincount(gram)[gram] > 1):
        longest[owner[at]] = n
    return longest


def longest_copied_runs(texts: Sequence[str], training_texts: Sequence[str]) -> list[list[str]]:
    """The words of the longest sequence of each text that also occurs in a training text.

    Exact, in time about linear in the number of words: n-grams grow word by word, and only those that occur on both
    sides are kept. 16,000 training stories (13 MB) take seconds.
    """
    check_texts(texts)
    check_texts(training_texts)
    ids, owner = word_ids([*training_texts, *texts])
    from_training = owner < len(training_texts)
    begins, longest = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)

    def on_both_sides(at: np.ndarray, gram: np.ndarray) -> np.ndarray:
        sides = np.zeros((2, gram.max(initial=-1) + 1), dtype=bool)
        for side in (False, True):
            sides[int(side), gram[from_training[at] == side]] = True
        return np.all(sides, axis=0)[gram]

    for n, at in _grow(ids, ids, owner, on_both_sides):
        copied = at[~from_training[at]]
        longest[owner[copied] - len(training_texts)] = n
        begins[owner[copied] - len(training_texts)] = copied
    first = np.searchsorted(owner, np.arange(len(texts)) + len(training_texts))
    return [
        words(text)[begin - start :][:length]
        for text, begin, start, length in zip(texts, begins, first, longest, strict=True)
    ]


def word_ids(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all texts as numbers from 0, and the text that each belongs to; int64 `[words]`."""
    numbers: dict[str, int] = {}
    found = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
    counts = np.array([len(ids) for ids in found], dtype=np.int64)
    ids = np.fromiter((number for ids in found for number in ids), dtype=np.int64, count=counts.sum())
    return ids, np.repeat(np.arange(len(texts)), counts)


def _ngrams(found: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(found[start:] for start in range(n)), strict=False)


def _grow(
    first: np.ndarray, ids: np.ndarray, owner: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """For n = 1, 2, ... the positions of n-grams for which `wanted(positions, gram_numbers)` holds.

    An n-gram is only wanted if its first n - 1 words are, so only those are extended.

    Args:
        first: numbers that are equal where two first words count as equal; `[words]`, like the other arrays.
    """
    at, gram, n = np.arange(len(ids)), first, 1
    while True:
        gram = np.unique(gram, return_inverse=True)[1]
        kept = wanted(at, gram)
        at, gram = at[kept], gram[kept]
        if not len(at):
            return
        yield n, at
        inside = at + n < len(ids)
        inside[inside] = owner[at[inside] + n] == owner[at[inside]]
        at, gram = at[inside], gram[inside]
        gram = gram * (ids.max(initial=0) + 1) + ids[at + n]
        n += 1
