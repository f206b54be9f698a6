"""Load stories from a dataset on the Hub, from local files, or from the built-in sample, one story per row.

    corpus = load_corpus("roneneldan/TinyStories")     # on the Hub: owner/name[:config][@revision]
    corpus = load_corpus("stories.txt")                # a file, a folder or a glob
    corpus = load_corpus("sample")                     # generated
    stories = load_texts("stories.txt", "validation")  # one split, nothing held out

- Rows have the one column `text`, trimmed and never empty. They are cached as Arrow by `datasets` under keys of each
  file's path, size and modification time, or of the dataset's commit, and of the options.
- Splits are those of the source. Without a validation split, "test" is used; without either, `validation_fraction` of
  the distinct stories is held out, chosen by hashes of the texts and the seed and not by their place in the corpus.
- A training story that is also a validation story is dropped. `max_stories` and `max_validation_stories` keep the
  first, after that.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from .readers import ReadOptions, StoryFile, find_column, normalize_texts, require_text
from .sources import file_format, find_files, hub_dataset
from .story_dataset import TEXT, stored_stories, streamed_stories
from .text_split import AUTO


logger = logging.getLogger(__name__)

VERSION = 3  # in every cache key: raise it when the same source would give other rows
SAMPLE_STORIES, SAMPLE_VALIDATION_STORIES = 20_000, 1_000
STREAM_VALIDATION_STORIES = 1_000  # held out of a stream, whose length is unknown


@dataclass
class Corpus:
    """Training and validation stories, none in common, each with the one column "text".

    Attributes:
        train: an `IterableDataset` when streaming.
        name: for reports.
        fingerprint: a hash of the stories, for cache keys; of a stream, of the validation stories and the settings.
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
    """Load `source` as training and validation stories.

    Args:
        validation: another source for validation: its own validation split if it has one, otherwise all of it.
        text_column, text_split, skip_bad_rows: as of [`ReadOptions`].
        seed: chooses the stories that are held out, and those of `sample`.
        streaming: read a Hub dataset during training instead of downloading it first; its validation split, or its
            first stories, are stored. For other sources, `train` is an `IterableDataset`, and nothing else changes.

    Raises:
        UserError: if the source cannot be found or read, lacks the column, or has too few stories.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction must be between 0 and 1, but is {validation_fraction}.")
    _require_positive(max_stories=max_stories, max_validation_stories=max_validation_stories)
    options = _Options(ReadOptions(text_column, text_split, skip_bad_rows), seed, streaming, num_proc, cache_dir)
    found = _open(source, options)
    train, held_out = _split(found, "train"), None
    if validation is not None:
        held_out = _all_validation(_open(validation, replace(options, streaming=False)))
    elif found.splits.keys() & {"validation", "test"}:
        held_out = _split(found, "validation")
    if isinstance(train, IterableDataset):
        settings = [VERSION, found.revision, source, validation, options.read, max_stories]
        return _stream(train, held_out, found.name, settings, max_stories, max_validation_stories, cache_dir)

    keys = _keys(train, num_proc)
    origin = "from a separate split" if validation is None else f"from {validation}"
    if held_out is None:
        origin = "held out from the training stories"
        rows = _hold_out(keys, validation_fraction, seed, found.name)
        held_out, held_out_keys = train.select(rows), keys[rows]
    else:
        held_out_keys = _keys(held_out, num_proc)
        if shared := int(np.isin(keys, held_out_keys).sum()):
            logger.warning("%s: removed %d training stories that are also validation stories", found.name, shared)
    keep = np.flatnonzero(~np.isin(keys, held_out_keys))
    if not len(keep):
        raise UserError(f"Every training story of {found.name} is also a validation story; none is left to train on.")
    if len(keep) < len(train):  # otherwise no `select`: a contiguous memory map reads faster than selected rows
        train, keys = train.select(keep), keys[keep]
    train, held_out = _first(train, max_stories), _first(held_out, max_validation_stories)
    logger.info("%s: %d training stories, %d validation stories %s", found.name, len(train), len(held_out), origin)
    kept_keys = keys[:max_stories], held_out_keys[:max_validation_stories]
    fingerprint = Hasher.hash([VERSION, *(part.tobytes() for part in kept_keys)])
    return Corpus(train.to_iterable_dataset() if streaming else train, held_out, found.name, fingerprint)


def recipe_corpus(recipe: Recipe) -> Corpus:
    """The corpus of a recipe."""
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
    options = _Options(ReadOptions(text_column, text_split, skip_bad_rows), seed, False, num_proc, cache_dir)
    found = _open(source, options)
    return _first(_all_validation(found) if split == "validation" else _split(found, split), max_stories)


def _require_positive(**counts: int | None) -> None:
    for option, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{option} must be at least 1, but is {count}.")


def _first(stories: Dataset, count: int | None) -> Dataset:
    return stories if count is None or count >= len(stories) else stories.select(range(count))


@dataclass(frozen=True)
class _Options:
    read: ReadOptions
    seed: int
    streaming: bool
    num_proc: int | None
    cache_dir: str | None


class _Source(NamedTuple):
    """A source, with a function that reads each of its splits, since reading can take minutes."""

    name: str
    splits: Mapping[str, Callable[[], Dataset | IterableDataset]]
    revision: str = ""


def _split(found: _Source, wanted: str) -> Dataset | IterableDataset:
    if wanted == "validation" and wanted not in found.splits:
        wanted = "test"
    if wanted not in found.splits:
        raise UserError(
            f"{found.name} has no {wanted} split, only {', '.join(found.splits)}; specify the files instead."
        )
    return found.splits[wanted]()


def _all_validation(found: _Source) -> Dataset | IterableDataset:
    """The validation split, which is all of a source with one split."""
    return _split(found, "validation" if len(found.splits) > 1 else next(iter(found.splits)))


def _open(source: str, options: _Options) -> _Source:
    if source == "sample":
        return _open_sample(options)
    if hub := hub_dataset(source):
        return _open_hub(source, *hub, options)
    path = Path(source).expanduser()
    name, files = path.resolve().name, find_files(path)
    if not path.is_file():
        logger.info("%s: files used for %s", name, files.describe())
    if "validation" in files.splits and "test" in files.splits:
        logger.warning("%s: not used: %s", path, ", ".join(file.name for file in files.splits["test"]))
    splits = files.splits.items()
    return _Source(name, {split: partial(_read_files, name, split, paths, options) for split, paths in splits})


def _open_sample(options: _Options) -> _Source:
    from . import synthetic

    code = [path.read_bytes() for path in sorted(Path(synthetic.__file__).parent.rglob("*.py"))]
    count = SAMPLE_STORIES + SAMPLE_VALIDATION_STORIES
    stories = Dataset.from_generator(
        lambda: ({"text": story} for story in synthetic.sample_stories(count, options.seed)),
        features=TEXT,
        cache_dir=options.cache_dir,
        fingerprint=Hasher.hash([VERSION, count, options.seed, code]),
    )
    splits = {"train": range(SAMPLE_STORIES), "validation": range(SAMPLE_STORIES, count)}
    return _Source(
        "sample (synthetic, generated by this package)",
        {split: partial(stories.select, rows) for split, rows in splits.items()},
    )


def _read_files(source: str, split: str, files: list[Path], options: _Options) -> Dataset:
    """The stories of local files, which must be of one format."""
    if empty := [file for file in files if not file.stat().st_size]:
        raise UserError(f"{empty[0]} is empty.")
    formats = {file_format(file): file.name for file in files}
    if len(formats) > 1:
        raise UserError(
            f"{' and '.join(formats.values())} have different formats; select one with a glob such as 'folder/*.txt'."
        )
    found = [StoryFile(str(file.resolve()), str(file)) for file in files]
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = Hasher.hash([VERSION, found, stats, options.read])
    name = source if len(files) == 1 else f"{source}, {split}"
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs an error that it raises, too
    try:
        return stored_stories(name, found, options.read, key, options.cache_dir)
    except Exception as error:
        cause = _first_cause(error)
        if isinstance(cause, UserError):
            raise cause from None
        raise
    finally:
        datasets.logging.set_verbosity(level)


# The Hub


def _open_hub(name: str, repo: str, config: str | None, revision: str | None, options: _Options) -> _Source:
    record = Path(options.cache_dir or datasets.config.HF_DATASETS_CACHE) / "tinystories" / f"{Hasher.hash(name)}.json"
    files: dict[str, list[StoryFile]] | None
    with _hub_errors(repo):
        try:
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
    return _Source(name, read, Hasher.hash(files))


def _hub_files(repo: str, builder: datasets.DatasetBuilder) -> dict[str, list[StoryFile]] | None:
    """The files of a dataset by split; None if its configuration has options for reading, or a format is unknown."""
    if builder.name not in ("text", "json", "csv", "parquet", "arrow") or not builder.config.data_files:
        return None
    files = {
        str(split): [StoryFile(url, f"{repo}/{url.partition('@')[2].partition('/')[2]}") for url in map(str, urls)]
        for split, urls in builder.config.data_files.items()
    }
    is_known = all(file_format(file.name) for urls in files.values() for file in urls)
    return files if is_known and not builder.config_kwargs.keys() - {"data_files", "data_dir"} else None


def _read_hub_files(name: str, repo: str, files: list[StoryFile], options: _Options) -> Dataset:
    key = Hasher.hash([VERSION, files, options.read])
    with _hub_errors(repo):
        return stored_stories(name, files, options.read, key, options.cache_dir)


def _open_by_datasets(name: str, repo: str, builder: datasets.DatasetBuilder, options: _Options) -> _Source:
    with _hub_errors(repo):
        if not options.streaming:
            builder.download_and_prepare(num_proc=options.num_proc)
        splits = builder.as_streaming_dataset() if options.streaming else builder.as_dataset()
    read = {split: partial(_only_texts, splits[split], name, options) for split in splits}
    return _Source(name, read, str(builder.hash))


def _only_texts(dataset: Dataset | IterableDataset, name: str, options: _Options) -> Dataset | IterableDataset:
    """Only the column with the stories, as "text" and trimmed, without empty rows."""
    features = dataset.features or dataset._resolve_features().features
    column = find_column(features, options.read.text_column, name)
    require_text(features.arrow_schema.field(column).type, column, name, features)
    arguments = {"batched": True, "features": TEXT, "fn_kwargs": {"column": column, "version": VERSION}}
    arrow = dataset.select_columns(column).with_format("arrow")
    if isinstance(dataset, IterableDataset):
        return arrow.map(_only_texts_of_batch, **arguments).with_format(None)
    try:
        stories = arrow.map(_only_texts_of_batch, num_proc=options.num_proc, desc="Reading stories", **arguments)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name} contains invalid text: {first_line(error)}.") from error
    if not len(stories):
        raise UserError(f"{name} contains no stories.")
    if dropped := len(dataset) - len(stories):
        logger.warning("%s: skipped %d of %d rows, which have no text", name, dropped, len(dataset))
    return stories.with_format(None)


def _only_texts_of_batch(table: pa.Table, column: str, version: int) -> pa.Table:
    texts = table[column].cast(pa.string())
    texts.validate(full=True)  # `cast` lets bytes that are not UTF-8 pass
    return pa.table({"text": normalize_texts(texts).drop_null()})


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except DatasetNotFoundError as error:
        raise UserError(
            f"{first_line(error).rstrip('.')}. There is no such file or folder on this machine either. "
            "If the dataset is private or gated, run `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"There is no file or folder {repo}, and the Hub cannot be reached: {first_line(error).rstrip('.')}. "
            "Check the connection and HF_HUB_OFFLINE, or use local files or `sample`."
        ) from error
    except Exception as error:
        cause = _first_cause(error)
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"The dataset {repo} cannot be loaded: {first_line(cause).rstrip('.')}.") from error


def _first_cause(error: BaseException) -> BaseException:
    """The original error, which `datasets` wraps in others."""
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


# Validation stories


def _keys(stories: Dataset, num_proc: int | None = None) -> np.ndarray:
    """64-bit hashes of the stories; the chance that any two of 2 million collide is one in ten million."""
    keys = stories.with_format("arrow").map(
        _hash_batch,
        batched=True,
        remove_columns=["text"],
        features=Features({"key": Value("int64")}),
        fn_kwargs={"version": VERSION},
        num_proc=num_proc,
        desc="Looking for duplicates",
    )
    return keys.with_format("numpy")[:]["key"]


def _hash_batch(table: pa.Table, version: int) -> pa.Table:
    texts = table["text"].cast(pa.binary()).to_pylist()
    hashes = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
    return pa.table({"key": np.frombuffer(hashes, "<i8")})


def _hold_out(keys: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Rows to hold out, at least one, each distinct story once."""
    distinct, rows = np.unique(keys, return_index=True)
    if len(distinct) < 2:
        raise UserError(
            f"{name} contains only one distinct story; at least two are needed, one of them for validation."
        )
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    # The order is that of the hashes times an odd number: a permutation that depends on the seed and the texts alone.
    odd = np.frombuffer(blake2b(str(seed).encode(), digest_size=8).digest(), "<u8") | np.uint64(1)
    return np.sort(rows[np.argsort(distinct.view(np.uint64) * odd)[:count]])


def _stream(
    train: IterableDataset,
    held_out: Dataset | IterableDataset | None,
    name: str,
    settings: list,
    max_stories: int | None,
    max_validation_stories: int | None,
    cache_dir: str | None,
) -> Corpus:
    if not isinstance(held_out, Dataset):
        count = max_validation_stories or (STREAM_VALIDATION_STORIES if held_out is None else None)
        rows = train if held_out is None else held_out
        rows = rows if count is None else rows.take(count)
        key = Hasher.hash([settings[:-1], count])
        with _hub_errors(name):
            held_out = Dataset.from_generator(rows.__iter__, features=TEXT, fingerprint=key, cache_dir=cache_dir)
    keys = _keys(held_out)
    train = train.with_format("arrow").map(_without_keys, batched=True, features=TEXT, fn_kwargs={"keys": keys})
    train = train.with_format(None)
    with _hub_errors(name):
        first = next(iter(train), None)
    if first is None:
        raise UserError(
            f"{name} has no stories beyond its {len(held_out):,} validation stories; load it without streaming."
        )
    train = train if max_stories is None else train.take(max_stories)
    fingerprint = Hasher.hash([settings, keys[:max_validation_stories].tobytes()])
    return Corpus(train, _first(held_out, max_validation_stories), name, fingerprint)


def _without_keys(table: pa.Table, keys: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~np.isin(_hash_batch(table, VERSION)["key"].to_numpy(), keys)))
