"""Where stories come from: a Hub dataset, local files or the built-in sample, always as `datasets`, one story a row.

    corpus = load_corpus("roneneldan/TinyStories")     # a Hub dataset: owner/name[:config][@revision]
    corpus = load_corpus("stories.txt")                # a file, a folder or a glob
    corpus = load_corpus("sample")                     # generated, synthetic
    stories = load_texts("stories.txt", "validation")  # one split, nothing held out

Decisions:
- A row is one whole story in the one column `text`, trimmed, never empty. Rows without text are dropped and counted.
- Stories lie on disk as Arrow, memory-mapped and cached by `datasets`, so memory does not grow with the corpus (but
  `datasets` reads a `.json` list whole: write a large corpus as .jsonl or .parquet). The cache keys hold each file's
  path, size and modification time, or the Hub dataset's commit, and VERSION: nothing stale is served.
- A .txt file must have `<|endoftext|>` between its stories. Blank lines part paragraphs in some files and stories in
  others, so we do not guess, and refuse a file without the mark rather than read it as one giant story.
- Splits are the source's own where it has them: those of the Hub, or the names of files and folders. "test" stands in
  for a missing "validation" and is left unused otherwise. Without either, `validation_fraction` of the distinct
  stories is held out, the first in an order of text hashes that the seed gives: which ones does not depend on where
  in the corpus they stand, and hardly on what is added to it later.
- No story is in both halves: a training story that is also a validation story is dropped, whatever the source.
- `max_stories` and `max_validation_stories` keep the first, and come last: training on fewer stories leaves the
  validation stories as they are.
- `Corpus.fingerprint` hashes the stories themselves: the same on every machine and after a `touch`, another one when
  a story changes. (Of a stream, it hashes the validation stories, the dataset's commit and the settings.)
"""

import glob
import logging
import re
from codecs import BOM_UTF8
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
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher
from datasets.table import CastError

from .errors import UserError, first_line
from .sources import FORMATS, file_format, hub_dataset  # noqa: F401  FORMATS for who looks for files of stories


logger = logging.getLogger(__name__)

VERSION = 1  # in every cache key: raise it when the same source would give other rows
SEPARATOR = b"<|endoftext|>"
MAX_STORY_BYTES = 1_000_000  # more without a separator is not a story; also what bounds the memory for a .txt
SAMPLE_STORIES, SAMPLE_VALIDATION_STORIES = 20_000, 1_000
STREAM_VALIDATION_STORIES = 1_000  # held out of a stream, whose length nobody knows
ENDINGS = ".txt, .json, .jsonl or .csv (also with .gz behind it), .parquet or .arrow"
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")}
SPLITS["test"] = ("test", "testing", "eval", "evaluation")
# what `save_to_disk` and the Hub put beside the data
NOT_STORIES = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
TEXT = Features({"text": Value("string")})


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
) -> Corpus:
    """Load `source` as stories to train on and stories to validate on.

    `validation` names another source to validate on: its own validation split if it has one, else all of it.
    `text_column` holds the stories; "story" is found without being named.
    `seed` chooses the stories that are held out, and those that `sample` makes up.
    `streaming` reads a Hub dataset during training instead of downloading it first; its validation split, or else its
    first stories, are stored all the same. From other sources it only makes `train` an `IterableDataset`.

    Raises:
        UserError: the source cannot be found, reached or read, lacks the column, or has too few stories.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(f"validation_fraction must be between 0 and 1, but is {validation_fraction}.")
    _require_positive(max_stories=max_stories, max_validation_stories=max_validation_stories)
    how = {"num_proc": num_proc, "cache_dir": cache_dir}
    found = _open(source, seed, streaming, how)
    train = _clean(_split(found, "train"), found.name, text_column, num_proc)
    held = None
    if validation is not None:
        held = load_texts(validation, "validation", text_column=text_column, seed=seed, **how)
    elif found.splits.keys() & {"validation", "test"}:
        held = _clean(_split(found, "validation"), found.name, text_column, num_proc)
    if isinstance(train, IterableDataset):
        settings = [VERSION, found.revision, source, validation, text_column, max_stories]
        return _stream(train, held, found.name, settings, max_stories, max_validation_stories, cache_dir)

    keys = _keys(train, num_proc)
    if held is None:
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
    fingerprint = Hasher.hash([VERSION, keys[:max_stories].tobytes(), held_keys[:max_validation_stories].tobytes()])
    return Corpus(train.to_iterable_dataset() if streaming else train, held, found.name, fingerprint)


def load_texts(
    source: str,
    split: str = "train",
    *,
    text_column: str = "text",
    max_stories: int | None = None,
    seed: int = 0,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> Dataset:
    """Load one split of `source`, nothing held out: "train", or "validation", which is all of a source without splits.

    Raises:
        UserError: as `load_corpus`.
    """
    _require_positive(max_stories=max_stories)
    found = _open(source, seed, False, {"num_proc": num_proc, "cache_dir": cache_dir})
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


def _open(source: str, seed: int, streaming: bool, how: dict) -> _Source:
    if source == "sample":
        return _open_sample(seed, how["cache_dir"])
    hub = hub_dataset(source)
    if hub is not None:
        return _open_hub(source, *hub, streaming, how)
    path = Path(source).expanduser()
    files = _find_files(path)
    return _Source(path.resolve().name, {split: partial(_read_files, files[split], how) for split in files})


def _open_sample(seed: int, cache_dir: str | None) -> _Source:
    from . import sample

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


def _open_hub(name: str, repo: str, config: str | None, revision: str | None, streaming: bool, how: dict) -> _Source:
    with _hub_errors(repo):
        builder = load_dataset_builder(repo, config, revision=revision, cache_dir=how["cache_dir"])
    if builder.name == "text":
        raise UserError(
            f"{repo} holds .txt files, which `datasets` cuts into lines. Download it with "
            f"`hf download --repo-type dataset {repo} --local-dir DIR` and give DIR instead."
        )
    with _hub_errors(repo):
        if not streaming:
            builder.download_and_prepare(num_proc=how["num_proc"])
        splits = builder.as_streaming_dataset() if streaming else builder.as_dataset()
    return _Source(name, {split: partial(splits.get, split) for split in splits}, str(builder.hash))


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except DatasetNotFoundError as error:
        raise UserError(
            f"{_line(error)}. There is no such file or folder here either. If it is private or gated: `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"{repo} is no file or folder here, and the Hub cannot be asked for it: {_line(error)}. "
            "Check the connection and HF_HUB_OFFLINE, or give local files or `sample`."
        ) from error
    except Exception as error:
        raise UserError(f"The dataset {repo} cannot be loaded: {_line(_reason(error))}.") from error


# Local files


def _find_files(path: Path) -> dict[str, list[Path]]:
    """The files of a file, folder or glob by split; all are "train" unless their names say otherwise."""
    if path.is_file() and not file_format(path):
        raise UserError(f"{path} does not end in {ENDINGS}.")
    if path.is_file():
        return {"train": [path]}
    root = path if path.is_dir() else path.parent
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    files = {}
    for file in sorted(found):
        parts = file.relative_to(root).parts if path.is_dir() else (file.name,)
        hidden = any(part.startswith(".") for part in parts)
        if file.is_file() and file_format(file) and file.name not in NOT_STORIES and not hidden:
            files.setdefault(_split_name(parts), []).append(file)
    if not files:
        raise UserError(f"{path} holds no files that end in {ENDINGS}.")
    if "validation" in files and "test" in files:
        logger.warning("%s: left unused: %s", path, ", ".join(file.name for file in files["test"]))
    return files


def _split_name(parts: tuple[str, ...]) -> str:
    """So train-00000-of-00004.parquet, TinyStoriesV2-GPT4-train.txt and train/stories.txt are all "train"."""
    *folders, file = (part.lower() for part in parts)
    words = [word for word in re.findall("[a-z]+", file.split(".")[0]) if word != "of"]
    for word in [*words[:1], *words[-1:], *reversed(folders)]:  # inside, as in the-test-of-time.txt, it is a word
        for split, names in SPLITS.items():
            if word in names:
                return split
    return "train"


def _read_files(files: list[Path], how: dict) -> Dataset:
    """Files of one format as one dataset, with whatever columns they have."""
    if empty := [file for file in files if not file.stat().st_size]:
        raise UserError(f"{empty[0]} is empty.")
    kinds = {file_format(file): file.name for file in files}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(kinds.values())} differ in format; choose with a glob such as 'folder/*.txt'.")
    kind, paths = next(iter(kinds)), [str(file.resolve()) for file in files]
    how = {**how, "num_proc": how["num_proc"] and min(how["num_proc"], len(files))}
    try:
        if kind == "text":
            stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            key = Hasher.hash([VERSION, paths, stats])
            return Dataset.from_generator(
                _read_txt, features=TEXT, gen_kwargs={"paths": paths}, fingerprint=key, **how
            )
        with _quiet():
            return load_dataset(kind, data_files=[glob.escape(path) for path in paths], split="train", **how)
    except Exception as error:
        reason = _reason(error)
        if isinstance(reason, UserError):
            raise reason from None
        if "corresponds to no data" in str(reason):
            raise UserError(f"{', '.join(file.name for file in files[:3])} holds no stories.") from None
        culprit = files[0] if len(files) == 1 else next(filter(partial(_is_unreadable, kind), files), files[0].parent)
        raise UserError(f"{culprit} cannot be read as {kind}: {_line(reason)}.") from error


def _is_unreadable(kind: str, file: Path) -> bool:
    """`datasets` does not say which of many files stopped it."""
    try:
        with _quiet():
            for _ in load_dataset(kind, data_files=glob.escape(str(file)), split="train", streaming=True):
                pass
    except Exception:
        return True
    return False


def _read_txt(paths: list[str]) -> Iterator[dict[str, str]]:
    for path in paths:
        found = False
        for offset, story, ended in _pieces(path):
            found |= ended
            if len(story) > MAX_STORY_BYTES or not found:
                raise UserError(
                    f"{path} has no <|endoftext|> in {len(story):,} bytes from byte {offset:,}: put one on a line "
                    "between stories, or write them as .jsonl."
                )
            try:
                text = story.decode().replace("\r\n", "\n").strip()
            except UnicodeDecodeError as error:
                at, byte = offset + error.start, story[error.start]
                raise UserError(f"{path} is not UTF-8: byte 0x{byte:02x} at offset {at:,}.") from None
            if text:
                yield {"text": text}


def _pieces(path: str) -> Iterator[tuple[int, bytes, bool]]:
    """What lies between separators: its offset, its bytes, and whether a separator ended it."""
    with pa.input_stream(path) as stream:  # decompresses .gz
        buffer, offset = stream.read(len(BOM_UTF8)), 0
        if buffer == BOM_UTF8:
            buffer, offset = b"", len(BOM_UTF8)
        while chunk := stream.read(1 << 20):
            *stories, buffer = (buffer + chunk).split(SEPARATOR)
            for story in stories:
                yield offset, story, True
                offset += len(story) + len(SEPARATOR)
            if len(buffer) > MAX_STORY_BYTES:
                break
    yield offset, buffer, False


# Rows


def _clean(
    dataset: Dataset | IterableDataset, name: str, text_column: str, num_proc: int | None
) -> Dataset | IterableDataset:
    """Only the column with the stories, as "text", trimmed; without the rows that have none."""
    if dataset.info.builder_name == "generator":  # ours, which yield just that
        return dataset
    features = dataset.features or dataset._resolve_features().features  # a stream of .jsonl does not know them
    columns = f"name the column with the stories with --text-column; there are: {', '.join(features)}"
    column = "story" if text_column == "text" and "text" not in features and "story" in features else text_column
    if column not in features:
        raise UserError(f"{name} has no column {column}: {columns}.")
    kind = getattr(features[column], "dtype", type(features[column]).__name__)
    if kind not in ("string", "large_string"):
        raise UserError(f"The column {column} of {name} is of type {kind}, not text: {columns}.")
    options = {"batched": True, "features": TEXT, "fn_kwargs": {"column": column, "version": VERSION}}
    arrow = dataset.select_columns(column).with_format("arrow")
    if isinstance(dataset, IterableDataset):
        return arrow.map(_clean_rows, **options).with_format(None)
    try:
        stories = arrow.map(_clean_rows, num_proc=num_proc, desc="Reading stories", **options).with_format(None)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name} holds text that cannot be used: {_line(error)}.") from error
    if not len(stories):
        raise UserError(f"{name} holds no stories.")
    if dropped := len(dataset) - len(stories):
        logger.warning("%s: left out %d of %d rows, which hold no text", name, dropped, len(dataset))
    return stories


def _clean_rows(table: pa.Table, column: str, version: int) -> pa.Table:
    text = table[column].cast(pa.string())
    text.validate(full=True)  # `datasets` lets bytes that are not UTF-8 pass from .json and .parquet
    text = pc.utf8_trim_whitespace(text)
    return pa.table({"text": text.filter(pc.greater(pc.binary_length(text), 0))})


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


def _line(error: BaseException) -> str:
    if isinstance(error, CastError):
        return f"not every file has the same columns: {error.details()}"
    return first_line(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """`datasets` logs a failure besides raising it, and the user is to see one line."""
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
