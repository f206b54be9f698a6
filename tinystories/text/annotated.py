"""Write a copy of a corpus with the columns that [`Annotator`] derives."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from ..data.cleaning.reading import batches
from ..data.corpus import load_corpus, load_texts
from ..data.formats import file_format as format_of
from ..data.readers import ReadOptions
from ..data.sources.open import open_source
from ..data.sources.source import SourceOptions
from ..utils.errors import UserError
from ..utils.paths import output_folder, require_new_folder, staged
from .annotate import COLUMNS, Annotator


FORMATS = ("parquet", "jsonl")
SCHEMA = pa.schema([(name, pa.string()) for name in ("text", *COLUMNS)])


def write_annotated(
    source: str, out: str | Path, *, file_format: str = "parquet", progress: bool = True, **reading: Any
) -> dict[str, Counter[str]]:
    """Annotate a corpus; the copy is moved into place when it is complete.

    Args:
        source: as of `load_corpus`.
        out: a new or empty folder, which gets a file of training stories and one of validation stories, those of the
            corpus or held out; or, for a corpus without validation stories, a new file that ends in .parquet or
            .jsonl, which gets all of its stories.
        file_format: of the files in a folder, `parquet` or `jsonl`.
        reading: `text_column`, `text_split`, `skip_bad_rows` and `max_stories` of `load_corpus`.

    Returns:
        By split, the number of `stories`, of stories `without words`, and of those with each feature.

    Raises:
        UserError: if `out` exists or cannot be written, or the corpus cannot be read.
    """
    out = Path(out)
    is_file = out.suffix.removeprefix(".") in FORMATS
    if file_format not in FORMATS:
        raise UserError(f"--format {file_format} is not supported: choose {' or '.join(FORMATS)}.")
    if not is_file and format_of(out) is not None:
        raise UserError(f"{out} cannot be written: choose a folder, or a file that ends in .parquet or .jsonl.")
    if is_file and (out.exists() or out.is_symlink()):
        raise UserError(f"{out} already exists and is not overwritten: choose another file.")
    if is_file:
        output_folder(out.parent)
        _require_one_split(source, out, reading)
        stories = {"train": load_texts(source, **reading)}
    else:
        require_new_folder(out)
        corpus = load_corpus(source, **reading)
        assert isinstance(corpus.train, Dataset)
        stories = {"train": corpus.train, "validation": corpus.validation}
    texts = (text for batch in batches(stories["train"], "Counting words", progress) for text in batch)
    annotator = Annotator(texts)
    counts: dict[str, Counter[str]] = {split: Counter() for split in stories}
    with staged(out) as copy:
        if not is_file:
            copy.mkdir()
        for split, part in stories.items():
            path = copy if is_file else copy / f"{split}.{file_format}"
            _write(path, out.suffix[1:] if is_file else file_format, _rows(part, annotator, counts[split], progress))
    return counts


def _require_one_split(source: str, out: Path, reading: dict[str, Any]) -> None:
    """Refuse a file for a corpus with validation stories."""
    options = ReadOptions(**{name: value for name, value in reading.items() if name != "max_stories"})
    if len(open_source(source, SourceOptions(options, 0, False, None, None)).splits) > 1:
        raise UserError(
            f"{source} has validation stories, which must not be mixed with the training stories: specify a folder, "
            f"not {out.name}."
        )


def _rows(stories: Dataset, annotator: Annotator, counts: Counter[str], progress: bool) -> Iterator[list[dict]]:
    for texts in batches(stories, "Annotating stories", progress):
        rows = [{"text": text, **annotator(text)} for text in texts]
        counts["stories"] += len(rows)
        counts["without words"] += sum(not row["words"] for row in rows)
        counts.update(feature for row in rows for feature in row["features"].split(", ") if feature)
        yield rows


def _write(path: Path, file_format: str, batches_of_rows: Iterator[list[dict]]) -> None:
    if file_format == "parquet":
        with pq.ParquetWriter(path, SCHEMA) as table:
            for rows in batches_of_rows:
                table.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    else:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            for rows in batches_of_rows:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
