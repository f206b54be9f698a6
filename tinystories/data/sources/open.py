"""Open a source: the built-in sample, local files, or a dataset on the Hub."""

import logging
from functools import partial
from pathlib import Path

import datasets
from datasets import Dataset
from datasets.fingerprint import Hasher

from ...utils.errors import UserError
from ...utils.paths import require_readable
from ..formats import file_format
from ..readers import StoryFile
from ..story_dataset import TEXT, stored_stories
from .files import find_files, hub_dataset
from .hub import open_hub
from .source import VERSION, Source, SourceOptions, first_cause


logger = logging.getLogger(__name__)

SAMPLE_STORIES, SAMPLE_VALIDATION_STORIES = 20_000, 1_000


def open_source(source: str, options: SourceOptions) -> Source:
    """Find the splits of a source; they are read later.

    Raises:
        UserError: if the source cannot be found.
    """
    if source == "sample":
        return _open_sample(options)
    if hub := hub_dataset(source):
        return open_hub(source, *hub, options)
    path = Path(source).expanduser()
    name, files = path.resolve().name, find_files(path)
    if not path.is_file():
        logger.info("%s: files used for %s", name, files.describe())
    if "validation" in files.splits and "test" in files.splits:
        names = ", ".join(file.name for file in files.splits["test"])
        logger.warning("%s: the test split is not used, because there is a validation split: %s", path, names)
    splits = files.splits.items()
    return Source(name, {split: partial(_read_files, name, split, paths, options) for split, paths in splits})


def _open_sample(options: SourceOptions) -> Source:
    if options.read.fields:
        raise UserError(
            "The built-in stories have no columns for a template: `tinystories annotate sample FOLDER` writes a copy "
            "with the columns words, summary and features."
        )
    from .. import synthetic

    code = [path.read_bytes() for path in sorted(Path(synthetic.__file__).parent.rglob("*.py"))]
    count = SAMPLE_STORIES + SAMPLE_VALIDATION_STORIES
    stories = Dataset.from_generator(
        lambda: ({"text": story} for story in synthetic.sample_stories(count, options.seed)),
        features=TEXT,
        cache_dir=options.cache_dir,
        fingerprint=Hasher.hash([VERSION, count, options.seed, code]),
    )
    splits = {"train": range(SAMPLE_STORIES), "validation": range(SAMPLE_STORIES, count)}
    return Source(
        synthetic.NAME,
        {split: partial(stories.select, rows) for split, rows in splits.items()},
    )


def _read_files(source: str, split: str, files: list[Path], options: SourceOptions) -> Dataset:
    """The stories of local files, which must be of one format."""
    for file in files:
        if not file.stat().st_size:
            raise UserError(f"{file} is empty.")
        require_readable(file)
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
        cause = first_cause(error)
        if isinstance(cause, UserError):
            raise cause from None
        raise
    finally:
        datasets.logging.set_verbosity(level)
