"""Build a story: its characters, things and sentences, with random choices between them.

Sentences are templates in Python's format syntax, with three additions:

- `[glad|happy]` is a choice between words (it does not nest).
- A slot with a capital letter begins a sentence: `{Hero}`, `{He}`, `{friend.He}`, `{kite.The}`.
- Dialogue is in curly quotes, which become straight ones: “I can't see it,” said {hero}.

`{he}`, `{him}`, `{his}` and `{himself}` refer to the hero; those of others are attributes: `{friend.his}`. Only
`Random.random()` is used: Python guarantees its values for a seed in all versions.
"""

import re
from functools import cache
from random import Random
from typing import Any

from .grammar import Character, Thing, capitalized, choose_articles
from .words import (
    ANIMAL_LOOKS,
    ANIMAL_TRAITS,
    ANIMALS,
    BOYS,
    BRIGHT_COLORS,
    CHILD_LOOKS,
    CHILD_TRAITS,
    COLORS,
    DAY,
    FRIEND_LOOKS,
    GIRLS,
    HE_ANIMALS,
    HOUSE_ANIMAL_TRAITS,
    HOUSE_ANIMALS,
    NEW_TOY_LOOKS,
    PLAIN_LOOKS,
    SHE_ANIMALS,
    SURNAMES,
    TOY_LOOKS,
    Time,
)


_CHOICE = re.compile(r"\[([^\]]*)\]")
_QUOTES = str.maketrans("“”", '""')

# `{deed}` is what happens to the hero first, `{there}` the same with the place.
_OPENINGS = (
    "Once upon a time there was {hero.a}. {trait1} {When}, [{he}|{he}|{hero}] {there}.",
    "Once upon a time, there was {hero.a}. {trait1} {When}, [{he}|{he}|{hero}] {there}.",
    "Once upon a time, {hero.a} {there}.",
    "Once there was {hero.a}. {trait1} {When}, {he} {there}.",
    "There was once {hero.a}. {trait1} {When}, {he} {there}.",
    *("{When}, {hero.a} {there}.",) * 3,
    *("{hero.A} {there}.",) * 2,
    "{Scene} {hero.A} {there}.",
)
_OPENINGS_WITH_PLACE = ("{Place}, {hero.a} {deed}.",) * 4
_OPENINGS_WITH_NAME = (
    "{Hero} was {hero.plain}. {trait1} {When}, {he} {there}.",
    "{Hero} was {hero.plain}. {trait1} {trait2} {When}, {he} {there}.",
)
_OPENINGS_WITHOUT_NAME = (
    *("The {hero.adjectives} {hero.kind} {there}.",) * 4,
    "Long ago, there was {hero.a}. {trait1} {When}, {he} {there}.",
)
_OPENINGS_FOR_TWO = (
    "Once upon a time there were two [good |best |]friends, {hero.a} and {friend.a}. {When}, they {there}.",
    "Once upon a time, {hero.a} and {friend.a} {there}.",
    "There were once two [good |]friends, {hero.a} and {friend.a}. {When}, they {there}.",
    "{When}, {hero.a} and {his} friend {friend.who} {there}.",
    "{hero.A} and {friend.a} [were neighbors|liked to play together|were good friends]. {When}, they {there}.",
    "{Scene} {hero.A} and {friend.a} {there}.",
)
_OPENINGS_FOR_TWO_NAMES = (
    "{Hero} and {friend} were [good|best] friends. {When}, they {there}.",
    *("{Hero} and {his} friend {friend.who} {there}.",) * 3,
    "{Hero} and {friend} were friends who [did everything|played|always had fun] together. {When}, they {there}.",
)

_SAD = (
    "{Hero} [wanted to cry|felt sad|was very sad|felt so sad|began to cry].",
    "[A tear|A big tear] [rolled|ran] down {hero}'s cheek.",
    "{Hero}'s eyes filled with tears.",
    "{Hero} sat down and [sighed|looked at the ground].",
)
_PARENTS = (("mom", "she", "Mom"), ("dad", "he", "Dad"), ("mother", "she", "Mom"), ("father", "he", "Dad"))
_ELDERS = (("grandma", "she", "Grandma"), ("grandpa", "he", "Grandpa"))


@cache
def _pieces(template: str) -> tuple:
    parts = _CHOICE.split(template)
    return tuple(tuple(part.split("|")) if index % 2 else part for index, part in enumerate(parts))


class Story:
    def __init__(self, random: Random):
        self._random = random.random
        self._slots: dict[str, Any] = {}
        self._paragraphs: list[list[str]] = [[]]
        self._has_paragraphs = self.chance(0.55)
        self._detail = self.pick((0.05, 0.35, 0.7))

    # Choices

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, options):
        return options[int(self._random() * len(options))]

    def pick_some(self, options, count: int) -> list:
        """`count` different options."""
        left = list(options)
        return [left.pop(int(self._random() * len(left))) for _ in range(count)]

    def fill(self, template: str, more_slots=None) -> str:
        chosen = [piece if isinstance(piece, str) else self.pick(piece) for piece in _pieces(template)]
        return "".join(chosen).format_map(self._slots | more_slots if more_slots else self._slots)

    # Characters

    def hero(self, character: Character) -> Character:
        self._slots |= {"he": character.he, "him": character.him, "his": character.his, "He": character.He}
        self._slots |= {"His": character.His, "himself": character.himself}
        return self.cast("hero", character)

    def cast(self, role: str, character: Character) -> Character:
        self._slots[role] = character
        self._slots[capitalized(role)] = capitalized(str(character))
        return character

    def child(self, looks=CHILD_LOOKS) -> Character:
        gender = self.pick(("he", "she"))
        return self.hero(self._make_child(gender, self._first_name(gender), self.pick(looks)))

    def animal(self, kinds=HOUSE_ANIMALS, *, looks=ANIMAL_LOOKS, named=0.7) -> Character:
        return self.hero(self._make_animal(self.pick(kinds), self.pick(("he", "she")), looks, named))

    def anyone(self, *, plain=False) -> Character:
        """A child, or an animal that lives like one; a `plain` one is not described as kind or honest."""
        if self.chance(0.65):
            return self.child(PLAIN_LOOKS if plain else CHILD_LOOKS)
        return self.animal(looks=PLAIN_LOOKS if plain else ANIMAL_LOOKS)

    def hero_is_child(self) -> bool:
        return self._slots["hero"].kind in ("girl", "boy")

    def friend(self, *, role="friend", kinds=HOUSE_ANIMALS, looks=ANIMAL_LOOKS, named=0.7, family=False) -> Character:
        """A friend of the other gender, so that every pronoun is clear; with `family`, also a cousin or sibling."""
        hero = self._slots["hero"]
        gender = "she" if hero.he == "he" else "he"
        if self.hero_is_child():
            friend = self._make_child(gender, self._first_name(gender), self.pick(FRIEND_LOOKS))
            relatives = ("cousin", "big sister" if gender == "she" else "big brother")
            relation = self.pick(("friend", "friend", *relatives)) if family else "friend"
        else:
            others = [kind for kind in kinds if kind != hero.kind]
            friend = self._make_animal(self.pick(others), gender, looks, named)
            relation = "friend"
        friend.introduce_as(f"{hero.his} {relation} {friend.who}")
        return self.cast(role, friend)

    def playmate(self, *, role="friend") -> Character:
        """A named child or animal of any gender, with another name than the hero: for stories without pronouns."""
        hero = self._slots["hero"]
        while True:
            gender = self.pick(("he", "she"))
            if self.chance(0.7):
                playmate = self._make_child(gender, self._first_name(gender), self.pick(FRIEND_LOOKS))
            else:
                playmate = self._make_animal(self.pick(HOUSE_ANIMALS), gender, ANIMAL_LOOKS, named=1)
            if playmate.name != hero.name and (playmate.kind != hero.kind or self.hero_is_child()):
                return self.cast(role, playmate)

    def parent(self, role="parent", kinds=_PARENTS) -> Character:
        kind, gender, call = self.pick(kinds)
        known_as = f"{self._slots['hero'].his} {kind}"
        return self.cast(role, Character(kind, gender, known_as, call=call))

    def grandparent(self, role="elder") -> Character:
        return self.parent(role, _ELDERS)

    def neighbor(self) -> Character:
        title, gender = self.pick((("Mr.", "he"), ("Mrs.", "she")))
        name = f"{title} {self.pick(SURNAMES)}"
        character = Character("neighbor", gender, name, name=name)
        character.introduce_as(f"{self._slots['hero'].his} neighbor, {name}")
        return self.cast("neighbor", character)

    def _first_name(self, gender: str) -> str:
        return self.pick(GIRLS if gender == "she" else BOYS)

    def _make_child(self, gender: str, name: str, looks: str) -> Character:
        kind = "boy" if gender == "he" else "girl"
        return Character(kind, gender, name, adjectives=looks, name=name, naming=self._naming())

    def _make_animal(self, kind: str, gender: str, looks, named: float) -> Character:
        animal = ANIMALS[kind]
        adjectives = self.pick(looks).format(color=self.pick(animal.colors))
        if not self.chance(named):
            return Character(kind, gender, f"the {kind}", adjectives=adjectives, hand=animal.hand)
        name = self.pick(HE_ANIMALS if gender == "he" else SHE_ANIMALS)
        return Character(kind, gender, name, adjectives=adjectives, name=name, naming=self._naming(), hand=animal.hand)

    def _naming(self) -> str:
        return self.pick(("named", "named", "named", "called"))

    def who(self, role: str) -> Character:
        return self._slots[role]

    # Things

    def props(self, **things) -> None:
        """Define things and phrases for templates by name; phrases may be templates."""
        for name, thing in things.items():
            if isinstance(thing, str):
                thing = self.fill(thing)
                self._slots[capitalized(name)] = capitalized(thing)
            self._slots[name] = thing

    def thing(self, noun: str, *looks) -> Thing:
        """A thing with one adjective from each list of `looks`, or fewer."""
        adjectives = [self.pick(words) for words in looks if self.chance(0.7)]
        return Thing(noun, " ".join(adjectives))

    def toy(self, noun: str, looks=TOY_LOOKS) -> Thing:
        return self.thing(noun, looks, COLORS if self.chance(0.3) else BRIGHT_COLORS)

    def new_toy(self, noun: str) -> Thing:
        """`toy` for presents and shop windows."""
        return self.toy(noun, NEW_TOY_LOOKS)

    # Sentences

    def open(self, *deeds: str, when: Time = DAY, place: str = "", likes=()) -> None:
        """Add the first sentences: the hero, and what happens first, one of `deeds` ("found a shell").

        Args:
            likes: sentences about the hero, where the general ones do not fit the plot.
        """
        hero = self._slots["hero"]
        forms: tuple[str, ...] = _OPENINGS + (_OPENINGS_WITH_NAME if hero.name else _OPENINGS_WITHOUT_NAME)
        if place:
            forms += _OPENINGS_WITH_PLACE
        traits = likes or self._traits(hero)
        self._open(forms, deeds, when, place, *self.pick_some(traits, 2))

    def _traits(self, hero: Character):
        if self.hero_is_child():
            return CHILD_TRAITS
        return ANIMAL_TRAITS + HOUSE_ANIMAL_TRAITS if hero.kind in HOUSE_ANIMALS else ANIMAL_TRAITS

    def open_for_two(self, *deeds: str, when: Time = DAY, place: str = "") -> None:
        """`open` for a hero and a friend who begin together ("made a boat")."""
        forms: tuple[str, ...] = _OPENINGS_FOR_TWO
        if self._slots["hero"].name and self._slots["friend"].name:
            forms += _OPENINGS_FOR_TWO_NAMES
        self._open(forms, deeds, when, place)

    def _open(self, forms, deeds, when: Time, place: str, *traits: str) -> None:
        deed = self.fill(self.pick(deeds))
        parts = {"deed": deed, "there": f"{deed} {place}" if place else deed, "Place": capitalized(place)}
        parts |= {"When": self.pick(when.whens), "Scene": self.fill(self.pick(when.scenes))}
        parts |= {f"trait{number}": self.fill(trait) for number, trait in enumerate(traits, 1)}
        form = self.pick(forms)
        self._add(self.fill(form, parts))
        if ". " in form and self.chance(0.4):
            self.par()

    def say(self, *variants: str) -> None:
        self._add(self.fill(self.pick(variants)))

    def maybe(self, *variants: str) -> None:
        """Add an optional sentence, with a probability that differs between stories."""
        if self.chance(self._detail):
            self.say(*variants)

    def sad(self) -> None:
        self.maybe(*_SAD)

    def _add(self, sentence: str) -> None:
        self._paragraphs[-1].append(sentence)

    def par(self) -> None:
        """Perhaps start a new paragraph."""
        if self._has_paragraphs and self.chance(0.85):
            self._paragraphs.append([])

    def text(self) -> str:
        paragraphs = "\n\n".join(" ".join(sentences) for sentences in self._paragraphs)
        return choose_articles(paragraphs.translate(_QUOTES))
