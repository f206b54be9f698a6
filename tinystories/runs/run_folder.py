"""What a folder is: a run, a checkpoint of one, or something else; one-line errors for what is no run folder."""

import filecmp
import json
import re
from pathlib import Path

from ..utils.errors import UserError


_STATE = "trainer_state.json"  # transformers' name; importing it from there would load torch before `--help` answers


def require_run(path: str) -> None:
    """Refuse what cannot be a model's folder, nor its id on the Hub, before anything heavy is imported.

    Raises:
        UserError: where there is no such folder, it is a file, or it holds no model.
    """
    there = Path(path)
    refuse_file(there)
    if not there.exists() and (path.count("/") != 1 or there.parts[0] in ("runs", ".", "..", "~", "/")):
        raise UserError(f"There is no run folder {path}; `make quickstart` creates runs/quickstart.")
    if there.is_dir() and not (there / "config.json").exists():
        raise UserError(f"{path} is not a run folder: it has no config.json. Specify the folder that training wrote.")


def refuse_file(path: str | Path) -> None:
    """Refuse a file where the folder of a model is wanted, and say what to do with a file of its kind.

    Raises:
        UserError: where it is a file.
    """
    path = Path(path)
    if not path.is_file():
        return
    kind = path.suffix.lower()
    if (path.parent / "config.json").is_file() and kind in (".bin", ".safetensors", ".json"):
        raise UserError(f"{path} is one file of a model: specify its folder, {path.parent}.")
    if kind == ".gguf":
        what = (
            f"is a GGUF file for llama.cpp (llama-cli -m {path}): specify the run folder that it was exported from; "
            f"`tinystories generate --engine llama.cpp` runs the model in llama.cpp"
        )
    elif kind == ".onnx":
        what = "is an ONNX file for ONNX Runtime: specify the run folder that it was exported from"
    elif kind in (".pth", ".pt", ".bin"):
        what = f"has to be imported first, with tinystories import {path} FOLDER; then specify FOLDER"
    elif kind == ".safetensors":
        what = (
            "contains weights without a configuration: specify a model folder with a config.json, or first import a "
            "model of another architecture with tinystories import MODEL_FOLDER FOLDER"
        )
    else:
        what = "is a file: specify the run folder that training wrote"
    raise UserError(f"{path} {what}.")


def is_checkpoint(path: str | Path) -> bool:
    """Whether a folder is named as `Trainer` names a checkpoint."""
    return re.fullmatch(r"checkpoint-\d+", Path(path).name) is not None


def is_run_folder(path: str | Path) -> bool:
    """Whether training wrote this folder; false for a checkpoint in one."""
    folder = Path(path)
    return not is_checkpoint(folder) and any((folder / name).is_file() for name in ("recipe.yaml", _STATE))


def run_and_step(path: str | Path) -> tuple[str | None, int | None]:
    """The run folder that a model belongs to and the optimizer steps of its weights; None where nothing tells.

    A run folder may hold the weights of its best checkpoint instead of the last; a comparison of the files decides.
    """
    folder = Path(path)
    try:
        state = json.loads((folder / _STATE).read_text("utf-8"))
    except (OSError, ValueError):
        state = {}
    step = state.get("global_step") if isinstance(state, dict) else None
    if is_checkpoint(folder):
        return str(folder.parent), int(folder.name.rpartition("-")[2]) if step is None else step
    if step is None:
        return None, None
    best = folder / f"checkpoint-{state.get('best_global_step')}"
    weights = [file.name for file in folder.glob("*.safetensors")]
    same = filecmp.cmpfiles(folder, best, weights, shallow=False)[0] if best.is_dir() else []
    return str(folder), state["best_global_step"] if weights and same == weights else step
