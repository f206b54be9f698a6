"""Statistics of stories as plain text, and the intervals that tell how far a figure can be trusted.

Design decisions
- **Every figure can fail.** Each has a text that it must tell from a good one: stories without articles, one story
  over and over, word salad, stories copied from the training data. The tests hold these against it.
- **Ratios of sums.** A rate over stories is all events over all occasions, so that a story weighs what it is long.
  Its interval is a bootstrap over stories: words of one story are not independent of each other, stories are.
- **Case and punctuation are left out of n-grams**, so that a repeated sentence is found wherever it stands.
- **No tagger.** What a missing article is, is decided by two word lists that were made by rule from real stories (by
  `metrics/article_statistics/word_lists.py`): countable nouns that real stories hardly ever leave bare, and the words
  that stand between a determiner and such a noun. On stories that the lists were not made from, the rate is 1.4 %,
  and it rises to 84 % when every article is deleted; the rest of the nouns have "my", "this", "two" or the like.
- **This file stands alone**: Python and numpy, nothing else of this package. The modules in `metrics/` carry it along
  (as a link in their folders, so that no formula stands twice) and so work where the package is not installed. That
  is why what is wrong with an input is a plain `ValueError` here.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


# Intervals


class Interval(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Sum of `numerators` over sum of `denominators`, both `[stories]`, with a percentile bootstrap over stories.

    (B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.) The same seed gives the same
    interval. It knows only what is in the sample: of one story, or of an event that never happened, it makes an
    interval of no width. Where nothing is counted, all three are nan.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` ({confidence}) must lie between 0 and 1.")
    if resamples < 1:
        raise ValueError(f"`resamples` ({resamples}) must be at least 1.")
    numerators, denominators = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(f"Arrays of one length are needed, not {numerators.shape} and {denominators.shape}.")
    if not denominators.sum():
        return Interval(math.nan, math.nan, math.nan)
    value = numerators.sum() / denominators.sum()
    generator = np.random.default_rng(seed)
    stories = len(numerators)
    at_once = max(1, 2_000_000 // stories)  # 16 MB of indices
    ratios = []
    for first in range(0, resamples, at_once):
        drawn = generator.integers(stories, size=(min(at_once, resamples - first), stories))
        above, below = numerators[drawn].sum(1), denominators[drawn].sum(1)
        ratios.append(above[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    # Rounding alone could leave the value outside where all stories have the same ratio.
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def bits_per_byte_interval(nats: np.ndarray, byte_counts: np.ndarray, **options) -> Interval:
    """Bits per byte of stories whose tokens cost `nats` in all, `[stories]`: nats / ln 2 / UTF-8 bytes.

    It compares across tokenizers, which nats per token do not. `options` are those of [`ratio_interval`].
    """
    return ratio_interval(np.asarray(nats, dtype=np.float64) / math.log(2), byte_counts, **options)


def wilson_interval(successes: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Share of `successes` with the score interval of E. B. Wilson (1927, doi.org/10.1080/01621459.1927.10502953).

    It keeps its promise for few trials and for shares of 0 and 1 too. `successes` may count a draw as a half.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` ({confidence}) must lie between 0 and 1.")
    if not 0 <= successes <= trials:
        raise ValueError(f"There cannot be {successes} successes in {trials} trials.")
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Interval(share, min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach)))


def flatten(statistics: dict[str, "Interval | float"]) -> dict[str, float]:
    """An `Interval` called x becomes x, x_low and x_high: plain numbers, as loggers and `evaluate` take them."""
    flat: dict[str, float] = {}
    for name, value in statistics.items():
        if isinstance(value, Interval):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = value
    return flat


# Words

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, numbers included; an apostrophe inside a word belongs to it."""
    return _WORD.findall(text.lower().replace("’", "'"))


def slice_words(text: str, start: int = 0, stop: int | None = None) -> str:
    """The part of a text from word `start` on and before word `stop`, counted as by [`words`], with all that stands
    between them, and with the end of the text where `stop` does not come before it."""
    begins = [match.start() for match in _WORD.finditer(text)]
    ends = [match.end() for match in _WORD.finditer(text)]
    if start >= len(begins):
        return ""
    return text[begins[start] : ends[stop - 1] if stop is not None and stop < len(ends) else len(text)]


def vocabulary(texts: Iterable[str], at_least: int = 1) -> frozenset[str]:
    """The words that occur `at_least` so often in `texts`."""
    counts = Counter(word for text in texts for word in words(text))
    return frozenset(word for word, count in counts.items() if count >= at_least)


def share_outside(texts: Iterable[str], known: frozenset[str] | set[str], **options) -> Interval:
    """Share of the words of `texts` that are not in `known`, such as the [`vocabulary`] of the training stories: words
    that the model has made up. `options` are those of [`ratio_interval`]."""
    counts = [(sum(word not in known for word in found), len(found)) for found in map(words, texts)]
    return ratio_interval(*_columns(counts, 2), **options)


def lengths_and_endings(
    texts: Sequence[str], finished: Sequence[bool] | None = None, *, confidence: float = 0.95
) -> dict[str, Interval | float]:
    """How long texts are and how they end.

    finished: for each text, whether the model ended it itself (by its end-of-text token), and was not cut off.

    Returns `mean_words`, `mean_bytes` (UTF-8), `final_punctuation` (share of texts that end in . ! ? or …, closing
    quotes and brackets behind it allowed), and `finished` where it was given.
    """
    _check_texts(texts)
    count = len(texts)
    statistics: dict[str, Interval | float] = {
        "mean_words": float(np.mean([len(words(text)) for text in texts])) if count else math.nan,
        "mean_bytes": float(np.mean([len(text.encode()) for text in texts])) if count else math.nan,
        "final_punctuation": wilson_interval(
            sum(bool(_ENDED.search(text)) for text in texts), count, confidence=confidence
        ),
    }
    if finished is not None:
        if len(finished) != count:
            raise ValueError(f"`finished` says of {len(finished)} texts how they ended, but there are {count}.")
        statistics["finished"] = wilson_interval(sum(map(bool, finished)), count, confidence=confidence)
    return statistics


_ENDED = re.compile(r"[.!?…][\"'”’)\]]*\s*\Z")


def _check_texts(texts: Sequence[str]) -> None:
    # `evaluate` hands over a string as the list of its characters.
    characters = len(texts) > 1 and any(texts) and all(len(text) <= 1 for text in texts)
    if isinstance(texts, (str, bytes)) or characters:
        raise ValueError("One string was given; give a list of texts.")


def _columns(rows: list[tuple], count: int) -> np.ndarray:
    """Rows of counts as arrays `[count, rows]`, also where there are none."""
    return np.array(rows, dtype=np.int64).reshape(-1, count).T


# Articles


class ArticleCounts(NamedTuple):
    """What [`count_articles`] counts in one text.

    Attributes:
        words: words of any kind.
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


ARTICLES = frozenset({"a", "an", "the"})
DETERMINERS = ARTICLES | frozenset(
    """
    my your his her its our their this that these those some any no each every another either neither what which whose
    one two three four five six seven eight nine ten eleven twelve
    """.split()
)
# "it's dog" has no possessive.
_CONTRACTED_IS = frozenset("it's that's he's she's there's here's what's who's where's how's let's".split())
# In front of a bare noun they make it correct: a list ("a cat and dog"), a call ("Hello, bird!"), a hyphen, "kind of".
NOT_COUNTED_AFTER = frozenset({"and", "or", "of", ",", '"', "'", "“", "‘", "-", "–", "—"})
INTENSIFIERS = frozenset({"very", "really", "most", "more"})
_PIECE = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*'?|\d+|[^\w\s]")


def split_pieces(text: str) -> list[str]:
    """Words, numbers and single marks of a text; an apostrophe inside or behind a word belongs to it."""
    return _PIECE.findall(text.replace("’", "'"))


def count_articles(text: str) -> ArticleCounts:
    """Count articles, and the places where one is missing or has the wrong form.

    A noun counts where it is in lower case, so that no name does, and where no other follows it ("toy car" is one).
    From it, adjectives and nouns that modify it are passed over ("big, red toy car") back to the word that must be a
    determiner, a possessive or a number.
    """
    originals = split_pieces(text)
    pieces = [piece.lower() for piece in originals]
    articles = nouns = omissions = indefinite = wrong_form = 0
    for at, piece in enumerate(pieces):
        if piece in ARTICLES:
            articles += 1
            if piece != "the" and at + 1 < len(pieces) and pieces[at + 1][0].isalnum():
                indefinite += 1
                wrong_form += (piece == "an") != begins_with_vowel_sound(originals[at + 1])
    for _, before in determiner_places(originals, COUNTABLE_NOUNS, MODIFIERS):
        nouns += 1
        omissions += not is_determiner(before)
    return ArticleCounts(len(_WORD.findall(text)), articles, nouns, omissions, indefinite, wrong_form)


def article_statistics(texts: Sequence[str], **options) -> dict[str, Interval]:
    """Do `texts` use articles as English does?

    options: those of [`ratio_interval`].

    Returns
        `stories_with_article`: share of texts with any article (Wilson interval). It is 1 for most word salad, too.
        `articles_per_100_words`.
        `article_omission`: share of countable singular nouns without any determiner (see [`count_articles`]).
        `wrong_a_or_an`: share of "a" and "an" that should be the other one.
    """
    _check_texts(texts)
    counts = ArticleCounts(*_columns([count_articles(text) for text in texts], len(ArticleCounts._fields)))
    with_article = wilson_interval(
        int((counts.articles > 0).sum()), len(texts), confidence=options.get("confidence", 0.95)
    )
    return {
        "stories_with_article": with_article,
        "articles_per_100_words": ratio_interval(100 * counts.articles, counts.words, **options),
        "article_omission": ratio_interval(counts.omissions, counts.nouns, **options),
        "wrong_a_or_an": ratio_interval(counts.wrong_form, counts.indefinite, **options),
    }


def determiner_places(
    originals: Sequence[str], nouns: frozenset[str] | set[str], modifiers: frozenset[str] | set[str]
) -> Iterator[tuple[str, str]]:
    """Each noun of [`split_pieces`] that needs a determiner, with the lower-case piece that should be one."""
    pieces = [piece.lower() for piece in originals]
    for at, noun in enumerate(originals):
        if noun in nouns and not (at + 1 < len(originals) and originals[at + 1] in nouns):
            before = _before_noun_phrase(pieces, at, modifiers)
            if before not in NOT_COUNTED_AFTER:
                yield noun, before


def _before_noun_phrase(pieces: Sequence[str], at: int, modifiers: frozenset[str] | set[str]) -> str:
    """The piece before the noun at `at` and all that modifies it; "" at the beginning of the text."""
    before = at - 1
    while before >= 0:
        joins = pieces[before] in (",", "and") and 0 < before < at - 1 and pieces[before - 1] in modifiers
        if pieces[before] in modifiers or joins:
            before -= 1
        else:
            return pieces[before]
    return ""


def is_determiner(piece: str) -> bool:
    """Whether a lower-case piece can stand where an article is due: a determiner, a number, a possessive."""
    possessive = piece.endswith(("'s", "s'")) and piece not in _CONTRACTED_IS
    return piece in DETERMINERS or piece.isdigit() or possessive


_CONSONANT_SOUND = re.compile(
    r"(?:u\Z|one\Z|once\Z|oui|eu|ewe|uni(?:[cfoqstv]|\Z)|us(?:e|u|a)|ut(?:e|i|o)|ura|uku)", re.IGNORECASE
)
_VOWEL_SOUND = re.compile(r"(?:[aeiou]|hour|hono|honest|heir|8\d*\Z|1[18]\Z|[fhlmnrsx]\Z)", re.IGNORECASE)
_SPELT_OUT = re.compile(r"[AEFHILMNORSX][B-DF-HJ-NP-TV-Z]*\Z")


def begins_with_vowel_sound(word: str) -> bool:
    """Whether "an" is due before `word`, judged by its letters: "an hour", "a unicorn", "an 8", "an X-ray"."""
    if _SPELT_OUT.match(word):
        return True
    return bool(_VOWEL_SOUND.match(word)) and not _CONSONANT_SOUND.match(word)


# Repetition and copying


def repetition(texts: Sequence[str], **options) -> dict[str, Interval | float]:
    """How much `texts` say again.

    options: those of [`ratio_interval`].

    Returns
        `distinct_1`, `distinct_2`, `distinct_3`: different n-grams of all texts over all their n-grams (J. Li et al.
            2016, arXiv 1510.03055). It falls with the amount of text, so compare equal amounts only; it is nan where
            there is no n-gram.
        `repeated_4grams`: share of 4-grams that have stood earlier in the same text (S. Welleck et al. 2019, arXiv
            1908.04319, there as a mean over texts).
        `longest_repeated_run`: words of the longest run that occurs twice in the same text (the two may overlap), as
            mean over texts; `longest_repeated_run_max`: the same of the worst text.
    """
    _check_texts(texts)
    ids, story = _word_ids(texts)
    statistics: dict[str, Interval | float] = {}
    for n in (1, 2, 3):
        grams, _ = _ngrams(ids, story, n)
        statistics[f"distinct_{n}"] = len(np.unique(grams)) / len(grams) if len(grams) else math.nan
    grams, owner = _ngrams(ids, story, 4)
    first = np.unique(grams + owner * (grams.max(initial=0) + 1), return_index=True)[1]
    counts, distinct = (np.bincount(owner[at], minlength=len(texts)) for at in (slice(None), first))
    statistics["repeated_4grams"] = ratio_interval(counts - distinct, counts, **options)
    longest = longest_repeated_runs(texts)
    statistics["longest_repeated_run"] = ratio_interval(longest, np.ones(len(texts)), **options)
    statistics["longest_repeated_run_max"] = float(longest.max()) if len(texts) else math.nan
    return statistics


def longest_repeated_runs(texts: Sequence[str]) -> np.ndarray:
    """Words of the longest run that occurs at least twice in each text, int64 `[texts]`; 0 where no word does."""
    _check_texts(texts)
    ids, story = _word_ids(texts)
    longest = np.zeros(len(texts), dtype=np.int64)
    # With its text as part of it, a word is the same only inside one text.
    own = story * (ids.max(initial=0) + 1) + ids

    def occur_twice(at: np.ndarray, gram: np.ndarray) -> np.ndarray:
        return np.bincount(gram)[gram] > 1

    for n, at in _grow(own, ids, story, occur_twice):
        longest[story[at]] = n
    return longest


def longest_copied_runs(texts: Sequence[str], training_texts: Sequence[str]) -> list[list[str]]:
    """For each text, the longest run of its words that stands in a training text; `len` of it is its length in words.

    Exact, in time about linear in all the words: n-grams are grown word by word, and only what occurs on both sides is
    kept. 16,000 stories (13 MB) to compare with take seconds.
    """
    _check_texts(texts)
    _check_texts(training_texts)
    ids, story = _word_ids([*training_texts, *texts])
    from_training = story < len(training_texts)
    begins, longest = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts), dtype=np.int64)

    def on_both_sides(at: np.ndarray, gram: np.ndarray) -> np.ndarray:
        sides = np.zeros((2, gram.max(initial=-1) + 1), dtype=bool)
        for side in (False, True):
            sides[int(side), gram[from_training[at] == side]] = True
        return sides.all(0)[gram]

    for n, at in _grow(ids, ids, story, on_both_sides):
        copied = at[~from_training[at]]
        longest[story[copied] - len(training_texts)] = n
        begins[story[copied] - len(training_texts)] = copied
    first = np.searchsorted(story, np.arange(len(texts)) + len(training_texts))
    return [
        words(text)[begin - start :][:length]
        for text, begin, start, length in zip(texts, begins, first, longest, strict=True)
    ]


def _word_ids(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The words of all texts as numbers from 0, and the text that each belongs to; int64 `[words]`."""
    numbers: dict[str, int] = {}
    found = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
    counts = np.array([len(ids) for ids in found], dtype=np.int64)
    ids = np.fromiter((number for ids in found for number in ids), dtype=np.int64, count=counts.sum())
    return ids, np.repeat(np.arange(len(texts)), counts)


def _ngrams(ids: np.ndarray, story: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams that lie within a story, as numbers that are equal where they are, and the story of each."""
    if len(ids) < n:
        return ids[:0], story[:0]
    grams = ids
    for length in range(2, n + 1):
        grams = np.unique(grams[: len(ids) - length + 1], return_inverse=True)[1]
        grams = grams * (ids.max(initial=0) + 1) + ids[length - 1 :]
    grams = np.unique(grams, return_inverse=True)[1]
    inside = story[: len(grams)] == story[n - 1 :]
    return grams[inside], story[: len(grams)][inside]


def _grow(first: np.ndarray, ids: np.ndarray, story: np.ndarray, wanted) -> Iterator[tuple[int, np.ndarray]]:
    """For n = 1, 2, ... the positions where an n-gram begins of which `wanted(positions, gram_numbers)` is true, as
    long as there are any. Whoever is wanted must have a wanted beginning: only those are grown.

    Args:
        first: numbers that are equal where the first words count as equal; like the others `[words]`.
    """
    at, gram, n = np.arange(len(ids)), first, 1
    while True:
        gram = np.unique(gram, return_inverse=True)[1]
        kept = wanted(at, gram)
        at, gram = at[kept], gram[kept]
        if not len(at):
            return
        yield n, at
        inside = at + n < len(ids)
        inside[inside] = story[at[inside] + n] == story[at[inside]]
        at, gram = at[inside], gram[inside]
        gram = gram * (ids.max(initial=0) + 1) + ids[at + n]
        n += 1


# Word lists: what metrics/article_statistics/word_lists.py prints for 12,000 TinyStories training stories

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
