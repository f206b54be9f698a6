"""Read files of stories as Arrow tables with the one column `text`, batch by batch.

The builders of `datasets` read every column, fail where a column differs between files, and drop fields of a CSV row.
Here only the column with the stories is read, and what would lose part of a story is an error with its file and row: a
row with more or fewer fields than the header, an unclosed quote, a repeated key, a truncated line or file, bytes that
are not UTF-8. `skip_bad_rows` leaves such rows out if it is certain where they end. All cells are text (`NA`, `1`),
line ends become "\\n", and text is UTF-8, or what the byte order mark says.
"""

import codecs
import csv
import io
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

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
    SAMPLED_CHARACTERS,
    SAMPLED_FILES,
    Sample,
    choose_split,
    normalize_split,
)


MAX_STORY = 1_000_000  # characters; longer text is not a story, and might not fit into memory
MAX_ROW = 1 << 26  # characters of a row with all its columns
ROWS, CHARACTERS = 1_000, 1 << 22  # of a batch
LINE_ENDS = "\r\n?|\u2028|\u2029"
READ_ERRORS = (OSError, EOFError, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError)


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
    """

    text_column: str = "text"
    text_split: str = AUTO
    skip_bad_rows: bool = False


@dataclass
class RowCounts:
    """Numbers of rows: all that were read, those of them without text, and those that cannot be read."""

    rows: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: str = ""
    has_letters: bool = False


@dataclass
class _Reading:
    """One file being read."""

    file: StoryFile
    options: ReadOptions
    counts: RowCounts

    def bad_row(self, place: str, problem: str) -> None:
        """Count a row that cannot be read, or raise an error."""
        message = f"{self.file.name}, {place}: {problem}"
        if not self.options.skip_bad_rows:
            raise UserError(f"{message}. Correct the row, or skip such rows with --skip_bad_rows.")
        self.counts.bad += 1
        self.counts.first_bad = self.counts.first_bad or message


def read_stories(files: list[StoryFile], options: ReadOptions, counts: RowCounts) -> Iterator[tuple[int, pa.Table]]:
    """Yield the index of each file with tables of its stories, and update `counts`.

    Raises:
        UserError: for what cannot be read, with file and row.
    """
    for index, file in enumerate(files):
        try:
            for texts in _READERS[file_format(file.name)](_Reading(file, options, counts)):
                counts.rows += len(texts)
                texts = normalize_texts(texts)
                counts.has_letters |= not counts.has_letters and contains(texts, r"\p{L}")
                counts.empty += texts.null_count
                yield index, pa.table({"text": texts.drop_null()})
        except READ_ERRORS as error:
            raise UserError(f"{file.name} cannot be read as {file_format(file.name)}: {first_line(error)}.") from error


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


@contextmanager
def _open_bytes(file: StoryFile) -> Iterator[io.BufferedIOBase]:
    """The content of a file, decompressed."""
    kind = compression(file.name)
    with ExitStack() as stack:
        content = stack.enter_context(xopen(file.path, "rb"))
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
def _open_text(file: StoryFile, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """The content of a file as characters. Bytes that are not UTF-8 become lone surrogates, so that `_arrays` can name
    their row."""
    with _open_bytes(file) as unbuffered:
        content = io.BufferedReader(unbuffered, 1 << 20)
        head = content.peek(4096)[:4096]
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
        low, high = sorted((head[::2].count(0), head[1::2].count(0)))
        if encoding == "utf-8" and high > len(head) / 5 and low < len(head) / 50:
            raise UserError(
                f"{file.name} looks like UTF-16 without a byte order mark: write it as UTF-8, "
                f"for example with `iconv -f UTF-16LE -t UTF-8`."
            )
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        yield io.TextIOWrapper(content, encoding, errors, newline)


def _arrays(reading: _Reading, place: str, rows: Iterable[tuple[Any, str | None]]) -> Iterator[pa.Array]:
    """Arrays of the texts of rows; `place` formats a row's number for messages."""
    numbers: list[Any] = []
    texts: list[str | None] = []
    size = 0
    for number, text in rows:
        numbers.append(number)
        texts.append(text)
        size += len(text or "")
        if len(texts) == ROWS or size > CHARACTERS:
            yield _array(reading, place, numbers, texts)
            numbers, texts, size = [], [], 0
    if texts:
        yield _array(reading, place, numbers, texts)


def _array(reading: _Reading, place: str, numbers: list, texts: list[str | None]) -> pa.Array:
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
                    problem = f"is not valid UTF-8: byte 0x{code - 0xDC00:02x}"
                reading.bad_row(place.format(number), problem)
        return pa.array(valid, pa.string())


def find_column(names: Iterable[str], wanted: str, file: str) -> str:
    """The name of the column `wanted`, matched without case.

    Raises:
        UserError: if there is no such column, or more than one.
    """
    names = list(map(str, names))
    for name in (wanted, "story") if wanted.strip().lower() == "text" else (wanted,):
        if names.count(name) == 1:
            return name
        alike = [other for other in names if other.strip().lower() == name.strip().lower()]
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise UserError(f"{file} has {len(alike)} columns named {wanted}: give each column a unique name.")
    shown = ", ".join(name[:40] for name in names[:20])
    raise UserError(
        f"{file} has no column {wanted}: specify the column of the stories with --text-column (columns: {shown})."
    )


# Plain text


def resolve_split(files: list[StoryFile], source: str, options: ReadOptions) -> tuple[str, str]:
    """Where stories end in files of plain text, and why.

    Raises:
        UserError: if that is uncertain.
    """
    split = normalize_split(options.text_split)
    if split != AUTO:
        return split, "as given"
    samples = []
    try:
        for file in files[:: -(-len(files) // SAMPLED_FILES)]:  # spread evenly
            with _open_text(file) as text:
                samples.append(Sample(text.read(SAMPLED_CHARACTERS), is_complete=not text.read(1)))
    except READ_ERRORS as error:
        raise UserError(f"{source} cannot be read as text: {first_line(error)}.") from error
    chosen = choose_split(samples, len(files))
    if chosen is None:
        raise UserError(
            f"{source} has no {END_OF_TEXT} between its stories, and where they end is ambiguous: specify it with "
            "--split file, --split line, --split blank-lines, or --split followed by the separator."
        )
    return chosen


def _read_text(reading: _Reading) -> Iterator[pa.Array]:
    split = normalize_split(reading.options.text_split)
    if split not in (FILE, LINE, BLANK_LINES):
        yield from _arrays(reading, "story {:,}", _marked_stories(reading.file, split))
        return
    for texts in _arrays(reading, "line {:,}", _stories_in_lines(reading.file, split)):
        if contains(texts, re.escape(END_OF_TEXT)):
            raise UserError(
                f"{reading.file.name} contains {END_OF_TEXT}, which ends a story, but --split is {split}: "
                f"use --split '{END_OF_TEXT}'."
            )
        yield texts


def _stories_in_lines(file: StoryFile, split: str) -> Iterator[tuple[int, str]]:
    with _open_text(file) as text:
        story: list[str] = []
        size, begin = 0, 1
        for number, line in enumerate(iter(partial(text.readline, MAX_STORY + 1), ""), 1):
            if split == LINE or (split == BLANK_LINES and not line.strip()):
                yield begin, "".join(story)
                story, size, begin = [], 0, number
            story.append(line)
            size += len(line)
            if size > MAX_STORY:
                raise UserError(
                    f"{file.name}, line {begin:,}: with --split {split}, the story that begins here has more than "
                    f"{MAX_STORY:,} characters: choose another --split."
                )
        yield begin, "".join(story)


def _marked_stories(file: StoryFile, marker: str) -> Iterator[tuple[int, str]]:
    with _open_text(file, "") as text:
        rest, number = "", 1
        while chunk := text.read(1 << 18):
            *stories, rest = (rest + chunk).split(marker)
            for story in stories:
                yield number, story
                number += 1
            if len(rest) > MAX_STORY:
                break
        if len(rest) > MAX_STORY or number == 1:
            raise UserError(
                f"{file.name} has no {marker} in the {len(rest):,} characters after the beginning of story "
                f"{number:,}: put {marker} on a line between stories, choose another --split, or use .jsonl."
            )
        yield number, rest


# CSV


def _read_csv(reading: _Reading) -> Iterator[pa.Array]:
    yield from _arrays(reading, _CSV_PLACE, _csv_rows(reading))


_CSV_PLACE = "row {0[0]:,} (line {0[1]:,})"


def _csv_rows(reading: _Reading) -> Iterator[tuple[tuple[int, int], str]]:
    file = reading.file
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    with _open_text(file, "") as lines:
        head, before = lines.readline(MAX_ROW), 1
        while head and not head.strip():
            head, before = lines.readline(MAX_ROW), before + 1
        delimiter, header, column = _csv_header(head, file, reading.options)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 0
        while True:
            begin = before + reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _csv_error(file, error, begin, before + reader.line_num) from None
            if row is None:
                return
            if not row:
                continue
            number += 1
            if len(row) == len(header):
                yield (number, begin), row[column]
            else:
                reading.bad_row(
                    _CSV_PLACE.format((number, begin)),
                    f"{len(row):,} fields, but the header has {len(header):,}; a text that contains {delimiter!r} "
                    "must be in double quotes",
                )


def _csv_error(file: StoryFile, error: csv.Error, begin: int, end: int) -> UserError:
    problem = str(error)
    if "unexpected end" in problem:
        problem = "a quote is opened, but not closed before the end of the file"
    elif "expected after" in problem:
        problem = 'there is text after a closing quote; inside quoted text, write a quote as ""'
    return UserError(f"{file.name}, line {begin:,}{f' to {end:,}' if end > begin else ''}: {problem}.")


def _csv_header(head: str, file: StoryFile, options: ReadOptions) -> tuple[str, list[str], int]:
    """The delimiter, the names of the columns, and the index of the one with the stories."""
    if not head:
        raise UserError(f"{file.name} contains no stories.")
    problems = []
    for delimiter in "\t,;|" if ".tsv" in file.name.lower()[-8:] else ",;\t|":
        try:
            header = [name.strip() for name in next(csv.reader([head], delimiter=delimiter, strict=True))]
            return delimiter, header, header.index(find_column(header, options.text_column, file.name))
        except csv.Error as error:
            raise _csv_error(file, error, 1, 1) from None
        except UserError as error:
            problems.append(error)
    raise problems[0]


# JSON

_DECODER = json.JSONDecoder(parse_int=float)  # an integer may have any number of digits
_WHITESPACE = re.compile(r"\s*")


def _read_json(reading: _Reading) -> Iterator[pa.Array]:
    """One value per line, a single value, or a list of values; a list is read into memory as a whole."""
    name = reading.file.name
    with _open_text(reading.file) as text:
        lines = enumerate(iter(partial(text.readline, MAX_ROW), ""), 1)
        number, line = next((numbered for numbered in lines if numbered[1].strip()), (1, ""))
        if line.lstrip().startswith("["):
            place, values = "item {:,}", _json_items(name, line + text.read())
        else:
            is_json = name.lower().removesuffix(f".{compression(name)}").endswith(".json")
            if is_json and isinstance(_decode(line), Exception):
                line += text.read()  # one object on several lines
            place, values = "line {:,}", _json_lines(reading, chain([(number, line)], lines))
        yield from _arrays(reading, place, _json_rows(reading, place, values))


def _json_lines(reading: _Reading, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str, Any]]:
    """The number, the source and the value of each line."""
    for number, line in lines:
        if len(line) >= MAX_ROW:
            raise UserError(f"{reading.file.name}, line {number:,}: the line has more than {MAX_ROW:,} characters.")
        if line := line.rstrip():
            value = _decode(line)
            if isinstance(value, Exception):
                number += getattr(value, "lineno", 1) - 1
                reading.bad_row(f"line {number:,}", f"not valid JSON: {_json_problem(value)}")
            else:
                yield number, line, value


def _json_items(name: str, text: str) -> Iterator[tuple[int, str, Any]]:
    """The number, the source and the value of each item of a list."""
    at, number = _skip_whitespace(text, text.index("[") + 1), 1
    try:
        while text[at : at + 1] != "]":
            value, end = _DECODER.raw_decode(text, at)
            yield number, text[at:end], value
            at, number = _skip_whitespace(text, end), number + 1
            if text[at : at + 1] == ",":
                at = _skip_whitespace(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}, item {number:,}: truncated, or not valid JSON: {_json_problem(error)}.") from None
    if text[at + 1 :].strip():
        raise UserError(f"{name} continues after the end of its list: write a single list, or one row per line.")


def _skip_whitespace(text: str, begin: int) -> int:
    match = _WHITESPACE.match(text, begin)
    return match.end() if match else begin


def _decode(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return error


def _json_problem(error: Exception) -> str:
    return getattr(error, "msg", first_line(error)).removesuffix(" at")


def _json_rows(
    reading: _Reading, place: str, values: Iterable[tuple[int, str, Any]]
) -> Iterator[tuple[int, str | None]]:
    wanted, column = reading.options.text_column, None
    for number, source, value in values:
        if isinstance(value, str):  # a list of stories without columns
            yield number, value
            continue
        if isinstance(value, dict) and column not in value:
            try:
                column = find_column(value, wanted, reading.file.name)
            except UserError:
                if column is None and not reading.options.skip_bad_rows:
                    raise
        if problem := _row_problem(value, column or wanted, source):
            reading.bad_row(place.format(number), problem)
        else:
            yield number, value[column]


def _row_problem(row: Any, column: str, source: str) -> str | None:
    if not isinstance(row, dict):
        return f"{_json_type(row)} instead of an object with the key {column}"
    if column not in row:
        return f"no {column}, only {', '.join(row)[:200]}"
    if not isinstance(row[column], str | None):
        return f"{column} is {_json_type(row[column])}, not text"
    if source.count(f'"{column}"') > 1 and _is_repeated(column, source):
        return f"{column} occurs twice"
    return None


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", float: "a number", type(None): "null"}
    return names[type(value)]


def _is_repeated(key: str, source: str) -> bool:
    pairs = json.JSONDecoder(parse_int=float, object_pairs_hook=list).decode(source)
    return [name for name, _ in pairs].count(key) > 1


# Parquet and Arrow


def _read_parquet(reading: _Reading) -> Iterator[pa.Array]:
    with _open_seekable(reading.file) as content, pq.ParquetFile(content) as table:
        column = _text_column(table.schema_arrow, reading)
        batches = table.iter_batches(ROWS, columns=[column])
        yield from _text_arrays((batch.column(batch.schema.names.index(column)) for batch in batches), reading)


def _read_arrow(reading: _Reading) -> Iterator[pa.Array]:
    with _open_seekable(reading.file) as content:
        is_file = content.read(6) == b"ARROW1"
        content.seek(0)
        open_reader = pa.ipc.open_file if is_file else pa.ipc.open_stream
        schema = open_reader(content).schema
        wanted = [schema.names.index(_text_column(schema, reading))]
        content.seek(0)
        reader = open_reader(content, options=pa.ipc.IpcReadOptions(included_fields=wanted))
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        yield from _text_arrays((batch.column(0) for batch in batches), reading)


@contextmanager
def _open_seekable(file: StoryFile) -> Iterator[io.BufferedIOBase]:
    """The content of a file; one that is compressed as a whole is read into memory."""
    with _open_bytes(file) as content:
        yield content if compression(file.name) is None else pa.BufferReader(content.read())


def _text_column(schema: pa.Schema, reading: _Reading) -> str:
    column = find_column(schema.names, reading.options.text_column, reading.file.name)
    require_text(schema.field(column).type, column, reading.file.name, schema.names)
    return column


def require_text(kind: pa.DataType, column: str, file: str, names: Iterable[str]) -> None:
    """Raise a UserError if a column of the type `kind` cannot hold stories."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(value) for is_kind in is_text + is_bytes):
        raise UserError(
            f"The column {column} of {file} is of type {kind}, not text: specify the column of the stories "
            f"with --text-column (columns: {', '.join(names)})."
        )


def _text_arrays(columns: Iterable[pa.Array], reading: _Reading) -> Iterator[pa.Array]:
    """Columns of strings or bytes as strings; `cast` lets bytes that are not UTF-8 pass."""
    row = 1
    for texts in columns:
        try:
            strings = texts.cast(pa.string())
            strings.validate(full=True)
        except pa.ArrowInvalid:
            values = texts.cast(pa.large_binary()).to_pylist()
            decoded = (text if text is None else text.decode("utf-8", "surrogateescape") for text in values)
            strings = _array(reading, "row {:,}", list(range(row, row + len(values))), list(decoded))
        row += len(texts)
        yield strings


_READERS: dict[str | None, Callable[[_Reading], Iterator[pa.Array]]] = {
    "text": _read_text,
    "csv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
