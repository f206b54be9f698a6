"""The figures of a report: their names, how they are written, and what is better."""

from collections.abc import Callable
from html import escape
from typing import NamedTuple


def share(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bits(value: float) -> str:
    return f"{value:.3f}"


def count(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def or_dash(value: float | None, style: Callable[[float], str]) -> str:
    return "–" if value is None else style(value)


class Figure(NamedTuple):
    """A figure of told stories, and which figures of real ones stand beside it."""

    key: str
    title: str
    text: str
    style: Callable[[float], str]
    real: str | None = "whole"


FIGURES = (
    Figure("article_omission", "Articles left out", "Of the countable singular nouns (“dog”, “ball”), those without "
           "an article or another determiner.", share),
    Figure("wrong_a_or_an", "Wrong “a” or “an”", "Of all “a” and “an”, those that should be the other one.", share),
    Figure("articles_per_100_words", "Articles per 100 words", "Near the real stories is right; too many are as wrong "
           "as too few.", number),
    Figure("finished", "Ends by itself", "Stories that the model ended, and that were not cut off at the most tokens "
           "it was given.", share, None),
    Figure("mean_words", "Words in a story", "The prompt is not counted.", number),
    Figure("repeated_4grams", "Says it again", "Of all runs of four words, those that stood in the same story before.",
           share, "same_length"),
    Figure("longest_repeated_run", "Longest run said twice", "In words, mean over stories.", number, "same_length"),
    Figure("distinct_2", "Different pairs of words", "Of all pairs in all stories together. Far below the real "
           "stories it tells one story over and over; far above, its words have no order.", share, "same_length"),
    Figure("outside_vocabulary", "Words of its own", "Words that no training story and no prompt has: mostly made up.",
           share, "same_length"),
    Figure("longest_copied_run", "Longest run copied", "Longest run of a story that stands in a training story, in "
           "words, mean over stories.", number, "same_length"),
)  # fmt: skip
TABLE_FIGURES = ("article_omission", "wrong_a_or_an", "repeated_4grams", "finished")
YARDSTICKS = (("real stories", "real_stories"), ("their words shuffled", "shuffled_stories"))
LEGACY = (
    ("has_articles", "has articles", share),
    ("grammar_of_10", "“grammar” of 10", number),
    ("articles_per_story", "articles a story", number),
    ("unique_words", "different words", share),
    ("mean_words", "mean words", number),
)
KIND_NAMES = {
    "article_deleted": "article left out",
    "article_swapped": "a / an",
    "article_doubled": "article twice",
    "article_moved": "article moved",
    "subject_verb_agreement": "agreement",
    "tense": "tense",
    "pronoun_gender": "he / she",
    "word_order": "word order",
}


def kind_name(kind: str) -> str:
    return KIND_NAMES.get(kind, kind.replace("_", " "))


def escaped(content: str) -> str:
    """Text of others as text of ours: escaped, and without the control characters that no document may hold."""
    return escape("".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(content)))
