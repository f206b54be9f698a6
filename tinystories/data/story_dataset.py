"""A `datasets` builder for files of stories: as Arrow on disk and memory-mapped, or streamed."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, Value
from datasets.builder import Key

from ..utils.console import counted
from ..utils.errors import UserError
from ..utils.progress import hidden_datasets_bars
from .formats import file_format
from .readers import ReadOptions, RowCounts, StoryFile, read_stories, resolve_split
from .text_split import BLANK_LINES, FILE, LINE


logger = logging.getLogger(__name__)

TEXT = Features({"text": Value("string")})


@dataclass
class StoriesConfig(datasets.BuilderConfig):
    """`files` of one format, the name of their `source` for messages, and the `options` for reading."""

    files: list[StoryFile] = field(default_factory=list)
    source: str = ""
    options: ReadOptions = field(default_factory=ReadOptions)


def story_features(options: ReadOptions) -> Features:
    """The columns of stories that are read with `options`."""
    return Features({name: Value("string") for name in ("text", *options.fields)})


class Stories(datasets.ArrowBasedBuilder):
    """Rows of `text`, never empty, and of the fields. `info.description` has the `RowCounts` and the split as JSON."""

    BUILDER_CONFIG_CLASS = StoriesConfig
    _progress = False

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=story_features(self.config.options))

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        files = self.config.files
        if "://" in files[0].path:
            paths = dl_manager.download([file.path for file in files])
            files = [StoryFile(path, file.name) for path, file in zip(paths, files, strict=True)]
        self._options, self._split = self.config.options, {}
        if file_format(files[0].name) == "text":
            split, why = resolve_split(files, self.config.source, self.config.options)
            self._options, self._split = replace(self.config.options, text_split=split), {"split": split, "why": why}
        self._is_streamed = dl_manager.is_streaming
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"files": files})]

    def _prepare_split(self, *arguments, **options) -> None:
        with hidden_datasets_bars() as self._progress:  # theirs does not know how much is left
            super()._prepare_split(*arguments, **options)

    def _generate_tables(self, files: list[StoryFile]) -> Iterator[tuple[Key, pa.Table]]:
        counts = RowCounts()
        stories = read_stories(files, self._options, counts, progress=self._progress)
        for number, (shard, table) in enumerate(stories):
            yield Key(shard, number), table
        notes = {**asdict(counts), **self._split}
        if self._is_streamed:
            _log(self.config.source, notes)
        self.info.description = json.dumps(notes)


def stored_stories(
    source: str, files: list[StoryFile], options: ReadOptions, key: str, cache_dir: str | None
) -> Dataset:
    """The stories of files as a `Dataset` on disk, which is written once for each `key`.

    Raises:
        UserError: if there are none. Other errors in files are causes of what `datasets` raises.
    """
    builder = Stories(files=files, source=source, options=options, config_id=f"default-{key}", cache_dir=cache_dir)
    builder.download_and_prepare()
    notes = json.loads(builder.info.description)
    if notes["rows"] == notes["empty"]:
        bad = f"; skipped {_bad_rows(notes)}" if notes["bad"] else ""
        raise UserError(f"{source} contains no stories{bad}.")
    stories = builder.as_dataset(split=datasets.Split.TRAIN)
    stories._fingerprint = key
    _log(source, notes)
    if not notes["has_letters"]:
        advice = "" if "split" in notes else ": specify the column of the stories with --text-column"
        raise UserError(f"The stories of {source} contain no letters{advice}.")
    return stories


def streamed_stories(source: str, files: list[StoryFile], options: ReadOptions) -> IterableDataset:
    """The stories of files, read on demand."""
    return Stories(files=files, source=source, options=options).as_streaming_dataset(split=datasets.Split.TRAIN)


def _log(source: str, notes: dict) -> None:
    """Report how plain text was split, and which rows were skipped."""
    rows = notes["rows"] + notes["bad"]
    if "split" in notes:
        names = {FILE: "one story per file", LINE: "one story per line", BLANK_LINES: "stories between blank lines"}
        how = names.get(notes["split"], f"split at {notes['split']}")
        number = counted(notes["rows"] - notes["empty"], "story")
        logger.info("%s: %s (%s): %s", source, how, notes["why"], number)
    elif notes["empty"]:  # in plain text, nothing between two markers or lines is usual
        logger.warning("%s: skipped %s rows without text", source, f"{notes['empty']:,} of {rows:,}")
    if notes["bad"]:
        logger.warning("%s: skipped %s", source, _bad_rows(notes))


def _bad_rows(notes: dict) -> str:
    return f"{counted(notes['bad'], 'unreadable row')}, such as {notes['first_bad']}"
