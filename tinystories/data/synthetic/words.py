"""Word lists of the stories: names, animals, looks, colors, habits, times of the day and the year.

All names are equally frequent: a model that knows which names are frequent learns more slowly to copy those of its
story (benchmarks/RACE.md).

A list that only one plot uses is in the module of that plot. Every list is a tuple, in an order that is part of the
corpus: adding a word changes which stories a seed gives.
"""

from typing import NamedTuple

from .. import names


GIRLS = names.GIRLS[:48] + names.GIRLS[48::3]
BOYS = names.BOYS[:48] + names.BOYS[48::3]
HE_ANIMALS = names.ANIMALS[:15]
SHE_ANIMALS = names.ANIMALS[15:]
SURNAMES = tuple("Green Hill Brown Bell Lane Stone Wood Baker Potter Moon Reed Fisher Young Marsh Rose".split())

CHILD_LOOKS = (
    *("little",) * 8,
    *("young", "small", "kind", "cheerful", "curious", "clever", "happy", "sweet", "friendly", "polite"),
    *("happy little", "kind little", "curious little", "cheerful young", "quiet little", "honest little"),
)
ANIMAL_LOOKS = (
    *("little",) * 4,
    *("small", "young", "happy", "friendly", "curious", "clever", "cheerful", "gentle", "little {color}"),
    *("small {color}", "{color}", "young {color}", "happy little", "friendly {color}", "playful", "playful {color}"),
)
PLAIN_LOOKS = ("little", "little", "young", "small")
FRIEND_LOOKS = ("little", "friendly", "cheerful", "quiet", "funny", "tall", "kind", "smiling", "shy little", "nice")


class Animal(NamedTuple):
    kind: str
    colors: tuple[str, ...]
    hand: str = "paw"


_ANIMALS = (
    Animal("bear", ("brown", "black")),
    Animal("rabbit", ("white", "gray", "brown")),
    Animal("mouse", ("gray", "brown", "white")),
    Animal("fox", ("red", "orange")),
    Animal("cat", ("black", "orange", "gray", "white")),
    Animal("dog", ("brown", "white", "black")),
    Animal("squirrel", ("red", "gray")),
    Animal("hedgehog", ("brown",)),
    Animal("raccoon", ("gray",)),
    Animal("otter", ("brown",)),
    Animal("puppy", ("brown", "white", "black")),
    Animal("kitten", ("orange", "gray", "white")),
    Animal("bunny", ("white", "gray")),
    Animal("mole", ("black",)),
    Animal("beaver", ("brown",)),
    Animal("monkey", ("brown",), "hand"),
    Animal("panda", ("black and white",)),
    Animal("hamster", ("golden", "brown")),
    Animal("owl", ("brown", "white"), "wing"),
    Animal("bird", ("blue", "yellow", "brown", "red"), "wing"),
    Animal("duck", ("white", "brown"), "wing"),
    Animal("robin", ("brown",), "wing"),
    Animal("sparrow", ("brown",), "wing"),
    Animal("parrot", ("green", "red"), "wing"),
    Animal("penguin", ("black and white",), "wing"),
    Animal("hen", ("red", "white"), "wing"),
    Animal("turtle", ("green",), "foot"),
    Animal("frog", ("green",), "foot"),
    Animal("elephant", ("gray",), "foot"),
    Animal("lion", ("golden",)),
    Animal("giraffe", ("yellow",), "foot"),
    Animal("horse", ("brown", "black", "white"), "hoof"),
    Animal("pony", ("brown", "white"), "hoof"),
    Animal("pig", ("pink",), "foot"),
    Animal("lamb", ("white",), "foot"),
    Animal("goat", ("white", "gray"), "hoof"),
    Animal("cow", ("brown", "white"), "hoof"),
    Animal("donkey", ("gray",), "hoof"),
    Animal("deer", ("brown",), "hoof"),
    Animal("snail", ("yellow",), "foot"),
    Animal("ladybug", ("red",), "wing"),
    Animal("zebra", ("black and white",), "hoof"),
    Animal("hippo", ("gray",), "foot"),
    Animal("tiger", ("orange",)),
    Animal("toad", ("brown",), "foot"),
    Animal("crow", ("black",), "wing"),
    Animal("goose", ("white", "gray"), "wing"),
)
ANIMALS = {animal.kind: animal for animal in _ANIMALS}

# These can live in a house, sleep in a bed and own toys as if they were children.
HOUSE_ANIMALS = tuple(
    "bear rabbit mouse fox cat dog squirrel hedgehog raccoon otter puppy kitten bunny mole beaver monkey panda".split()
)

COLORS = tuple("red blue green yellow orange purple pink white brown black golden silver".split())
BRIGHT_COLORS = tuple("red blue green yellow orange purple pink".split())
TOY_LOOKS = ("small", "little", "big", "tiny", "old", "shiny", "pretty", "special", "nice", "lovely")
NEW_TOY_LOOKS = ("small", "little", "big", "new", "shiny", "pretty", "beautiful", "wonderful", "fine", "large")

CHILD_TRAITS = (
    "{He} lived in a [small|white|yellow|tall|cozy] house [on a quiet street|in a little town|near a park] with {his} "
    "family.",
    "{He} had [curly|long|short|dark|brown|red] hair and [a big smile|bright eyes|a kind heart].",
    "{He} loved to [sing|draw|dance|laugh|read picture books|tell jokes|play outside|build things|jump and run].",
    "{He} was [four|five|six|seven] years old and [full of energy|full of questions|always busy|always smiling].",
    "{He} liked [stories|music|animals|games|jokes], and {he} liked [pancakes|strawberries|ice cream|puddles] even "
    "more.",
    "Everyone on {his} street liked {him}[| because {he} was friendly| because {he} always said hello].",
    "Every day, {he} [learned something new|had a new idea|played with {his} toys|made somebody laugh].",
)
ANIMAL_TRAITS = (
    "{He} had [bright|big, round|friendly] eyes and [a kind heart|a cheerful smile|a happy laugh].",
    "{He} loved to [lie in the sun|look at the clouds|listen to stories|sing in the morning|play games|laugh].",
    "All the other animals liked {him}[| because {he} was kind| because {he} made them laugh].",
    "Every morning, {he} [stretched and yawned|said hello to the sun|sang a little song|counted the clouds].",
    "{He} was [young|not very old], but {he} [had big ideas|had a big heart|was full of energy].",
    "{He} wanted to [know everything|see the whole world|learn all about the world].",
)
HOUSE_ANIMAL_TRAITS = (
    "{He} lived in a [little|cozy|warm|tiny] house [in the woods|under an oak tree|near a quiet stream|by a forest].",
    "{He} had [soft fur|a soft nose|small round ears|a soft coat] and [a kind heart|a cheerful smile|a happy laugh].",
    "Every day, {he} [ran in the tall grass|rolled down the hill|played in the leaves|splashed in puddles].",
)


class Time(NamedTuple):
    """When a story starts: phrases that open a sentence ("One day") and sentences that describe the scene."""

    whens: tuple[str, ...]
    scenes: tuple[str, ...]


DAY = Time(
    (
        *("One day",) * 9,
        *("One morning", "One sunny day", "One fine day", "One sunny morning", "One afternoon", "One warm day"),
        *("On a bright spring day", "On Saturday", "On Sunday morning", "One Monday", "One summer day"),
    ),
    (
        "It was a [sunny|warm|bright|beautiful] [morning|day].",
        "The sun was shining, and the birds were singing.",
        "It was a [lovely|fine] day, and the sky was blue.",
    ),
)
MORNING = Time(
    ("One morning", "One fine morning", "One morning in May", "One day", "One sunny morning"),
    ("It was early in the morning.", "The sun came up, and the birds began to sing."),
)
# For plots in a house, on any day of the year.
ANY_DAY = Time(
    (
        *("One day",) * 6,
        "One morning",
        "One afternoon",
        "On Saturday",
        "One Sunday",
        "One Friday",
        "After lunch one day",
    ),
    ("It was a quiet [morning|afternoon|day].", "It was [Saturday|Sunday], and everyone was at home."),
)
NIGHT = Time(
    ("One night", "One night", "Late one night", "One dark night", "One evening at bedtime"),
    (
        "It was late, and the house was quiet.",
        "It was night, and the moon was [high in the sky|behind a cloud].",
        "It was bedtime, and the sky was [dark|full of stars].",
    ),
)
STARRY_NIGHT = Time(
    ("One night", "One clear night", "One warm night", "One night in summer", "Late one night"),
    (
        "It was a clear night, and the stars were shining.",
        "The sun had gone down, and the sky was full of stars.",
        "It was a warm and quiet night.",
    ),
)
RAIN = Time(
    ("One rainy day", "One wet morning", "One gray afternoon", "One day", "On a rainy Sunday"),
    (
        "It was a rainy day, and the sky was gray.",
        "Rain was falling on the roof.",
        "Dark clouds covered the sky, and the wind was cold.",
    ),
)
SPRING = Time(
    ("One spring day", "One day in spring", "One day", "One warm morning", "One spring morning"),
    ("It was spring, and the garden was waking up.", "The snow was gone, and the air was warm."),
)
SUMMER = Time(
    ("One hot day", "One day in summer", "One day", "One summer morning", "One sunny day"),
    ("It was summer, and the days were long and hot.", "It was a hot day in summer."),
)
