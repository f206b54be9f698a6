"""LoRA adapters of `peft`: a run folder with `adapter_config.json` and no model of its own.

The weights of its base model are loaded from where they are, and the adapter is merged into them.
"""

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.errors import UserError, first_line, install_command
from .builtin_model import model_path
from .download import may_be_hub_id
from .run_folder import ADAPTER_CONFIG, run_recipe


def require_peft() -> ModuleType:
    """The library `peft`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise UserError(f"LoRA needs the package peft: {install_command('peft')}.") from None
    return peft


def adapter_base(folder: Path) -> str:
    """The base model of an adapter: that of its recipe, or else the one that `peft` recorded.

    Raises:
        UserError: if it is not known, or does not exist.
    """
    recipe = run_recipe(folder)
    base = recipe.init_from if recipe is not None else None
    if base is None:
        try:
            base = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{folder / ADAPTER_CONFIG} is damaged: {first_line(error)}.") from None
    if not base:
        raise UserError(f"{folder} is a LoRA adapter, but its {ADAPTER_CONFIG} does not name a base model.")
    if not Path(model_path(base)).exists() and not may_be_hub_id(base):
        raise UserError(
            f"{folder} is a LoRA adapter of {base}, which does not exist: put the base model there, or set "
            f"`base_model_name_or_path` in {folder / ADAPTER_CONFIG} and `init_from` in its recipe.yaml."
        )
    return base


def merge_adapter_into(model: Any, folder: Path) -> Any:
    """The base model `model` with the adapter in `folder` added to its weights.

    Raises:
        UserError: if `peft` is not installed, or the adapter does not fit the model.
    """
    peft = require_peft()
    generation_config = model.generation_config
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls a deprecated method of transformers
            merged = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    except Exception as error:  # damaged and mismatched files raise errors of many types
        raise UserError(f"The adapter in {folder} does not fit its base model: {first_line(error)}.") from None
    merged.generation_config = generation_config
    return merged.eval()
