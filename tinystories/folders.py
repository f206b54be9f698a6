"""Folders that a user names to be written to."""

import os
from pathlib import Path

from .errors import UserError


def output_folder(path: str | Path) -> Path:
    """The folder, found fit to be written to before any work is done; it is not made yet.

    Raises:
        UserError: where it is a file, lies in one, or the system does not allow it.
    """
    folder = Path(path)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{folder} cannot be written to: {there} is a file. Choose another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to: {there} does not allow it. Choose another folder.")
    return folder
