"""What is read and how: a file, the options for reading, and counts of rows."""

import io
from dataclasses import dataclass
from typing import NamedTuple

from ...utils.errors import UserError
from ..text_split import AUTO


MAX_ROW = 1 << 26  # characters of a row with all its columns


class StoryFile(NamedTuple):
    """A path or a URL that fsspec opens; `name` gives its format, and is used in messages."""

    path: str
    name: str


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        text_column: column with the stories, matched without case; "story" stands in for a missing "text".
        text_split: for plain text, `auto`, `file`, `line`, `blank-lines`, or the marker between stories.
        skip_bad_rows: leave out rows that cannot be read, and count them.
        fields: further columns, matched without case.
    """

    text_column: str = "text"
    text_split: str = AUTO
    skip_bad_rows: bool = False
    fields: tuple[str, ...] = ()


@dataclass
class RowCounts:
    """Numbers of rows: all that were read, those of them without text, and those that cannot be read."""

    rows: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: str = ""
    has_letters: bool = False


@dataclass
class Reading:
    """One file being read; `content` is the open file, not decompressed."""

    file: StoryFile
    options: ReadOptions
    counts: RowCounts
    content: io.IOBase | None = None

    def position(self) -> int:
        """How far the file has been read, in bytes."""
        return 0 if self.content is None or self.content.closed else self.content.tell()

    def bad_row(self, place: str, problem: str) -> None:
        """Count a row that cannot be read, or raise an error."""
        message = f"{self.file.name}, {place}: {problem}"
        if not self.options.skip_bad_rows:
            raise UserError(f"{message}. Correct the row, or skip such rows with --skip_bad_rows.")
        self.counts.bad += 1
        self.counts.first_bad = self.counts.first_bad or message
