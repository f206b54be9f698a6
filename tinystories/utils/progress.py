"""Progress bars."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(iterable: Iterable | None = None, *, show: bool, **options: Any) -> tqdm:
    """A tqdm bar on stderr, if `show`. In a log file, each update is a line, so there is only one every 30 seconds."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, disable=not show, mininterval=seconds, **options)
