"""Names without an introduction are found in stories with exchanged names, and hardly ever in good stories."""

import random
import re

import pytest

from tinystories.data.names import FIRST_NAMES
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.story_figures import fault_rates
from tinystories.text.characters import unintroduced_names


STORIES = list(sample_stories(600, seed=5))
OPENING = "Once there was a girl named Lily. She had a ball. She went out. It was sunny. "


def with_one_name_exchanged(story: str, generator: random.Random) -> str | None:
    """The story with the last mention of a name, late in the text, replaced by a name that it does not have."""
    late = [match for match in re.finditer(r"[A-Z]\w+", story) if match[0] in FIRST_NAMES and match.start() > 300]
    if not late:
        return None
    new = generator.choice(sorted(FIRST_NAMES - set(re.findall(r"\w+", story))))
    return story[: late[-1].start()] + new + story[late[-1].end() :]


def test_sample_stories_introduce_their_characters():
    assert fault_rates(STORIES)["unintroduced_names"].value < 0.02


def test_an_exchanged_name_is_found():
    generator = random.Random(0)
    changed = [story for each in STORIES if (story := with_one_name_exchanged(each, generator))]
    assert len(changed) > 200
    assert fault_rates(changed)["unintroduced_names"].low > 0.85


@pytest.mark.parametrize(
    "sentence",
    [
        "A dog named Spot came.",
        "Then his friend Tom came.",
        "Then his friend, Tom, came.",
        "Lily's friend Tom came.",
        "Lily's brother, Tom, came.",
        "Tom, a boy from school, came.",
        "Tom was her brother.",
        '"I\'m Tom," said a boy.',
        '"My name is Tom," said a boy.',
        "Mr. Tom came.",
    ],
)
def test_introduced_names_are_not_reported(sentence):
    name = "Spot" if "Spot" in sentence else "Tom"
    assert name not in unintroduced_names(f"{OPENING}{sentence} {name} smiled at Lily.")


@pytest.mark.parametrize(
    "sentence",
    ["Mia smiled.", '"Hello, Mia," said Lily.', "Lily looked for Mia.", "Lily and Mia ran.", "Mia's ball fell."],
)
def test_names_without_introduction_are_reported(sentence):
    assert unintroduced_names(OPENING + sentence + " Mia was glad.") == ["Mia"]


def test_each_name_counts_once_and_in_order():
    assert unintroduced_names(OPENING + "Tom ran. Mia ran. Tom fell.") == ["Tom", "Mia"]


def test_a_title_does_not_end_a_sentence():
    assert unintroduced_names("Mr. Brown and Mrs. Brown met. Then Tom came.") == []
