"""What the name of a corpus stands for, decided without loading anything, so that a mistake is told of at once."""

import glob
import re
from pathlib import Path

from .errors import UserError


FORMATS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


def file_format(path: Path) -> str | None:
    return FORMATS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def hub_dataset(source: str) -> tuple[str, str | None, str | None] | None:
    """Repository, configuration and revision of a dataset on the Hub; None for the sample, a file, folder or pattern.

    Raises:
        UserError: for what is neither.
    """
    path = Path(source).expanduser()
    if source == "sample" or (source and (path.exists() or glob.has_magic(source))):
        return None
    hub = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?", source)
    if not hub or file_format(path):
        raise UserError(f"There is no file or folder {source} (and a dataset on the Hub is called owner/name).")
    return hub.groups()
