"""Texts as Arrow arrays: batches of rows, line ends, surrounding space."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .reading import Reading


ROWS, CHARACTERS = 1_000, 1 << 22  # of a batch
LINE_ENDS = "\r\n?|\u2028|\u2029"


def text_arrays(reading: Reading, place: str, rows: Iterable[tuple[Any, str | None]]) -> Iterator[pa.Array]:
    """Arrays of the texts of rows; `place` formats a row's number for messages."""
    numbers: list[Any] = []
    texts: list[str | None] = []
    size = 0
    for number, text in rows:
        numbers.append(number)
        texts.append(text)
        size += len(text or "")
        if len(texts) == ROWS or size > CHARACTERS:
            yield text_array(reading, place, numbers, texts)
            numbers, texts, size = [], [], 0
    if texts:
        yield text_array(reading, place, numbers, texts)


def text_array(reading: Reading, place: str, numbers: list, texts: list[str | None]) -> pa.Array:
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        valid = []
        for number, text in zip(numbers, texts, strict=True):
            try:
                (text or "").encode()
                valid.append(text)
            except UnicodeEncodeError as error:
                code = ord(error.object[error.start])
                problem = f"contains an unpaired surrogate (U+{code:04X})"
                if 0xDC80 <= code <= 0xDCFF:
                    problem = (
                        f"not valid UTF-8 (byte 0x{code - 0xDC00:02x}); if the file has another encoding, convert it, "
                        f"for example with `iconv -f WINDOWS-1252 -t UTF-8`"
                    )
                reading.bad_row(place.format(number), problem)
        return pa.array(valid, pa.string())


def normalize_texts(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Line ends become "\\n", surrounding space is removed, and a text of which nothing remains becomes null."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    if any(map(_may_have_line_ends, chunks)):
        texts = pc.replace_substring_regex(texts, LINE_ENDS, "\n")
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def _may_have_line_ends(texts: pa.StringArray) -> bool:
    """Whether a text may match `LINE_ENDS`, by the last bytes of its UTF-8: forty times as fast as the pattern."""
    content = texts.buffers()[2]
    content = content.to_pybytes() if content else b""
    return any(last in content for last in (b"\r", b"\xa8", b"\xa9"))


def contains(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())
