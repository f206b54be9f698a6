"""Article statistics, on stories whose articles are deleted or whose words are shuffled."""

import math
import random
import re

import pytest

from tinystories.data.synthetic import sample_stories
from tinystories.data.vowel_sounds import begins_with_vowel_sound
from tinystories.evaluation.articles import article_statistics, count_articles
from tinystories.evaluation.stories import shuffled_words


STORIES = list(sample_stories(300, seed=5))


def without_articles(text, share, chance):
    return re.sub(r"\b(?:an?|the)\s+", lambda found: "" if chance.random() < share else found[0], text, flags=re.I)


def test_the_omission_rate_is_proportional_to_deleted_articles():
    found = {}
    for share in (0, 0.1, 0.25, 0.5, 1):
        chance = random.Random(0)
        found[share] = article_statistics([without_articles(story, share, chance) for story in STORIES])
    omission = {share: statistics["article_omission"].value for share, statistics in found.items()}
    assert omission[0] < 0.03 and omission[1] > 0.7
    for share in (0.1, 0.25, 0.5):
        assert omission[share] - omission[0] == pytest.approx(share * (omission[1] - omission[0]), rel=0.25)
    assert found[0]["article_omission"].high < found[0.1]["article_omission"].low
    assert found[0]["articles_per_100_words"].value > 5 > 0.1 > found[1]["articles_per_100_words"].value
    assert found[0]["stories_with_article"].value == 1 and found[1]["stories_with_article"].high < 0.1
    assert math.isnan(found[1]["wrong_a_or_an"].value), "where there is none, none is wrong"


def test_word_salad_has_articles_in_the_wrong_places():
    salad = article_statistics(shuffled_words(STORIES))
    assert salad["stories_with_article"].value == 1
    assert salad["article_omission"].low > 0.4 and salad["wrong_a_or_an"].low > 0.1


@pytest.mark.parametrize(
    ("text", "nouns", "omissions"),
    [
        ("She saw a dog.", 1, 0),
        ("She saw dog.", 1, 1),
        ("She saw a big, red toy car.", 1, 0),
        ("She saw big, red toy car.", 1, 1),
        ("The toy car hit a cat.", 2, 0),
        ("He gave the girl ball.", 1, 1),
        ("It was the very best old red car.", 1, 0),
        ("Her car, Tom's dog, a two-year-old bird, this tree, 3 or one frog", 4, 0),
        ("Tom’s dog saw his friends' house and the boys' kite.", 3, 0),
        ("It's dog. That’s kite.", 2, 2),
        ("Hello, bird! Come, little bird!", 0, 0),
        ("a boy and girl", 1, 0),
        ("dogs and cats, water, Dog, named Bird, at home", 0, 0),
        ("dog", 1, 1),
    ],
)
def test_what_counts_as_an_omission(text, nouns, omissions):
    counts = count_articles(text)
    assert (counts.nouns, counts.omissions) == (nouns, omissions)


def test_a_or_an_depends_on_the_sound():
    an = "apple egg hour honest honor heir umbrella uncle ugly idea 8 80 11 18 X F x unusual uninteresting usher utter"
    a = "dog unicorn uniform university useful usual one once European ewe 1 10 12 house honey U B ukulele utensil CAT"
    assert [word for word in an.split() if not begins_with_vowel_sound(word)] == []
    assert [word for word in a.split() if begins_with_vowel_sound(word)] == []
    counts = count_articles("A apple, an dog, an apple, a dog, the apple, a.")
    assert (counts.articles, counts.indefinite, counts.wrong_form) == (6, 4, 2)


def test_rates_are_ratios_of_sums():
    statistics = article_statistics(["a dog ran to the car and the dog sat", "car"])
    assert statistics["article_omission"].value == 1 / 4
    assert statistics["articles_per_100_words"].value == pytest.approx(100 * 3 / 11)
    assert statistics["stories_with_article"].value == 1 / 2
