"""Coherence probes: exchanged between stories, so that a model without context scores 50%."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import tiny_model

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.coherence import (
    KINDS,
    Probe,
    accuracy,
    accuracy_by_distance,
    make_probes,
    score_probes,
)
from tinystories.evaluation.coherence.kinds import SHORTEST_DISTANCE, distance_range
from tinystories.evaluation.minimal_pairs import text_log_likelihoods
from tinystories.text.characters import unintroduced_names
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


STORIES = list(sample_stories(1500, seed=7))


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return make_probes(STORIES, per_kind=60, progress=False)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(STORIES[:300], vocab_size=500, progress=False)


def test_good_texts_continue_their_story_and_bad_ones_do_not(probes):
    for probe in probes:
        story = STORIES[probe.story]
        assert story.startswith(probe.context + probe.good)
        assert not story.startswith(probe.context + probe.bad)
        assert 0 <= probe.earlier <= len(probe.context)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "order"])
def test_each_text_is_true_once_and_false_once(probes, kind):
    swaps = Counter()
    for probe in probes:
        if probe.kind == kind:
            shared = 0
            while shared < min(len(probe.good), len(probe.bad)) and probe.good[-1 - shared] == probe.bad[-1 - shared]:
                shared += 1
            words = probe.words or (probe.good[: len(probe.good) - shared], probe.bad[: len(probe.bad) - shared])
            swaps[words] += 1
    assert swaps == Counter({swap[::-1]: count for swap, count in swaps.items()})


def test_order_has_the_same_words(probes):
    orders = [probe for probe in probes if probe.kind == "order"]
    assert all(Counter(probe.good.split()) == Counter(probe.bad.split()) for probe in orders)


def test_the_false_name_was_never_introduced(probes):
    for probe in probes:
        if probe.kind == "name":
            assert probe.words[1] in unintroduced_names(probe.context + probe.bad)
            assert probe.words[1] not in STORIES[probe.story] and probe.words[0] in probe.context
            assert probe.distance >= SHORTEST_DISTANCE


def test_the_same_seed_gives_the_same_probes_whatever_else_is_asked_for(probes):
    alone = make_probes(STORIES, per_kind=60, kinds=["name"], progress=False)
    assert alone == [probe for probe in probes if probe.kind == "name"] != []
    with pytest.raises(UserError, match="did you mean ending"):
        make_probes(STORIES, kinds=["endings"])


def test_a_model_without_context_scores_one_half(probes, tokenizer):
    counts = np.bincount(sum(tokenizer(STORIES[:300])["input_ids"], []), minlength=len(tokenizer)) + 0.1
    unigram = torch.tensor(np.log(counts / counts.sum()), dtype=torch.float32)
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)

    def forget(module, arguments, output):
        output.logits = unigram.expand(output.logits.shape)

    model.register_forward_hook(forget)
    table = accuracy(score_probes(model, tokenizer, probes, progress=False))
    assert {kind: row["accuracy"] for kind, row in table.items()} == dict.fromkeys(table, 0.5)
    assert table["name"]["word_accuracy"] == 0.5


def test_scores_are_log_likelihoods_after_the_context(probes, tokenizer):
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)
    [probe] = [probe for probe in probes if probe.kind == "name"][:1]
    [score] = score_probes(model, tokenizer, [probe], progress=False)
    for texts, margin in (((probe.good, probe.bad), score.margin), (probe.words, score.word_margin)):
        good, bad = text_log_likelihoods(model, tokenizer, texts, [probe.context] * 2, progress=False).log_likelihood
        assert margin == pytest.approx(good - bad, abs=1e-3)


def test_probes_whose_earlier_mention_is_truncated_are_left_out(tokenizer):
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=32)
    near = Probe("name", "Tim ran.", "Tom ran.", 0, "Tim sat. " + "He sang. " * 4, 9, 0, ("Tim", "Tom"))
    far = Probe("name", "Tim ran.", "Tom ran.", 0, "Tim sat. " + "He sang. " * 40, 81, 0, ("Tim", "Tom"))
    scores = score_probes(model, tokenizer, [far, near], progress=False)
    assert [score.probe for score in scores] == [near]
    assert accuracy_by_distance(scores)["name"].keys() == {"1-10"}


def test_ranges_of_distances():
    assert [distance_range(distance) for distance in (1, 10, 11, 80, 81, 500)] == [
        "1-10", "1-10", "11-20", "41-80", "81+", "81+",
    ]  # fmt: skip
