"""Stories cut into sentences, and those of them that a rule may work on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property


SHORTEST, LONGEST = 4, 25  # words
# Not at "Mr. Brown", and never across a line.
_SENTENCE = re.compile(r"""\S[^\n]*?(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]+["”’')]*(?=\s|$)""")
_WORD = re.compile(r"([A-Za-z]+(?:['’-][A-Za-z]+)*)([,.!?]?)")
_QUOTES = re.compile(r'["“”]')
_SPEECH = re.compile(r"\b(?:said|say|says|asked|asks|replied|answered|shouted|cried|yelled|whispered|exclaimed)\b")


@dataclass(frozen=True)
class Sentence:
    """A plain sentence as its words and the mark, if any, that stands right behind each; it begins at `start` in
    `story`."""

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
        """The story up to the sentence, with the white space between."""
        return self.story[: self.start]

    @cached_property
    def lower(self) -> tuple[str, ...]:
        return tuple(word.lower() for word in self.words)

    def next(self, place: int) -> str:
        """The word in lower case right behind `place`, or "" where there is none or a mark stands between."""
        return self.lower[place + 1] if not self.marks[place] else ""

    def previous(self, place: int) -> str:
        """The word in lower case right before `place`, or "" where there is none or a mark stands between."""
        return self.lower[place - 1] if place > 0 and not self.marks[place - 1] else ""

    # The same sentence with one change. Marks stay where they are: only words move.

    def put(self, place: int, word: str) -> "Sentence":
        if self.words[place][0].isupper():
            word = word[0].upper() + word[1:]
        return replace(self, words=(*self.words[:place], word, *self.words[place + 1 :]))

    def delete(self, place: int) -> "Sentence":
        words, marks = list(self.words), list(self.marks)
        del words[place], marks[place]
        return replace(self, words=tuple(words), marks=tuple(marks))

    def double(self, place: int) -> "Sentence":
        words, marks = list(self.words), list(self.marks)
        words.insert(place, words[place])
        marks.insert(place, "")
        return replace(self, words=tuple(words), marks=tuple(marks))

    def move(self, place: int, to: int) -> "Sentence":
        words = list(self.words)
        words.insert(to, words.pop(place))
        return replace(self, words=tuple(words))


def plain_sentences(story: str) -> Iterator[Sentence]:
    """The sentences of a story that are told and not spoken, of 4 to 25 ordinary words with at most commas between.

    Left out: what stands in quotation marks or holds one, "she said" behind a quotation, titles (Mr. Brown), figures,
    words in capitals, other marks than commas, and what does not begin with a capital letter.
    """
    for line in re.finditer(r"[^\n]+", story):
        # Where one mark is missing, speech cannot be told from story.
        if len(_QUOTES.findall(line[0])) % 2:
            continue
        for match in _SENTENCE.finditer(line[0]):
            earlier = line[0][: match.start()]
            spoken = len(_QUOTES.findall(earlier)) % 2
            tag = earlier.rstrip().endswith(('"', "”")) and _SPEECH.search(match[0])
            if not spoken and not tag and (sentence := _parse(match[0], story, line.start() + match.start())):
                yield sentence


def _parse(text: str, story: str, start: int) -> Sentence | None:
    found = [_WORD.fullmatch(word) for word in text.split(" ")]
    if not SHORTEST <= len(found) <= LONGEST or not all(found):
        return None
    words, marks = zip(*(match.groups() for match in found), strict=True)
    inner_marks_are_commas = all(mark in ("", ",") for mark in marks[:-1])
    if not words[0][0].isupper() or not inner_marks_are_commas or marks[-1] not in (".", "!", "?"):
        return None
    if any(len(word) > 1 and word.isupper() for word in words):
        return None
    return Sentence(words, marks, story, start)


def all_sentences(story: str) -> Iterator[str]:
    """Every sentence of a story, those within quotation marks too, as `normalized` gives it."""
    for part in _QUOTES.split(story):
        for match in _SENTENCE.finditer(part):
            yield normalized(match[0])


def normalized(sentence: str) -> str:
    """Lower case, single spaces."""
    return " ".join(sentence.lower().split())
