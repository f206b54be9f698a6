"""Parquet and Arrow: only the column with the stories is read."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import find_column, require_text
from .contents import open_seekable
from .reading import Reading
from .texts import ROWS, text_array


def read_parquet(reading: Reading) -> Iterator[pa.Array]:
    # Otherwise the column of a row group is read into memory at once, often a million stories; from the network, that
    # is faster.
    in_parts = {} if "://" in reading.file.path else {"buffer_size": 1 << 20, "pre_buffer": False}
    with open_seekable(reading) as content, pq.ParquetFile(content, **in_parts) as table:
        column = _text_column(table.schema_arrow, reading)
        batches = table.iter_batches(ROWS, columns=[column])
        yield from _text_arrays((batch.column(batch.schema.names.index(column)) for batch in batches), reading)


def read_arrow(reading: Reading) -> Iterator[pa.Array]:
    with open_seekable(reading) as content:
        is_file = content.read(6) == b"ARROW1"
        content.seek(0)
        open_reader = pa.ipc.open_file if is_file else pa.ipc.open_stream
        schema = open_reader(content).schema
        wanted = [schema.names.index(_text_column(schema, reading))]
        content.seek(0)
        reader = open_reader(content, options=pa.ipc.IpcReadOptions(included_fields=wanted))
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        yield from _text_arrays((batch.column(0) for batch in batches), reading)


def _text_column(schema: pa.Schema, reading: Reading) -> str:
    column = find_column(schema.names, reading.options.text_column, reading.file.name)
    require_text(schema.field(column).type, column, reading.file.name, schema.names)
    return column


def _text_arrays(columns: Iterable[pa.Array], reading: Reading) -> Iterator[pa.Array]:
    """Columns of strings or bytes as strings, validated, because `cast` accepts bytes that are not UTF-8."""
    row = 1
    for texts in columns:
        try:
            strings = texts.cast(pa.string())
            strings.validate(full=True)
        except pa.ArrowInvalid:
            values = texts.cast(pa.large_binary()).to_pylist()
            decoded = (text if text is None else text.decode("utf-8", "surrogateescape") for text in values)
            strings = text_array(reading, "row {:,}", list(range(row, row + len(values))), list(decoded))
        row += len(texts)
        yield strings
