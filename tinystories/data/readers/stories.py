"""Read the stories of files, each by the reader of its format."""

import os
from collections.abc import Callable, Iterator

import pyarrow as pa

from ...utils.progress import progress_bar
from ..formats import file_format
from .arrow_tables import read_arrow, read_parquet
from .contents import READ_ERRORS, read_error
from .csv_rows import read_csv
from .json_rows import read_json
from .plain_text import read_text
from .reading import Reading, ReadOptions, RowCounts, StoryFile
from .texts import contains, filled, normalize_texts


_READERS: dict[str | None, Callable[[Reading], Iterator[list[pa.Array]]]] = {
    "text": read_text,
    "csv": read_csv,
    "json": read_json,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def read_stories(
    files: list[StoryFile], options: ReadOptions, counts: RowCounts, *, progress: bool = False
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the index of each file with tables of its stories and their fields, and update `counts`.

    Args:
        progress: show a bar; for files on this machine.

    Raises:
        UserError: for what cannot be read, with file and row.
    """
    sizes = [os.path.getsize(file.path) for file in files] if progress else []
    with progress_bar(total=sum(sizes), desc="Reading stories", unit="B", unit_scale=True, show=progress) as bar:
        for index, file in enumerate(files):
            reading, before = Reading(file, options, counts), bar.n
            try:
                for texts, *fields in _READERS[file_format(file.name)](reading):
                    counts.rows += len(texts)
                    texts = normalize_texts(texts)
                    counts.has_letters |= not counts.has_letters and contains(texts, r"\p{L}")
                    counts.empty += texts.null_count
                    columns = {"text": texts, **dict(zip(options.fields, map(filled, fields), strict=True))}
                    table = pa.table(columns)
                    yield index, table.filter(texts.is_valid()) if texts.null_count else table
                    if progress:
                        bar.update(max(0, before + reading.position() - bar.n))
                if progress:
                    bar.update(before + sizes[index] - bar.n)
            except READ_ERRORS as error:
                raise read_error(file, error) from error
