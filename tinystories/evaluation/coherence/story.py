"""Stories with the indices that the probes need."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from ...text.gender import NAMES, WORD, bare, genders
from ...text.sentences import Sentence, plain_sentences, sentence_spans


_QUOTATION_MARK = re.compile('["“”]')
_STEM = 4  # letters that forms of a word share


class Story:
    """A story, its sentences and its words.

    Attributes:
        spans: start and end of each sentence, quoted ones too.
        plain: the sentences that a rule may change, by their index in `spans`.
    """

    def __init__(self, text: str):
        self.text = text
        self.spans = sentence_spans(text)
        index = {start: number for number, (start, _) in enumerate(self.spans)}
        found = ((index.get(sentence.start), sentence) for sentence in plain_sentences(text))
        self.plain: dict[int, Sentence] = {number: sentence for number, sentence in found if number is not None}

    @cached_property
    def mentions(self) -> dict[str, list[int]]:
        """Offsets of each word, in order; words are lower-case, names are not, and "'s" is removed."""
        found: dict[str, list[int]] = {}
        for match in WORD.finditer(self.text):
            word = bare(match[0])
            found.setdefault(word if word in NAMES else word.lower(), []).append(match.start())
        return found

    @cached_property
    def capitalized(self) -> frozenset[str]:
        """The words with a capital: names, and the first words of sentences."""
        words = (bare(match[0]) for match in WORD.finditer(self.text))
        return frozenset(word for word in words if word[0].isupper())

    @cached_property
    def gender(self) -> str | None:
        """The gender of the character who is mentioned first."""
        return next((gender for gender, _ in genders(self.text)), None)

    def last_mention(self, word: str, before: int) -> int | None:
        """Offset of the last mention of a word that starts before an offset."""
        return max((offset for offset in self.mentions.get(word, ()) if offset < before), default=None)

    def mentions_in(self, word: str, sentence: Sentence) -> int:
        """How often a sentence of the story contains a word."""
        end = sentence.start + len(str(sentence))
        return sum(sentence.start <= offset < end for offset in self.mentions.get(word, ()))

    @cached_property
    def _stems(self) -> set[str]:
        return {mention[:_STEM] for mention in self.mentions}

    def has_any(self, words: Iterable[str]) -> bool:
        """Whether the story has one of the words, or one that begins with the same four letters."""
        return any(word[:_STEM] in self._stems for word in words)

    def words_between(self, start: int, end: int) -> int:
        return len(self.text[start:end].split())

    def end_of(self, number: int) -> int:
        """Where the sentence ends; that of the last one if there is no such sentence."""
        return self.spans[min(number, len(self.spans) - 1)][1]

    def narration(self, number: int) -> str:
        """The text of a sentence; empty if it contains a quotation mark, or there is no such sentence."""
        text = self.text[slice(*self.spans[number])] if 0 <= number < len(self.spans) else ""
        return "" if _QUOTATION_MARK.search(text) else text

    def follows_directly(self, number: int) -> bool:
        """Whether only a space separates a sentence from the one before."""
        return number > 0 and self.text[self.spans[number - 1][1] : self.spans[number][0]] == " "


class Corpus:
    """All stories, and how many of them contain each word."""

    def __init__(self, texts: Sequence[str]):
        self.stories = [Story(text) for text in texts]

    @cached_property
    def story_counts(self) -> Counter[str]:
        """In how many stories a word occurs, as in `mentions`."""
        counts: Counter[str] = Counter()
        for story in self.stories:
            counts.update(story.mentions.keys())
        return counts

    def text(self, story: int, start: int, end: int) -> str:
        return self.stories[story].text[start:end]

    def equally_frequent(self, one: str, other: str, factor: float) -> bool:
        counts = sorted((self.story_counts[one], self.story_counts[other]))
        return counts[1] <= factor * counts[0]
