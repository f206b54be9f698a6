"""The built-in corpus: reproducible, varied, and without errors in its English that a rule can find."""

import hashlib
import re
import statistics
from collections import Counter
from itertools import islice
from random import Random

import pytest

from tinystories.data.names import FIRST_NAMES
from tinystories.data.synthetic import NOTICE, sample_stories
from tinystories.data.synthetic.grammar import Thing, choose_articles
from tinystories.data.synthetic.plots import PLOTS
from tinystories.data.synthetic.plots.games import taking_turns
from tinystories.data.synthetic.story import Story
from tinystories.data.synthetic.words import ANIMALS, BOYS, BRIGHT_COLORS, GIRLS, HE_ANIMALS, SHE_ANIMALS, SURNAMES
from tinystories.data.vowel_sounds import begins_with_vowel_sound


# Any change to the corpus changes this; put the new value here when the change is meant.
SHA256_OF_1000 = "6526e561d6189b1d5b31572c70edf0ca60f1cfdb8ea61b8a26e49d231274aced"

FEMALE_NAMES = frozenset(GIRLS + SHE_ANIMALS)
MALE_NAMES = frozenset(BOYS + HE_ANIMALS)

SPEECH_VERBS = "said|asked|cried|shouted|whispered|called|screamed|wondered|thought|sang|told"

WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
# A sentence ends at . ! or ?, with or without a quote after it; titles do not end one.
SENTENCE_END = re.compile(r'(?<!Mr)(?<!Mrs)[.!?]"?(?:\s+|$)')


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return list(sample_stories(20_000))


@pytest.fixture(scope="module")
def some(stories) -> list[str]:
    """Enough stories for checks of every sentence."""
    return stories[:8_000]


@pytest.fixture(scope="module")
def word_counts(stories) -> Counter:
    return Counter(word.lower() for story in stories for word in WORD.findall(story))


def first_match(pattern: str, stories: list[str], flags: int = 0) -> str | None:
    """The first match of a pattern with the text around it, or None."""
    for story in stories:
        if match := re.search(pattern, story, flags):
            return story[max(0, match.start() - 40) : match.end() + 40]
    return None


def test_the_notice_is_one_sentence():
    assert "synthetic" in NOTICE and "not the TinyStories dataset" in NOTICE
    assert len(SENTENCE_END.findall(NOTICE)) == 1


# The stream of stories


def test_stories_equal_the_recorded_ones():
    text = "\0".join(sample_stories(1000, seed=0))
    assert hashlib.sha256(text.encode("ascii")).hexdigest() == SHA256_OF_1000


def test_the_number_of_stories_only_limits_the_stream(stories):
    assert list(sample_stories(7)) == stories[:7]
    assert list(islice(sample_stories(10**9), 300)) == stories[:300]
    assert list(sample_stories(0)) == []


def test_seeds_differ():
    first, second = set(sample_stories(200, seed=1)), set(sample_stories(200, seed=2))
    assert len(first & second) < 5


def test_a_negative_number_is_refused_at_once():
    with pytest.raises(ValueError, match="-1"):
        sample_stories(-1)


def test_all_stories_are_distinct(stories):
    assert len(set(stories)) == len(stories) == 20_000


@pytest.mark.parametrize("plot", (*PLOTS, taking_turns), ids=lambda plot: plot.__name__)
def test_every_plot_has_many_variants(plot):
    tellings = set()
    for seed in range(30):
        story = Story(Random(seed))
        plot(story)
        tellings.add(story.text())
    assert len(tellings) == 30


def test_games_are_full_of_names():
    for seed in range(30):
        story = Story(Random(seed))
        taking_turns(story)
        found = re.findall(r"[A-Za-z]+", story.text())
        assert sum(word in FIRST_NAMES.union(SURNAMES) for word in found) > 0.15 * len(found)


def test_there_are_many_plots():
    assert len(PLOTS) == len(set(PLOTS)) >= 25


# Size and variety


def test_words(word_counts):
    assert len(word_counts) >= 1_200
    assert sum(count >= 50 for count in word_counts.values()) >= 800


def test_lengths(stories):
    lengths = [len(story.split()) for story in stories]
    assert min(lengths) >= 60 and max(lengths) <= 220
    assert 100 <= statistics.mean(lengths) <= 150
    assert statistics.stdev(lengths) > 15


def test_paragraphs(stories):
    paragraphs = Counter(story.count("\n\n") + 1 for story in stories)
    assert set(paragraphs) <= {1, 2, 3, 4, 5}
    assert 0.2 < paragraphs[1] / len(stories) < 0.8


@pytest.mark.parametrize(
    "beginning",
    [
        "Once upon a time there was a ",
        "Once upon a time, there was a ",
        "Once upon a time, a ",
        "There was once a ",
        "One day, a little girl named ",
        "In the garden, a ",
        "In the garden, a small bird ",
        "A big ",
        "A big dog wanted to play with ",
        "The happy cat found ",
        "It was ",
        "Lily was a ",
    ],
)
def test_stories_begin_in_varied_ways(stories, beginning):
    assert any(story.startswith(beginning) for story in stories)


def test_no_beginning_dominates(stories):
    beginnings = Counter(" ".join(story.split()[:4]) for story in stories)
    assert beginnings.most_common(1)[0][1] < 0.25 * len(stories)


def test_no_sentence_dominates(stories):
    sentences = Counter(sentence for story in stories for sentence in set(re.split(r"(?<=[.!?]) ", story)))
    assert sentences.most_common(1)[0][1] < 0.05 * len(stories)


# Typography


def test_no_template_syntax_is_left(some):
    assert all(story.isascii() for story in some)
    assert first_match(r"[{}\[\]|<>_*\\#]|\bNone\b|  |\n\n\n|^\s|\s$|[ \t]\n|\n ", some) is None
    assert first_match(r"(?<!\n)\n(?!\n)", some) is None


def test_quotes_are_balanced_in_every_paragraph(some):
    for story in some:
        for paragraph in story.split("\n\n"):
            opened = False
            for match in re.finditer('"', paragraph):
                before, after = paragraph[: match.start()][-1:], paragraph[match.end() :][:1]
                # An opening quote follows a space and touches a word; a closing one is the reverse.
                assert (before in ("", " ") and after.isalpha()) if not opened else after in ("", " "), paragraph
                opened = not opened
            assert not opened, paragraph


def test_speech_ends_with_punctuation_and_its_tag_is_lowercase(some):
    assert first_match(r'"[A-Z][^"]*[^.,!?"]" (?:said|asked|cried|whispered|shouted|he|she)\b', some) is None
    assert first_match(r'[!?]" (?:Said|Asked|Cried|Shouted|Whispered|Called)', some) is None
    assert first_match(r'\." (?:said|asked|cried|shouted|whispered|he said|she said)', some) is None


def test_sentences_begin_with_a_capital_and_end_with_a_stop(some):
    for story in some:
        for paragraph in story.split("\n\n"):
            assert re.search(r'[.!?]"?$', paragraph), paragraph
            for sentence in SENTENCE_END.split(paragraph):
                # After speech, the sentence goes on with its tag: "Stop!" he cried.
                start = sentence.lstrip('"')
                goes_on = re.match(rf"(?:[\w.]+ ){{0,3}}(?:{SPEECH_VERBS})\b", start)
                assert not start or start[0].isupper() or goes_on, (sentence, paragraph)


def test_punctuation_is_well_placed(some):
    assert first_match(r"[,.!?]{2}| [,.!?]|[,!?][A-Za-z]|[a-z]\.[A-Za-z]|[(){};:]", some) is None


# Grammar

AN_ALTHOUGH_CONSONANT = ("hour", "honest", "honor", "heir")
A_ALTHOUGH_VOWEL = ("one", "once", "use", "usual", "unicorn", "uniform", "ukulele", "universe", "european", "useful")


def needs_an(word: str) -> bool:
    if word in AN_ALTHOUGH_CONSONANT:
        return True
    return word[0] in "aeiou" and word not in A_ALTHOUGH_VOWEL


def test_a_and_an_follow_the_sound(some):
    articles = Counter()
    for story in some:
        for article, word in re.findall(r"\b([Aa]n?) ([A-Za-z]+)", story):
            assert (article.lower() == "an") == needs_an(word.lower()), f"{article} {word}"
            articles[article.lower()] += 1
    assert articles["an"] > 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a orange kite and a big apple", "an orange kite and a big apple"),
        ("A old hat took a hour.", "An old hat took an hour."),
        ("an unicorn had a useful idea, a one-day trip", "a unicorn had a useful idea, a one-day trip"),
        ("a honest man, a house, a ugly duck", "an honest man, a house, an ugly duck"),
        ("Mia has a cat. a, b", "Mia has a cat. a, b"),
    ],
)
def test_choose_articles(text, expected):
    assert choose_articles(text) == expected


@pytest.mark.parametrize("word", ["useful", "one", "Unicorn", "house", "ukulele"])
def test_consonant_sounds(word):
    assert not begins_with_vowel_sound(word)


def test_no_article_where_english_has_none(some):
    names = "|".join(sorted(FEMALE_NAMES | MALE_NAMES))
    assert first_match(rf"\b(?:[Aa]n?|[Tt]he) (?:{names})\b", some) is None
    mass = "bread|flour|water|money|sugar|honey|wool|snow|mud|grass|hay|cheese|lemonade|soup|food|music"
    # "a cheese sandwich", "a water bucket" and the like are fine: only a mass noun that ends its phrase counts.
    assert first_match(rf"\b[Aa]n? (?:{mass})(?=[.,!?]| (?:and|was|in|on|for|to)\b)", some) is None
    assert first_match(r"\b(?:in|at|to) (?:a|an) (?:bed|home|summer|winter|spring|school)\b(?! of)", some) is None


def test_no_article_a_before_a_plural(some):
    """If the first or second word after "a" or "an" ends in "s", it is a known singular."""
    singular = {"bus", "glass", "mess", "class", "cross", "curious", "enormous", "delicious"}
    verbs = {"was", "is", "has", "makes", "looks", "comes"}
    of_many = {"few", "hundred", "thousand"}
    checked = 0
    for story in some:
        for first, second in re.findall(r"\b[Aa]n? (\w+)(?: (\w+))?", story):
            checked += 1
            assert not first.endswith("s") or first in singular, (first, second)
            # "a boy was", "a few steps", "a tower as tall as": the second word is no noun of this article.
            if second.endswith("s") and first not in of_many:
                assert second in singular | verbs | {"as", "always", "brothers"}, (first, second)
    assert checked > 10_000


def test_no_doubled_words_or_determiners(some):
    assert first_match(r"\b(\w+) \1\b", some, re.IGNORECASE) is None
    determiners = "a|an|the|some|my|your|his|its|our|their"
    assert first_match(rf"\b(?:{determiners}) (?:{determiners})\b", some, re.IGNORECASE) is None


def test_articles_are_as_frequent_as_in_english(word_counts):
    share = {word: word_counts[word] / word_counts.total() for word in ("a", "an", "the")}
    assert 0.07 < sum(share.values()) < 0.11
    assert 0.03 < share["a"] and 0.03 < share["the"] < 0.07 and 0.001 < share["an"] < 0.01


def test_every_story_has_an_article(stories):
    assert [story for story in stories if not re.search(r"\b(?:a|an|the)\b", story, re.IGNORECASE)] == []


def test_verbs_agree_with_their_subjects(some):
    # "let it have the bread" and "I wish it were Sunday" are right.
    assert first_match(r"(?<!let )(?<!Let )\b(?:he|she|it) (?:are|don't|haven't)\b", some, re.IGNORECASE) is None
    assert first_match(r"(?<!wish )(?<!if )\b(?:he|she|it) were\b", some, re.IGNORECASE) is None
    assert first_match(r"\b(?:they|we|you) (?:was|is|has|does|doesn't)\b", some, re.IGNORECASE) is None
    assert first_match(r"\bI (?:are|is|has|does|were not)\b", some) is None
    assert first_match(r"\b(?:There|there) was (?:some )?(?:two|three|four|many|balloons|cookies)\b", some) is None


@pytest.mark.parametrize(
    ("number", "a", "they", "was"),
    [
        ("one", "a small egg", "it", "was"),
        ("many", "some small egg", "they", "were"),
        ("mass", "some small egg", "it", "was"),
    ],
)
def test_things_have_a_grammatical_number(number, a, they, was):
    thing = Thing("egg", "small", number)
    assert (thing.a, thing.they, thing.was) == (a, they, was)


# Characters

INTRODUCTION = (
    r"(?:named|called)(?: it)? {name}\b",
    r"(?:friend|cousin|sister|brother) {name}\b",
    r"(?:^|[.!?] ){name} was an? ",
    r"^{name} and [A-Z]\w+ were ",
    r"^{name} and (?:his|her) friend [A-Z]",
    r"^[A-Z]\w+ and {name} were ",
    r'"I\'m {name}," (?:said|whispered) the (?:boy|girl)',
    r'"I\'m {name}," (?:he|she) said',
    r'"{name}," said the (?:boy|girl)',
)


def test_every_name_is_introduced_before_it_is_used(some):
    names = FEMALE_NAMES | MALE_NAMES
    seen = set()
    for story in some:
        for name in names.intersection(WORD.findall(story.replace("'s", ""))):
            first = re.search(rf"\b{name}\b", story).start()
            introductions = (re.search(pattern.format(name=name), story) for pattern in INTRODUCTION)
            assert any(found and found.start() <= first <= found.end() for found in introductions), (name, story)
            seen.add(name)
    assert len(seen) >= 60


def test_neighbors_are_introduced(some):
    for story in some:
        if match := re.search(rf"(\w+) (\w+), (?:Mrs?)\. (?:{'|'.join(SURNAMES)})\b|\bMrs?\. ", story):
            assert match[1] in ("his", "her") and match[2] == "neighbor" or "Mr. Snow" in story, story


# People who bring a gender of their own into a story, and places where animals have one.
MALE_WORDS = re.compile(
    r"\b(?:boys?|man|men|dad|father|grandpa|uncle|brothers?|king|runner|Mr|snowman|zookeeper|farm|farmer)\b"
)
FEMALE_WORDS = re.compile(
    r"\b(?:girls?|wom[ae]n|mom|mother|mama|grandma|aunt|sisters?|queen|Mrs|Miss|zookeeper|farm|farmer)\b"
)
MALE_PRONOUN = re.compile(r"\b(?:he|him|his|himself)\b", re.IGNORECASE)
FEMALE_PRONOUN = re.compile(r"\b(?:she|her|hers|herself)\b", re.IGNORECASE)


def test_pronouns_agree_with_the_only_character(some):
    """If all people of a story have one gender, no pronoun has the other; other animals are "it"."""
    checked = Counter()
    for story in some:
        words = set(WORD.findall(story.replace("'s", "")))
        others = re.search(r"\b(?:friend|named|called)\b.*\b(?:friend|named|called)\b", story, re.DOTALL)
        child = re.match(r"[^.]*?\b(girl|boy)\b", story) or re.match(r"\w+ was an? [\w ]*?(girl|boy)\.", story)
        if not child or others:
            continue
        kind = child[1]
        male = MALE_WORDS.search(story) or words & MALE_NAMES
        female = FEMALE_WORDS.search(story) or words & FEMALE_NAMES
        if kind == "girl" and not male:
            assert not MALE_PRONOUN.search(story), story
            checked["girl"] += 1
        if kind == "boy" and not female:
            assert not FEMALE_PRONOUN.search(story), story
            checked["boy"] += 1
    assert checked["girl"] > 200 and checked["boy"] > 200


def test_animals_keep_their_kind(some):
    """ "a gray mouse named Pip" is never "Pip the fox" later, and no other animal has that name."""
    checked = 0
    for story in some:
        kinds = {}
        for kind, name in re.findall(r"\b(\w+) (?:named|called) ([A-Z]\w+)\b", story):
            assert kinds.setdefault(name, kind) == kind, story
        for name, kind in re.findall(r"\b([A-Z][a-z]+) the (\w+)\b", story):
            if kind in ANIMALS:
                assert kinds.setdefault(name, kind) == kind, story
        checked += len(kinds)
    assert checked > 4_000


def test_things_keep_their_color(some):
    toys = "ball|car|boat|truck|train|doll|drum|kite|whistle|robot|plane|wagon|bear|hat|cap|balloon|puzzle|scooter"
    colored = re.compile(rf"\b({'|'.join(BRIGHT_COLORS)}) (?:\w+ )?({toys})\b")
    checked = 0
    for story in some:
        colors = {}
        for color, toy in colored.findall(story):
            assert colors.setdefault(toy, color) == color, story
        checked += len(colors)
    assert checked > 400
