"""The figures of generated and real stories, under their keys in `report.json`."""

import math
import re
from collections.abc import Collection, Sequence

import numpy as np

from ..generation.batch import GeneratedStory
from ..generation.postprocess import post_process
from ..text.faults import RULES, find_faults
from .articles import article_statistics, count_articles
from .diversity import diversity
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


def whole_story_figures(stories: Sequence[str], seed: int, sample: int = 0) -> dict:
    """Figures of whole stories, without distinct n-grams, which depend on the amount of text.

    Args:
        sample: number of stories, evenly spaced, of which the diversity is measured; 0 or more than there are: none.
    """
    figures = text_figures(stories, seed=seed)
    kept = {name: value for name, value in figures.items() if not name.startswith("distinct_")}
    different = {}
    if 0 < sample <= len(stories):
        places = np.linspace(0, len(stories) - 1, sample).round().astype(int)
        different = flatten(diversity([stories[place] for place in places], seed))
    return {**kept, **fault_figures(stories), **different, "legacy": legacy_figures(stories)}


def unprompted_figures(stories: Sequence[GeneratedStory], preset: str, seed: int) -> dict:
    """Figures of stories that a model began by itself: those of real stories, and their diversity."""
    texts, finished = [story.text for story in stories], [story.ended for story in stories]
    return {
        "preset": preset,
        **text_figures(texts, finished=finished, seed=seed),
        **fault_figures(texts, finished),
        **flatten(diversity(texts, seed)),
        "samples": texts,
    }


def generated_figures(stories: Sequence[GeneratedStory], seed: int) -> dict:
    """Figures of completions before post-processing (`raw`), and of stories after it."""
    texts = [story.text for story in stories]
    finished = [story.ended for story in stories]
    return {
        "raw": {
            **text_figures([story.completion for story in stories], finished=finished, seed=seed),
            **fault_figures(texts, finished),
        },
        "post_processed": post_processed_figures(texts),
        "legacy": legacy_figures(texts),
        "samples": [{"prompt": story.prompt, "text": story.text, "ended": story.ended} for story in stories],
    }


def fault_figures(stories: Sequence[str], finished: Sequence[bool] | None = None) -> dict[str, float]:
    """Fraction of whole stories with a fault of each rule in [`RULES`], and of any (`faulty_stories`).

    Args:
        stories: with their prompts, which may introduce characters and things.
        finished: for each story, whether it ended with EOS; real stories did.
    """
    return flatten(fault_rates(stories, finished))


def fault_rates(stories: Sequence[str], finished: Sequence[bool] | None = None) -> dict[str, Interval]:
    """The same with Wilson's intervals."""
    ended = [True] * len(stories) if finished is None else finished
    found = [{fault.rule for fault in find_faults(*story)} for story in zip(stories, ended, strict=True)]
    counts = {rule: sum(rule in rules for rules in found) for rule in RULES} | {
        "faulty_stories": sum(map(bool, found))
    }
    return {name: wilson_interval(count, len(stories)) for name, count in counts.items()}


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
