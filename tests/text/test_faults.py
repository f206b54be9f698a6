"""Each rule finds its fault, and does not report English without it."""

import pytest

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.stories import shuffled_sentences
from tinystories.text.faults import RULES, find_faults
from tinystories.text.passage import story_words


STORIES = list(sample_stories(400, seed=5))
OPENING = "Once there was a girl named Lily. She had a ball. She went out. It was sunny. "


def rules_of(story: str, ended: bool = True) -> list[str]:
    return [fault.rule for fault in find_faults(story, ended)]


def found(rule: str, story: str) -> list[str]:
    return [fault.text for fault in find_faults(story) if fault.rule == rule]


def rates(stories: list[str]) -> dict[str, float]:
    faults = [set(rules_of(story)) for story in stories]
    return {rule: sum(rule in each for each in faults) / len(stories) for rule in RULES}


# Whole stories


def test_a_good_story_has_no_faults():
    story = OPENING + 'Her friend Tom came. "Is the dog here?" he asked. She smiled. They played with the ball.'
    assert rules_of(story) == []


def test_a_fault_has_its_place_and_words():
    story = OPENING + "Then Mia took the kite."
    assert [story[fault.start :].startswith(fault.text) for fault in find_faults(story)] == [True, True]


@pytest.mark.parametrize("text", ["", " ", "a", '"', "\n\n", "Hi", "🦊 …", "x" * 5000])
def test_any_text_can_be_examined(text):
    assert set(rules_of(text)) <= {"missing_endings"}


def test_sample_stories_have_few_faults_and_shuffled_sentences_many():
    good, shuffled = rates(STORIES), rates(shuffled_sentences(STORIES))
    assert all(rate < 0.03 for rate in good.values()), good
    assert all(shuffled[rule] > good[rule] + 0.1 for rule in ("unintroduced_names", "unintroduced_objects")), shuffled
    assert shuffled["gender_changes"] > good["gender_changes"] + 0.01
    assert shuffled["repeated_sentences"] == good["repeated_sentences"]


# Gender


@pytest.mark.parametrize(
    "story",
    [
        "Once there was a girl named Lily. He liked to run.",
        "Once there was a boy named Sam. He ran. She was glad.",  # Sam is a boy in this story
        "Tim had a red ball. The ball was in her room.",
        "Lily and Tim met. They ran. It was hot. Then Lily went home with a cake. He ate it.",
    ],
)
def test_the_other_gender_is_found(story):
    assert len(found("gender_changes", story)) == 1


@pytest.mark.parametrize(
    "story",
    [
        "Once there was a girl named Lily. She had a dog. He liked to run.",
        "Lily saw Spot. He barked.",
        "Sam went out. She was glad.",  # Sam may be a girl
        "Lily saw her friends. He waved.",
        "Lily had a kite that she took to the park with her dad. He laughed.",
        "When he woke up, Tim was glad.",
        'Lily looked up. "He is here," she said.',
        'Tim was sad. "Mom, where are you?" he said. "Here," she said.',
        "Lily and Tim met. Lily was sad. He had not seen it.",  # Tim was mentioned just before
        "There was a man and his wife. She was glad.",
        "Lily ran. Zib nodded and took his ball.",  # an unknown name
        "Lily ran. Zib's mom gave him a ball.",
    ],
)
def test_a_pronoun_that_can_mean_another_character_is_not_reported(story):
    assert found("gender_changes", story) == []


# Things


@pytest.mark.parametrize(
    ("sentence", "noun"),
    [
        ("Lily found the kite.", "kite"),
        ("The little dog was sad.", "dog"),
        ("Lily took the red boat and ran.", "boat"),
        ("Then the cat jumped. The cat ran.", "cat"),
    ],
)
def test_things_without_introduction_are_found(sentence, noun):
    assert found("unintroduced_objects", OPENING + sentence) == [noun]


@pytest.mark.parametrize(
    "sentence",
    [
        "Lily kicked the ball.",  # mentioned before
        "She saw a puppy. The dog ran.",  # the same animal
        "She had many toys. She took the kite.",  # one of them
        "She opened the door and looked in the mirror.",  # need no introduction
        "She read the book on the shelf.",  # identified by what follows
        "She liked the boat that Tom had made.",
        "Then Sam the cat came.",
        "Her friend, the cat, came.",
        "She had friends, like the cat and the dog.",
        '"Look at the bird!" she said.',
        "She saw the bird house.",  # the first half of another noun
    ],
)
def test_things_with_introduction_are_not_reported(sentence):
    assert found("unintroduced_objects", OPENING + sentence) == []


def test_the_first_sentence_may_introduce_with_a_definite_article():
    assert found("unintroduced_objects", "The happy cat found a box. The cat was glad.") == []


# Sentences and endings


def test_repeated_sentences():
    assert found("repeated_sentences", OPENING + "Lily ran to the big tree. She fell. lily ran to the big tree!") == [
        "lily ran to the big tree!"
    ]
    assert found("repeated_sentences", OPENING + "She was glad. Lily ran. She was glad. Lily ran.") == []  # short
    refrain = '"I will huff and I will puff!" said the wolf.'
    assert found("repeated_sentences", OPENING + f"{refrain} Lily ran. {refrain}") == []  # speech


@pytest.mark.parametrize(
    ("end", "ended", "faults"),
    [
        ("She was glad.", True, 0),
        ('"Good night."', True, 0),
        ("She was glad.", False, 1),
        ("She was", True, 1),
        ("She was", False, 1),
    ],
)
def test_endings(end, ended, faults):
    assert rules_of(OPENING + end, ended).count("missing_endings") == faults


# Words of a story


def test_words_know_their_sentence_and_speech():
    words = story_words('Tom\'s dog ran. "Come back!" he said. He sat.\nThe end, "she said.')
    assert [(word.text, word.sentence) for word in words[:3]] == [("Tom", 0), ("dog", 0), ("ran", 0)]
    assert [word.text for word in words if word.speech] == ["Come", "back", "The", "end", "she", "said"]
    assert [word.text for word in words if word.opens] == ["Tom", "Come", "he", "He", "The", "she"]
    assert [word.mark for word in words[2:5]] == [".", "", "!"]
