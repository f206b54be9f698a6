"""Stories split into sentences, and those of them that a rule may change."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property


SHORTEST, LONGEST = 4, 25  # words
# Not after "Mr.", and never across a line
_SENTENCE = re.compile(r"""\S[^\n]*?(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]+["”’')]*(?=\s|$)""")
_WORD = re.compile(r"([A-Za-z]+(?:['’-][A-Za-z]+)*)([,.!?]?)")
_QUOTES = re.compile(r'["“”]')
_SPEECH = re.compile(r"\b(?:said|say|says|asked|asks|replied|answered|shouted|cried|yelled|whispered|exclaimed)\b")


_COMPLETE_ENDING = re.compile(r"[.!?…][\"'”’)\]]*\s*\Z")


def ends_with_punctuation(text: str) -> bool:
    """Whether a text ends in . ! ? or …, perhaps with closing quotes or brackets."""
    return bool(_COMPLETE_ENDING.search(text))


@dataclass(frozen=True)
class Sentence:
    """A plain sentence: its words, the mark (or "") after each, and where it starts in which story."""

    words: tuple[str, ...]
    marks: tuple[str, ...]
    story: str = ""
    start: int = 0

    def __str__(self) -> str:
        return " ".join(word + mark for word, mark in zip(self.words, self.marks, strict=True))

    def __len__(self) -> int:
        return len(self.words)

    @property
    def before(self) -> str:
        """The story up to the sentence, white space included."""
        return self.story[: self.start]

    @cached_property
    def lower(self) -> tuple[str, ...]:
        return tuple(word.lower() for word in self.words)

    def offset(self, place: int) -> int:
        """Where the word at `place` starts in the story."""
        before = zip(self.words[:place], self.marks[:place], strict=True)
        return self.start + sum(len(word) + len(mark) + 1 for word, mark in before)

    def next(self, place: int) -> str:
        """The lower-case word right after `place`, or "" if there is none or a mark stands between."""
        return self.lower[place + 1] if not self.marks[place] else ""

    def previous(self, place: int) -> str:
        """The lower-case word right before `place`, or "" if there is none or a mark stands between."""
        return self.lower[place - 1] if place > 0 and not self.marks[place - 1] else ""

    # The same sentence with one change. Moved words leave the marks in place.

    def replace(self, place: int, word: str) -> "Sentence":
        if self.words[place][0].isupper():
            word = word[0].upper() + word[1:]
        return self._with([*self.words[:place], word, *self.words[place + 1 :]])

    def delete(self, place: int) -> "Sentence":
        return self._with(
            [*self.words[:place], *self.words[place + 1 :]], [*self.marks[:place], *self.marks[place + 1 :]]
        )

    def double(self, place: int) -> "Sentence":
        return self._with(
            [*self.words[:place], self.words[place], *self.words[place:]],
            [*self.marks[:place], "", *self.marks[place:]],
        )

    def move(self, place: int, to: int) -> "Sentence":
        words = list(self.words)
        words.insert(to, words.pop(place))
        return self._with(words)

    def _with(self, words: Sequence[str], marks: Sequence[str] | None = None) -> "Sentence":
        return dataclasses.replace(self, words=tuple(words), marks=self.marks if marks is None else tuple(marks))


def plain_sentences(story: str) -> Iterator[Sentence]:
    """The narrated sentences of a story: 4 to 25 ordinary words with a capital in front and no inner marks but commas.

    Left out are quotations and "she said" after one, titles (Mr. Brown), figures and words in capitals.
    """
    for line in re.finditer(r"[^\n]+", story):
        # With a quotation mark missing, speech and narration cannot be separated.
        if len(_QUOTES.findall(line[0])) % 2:
            continue
        for match in _SENTENCE.finditer(line[0]):
            earlier = line[0][: match.start()]
            quoted = len(_QUOTES.findall(earlier)) % 2
            speech_tag = earlier.rstrip().endswith(('"', "”")) and _SPEECH.search(match[0])
            if not quoted and not speech_tag and (found := _parse(match[0], story, line.start() + match.start())):
                yield found


def _parse(text: str, story: str, start: int) -> Sentence | None:
    pieces = text.split(" ")
    found = [match.groups() for match in map(_WORD.fullmatch, pieces) if match]
    if not SHORTEST <= len(found) <= LONGEST or len(found) < len(pieces):
        return None
    words, marks = zip(*found, strict=True)
    only_commas = all(mark in ("", ",") for mark in marks[:-1])
    if not words[0][0].isupper() or not only_commas or marks[-1] not in (".", "!", "?"):
        return None
    if any(len(word) > 1 and word.isupper() for word in words):
        return None
    return Sentence(words, marks, story, start)


def sentence_spans(story: str) -> list[tuple[int, int]]:
    """Start and end of every sentence of a story, quoted ones too; text without a final mark is left out."""
    return [
        (line.start() + match.start(), line.start() + match.end())
        for line in re.finditer(r"[^\n]+", story)
        for match in _SENTENCE.finditer(line[0])
    ]


def all_sentences(story: str) -> Iterator[str]:
    """Every sentence of a story, quoted ones too, [`normalized`]."""
    for part in _QUOTES.split(story):
        for match in _SENTENCE.finditer(part):
            yield normalized(match[0])


def normalized(sentence: str) -> str:
    """Lower case, single spaces."""
    return " ".join(sentence.lower().split())
