"""Which checkpoints are complete.

`Trainer` writes a checkpoint file by file, so a crash or a full disk leaves part of one. Here the last file of each is
a manifest with the size and SHA-256 of every file that resuming needs. It is written after those have reached the
disk, and before any older checkpoint is deleted. A checkpoint without a manifest, as another `Trainer` writes it, is
judged by its files.
"""

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..utils.errors import first_line
from .run_folder import TRAINER_STATE, find_checkpoints


MANIFEST = "checkpoint.json"
_NEEDED = ("*.safetensors", "*.pt", "*.pth", "*.distcp", "*.metadata", TRAINER_STATE, "stream.json")


def write_manifest(checkpoint: Path) -> None:
    """Flush the files of a checkpoint to the disk and then write its manifest."""
    files = {}
    for path in sorted({path for pattern in _NEEDED for path in checkpoint.rglob(pattern)}):
        with path.open("r+b") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    partial = checkpoint / f".{MANIFEST}.part"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(checkpoint / MANIFEST)


def incomplete_reason(checkpoint: Path) -> str | None:
    """Why training cannot resume from this folder, or None if the checkpoint is complete."""
    if not checkpoint.is_dir():
        return "the folder does not exist"
    try:
        state = json.loads((checkpoint / TRAINER_STATE).read_text("utf-8"))
    except FileNotFoundError:
        return f"it has no {TRAINER_STATE}"
    except (OSError, ValueError):
        return f"its {TRAINER_STATE} is damaged"
    if not isinstance(state, dict) or "global_step" not in state:
        return f"its {TRAINER_STATE} is damaged"
    if (checkpoint / MANIFEST).is_file():
        return _differs_from_manifest(checkpoint)
    return _damaged_file(checkpoint)


def _differs_from_manifest(checkpoint: Path) -> str | None:
    try:
        files = json.loads((checkpoint / MANIFEST).read_text("utf-8"))["files"]
        for name, expected in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {expected['bytes']:,}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return f"the checksum of {name} is wrong"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} is invalid: {first_line(error)}"
    return None


def _damaged_file(checkpoint: Path) -> str | None:
    for path in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            return f"{path.name} is damaged: {first_line(error)}"
    for path in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        try:
            if broken := zipfile.ZipFile(path).testzip():
                return f"{path.name} is damaged at {broken}"
        except (zipfile.BadZipFile, OSError):
            return f"{path.name} is damaged"
    for kind, names in {
        "weights": ("*.safetensors", "pytorch_model*"),
        "optimizer state": ("optimizer*",),
        "schedule": ("scheduler.pt",),
    }.items():
        if not any(path for name in names for path in checkpoint.glob(name)):
            return f"it has no {kind}"
    return None


def last_complete_checkpoint(run: Path) -> tuple[Path | None, dict[Path, str]]:
    """The last complete checkpoint of a run, and for each later one the reason why it is not."""
    incomplete: dict[Path, str] = {}
    for checkpoint in find_checkpoints(run):
        reason = incomplete_reason(checkpoint)
        if reason is None:
            return checkpoint, incomplete
        incomplete[checkpoint] = reason
    return None, incomplete


def resume_hint(run: Path) -> str:
    """From which checkpoint a run that has stopped can resume, for a message."""
    last, _ = last_complete_checkpoint(run)
    if last is None:
        return "Nothing was saved, because no checkpoint has been written yet."
    return f"The last complete checkpoint is {last}: resume from it with --resume_from_checkpoint."


def delete_oldest(run: Path, limit: int | None, keep: set[Path]) -> None:
    """Delete the checkpoints that were written first until `limit` are left, but none of `keep`.

    The time counts and not the step: after resuming from an earlier checkpoint, those of later steps are older.
    """
    if not limit or limit < 1:
        return
    written = {folder: _time_written(folder) for folder in find_checkpoints(run)}
    names = {folder.name for folder in keep}
    for folder in sorted(written, key=written.__getitem__)[: max(0, len(written) - limit)]:
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def _time_written(folder: Path) -> int:
    manifest = folder / MANIFEST
    return manifest.stat().st_mtime_ns if manifest.exists() else 0
