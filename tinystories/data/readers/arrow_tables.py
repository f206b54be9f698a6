"""Parquet and Arrow: only the column with the stories, and those of the fields, are read."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import find_column, find_fields, require_field, require_text
from .contents import open_seekable
from .reading import Reading
from .texts import ROWS, joined_lists, text_columns


def read_parquet(reading: Reading) -> Iterator[list[pa.Array]]:
    # Otherwise the column of a row group is read into memory at once, often a million stories; from the network, that
    # is faster.
    in_parts = {} if "://" in reading.file.path else {"buffer_size": 1 << 20, "pre_buffer": False}
    with open_seekable(reading) as content, pq.ParquetFile(content, **in_parts) as table:
        columns = _columns(table.schema_arrow, reading)
        batches = table.iter_batches(ROWS, columns=columns)
        yield from _text_arrays(([batch.column(name) for name in columns] for batch in batches), reading)


def read_arrow(reading: Reading) -> Iterator[list[pa.Array]]:
    with open_seekable(reading) as content:
        is_file = content.read(6) == b"ARROW1"
        content.seek(0)
        open_reader = pa.ipc.open_file if is_file else pa.ipc.open_stream
        schema = open_reader(content).schema
        columns = _columns(schema, reading)
        wanted = sorted(map(schema.names.index, columns))
        content.seek(0)
        reader = open_reader(content, options=pa.ipc.IpcReadOptions(included_fields=wanted))
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        yield from _text_arrays(([batch.column(name) for name in columns] for batch in batches), reading)


def _columns(schema: pa.Schema, reading: Reading) -> list[str]:
    """The column with the stories, and those of the fields."""
    file, options = reading.file.name, reading.options
    column = find_column(schema.names, options.text_column, file)
    require_text(schema.field(column).type, column, file, schema.names)
    fields = find_fields(schema.names, options.fields, file)
    for field in fields:
        require_field(schema.field(field).type, field, file)
    return [column, *fields]


def _text_arrays(batches: Iterable[list[pa.Array]], reading: Reading) -> Iterator[list[pa.Array]]:
    """Columns of strings or bytes as strings, validated, because `cast` accepts bytes that are not UTF-8."""
    row = 1
    for texts, *fields in batches:
        joined = map(joined_lists, fields)
        try:
            columns = [column.cast(pa.string()) for column in (texts, *joined)]
            for column in columns:
                column.validate(full=True)
        except pa.ArrowInvalid:
            cells = zip(*(_decoded(column) for column in (texts, *map(joined_lists, fields))), strict=True)
            columns = text_columns(reading, "row {:,}", list(range(row, row + len(texts))), list(cells))
        row += len(texts)
        yield columns


def _decoded(column: pa.Array) -> list[str | None]:
    values = column.cast(pa.large_binary()).to_pylist()
    return [text if text is None else text.decode("utf-8", "surrogateescape") for text in values]
