"""Build a release folder from a run: weights, tokenizer, code, model card, loss plot and recipe.

- It contains nothing private: folders, run names and tokens are removed from the recipe, and `training_args.bin`, a
  pickle of all arguments, is not copied.
- Weights must be complete: transformers initialises missing ones at random and only warns.
- Of a run with LoRA, the merged model is released, and the adapter in a subfolder.
- Additional formats are exported from the release, so that all of them share its `generation_config.json`.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..export.merge import merge
from ..export.stock import export_stock, target_of
from ..export.verify import load_run
from ..generation.generate import default_new_tokens, generate_story, preset_config
from ..runs.metadata import RunMetadata, read_run_metadata
from ..runs.run_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LOSS_PLOT,
    RECIPE,
    find_recipe,
    is_adapter,
    require_run_folder,
)
from ..utils.errors import UserError, first_line
from .model_card import model_card
from .verification import PROMPT, expected_output


SEED = 1
FORMATS = ("llama", "gguf", "onnx")
ADAPTER = "adapter"  # subfolder of a LoRA adapter; the model itself is the merged one
# Settings of a recipe that concern only the publisher's machine or accounts.
_PRIVATE = re.compile(r"output_dir|logging_dir|run_name|project|resume|report_to|hub_|push_to_hub|token$|disable_tqdm")


class Format(NamedTuple):
    """A format of a release that transformers can load."""

    label: str
    subfolder: str
    trust_remote_code: bool


@dataclass
class Release:
    """A folder that is ready to be published.

    Attributes:
        name: of the run or checkpoint.
        metadata: the source of the model card.
        formats: those that transformers can load.
        expected: the output that each of them must reproduce (see `verification.expected_output`).
    """

    folder: Path
    name: str
    metadata: RunMetadata
    formats: list[Format]
    expected: dict[str, Any] = field(repr=False)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path in the release."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


def check_run(run: str | Path) -> Path:
    """Check that a path is a run folder or checkpoint with weights and a tokenizer, and return it.

    Raises:
        UserError: if it is not.
    """
    run = Path(run)
    require_run_folder(run)
    if not any(run.glob("*.safetensors")):
        raise UserError(f"{run} has no weights (model.safetensors): specify the folder of a finished run.")
    if not (run / "tokenizer.json").is_file():
        raise UserError(
            f"{run} has no tokenizer (tokenizer.json), without which the model cannot be used: copy the tokenizer "
            f"that it was trained with into the folder."
        )
    return run


def check_formats(include: Sequence[str]) -> None:
    """Check that the requested formats exist and that the packages they need are installed.

    Raises:
        UserError: if not.
    """
    for name in include:
        if name not in FORMATS:
            raise UserError(f"--include does not accept {name!r}: choose from {', '.join(FORMATS)}.")
        if name != "llama":
            import_module(f"..export.{name}", __package__)  # raises if a package is missing


def build_release(
    run: str | Path,
    folder: Path,
    repo_id: str,
    *,
    include: Sequence[str] = (),
    revision: str | None = None,
    license: str | None = None,
) -> Release:
    """Write the release of a run or checkpoint to the new folder `folder`.

    Args:
        repo_id: where it will be published.
        include: additional formats, any of `FORMATS`.
        revision: branch that it will be published on; main by default.
        license: of the model, for the card.

    Raises:
        UserError: if the run cannot be released, or not in one of these formats.
    """
    run = check_run(run)
    check_formats(include)
    if is_adapter(run):
        with tempfile.TemporaryDirectory(prefix="tinystories-merged-") as scratch:
            merged = merge(run, Path(scratch) / run.resolve().name).folder
            release = build_release(merged, folder, repo_id, include=include, revision=revision, license=license)
        _copy_adapter(run, folder / ADAPTER, release.metadata.base.get("hub_id"))
        return release
    model, tokenizer = load_run(run)
    metadata, recipe = read_run_metadata(run, model), public_recipe(run)
    if not model.generation_config.do_sample:
        max_new_tokens = default_new_tokens(model.config.max_position_embeddings)
        model.generation_config = preset_config("balanced", tokenizer, max_new_tokens=max_new_tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    formats = [Format("the model", "", trust_remote_code=True)]
    subfolders = {}
    for name in dict.fromkeys(include):
        subfolders[name] = target_of(model.config) if name == "llama" else name
        _export(name, run, folder, folder / subfolders[name])
        if name == "llama":
            formats.append(Format(f"the {subfolders[name]} format", subfolders[name], trust_remote_code=False))

    if not metadata.samples:
        prompts = (PROMPT, "One day, a little girl named Lily")
        metadata.samples = [{"prompt": p, "text": generate_story(model, tokenizer, p, seed=SEED)} for p in prompts]
        metadata.samples_by = (
            f"Generated with the settings of `generation_config.json` and seed {SEED}, first attempt."
        )
    loss_plot = (run / LOSS_PLOT).is_file()
    if loss_plot:
        shutil.copyfile(run / LOSS_PLOT, folder / LOSS_PLOT)
    if recipe:
        (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")
    card = model_card(metadata, repo_id, subfolders, loss_plot=loss_plot, revision=revision, license=license)
    card.save(folder / "README.md")
    return Release(folder, run.resolve().name, metadata, formats, expected_output(model, tokenizer))


def _copy_adapter(run: Path, out: Path, base: str | None) -> None:
    """Copy the adapter of a run, without the path of its base model on this machine."""
    out.mkdir()
    shutil.copyfile(run / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    config = json.loads((run / ADAPTER_CONFIG).read_text("utf-8"))
    config["base_model_name_or_path"] = base
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _export(name: str, run: Path, release: Path, out: Path) -> None:
    if name == "llama":
        export_stock(release, out)
    elif name == "gguf":
        from ..export.gguf import export_gguf

        # From the run, because the name of the source becomes the name in the file.
        export_gguf(run, out / f"{run.resolve().name}-f16.gguf")
    else:
        from ..export.onnx import export_onnx

        export_onnx(release, out)


def public_recipe(run: Path) -> dict[str, Any] | None:
    """Return the recipe of a run or of a checkpoint's run without local folders, run names and tokens.

    Raises:
        UserError: if the recipe cannot be read.
    """
    path = find_recipe(run)
    if path is None:
        return None
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from None
    if not isinstance(recipe, dict):
        raise UserError(f"{path} is not a recipe: it must contain `key: value` lines.")
    recipe["trainer"] = recipe.get("trainer") or {}
    keep = recipe.get("keep_corpus")
    for section in (recipe, recipe["trainer"], *([keep] if isinstance(keep, dict) else [])):
        for name, value in list(section.items()):
            if _PRIVATE.search(name):
                del section[name]
            elif isinstance(value, str) and (value.startswith(("/", "~")) or Path(value).exists()):
                section[name] = Path(value).name
    return recipe
