"""Whether a story uses the words that were asked for."""

import pytest

from tinystories.text.wanted_words import missing_words, split_words, uses_word


@pytest.mark.parametrize(
    ("word", "story"),
    [
        ("dragon", "Two Dragons flew."),
        ("stop", "She stopped."),
        ("bake", "They were baking."),
        ("bake", "He baked."),
        ("happy", "She was happier."),
        ("play", "It plays."),
        ("mouse", "The mice ran."),
        ("box", "Two boxes."),
        ("ice cream", "I like Ice Cream!"),
        ("Key", "the key"),
        ("brave", "the bravest"),
    ],
)
def test_regular_forms_count(word, story):
    assert uses_word(story, word)


@pytest.mark.parametrize(
    ("word", "story"), [("key", "The monkey sat."), ("rain", "A train came."), ("cat", "A cattle.")]
)
def test_other_words_do_not_count(word, story):
    assert not uses_word(story, word)


def test_lists_of_words():
    assert split_words("dragon, key and rain;\n ice  cream,") == ["dragon", "key", "rain", "ice cream"]
    assert missing_words("The dragon ran in the rain.", "rain, key, dragon, sun") == ["key", "sun"]
    assert missing_words("Hi.", "") == []
