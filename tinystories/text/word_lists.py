"""The words that the rules for minimal pairs, coherence probes and faults use; none applies to any other word.

They are frequent in children's stories, and in the places where the rules look for them, their part of speech is
certain.
"""

from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _with_s(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("ch", "sh", "s", "x", "lcano")) else "s")


_IRREGULAR_PLURALS = {"mouse": "mice", "wolf": "wolves", "leaf": "leaves", "shelf": "shelves", "knife": "knives"}
_IRREGULAR_PLURALS |= {"bookshelf": "bookshelves", "scarf": "scarves", "child": "children"}


def plural(noun: str) -> str:
    if noun.endswith("man"):
        return noun[:-3] + "men"
    return _IRREGULAR_PLURALS.get(noun) or _with_s(noun)


# Nouns

# Countable singular nouns that always need a determiner. Left out: what can be a substance (cake, rock, glass, paper),
# a dish (fish, chicken, egg), a title or a name (mom, captain, king), a place one is "in" or "at" without an article
# (bed, school, town, home, sea), an instrument that is played (drum, piano), and times of the day.
PEOPLE = _words("""boy girl man woman lady farmer princess prince fairy witch wizard monster dragon robot giant clown
    knight ghost dinosaur pirate policeman fireman mailman fisherman snowman mermaid magician""")
ANIMALS = _words("""ant bear beaver bee bird bug bunny butterfly cat caterpillar cow crow dog dolphin donkey duckling
    eagle elephant fox frog giraffe goat hamster hedgehog hen hippo horse kangaroo kitten ladybug leopard lion lizard
    mole monkey mouse otter owl panda parrot peacock penguin pig piglet pigeon pony puppy rabbit raccoon raven robin
    rooster sheepdog snail snake sparrow spider squirrel swan tiger toad turtle unicorn whale wolf worm zebra""")
THINGS = _words("""airplane attic axe backyard bag ball balloon barn barrel basket bathroom bathtub bench bike blanket
    boat book bookshelf bottle bowl box bracelet branch bridge broom bucket building bus bush button cabin cage camera
    candle car carpet cart castle cave chair chimney clock closet couch crayon crown cupboard cushion desk doll
    dollhouse door drawer envelope factory fence flashlight flower forest fork fountain fridge garden gate gift hammer
    hat hill hole house island jacket jar jungle kettle key kitchen kite knife ladder lake lamp leaf library lollipop
    machine mailbox map meadow microscope mirror mountain museum necklace needle nest oven park path pen pencil picnic
    picture pillow playground pond pot puddle puppet purse puzzle rainbow ribbon river rocket roof rug sandbox
    sandcastle sandwich scarf seashell seesaw shelf shirt shovel skateboard sled slide snowball sock sofa spoon statue
    stove street suitcase sunflower swimsuit swing sword table teapot telephone tent tower toolbox towel trampoline
    tray tree tricycle truck trumpet tunnel umbrella vase village volcano wagon wall wallet wand wheel wheelbarrow
    window zoo""")
COUNT_NOUNS = PEOPLE | ANIMALS | THINGS

# Count nouns that are also verbs: "to the box", "helped the bear" could be English without the article.
NOUN_VERBS = _words("""man bear bug dog fox monkey parrot pig snake worm wolf bag ball balloon bike boat book bottle
    box branch bridge bus button cage carpet cart chair clock couch crown cushion door fence flower fork gate gift
    hammer hole house ladder leaf machine map mirror needle nest park pen pencil picnic picture pillow pocket puzzle
    robot rocket roof sandwich shelf ship shovel skateboard slide spoon street swing table towel tower tree truck
    trumpet tunnel wall wheel witch knight ghost clown pirate""")

# No collectives: "the family were happy" is English. No "sheep", "fish" or "deer", which have one form for both.
_ALSO_SINGULAR = _words("""apple arm banana brother carrot cloud coat cookie dad daddy dress duck ear eye father friend
    game grandma grandpa hand head heart idea leg lemon mama mom mommy mother mum mummy neighbor nose papa sister star
    sun tail teacher teddy tooth toy train uncle voice wind king queen doctor baby child moon sky room water mouth face
    rain cake""")
SINGULAR_SUBJECTS = COUNT_NOUNS | _ALSO_SINGULAR
_NO_PLURAL_SUBJECT = _words("""sheepdog tooth rain water wind sun sky moon""")
_ALSO_PLURAL = _words("""children people kids parents animals adults grown-ups toys teeth leaves colors clothes
    shoes""")
PLURAL_SUBJECTS = _ALSO_PLURAL | frozenset(map(plural, SINGULAR_SUBJECTS - _NO_PLURAL_SUBJECT))

# Adjectives that stand before a noun

# Permanent properties. Left out: words that are also adverbs (fast, hard, wide), nouns (kind) or verbs (mean).
LASTING_ADJECTIVES = _words("""big little small tiny huge large tall long round new old young pretty beautiful lovely
    cute shiny furry fluffy soft red blue green yellow pink purple orange brown black white gray golden colorful magic
    magical wooden special wonderful friendly brave clever wise naughty silly funny grumpy gentle curious sunny cozy
    strange scary ugly smelly yummy tasty delicious bright gigantic enormous giant tall deep""")
# Temporary states; these can also follow a noun: "saw the boy sad".
MOODS_AND_STATES = _words("""happy sad good bad nice great warm cold hot cool wet dry dirty clean dark heavy strong
    sharp sweet empty broken quiet loud lonely lucky sleepy tired hungry smart shy proud poor rich busy""")
ADJECTIVES = LASTING_ADJECTIVES | MOODS_AND_STATES

FUNCTION_WORDS = _words("""about above across after again all alone along and around as at away back be because before
    behind beside between but by can could did down for from had has have her him his home if in inside into is it its
    just like my near next not of off on or our out outside over so that the their them then there through to together
    too toward towards under until up was were when where which while who with without would your named called""")

# Verbs


class Verb(NamedTuple):
    """The forms of a verb; `ing` and `s` follow from its spelling."""

    base: str
    past: str
    participle: str

    @property
    def ing(self) -> str:
        if self.base in _DOUBLED:
            return self.base + self.base[-1] + "ing"
        silent_e = self.base.endswith("e") and self.base[-2] not in "eo"
        return (self.base[:-1] if silent_e else self.base) + "ing"

    @property
    def s(self) -> str:
        return {"go": "goes", "do": "does"}.get(self.base) or _with_s(self.base)


_DOUBLED = _words("run swim sit get begin win dig forget hop hug stop grab clap drop step")
# Left out: verbs with one form for present and past (put, let, cut, hit, hurt, read, set).
_IRREGULAR = """go went gone, see saw seen, make made made, find found found, eat ate eaten, do did done, get got got,
    take took taken, run ran run, keep kept kept, come came come, fly flew flown, catch caught caught,
    give gave given, sleep slept slept, buy bought bought, draw drew drawn, feel felt felt, tell told told,
    wear wore worn, sing sang sung, know knew known, build built built, say said said, swim swam swum, sit sat sat,
    leave left left, grow grew grown, ride rode ridden, hide hid hidden, hear heard heard, win won won,
    meet met met, write wrote written, drink drank drunk, break broke broken, shake shook shaken, dig dug dug,
    hold held held, teach taught taught, bring brought brought, drive drove driven, think thought thought,
    throw threw thrown, fall fell fallen, spend spent spent, lose lost lost, choose chose chosen,
    become became become, begin began begun, forget forgot forgotten, stand stood stood, speak spoke spoken,
    steal stole stolen, send sent sent, understand understood understood, wake woke woken"""
_REGULAR = """want help play love like look ask decide start try learn walk live pick smile laugh hug open thank wish
    reach use need jump show work climb notice remember share watch realize stop grab hope push cry pull finish call
    wait hop shout arrive wave turn follow talk promise continue wonder dance close drop enjoy touch step move roll
    pretend clap listen clean paint search fill taste mix explore visit fix join carry chase bake cook wash kick
    bounce point stay happen"""


def _past(base: str) -> str:
    if base in _DOUBLED:
        return base + base[-1] + "ed"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ied"
    return base + ("d" if base.endswith("e") else "ed")


VERBS = tuple(Verb(*forms.split()) for forms in _IRREGULAR.split(",")) + tuple(
    Verb(base, _past(base), _past(base)) for base in _REGULAR.split()
)
PASTS = frozenset(verb.past for verb in VERBS)
# Words that can follow a noun but not its first half ("the bird house")
FOLLOWERS = FUNCTION_WORDS | PASTS
SINGULAR_TO_PLURAL = {"was": "were", "is": "are", "has": "have", "does": "do"}
SINGULAR_TO_PLURAL |= {"wasn't": "weren't", "isn't": "aren't", "hasn't": "haven't", "doesn't": "don't"}
# A past form that is a verb of its own: "to saw", "to found", "to fell", "to felt", "to left"
PASTS_THAT_ARE_BASES = _words("saw found fell felt left")
# "forgot" and "hid" are participles too, "woke" nearly; "got" is one.
PARTICIPLES_WITH_TWO_FORMS = _words("forgotten hidden got woken shaken drunk")
# Words that are nouns as well as verbs: "wanted help to", "was love", "the play"
BASES_THAT_ARE_NOUNS = _words("""help play love look start try walk smile laugh hug wish reach use need jump show work
    climb share watch stop grab hope push cry pull finish call wait hop shout wave turn talk promise wonder dance close
    drop touch step move roll clap clean paint search mix visit fix chase cook wash kick bounce point stay like open
    find take run catch buy feel swim draw ride hide win drink break shake dig hold drive throw fall sleep say sing
    build leave grow stand wake taste notice pick""")

# Gender

WOMEN = _words("""girl girls woman women lady ladies mom mommy mum mummy mama mother grandma grandmother granny sister
    sisters aunt auntie queen princess daughter daughters she her hers herself""")
MEN = _words("""boy boys man men gentleman dad daddy papa father grandpa grandfather brother brothers uncle king prince
    son sons he him his himself""")
# Names that children's stories give to one gender only. Left out: Max, Sam, Alex, Charlie, Spot, Bobo.
WOMENS_NAMES = _words("""Abigail Alice Amanda Amelia Amy Anna Annie Bella Beth Betty Carla Chloe Cindy Claire Clara
    Daisy Ella Ellie Elsie Emily Emma Eva Hannah Jane Jenna Jennie Jenny Jessica Jill Julia Julie Kate Katie Lena Leila
    Lila Lilly Lily Linda Lisa Lizzie Lola Lucy Mabel Maggie Mandy Maria Mary Maya Mia Millie Molly Mona Nancy Nina
    Nora Olivia Penny Polly Poppy Rachel Rosie Ruby Ruth Sally Samantha Sara Sarah Sophia Sophie Stella Sue Susan Susie
    Tina Wendy Zara Zoe""")
MENS_NAMES = _words("""Adam Andy Ben Benny Bill Billy Bob Bobby Dan Daniel Danny Dave David Eddie Frank Fred Freddy
    Gary George Harry Henry Hugo Jack Jacob Jake James Jason Jerry Jim Jimmy Joe Joey John Johnny Josh Kevin Leo Liam
    Luke Mark Mike Nick Noah Oliver Oscar Owen Paul Pete Peter Philip Simon Steve Ted Theo Thomas Tim Timmy Toby Tom
    Tommy Tony""")
# Others that "he" or "she" could mean; singular, since these pronouns are.
OTHERS = (
    (
        ANIMALS
        | PEOPLE
        | _words("""animal artist baby boss buddy captain chef chick chicken child clerk coach cook cousin cowboy crab
    creature deer doctor doggy doll driver duck elf firefighter fish friend goldfish goose guard guide guy hero hunter
    judge kid king kitty lamb leader master neighbor nurse officer owner pal parent partner person pet pilot player
    police policewoman puppet queen sailor seagull seller shark sheep shopkeeper singer soldier somebody someone
    stranger student superhero teacher teddy thief toddler toy turkey twin vendor waiter worker zookeeper sun moon tree
    car train truck boat flower bull ram rat mule jellyfish octopus starfish salamander tortoise cub calf foal cricket
    grasshopper bat fly wasp mosquito flea dove goblin troll angel ape gorilla hawk star cloud wind rock dino bluebird
    hummingbird woodpecker crocodile alligator""")
    )
    - WOMEN
    - MEN
)
# Words that may begin a sentence with a capital without being a name
OPENERS = _words("""a after all and as at because before but every everyone everything finally first from he her his
    how however in inside instead it its later many most near next nobody now of often on once one outside people she
    since so some sometimes soon suddenly that the their then there they this today together two under until we what
    when whenever where while with yesterday""")
