"""Faults of stories, found by rule: what readers notice first in stories of small models.

    find_faults("Once there was a girl named Lily. He ...")  # [Fault("gender_changes", 35, "He")]

- Each rule is more likely to miss a fault than to report a good story. Real stories therefore have low rates. The
  rates are for comparing texts; they are not the number of faults that a reader would find.
- A longer story has more opportunities: compare stories of similar length.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import word_lists as lists
from .characters import unintroduced_names
from .gender import HE, NAMES, NOUNS, PRONOUNS, SHE, STRICT
from .passage import Word, story_words
from .sentences import ends_with_punctuation, sentence_spans
from .things import CATEGORY, KINDRED, PLURALS


class Fault(NamedTuple):
    """A fault: the name of its rule, its offset in the story, and the words concerned."""

    rule: str
    start: int
    text: str


class Passage(NamedTuple):
    """What a rule needs to know about a story."""

    text: str
    words: list[Word]
    ended: bool


def find_faults(story: str, ended: bool = True) -> list[Fault]:
    """The faults of a story, by rule and then by place.

    Args:
        story: with its prompt, which may introduce characters and things.
        ended: whether the story ended with EOS; a real story did.
    """
    passage = Passage(story, story_words(story), ended)
    return [
        Fault(name, start, text) for name, rule in RULES.items() for start, text in sorted(set(rule.places(passage)))
    ]


# Names


def _names(passage: Passage) -> Iterator[tuple[int, str]]:
    first = {word.text: word.start for word in reversed(passage.words)}
    for name in unintroduced_names(passage.text):
        yield first.get(name, 0), name


# Gender

_UNKNOWN = "?"
_PEOPLE_OF_UNKNOWN_GENDER = frozenset(
    """adult adults babies children crowd everybody everyone family friends group kids men neighbour neighbours nobody
    anyone others pair parents patient people pets somebody someone teenager twins women husband wife""".split()
)
_INTRODUCTION = re.compile(r"\b(\w+),? (?:named|called) ([A-Z]\w+)")


def _genders(passage: Passage) -> Iterator[tuple[int, str]]:
    """ "He" or "she" where only characters of the other gender can be meant.

    Either the story has mentioned nobody else at all, or the pronoun begins a sentence, the sentence before names a
    character of the other gender, and neither it nor the one before mentions anybody else. Speech has no faults, but
    who is mentioned in it can be meant.
    """
    words = passage.words
    named = {name: NOUNS.get(noun.lower(), _UNKNOWN) for noun, name in _INTRODUCTION.findall(passage.text)}
    inside = {word.text for word in words if word.text[0].isupper() and not word.opens}
    people = [
        _gender(word, named, inside) or (_UNKNOWN if _may_be_name(passage, place) else None)
        for place, word in enumerate(words)
    ]
    in_sentence: dict[int, set[str]] = {}
    spoken: set[int] = set()
    for word, gender in zip(words, people, strict=True):
        if gender:
            in_sentence.setdefault(word.sentence, set()).add(gender)
        if word.speech:
            spoken.add(word.sentence)
    last: dict[str, int] = {}  # sentence of the last mention, by gender
    mentioned: set[str] = set()
    for word, gender in zip(words, people, strict=True):
        if gender:
            mentioned.add(gender)
            last[gender] = word.sentence
            continue
        pronoun = PRONOUNS.get(word.lower)
        if not pronoun:
            continue
        before, last[pronoun] = last.get(pronoun, -9), word.sentence
        here = in_sentence.get(word.sentence, set())
        if word.speech or pronoun in here or _UNKNOWN in here:
            continue
        other = SHE if pronoun == HE else HE
        recently = word.sentence - 1
        if mentioned == {other}:
            yield word.start, word.text
        elif word.text in ("He", "She") and word.opens and not here and recently not in spoken:
            nobody_else = max(before, last.get(_UNKNOWN, -9)) < recently - 1
            if in_sentence.get(recently) == {other} and nobody_else:
                yield word.start, word.text


def _may_be_name(passage: Passage, place: int) -> bool:
    """Whether the first word of a sentence stands like a name, which may be made up: "Zib's", "Zib looked"."""
    word = passage.words[place]
    if not word.opens or word.lower in PRONOUNS or word.lower in lists.OPENERS or word.mark:
        return False
    following = passage.words[place + 1].lower if place + 1 < len(passage.words) else ""
    verb = following.endswith("ed") or following in lists.PASTS or following in ("was", "is", "had")
    return verb or passage.text.startswith(("'s", "’s"), word.start + len(word.text))


def _gender(word: Word, named: dict[str, str], inside: set[str]) -> str | None:
    """The gender of a word for a person or an animal, `_UNKNOWN` if it can be either; None for any other word."""
    if word.lower in PRONOUNS:
        return None
    known = named.get(word.text) or STRICT.get(word.text) or NOUNS.get(word.lower)
    if known:
        return known
    others = word.lower in lists.OTHERS or word.lower in _PEOPLE_OF_UNKNOWN_GENDER
    plural = word.lower.endswith("s") and not lists.OTHERS.isdisjoint({word.lower[:-1], word.lower[:-2]})
    # A capital at the beginning of a sentence makes a name only of a word that has one elsewhere, too.
    name = word.text[0].isupper() and word.text != "I" and (not word.opens or word.text in inside)
    return _UNKNOWN if others or plural or name or word.text in NAMES else None


# Things

# Nouns that another thing introduces: a slide has a ladder, a shop a cart, a fish its bowl.
_PARTS = frozenset(
    """blanket bowl candle cart envelope flashlight jar key ladder lamp mailbox mirror pot spoon suitcase teapot tent
    towel umbrella wallet wheel""".split()
)
# Words of which the thing can be one
_COLLECTIONS = {
    "creature": frozenset(
        "animal animals creature creatures everybody everyone farm jungle others pet pets zoo".split()
    ),
    "object": frozenset("gift present toy toys".split()),
}
# "His friend the cat", "like the cat and the dog"
_NOT_NEW_AFTER = frozenset("and or like the friend friends".split())
# What follows these identifies the thing: "the book on the shelf", "the ball that".
_IDENTIFYING = frozenset(
    """about above across around at behind below beside between by called for from he her his i in inside into it like
    made my named near next of on our out outside over that their them they to under we when where which while who
    whose with without you your""".split()
)
_FOLLOWERS = lists.FOLLOWERS - _IDENTIFYING


def _things(passage: Passage) -> Iterator[tuple[int, str]]:
    """ "The ball" in narration, after the first sentence, of a thing or an animal that was not mentioned before."""
    words = passage.words
    mentioned: set[str] = set()
    for place, word in enumerate(words):
        noun = word.lower
        if word.text in CATEGORY and noun not in _PARTS and not word.speech and word.sentence > 0:
            following = words[place + 1].lower if place + 1 < len(words) else ""
            new = _forms(noun).isdisjoint(mentioned) and _COLLECTIONS[CATEGORY[noun]].isdisjoint(mentioned)
            if new and (word.mark or following in _FOLLOWERS) and _is_definite(words, place):
                yield word.start, noun
        mentioned.add(noun)


def _forms(noun: str) -> set[str]:
    """The noun and those that may mean the same thing, in singular and plural."""
    return {form for word in KINDRED[noun] for form in (word, PLURALS.get(word, word + "s"))}


def _is_definite(words: list[Word], place: int) -> bool:
    """Whether "the" stands before the noun and its adjectives, but not after a name or in a list: "Tom the cat"."""
    article = place - 1
    while article > 0 and words[article].lower in lists.ADJECTIVES and not words[article].mark:
        article -= 1
    if article < 0 or words[article].lower != "the" or words[article].mark or words[article].speech:
        return False
    if article == 0:
        return True
    before = words[article - 1]
    name = before.text[0].isupper() and not before.opens
    in_sentence = before.sentence == words[article].sentence
    return not (in_sentence and (before.mark or name or before.lower in _NOT_NEW_AFTER))


# Sentences and endings

_SHORTEST_REPEATED = 5  # words; "She was very happy." may be said twice


def _repeated_sentences(passage: Passage) -> Iterator[tuple[int, str]]:
    """Narrated sentences that occurred before in the story, regardless of case and punctuation."""
    spoken = {word.sentence for word in passage.words if word.speech}
    found: dict[int, list[str]] = {}
    for word in passage.words:
        found.setdefault(word.sentence, []).append(word.lower)
    seen = set()
    for number, (start, end) in enumerate(sentence_spans(passage.text)):
        sentence = tuple(found.get(number, ()))
        if len(sentence) < _SHORTEST_REPEATED or number in spoken:
            continue
        if sentence in seen:
            yield start, passage.text[start:end]
        seen.add(sentence)


def _endings(passage: Passage) -> Iterator[tuple[int, str]]:
    if not passage.ended or not ends_with_punctuation(passage.text):
        tail = passage.text.rstrip()[-20:]
        yield len(passage.text), tail


class Rule(NamedTuple):
    """A rule that yields the offset of each fault and the words concerned, and what it finds."""

    places: Callable[[Passage], Iterator[tuple[int, str]]]
    description: str


RULES: dict[str, Rule] = {
    "unintroduced_names": Rule(_names, "a character is mentioned by a name that was never introduced"),
    "gender_changes": Rule(_genders, "a pronoun has another gender than the only character that it can mean"),
    "unintroduced_objects": Rule(_things, "“the” stands before a thing or an animal that was never introduced"),
    "repeated_sentences": Rule(_repeated_sentences, "a narrated sentence of at least five words occurs twice"),
    "missing_endings": Rule(_endings, "the story does not end with EOS and final punctuation"),
}
