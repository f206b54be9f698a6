"""Stories from what holds them, in batches, and how they are shown."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import datasets
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from ...utils.errors import UserError


Stories = Dataset | IterableDataset | Iterable[str]
Place = tuple[int, int]  # where in a story: first character, and the one after the last

BATCH = 1_000


def batches(stories: Stories, limit: int | None = None) -> Iterator[list[str]]:
    if isinstance(stories, (str, bytes)):
        raise UserError("stories is one string; give a list (or any iterable) of stories.")
    if isinstance(stories, (Dataset, IterableDataset)):
        require_text_column(stories)
        texts = (text for batch in stories.with_format(None).iter(BATCH) for text in batch["text"])
    else:
        texts = iter(stories)
    texts = map(require_string, islice(texts, limit))
    while batch := list(islice(texts, BATCH)):
        yield batch


def require_string(text: str | None) -> str:
    if text is not None and not isinstance(text, str):
        raise UserError(f"A story is of type {type(text).__name__}, not text.")
    return text or ""


def require_text_column(stories: Dataset | IterableDataset) -> None:
    if stories.column_names is not None and "text" not in stories.column_names:
        raise UserError(f'Stories must be in the column "text"; there are: {", ".join(stories.column_names)}.')


def find_part(text: str, part: str) -> Place | None:
    at = text.find(part)
    return None if at < 0 else (at, at + len(part))


def excerpt(text: str, start: int, end: int, around: int = 30) -> str:
    """The text around a place in one line, with escapes for what cannot be seen."""
    begin, stop = max(0, start - around), min(len(text), min(end, start + around) + around)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[begin:stop])
    return f"{'...' * (begin > 0)}{shown}{'...' * (stop < len(text))}"


def progress_bar(label: str, total: int | None, progress: bool) -> tqdm:
    seconds = 0.2 if sys.stderr.isatty() else 30.0  # a log file keeps every line
    return tqdm(total=total, desc=label, unit=" stories", disable=not progress, mininterval=seconds)


@contextmanager
def datasets_bars(progress: bool) -> Iterator[None]:
    """`datasets` has one switch for all its bars."""
    were_off = datasets.are_progress_bars_disabled()
    if not progress:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()
