"""Nouns for the probes of objects."""

from .word_lists import ANIMALS, PEOPLE, THINGS, plural


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Left out: roles and descriptions of someone who may have a name ("the girl"), and things that need no introduction:
# "the door", "the park", "the window".
_ROLES = _words("boy girl man woman lady farmer policeman fireman mailman fisherman")
_FIXTURES = _words("""attic backyard barn bathroom bathtub bench branch bridge building bus button cabin cage camera
    car carpet castle cave chair chimney clock closet couch cupboard desk door drawer factory fence forest fountain
    fridge gate gift hill hole house island jungle kettle kitchen lake library machine map meadow mountain museum nest
    oven park path picnic picture playground pond puddle river roof rug sandbox seesaw shelf slide sofa stove street
    swing table telephone tower tray tree tunnel village volcano wall window zoo shirt cushion pillow garden""")
CREATURES = (ANIMALS | PEOPLE) - _ROLES
OBJECTS = THINGS - _FIXTURES
CATEGORY = dict.fromkeys(CREATURES, "creature") | dict.fromkeys(OBJECTS, "object")
PLURALS = {noun: plural(noun) for noun in CATEGORY}
# Nouns that may mean the same thing: none of a line replaces a noun in a story with another of that line.
_KINDRED = """
    bird crow dove duck duckling eagle hen owl parrot peacock penguin pigeon raven robin rooster sparrow swan chicken
    chick goose turkey seagull hawk bluebird hummingbird woodpecker
    bug ant bee butterfly caterpillar ladybug spider worm snail beetle insect fly cricket grasshopper
    cat kitten lion tiger leopard panda kitty
    dog puppy sheepdog fox wolf pup doggy
    rabbit bunny hamster squirrel mouse mole beaver otter raccoon hedgehog rat
    horse pony unicorn zebra donkey
    pig piglet hippo
    frog toad lizard
    bear panda cub teddy
    monster dragon giant dinosaur robot ghost witch wizard clown fairy magician creature mermaid
    princess prince queen king fairy knight mermaid
    whale dolphin fish shark
    boat ship
    ball balloon snowball toy
    doll puppet teddy toy robot
    kite airplane plane
    bag basket box bucket jar purse suitcase toolbox wallet envelope chest barrel
    bottle bowl pot teapot vase cup glass
    crown hat scarf umbrella
    bike tricycle skateboard sled wagon
    truck wagon cart wheelbarrow tricycle bike rocket vehicle van
    bracelet necklace ribbon ring
    pen pencil crayon
    broom shovel hammer axe tool
    lamp candle flashlight light
    knife sword axe
    flower sunflower plant rose
    book bookshelf
    jacket coat swimsuit sock clothes dress
    blanket towel sheet
    sandwich lollipop
    drum trumpet
    stick wand
    puzzle box
    """
KINDRED: dict[str, set[str]] = {}
for _line in _KINDRED.strip().splitlines():
    for _word in _line.split():
        KINDRED.setdefault(_word, set()).update(_line.split())
for _noun in CATEGORY:
    KINDRED.setdefault(_noun, {_noun})
