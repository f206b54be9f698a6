"""`tinystories doctor` says in words what a model has learned."""

import pytest
from helpers import tiny_model

from tinystories.checks.learned import check_learned, in_words
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.coherence import DISTANCE_RANGES
from tinystories.runs.builtin_model import BUILTIN
from tinystories.runs.loading import load_model


STORIES = list(sample_stories(80, seed=5))


def test_a_trained_and_an_untrained_model():
    model, tokenizer = load_model(BUILTIN)
    [trained] = check_learned(model, tokenizer, STORIES)
    new = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)
    [untrained] = check_learned(new, tokenizer, STORIES)
    assert trained.status == untrained.status == "note"
    assert (
        trained.check == "what the model has learned"
        and "above chance" in trained.evidence
        and "not above" not in trained.evidence
    )
    grammar = [float(each.evidence.split("grammar ")[1].split("%")[0]) for each in (trained, untrained)]
    assert grammar[0] > 85 and 25 < grammar[1] < 75
    assert "not above chance at the shortest distance" in untrained.evidence


def test_stories_without_pairs():
    model, tokenizer = load_model(BUILTIN)
    [found] = check_learned(model, tokenizer, ["Es war einmal ein Hund. Er lief sehr schnell."] * 60)
    assert "not measured: the 60 held-out stories give 0 minimal pairs" in found.evidence


@pytest.mark.parametrize(
    ("lows", "words"),
    [
        ([0.8, 0.7, 0.6, 0.55, 0.51], "above chance at all distances measured (the largest: 81+ words)"),
        ([0.8, 0.7, 0.5, 0.55, 0.4], "above chance up to 20 words after the last mention, not beyond"),
        ([0.4, 0.7, 0.7, 0.7, 0.7], "not above chance at the shortest distance"),
        ([0.8, 0.7, 0.6], "above chance at all distances measured (the largest: 21-40 words)"),
    ],
)
def test_distances_in_words(lows, words):
    ranges = {name: {"low": low, "pairs": 20} for name, low in zip(DISTANCE_RANGES, lows, strict=False)}
    assert words in in_words(ranges)


def test_ranges_with_few_probes_are_left_out():
    ranges = {"1-10": {"low": 0.7, "pairs": 20}, "11-20": {"low": 0.2, "pairs": 3}}
    assert in_words(ranges) == "above chance at all distances measured (the largest: 1-10 words)"
