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


def require_run(path: str) -> None:
    """Refuse what cannot be a model's folder, nor its id on the Hub, before anything heavy is imported.

    Raises:
        UserError: where there is no such folder, or it holds no model.
    """
    there = Path(path)
    if not there.exists() and (path.count("/") != 1 or there.parts[0] in ("runs", ".", "..", "~", "/")):
        raise UserError(f"There is no run folder {path}; `make quickstart` makes runs/quickstart.")
    if there.is_dir() and not (there / "config.json").exists():
        raise UserError(f"{path} is not a run folder: it has no config.json. Give the folder that training wrote.")
