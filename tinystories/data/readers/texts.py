"""Texts as Arrow arrays: batches of rows, line ends, surrounding space."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .reading import Reading


ROWS, CHARACTERS = 1_000, 1 << 22  # of a batch
LINE_ENDS = "\r\n?|\u2028|\u2029"


def text_arrays(
    reading: Reading, place: str, rows: Iterable[tuple[Any, Sequence[str | None]]]
) -> Iterator[list[pa.Array]]:
    """Columns of rows, in batches: the texts, and the fields.

    Args:
        place: formats a row's number for messages.
        rows: the number of each row, and its cells.
    """
    numbers: list[Any] = []
    cells: list[Sequence[str | None]] = []
    size = 0
    for number, row in rows:
        numbers.append(number)
        cells.append(row)
        size += len(row[0] or "")
        if len(cells) == ROWS or size > CHARACTERS:
            yield text_columns(reading, place, numbers, cells)
            numbers, cells, size = [], [], 0
    if cells:
        yield text_columns(reading, place, numbers, cells)


def text_columns(reading: Reading, place: str, numbers: list, cells: list[Sequence[str | None]]) -> list[pa.Array]:
    try:
        return _columns(cells, reading)
    except UnicodeEncodeError:
        valid = []
        for number, row in zip(numbers, cells, strict=True):
            try:
                for text in row:
                    (text or "").encode()
                valid.append(row)
            except UnicodeEncodeError as error:
                code = ord(error.object[error.start])
                problem = f"contains an unpaired surrogate (U+{code:04X})"
                if 0xDC80 <= code <= 0xDCFF:
                    problem = (
                        f"not valid UTF-8 (byte 0x{code - 0xDC00:02x}); if the file has another encoding, convert it, "
                        f"for example with `iconv -f WINDOWS-1252 -t UTF-8`"
                    )
                reading.bad_row(place.format(number), problem)
        return _columns(valid, reading)


def _columns(cells: list[Sequence[str | None]], reading: Reading) -> list[pa.Array]:
    number = 1 + len(reading.options.fields)
    return [pa.array([row[column] for row in cells], pa.string()) for column in range(number)]


def joined_lists(column: pa.Array) -> pa.Array:
    """A column of lists of texts as texts with commas; other columns are returned unchanged."""
    if not any(test(column.type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
        return column
    return pa.array(
        [None if cell is None else ", ".join(filter(None, cell)) for cell in column.to_pylist()], pa.string()
    )


def normalize_texts(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Line ends become "\\n", surrounding space is removed, and a text of which nothing remains becomes null."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    if any(map(_may_have_line_ends, chunks)):
        texts = pc.replace_substring_regex(texts, LINE_ENDS, "\n")
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def filled(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Normalised texts, with "" for null."""
    return pc.fill_null(normalize_texts(texts), "")


def _may_have_line_ends(texts: pa.StringArray) -> bool:
    """Whether a text may match `LINE_ENDS`, by the last bytes of its UTF-8: forty times as fast as the pattern."""
    content = texts.buffers()[2]
    content = content.to_pybytes() if content else b""
    return any(last in content for last in (b"\r", b"\xa8", b"\xa9"))


def contains(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())
