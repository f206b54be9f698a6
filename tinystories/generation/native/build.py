"""Compile the C code with the machine's own compiler at first use, and cache the shared library.

- Plain C with ctypes: it compiles in two seconds without headers of Python or torch, and works with every version.
- Each source and processor has its own folder in `$XDG_CACHE_HOME/tinystories` (`~/.cache/tinystories`), so that
  different machines can share a home folder.
- The library is moved into place with its checksum, so several processes can build at once. A file that is damaged or
  belongs to another user is not loaded, but built again.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from ...utils.errors import UserError, first_line


SOURCES = [
    *(Path(__file__).with_name(name) for name in ("step.c", "top_p.c", "memory.c")),
    Path(__file__).parents[2] / "training" / "kernels" / "attention.c",
]
HEADERS = [Path(__file__).with_name("vectors.h")]
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
# Flags for the instructions of this processor; the first that the compiler accepts are used.
PROCESSOR_FLAGS: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
ANNOUNCE_AFTER = 3.0  # seconds of compilation

_lock = threading.Lock()
_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """The shared library, compiled at first use.

    Raises:
        UserError: if it cannot be compiled or loaded.
    """
    global _library
    with _lock:
        if _library is None:
            _library = _load_or_build()
        return _library


def _load_or_build() -> ctypes.CDLL:
    if os.name != "posix":
        raise UserError(f"native decoding does not support {platform.system()}")
    folder = _cache_folder() / _key()
    with suppress(OSError):
        if cached := _load(folder):
            return cached
    compiler = _compiler()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _build(compiler, folder)
    # The cache cannot be written, so the library is compiled for this process only.
    try:
        with tempfile.TemporaryDirectory(prefix="tinystories-") as temporary:
            return _build(compiler, Path(temporary))
    except OSError as error:
        raise UserError(f"the native code cannot be loaded: {first_line(error)}") from None


def _compiler() -> list[str]:
    if given := os.environ.get("CC"):
        name, *options = shlex.split(given) or [given]
        if path := shutil.which(name):
            return [path, *options]
        raise UserError(f"there is no C compiler {given!r} (set by CC)")
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise UserError("there is no C compiler (cc, gcc or clang)")


def _cache_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "tinystories"


def _key() -> str:
    flags = (FLAGS, PROCESSOR_FLAGS, os.environ.get("CC", ""))
    parts = [*(file.read_text(encoding="utf-8") for file in (*SOURCES, *HEADERS)), repr(flags), _processor()]
    return "step-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """Describes which instructions this processor has."""
    described = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    fields = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(described + [line for line in lines if line.split(":")[0].strip() in fields])


def _load(folder: Path) -> ctypes.CDLL | None:
    """The library in a folder; None if it is missing, damaged or owned by another user."""
    file = folder / "step.so"
    try:
        expected = (folder / "step.sha256").read_text(encoding="ascii")
        content = file.read_bytes()
        if hasattr(os, "getuid") and file.stat().st_uid not in (os.getuid(), 0):  # Windows has no user ids
            return None
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return _open(file) if hashlib.sha256(content).hexdigest() == expected else None


def _build(compiler: list[str], folder: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as temporary:
        file = Path(temporary) / "step.so"
        for processor in PROCESSOR_FLAGS:
            status, message = _run([*compiler, *FLAGS, *processor, *map(str, SOURCES), "-o", str(file), "-lm"])
            if status == 0:
                break
        else:
            raise UserError(f"{compiler[0]} cannot compile the native code: {message or f'exit status {status}'}")
        digest = Path(temporary) / "step.sha256"
        digest.write_text(hashlib.sha256(file.read_bytes()).hexdigest(), encoding="ascii")
        built = _open(file)
        # If another process builds at the same time, the checksum may be its own; then the library is built again.
        os.replace(file, folder / "step.so")
        os.replace(digest, folder / "step.sha256")
        return built


def _run(command: list[str]) -> tuple[int, str]:
    """The exit status of the compiler, and the first line of its error message."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return 127, str(error)
    with process:
        try:
            _, output = process.communicate(timeout=ANNOUNCE_AFTER)
        except subprocess.TimeoutExpired:
            print("Compiling native code for this processor, once ...", file=sys.stderr, flush=True)
            _, output = process.communicate()
    lines = [line for line in output.splitlines() if "error:" in line] or output.splitlines() or [""]
    return process.returncode, lines[0].strip()


def _open(file: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(file))
    opened.tinystories_step.argtypes = [ctypes.c_void_p]
    opened.tinystories_step.restype = ctypes.c_int
    opened.tinystories_padding.restype = ctypes.c_int64
    opened.tinystories_large_pages.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    opened.tinystories_large_pages.restype = ctypes.c_int
    opened.tinystories_top_p.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_float,
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    opened.tinystories_top_p.restype = None
    opened.tinystories_attention_scratch.argtypes = [ctypes.c_int64, ctypes.c_int64]
    opened.tinystories_attention_scratch.restype = ctypes.c_int64
    opened.tinystories_attention_supports.argtypes = [ctypes.c_int64]
    opened.tinystories_attention_supports.restype = ctypes.c_int
    return opened
