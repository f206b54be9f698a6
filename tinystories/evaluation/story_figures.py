"""The figures of generated and real stories, under their keys in `report.json`."""

import math
import re
from collections.abc import Collection, Sequence

import numpy as np

from ..generation.batch import GeneratedStory
from ..generation.postprocess import post_process
from ..text.characters import unintroduced_names
from .articles import article_statistics, count_articles
from .intervals import Interval, flatten, ratio_interval, wilson_interval
from .text_statistics import lengths_and_endings, out_of_vocabulary_rate, repetition, words


_SENTENCE_START = re.compile(r"(?<![.…])[.!?]\s+[\"“‘'(]*([^\W\d_])")


def text_figures(
    texts: Sequence[str], *, finished: Sequence[bool] | None = None, seed: int = 0
) -> dict[str, float | int]:
    """Articles, repetition, lengths and endings.

    Args:
        finished: for each text, whether it ended with EOS.

    Returns:
        The statistics by name, and `countable_nouns`, the denominator of `article_omission`: if it is small, an
        interval of zero width is not evidence of a low rate.
    """
    return {
        "stories": len(texts),
        **flatten(lengths_and_endings(texts, finished)),
        **flatten(article_statistics(texts, seed=seed)),
        "countable_nouns": sum(count_articles(text).nouns for text in texts),
        **flatten(repetition(texts, seed=seed)),
        "capitals": capitals(texts),
    }


def whole_story_figures(stories: Sequence[str], seed: int) -> dict:
    """Figures of whole stories, without distinct n-grams, which depend on the amount of text."""
    figures = text_figures(stories, seed=seed)
    kept = {name: value for name, value in figures.items() if not name.startswith("distinct_")}
    return {**kept, **character_figures(stories), "legacy": legacy_figures(stories)}


def generated_figures(stories: Sequence[GeneratedStory], seed: int) -> dict:
    """Figures of completions before post-processing (`raw`), and of stories after it."""
    texts = [story.text for story in stories]
    finished = [story.ended for story in stories]
    return {
        "raw": {
            **text_figures([story.completion for story in stories], finished=finished, seed=seed),
            **character_figures(texts),
        },
        "post_processed": post_processed_figures(texts),
        "legacy": legacy_figures(texts),
        "samples": [{"prompt": story.prompt, "text": story.text, "ended": story.ended} for story in stories],
    }


def character_figures(stories: Sequence[str]) -> dict[str, float]:
    """Figures of the characters of whole stories: a prompt may introduce them."""
    return flatten({"unintroduced_names": unintroduced_name_rate(stories)})


def unintroduced_name_rate(stories: Sequence[str]) -> Interval:
    """Fraction of stories that mention a name without having introduced it, with Wilson's interval."""
    return wilson_interval(sum(bool(unintroduced_names(story)) for story in stories), len(stories))


def length_figures(texts: Sequence[str], seed: int) -> dict:
    """The figures that depend on the amount of text."""
    mean_words = lengths_and_endings(texts)["mean_words"]
    return {"stories": len(texts), "mean_words": mean_words, **flatten(repetition(texts, seed=seed))}


def post_processed_figures(texts: Sequence[str]) -> dict[str, float]:
    """What `post_process` changes. Grammar is not measured here: it would measure `post_process`."""
    processed = [post_process(text) for text in texts]
    endings = flatten(lengths_and_endings(processed))
    return {
        "changed": float(np.mean([before != after for before, after in zip(texts, processed, strict=True)])),
        "capitals": capitals(processed),
        "final_punctuation": endings["final_punctuation"],
        "mean_words": endings["mean_words"],
    }


def legacy_figures(texts: Sequence[str]) -> dict[str, float]:
    """The metrics of karthyick/llm_tinystories, over whole stories with their prompts.

    Returns:
        Among others `has_articles` (fraction of stories with any article), `unique_words` (mean fraction of distinct
        words in a story) and `grammar_of_10` (capitals and final punctuation, which `post_process` adds). Shuffled
        words get the maximum in the first and the last.
    """
    counts = [count_articles(text) for text in texts]
    found = [words(text) for text in texts]
    processed = post_processed_figures(texts)
    distinct = [len(set(each)) / len(each) for each in found if each]
    return {
        "has_articles": float(np.mean([count.articles > 0 for count in counts])),
        "articles_per_story": float(np.mean([count.articles for count in counts])),
        "mean_words": float(np.mean([len(each) for each in found])),
        "unique_words": float(np.mean(distinct)) if distinct else math.nan,
        "grammar_of_10": 10 * float(np.nanmean([processed["capitals"], processed["final_punctuation"]])),
    }


def training_figures(
    texts: Sequence[str], copied: Sequence[list[str]], known: Collection[str], seed: int = 0
) -> dict[str, float | str]:
    """Fraction of words that are not `known`, and lengths in words of `copied`, the [`longest_copied_runs`]."""
    lengths = np.array([len(run) for run in copied])
    longest: list[str] = max(copied, key=len, default=[])
    rates = {
        "outside_vocabulary": out_of_vocabulary_rate(texts, known, seed=seed),
        "longest_copied_run": ratio_interval(lengths, np.ones(len(lengths)), seed=seed),
    }
    return {
        **flatten(rates),
        "longest_copied_run_max": int(lengths.max(initial=0)),
        "longest_copied_words": " ".join(longest),
    }


def capitals(texts: Sequence[str]) -> float:
    """Fraction of sentences that begin with a capital, without the first sentence of each text."""
    letters = [match[1] for text in texts for match in _SENTENCE_START.finditer(text)]
    return sum(letter.isupper() for letter in letters) / len(letters) if letters else math.nan
