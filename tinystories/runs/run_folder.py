"""The files of a run folder, its checkpoints and its recipe; one-line errors for what is not a run folder."""

import filecmp
import json
import re
from pathlib import Path

from ..recipe import Recipe, load_recipe
from ..utils.errors import UserError
from ..utils.paths import refuse_special_file
from .download import may_be_hub_id, require_available


RECIPE = "recipe.yaml"
RUN_METADATA = "run.json"
BASE_METADATA = "base_model.json"
EVAL_RESULTS = "eval_results.json"
LOSS_PLOT = "loss.png"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of peft
# transformers' own names; importing them from there would load torch before `--help` answers.
TRAINER_STATE = "trainer_state.json"
_CHECKPOINT = "checkpoint-"


def require_run(path: str | Path) -> None:
    """Check that a path may be a model folder or a model id on the Hub, before anything heavy is imported.

    Raises:
        UserError: if there is no such folder, it is a file, or it holds no model; for an id, without a connection.
    """
    if may_be_hub_id(path):
        require_available(path)
    else:
        require_run_folder(Path(path))


def require_run_folder(folder: Path) -> None:
    """Check that a path is a model folder on this machine.

    Raises:
        UserError: if there is no such folder, it is a file, or it holds no model.
    """
    _refuse_file(folder)
    if not folder.is_dir():
        raise UserError(f"There is no run folder {folder}; `tinystories train quickstart` creates runs/quickstart.")
    if not (folder / "config.json").is_file() and not is_adapter(folder):
        raise UserError(
            f"{folder} is not a run folder: it has no config.json. Specify the folder that training wrote."
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model of its own."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def _refuse_file(path: Path) -> None:
    """Refuse a file instead of a model folder, and say what to do with a file of its kind."""
    refuse_special_file(path)
    if not path.is_file():
        return
    kind = path.suffix.lower()
    if (path.parent / "config.json").is_file() and kind in (".bin", ".safetensors", ".json"):
        raise UserError(f"{path} is one file of a model: specify its folder, {path.parent}.")
    if kind == ".gguf":
        what = (
            f"is a GGUF file: run it with llama.cpp (`llama-cli -m {path}`), or specify the run folder that it was "
            f"exported from (`tinystories generate --engine llama.cpp` uses llama.cpp)"
        )
    elif kind == ".onnx":
        what = "is an ONNX file for ONNX Runtime: specify the run folder that it was exported from"
    elif kind in (".pth", ".pt", ".bin"):
        what = f"must be imported first: run `tinystories import {path} FOLDER`, then specify FOLDER"
    elif kind == ".safetensors":
        what = (
            "contains weights without a configuration: specify a folder with a config.json; a model of another "
            "architecture must be imported first, with `tinystories import MODEL_FOLDER FOLDER`"
        )
    else:
        what = "is a file: specify the run folder that training wrote"
    raise UserError(f"{path} {what}.")


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where `Trainer` writes the checkpoint of a step."""
    return run / f"{_CHECKPOINT}{step}"


def checkpoint_step(path: str | Path) -> int | None:
    """The step in the name of a checkpoint folder; None for any other name."""
    match = re.fullmatch(rf"{_CHECKPOINT}(\d+)", Path(path).name)
    return int(match[1]) if match else None


def is_checkpoint(path: str | Path) -> bool:
    """Whether a folder is named as `Trainer` names a checkpoint."""
    return checkpoint_step(path) is not None


def find_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, complete or not, from the last step to the first."""
    if not run.is_dir():
        return []
    steps = {folder: step for folder in run.iterdir() if (step := checkpoint_step(folder)) and folder.is_dir()}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def run_of(path: str | Path) -> Path:
    """The run folder of a checkpoint; any other folder is returned unchanged."""
    folder = Path(path)
    return folder.parent if is_checkpoint(folder) else folder


def is_run_folder(path: str | Path) -> bool:
    """Whether training wrote this folder; false for a checkpoint in one."""
    folder = Path(path)
    return not is_checkpoint(folder) and any((folder / name).is_file() for name in (RECIPE, TRAINER_STATE))


def find_recipe(path: str | Path) -> Path | None:
    """The recipe file of a run folder, or of a checkpoint or its run; None if there is none."""
    files = [Path(path) / RECIPE, run_of(path) / RECIPE]
    return next((file for file in files if file.is_file()), None)


def run_recipe(path: str | Path) -> Recipe | None:
    """The recipe of a run folder or of a checkpoint's run; None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    file = find_recipe(path)
    return None if file is None else load_recipe(file)


def run_and_step(path: str | Path) -> tuple[str | None, int | None]:
    """The run folder that a model belongs to and the optimizer steps of its weights; None if unknown.

    A run folder may hold the weights of its best checkpoint instead of the last; a comparison of the files decides.
    """
    folder = Path(path)
    try:
        state = json.loads((folder / TRAINER_STATE).read_text("utf-8"))
    except (OSError, ValueError):
        state = {}
    step = state.get("global_step") if isinstance(state, dict) else None
    if is_checkpoint(folder):
        return str(folder.parent), checkpoint_step(folder) if step is None else step
    if step is None:
        return None, None
    best = checkpoint_folder(folder, state.get("best_global_step"))
    weights = [file.name for file in folder.glob("*.safetensors")]
    same = filecmp.cmpfiles(folder, best, weights, shallow=False)[0] if best.is_dir() else []
    return str(folder), state["best_global_step"] if weights and same == weights else step
