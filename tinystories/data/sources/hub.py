"""Datasets on the Hub: their files are read like local ones, unless their configuration has reading options."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, IterableDataset, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher

from ...utils.errors import UserError, first_line
from ...utils.hub_connection import require_hub
from ..formats import file_format
from ..readers import (
    StoryFile,
    filled,
    find_column,
    find_fields,
    joined_lists,
    normalize_texts,
    require_field,
    require_text,
)
from ..story_dataset import stored_stories, story_features, streamed_stories
from .source import VERSION, Source, SourceOptions, first_cause


logger = logging.getLogger(__name__)


def open_hub(name: str, repo: str, config: str | None, revision: str | None, options: SourceOptions) -> Source:
    """Find the splits of a dataset on the Hub; without a connection, the files downloaded earlier are used.

    Raises:
        UserError: if there is no such dataset, or it cannot be loaded.
    """
    record = Path(options.cache_dir or datasets.config.HF_DATASETS_CACHE) / "tinystories" / f"{Hasher.hash(name)}.json"
    files: dict[str, list[StoryFile]] | None
    with hub_errors(repo):
        try:
            require_hub()
            builder = load_dataset_builder(repo, config, revision=revision, cache_dir=options.cache_dir)
        except ConnectionError:
            if options.streaming or not record.is_file():
                raise
            logger.warning("%s: the Hub cannot be reached; using the files downloaded earlier", name)
            recorded = json.loads(record.read_text("utf-8")).items()
            files = {split: [StoryFile(*file) for file in files] for split, files in recorded}
        else:
            files = _hub_files(repo, builder)
    if files is None:
        return _open_by_datasets(name, repo, builder, options)
    if options.streaming:
        read = {split: partial(streamed_stories, name, files[split], options.read) for split in files}
    else:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(files), "utf-8")
        read = {split: partial(_read_hub_files, name, repo, files[split], options) for split in files}
    return Source(name, read, Hasher.hash(files))


def _hub_files(repo: str, builder: datasets.DatasetBuilder) -> dict[str, list[StoryFile]] | None:
    """The files of a dataset by split; None if its configuration has reading options, or a format is unknown."""
    if builder.name not in ("text", "json", "csv", "parquet", "arrow") or not builder.config.data_files:
        return None
    files = {
        str(split): [StoryFile(url, f"{repo}/{url.partition('@')[2].partition('/')[2]}") for url in map(str, urls)]
        for split, urls in builder.config.data_files.items()
    }
    is_known = all(file_format(file.name) for urls in files.values() for file in urls)
    return files if is_known and not builder.config_kwargs.keys() - {"data_files", "data_dir"} else None


def _read_hub_files(name: str, repo: str, files: list[StoryFile], options: SourceOptions) -> Dataset:
    key = Hasher.hash([VERSION, files, options.read])
    with hub_errors(repo):
        return stored_stories(name, files, options.read, key, options.cache_dir)


def _open_by_datasets(name: str, repo: str, builder: datasets.DatasetBuilder, options: SourceOptions) -> Source:
    with hub_errors(repo):
        if not options.streaming:
            builder.download_and_prepare(num_proc=options.num_proc)
        splits = builder.as_streaming_dataset() if options.streaming else builder.as_dataset()
    read = {split: partial(_only_texts, splits[split], name, options) for split in splits}
    return Source(name, read, str(builder.hash))


def _only_texts(dataset: Dataset | IterableDataset, name: str, options: SourceOptions) -> Dataset | IterableDataset:
    """Only the column with the stories, as "text" and trimmed, and those of the fields, without empty rows."""
    features = dataset.features or dataset._resolve_features().features
    column = find_column(features, options.read.text_column, name)
    require_text(features.arrow_schema.field(column).type, column, name, features)
    fields = find_fields(features, options.read.fields, name)
    for field in fields:
        require_field(features.arrow_schema.field(field).type, field, name)
    columns = dict(zip(("text", *options.read.fields), (column, *fields), strict=True))
    arguments = {
        "batched": True,
        "features": story_features(options.read),
        "fn_kwargs": {"columns": columns, "version": VERSION},
        "remove_columns": list(dict.fromkeys(columns.values())),
    }
    arrow = dataset.select_columns(arguments["remove_columns"]).with_format("arrow")
    if isinstance(dataset, IterableDataset):
        return arrow.map(_only_texts_of_batch, **arguments).with_format(None)
    try:
        stories = arrow.map(_only_texts_of_batch, num_proc=options.num_proc, desc="Reading stories", **arguments)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name} contains invalid text: {first_line(error)}.") from error
    if not len(stories):
        raise UserError(f"{name} contains no stories.")
    if dropped := len(dataset) - len(stories):
        logger.warning("%s: skipped %s rows without text", name, f"{dropped:,} of {len(dataset):,}")
    return stories.with_format(None)


def _only_texts_of_batch(table: pa.Table, columns: dict[str, str], version: int) -> pa.Table:
    found = {}
    for name, column in columns.items():
        values = joined_lists(table[column].combine_chunks()) if name != "text" else table[column]
        texts = values.cast(pa.string())
        texts.validate(full=True)  # `cast` accepts bytes that are not UTF-8
        found[name] = normalize_texts(texts) if name == "text" else filled(texts)
    return pa.table(found).filter(found["text"].is_valid())


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of loading a dataset from the Hub into a `UserError`."""
    try:
        yield
    except DatasetNotFoundError as error:
        raise UserError(
            f"{first_line(error).rstrip('.')}, and there is no file or folder of that name. If the dataset is private "
            "or gated, run `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"There is no file or folder {repo}, and the Hub cannot be reached: {first_line(error).rstrip('.')}. "
            "Check the connection and HF_HUB_OFFLINE, or use local files or `sample`."
        ) from error
    except Exception as error:
        cause = first_cause(error)
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"The dataset {repo} cannot be loaded: {first_line(cause).rstrip('.')}.") from error
