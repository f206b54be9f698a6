"""Stories in batches from a dataset or any iterable, and excerpts of them."""

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import TypeAlias

from datasets import Dataset, IterableDataset

from ...utils.errors import UserError
from ...utils.progress import progress_bar


Stories: TypeAlias = Dataset | IterableDataset | Iterable[str]
Span = tuple[int, int]  # in a story: the first character, and the one after the last

BATCH = 1_000


def batches(stories: Stories, label: str, progress: bool, limit: int | None = None) -> Iterator[list[str]]:
    """Batches of strings, with a progress bar; None is read as an empty story.

    Raises:
        UserError: for a single string, a dataset without the column "text", or a story that is not a string.
    """
    if isinstance(stories, (str, bytes)):
        raise UserError("`stories` is a single string: pass a list (or any iterable) of stories.")
    texts: Iterable[str | None]
    if isinstance(stories, (Dataset, IterableDataset)):
        require_text_column(stories)
        texts = (text for batch in stories.with_format(None).iter(BATCH) for text in batch["text"])
    else:
        texts = stories
    total = min(filter(None, (number_of(stories), limit)), default=None)
    with progress_bar(total=total, desc=label, unit=" stories", show=progress) as bar:
        strings = map(require_string, islice(texts, limit))
        while batch := list(islice(strings, BATCH)):
            yield batch
            bar.update(len(batch))


def number_of(stories: Stories) -> int | None:
    return len(stories) if isinstance(stories, Sized) else None


def require_string(text: str | None) -> str:
    """The story itself, "" for None; raises a `UserError` if it is not a string."""
    if text is not None and not isinstance(text, str):
        raise UserError(f"A story is of type {type(text).__name__}, not str: check the text column.")
    return text or ""


def require_text_column(stories: Dataset | IterableDataset) -> None:
    """Raise a `UserError` if a dataset has no column "text"."""
    if stories.column_names is not None and "text" not in stories.column_names:
        raise UserError(
            f'The dataset has no column "text" (columns: {", ".join(stories.column_names)}): rename the column of the '
            f"stories with `rename_column`."
        )


def find_part(text: str, part: str) -> Span | None:
    at = text.find(part)
    return None if at < 0 else (at, at + len(part))


def excerpt(text: str, start: int, end: int, around: int = 30) -> str:
    """The text around a span in one line, with escapes for characters that cannot be printed."""
    begin, stop = max(0, start - around), min(len(text), min(end, start + around) + around)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[begin:stop])
    return f"{'...' * (begin > 0)}{shown}{'...' * (stop < len(text))}"
