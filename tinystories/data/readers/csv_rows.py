"""CSV and TSV: the delimiter and the column by the header, and one row of text per row of the file."""

import csv
from collections.abc import Iterator

import pyarrow as pa

from ...utils.console import counted
from ...utils.errors import UserError
from .columns import find_column, find_fields
from .contents import open_text
from .reading import MAX_ROW, Reading, ReadOptions, StoryFile
from .texts import text_arrays


def read_csv(reading: Reading) -> Iterator[list[pa.Array]]:
    yield from text_arrays(reading, _CSV_PLACE, _csv_rows(reading))


_CSV_PLACE = "row {0[0]:,} (line {0[1]:,})"


def _csv_rows(reading: Reading) -> Iterator[tuple[tuple[int, int], list[str]]]:
    file = reading.file
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    with open_text(reading, "") as lines:
        head, before = lines.readline(MAX_ROW), 1
        while head and not head.strip():
            head, before = lines.readline(MAX_ROW), before + 1
        delimiter, header, columns = _csv_header(head, file, reading.options)
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
                yield (number, begin), [row[column] for column in columns]
            else:
                reading.bad_row(
                    _CSV_PLACE.format((number, begin)),
                    f"{counted(len(row), 'field')}, but the header has {len(header):,}; put text that contains "
                    f"{delimiter!r} in double quotes",
                )


def _csv_error(file: StoryFile, error: csv.Error, begin: int, end: int) -> UserError:
    problem = str(error)
    if "unexpected end" in problem:
        problem = 'a quotation mark is not closed before the end of the file; inside a quoted field, write " as ""'
    elif "expected after" in problem:
        problem = 'there is text after a closing quotation mark; inside a quoted field, write " as ""'
    lines = f"lines {begin:,} to {end:,}" if end > begin else f"line {begin:,}"
    return UserError(f"{file.name}, {lines}: {problem}.")


def _csv_header(head: str, file: StoryFile, options: ReadOptions) -> tuple[str, list[str], list[int]]:
    """The delimiter, the names of the columns, and the indices of the stories and the fields."""
    if not head:
        raise UserError(f"{file.name} contains no stories.")
    problems = []
    for delimiter in "\t,;|" if ".tsv" in file.name.lower()[-8:] else ",;\t|":
        try:
            header = [name.strip() for name in next(csv.reader([head], delimiter=delimiter, strict=True))]
            column = find_column(header, options.text_column, file.name)
            fields = find_fields(header, options.fields, file.name)
            return delimiter, header, list(map(header.index, (column, *fields)))
        except csv.Error as error:
            raise _csv_error(file, error, 1, 1) from None
        except UserError as error:
            problems.append(error)
    raise UserError(f"{problems[0]} The first line must be the header.")
