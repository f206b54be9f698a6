"""The native step as a shared library: compiled by the machine's own C compiler at first use, kept for the next time.

Design decisions
- **Plain C and ctypes**, no headers of Python or torch: it compiles in two seconds, and one library serves every
  version of both.
- **A folder for each source and processor**, in `$XDG_CACHE_HOME/tinystories` (`~/.cache/tinystories`), so
  that a home shared by different machines never hands one the other's instructions.
- **A library is put in place whole**, by a rename, with its checksum beside it: two processes may build at once, and
  a file that was damaged or belongs to somebody else is built again, not loaded.
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
# The names that compilers have for "this processor"; the first that is taken is used.
FOR_THIS_MACHINE = (["-march=native"], ["-mcpu=native"], [])
PATIENCE = 3.0  # seconds of compiling before a user is told

_lock = threading.Lock()
_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """The native step, compiled if it has not been yet.

    Raises:
        UserError: where it can be neither found nor compiled; the message says why.
    """
    global _library
    with _lock:
        if _library is None:
            _library = _found_or_built()
        return _library


def _found_or_built() -> ctypes.CDLL:
    if os.name != "posix":
        raise UserError(f"native decoding does not support {platform.system()}")
    folder = _cache_folder() / _key()
    with suppress(OSError):
        if found := _load(folder):
            return found
    compiler = _compiler()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _build(compiler, folder)
    # Where nothing can be kept it is compiled for this process alone.
    try:
        with tempfile.TemporaryDirectory(prefix="tinystories-") as alone:
            return _build(compiler, Path(alone))
    except OSError as error:
        raise UserError(f"the native code cannot be loaded: {first_line(error)}") from None


def _compiler() -> list[str]:
    given = os.environ.get("CC")
    if given:
        command = shlex.split(given)
        if command and shutil.which(command[0]):
            return [shutil.which(command[0]), *command[1:]]
        raise UserError(f"there is no C compiler {given!r} (set by CC)")
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path]
    raise UserError("there is no C compiler (cc, gcc or clang)")


def _cache_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, as the specification has it.
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "tinystories"


def _key() -> str:
    flags = (FLAGS, FOR_THIS_MACHINE, os.environ.get("CC", ""))
    parts = [*(file.read_text(encoding="utf-8") for file in (*SOURCES, *HEADERS)), repr(flags), _processor()]
    return "step-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What decides which instructions this processor knows."""
    described = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(described + [line for line in lines if line.split(":")[0].strip() in told])


def _load(folder: Path) -> ctypes.CDLL | None:
    """The library in a folder, or None where there is none that can be trusted."""
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
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as workplace:
        file = Path(workplace) / "step.so"
        message = ""
        for machine in FOR_THIS_MACHINE:
            status, message = _run([*compiler, *FLAGS, *machine, *map(str, SOURCES), "-o", str(file), "-lm"])
            if status == 0:
                break
        else:
            raise UserError(f"{compiler[0]} cannot compile the native code: {message or f'exit status {status}'}")
        digest = Path(workplace) / "step.sha256"
        digest.write_text(hashlib.sha256(file.read_bytes()).hexdigest(), encoding="ascii")
        built = _open(file)
        # The library first: with the checksum of another build beside it, it would only be built once more.
        os.replace(file, folder / "step.so")
        os.replace(digest, folder / "step.sha256")
        return built


def _run(command: list[str]) -> tuple[int, str]:
    """The exit status of a compiler and the first line of its complaint."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return 127, str(error)
    with process:
        try:
            _, complaint = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            print("Compiling native code for this processor, once ...", file=sys.stderr, flush=True)
            _, complaint = process.communicate()
    complaints = [line for line in complaint.splitlines() if "error:" in line] or complaint.splitlines() or [""]
    return process.returncode, complaints[0].strip()


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
