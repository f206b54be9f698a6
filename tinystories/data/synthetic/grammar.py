"""The parts of English that templates must not have to think about: articles, number and pronouns.

Two small classes carry what a sentence needs to know about its nouns. A `Thing` knows whether English counts it
(an apple, some bread, some grapes) and keeps its adjectives for the whole story; a `Character` knows its pronouns
and how it is named at first ("a little girl named Lily") and later ("Lily"). Both are used from templates through
attributes: `{kite.a}`, `{kite.the}`, `{friend.him}`. An attribute with a capital letter begins a sentence.

The choice between "a" and "an" is made last, over the finished text, because the word after the article is often
itself a choice; templates always write "a".
"""

import re
from dataclasses import dataclass


_ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z]+))")
_SILENT_H = ("hour", "honest", "heir")
_SPOKEN_AS_CONSONANT = ("one", "once", "uni", "use", "usu", "euro", "uku")


def starts_with_vowel_sound(word: str) -> bool:
    word = word.lower()
    if word.startswith(_SILENT_H):
        return True
    return word[0] in "aeiou" and not word.startswith(_SPOKEN_AS_CONSONANT)


def settle_articles(text: str) -> str:
    """Every "a" and "an" of the text, as the sound of the next word asks."""
    return _ARTICLE.sub(lambda match: match[1] + ("n " if starts_with_vowel_sound(match[2]) else " "), text)


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
    """Somebody with a part in the story.

    `known_as` is the phrase after the introduction ("Lily", "the bear", "her mom"), `a` and `plain` introduce with
    and without the name, `who` names an animal with its kind ("Pip the mouse"), `intro` says what the character is
    to the hero ("her friend Tom"), and `call` is the name that other characters say to it.
    """

    def __init__(self, kind, gender, known_as, *, adjectives="", name="", naming="named", hand="hand", call=""):
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
