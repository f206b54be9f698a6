"""Where a story ends in plain text: at a marker, a blank line, the end of a line or the end of the file.

Decisions:
- `auto` looks at the beginnings of the files and decides for all of them at once. `<|endoftext|>` decides. Without it
  a file holds one story where there are many small ones; lines or blocks between blank lines are stories where nearly
  all are as long as stories and end as sentences do, or begin as stories do ("Once upon a time").
- Nothing is guessed. Blank lines part paragraphs in some files and stories in others, and where the look does not
  settle it the corpus is refused with the option that says it. In 16,054 TinyStories the paragraphs have 52, 180 and
  308 characters (5th, 50th and 95th percentile) and the stories 513, 735 and 1,532, at least 234.
"""

import re
from typing import NamedTuple

import numpy as np


END_OF_TEXT = "<|endoftext|>"
AUTO, FILE, LINE, BLANK_LINES = "auto", "file", "line", "blank-lines"
LOOKED_AT_FILES, LOOKED_AT_BYTES = 200, 1 << 20
SMALL_FILE = 20_000  # bytes; the longest of the TinyStories has 4,107
SOME_FILES, MANY_FILES = 5, 20
STORY_LENGTH, SHORTEST_STORY = 400, 150  # characters: of the median, and of all but one in a hundred
_OPENING = re.compile(r"\W*(?:once upon a time|once,? there|there once|(?:a )?long,? (?:long )?(?:time )?ago)\b", re.I)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)*\]]*$|\bthe end$", re.I)


class Look(NamedTuple):
    """What the beginning of a file shows.

    Attributes:
        text: its first characters, line ends as "\\n".
        is_whole: whether that is all of it.
        size: bytes of the file.
    """

    text: str
    is_whole: bool
    size: int


def normal_split(split: str) -> str:
    """The name of a split however it is spelt; anything else is a marker."""
    name = split.strip().lower().replace("_", "-")
    names = {AUTO: AUTO, FILE: FILE, LINE: LINE, "lines": LINE, BLANK_LINES: BLANK_LINES, "blank-line": BLANK_LINES}
    return names.get(name, split)


def decide(looks: list[Look], count: int) -> tuple[str, str] | None:
    """How stories are parted in `count` files, of which `looks` are some, and why; None where that is not certain."""
    texts = [look.text for look in looks]
    if any(END_OF_TEXT in text for text in texts):
        return END_OF_TEXT, "which is there"
    lines, blocks = _units(looks, r"\n"), _units(looks, r"\n[ \t]*\n")
    if not lines:
        return FILE, "the files hold no text"
    if len(lines) <= len(looks) and all(look.is_whole for look in looks):
        return FILE, "each file is one line"
    openings = sum(map(bool, map(_OPENING.match, blocks if len(blocks) > len(looks) else lines)))
    small = all(look.size <= SMALL_FILE for look in looks)
    # Long lines may be stories, several in a file; so many files of so few lines are not.
    few_long_lines = count >= MANY_FILES or np.median([len(line) for line in lines]) < STORY_LENGTH
    if count >= SOME_FILES and small and few_long_lines and openings <= 1.2 * len(looks):
        return FILE, f"there are {count:,} small files"
    if len(blocks) > len(looks):
        return (BLANK_LINES, "what lies between blank lines looks like stories") if _are_stories(blocks) else None
    return (LINE, "lines look like stories") if _are_stories(lines) else None


def _units(looks: list[Look], between: str) -> list[str]:
    units = []
    for look in looks:
        parts = [part.strip() for part in re.split(between, look.text)]
        parts = [part for part in (parts if look.is_whole else parts[:-1]) if part]
        units += parts
    return units


def _are_stories(units: list[str]) -> bool:
    if len(units) < 2 or np.mean([bool(_SENTENCE_END.search(unit)) for unit in units]) < 0.9:
        return False
    # Two thirds of the TinyStories begin so; a file of paragraphs of which half do is no file of stories.
    if np.mean([bool(_OPENING.match(unit)) for unit in units]) >= 0.9:
        return True
    lengths = [len(unit) for unit in units]
    return np.median(lengths) >= STORY_LENGTH and np.percentile(lengths, 1) >= SHORTEST_STORY
