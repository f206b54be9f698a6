"""Where a story ends in plain text: at a marker, at a blank line, at the end of a line or at the end of the file.

`auto` decides for all files at once, from the beginnings of some. If they contain `<|endoftext|>`, it is the marker.
Otherwise, each file is a story if there are many small files; lines, or blocks between blank lines, are stories if
nearly all are as long as stories and end like sentences, or begin with "Once upon a time". Blank lines also separate
paragraphs, so what is uncertain is refused: in 16,054 TinyStories, paragraphs have 52, 180 and 308 characters (5th,
50th and 95th percentile), and stories 513, 735 and 1,532, at least 234.
"""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np


END_OF_TEXT = "<|endoftext|>"
AUTO, FILE, LINE, BLANK_LINES = "auto", "file", "line", "blank-lines"
SAMPLED_FILES, SAMPLED_CHARACTERS = 200, 1 << 20
SMALL_FILE = 20_000  # characters; the longest of the TinyStories has 4,107
SOME_FILES, MANY_FILES = 5, 20
STORY_LENGTH, SHORTEST_STORY = 400, 150  # characters: the median, and the first percentile
_OPENING = re.compile(r"\W*(?:once upon a time|once,? there|there once|(?:a )?long,? (?:long )?(?:time )?ago)\b", re.I)
_MARKER = re.compile(r"[ \t]*([^\w\s](?:[^\w\n]*[^\w\s]){2,}|<[^<>\n]{1,40}>|\[[^][\n]{1,40}\])[ \t]*")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)*\]]*$|\bthe end$", re.I)


class Sample(NamedTuple):
    """The beginning of a file, with "\\n" for line ends, and whether it is the complete file."""

    text: str
    is_complete: bool


def normalize_split(split: str) -> str:
    """One spelling of the name of a split; anything else is a marker."""
    name = split.strip().lower().replace("_", "-")
    names = {AUTO: AUTO, FILE: FILE, LINE: LINE, "lines": LINE, BLANK_LINES: BLANK_LINES, "blank-line": BLANK_LINES}
    return names.get(name, split)


def choose_split(samples: list[Sample], count: int) -> tuple[str, str] | None:
    """Where stories end in `count` files, given samples of some, and why; None if that is uncertain."""
    if any(END_OF_TEXT in sample.text for sample in samples):
        return END_OF_TEXT, "found in the text"
    lines, blocks = _parts(samples, r"\n"), _parts(samples, r"\n[ \t]*\n")
    if not lines:
        return FILE, "the files have no text"
    if len(lines) <= len(samples) and all(sample.is_complete for sample in samples):
        return FILE, "each file is one line"
    openings = sum(map(bool, map(_OPENING.match, blocks if len(blocks) > len(samples) else lines)))
    small = all(sample.is_complete and len(sample.text) <= SMALL_FILE for sample in samples)
    # Long lines may be stories, several in a file; but not if there are many files with few lines.
    few_long_lines = count >= MANY_FILES or np.median(list(map(len, lines))) < STORY_LENGTH
    if count >= SOME_FILES and small and few_long_lines and openings <= 1.2 * len(samples):
        return FILE, f"there are {count:,} small files"
    if len(blocks) > len(samples):
        return (BLANK_LINES, "the blocks between blank lines look like stories") if _are_stories(blocks) else None
    return (LINE, "the lines look like stories") if _are_stories(lines) else None


def possible_splits(samples: list[Sample], count: int) -> dict[str, int]:
    """How many stories each split would give in `count` files, of which there are samples.

    A line that is repeated and has no letters (`***`), or is in brackets (`</s>`), may be a marker.
    """
    numbers = {FILE: count, LINE: len(_parts(samples, r"\n")), BLANK_LINES: len(_parts(samples, r"\n[ \t]*\n"))}
    lines = Counter(
        match[1] for sample in samples for line in sample.text.split("\n") if (match := _MARKER.fullmatch(line))
    )
    marker, repeated = lines.most_common(1)[0] if lines else ("", 0)
    if repeated > 1:
        numbers[marker] = len(_parts(samples, re.escape(marker)))
    return numbers


def _parts(samples: list[Sample], separator: str) -> list[str]:
    parts: list[str] = []
    for sample in samples:
        found = re.split(separator, sample.text)
        parts += (part.strip() for part in (found if sample.is_complete else found[:-1]))
    return list(filter(None, parts))


def _are_stories(parts: list[str]) -> bool:
    if len(parts) < 2 or np.mean([bool(_SENTENCE_END.search(part)) for part in parts]) < 0.9:
        return False
    # Two thirds of the TinyStories begin so; if only half do, the parts are paragraphs.
    if np.mean([bool(_OPENING.match(part)) for part in parts]) >= 0.9:
        return True
    lengths = list(map(len, parts))
    return bool(np.median(lengths) >= STORY_LENGTH and np.percentile(lengths, 1) >= SHORTEST_STORY)
