"""The figures of a report: their titles, what they mean, and how they are formatted."""

import re
from collections.abc import Callable
from typing import NamedTuple


Format = Callable[[float], str]
DASH = "–"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bits(value: float) -> str:
    return f"{value:.3f}"


def count(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def or_dash(value: float | None, style: Format) -> str:
    return DASH if value is None else style(value)


class Figure(NamedTuple):
    """A figure of generated stories. `real` names the real stories to compare with: "whole", "same_length" or none."""

    key: str
    title: str
    text: str
    style: Format
    real: str | None = "whole"


FIGURES = (
    Figure(
        "article_omission",
        "Omitted articles",
        "Fraction of countable singular nouns (“dog”, “ball”) without an article or another determiner.",
        percent,
    ),
    Figure("wrong_a_or_an", "Wrong “a” or “an”", "Fraction of “a” and “an” that should be the other one.", percent),
    Figure("articles_per_100_words", "Articles per 100 words", "Best if equal to the value of real stories.", number),
    Figure("finished", "EOS rate", "Fraction of stories that end with EOS within the token limit.", percent, None),
    Figure("mean_words", "Words per story", "Mean number of words, excluding the prompt.", number),
    Figure(
        "repeated_4grams",
        "Repeated 4-grams",
        "Fraction of four-word sequences that occur earlier in the same story.",
        percent,
        "same_length",
    ),
    Figure(
        "longest_repeated_run",
        "Longest repetition",
        "Number of words in the longest sequence that occurs twice in a story; mean over stories.",
        number,
        "same_length",
    ),
    Figure(
        "distinct_2",
        "Distinct 2-grams",
        "Fraction of word pairs that are distinct, over all stories. A value far below that of real stories means "
        "that the stories are similar; a value far above means that their words are in random order.",
        percent,
        "same_length",
    ),
    Figure(
        "outside_vocabulary",
        "Unknown words",
        "Fraction of words that occur in no training story and no prompt. Most of them are not real words.",
        percent,
        "same_length",
    ),
    Figure(
        "unintroduced_names",
        "Names never introduced",
        "Rate of stories that mention a character by name without having introduced it, such as Mia in a story about "
        "Lily.",
        percent,
    ),
    Figure(
        "gender_changes",
        "Wrong gender",
        "Rate of stories in which a pronoun has another gender than the only character that it can mean.",
        percent,
    ),
    Figure(
        "unintroduced_objects",
        "Things never introduced",
        "Rate of stories with “the” before a thing or an animal that was never introduced, such as “the kite” in a "
        "story about a ball.",
        percent,
    ),
    Figure(
        "repeated_sentences",
        "Repeated sentences",
        "Rate of stories in which a narrated sentence of at least five words occurs twice.",
        percent,
    ),
    Figure(
        "missing_endings",
        "Missing endings",
        "Rate of stories that do not end with EOS and final punctuation.",
        percent,
    ),
    Figure(
        "longest_copied_run",
        "Longest copy",
        "Number of words in the longest sequence that also occurs in a training story; mean over stories.",
        number,
        "same_length",
    ),
)
TITLES = {figure.key: figure.title for figure in FIGURES} | {
    "mean_bytes": "Bytes per story",
    "final_punctuation": "Stories with final punctuation",
    "stories_with_article": "Stories with an article",
    "countable_nouns": "Number of countable nouns",
    "distinct_1": "Distinct words",
    "distinct_3": "Distinct 3-grams",
    "longest_repeated_run_max": "Longest repetition, maximum",
    "capitals": "Sentences with an initial capital",
    "longest_copied_run_max": "Longest copy, maximum",
    "changed": "Stories that are changed",
    "faulty_stories": "Stories with any fault",
}
TABLE_FIGURES = ("article_omission", "wrong_a_or_an", "repeated_4grams", "finished")
SHUFFLED_FIGURES = ("article_omission", "wrong_a_or_an")  # shown for shuffled words, too
BASELINES = (
    ("real stories", "real_stories"),
    ("shuffled sentences", "shuffled_sentences"),
    ("shuffled words", "shuffled_stories"),
)
LEGACY = (
    ("has_articles", "has articles", percent),
    ("grammar_of_10", "“grammar” out of 10", number),
    ("articles_per_story", "articles per story", number),
    ("unique_words", "unique words", percent),
    ("mean_words", "words per story", number),
)
RATES = {
    "final_punctuation", "finished", "stories_with_article", "article_omission", "wrong_a_or_an", "distinct_1",
    "distinct_2", "distinct_3", "repeated_4grams", "capitals", "outside_vocabulary", "changed",
    "unintroduced_names", "gender_changes", "unintroduced_objects", "repeated_sentences", "missing_endings",
    "faulty_stories",
}  # fmt: skip
KIND_NAMES = {"article_swapped": "a/an", "subject_verb_agreement": "agreement"}


def kind_name(kind: str) -> str:
    return KIND_NAMES.get(kind, kind.replace("_", " "))


_NOT_IN_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """`text` with a replacement character for each character that XML does not allow (XML 1.0, production 2)."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
