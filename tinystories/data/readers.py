"""Files of stories as tables of the one column `text`, read in parts, whatever else they hold.

Decisions:
- Only the column with the stories is read. That other columns differ between files, or in type between the rows of
  one, is nobody's concern here.
- Nothing of a story is lost. A row with more or fewer fields than the header, a quote that is not closed, a key that
  is there twice, a line that was cut, bytes that are not UTF-8, a compressed file that was cut: each is refused with
  its file and row. `skip_bad_rows` leaves such rows out and counts them, where it is certain where the row ends.
- All text is text: `NA`, `null` and `1` in a CSV are words. A null, or nothing but spaces, is no story, and counted.
- One rule for line ends, in every format: "\\n", also for "\\r\\n", "\\r", U+2028 and U+2029.
- Text is UTF-8, or what its byte order mark says.
"""

import codecs
import csv
import io
import json
import lzma
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.file_utils import xopen

from ..utils.errors import UserError, first_line
from .sources import compression, file_format
from .text_split import (
    AUTO,
    BLANK_LINES,
    END_OF_TEXT,
    FILE,
    LINE,
    LOOKED_AT_BYTES,
    LOOKED_AT_FILES,
    Look,
    decide,
    normal_split,
)


MAX_STORY_BYTES = 1_000_000  # more without an end is no story; also what bounds the memory for text
MAX_ROW = 1 << 26  # characters of a row with all its columns
ROWS, ROWS_CHARACTERS = 1_000, 1 << 22  # of a table
LINE_ENDS = "\r\n?|\u2028|\u2029"


class StoryFile(NamedTuple):
    """A file, here or at a URL that fsspec opens; `name` says its format, and stands in messages."""

    path: str
    name: str


@dataclass(frozen=True)
class ReadOptions:
    """How files are read.

    Attributes:
        text_column: column with the stories, matched without case; "story" stands in for a missing "text".
        text_split: for text, `auto`, `file`, `line`, `blank-lines`, or the marker that stands between stories.
        skip_bad_rows: leave out rows that cannot be read, and count them.
    """

    text_column: str = "text"
    text_split: str = AUTO
    skip_bad_rows: bool = False


@dataclass
class Tally:
    """What became of the rows: `empty` ones hold no text; of the `bad` ones, `first_bad` says what is wrong."""

    rows: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: str = ""
    has_words: bool = False


def read_stories(files: list[StoryFile], options: ReadOptions, tally: Tally) -> Iterator[tuple[int, pa.Table]]:
    """The stories of files of one format, as the index of the file and a table; `tally` is kept up to date.

    Raises:
        UserError: for what cannot be read, with file and row.
    """
    for index, file in enumerate(files):
        report = partial(_report, file, options, tally)
        try:
            for texts in _READERS[file_format(file.name)](file, options, report):
                tally.rows += len(texts)
                texts = clean_texts(texts)
                tally.has_words = tally.has_words or _has_letters(texts)
                tally.empty += texts.null_count
                yield index, pa.table({"text": texts.drop_null()})
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{file.name} cannot be read as {file_format(file.name)}: {first_line(error)}.") from error


def _report(file: StoryFile, options: ReadOptions, tally: Tally, place: str, problem: str) -> None:
    """Refuse a row, or count it."""
    tally.bad += 1
    said = f"{file.name}, {place}: {problem}"
    if not options.skip_bad_rows:
        raise UserError(f"{said}. Correct it, or leave such rows out with --skip_bad_rows.")
    tally.first_bad = tally.first_bad or said


Report = Callable[[str, str], None]
Place = str | int | tuple[int, int]  # in words, the number of a line, or those of a row and of its line


def clean_texts(texts: pa.Array) -> pa.Array:
    """Texts with line ends as "\\n" and no space around; null where nothing is left."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    if any(map(_may_hold_line_ends, chunks)):
        texts = pc.replace_substring_regex(texts, LINE_ENDS, "\n")
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def _may_hold_line_ends(texts: pa.StringArray) -> bool:
    """A search for single bytes, forty times as fast as one for the pattern, which is then seldom needed."""
    content = texts.buffers()[2]
    content = content.to_pybytes() if content else b""
    return any(last in content for last in (b"\r", b"\xa8", b"\xa9"))  # the last bytes of each of LINE_ENDS


def _has_letters(texts: pa.Array) -> bool:
    return any(not pc.is_null(text).as_py() and any(map(str.isalpha, text.as_py())) for text in texts)


# Bytes and characters


@contextmanager
def open_file(file: StoryFile) -> Iterator[BinaryIO]:
    """The content of a file, decompressed."""
    kind = compression(file.name)
    with ExitStack() as stack:
        content = stack.enter_context(xopen(file.path, "rb"))
        if kind == "xz":
            content = stack.enter_context(lzma.open(content))
        elif kind is not None:
            content = stack.enter_context(pa.CompressedInputStream(content, kind))
        yield content


_MARKS = {  # UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class _Chained(io.RawIOBase):
    """Bytes that were read already, and then the rest of the file."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _open_encoded(file: StoryFile) -> Iterator[tuple[io.BufferedReader, str]]:
    """The content, and its encoding."""
    with open_file(file) as content:
        head = content.read(4096)
        encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
        low, high = sorted((head[::2].count(0), head[1::2].count(0)))
        if encoding == "utf-8" and high > len(head) / 5 and low < len(head) / 50:
            raise UserError(
                f"{file.name} looks like UTF-16 without a byte order mark: write it as UTF-8, "
                f"for example with `iconv -f UTF-16LE -t UTF-8`."
            )
        yield io.BufferedReader(_Chained(head, content), 1 << 20), encoding


@contextmanager
def _open_text(file: StoryFile, newline: str | None) -> Iterator[io.TextIOWrapper]:
    """The characters. Bytes that are not UTF-8 become lone surrogates, so that the row with them can be named."""
    with _open_encoded(file) as (content, encoding):
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        yield io.TextIOWrapper(content, encoding, errors, newline)


def _arrays(rows: Iterable[tuple[Place, str | None]], report: Report) -> Iterator[pa.Array]:
    """Arrays of the texts of rows, each with its place (or the number of its line); broken characters are reported."""
    places, texts, size = [], [], 0
    for place, text in rows:
        places.append(place)
        texts.append(text)
        size += len(text or "")
        if len(texts) == ROWS or size > ROWS_CHARACTERS:
            yield _array(places, texts, report)
            places, texts, size = [], [], 0
    if texts:
        yield _array(places, texts, report)


def _array(places: list, texts: list[str | None], report: Report) -> pa.Array:
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        sound = []
        for place, text in zip(places, texts, strict=True):
            try:
                (text or "").encode()
                sound.append(text)
            except UnicodeEncodeError as error:
                code = ord(text[error.start])
                byte = f"is not UTF-8: byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ""
                report(_place(place), byte or f"holds half of a character (U+{code:04X} alone)")
        return pa.array(sound, pa.string())


def _place(place: Place) -> str:
    if isinstance(place, tuple):
        return f"row {place[0]:,} (line {place[1]:,})"
    return place if isinstance(place, str) else f"line {place:,}"


def find_column(names: list[str], wanted: str) -> str | None:
    """The column that is meant, without case; None where there is none, or more than one."""
    for name in (wanted, "story") if wanted.strip().lower() == "text" else (wanted,):
        if names.count(name) == 1:
            return name
        alike = [other for other in names if other.strip().lower() == name.strip().lower()]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def column_missing(name: str, names: Iterable[str], wanted: str) -> UserError:
    names = list(names)
    alike = [other for other in names if str(other).strip().lower() == wanted.strip().lower()]
    if len(alike) > 1:
        return UserError(f"{name} has {len(alike)} columns {wanted}: give each column a name of its own.")
    shown = ", ".join(str(column)[:40] for column in names[:20])
    return UserError(
        f"{name} has no column {wanted}: name the column with the stories with --text-column; there are: {shown}."
    )


# Text


def look_at(files: list[StoryFile]) -> list[Look]:
    """The beginnings of some of the files, spread evenly."""
    looks = []
    for file in files[:: -(-len(files) // LOOKED_AT_FILES)]:
        with _open_encoded(file) as (content, encoding):
            head = content.read(LOOKED_AT_BYTES)
            is_whole = not content.read(1)
        text = codecs.getincrementaldecoder(encoding)("replace").decode(head).replace("\r\n", "\n").replace("\r", "\n")
        looks.append(Look(text, is_whole, len(head)))
    return looks


def resolve_split(files: list[StoryFile], name: str, options: ReadOptions) -> tuple[str, str]:
    """How stories are parted in files of text, and why.

    Raises:
        UserError: where that is not certain.
    """
    split = normal_split(options.text_split)
    if split != AUTO:
        return split, "as given"
    try:
        found = decide(look_at(files), len(files))
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise UserError(f"{name} cannot be read as text: {first_line(error)}.") from error
    if found is None:
        raise UserError(
            f"{name} has no {END_OF_TEXT} between its stories, and where they end is not certain: say it with "
            "--split file, --split line, --split blank-lines or --split MARKER, what stands between them."
        )
    return found


def _read_text(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[pa.Array]:
    split = normal_split(options.text_split)
    by_marker = split not in (FILE, LINE, BLANK_LINES)
    rows = _pieces(file, split) if by_marker else _text_rows(file, split)
    for texts in _arrays(rows, report):
        if not by_marker and pc.any(pc.match_substring(texts, END_OF_TEXT)).as_py():
            raise UserError(
                f"{file.name} holds {END_OF_TEXT}, which ends a story, and was to be split by {split}: "
                f"give --split '{END_OF_TEXT}'."
            )
        yield texts


def _text_rows(file: StoryFile, split: str) -> Iterator[tuple[int, str]]:
    with _open_text(file, None) as lines:
        story, size, begin = [], 0, 1
        for number, line in enumerate(iter(partial(lines.readline, MAX_STORY_BYTES + 1), ""), 1):
            if split == LINE or (split == BLANK_LINES and not line.strip()):
                yield begin, "".join(story)
                story, size, begin = [], 0, number
            story.append(line)
            size += len(line)
            if size > MAX_STORY_BYTES:
                raise UserError(
                    f"{file.name} is to be split by {split}, but has more than {MAX_STORY_BYTES:,} characters without "
                    f"an end from line {begin:,}: choose another --split."
                )
        yield begin, "".join(story)


def _pieces(file: StoryFile, marker: str) -> Iterator[tuple[str, str]]:
    found, between = False, marker.encode()
    for offset, story, ended in _split_bytes(file, between):
        found |= ended
        if len(story) > MAX_STORY_BYTES or not found:
            raise UserError(
                f"{file.name} has no {marker} in {len(story):,} bytes from byte {offset:,}: put one on a line "
                "between stories, say with --split how they are parted, or write them as .jsonl."
            )
        try:
            yield f"byte {offset:,}", story.decode()
        except UnicodeDecodeError as error:
            at, byte = offset + error.start, story[error.start]
            raise UserError(f"{file.name} is not UTF-8: byte 0x{byte:02x} at offset {at:,}.") from None


def _split_bytes(file: StoryFile, marker: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """What lies between markers, as UTF-8: its offset, its bytes, and whether a marker ended it."""
    with _open_encoded(file) as (content, encoding):
        offset, decoder = 0, None
        if encoding == "utf-8-sig":
            offset = len(content.read(len(codecs.BOM_UTF8)))
        elif encoding != "utf-8":
            decoder = codecs.getincrementaldecoder(encoding)()
        buffer, is_last = b"", False
        while not is_last:
            chunk = content.read(1 << 20)
            is_last = not chunk
            *stories, buffer = (buffer + (decoder.decode(chunk, is_last).encode() if decoder else chunk)).split(marker)
            for story in stories:
                yield offset, story, True
                offset += len(story) + len(marker)
            if len(buffer) > MAX_STORY_BYTES:
                break
    yield offset, buffer, False


# CSV


def _read_csv(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[pa.Array]:
    yield from _arrays(_csv_rows(file, options, report), report)


def _csv_rows(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[tuple[Place, str]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    with _open_text(file, "") as lines:
        head, before = lines.readline(MAX_ROW), 1
        while head and (not head.strip() or head.count('"') % 2) and (more := lines.readline(MAX_ROW)):
            head, before = head + more if head.strip() else more, before + 1
        delimiter, header, column = _csv_header(head, file, options)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 0
        while True:
            begin = before + reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UserError(_csv_problem(file, str(error), begin, before + reader.line_num)) from None
            if row is None:
                return
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                report(
                    _place((number, begin)),
                    f"{len(row):,} fields, but the header has {len(header):,}; a text with {delimiter!r} in it must "
                    "stand in double quotes",
                )
            else:
                yield (number, begin), row[column]


def _csv_problem(file: StoryFile, problem: str, begin: int, end: int) -> str:
    if "unexpected end" in problem:
        problem = "a quote is opened and not closed before the end of the file"
    elif "expected after" in problem:
        problem = 'text follows a closing quote; inside a quoted text, a quote is written ""'
    return f"{file.name}, line {begin:,}{f' to {end:,}' if end > begin else ''}: {problem}."


def _csv_header(head: str, file: StoryFile, options: ReadOptions) -> tuple[str, list[str], int]:
    """The delimiter, the names of the columns, and the index of the one with the stories."""
    usual = "\t" if ".tsv" in file.name.lower()[-8:] else ","
    for delimiter in (usual, *(other for other in ",;\t|" if other != usual)):
        try:
            header = [name.strip() for name in next(csv.reader([head], delimiter=delimiter, strict=True), [])]
        except csv.Error as error:
            raise UserError(_csv_problem(file, str(error), 1, 1)) from None
        if (name := find_column(header, options.text_column)) is not None:
            return delimiter, header, header.index(name)
        if delimiter == usual:
            first = header
    if not first:
        raise UserError(f"{file.name} holds no stories.")
    raise column_missing(file.name, first, options.text_column)


# JSON


def _read_json(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[pa.Array]:
    yield from _arrays(_json_rows(file, options, report), report)


# Numbers of any length are numbers, and none of them is a story.
_DECODER = json.JSONDecoder(parse_int=float)


def _json_rows(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[tuple[Place, str | None]]:
    column = None
    with _open_text(file, None) as lines:
        for place, source, value in _json_values(file, lines, report):
            if isinstance(value, str):  # a list of stories, without columns
                yield place, value
                continue
            if not isinstance(value, dict):
                report(_place(place), f"{_kind(value)} instead of an object with the column {options.text_column}")
                continue
            if column not in value:
                found = find_column(list(value), options.text_column)
                if found is None and column is None and not options.skip_bad_rows:
                    raise column_missing(file.name, value, options.text_column)
                if found is None:
                    report(_place(place), f"no {column or options.text_column}, only {', '.join(value)[:200]}")
                    continue
                column = found
            text = value[column]
            if text is not None and not isinstance(text, str):
                report(_place(place), f"{column} is {_kind(text)}, not text")
            elif source.count(f'"{column}"') > 1 and _is_twice(source, column):
                report(_place(place), f"{column} is there twice")
            else:
                yield place, text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _is_twice(source: str, column: str) -> bool:
    pairs = json.JSONDecoder(parse_int=float, object_pairs_hook=list).decode(source)
    return [key for key, _ in pairs].count(column) > 1


def _json_values(file: StoryFile, lines: io.TextIOWrapper, report: Report) -> Iterator[tuple[Place, str, Any]]:
    """Each value with its place and source: those of a list, those of lines, or the one in the file."""
    number, line = 1, lines.readline(MAX_ROW)
    while line and not line.strip():
        number, line = number + 1, lines.readline(MAX_ROW)
    if line.lstrip().startswith("["):
        yield from _list_values(file, line, lines, report)
        return
    if file.name.lower().removesuffix(f".{compression(file.name)}").endswith(".json") and not _is_json(line):
        line += lines.read(MAX_ROW)  # one object, over several lines
    while line:
        if len(line) >= MAX_ROW:
            raise UserError(f"{file.name}, line {number:,}: longer than {MAX_ROW:,} characters.")
        if line.strip():
            try:
                yield number, line, _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                within = min(getattr(error, "lineno", 1) - 1, line.rstrip().count("\n"))
                report(_place(number + within), f"not JSON: {_json_problem(error)}")
        number, line = number + 1, lines.readline(MAX_ROW)


def _is_json(line: str) -> bool:
    try:
        _DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_problem(error: Exception) -> str:
    return getattr(error, "msg", first_line(error)).removesuffix(" at")


def _list_values(file: StoryFile, buffer: str, rest: io.TextIOWrapper, report: Report) -> Iterator[tuple]:
    """The items of a list, of which only a part is in memory."""
    at, number, chunk, is_last = buffer.index("[") + 1, 1, 1 << 16, False
    expected = ""
    while True:
        at = _WHITE.match(buffer, at).end()
        try:
            if at == len(buffer) and not is_last:
                raise ValueError("more to read")
            if expected == ",":
                if buffer[at : at + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' or ']'", "", 0)
                if buffer[at] == "]":
                    break
                at, expected = at + 1, "value"
                continue
            if not expected and buffer[at : at + 1] == "]":
                break
            value, end = _DECODER.raw_decode(buffer, at)
            if end == len(buffer) and not is_last:
                raise ValueError("more of a number may follow")
        except (ValueError, RecursionError) as error:
            if is_last or len(buffer) - at > MAX_ROW:
                problem = "cut off, or not JSON" if is_last else "not JSON"
                raise UserError(f"{file.name}, item {number:,}: {problem}: {_json_problem(error)}.") from None
            more = rest.read(chunk)
            buffer, at, chunk, is_last = buffer[at:] + more, 0, min(chunk * 2, MAX_ROW), not more
            continue
        yield f"item {number:,}", buffer[at:end], value
        at, number, chunk, expected = end, number + 1, 1 << 16, ","
    if buffer[at + 1 :].strip() or rest.read(1 << 16).strip():
        raise UserError(f"{file.name} goes on after the end of its list: write one list, or one row on each line.")


_WHITE = re.compile(r"\s*")


# Parquet and Arrow


def _read_parquet(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[pa.Array]:
    with _open_seekable(file) as content, pq.ParquetFile(content) as table:
        column = _typed_column(file, table.schema_arrow, options)
        rows = 0
        for batch in table.iter_batches(ROWS, columns=[column]):
            yield _typed_texts(batch.column(batch.schema.names.index(column)), rows, report)
            rows += len(batch)


def _read_arrow(file: StoryFile, options: ReadOptions, report: Report) -> Iterator[pa.Array]:
    with _open_seekable(file) as content:
        is_file = content.read(6) == b"ARROW1"
        content.seek(0)
        open_reader = pa.ipc.open_file if is_file else pa.ipc.open_stream
        schema = open_reader(content).schema
        column = _typed_column(file, schema, options)
        content.seek(0)
        reader = open_reader(content, options=pa.ipc.IpcReadOptions(included_fields=[schema.names.index(column)]))
        batches = (reader.get_batch(at) for at in range(reader.num_record_batches)) if is_file else reader
        rows = 0
        for batch in batches:
            yield _typed_texts(batch.column(0), rows, report)
            rows += len(batch)


@contextmanager
def _open_seekable(file: StoryFile) -> Iterator[BinaryIO]:
    """The content of a file whose parts are looked up; one that is compressed as a whole is written out first."""
    with open_file(file) as content:
        if compression(file.name) is None:
            yield content
            return
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(content, whole, 1 << 20)
            whole.seek(0)
            yield whole


def _typed_column(file: StoryFile, schema: pa.Schema, options: ReadOptions) -> str:
    if (column := find_column(schema.names, options.text_column)) is None:
        raise column_missing(file.name, schema.names, options.text_column)
    kind = schema.field(column).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(value) for is_kind in is_text + is_bytes):
        raise UserError(
            f"The column {column} of {file.name} is of type {kind}, not text: name the column with the stories with "
            f"--text-column; there are: {', '.join(schema.names)}."
        )
    return column


def _typed_texts(texts: pa.Array, rows: int, report: Report) -> pa.Array:
    """Strings of a column of strings or bytes; those that are not UTF-8 are reported as row `rows` + their index."""
    try:
        texts = texts.cast(pa.string())
        texts.validate(full=True)  # files hold bytes that are not UTF-8 as strings
        return texts
    except pa.ArrowInvalid:
        decoded = []
        for row, text in enumerate(texts.cast(pa.large_binary()).to_pylist(), rows + 1):
            try:
                decoded.append(None if text is None else text.decode())
            except UnicodeDecodeError as error:
                report(f"row {row:,}", f"is not UTF-8: byte 0x{text[error.start]:02x}")
        return pa.array(decoded, pa.string())


_READERS = {
    "text": _read_text,
    "csv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
