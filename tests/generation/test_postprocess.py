"""Post-processing corrects spaces, capitals and full stops, and never changes words."""

import random
import re

import pytest

from tinystories.data.synthetic import sample_stories
from tinystories.generation.postprocess import post_process


@pytest.fixture(scope="module")
def stories():
    return list(sample_stories(400))


def errors(clean, text):
    """The rules that a post-processing function violates for a text."""
    cleaned = clean(text)
    found = []
    if re.findall(r"\w+", cleaned.lower()) != re.findall(r"\w+", text.lower()):
        found.append("words")
    if clean(cleaned) != cleaned:
        found.append("a second time")
    if len(re.findall(r"\S\s*\n\s*\n\s*\S", cleaned)) != len(re.findall(r"\S\s*\n\s*\n\s*\S", text)):
        found.append("paragraphs")
    return found


def naive(text):
    """A common implementation: splits at every full stop, and adds another at the end."""
    sentences = [sentence.strip().capitalize() for sentence in text.replace("\n", " ").split(".")]
    return ". ".join(sentences) + "."


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("hello , world . i am here", "Hello, world. I am here."),
        ("the dog ran  home .\n\n\n\n it was   late .", "The dog ran home.\n\nIt was late."),
        ("the cat\r\n\r\nsat down", "The cat\n\nsat down."),
        ('she said , " hello , " and " bye ! "', 'She said, "hello," and "bye!"'),
        ('" Hello ! " he said.', '"Hello!" he said.'),
        ('He said,"Hello"and ran.', 'He said, "Hello" and ran.'),
        ("“ Hello ” said Bob.", "“Hello” said Bob."),
        ("They ran home.She was glad.I saw it.", "They ran home. She was glad. I saw it."),
        ("Stop!she cried,and ran", "Stop! She cried, and ran."),
        ("i'm glad and i’ll stay. so am i", "I'm glad and I’ll stay. So am I."),
        ('"Oh no!"\n\nthe fox hid.', '"Oh no!"\n\nThe fox hid.'),
        ('She asked, "why?" and "where', 'She asked, "why?" and "where.'),
        ('"I love you"', '"I love you."'),
        ("'I love you'", "'I love you.'"),
        ("It is the dogs'", "It is the dogs'."),
        ("He left (he was sad)", "He left (he was sad)."),
        ("and then,", "And then."),
        ("élan. über alles. ñu", "Élan. Über alles. Ñu."),
        ("  \n ", ""),
    ],
)
def test_texts_are_cleaned(text, cleaned):
    assert post_process(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        '"Hello!" she said. "How are you?" he asked.',
        '"Yes," she said, "but not now."',
        '"That is nice." she says.',
        "She was ... very tired. Wait... what? Well… maybe.",
        "It cost 3.5 dollars, or 1,000 pennies, at 5:30 p.m. on Monday.",
        "Mr. and Mrs. Fox met Dr. Owl. St. James was there.",
        "Tom McDonald and J. smith saw the U.S. flag.",
        "J. smith and Prof. owl met. Mr. fox did not.",
        "I can't, won't and shouldn't; it's Lily's.",
        "Zoë ate crème brûlée at the café. 'Olé!'",
        "One line.\nThe next.\n\nA new paragraph.",
        "“Come here,” said Ann. ‘All right.’",
        "He is 5' tall and the pipe is 3\" wide.",
        'The end :) is here. He said "yes".',
        "What?! No!!! Yes...",
        "ﬁsh are here. ﬁne. ısı.",
        "A smile 😀",
        "She ran away —",
        "",
    ],
)
def test_clean_texts_are_unchanged(text):
    assert post_process(text) == text


def test_clean_stories_are_unchanged(stories):
    assert [text for text in stories if post_process(text) != text] == []
    assert all(naive(text) != text for text in stories)


@pytest.mark.parametrize(
    "damage",
    [
        str.lower,
        lambda text: re.sub(r"([.,!?;:\"])", r" \1 ", text),
        lambda text: text.replace(" ", "  ").replace("\n", "\r\n"),
        lambda text: text[: len(text) // 2],
        lambda text: re.sub(r"([.!?]) (?=[A-Z])", r"\1", text),
    ],
    ids=["small", "spaced", "wide", "cut", "glued"],
)
def test_words_and_paragraphs_never_change(stories, damage):
    damaged = [damage(text) for text in stories]
    assert {error for text in damaged for error in errors(post_process, text)} == set()
    assert sum(post_process(text) != text for text in damaged) > 0.8 * len(damaged)


def test_damaged_stories_are_restored(stories):
    spaced = [re.sub(r" ?([.,!?;:])", r" \1", text).rstrip(" .") for text in stories if text.endswith(".")]
    assert len(spaced) > 200
    assert [post_process(text) for text in spaced] == [text for text in stories if text.endswith(".")]


def test_random_texts_keep_their_words_and_are_cleaned_once():
    pieces = ['"', "'", "“", "”", "’", " ", "\n", ".", ",", "!", "?", ";", ":", "…", "(", ")", "-", "—", "a", "b",
              "i", "I", "Mr", "3", "é", "ß", "ﬁ", "ı", "İ", "A", "the", "Lily", "i'm", "\r", "\t", "\xa0",
              "😀"]  # fmt: skip
    chance = random.Random(0)
    texts = ["".join(chance.choices(pieces, k=chance.randint(1, 14))) for _ in range(20_000)]
    wrong = {text: found for text in texts if set(found := errors(post_process, text)) & {"words", "a second time"}}
    assert wrong == {}


def test_the_checks_above_detect_a_bad_implementation(stories):
    assert {error for text in stories for error in errors(naive, text)} == {"a second time", "paragraphs"}
    assert errors(lambda text: text.replace("the ", ""), stories[0]) == ["words"]
