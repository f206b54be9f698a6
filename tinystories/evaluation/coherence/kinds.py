"""One rule per kind of probe: it finds the places in stories where a text can be exchanged or moved.

- Two places whose texts are exchanged make two probes, so that each text is true once and false once. The places have
  the same `key`: what surrounds them, and how far back the story must be remembered. A model that depends on these
  alone therefore has an accuracy of 0.5.
- A rule applies only if the false text contradicts the story; what could also be true is left out (`exclusions`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...text import word_lists as lists
from ...text.characters import OPENING_SENTENCES, unintroduced_names
from ...text.gender import HE, NAMES, NOUNS, PRONOUNS, SHE, STRICT, bare, genders
from ...text.sentences import Sentence
from ...text.things import CATEGORY, KINDRED, PLURALS
from . import exclusions
from .story import Corpus, Story


class Place(NamedTuple):
    """A text of a story that another text replaces.

    Attributes:
        story: index of the story.
        start, end: the text that is replaced.
        stop: end of the text that is scored; it begins at `start`.
        key: the texts of two places with the same key may be exchanged; the first element is the group, over which
            the probes of a kind are spread.
        item: the words concerned; a kind has only a few probes with the same ones.
        earlier: where the text starts that the false one contradicts; a context without it decides nothing.
        distance: number of words between `earlier` and `start`, if `earlier` is one place.
        moved: the false text, if it does not come from another place.
        topic: words of the text that only few stories contain.
    """

    story: int
    start: int
    end: int
    stop: int
    key: tuple
    item: str
    earlier: int
    distance: int | None = None
    moved: str | None = None
    topic: tuple[str, ...] = ()


SHORTEST_DISTANCE = 5  # words, so that no model sees both places in a window of five words
DISTANCES = (10, 20, 40, 80)  # ends of ranges, in words


DISTANCE_RANGES = (
    *(f"{low + 1}-{high}" for low, high in zip((0, *DISTANCES), DISTANCES, strict=False)),
    f"{DISTANCES[-1] + 1}+",
)


def distance_range(distance: int) -> str:
    """The range of a distance in words: "1-10", "11-20", ..., "81+"."""
    return DISTANCE_RANGES[bisect_left(DISTANCES, distance)]


def _prefix(story: Story, start: int) -> str:
    """The character before a place: words at the beginning of a line have other tokens."""
    return story.text[start - 1 : start]


def _ends_noun_phrase(sentence: Sentence, place: int) -> bool:
    """Whether a word is not the first half of a compound noun ("the bird house") or an adjective ("the hot day")."""
    return bool(sentence.marks[place]) or sentence.next(place) in lists.FOLLOWERS


# Name


def names(corpus: Corpus, index: int) -> Iterator[Place]:
    """Mentions of a character who was mentioned in an earlier sentence, after the opening of the story."""
    story = corpus.stories[index]
    for number, sentence in story.plain.items():
        if number < OPENING_SENTENCES:
            continue
        for place, name in enumerate(sentence.words):
            if name not in NAMES or name in exclusions.EXCLUDED_NAMES:
                continue
            if name.lower() in story.mentions or story.mentions_in(name, sentence) > 1:
                continue
            start = sentence.offset(place)
            earlier = story.last_mention(name, sentence.start)
            if earlier is None:
                continue
            distance = story.words_between(earlier, start)
            if distance >= SHORTEST_DISTANCE:
                key = (distance_range(distance), NAMES[name], _prefix(story, start))
                yield Place(index, start, start + len(name), story.end_of(number), key, name, earlier, distance)


FREQUENCY_RATIO = 2  # of two words that are exchanged


def name_fits(corpus: Corpus, place: Place, other: Place) -> bool:
    """Whether the name is as frequent, and would be that of a character who was never introduced."""
    story, new = corpus.stories[place.story], other.item
    if not corpus.equally_frequent(place.item, new, FREQUENCY_RATIO):
        return False
    if new.lower() in story.mentions or exclusions.may_be_called(new, story.capitalized):
        return False
    # What introduces a name is in its own sentence.
    return new in unintroduced_names(story.text[: place.start] + new + story.text[place.end : place.stop])


# Object


def objects(corpus: Corpus, index: int) -> Iterator[Place]:
    """ "The ball", of a ball that was mentioned in an earlier sentence."""
    story = corpus.stories[index]
    for number, sentence in story.plain.items():
        for place, noun in enumerate(sentence.lower):
            if place == 0 or noun not in CATEGORY or sentence.previous(place) != "the":
                continue
            if noun in exclusions.EXCLUDED_OBJECTS or sentence.words[place] != noun:  # "the Mole" is a name
                continue
            if not _ends_noun_phrase(sentence, place):
                continue
            start = sentence.offset(place)
            mentions = [story.last_mention(form, sentence.start) for form in (noun, PLURALS[noun])]
            earlier = max((offset for offset in mentions if offset is not None), default=None)
            if earlier is None or story.mentions_in(noun, sentence) > 1:
                continue
            distance = story.words_between(earlier, start)
            if distance < SHORTEST_DISTANCE:
                continue
            around = (sentence.previous(place - 1) if place > 1 else "", sentence.marks[place] or sentence.next(place))
            key = (distance_range(distance), CATEGORY[noun], *around)
            yield Place(index, start, start + len(noun), story.end_of(number), key, noun, earlier, distance)


def object_fits(corpus: Corpus, place: Place, other: Place) -> bool:
    """Whether the noun is as frequent, and the story mentions nothing that it could mean."""
    story, new = corpus.stories[place.story], other.item
    if not corpus.equally_frequent(place.item, new, FREQUENCY_RATIO):
        return False
    could_mean = exclusions.UNSPECIFIED[CATEGORY[new]].words | _kindred(new)
    return could_mean.isdisjoint(story.mentions)


def _kindred(noun: str) -> set[str]:
    """Nouns that may mean the same thing, and their plurals."""
    words = KINDRED.get(noun, {noun})
    return words | {PLURALS.get(word, word + "s") for word in words}


# Pronoun

_PLURAL_PRONOUNS = frozenset("they them their theirs themselves we us our both".split())
_LATEST_PRONOUN = 3  # words before it in its sentence: "One day, she ..."
_SHORTEST_PRONOUN_TEXT = 3  # words: "She gave" could be anyone


def pronouns(corpus: Corpus, index: int) -> Iterator[Place]:
    """ "He" or "she" as the first mention of someone in a sentence, after a sentence with a single character.

    The other gender occurs earlier in the story, but not in the narrated sentence before that one: the pronoun could
    mean its character. The text is scored up to the next word for a person. The places of a key have the same number
    of words of one gender in excess of the other, so counting them does not help.
    """
    story = corpus.stories[index]
    for number, sentence in story.plain.items():
        before = story.plain.get(number - 1)
        if before is None or number < OPENING_SENTENCES:
            continue
        people = [place for place in range(len(sentence)) if _is_person(sentence, place)]
        if not people or people[0] > _LATEST_PRONOUN or sentence.lower[people[0]] not in (SHE, HE):
            continue
        place, gender = people[0], sentence.lower[people[0]]
        antecedent = _only_character(before)
        if antecedent is None or antecedent[0] != gender:
            continue
        if any(other != gender for other, _ in genders(story.narration(number - 2))):
            continue
        found = Counter(gender for gender, _ in genders(story.text[: sentence.start]))
        if not (found[SHE] and found[HE]):
            continue
        start, earlier = sentence.offset(place), antecedent[1]
        stop = sentence.offset(people[1]) - 1 if len(people) > 1 else story.end_of(number)
        if story.words_between(start, stop) < _SHORTEST_PRONOUN_TEXT:
            continue
        key = ("", _prefix(story, start), place > 0, found[SHE] - found[HE])
        item = " ".join([gender, *sentence.lower[place + 1 : place + 2]])
        distance = story.words_between(earlier, start)
        yield Place(index, start, start + len(gender), stop, key, item, earlier, distance)


def pronoun_fits(corpus: Corpus, place: Place, other: Place) -> bool:
    """Whether the pronouns differ."""
    return place.item.split()[0] != other.item.split()[0]


def _is_person(sentence: Sentence, place: int) -> bool:
    """Whether a word of a sentence refers to people or animals; any word with a capital may be a name, except common
    words at the beginning of the sentence."""
    word = bare(sentence.words[place])
    lower = word.lower()
    if lower in PRONOUNS or lower in NOUNS or lower in lists.OTHERS or lower in _PLURAL_PRONOUNS or word in NAMES:
        return True
    return word[0].isupper() and word != "I" and not (place == 0 and lower in lists.OPENERS)


def _only_character(sentence: Sentence) -> tuple[str, int] | None:
    """Gender and offset of the only character of a sentence: a name or a noun, and pronouns of the same gender."""
    found = set()
    first = None
    for place, word in enumerate(sentence.words):
        lower, name = bare(word).lower(), bare(word)
        gender = NAMES.get(name) or STRICT.get(name) or NOUNS.get(lower)
        if gender:
            found.add((gender, lower))
            first = first or (gender, sentence.offset(place))
        elif lower in PRONOUNS:
            if first is None or PRONOUNS[lower] != first[0]:
                return None
        elif _is_person(sentence, place):
            return None
    return first if len(found) == 1 else None


# Order


def orders(corpus: Corpus, index: int) -> Iterator[Place]:
    """Two neighbouring sentences: the first introduces "a ball", the second is about "the ball"."""
    story = corpus.stories[index]
    for number, sentence in story.plain.items():
        following = story.plain.get(number + 1)
        if following is None or not 1 <= number < len(story.spans) - 2 or not story.follows_directly(number + 1):
            continue
        for noun in _introduced(story, sentence):
            if noun in following.lower and _definite(following, noun):
                start, end = sentence.start, story.spans[number + 1][1]
                moved = f"{following} {sentence}"
                key = ("",)
                yield Place(index, start, end, story.end_of(number + 2), key, noun, start, None, moved)
                break


def _introduced(story: Story, sentence: Sentence) -> Iterator[str]:
    """Nouns with "a" or "an" that the story has not mentioned before."""
    for place, noun in enumerate(sentence.lower):
        if noun not in CATEGORY or noun in exclusions.EXCLUDED_OBJECTS:
            continue
        article = next(
            (at for at in range(place - 1, max(-1, place - 4), -1) if sentence.lower[at] in ("a", "an")), None
        )
        if article is None or any(word not in lists.ADJECTIVES for word in sentence.lower[article + 1 : place]):
            continue
        forms = KINDRED[noun] | {PLURALS[noun]} | exclusions.UNSPECIFIED[CATEGORY[noun]].words
        if all(story.last_mention(form, sentence.start) is None for form in forms):
            yield noun


def _definite(sentence: Sentence, noun: str) -> bool:
    place = sentence.lower.index(noun)
    return sentence.previous(place) == "the" and _ends_noun_phrase(sentence, place)


# Ending and middle

_DEFINITE = frozenset("the his her their its this these those".split())  # not "that": "learned that being brave"
_NOT_NOUNS = lists.ADJECTIVES | lists.FOLLOWERS | lists.BASES_THAT_ARE_NOUNS
TOPIC_FRACTION = 0.05  # a word in a larger fraction of the stories is not specific to a story
LONGEST_DIFFERENCE = 2  # words, between two sentences that are exchanged


def endings(corpus: Corpus, index: int) -> Iterator[Place]:
    """The last sentence."""
    story = corpus.stories[index]
    last = len(story.spans) - 1
    if last in story.plain and not story.text[story.spans[last][1] :].strip():
        length = len(story.text.split()) // 50  # stories of like length
        yield from _sentence_place(corpus, index, last, (length,))


def middles(corpus: Corpus, index: int) -> Iterator[Place]:
    """A sentence that is neither in the opening nor near the end."""
    story = corpus.stories[index]
    if story.gender:
        for number in story.plain:
            if OPENING_SENTENCES <= number < len(story.spans) - 2:
                yield from _sentence_place(corpus, index, number, ())


def _sentence_place(corpus: Corpus, index: int, number: int, key: tuple) -> Iterator[Place]:
    """The sentence, if it mentions nobody by name and something that the story has mentioned before."""
    story = corpus.stories[index]
    sentence = story.plain[number]
    if sentence.lower[0] not in lists.OPENERS or not all(word.islower() for word in sentence.words[1:]):
        return
    if topic := topic_words(corpus, index, sentence):
        people = frozenset(
            PRONOUNS.get(word) or word for place, word in enumerate(sentence.lower) if _is_person(sentence, place)
        )
        start, end = story.spans[number]
        key = ("", _prefix(story, start), story.gender, people & {SHE, HE, "they"}, *key)
        stop = story.end_of(number + 1)
        yield Place(
            index, start, end, stop, key, " ".join(sentence.lower[:3]), min(topic.values()), None, None, tuple(topic)
        )


def _is_definite_noun(sentence: Sentence, place: int) -> bool:
    """Whether a word ends a noun phrase that begins with "the", "his" etc. and has at most one adjective."""
    if not _ends_noun_phrase(sentence, place):
        return False
    before = sentence.previous(place)
    if before in lists.ADJECTIVES:
        before = sentence.previous(place - 1)
    return before in _DEFINITE


def topic_words(corpus: Corpus, index: int, sentence: Sentence) -> dict[str, int]:
    """Words such as "well" in "the old well" that few stories contain and this one has mentioned before, with the
    offset of that mention."""
    story = corpus.stories[index]
    most = max(1, TOPIC_FRACTION * len(corpus.stories))
    found = {}
    for place, word in enumerate(map(bare, sentence.lower)):
        if word in exclusions.EXCLUDED_TOPICS or word in _NOT_NOUNS or not _is_definite_noun(sentence, place):
            continue
        if corpus.story_counts[word] <= most:
            earlier = story.last_mention(word, sentence.start)
            if earlier is not None:
                found[word] = earlier
    return found


def sentence_fits(corpus: Corpus, place: Place, other: Place) -> bool:
    """Whether the sentence of the other place has the same length and mentions what this story does not contain."""
    story = corpus.stories[place.story]
    lengths = [len(corpus.text(each.story, each.start, each.end).split()) for each in (place, other)]
    if abs(lengths[0] - lengths[1]) > LONGEST_DIFFERENCE or story.has_any(other.topic):
        return False
    return all(_kindred(word).isdisjoint(story.mentions) for word in other.topic)


class ProbeKind(NamedTuple):
    """A rule and, for the report, what the false text is."""

    places: Callable[[Corpus, int], Iterator[Place]]
    fits: Callable[[Corpus, Place, Place], bool] | None
    description: str
    sentences_exchanged: bool = False  # between stories


KINDS: dict[str, ProbeKind] = {
    "name": ProbeKind(names, name_fits, "a later mention of a character has another name"),
    "object": ProbeKind(objects, object_fits, "a later mention of a thing or an animal has another noun"),
    "pronoun": ProbeKind(
        pronouns, pronoun_fits, "a pronoun has another gender than the only character of the sentence before"
    ),
    "order": ProbeKind(orders, None, "two neighbouring sentences are exchanged"),
    "ending": ProbeKind(endings, sentence_fits, "the last sentence is that of another story", True),
    "middle": ProbeKind(middles, sentence_fits, "a sentence is replaced by one from another story", True),
}
# Kinds with places far from the previous mention; a pronoun is in the sentence after it
KINDS_BY_DISTANCE = ("name", "object")
