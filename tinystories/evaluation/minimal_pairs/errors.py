"""One rule per kind of error: it yields every way to make that error in a sentence.

- A rule changes one place. It keeps the first word, so that good and bad sentence begin alike.
- A rule applies only if the word lists determine what the words are, and skips changes after which the sentence could
  still be English.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...text import word_lists as lists
from ...text.sentences import Sentence


class BadSentence(NamedTuple):
    """A sentence with an error.

    Attributes:
        group: the variety of the error; the pairs of a kind are spread equally over its groups.
        item: the words concerned; a kind has only a few pairs with the same words.
        swap: the right and the wrong word, if one replaces the other. As many pairs have the two reversed, so that a
            model gains nothing by preferring the more frequent word.
    """

    sentence: Sentence
    group: str
    item: str
    swap: tuple[str, str] | None = None


ARTICLES = ("a", "an", "the")
NAMES = lists.WOMENS_NAMES | lists.MENS_NAMES
SUBJECTS = lists.SINGULAR_SUBJECTS | lists.PLURAL_SUBJECTS


# Articles


class _NounPhrase(NamedTuple):
    article: int
    noun: int


def _noun_phrases(sentence: Sentence) -> Iterator[_NounPhrase]:
    """Articles, not the first word, with their singular countable nouns, only adjectives between, no noun after."""
    lower, marks = sentence.lower, sentence.marks
    for place in range(1, len(sentence) - 1):
        if lower[place] not in ARTICLES:
            continue
        noun = place + 1
        while noun < len(sentence) - 1 and lower[noun] in lists.ADJECTIVES and not marks[noun]:
            noun += 1
        is_noun = sentence.words[noun] in lists.COUNT_NOUNS and not any(marks[place:noun])
        if is_noun and (marks[noun] or lower[noun + 1] in lists.FOLLOWERS):
            yield _NounPhrase(place, noun)


# "half a cake", "kind of a dog", "from tree to tree", "by car", "as leader", "became king"
_BEFORE_BARE = set(
    "such half what quite many rather all both twice once of as by from and or nor become became".split()
)
# "cats and dogs", "tree after tree", "from top to bottom", "side by side"
_AFTER_BARE = set("and or after to by".split())
# Before a bare infinitive: "to park", "helped bear up", "go fish"
_BEFORE_VERB = set("to help helps helped let lets make makes made go went come came".split())


def _can_stand_bare(sentence: Sentence, phrase: _NounPhrase) -> bool:
    """Whether the sentence could be English without the article."""
    place, noun = phrase
    before = sentence.previous(place)
    could_be_verb = noun == place + 1 and sentence.lower[noun] in lists.NOUN_VERBS and before in _BEFORE_VERB
    return (
        not before  # after a comma: in a list, or "Max, the dog"
        or _follows_name(sentence, place)  # "Max the dog"
        or before in _BEFORE_BARE
        or sentence.marks[noun] == ","
        or sentence.next(noun) in _AFTER_BARE
        or could_be_verb
    )


def _follows_name(sentence: Sentence, place: int) -> bool:
    opener = place == 1 and sentence.lower[0] in lists.OPENERS
    return sentence.words[place - 1][0].isupper() and not opener


def _phrase_text(sentence: Sentence, phrase: _NounPhrase) -> str:
    return " ".join(sentence.lower[phrase.article : phrase.noun + 1])


def article_deleted(sentence: Sentence) -> Iterator[BadSentence]:
    for phrase in _noun_phrases(sentence):
        if not _can_stand_bare(sentence, phrase):
            group = "the" if sentence.lower[phrase.article] == "the" else "a"
            yield BadSentence(sentence.delete(phrase.article), group, _phrase_text(sentence, phrase))


# The first letter does not tell the sound, or speakers differ: hotel, historic, hour, hundred, unicorn, one, European,
# names of letters
_UNSURE_SOUND = re.compile(r"h(?:our|on|eir|er[bo]|ist|ot|um|ab|il|ys|al|und)|u(?!gly|mb|n[^i]|ps)|on[ce]|eu|ew|x|.$")


def article_swapped(sentence: Sentence) -> Iterator[BadSentence]:
    for place in range(1, len(sentence) - 1):
        article, follower = sentence.words[place], sentence.next(place)
        if article not in ("a", "an") or not follower or not sentence.words[place + 1].islower():
            continue
        right = "an" if follower[0] in "aeiou" else "a"
        wrong = "a" if right == "an" else "an"
        if article == right and not _UNSURE_SOUND.match(follower):
            yield BadSentence(sentence.replace(place, wrong), "a and an", follower, (right, wrong))


def article_doubled(sentence: Sentence) -> Iterator[BadSentence]:
    for place in range(1, len(sentence) - 1):
        article, follower = sentence.words[place], sentence.next(place)
        if article in ARTICLES and follower:
            yield BadSentence(sentence.double(place), "the" if article == "the" else "a", f"{article} {follower}")


# "so big a dog", "half the big cake"
_DEGREES = set("so too how as that this such what quite very rather half all more most no".split())
# "painted red the door", "held tight the rope" and "was happy the dog came back" are odd, but English.
_BEFORE_RESULT = set(
    """made make makes painted paint colored turned kept keep held found left set cut got get dyed pushed
    be been was were is are felt feel looked became seemed""".split()
)


def article_moved(sentence: Sentence) -> Iterator[BadSentence]:
    for phrase in _noun_phrases(sentence):
        place, noun = phrase
        before, item = sentence.previous(place), _phrase_text(sentence, phrase)
        if not before or before in _DEGREES or _follows_name(sentence, place):
            continue
        could_be_result = sentence.lower[place] == "the" and before in _BEFORE_RESULT
        if noun > place + 1 and not could_be_result:
            yield BadSentence(sentence.move(place, noun - 1), "after the adjective", item)
        takes_another_noun = sentence.next(noun) in lists.ADJECTIVES | SUBJECTS
        if not takes_another_noun and not _can_stand_bare(sentence, phrase):
            yield BadSentence(sentence.move(place, noun), "after the noun", item)


# Verbs

# "if he were", "as though it were", "wished that she were", "asked that he have"
_SUBJUNCTIVE = set(
    """if wish wishes wished wishing though although unless whether like as than suppose imagine imagined
    imagining pretend pretended pretending suggest suggested ask asked insist insisted demand demanded order ordered
    let lest important""".split()
)
_CLAUSE_OPENERS = set("and but because so that when where".split())
_SINGULAR_PRONOUNS, _PLURAL_PRONOUNS = ("he", "she", "it"), ("they", "we")
_TO_PLURAL = lists.SINGULAR_TO_PLURAL
_TO_SINGULAR = {plural: singular for singular, plural in _TO_PLURAL.items()}
_PRESENT_TO_PLURAL = {verb.s: verb.base for verb in lists.VERBS}
_PRESENT_TO_SINGULAR = {verb.base: verb.s for verb in lists.VERBS}


def subject_verb_agreement(sentence: Sentence) -> Iterator[BadSentence]:
    if _SUBJUNCTIVE & set(sentence.lower):
        return
    for place, singular in _subjects(sentence):
        changes = _TO_PLURAL if singular else _TO_SINGULAR
        if place == 0 and sentence.lower[0] in _SINGULAR_PRONOUNS + _PLURAL_PRONOUNS:
            changes = changes | (_PRESENT_TO_PLURAL if singular else _PRESENT_TO_SINGULAR)
        verb = sentence.lower[place + 1]
        if verb in changes:
            subject = "name" if sentence.words[place] in NAMES else sentence.lower[place]
            group = "past" if verb in ("was", "were", "wasn't", "weren't") else "present"
            bad = sentence.replace(place + 1, changes[verb])
            yield BadSentence(bad, group, f"{subject} {verb}", (verb, changes[verb]))


def _subjects(sentence: Sentence) -> Iterator[tuple[int, bool]]:
    """Places of the last words of subjects right before the verb, and whether the subject is singular."""
    words, lower, marks = sentence.words, sentence.lower, sentence.marks
    for place in range(len(sentence) - 1):
        if marks[place]:
            continue
        opens = place == 0 or sentence.previous(place) in _CLAUSE_OPENERS
        if opens and lower[place] in _SINGULAR_PRONOUNS + _PLURAL_PRONOUNS:
            yield place, lower[place] in _SINGULAR_PRONOUNS
        elif place == 0 and words[0] in NAMES:
            yield place, True
        elif place == 2 and {words[0], words[2]} <= NAMES and lower[1] == "and" and not any(marks[:2]):
            yield place, False
        elif place and lower[0] in ("the", "his", "her", "their", "my", "our") and not any(marks[:place]):
            is_subject = lower[place] in SUBJECTS and all(word in lists.ADJECTIVES for word in lower[1:place])
            if is_subject:
                yield place, lower[place] in lists.SINGULAR_SUBJECTS


_BY_BASE = {verb.base: verb for verb in lists.VERBS}
_BY_PAST = {verb.past: verb for verb in lists.VERBS}
_BY_PARTICIPLE = {verb.participle: verb for verb in lists.VERBS}
_BY_ING = {verb.ing: verb for verb in lists.VERBS}
_TAKE_A_BASE = set(
    "did could would should didn't couldn't wouldn't shouldn't can't cannot won't don't doesn't".split()
)
_TAKE_A_BASE_LATER = set("did could would should do does can will".split())
# "wanted to playing", but not "used to playing"
_TAKE_AN_INFINITIVE = set(
    "want wanted wants love loved like liked tried decided needed hoped started began had".split()
)


def tense(sentence: Sentence) -> Iterator[BadSentence]:
    """A form of the verb that its auxiliary, its "to" or its subject does not allow."""
    for place in range(1, len(sentence)):
        word, before = sentence.lower[place], sentence.previous(place)
        for group, wrong in _wrong_forms(sentence, place):
            yield BadSentence(sentence.replace(place, wrong), group, f"{before} {word}", (word, wrong))


def _wrong_forms(sentence: Sentence, place: int) -> Iterator[tuple[str, str]]:
    word, before = sentence.lower[place], sentence.previous(place)
    further = sentence.previous(place - 1) if before else ""
    later = further in _TAKE_A_BASE_LATER and before in ("not", "never", "always", "also")
    if (verb := _BY_BASE.get(word)) and (before == "to" or before in _TAKE_A_BASE or later):
        if verb.past not in lists.PASTS_THAT_ARE_BASES:
            yield "base and past", verb.past
        if before != "to" or further in _TAKE_AN_INFINITIVE:
            yield "base and -ing", verb.ing
    verb = _BY_PARTICIPLE.get(word)
    had = before in ("had", "has", "have") or (further == "had" and before in ("never", "ever", "already", "just"))
    if verb and had and word not in lists.PARTICIPLES_WITH_TWO_FORMS:
        if verb.past != word:
            yield "past and participle", verb.past
        elif verb.base != word and verb.base not in lists.BASES_THAT_ARE_NOUNS:
            yield "base and past", verb.base
    # Not after "it" or a noun: "her favorite game was play"
    someone = further in ("he", "she", "they") or (further and sentence.words[place - 2] in NAMES)
    if (verb := _BY_ING.get(word)) and before in ("was", "were", "is", "are") and someone:
        if verb.participle != verb.base:
            yield "base and -ing", verb.base
    if (verb := _BY_PAST.get(word)) and place == 1 and before in _SINGULAR_PRONOUNS:
        yield "base and past", verb.base
        if verb.participle not in {verb.base, verb.past} | lists.PARTICIPLES_WITH_TWO_FORMS:
            yield "past and participle", verb.participle


# Order

# Without "inside", "near", "over" and others that can follow an article ("the inside wall")
_PREPOSITIONS = set("in on at with from under into of for".split())
# "wanted help to" and "could go get to" are English.
_INFINITIVES = (set(_BY_BASE) | {"be", "have"}) - lists.BASES_THAT_ARE_NOUNS
# "a tree big as a house", "a story good for her"
_AFTER_POSTPOSED = set("as for with like".split())


def word_order(sentence: Sentence) -> Iterator[BadSentence]:
    """Two neighbouring words swapped."""
    for place in range(1, len(sentence) - 1):
        first, second = sentence.words[place], sentence.words[place + 1]
        if sentence.marks[place] or not first.islower() or not second.islower():
            continue
        if group := _fixed_order(first, second, sentence.previous(place), sentence.next(place + 1)):
            yield BadSentence(sentence.move(place, place + 1), group, f"{first} {second}")


def _fixed_order(first: str, second: str, before: str, after: str) -> str | None:
    """What two neighbours with a fixed order are; `before` and `after` are the words around them, or ""."""
    if first in _PREPOSITIONS and second in ARTICLES:
        return "preposition and article"
    if first in ("his", "their", "our", "my") and second in SUBJECTS and (not after or after in lists.FOLLOWERS):
        return "possessive and noun"
    if first == "to" and second in _INFINITIVES and before not in ("go", "come", "help", "helped", ""):
        return "to and verb"
    if first in ("did", "could", "would", "was", "were", "had") and second == "not":
        return "auxiliary and not"
    if first in ("was", "were", "felt", "is", "are") and second == "very":
        return "verb and very"
    if first == "very" and second in lists.ADJECTIVES and after not in ("much", "soon"):
        return "very and adjective" if before in ("was", "were", "felt", "is", "are") else None
    if before in ("a", "an") and first in lists.LASTING_ADJECTIVES and second in lists.COUNT_NOUNS:
        keeps_article = (first[0] in "aeiou") == (second[0] in "aeiou") and second != "unicorn"
        if keeps_article and (not after or after in lists.FOLLOWERS - _AFTER_POSTPOSED):
            return "adjective and noun"
    return None


class ErrorKind(NamedTuple):
    """A rule and, for the report, what it does to the good sentence."""

    rule: Callable[[Sentence], Iterator[BadSentence]]
    description: str


KINDS: dict[str, ErrorKind] = {
    "article_deleted": ErrorKind(article_deleted, "an article is missing"),
    "article_swapped": ErrorKind(article_swapped, '"a" becomes "an", or "an" becomes "a"'),
    "article_doubled": ErrorKind(article_doubled, "an article is repeated"),
    "article_moved": ErrorKind(article_moved, "an article is placed after its adjective or noun"),
    "subject_verb_agreement": ErrorKind(subject_verb_agreement, "a verb does not agree with its subject in number"),
    "tense": ErrorKind(tense, 'a verb has a form that its auxiliary, its "to" or its subject does not allow'),
    "word_order": ErrorKind(word_order, "two adjacent words whose order is fixed are swapped"),
}
