"""Articles ("a", "an", "the") in English stories: how many occur, how many are missing, and how many are wrong.

A countable noun in the singular needs a determiner. Two word lists contain these nouns, and the words that may occur
between determiner and noun: the output of `metrics/article_statistics/word_lists.py` for 12,000 training stories of
TinyStories. On other real stories, 1.4% of the nouns count as omissions, and 84% if every article is deleted (the
remaining nouns have "my", "this", "two" or the like).
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..data.vowel_sounds import begins_with_vowel_sound
from .intervals import Interval, ratio_interval, wilson_interval
from .text_statistics import check_texts, columns, words


ARTICLES = frozenset({"a", "an", "the"})
DETERMINERS = ARTICLES | frozenset(
    """
    my your his her its our their this that these those some any no each every another either neither what which whose
    one two three four five six seven eight nine ten eleven twelve
    """.split()
)
# Not possessives: "it's dog" lacks an article.
_CONTRACTED_IS = frozenset("it's that's he's she's there's here's what's who's where's how's let's".split())
# A noun after these may be correct without a determiner: "a cat and dog", "Hello, bird!", a hyphen, "kind of".
_BARE_NOUN_ALLOWED_AFTER = frozenset({"and", "or", "of", ",", '"', "'", "“", "‘", "-", "–", "—"})
INTENSIFIERS = frozenset({"very", "really", "most", "more"})
_PIECE = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*'?|\d+|[^\w\s]")


class ArticleCounts(NamedTuple):
    """Counts of one text.

    Attributes:
        words: all words.
        articles: "a", "an" and "the".
        nouns: countable singular nouns that need a determiner.
        omissions: those of them that have none.
        indefinite: "a" and "an" before a word.
        wrong_form: "a" before a vowel sound or "an" before a consonant.
    """

    words: int
    articles: int
    nouns: int
    omissions: int
    indefinite: int
    wrong_form: int


def article_statistics(texts: Sequence[str], **options) -> dict[str, Interval]:
    """Rates of articles, missing articles and wrong forms over all `texts`.

    Args:
        options: those of [`ratio_interval`].

    Returns:
        `stories_with_article`: fraction of texts with any article (Wilson interval); also 1 for shuffled words.
        `articles_per_100_words`: number of articles per 100 words.
        `article_omission`: fraction of countable singular nouns without a determiner (see [`count_articles`]).
        `wrong_a_or_an`: fraction of "a" and "an" that should be the other one.

    Raises:
        ValueError: if `texts` is a single string.
    """
    check_texts(texts)
    counts = ArticleCounts(*columns([count_articles(text) for text in texts], len(ArticleCounts._fields)))
    with_article = int(np.count_nonzero(counts.articles))
    return {
        "stories_with_article": wilson_interval(with_article, len(texts), confidence=options.get("confidence", 0.95)),
        "articles_per_100_words": ratio_interval(100 * counts.articles, counts.words, **options),
        "article_omission": ratio_interval(counts.omissions, counts.nouns, **options),
        "wrong_a_or_an": ratio_interval(counts.wrong_form, counts.indefinite, **options),
    }


def count_articles(text: str) -> ArticleCounts:
    """Count articles, and the places where one is missing or has the wrong form."""
    originals = split_pieces(text)
    articles = nouns = omissions = indefinite = wrong_form = 0
    for piece, following in zip(originals, [*originals[1:], "."], strict=False):
        if piece.lower() in ARTICLES:
            articles += 1
            if piece.lower() != "the" and following[0].isalnum():
                indefinite += 1
                wrong_form += (piece.lower() == "an") != begins_with_vowel_sound(following)
    for _, before in determiner_places(originals, COUNTABLE_NOUNS, MODIFIERS):
        nouns += 1
        omissions += not is_determiner(before)
    return ArticleCounts(len(words(text)), articles, nouns, omissions, indefinite, wrong_form)


def split_pieces(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text; an apostrophe inside or after a word belongs to it."""
    return _PIECE.findall(text.replace("’", "'"))


def determiner_places(
    originals: Sequence[str], nouns: Collection[str], modifiers: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Each noun of [`split_pieces`] that needs a determiner, with the lower-case piece where it should stand.

    Only lower-case nouns count, so that names do not, and only the last of several ("toy car" is one noun). Adjectives
    and nouns that modify it are skipped ("big, red toy car"). The piece is "" at the beginning of the text.
    """
    pieces = [piece.lower() for piece in originals]
    for at, noun in enumerate(originals):
        if noun in nouns and not (at + 1 < len(originals) and originals[at + 1] in nouns):
            before = _before_noun_phrase(pieces, at, modifiers)
            if before not in _BARE_NOUN_ALLOWED_AFTER:
                yield noun, before


def _before_noun_phrase(pieces: Sequence[str], at: int, modifiers: Collection[str]) -> str:
    for before in range(at - 1, -1, -1):
        joins = pieces[before] in (",", "and") and 0 < before < at - 1 and pieces[before - 1] in modifiers
        if pieces[before] not in modifiers and not joins:
            return pieces[before]
    return ""


def is_determiner(piece: str) -> bool:
    """Whether a lower-case piece is a determiner, a number or a possessive."""
    possessive = piece.endswith(("'s", "s'")) and piece not in _CONTRACTED_IS
    return piece in DETERMINERS or piece.isdigit() or possessive


# Printed by metrics/article_statistics/word_lists.py for 12,000 TinyStories training stories

COUNTABLE_NOUNS = frozenset(
    """
    aeroplane angel ant bag ball balloon banana bandage basket bath battery bear bee bell belt bike bird blanket boat
    bone book bottle bowl box boy bracelet bridge bucket bug bulb bunny bus bush butterfly button candle car castle cat
    chair chicken circle clown cobweb coin comet corner cow crab crayon crocodile cube cup curtain daisy dish doctor
    dog doll dolphin dragon driver duck elephant envelope exam fairy family fan farmer feather field firework flag
    flame flea flower fort fox frog gem girl goal goat gun haircut hat heart helmet hero hill hole hook horn horse
    house idea jewel key king kite knife knight knot label leaf lemon lesson letter lion log loop lot magnet man mask
    medal memory message mineral minute moment monkey monster mouse movie mule mystery nail napkin necklace neighbor
    nest newspaper nose note nurse olive onion pair party pastel pear pebble pencil penny photo picture pig pigeon pile
    pill pillow plane plate poem pot present princess problem puddle pupil queen rabbit rag rat road robot rocket
    sailor sandcastle sandwich scale scooter screw secret shadow shelf shell ship shovel snack snake soldier song spear
    spider spoon square squirrel stone story stranger strip swan sword symbol table task thing ticket tiger tool towel
    tower toy train tree triangle tunnel video vine voice waffle wall way window word worm
    """.split()
)
MODIFIERS = INTENSIFIERS | frozenset(
    """
    adorable adventurous air amazing ancient angry animal ant apple ash attractive avocado baby bad bald balloon
    beautiful best better big bigger biggest bird birthday bitter black block blue blueberry boat boring bossy bouncy
    brave brick bright brilliant broken brown bubble bus busy calm cardboard careless carrot cat charming cheap
    cheerful cherry chew chubby church clay clean clear clever clumsy colorful colourful comfortable compassionate
    confused cookie cool copper corn cow cozy crazy creative curious cute dance dangerous dark dead deaf deep delicate
    dependable different dirty disgusting distant dog dry dull elderly empty enormous enthusiastic exciting expensive
    extra fair fake famous fancy fast fastest fat favorite favourite fearful fierce filthy fine first fish flexible
    flower fluffy food foolish fragile friendly frightened fruit fun funny furry generous gentle giant gifted glass
    glowing gold golden golf good graceful gray great green grumpy guard hairy happy hard harmless harsh healthy heavy
    helpful helpless hidden high history honest hot huge humble hungry hurt ice icy ignorant important impressive
    incredible independent intelligent interesting iron jolly junk kayak kind kitchen large last laundry lazy leather
    lemon light lime little lively lonely long lost loud lovely loving loyal lucky lunch luxury magic magical mail
    massage math mean messy metal mighty mild mint model modern modest mom mommy monster motor mud muddy music
    mysterious naughty nearby nervous new next nice noisy normal nosy oak obedient old only open orange ordinary
    organized original other own pale palm paper patient peaceful peach pear pedal pepper perfect persistent pet photo
    picnic pine pink plastic playful polar police polite poor popular powerful precious prettiest pretty proud purple
    queen quick quiet race rag rainbow rare real red regular reindeer reliable restless rich right rope rough round
    rubber rude sad safe same sand scary seat second secret selfish serious shampoo sharp shiny shop shy silly silver
    sleepy slow small smaller smart smelly smooth sneaky soft sorry sour sparkly special spicy spoiled spray square
    steel store strange strong stubborn stuffed stupid subway successful sunny surprise sweet talking tall tallest
    tasty taxi tea teddy terrible thick thin third thoughtful tidy tight tiny tired tooth top tough toy train treasure
    tree troubled truck twin ugly unexpected unique unknown unusual useful valuable velvet village warm water weak
    wealthy weird wet wheat white whole wide wild wise wonderful wooden wrapped wrong yellow young yummy
    """.split()
)
