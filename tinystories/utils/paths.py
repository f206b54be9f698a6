"""Paths given by users, and folders installed with the package."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError, first_line


LARGEST_POINTER = 1024  # bytes, by the specification of Git LFS
POINTER_START = b"version https://git-lfs.github.com/spec/"


def expand_user(path: str) -> str:
    """Expand a leading `~`, which no shell does in a recipe or after `--option=`."""
    return os.path.expanduser(path)


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def output_folder(path: str | Path, *, probe: bool = True) -> Path:
    """Check before any work that a folder can be written to, without leaving it behind.

    Args:
        probe: create the folder and a file in it, and delete both, the only certain test of permissions.

    Raises:
        UserError: if the path is empty, is a file or lies inside one, or the system refuses to write there.
    """
    if path == "":
        raise UserError("The path of the folder to write to is empty: specify a folder.")
    folder = Path(path)
    existing = nearest_existing(folder)
    reason = None
    if not existing.is_dir():
        reason = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"no write permission for {existing}"
    elif probe:
        try:
            _probe(folder)
        except OSError as error:
            reason = error.strerror or first_line(error)
    if reason is not None:
        raise UserError(f"Cannot write to {folder}: {reason}. Choose another folder.")
    return folder


def require_new_folder(out: Path) -> None:
    """Check that a folder to write to does not exist or is empty, and can be written.

    Raises:
        UserError: if not.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} already exists: choose a folder that is new or empty.")
    output_folder(out)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a temporary path beside `out` to write a file or folder to; it becomes `out` if nothing is raised.

    Raises:
        UserError: if the system does not allow it.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            path = Path(folder) / (out.name or "model")
            yield path
            if out.exists():
                out.rmdir()
            path.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {first_line(error)}.") from None


def write_atomically(path: Path, content: str) -> None:
    """Write a text file in UTF-8 that is complete whenever it exists; unpaired surrogates become `?`."""
    partial = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}.part")
    partial.write_bytes(content.encode("utf-8", "replace"))
    os.replace(partial, path)


def refuse_special_file(path: str | Path) -> None:
    """Refuse a device, pipe or socket where a file or folder is expected: reading it may never end.

    Raises:
        UserError: if it is one.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a device, a pipe or a socket: specify a file or folder.")


def require_readable(path: Path) -> None:
    """Check that a file may be read, and that Git LFS has downloaded it; folders are not checked.

    Raises:
        UserError: if not.
    """
    if path.is_dir():
        return
    if not path.exists():
        raise UserError(f"{path} is a broken link to {os.readlink(path)}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: no read permission.")
    if path.stat().st_size < LARGEST_POINTER and path.read_bytes().startswith(POINTER_START):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository.")


def _probe(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    created = []
    try:
        for place in reversed(missing):
            place.mkdir()
            created.append(place)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for place in reversed(created):
            place.rmdir()


def installed_folder(name: str) -> Path:
    """A folder such as `metrics`: beside the package in the repository, inside it when installed."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name
