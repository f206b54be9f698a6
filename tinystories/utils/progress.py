"""Progress bars."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from tqdm.auto import tqdm


def spare_log_files() -> None:
    """Let the bars of all libraries write to a log file only every 30 seconds, because there each update is a line.

    It has an effect only before `tqdm` is imported.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")


def progress_bar(iterable: Iterable | None = None, *, show: bool, **options: Any) -> "tqdm":
    """A tqdm bar on stderr, if `show`. In a log file, each update is a line, so there is only one every 30 seconds."""
    from tqdm.auto import tqdm

    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, disable=not show, mininterval=seconds, **options)


@contextmanager
def hidden_datasets_bars() -> Iterator[bool]:
    """Hide the bars of `datasets` within the block; yields whether they were shown before."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield shown
    finally:
        if shown:
            datasets.enable_progress_bars()
