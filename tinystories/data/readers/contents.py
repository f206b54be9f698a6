"""Open files: decompressed, and as characters in the encoding that the byte order mark gives, or UTF-8."""

import codecs
import io
import lzma
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyarrow as pa
from datasets.utils.file_utils import xopen

from ...utils.errors import UserError, first_line
from ..formats import compression, name_suffixes
from .reading import Reading, StoryFile


READ_ERRORS = (OSError, EOFError, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError)
NOT_UTF8 = 1 / 5  # of the bytes: few in text with Western accents, most in other scripts and in binary files


def read_error(file: StoryFile, error: Exception) -> UserError:
    """A `UserError` for one of `READ_ERRORS`."""
    # pyarrow raises an OSError without a number for a truncated file.
    if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None):
        return UserError(f"{file.name} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}.")
    return UserError(
        f"{file.name} cannot be read as {''.join(name_suffixes(file.name))}: {first_line(error)}. The file is "
        f"damaged, incomplete or of another format: write or download it again, or correct its suffix."
    )


@contextmanager
def open_bytes(reading: Reading) -> Iterator[io.BufferedIOBase]:
    """The content of a file, decompressed."""
    kind = compression(reading.file.name)
    with ExitStack() as stack:
        content = reading.content = stack.enter_context(xopen(reading.file.path, "rb"))
        if kind == "xz":
            content = stack.enter_context(lzma.open(content))
        elif kind is not None:
            content = stack.enter_context(pa.CompressedInputStream(content, kind))
        yield content


_BYTE_ORDER_MARKS = {  # that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_text(reading: Reading, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """The content of a file as characters; bytes that are not UTF-8 become lone surrogates, whose row `text_arrays`
    can name.

    Raises:
        UserError: if the content is UTF-16 without a byte order mark, or mostly not UTF-8.
    """
    with open_bytes(reading) as unbuffered:
        content = io.BufferedReader(unbuffered, 1 << 20)
        head = content.peek(4096)[:4096]
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
        low, high = sorted((head[::2].count(0), head[1::2].count(0)))
        if encoding == "utf-8" and high > len(head) / 5 and low < len(head) / 50:
            raise UserError(
                f"{reading.file.name} looks like UTF-16 without a byte order mark: write it as UTF-8, "
                f"for example with `iconv -f UTF-16LE -t UTF-8`."
            )
        if encoding == "utf-8" and len(head.decode(errors="ignore").encode()) < (1 - NOT_UTF8) * len(head):
            raise UserError(
                f"{reading.file.name} is not UTF-8 text: convert text in another encoding, for example with "
                f"`iconv -f WINDOWS-1252 -t UTF-8`."
            )
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        yield io.TextIOWrapper(content, encoding, errors, newline)


@contextmanager
def open_seekable(reading: Reading) -> Iterator[io.BufferedIOBase]:
    """The content of a file; one that is compressed as a whole is read into memory."""
    with open_bytes(reading) as content:
        yield content if compression(reading.file.name) is None else pa.BufferReader(content.read())
