"""Plain text: where stories end, and the stories between."""

import re
from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from ...utils.console import counted
from ...utils.errors import UserError
from ..text_split import (
    AUTO,
    BLANK_LINES,
    END_OF_TEXT,
    FILE,
    LINE,
    SAMPLED_CHARACTERS,
    SAMPLED_FILES,
    Sample,
    choose_split,
    normalize_split,
    possible_splits,
)
from .contents import READ_ERRORS, open_text, read_error
from .reading import Reading, ReadOptions, RowCounts, StoryFile
from .texts import contains, text_arrays


MAX_STORY = 1_000_000  # characters; longer text is not a story, and might not fit into memory


def resolve_split(files: list[StoryFile], source: str, options: ReadOptions) -> tuple[str, str]:
    """Where stories end in files of plain text, and why.

    Raises:
        UserError: if that is uncertain.
    """
    split = normalize_split(options.text_split)
    if split != AUTO:
        return split, "set by --split"
    samples = []
    for file in files[:: -(-len(files) // SAMPLED_FILES)]:  # spread evenly
        try:
            with open_text(Reading(file, options, RowCounts())) as text:
                samples.append(Sample(text.read(SAMPLED_CHARACTERS), is_complete=not text.read(1)))
        except READ_ERRORS as error:
            raise read_error(file, error) from error
    chosen = choose_split(samples, len(files))
    if chosen is None:
        numbers = possible_splits(samples, len(files)).items()
        choices = ", ".join(f"{_quoted(name)} ({counted(number, 'story')})" for name, number in numbers)
        is_sample = len(samples) < len(files) or not all(sample.is_complete for sample in samples)
        raise UserError(
            f"{source} has no {END_OF_TEXT} between its stories, and where a story ends is ambiguous: set --split to "
            f"{choices} or another separator{'; the numbers are those of a sample' if is_sample else ''}."
        )
    return chosen


def _quoted(split: str) -> str:
    return split if split in (FILE, LINE, BLANK_LINES) else f"'{split}'"


def read_text(reading: Reading) -> Iterator[list[pa.Array]]:
    if reading.options.fields:
        raise UserError(
            f"{reading.file.name} is plain text without columns, but the template has fields: `tinystories annotate` "
            f"writes a copy with the columns words, summary and features."
        )
    split = normalize_split(reading.options.text_split)
    if split not in (FILE, LINE, BLANK_LINES):
        yield from text_arrays(reading, "story {:,}", _marked_stories(reading, split))
        return
    for [texts] in text_arrays(reading, "line {:,}", _stories_in_lines(reading, split)):
        if contains(texts, re.escape(END_OF_TEXT)):
            raise UserError(
                f"{reading.file.name} contains {END_OF_TEXT}, which ends a story, but --split is {split}: "
                f"use --split '{END_OF_TEXT}'."
            )
        yield [texts]


def _stories_in_lines(reading: Reading, split: str) -> Iterator[tuple[int, list[str]]]:
    with open_text(reading) as text:
        story: list[str] = []
        size, begin = 0, 1
        for number, line in enumerate(iter(partial(text.readline, MAX_STORY + 1), ""), 1):
            if split == LINE or (split == BLANK_LINES and not line.strip()):
                yield begin, ["".join(story)]
                story, size, begin = [], 0, number
            story.append(line)
            size += len(line)
            if size > MAX_STORY:
                raise UserError(
                    f"{reading.file.name}, line {begin:,}: with --split {split}, the story that begins here has more "
                    f"than {MAX_STORY:,} characters: choose another --split."
                )
        yield begin, ["".join(story)]


def _marked_stories(reading: Reading, marker: str) -> Iterator[tuple[int, list[str]]]:
    with open_text(reading, "") as text:
        rest, number = "", 1
        while chunk := text.read(1 << 18):
            *stories, rest = (rest + chunk).split(marker)
            for story in stories:
                yield number, [story]
                number += 1
            if len(rest) > MAX_STORY:
                break
        if len(rest) > MAX_STORY or number == 1:
            raise UserError(
                f"{reading.file.name} has no {marker} in the {len(rest):,} characters after the beginning of story "
                f"{number:,}: put {marker} on a line between stories, choose another --split, or use .jsonl."
            )
        yield number, [rest]
