"""What no probe is made from, because the false text could be true.

The groups were found by reading probes of validation stories of TinyStories; docs/evaluation.md shows them.
"""

from typing import NamedTuple

from ...text import gender


class Exclusion(NamedTuple):
    """Words that the rules leave out, and why."""

    reason: str
    words: frozenset[str]


def _exclusion(reason: str, words: str) -> Exclusion:
    return Exclusion(reason, frozenset(words.split()))


def _words(exclusions: tuple[Exclusion, ...]) -> frozenset[str]:
    return frozenset().union(*(exclusion.words for exclusion in exclusions))


NAMES = (
    _exclusion(
        "names that are also words for animals, toys, plants and things: the kitten of the story may be called Kitty",
        """Kitty Robin Jay Teddy Dolly Daisy Poppy Violet Viola Iris Jasmine Holly Ivy Hazel Olive Basil Penny Ruby
        Amber""",
    ),
)
# One character may have all names of a line; those that begin alike (Tim, Timmy) are found without a list.
NICKNAMES = tuple(
    frozenset(line.split())
    for line in """
    Abby Abigail
    Amy Amelia
    Anna Annie Hanna Hannah Nancy
    Beth Betty Bess Becky Rebecca Liz Lizzie Eliza Elizabeth Elsie Ella Ellie Ellen Elena
    Bill Billy Will Willy William Liam
    Bob Bobby Rob Robbie Robert
    Charlie Charles Chuck
    Jack Jackie John Johnny
    Jim Jimmy James Jamie
    Joe Joey Joseph
    Kate Katie Kathy Kat
    Lily Lilly Lila Lil
    Maggie Meg Peggy Margaret Margo Marta
    Mary Maria Molly Polly
    Mike Mikey Mick Michael
    Sara Sarah Sally
    Sophie Sofia Sophia
    Sue Susie Susan Suzy
    Ted Teddy Ned Ed Eddie Edward Theo
    Tina Christina Chris
    """.strip().splitlines()
)

OBJECTS = (
    _exclusion(
        "parts and fittings that need no introduction: the key of a locked door, the leaf of a tree",
        "key leaf wheel mirror mailbox bush rainbow lamp",
    ),
    _exclusion(
        "things of a kitchen, a table or a bed, which need no introduction there",
        "bowl bottle cup glass pot fork knife spoon blanket towel",
    ),
    _exclusion("descriptions of another creature: the elephant is a giant", "giant"),
)
# By category of the noun: words for what the story does not specify, so that the noun could be it
UNSPECIFIED = {
    "creature": _exclusion(
        "stories with an unspecified creature: a strange animal may be the lion",
        "animal animals creature creatures pet pets insect insects bugs stranger costume costumes",
    ),
    "object": _exclusion(
        "stories with unspecified things: a toy may be the ball",
        "toy toys gift gifts present presents surprise treasure treasures object objects costume costumes",
    ),
}

TOPICS = (
    *OBJECTS,
    _exclusion(
        "words for anybody",
        """woman women man men boy boys girl girls child lady kid guy guys grown-up grown-ups group team creature
        creatures insect insects hero""",
    ),
    _exclusion(
        "parts of a body",
        """head hand hands arm arms leg legs foot feet eye eyes ear ears nose mouth face hair finger fingers thumb
        tummy belly heart brain tail paw paws fur wing wings beak tooth teeth skin body neck back knee knees
        shoulder shoulders lap tongue voice tears smile smiles""",
    ),
    _exclusion(
        "relatives, friends and owners, whom any character may have",
        """mom moms mommy mommies mum mummy mama mother dad daddy papa father parent parents grandma grandpa
        grandmother grandfather granny sister sisters brother brothers aunt uncle cousin cousins family families
        wife husband son daughter baby kids children twins friend friends owner people person neighbor neighbors""",
    ),
    _exclusion(
        "the surroundings of most stories, and the weather",
        """door floor wall walls window windows room bed bedroom bathroom kitchen house home homes yard garden
        street road path town village country nation world land place places spot sky sun moon star stars cloud
        clouds wind rain heat outdoors air grass ground dirt tree trees leaf leaves water store shop market school
        park table chair light sunshine""",
    ),
    _exclusion("meals", "breakfast lunch dinner supper meal meals food snack snacks treat treats dessert"),
    _exclusion(
        "what happens, is felt or is learnt in any story",
        """adventure adventures trip journey day days morning evening night afternoon week year time times season
        weather way work job task plan plans idea ideas surprise surprises secret lesson lessons rule rules advice
        instructions love friendship kindness sharing help luck joy happiness magic turn turns chance change choice
        story stories dream dreams wish wishes memory memories feeling feelings name news noise noises sound sounds
        trick tricks mistake accident problem mess life trade practice play dance song songs music game games
        performance win taste speed color colour view truth courage event birthday skill cooking word words size
        shape weight balance smell texture moment success punishment shine glow gift gifts present presents
        treasure toy toys thing things stuff object objects""",
    ),
    _exclusion(
        "words for what a story may name more precisely: the rose is a plant",
        """plant plants fruit fruits vegetable vegetables machine machines vehicle vehicles building buildings pet
        pets animal animals clothes tool tools""",
    ),
    _exclusion(
        "parts of anything", "half rest top side sides end middle bottom corner pile stack row part parts piece pieces"
    ),
)

EXCLUDED_NAMES = _words(NAMES)
EXCLUDED_OBJECTS = _words(OBJECTS)
EXCLUDED_TOPICS = _words(TOPICS)


def may_be_called(name: str, words: frozenset[str]) -> bool:
    """Whether someone with a name among the words could have this one too: Tim and Timmy, Kate and Katie."""
    if any(word.startswith(name) or name.startswith(word) for word in words & gender.NAMES.keys()):
        return True
    return any(name in group and not words.isdisjoint(group) for group in NICKNAMES)
