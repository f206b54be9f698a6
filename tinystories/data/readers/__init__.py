"""Read files of stories as Arrow tables with the column `text`, and those of fields, batch by batch.

The builders of `datasets` read every column, fail where a column differs between files, and drop fields of a CSV row.
Here only the column with the stories is read, and what would lose part of a story is an error with its file and row: a
row with more or fewer fields than the header, an unclosed quote, a repeated key, a truncated line or file, bytes that
are not UTF-8. `skip_bad_rows` leaves such rows out if it is certain where they end. All cells are text (`NA`, `1`),
line ends become "\\n", and text is UTF-8, or what the byte order mark says.
"""

from .columns import find_column, find_fields, require_field, require_text
from .plain_text import resolve_split
from .reading import ReadOptions, RowCounts, StoryFile
from .stories import read_stories
from .texts import filled, joined_lists, normalize_texts


__all__ = [
    "ReadOptions",
    "RowCounts",
    "StoryFile",
    "filled",
    "find_column",
    "find_fields",
    "joined_lists",
    "normalize_texts",
    "read_stories",
    "require_field",
    "require_text",
    "resolve_split",
]
