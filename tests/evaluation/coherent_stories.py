"""Stories in which only the context tells names, objects, pronouns, the order of sentences and the ending.

The ends and the beginnings of all sentences are drawn from the same lists, so that a few words around a place do not
tell what belongs there.
"""

import random

from tinystories.data.names import BOYS, GIRLS


_GIRLS, _BOYS = GIRLS[:12], BOYS[:12]
NAMES_BY_GENDER = {name: names for names in (_GIRLS, _BOYS) for name in names}  # the names that may replace a name
_OBJECTS = """ball boat book box bracelet bucket candle doll drum hammer hat jar kite ladder pencil puzzle scarf
    wagon""".split()
_TOPICS = """well mill farm dock cliff cove hut inn shed shrine temple orchard swamp canyon quarry stable circus
    garage bakery lagoon marsh tavern stadium prairie""".split()
_ENDS = "all day|in the sun|after lunch|for a while|with a smile|once more".split("|")
_VERBS = "wanted|liked|needed|hid|washed|painted|carried|dropped|kept".split("|")
_VISITS = "saw|painted|cleaned|fixed|watched|admired|drew".split("|")
_FEELINGS = "felt happy|felt tired|sat down|looked around|sang a song|jumped up|slept well|waved".split("|")


def coherent_stories(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [_story(rng) for _ in range(count)]


def _story(rng: random.Random) -> str:
    hero, friend = rng.choice(_GIRLS), rng.choice(_BOYS)
    she, he = "She", "He"
    if rng.random() < 0.5:
        hero, friend, she, he = friend, hero, he, she
    thing, topic = rng.choice(_OBJECTS), rng.choice(_TOPICS)

    def end() -> str:
        return f"{rng.choice(_ENDS)}."

    sentences = [
        f"{hero} and {friend} went to the old {topic} {end()}",
        f"{friend} {rng.choice(_FEELINGS)} {end()}",
        f"{hero} {rng.choice(_FEELINGS)} {end()}",
        f"{hero} found a {thing} {end()}",
        f"{hero} {rng.choice(_VERBS)} the {thing} {end()}",
    ]
    later = [
        lambda: [f"{hero} {rng.choice(_FEELINGS)} {end()}", f"{she} {rng.choice(_FEELINGS)} {end()}"],
        lambda: [f"{friend} {rng.choice(_FEELINGS)} {end()}", f"{he} {rng.choice(_FEELINGS)} {end()}"],
        lambda: [f"{hero} {rng.choice(_VERBS)} the {thing} {end()}"],
        lambda: [f"{friend} {rng.choice(_VERBS)} the {thing} {end()}"],
        lambda: [f"They {rng.choice(_VISITS)} the old {topic} {end()}"],
    ]
    for more in rng.sample(later, len(later)):
        sentences += more()
    return " ".join([*sentences, f"Then they {rng.choice(_VISITS)} the old {topic} {end()}"])
