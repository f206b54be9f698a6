"""No coherence probe is made where the false text could be true."""

from pathlib import Path

import pytest

from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.coherence import KINDS, Probe, exclusions, make_probes
from tinystories.evaluation.coherence.kinds import Place
from tinystories.evaluation.coherence.story import Corpus
from tinystories.text.gender import NAMES, genders
from tinystories.text.things import CATEGORY


NAME_STORY = "It was warm outside. The sun was up. {0} sat down on the grass. The day was long. Then {0} went away."
OBJECT_STORY = "One day, Tim saw a {0} there. It was very nice. Then Tim sat down and looked at the {0}."
ORDER_STORY = "It was a sunny day. Tim saw a {0} there. He looked at the {0} again. It was nice. He went home."
TOPIC_STORY = "They were near the {0}. They sang a song. They had fun there. They sat down. Then they left the {0}."
OBJECTS = sorted(exclusions.EXCLUDED_OBJECTS & CATEGORY.keys())


def places(kind: str, *stories: str) -> list[Place]:
    corpus = Corpus(stories)
    return [place for index in range(len(stories)) for place in KINDS[kind].places(corpus, index)]


@pytest.mark.parametrize("name", sorted(exclusions.EXCLUDED_NAMES & NAMES.keys()))
def test_names_that_are_words_are_left_out(name):
    assert not places("name", NAME_STORY.format(name))
    assert places("name", NAME_STORY.format("Anna"))


@pytest.mark.parametrize(("kind", "story"), [("object", OBJECT_STORY), ("order", ORDER_STORY)])
@pytest.mark.parametrize("noun", OBJECTS)
def test_things_that_need_no_introduction_are_left_out(kind, story, noun):
    assert noun not in [place.item for place in places(kind, story.format(noun))]
    assert "basket" in [place.item for place in places(kind, story.format("basket"))]


@pytest.mark.parametrize("group", exclusions.TOPICS, ids=lambda group: group.reason)
def test_words_that_may_occur_in_any_story_are_no_topics(group):
    for word in group.words:
        assert not places("ending", TOPIC_STORY.format(word)), word
    assert [place.topic for place in places("ending", TOPIC_STORY.format("well"))] == [("well",)]


def test_every_group_is_applied():
    assert {word for group in exclusions.NAMES for word in group.words} == exclusions.EXCLUDED_NAMES
    assert {word for group in exclusions.OBJECTS for word in group.words} == exclusions.EXCLUDED_OBJECTS
    assert {word for group in exclusions.TOPICS for word in group.words} == exclusions.EXCLUDED_TOPICS
    assert exclusions.UNSPECIFIED.keys() == set(CATEGORY.values())
    assert len(OBJECTS) > 15


def test_every_group_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    for group in (*exclusions.NAMES, *exclusions.UNSPECIFIED.values(), *exclusions.TOPICS):  # with OBJECTS
        assert f"| {group.reason} |" in page


@pytest.mark.parametrize(
    ("category", "word"),
    [(name, word) for name, group in exclusions.UNSPECIFIED.items() for word in sorted(group.words)],
)
def test_a_noun_does_not_replace_one_where_the_story_has_something_unspecified(category, word):
    # The nouns are equally frequent, and in the same surroundings.
    old, new = {"creature": ("dog", "frog"), "object": ("basket", "hammer")}[category]

    def exchanged(more: str) -> int:
        stories = [f"{more} {OBJECT_STORY.format(old)}", f"It was warm. {OBJECT_STORY.format(new)}"]
        return len(make_probes(stories, kinds=["object"], warn=False, progress=False))

    assert exchanged("It was warm.") == 2
    assert exchanged(f"There was the {word} too.") == 0


def test_a_noun_is_not_introduced_where_the_story_has_something_unspecified():
    assert places("order", ORDER_STORY.format("frog"))
    assert not places("order", "There was an animal. " + ORDER_STORY.format("frog"))


@pytest.mark.parametrize("group", exclusions.NICKNAMES, ids=lambda group: min(group))
def test_a_name_is_not_replaced_by_another_of_the_same_person(group):
    for name in group:
        assert all(exclusions.may_be_called(name, frozenset({"Then", other})) for other in group - {name})
        assert not exclusions.may_be_called(name, frozenset({"Then", "Omar"}))


def test_names_of_one_person_are_not_exchanged():
    def exchanged(one: str, other: str) -> int:
        stories = [NAME_STORY.format(name) for name in (one, other)]
        return len(make_probes(stories, kinds=["name"], warn=False, progress=False))

    assert exchanged("Jack", "Omar") == 2
    assert exchanged("Jack", "John") == exchanged("Tim", "Timmy") == 0
    assert exchanged("Theo", "Omar") == 2  # "Then" and "The" are no names


@pytest.mark.parametrize(
    ("kind", "left_out", "taken"),
    [
        ("object", OBJECT_STORY.replace("at the {0}", "at the Mole").format("mole"), OBJECT_STORY.format("mole")),
        # neither an adjective nor a clause is a thing: "the modern town", "that being brave"
        ("ending", TOPIC_STORY.format("brave"), TOPIC_STORY.format("well")),
        (
            "ending",
            TOPIC_STORY.format("modern well").replace("left the modern well", "left the modern town"),
            TOPIC_STORY.format("modern well").replace("left the modern well", "left the well"),
        ),
        (
            "ending",
            TOPIC_STORY.format("well").replace("left the well", "knew that wells were nice"),
            TOPIC_STORY.format("wells").replace("left the wells", "knew the wells were nice"),
        ),
        # The pronoun could mean the character of the sentence before the last.
        (
            "pronoun",
            "Lily met Tom there. It was warm. Tom was very happy. Lily was very sad. She sat down there.",
            "Lily met Tom there. Tom was very happy. It was warm. Lily was very sad. She sat down there.",
        ),
        # "She saw Tom": too little is scored
        (
            "pronoun",
            "Lily met Tom there. Tom was very happy. It was warm. Lily was very sad. She saw Tom again.",
            "Lily met Tom there. Tom was very happy. It was warm. Lily was very sad. She suddenly saw Tom.",
        ),
    ],
)  # fmt: skip
def test_a_rule_leaves_out_what_could_be_true(kind, left_out, taken):
    assert not places(kind, left_out)
    assert places(kind, taken)


def test_a_sentence_is_not_replaced_by_one_about_a_kindred_thing():
    def fits(thing: str) -> bool:
        corpus = Corpus([TOPIC_STORY.format("owl"), TOPIC_STORY.format(thing)])
        one, other = (next(KINDS["ending"].places(corpus, index)) for index in range(2))
        return KINDS["ending"].fits(corpus, one, other)

    assert fits("well")
    assert not fits("hen")  # the owl is a bird


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(list(sample_stories(1500, seed=7)))


@pytest.fixture(scope="module")
def probes(corpus) -> dict[str, list[Probe]]:
    by_kind: dict[str, list[Probe]] = {kind: [] for kind in KINDS}
    for probe in make_probes([story.text for story in corpus.stories], per_kind=60, progress=False):
        by_kind[probe.kind].append(probe)
    assert all(by_kind.values())
    return by_kind


def test_sample_probes_of_names_and_objects_have_no_excluded_word(corpus, probes):
    for probe in probes["name"]:
        assert exclusions.EXCLUDED_NAMES.isdisjoint(probe.words)
        assert not exclusions.may_be_called(probe.words[1], corpus.stories[probe.story].capitalized)
    for probe in probes["object"]:
        assert exclusions.EXCLUDED_OBJECTS.isdisjoint(probe.words)
        unspecified = exclusions.UNSPECIFIED[CATEGORY[probe.words[1]]].words
        assert unspecified.isdisjoint(corpus.stories[probe.story].mentions)


def test_sample_probes_of_pronouns_have_one_meaning(corpus, probes):
    for probe in probes["pronoun"]:
        assert len(probe.good.split()) >= 3
        spans = corpus.stories[probe.story].spans
        current = next(number for number, (_, end) in enumerate(spans) if end > len(probe.context))
        before = probe.context[slice(*spans[current - 2])]
        assert '"' in before or {gender for gender, _ in genders(before)} <= {probe.words[0].lower()}


def test_sample_probes_of_sentences_have_a_topic_that_is_not_excluded(corpus, probes):
    for probe in probes["ending"] + probes["middle"]:
        [topic] = [
            place.topic for place in KINDS[probe.kind].places(corpus, probe.story) if place.start == len(probe.context)
        ]
        assert topic and exclusions.EXCLUDED_TOPICS.isdisjoint(topic)


def test_sample_probes_of_order_introduce_what_is_not_excluded(corpus, probes):
    for probe in probes["order"]:
        items = [
            place.item for place in KINDS["order"].places(corpus, probe.story) if place.start == len(probe.context)
        ]
        assert items and exclusions.EXCLUDED_OBJECTS.isdisjoint(items)
