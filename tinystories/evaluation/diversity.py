"""How different the stories of a sample are from each other: coherence is easy for a model that repeats one story.

The figures depend on the number of stories, except `lily_openings`: compare samples of equal size.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from ..data.names import FIRST_NAMES
from ..text.passage import story_words
from ..text.sentences import sentence_spans
from .intervals import Interval, jackknife_interval, ratio_interval, wilson_interval
from .text_statistics import words


LILY_OPENING = words("Once upon a time, there was a little girl named Lily")
MOST_OPENING_WORDS = 20


def diversity(stories: Sequence[str], seed: int = 0) -> dict[str, Interval]:
    """Diversity of a sample of stories, each of which the model began by itself.

    Returns:
        `distinct_openings`: number of different first sentences (at most 20 words) over the number of stories.
        `distinct_names`: number of different first names that stories mention first, over the number of stories that
            mention a name.
        `shared_4grams`: fraction of the different 4-grams of a story that also occur in another story of the sample.
        `lily_openings`: fraction of stories that begin with "Once upon a time, there was a little girl named Lily".
    """
    names = [name for story in stories if (name := _first_name(story))]
    grams = [set(zip(*(found[start:] for start in range(4)), strict=False)) for found in map(words, stories)]
    stories_with = Counter(gram for each in grams for gram in each)
    shared = [sum(stories_with[gram] > 1 for gram in each) for each in grams]
    lily = sum(words(story)[: len(LILY_OPENING)] == LILY_OPENING for story in stories)
    return {
        "distinct_openings": distinct_fraction([_opening(story) for story in stories]),
        "distinct_names": distinct_fraction(names),
        "shared_4grams": ratio_interval(shared, [len(each) for each in grams], seed=seed),
        "lily_openings": wilson_interval(lily, len(stories)),
    }


def distinct_fraction(values: Sequence[Hashable]) -> Interval:
    """Number of different values over the number of values, with a jackknife interval."""
    counts, total = Counter(values), len(values)
    if total < 2:
        return Interval(*[len(counts) / total if total else np.nan] * 3)
    without = [(len(counts) - (counts[value] == 1)) / (total - 1) for value in values]
    return jackknife_interval(len(counts) / total, without)


def _opening(story: str) -> tuple[str, ...]:
    spans = sentence_spans(story)
    return tuple(words(story[: spans[0][1]] if spans else story)[:MOST_OPENING_WORDS])


def _first_name(story: str) -> str | None:
    return next((word.text for word in story_words(story) if word.text in FIRST_NAMES), None)
