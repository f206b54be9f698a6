"""Progress bars."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(iterable: Iterable | None = None, *, show: bool, **options: Any) -> tqdm:
    """A bar of tqdm on stderr, if `show`. A log file keeps every update as a line, so it gets one in 30 seconds."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, disable=not show, mininterval=seconds, **options)
