"""Where stories come from: a Hub dataset, local files or the built-in sample, always as `datasets`, one story a row.

    corpus = load_corpus("roneneldan/TinyStories")     # a Hub dataset: owner/name[:config][@revision]
    corpus = load_corpus("stories.txt")                # a file, a folder or a glob
    corpus = load_corpus("sample")                     # generated, synthetic
    stories = load_texts("stories.txt", "validation")  # one split, nothing held out

Decisions:
- A row is one whole story in the one column `text`, with "\\n" for line ends, trimmed, never empty. Rows without text
  are dropped and counted. How files are read is in readers.py, where a story ends in plain text in text_split.py.
- Stories lie on disk as Arrow, memory-mapped and cached by `datasets`, so memory does not grow with the corpus. The
  cache keys hold each file's path, size and modification time, or the Hub dataset's commit, the options and VERSION:
  nothing stale is served.
- Splits are the source's own where it has them: those of the Hub, or the names of files and folders (sources.py).
  "test" stands in for a missing "validation" and is left unused otherwise. Without either, `validation_fraction` of
  the distinct stories is held out, the first in an order of text hashes that the seed gives: which ones does not
  depend on where in the corpus they stand, and hardly on what is added to it later. What was taken for which split is
  logged.
- No story is in both halves: a training story that is also a validation story is dropped, whatever the source.
- `max_stories` and `max_validation_stories` keep the first, and come last: training on fewer stories leaves the
  validation stories as they are.
- `Corpus.fingerprint` hashes the stories themselves: the same on every machine and after a `touch`, another one when
  a story changes. (Of a stream, it hashes the validation stories, the dataset's commit and the settings.)
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher

from ..recipe import Recipe
from ..utils.errors import UserError, first_line
from .readers import ReadOptions, StoryFile, clean_texts, column_missing, find_column
from .sources import file_format, find_files, hub_dataset
from .story_dataset import TEXT, stored_stories, streamed_stories
from .text_split import AUTO, END_OF_TEXT


logger = logging.getLogger(__name__)

VERSION = 2  # in every cache key: raise it when the same source would give other rows
SEPARATOR = END_OF_TEXT.encode()
SAMPLE_STORIES, SAMPLE_VALIDATION_STORIES = 20_000, 1_000
STREAM_VALIDATION_STORIES = 1_000  # held out of a stream, whose length nobody knows


@dataclass
class Corpus:
    """Stories to train on and stories to measure on, none in common; each has the one column "text".

    `train` is an `IterableDataset` when streaming. `name` is for reports, `fingerprint` for cache keys.
    """

    train: Dataset | IterableDataset
    validation: Dataset
    name: str
    fingerprint: str


def load_corpus(
    source: str,
    *,
    validation: str | None = None,
    text_column: str = "text",
    max_stories: int | None = None,
    max_validation_stories: int | None = None,
    validation_fraction: float = 0.02,
    seed: int = 0,
    num_proc: int | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
    text_split: str = AUTO,
    skip_bad_rows: bool = False,
) -> Corpus:
    """Load `source` as stories to train on and stories to validate on.

    `validation` names another source to validate on: its own validation split if it has one, else all of it.
    `text_column` holds the stories, matched without case; "story" is found without being named.
    `text_split` says where stories end in plain text: `auto`, `file`, `line`, `blank-lines`, or the marker that stands
    between them. `skip_bad_rows` leaves out rows of .jsonl and .csv that cannot be read, and logs how many.
    `seed` chooses the stories that are held out, and those that `sample` makes up.
    `streaming` reads a Hub dataset during training instead of downloading it first; its validation split, or else its
    first stories, are stored all the same. From other sources it only makes `train` an `IterableDataset`.

    Raises:
        UserError: the source cannot be found, reached or read, lacks the column, or has too few stories.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction must be between 0 and 1, but is {validation_fraction}.")
    _require_positive(max_stories=max_stories, max_validation_stories=max_validation_stories)
    options = ReadOptions(text_column, text_split, skip_bad_rows)
    how = {"num_proc": num_proc, "cache_dir": cache_dir}
    found = _open(source, seed, streaming, options, **how)
    train = _clean(_split(found, "train"), found.name, text_column, num_proc)
    held = None
    if validation is not None:
        reading = {"text_column": text_column, "text_split": text_split, "skip_bad_rows": skip_bad_rows}
        held = load_texts(validation, "validation", seed=seed, **reading, **how)
    elif found.splits.keys() & {"validation", "test"}:
        held = _clean(_split(found, "validation"), found.name, text_column, num_proc)
    if isinstance(train, IterableDataset):
        settings = [VERSION, found.revision, source, validation, options, max_stories]
        return _stream(train, held, found.name, settings, max_stories, max_validation_stories, cache_dir)

    keys = _keys(train, num_proc)
    where = "of their own split" if validation is None else f"of {validation}"
    if held is None:
        where = "held out of the training stories"
        rows = _hold_out(keys, validation_fraction, seed, found.name)
        held, held_keys = train.select(rows), keys[rows]
    else:
        held_keys = _keys(held, num_proc)
        if shared := int(np.isin(keys, held_keys).sum()):
            logger.warning("%s: left out %d training stories, which are validation stories too", found.name, shared)
    keep = np.flatnonzero(~np.isin(keys, held_keys))
    if not len(keep):
        raise UserError(f"Every story of {found.name} is a validation story too; none is left to train on.")
    if len(keep) < len(train):  # else no `select`: whole ranges of a memory map read faster than picked rows
        train, keys = train.select(keep), keys[keep]
    train, held = _first(train, max_stories), _first(held, max_validation_stories)
    logger.info("%s: %d training stories, %d validation stories %s", found.name, len(train), len(held), where)
    fingerprint = Hasher.hash([VERSION, keys[:max_stories].tobytes(), held_keys[:max_validation_stories].tobytes()])
    return Corpus(train.to_iterable_dataset() if streaming else train, held, found.name, fingerprint)


def recipe_corpus(recipe: Recipe) -> Corpus:
    """The stories that a recipe names, read as it says."""
    return load_corpus(
        recipe.corpus,
        validation=recipe.validation_corpus,
        text_column=recipe.text_column,
        text_split=recipe.split,
        skip_bad_rows=recipe.skip_bad_rows,
        max_stories=recipe.max_stories,
        max_validation_stories=recipe.max_validation_stories,
        num_proc=recipe.num_proc,
        streaming=recipe.streaming,
    )


def load_texts(
    source: str,
    split: str = "train",
    *,
    text_column: str = "text",
    max_stories: int | None = None,
    seed: int = 0,
    num_proc: int | None = None,
    cache_dir: str | None = None,
    text_split: str = AUTO,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Load one split of `source`, nothing held out: "train", or "validation", which is all of a source without splits.

    Raises:
        UserError: as `load_corpus`.
    """
    _require_positive(max_stories=max_stories)
    options = ReadOptions(text_column, text_split, skip_bad_rows)
    found = _open(source, seed, False, options, num_proc=num_proc, cache_dir=cache_dir)
    if split == "validation" and len(found.splits) == 1:
        split = next(iter(found.splits))
    return _first(_clean(_split(found, split), found.name, text_column, num_proc), max_stories)


def _require_positive(**counts: int | None) -> None:
    for option, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{option} must be at least 1, but is {count}.")


def _first(stories: Dataset, count: int | None) -> Dataset:
    return stories if count is None or count >= len(stories) else stories.select(range(count))


# What a source is, and its splits as it has them


class _Source(NamedTuple):
    name: str
    splits: dict[str, Callable[[], Dataset | IterableDataset]]  # to be called when wanted: reading can take minutes
    revision: str = ""


def _split(found: _Source, wanted: str) -> Dataset | IterableDataset:
    if wanted == "validation" and wanted not in found.splits:
        wanted = "test"
    if wanted not in found.splits:
        raise UserError(f"{found.name} has no {wanted} split, only {', '.join(found.splits)}; name the files instead.")
    return found.splits[wanted]()


def _open(
    source: str, seed: int, streaming: bool, options: ReadOptions, num_proc: int | None, cache_dir: str | None
) -> _Source:
    if source == "sample":
        return _open_sample(seed, cache_dir)
    hub = hub_dataset(source)
    if hub is not None:
        return _open_hub(source, *hub, streaming, options, num_proc, cache_dir)
    path = Path(source).expanduser()
    name, files = path.resolve().name, find_files(path)
    if not path.is_file():
        logger.info("%s: files taken for %s", name, files.describe())
    if "validation" in files.splits and "test" in files.splits:
        logger.warning("%s: left unused: %s", path, ", ".join(file.name for file in files.splits["test"]))
    read = {
        split: partial(_read_files, name, split, files.splits[split], options, cache_dir) for split in files.splits
    }
    return _Source(name, read)


def _open_sample(seed: int, cache_dir: str | None) -> _Source:
    from . import synthetic as sample

    code = [path.read_bytes() for path in sorted(Path(sample.__file__).parent.rglob("*.py"))]
    count = SAMPLE_STORIES + SAMPLE_VALIDATION_STORIES
    stories = Dataset.from_generator(
        lambda: ({"text": story} for story in sample.sample_stories(count, seed)),
        features=TEXT,
        cache_dir=cache_dir,
        fingerprint=Hasher.hash([VERSION, count, seed, code]),
    )
    splits = {"train": range(SAMPLE_STORIES), "validation": range(SAMPLE_STORIES, count)}
    return _Source(
        "sample (synthetic, generated by this package)",
        {split: partial(stories.select, rows) for split, rows in splits.items()},
    )


def _open_hub(
    name: str,
    repo: str,
    config: str | None,
    revision: str | None,
    streaming: bool,
    options: ReadOptions,
    num_proc: int | None,
    cache_dir: str | None,
) -> _Source:
    record = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "tinystories" / f"{Hasher.hash(name)}.json"
    with _hub_errors(repo):
        try:
            builder = load_dataset_builder(repo, config, revision=revision, cache_dir=cache_dir)
        except ConnectionError:
            # What was read is in the cache, if only by the names of its files.
            if streaming or not record.is_file():
                raise
            logger.warning("%s: the Hub cannot be reached; what was downloaded before is used", name)
            files = {
                split: [StoryFile(*file) for file in files]
                for split, files in json.loads(record.read_text("utf-8")).items()
            }
        else:
            files = _hub_files(repo, builder)
    if files is None:
        return _open_by_datasets(name, repo, builder, streaming, num_proc)
    revision = Hasher.hash(files)
    if streaming:
        read = {split: partial(streamed_stories, name, files[split], options) for split in files}
    else:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(files), "utf-8")
        read = {split: partial(_read_hub_files, name, repo, files[split], options, cache_dir) for split in files}
    return _Source(name, read, revision)


def _hub_files(repo: str, builder: datasets.DatasetBuilder) -> dict[str, list[StoryFile]] | None:
    """The files of a dataset by split; None where its own configuration says how they are read, or we cannot."""
    if builder.name not in ("text", "json", "csv", "parquet", "arrow") or not builder.config.data_files:
        return None
    own = {key: value for key, value in builder.config_kwargs.items() if key not in ("data_files", "data_dir")}
    files = {
        str(split): [StoryFile(url, f"{repo}/{url.partition('@')[2].partition('/')[2]}") for url in map(str, urls)]
        for split, urls in builder.config.data_files.items()
    }
    known = all(file_format(file.name) for urls in files.values() for file in urls)
    return files if known and not own else None


def _read_hub_files(
    name: str, repo: str, files: list[StoryFile], options: ReadOptions, cache_dir: str | None
) -> Dataset:
    with _hub_errors(repo):
        return stored_stories(name, files, options, Hasher.hash([VERSION, files, options]), cache_dir)


def _open_by_datasets(
    name: str, repo: str, builder: datasets.DatasetBuilder, streaming: bool, num_proc: int | None
) -> _Source:
    with _hub_errors(repo):
        if not streaming:
            builder.download_and_prepare(num_proc=num_proc)
        splits = builder.as_streaming_dataset() if streaming else builder.as_dataset()
    return _Source(name, {split: partial(splits.get, split) for split in splits}, str(builder.hash))


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except DatasetNotFoundError as error:
        raise UserError(
            f"{first_line(error).rstrip('.')}. There is no such file or folder here either. "
            "If it is private or gated: `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"{repo} is no file or folder here, and the Hub cannot be asked for it: {first_line(error).rstrip('.')}. "
            "Check the connection and HF_HUB_OFFLINE, or give local files or `sample`."
        ) from error
    except Exception as error:
        reason = _reason(error)
        if isinstance(reason, UserError):
            raise reason from None
        raise UserError(f"The dataset {repo} cannot be loaded: {first_line(reason).rstrip('.')}.") from error


# Local files


def _read_files(source: str, split: str, files: list[Path], options: ReadOptions, cache_dir: str | None) -> Dataset:
    """The stories of files of one format."""
    if empty := [file for file in files if not file.stat().st_size]:
        raise UserError(f"{empty[0]} is empty.")
    kinds = {file_format(file): file.name for file in files}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(kinds.values())} differ in format; choose with a glob such as 'folder/*.txt'.")
    found = [StoryFile(str(file.resolve()), str(file)) for file in files]
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = Hasher.hash([VERSION, found, stats, options])
    name = source if len(files) == 1 else f"{source}, {split}"
    try:
        with _quiet():
            return stored_stories(name, found, options, key, cache_dir)
    except Exception as error:
        reason = _reason(error)
        if isinstance(reason, UserError):
            raise reason from None
        raise


# Rows


def _clean(
    dataset: Dataset | IterableDataset, name: str, text_column: str, num_proc: int | None
) -> Dataset | IterableDataset:
    """Only the column with the stories, as "text", trimmed; without the rows that have none."""
    if dataset.features == TEXT and dataset.info.builder_name in ("generator", "story_dataset"):
        return dataset
    features = dataset.features or dataset._resolve_features().features  # a stream of .jsonl does not know them
    if (column := find_column(list(features), text_column)) is None:
        raise column_missing(name, features, text_column)
    kind = getattr(features[column], "dtype", type(features[column]).__name__)
    if kind not in ("string", "large_string"):
        raise UserError(
            f"The column {column} of {name} is of type {kind}, not text: name the column with the stories with "
            f"--text-column; there are: {', '.join(features)}."
        )
    options = {"batched": True, "features": TEXT, "fn_kwargs": {"column": column, "version": VERSION}}
    arrow = dataset.select_columns(column).with_format("arrow")
    if isinstance(dataset, IterableDataset):
        return arrow.map(_clean_rows, **options).with_format(None)
    try:
        stories = arrow.map(_clean_rows, num_proc=num_proc, desc="Reading stories", **options).with_format(None)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name} holds text that cannot be used: {first_line(error)}.") from error
    if not len(stories):
        raise UserError(f"{name} holds no stories.")
    if dropped := len(dataset) - len(stories):
        logger.warning("%s: left out %d of %d rows, which hold no text", name, dropped, len(dataset))
    return stories


def _clean_rows(table: pa.Table, column: str, version: int) -> pa.Table:
    texts = table[column].cast(pa.string())
    texts.validate(full=True)  # `datasets` lets bytes that are not UTF-8 pass
    return pa.table({"text": clean_texts(texts).drop_null()})


def _keys(stories: Dataset, num_proc: int | None = None) -> np.ndarray:
    """A 64-bit hash of each story; that any two of 2 million agree has a chance of one in ten million."""
    options = {"batched": True, "remove_columns": ["text"], "features": Features({"key": Value("int64")})}
    options |= {"fn_kwargs": {"version": VERSION}, "num_proc": num_proc, "desc": "Looking for duplicates"}
    return stories.with_format("arrow").map(_hash_rows, **options).with_format("numpy")[:]["key"]


def _hash_rows(table: pa.Table, version: int) -> pa.Table:
    texts = table["text"].cast(pa.binary()).to_pylist()
    hashes = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
    return pa.table({"key": np.frombuffer(hashes, "<i8")})


def _hold_out(keys: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Rows of the stories to hold out, at least one, each story once."""
    distinct, rows = np.unique(keys, return_index=True)
    if len(distinct) < 2:
        raise UserError(f"{name} holds 1 story; at least 2 different ones are needed, one to validate on.")
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    # Each seed multiplies by an odd number of its own and so gives another order, made from the texts alone.
    odd = np.frombuffer(blake2b(str(seed).encode(), digest_size=8).digest(), "<u8") | np.uint64(1)
    return np.sort(rows[np.argsort(distinct.view(np.uint64) * odd)[:count]])


def _stream(
    train: IterableDataset,
    held: Dataset | IterableDataset | None,
    name: str,
    settings: list,
    max_stories: int | None,
    max_validation_stories: int | None,
    cache_dir: str | None,
) -> Corpus:
    if not isinstance(held, Dataset):
        count = max_validation_stories or (STREAM_VALIDATION_STORIES if held is None else None)
        rows = train if held is None else held
        rows = rows if count is None else rows.take(count)
        key = Hasher.hash([settings[:-1], count])
        with _hub_errors(name):
            held = Dataset.from_generator(rows.__iter__, features=TEXT, fingerprint=key, cache_dir=cache_dir)
    keys = _keys(held)
    train = train.with_format("arrow").map(_unseen_rows, batched=True, features=TEXT, fn_kwargs={"held": keys})
    train = train.with_format(None)
    with _hub_errors(name):
        first = next(iter(train), None)
    if first is None:
        raise UserError(f"{name} ends with its {len(held):,} validation stories; load it without streaming.")
    train = train if max_stories is None else train.take(max_stories)
    fingerprint = Hasher.hash([settings, keys[:max_validation_stories].tobytes()])
    return Corpus(train, _first(held, max_validation_stories), name, fingerprint)


def _unseen_rows(table: pa.Table, held: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~np.isin(_hash_rows(table, VERSION)["key"].to_numpy(), held)))


# Errors


def _reason(error: BaseException) -> BaseException:
    """What went wrong first, below the wrappers of `datasets`."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """`datasets` logs a failure besides raising it, and the user is to see one line."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
