"""English grammar for templates: articles, number and pronouns.

- A `Thing` has a number (an apple, some bread, some grapes) and adjectives.
- A `Character` has pronouns, an introduction ("a little girl named Lily") and a later name ("Lily").
- Templates use their attributes: `{kite.a}`, `{kite.the}`, `{friend.him}`; one with a capital begins a sentence.
- Templates always write "a". "An" is chosen in the finished text, since the next word is often a random choice.
"""

import re
from dataclasses import dataclass

from ..vowel_sounds import begins_with_vowel_sound


_ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z]+))")


def choose_articles(text: str) -> str:
    """Choose between "a" and "an" by the sound of the next word, throughout a text."""
    return _ARTICLE.sub(lambda match: match[1] + ("n " if begins_with_vowel_sound(match[2]) else " "), text)


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Thing:
    """An object, a food or a nameless animal. `number` is "one", "many" (cookies) or "mass" (bread)."""

    noun: str
    adjectives: str = ""
    number: str = "one"

    def __str__(self) -> str:
        return self.noun

    @property
    def full(self) -> str:
        return f"{self.adjectives} {self.noun}" if self.adjectives else self.noun

    @property
    def a(self) -> str:
        return f"a {self.full}" if self.number == "one" else f"some {self.full}"

    @property
    def the(self) -> str:
        return f"the {self.noun}"

    @property
    def The(self) -> str:
        return f"The {self.noun}"

    @property
    def the_full(self) -> str:
        return f"the {self.full}"

    @property
    def they(self) -> str:
        return "they" if self.number == "many" else "it"

    @property
    def was(self) -> str:
        return "were" if self.number == "many" else "was"


_PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
    "it": ("it", "it", "its", "itself"),
}


class Character:
    """A character of a story.

    Attributes:
        known_as: the phrase after the introduction, such as "Lily", "the bear" or "her mom".
        a, plain: the introduction with and without the name.
        who: the name, with the kind of an animal: "Pip the mouse".
        intro: the relation to the hero: "her friend Tom".
        call: the name that other characters use in speech.
    """

    def __init__(
        self,
        kind: str,
        gender: str,
        known_as: str,
        *,
        adjectives: str = "",
        name: str = "",
        naming: str = "named",
        hand: str = "hand",
        call: str = "",
    ):
        self.kind = kind
        self.known_as = known_as
        self.name = name
        self.hand = hand
        self.call = call or name
        self.adjectives = adjectives
        self.plain = f"a {adjectives} {kind}" if adjectives else f"a {kind}"
        self.a = f"{self.plain} {naming} {name}" if name else self.plain
        self.who = f"{name} the {kind}" if name and kind not in ("girl", "boy") else known_as
        self.he, self.him, self.his, self.himself = _PRONOUNS[gender]
        self.A = capitalized(self.a)
        self.He, self.His = capitalized(self.he), capitalized(self.his)
        self.introduce_as(self.who)

    def introduce_as(self, intro: str) -> None:
        self.intro, self.Intro = intro, capitalized(intro)

    def __str__(self) -> str:
        return self.known_as
