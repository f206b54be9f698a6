"""A story as words, each with its sentence and whether it is speech."""

import re
from bisect import bisect_right
from typing import NamedTuple

from .gender import bare
from .sentences import sentence_spans


_PIECE = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|[.,!?;:…]|[\"“”]")


class Word(NamedTuple):
    """A word of a story.

    Attributes:
        text: as in the story, without "'s".
        lower: in lower case.
        start: offset in the story.
        sentence: number of its sentence.
        opens: whether it is the first word of its sentence, or of speech.
        speech: whether it is in quotation marks, or in a line where these are not paired.
        mark: punctuation after it, or "".
    """

    text: str
    lower: str
    start: int
    sentence: int
    opens: bool
    speech: bool
    mark: str


def story_words(story: str) -> list[Word]:
    """The words of a story, in order."""
    ends = [end for _, end in sentence_spans(story)]
    found: list[Word] = []
    for line in re.finditer(r"[^\n]+", story):
        pieces = list(_PIECE.finditer(line[0]))
        paired = sum(piece[0] in '"“”' for piece in pieces) % 2 == 0
        quoted, last, after_quote = False, -1, False
        for number, piece in enumerate(pieces):
            if piece[0] in '"“”':
                quoted = not quoted
                after_quote = quoted
                continue
            if not piece[0][0].isalpha():
                continue
            start = line.start() + piece.start()
            sentence = bisect_right(ends, start)
            following = pieces[number + 1][0] if number + 1 < len(pieces) else ""
            text = bare(piece[0])
            opens = sentence != last or after_quote
            mark = following if following and not following[0].isalpha() else ""
            found.append(Word(text, text.lower(), start, sentence, opens, quoted or not paired, mark))
            last, after_quote = sentence, False
    return found
