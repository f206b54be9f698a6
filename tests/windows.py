"""Windows' rules for files, on Linux: files that are open or memory-mapped in this process cannot be renamed, replaced
or deleted, only files open for writing can be flushed, and there are neither symbolic links nor user ids.

    with like_windows(tmp_path):
        ...

Only files below the given folder count.
"""

import fcntl
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


def held(path: str) -> str | None:
    """The file at or below `path` that this process has open or memory-mapped, or None."""
    path = os.path.realpath(path)

    def within(name: str) -> bool:
        return name == path or name.startswith(path + os.sep)

    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        # Not folders, which Python has open while it lists or deletes them.
        if within(name) and not os.path.isdir(name):
            return f"{name} is open"
    for line in Path("/proc/self/maps").read_text("utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and within(fields[5]):
            return f"{fields[5]} is memory-mapped"
    return None


@contextmanager
def like_windows(folder: Path):
    """See the top of this file."""
    root = os.path.realpath(folder)

    def place(path, dir_fd=None) -> str:
        base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        path = os.path.join(base, os.fsdecode(path))
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))

    def refuse(*paths: str) -> None:
        for path in paths:
            if path.startswith(root) and (reason := held(path)):
                error = PermissionError(13, f"The process cannot access the file because it is being used: {reason}")
                error.winerror = 32
                raise error

    def moving(function, may_exist: bool):
        def move(source, target, *, src_dir_fd=None, dst_dir_fd=None):
            before, after = place(source, src_dir_fd), place(target, dst_dir_fd)
            refuse(before, after)
            if not may_exist and os.path.lexists(after):
                raise FileExistsError(17, "Cannot create a file when that file already exists", after)
            return function(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return move

    def deleting(function):
        def delete(path, *, dir_fd=None):
            refuse(place(path, dir_fd))
            return function(path, dir_fd=dir_fd)

        return delete

    flush = os.fsync

    def fsync(descriptor):
        descriptor = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flush(descriptor)

    def no_links(*args, **kwargs):
        raise OSError(1314, "A required privilege is not held by the client")

    # Without user ids, `getpass` takes the user's name from the environment.
    with (
        mock.patch.dict(os.environ, USERNAME="user"),
        mock.patch.multiple(
            os,
            fsync=fsync,
            rename=moving(os.rename, may_exist=False),
            replace=moving(os.replace, may_exist=True),
            unlink=deleting(os.unlink),
            remove=deleting(os.remove),
            rmdir=deleting(os.rmdir),
            symlink=no_links,
            link=no_links,
        ),
    ):
        missing = [(os, "getuid"), (os, "geteuid"), (os, "fork"), (os, "killpg"), (os, "sysconf"), (signal, "SIGKILL")]
        there = [(owner, name, getattr(owner, name)) for owner, name in missing]
        for owner, name, _ in there:
            delattr(owner, name)
        try:
            yield
        finally:
            for owner, name, value in there:
                setattr(owner, name, value)
