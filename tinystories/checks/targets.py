"""Detect what TARGET is (stories, a tokenizer, a recipe, a run or a model), and load its recipe, corpus and model."""

import dataclasses
import glob
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.corpus import Corpus, recipe_corpus
from ..data.sources.files import may_hold_stories
from ..recipe import Recipe, is_in_recipe_folder, load_recipe, recipe_names, similar_recipes
from ..runs.download import may_be_hub_id
from ..runs.loading import load_model, load_tokenizer
from ..runs.run_folder import RECIPE, TRAINER_STATE, find_checkpoints, is_adapter, run_recipe
from ..utils.errors import UserError


# Settings that depend on the environment of a training run and are not needed to check it.
ENVIRONMENT = ("fsdp", "fsdp_config", "deepspeed", "ddp_backend", "push_to_hub", "hub_token", "report_to")
MODEL_FILES = ("config.json", TRAINER_STATE, RECIPE)


def require_target(target: str) -> None:
    """Check that a target exists, or may be a model on the Hub.

    Raises:
        UserError: if not; the message names similar recipes.
    """
    if is_recipe(target) or is_corpus(target) or Path(target).exists():
        return
    similar = similar_recipes(target)
    if may_be_hub_id(target) and not (similar and is_in_recipe_folder(target)):
        return
    hint = (
        f"did you mean the recipe {' or '.join(similar)}?"
        if similar
        else "specify a recipe, a run folder, a model, a tokenizer or stories."
    )
    raise UserError(f"There is no file, folder or recipe {target}; {hint}")


def is_recipe(target: str) -> bool:
    """Whether a target names a recipe: a YAML file, or an installed recipe, unless something else has that name."""
    path = Path(target)
    return path.suffix in (".yaml", ".yml") or (not path.exists() and path.as_posix() in recipe_names())


def is_tokenizer(path: Path) -> bool:
    """Whether a folder holds a tokenizer and no model, no run and no recipe."""
    has_tokenizer = (path / "tokenizer.json").is_file()
    return has_tokenizer and not any((path / name).exists() for name in MODEL_FILES) and not find_checkpoints(path)


def is_corpus(target: str) -> bool:
    """Whether a target names stories: `sample`, a file of them, or a folder that holds such files and no model."""
    path = Path(target)
    if target == "sample" or glob.has_magic(target) or (path.is_file() and may_hold_stories(path)):
        return True
    has_model = is_adapter(path) or any((path / name).exists() for name in (*MODEL_FILES, "tokenizer.json"))
    return path.is_dir() and not has_model and may_hold_stories(path)


def corpus_of(target: str, corpus: str | None, **reading: Any) -> Corpus:
    """The corpus of a target, for cleaning; read as [`examine`] reads it.

    Args:
        corpus: replaces that of the target.
        reading: `text_column`, `split` and `skip_bad_rows`; None for the values of the recipe.

    Raises:
        UserError: if the target has no corpus.
    """
    require_target(target)
    recipe: Recipe | None
    if corpus is not None or is_corpus(target):
        recipe, corpus = Recipe(), corpus or target
    else:
        recipe = load_recipe(target) if is_recipe(target) else run_recipe(target)
    if recipe is None:
        raise UserError(f"{target} has no recipe, so its stories are not known: specify them with --corpus.")
    return recipe_corpus(with_corpus(dataclasses.replace(recipe, streaming=False), corpus, reading))


def special_tokens_of(target: str, tokenizer: str | None) -> list[str]:
    """The special tokens of a target's tokenizer, whose names cleaning removes from stories."""
    if tokenizer is None and is_recipe(target):
        tokenizer = load_recipe(target).tokenizer
    elif tokenizer is None and (Path(target) / "tokenizer.json").is_file():
        tokenizer = target
    return [] if tokenizer is None else load_tokenizer(tokenizer, as_saved=True).all_special_tokens


def with_corpus(recipe: Recipe, corpus: str | None, reading: dict[str, Any]) -> Recipe:
    """The recipe with another corpus and other reading options, if they are not None."""
    changes = {name: value for name, value in reading.items() if value is not None}
    if corpus is not None:
        changes |= {"corpus": corpus, "validation_corpus": None}
    return dataclasses.replace(recipe, **changes)


def local_recipe(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe without the settings in `ENVIRONMENT`.

    Args:
        settings: of the trainer; they replace those of the recipe.
    """
    kept = {name: value for name, value in recipe.trainer.items() if name not in ENVIRONMENT}
    return dataclasses.replace(recipe, trainer={**kept, "report_to": "none", **settings})


def load_target(path: str, tokenizer: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in a folder or on the Hub, and its tokenizer as it was saved, or the one in `tokenizer`.

    Raises:
        UserError: if it cannot be loaded.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").exists() and not is_adapter(folder):
        if checkpoints := find_checkpoints(folder):
            raise UserError(f"{folder} has no finished model, only checkpoints: specify {checkpoints[0]}.")
        if not any((folder / name).exists() for name in MODEL_FILES):
            raise UserError(f"{folder} contains neither stories nor a model: specify another folder, or a file.")
    return load_model(path, tokenizer=tokenizer, as_saved=True)
