"""Text statistics, each on text that it must distinguish from good text."""

import math
import random
import re

import pytest

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.articles import article_statistics
from tinystories.evaluation.text_statistics import (
    lengths_and_endings,
    longest_copied_runs,
    longest_repeated_runs,
    out_of_vocabulary_rate,
    repetition,
    vocabulary,
    words,
)


STORIES = list(sample_stories(300, seed=5))


def shuffled(text, seed):
    return " ".join(random.Random(seed).sample(text.split(), len(text.split())))


def test_one_story_many_times_is_not_distinct():
    many, one = repetition(STORIES[:50]), repetition(STORIES[:1] * 50)
    for n in (1, 2, 3):
        alone = repetition(STORIES[:1])[f"distinct_{n}"]
        assert one[f"distinct_{n}"] < 0.3 * many[f"distinct_{n}"]
        assert one[f"distinct_{n}"] == pytest.approx(alone / 50)
    assert one["repeated_4grams"].value == repetition(STORIES[:1])["repeated_4grams"].value


def test_a_looping_story_is_repetitive():
    stuck = repetition(["The cat sat. " * 30] * 5)
    assert stuck["repeated_4grams"].value == (90 - 3 - 3) / (90 - 3)
    assert stuck["longest_repeated_run"].value == stuck["longest_repeated_run_max"] == 87
    fine = repetition(STORIES[:50])
    assert fine["repeated_4grams"].high < 0.1 and fine["longest_repeated_run"].high < 20


def test_repetition_by_hand():
    text = "One two three, four one TWO three five."
    found = repetition([text, "six six six"])
    assert found["distinct_1"] == 6 / 11 and found["distinct_2"] == (5 + 1) / (7 + 2)
    assert found["distinct_3"] == (5 + 1) / (6 + 1)
    assert found["repeated_4grams"].value == 0 and longest_repeated_runs(
        [text, "six six six", "a b", ""]
    ).tolist() == [
        *(3, 2, 0, 0),
    ]
    assert longest_repeated_runs(["one two", "one two"]).tolist() == [0, 0], "other texts are other texts"
    assert repetition(["a b c a b c a b c"])["repeated_4grams"].value == 3 / 6


def test_ngrams_do_not_cross_stories():
    assert repetition(["one two", "three four", "one two"])["distinct_2"] == 2 / 3
    assert math.isnan(repetition(["one two", "three"])["distinct_3"])
    assert math.isnan(repetition([])["distinct_1"]) and math.isnan(repetition([""])["repeated_4grams"].value)


def longest_by_hand(text, training):
    found = words(text)
    runs = [found[i:j] for i in range(len(found)) for j in range(i + 1, len(found) + 1)]
    inside = [run for run in runs if any(f" {' '.join(run)} " in f" {' '.join(words(t))} " for t in training)]
    return max(map(len, inside), default=0)


def test_copied_runs_are_found_and_exact():
    training = STORIES[:20]
    texts = [shuffled(story, 1)[:150] for story in STORIES[40:43]] + [story[:150] for story in STORIES[43:46]]
    copied = longest_copied_runs(texts, training)
    assert [len(run) for run in copied] == [longest_by_hand(text, training) for text in texts]
    for run in copied:
        assert any(f" {' '.join(run)} " in f" {' '.join(words(story))} " for story in training)
    spliced = f"Nobody has said this before. {' '.join(training[7].split()[10:40])} Nor this: xyzzy."
    whole, part, none = longest_copied_runs([training[3], spliced, "Xyzzy plugh."], training)
    assert whole == words(training[3]) and len(part) >= 29 and none == []
    across = longest_copied_runs(["one two three four"], ["one two", "three four"])
    assert across == [["one", "two"]] or across == [["three", "four"]], "no run goes from one story into the next"
    assert longest_copied_runs([], training) == [] and longest_copied_runs(["one"], []) == [[]]


def test_made_up_words_are_out_of_vocabulary():
    known = vocabulary(STORIES)
    assert out_of_vocabulary_rate(STORIES[:50], known).value == 0
    broken = [re.sub(r"\bthe\b", "teh", story) for story in STORIES[:50]]
    expected = sum(words(text).count("teh") for text in broken) / sum(len(words(text)) for text in broken)
    assert out_of_vocabulary_rate(broken, known).value == pytest.approx(expected) and expected > 0.02
    assert vocabulary(["a b", "a"], at_least=2) == {"a"}


def test_endings():
    texts = ["He said, “The end.”", "(It was late!)\n", "Was it?", "The end", "The end,", "Then he said", ""]
    found = lengths_and_endings(texts, [True, True, True, True, False, False, False])
    assert found["final_punctuation"].value == 3 / 7 and found["finished"].value == 4 / 7
    assert found["mean_words"] == pytest.approx(16 / 7)
    assert found["mean_bytes"] == pytest.approx(sum(len(text.encode()) for text in texts) / 7)
    whole = lengths_and_endings(STORIES)["final_punctuation"]
    half = lengths_and_endings([story[: len(story) // 2] for story in STORIES])["final_punctuation"]
    assert whole.value == 1 and half.high < 0.2
    with pytest.raises(ValueError, match="1 values, but there are 7 texts"):
        lengths_and_endings(texts, [True])


def test_one_string_is_not_a_list_of_texts():
    for function in (article_statistics, repetition, lengths_and_endings, longest_repeated_runs):
        with pytest.raises(ValueError, match="The texts are a single string"):
            function("One day")
