"""What a run folder must hold, and one-line errors for paths that are no run folder."""

from pathlib import Path

from ..utils.errors import UserError


def require_run(path: str) -> None:
    """Refuse what cannot be a model's folder, nor its id on the Hub, before anything heavy is imported.

    Raises:
        UserError: where there is no such folder, it is a file, or it holds no model.
    """
    there = Path(path)
    refuse_file(there)
    if not there.exists() and (path.count("/") != 1 or there.parts[0] in ("runs", ".", "..", "~", "/")):
        raise UserError(f"There is no run folder {path}; `make quickstart` makes runs/quickstart.")
    if there.is_dir() and not (there / "config.json").exists():
        raise UserError(f"{path} is not a run folder: it has no config.json. Give the folder that training wrote.")


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
        raise UserError(f"{path} is one file of a model: give its folder, {path.parent}.")
    if kind == ".gguf":
        what = (
            f"is a GGUF file, which llama.cpp runs (llama-cli -m {path}): give the run folder that it was exported "
            f"from, with --engine llama.cpp of `tinystories generate` for the same model in llama.cpp"
        )
    elif kind == ".onnx":
        what = "is an ONNX graph, which ONNX Runtime runs: give the run folder that it was exported from"
    elif kind in (".pth", ".pt", ".bin"):
        what = f"has to be imported first: tinystories import {path} FOLDER, and then give FOLDER"
    elif kind == ".safetensors":
        what = (
            "holds weights and no configuration: give the folder of the model, with its config.json, or import a "
            "model of another architecture first: tinystories import MODEL_FOLDER FOLDER"
        )
    else:
        what = "is a file: give the run folder that training wrote"
    raise UserError(f"{path} {what}.")
