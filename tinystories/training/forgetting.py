"""The stories that a base model was trained on: measured in each evaluation (`keep_corpus`), mixed in (`replay`)."""

import dataclasses
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.corpus import Corpus, load_texts, recipe_corpus
from ..data.packing import PackedStories, tokenize_stories
from ..data.replay import ReplayedRows
from ..data.streaming import PackedStream
from ..recipe import KEEP_AUTO, Recipe
from ..runs.builtin_model import model_path
from ..runs.run_folder import run_recipe
from ..utils.errors import UserError


# The keys of a recipe that determine its validation stories.
READING = (
    *("corpus", "validation_corpus", "text_column", "split", "skip_bad_rows"),
    *("max_stories", "max_validation_stories", "validation_fraction"),
)
MOST_STORIES = 400  # old validation stories, unless the recipe has another number


def keep_settings(recipe: Recipe) -> dict[str, Any] | None:
    """How the old stories of a recipe are read: with the settings of the base model's own recipe, if it has them.

    Raises:
        UserError: for `auto` without such a recipe.
    """
    asked = recipe.keep_corpus
    if asked is None or isinstance(asked, dict):
        return asked
    folder = Path(model_path(str(recipe.init_from)))
    of_base = run_recipe(folder) if folder.is_dir() else None
    most = recipe.max_validation_stories or MOST_STORIES
    if of_base is not None and asked in (KEEP_AUTO, of_base.corpus):
        settings = {name: getattr(of_base, name) for name in READING}
        return {**settings, "max_validation_stories": min(settings["max_validation_stories"] or most, most)}
    if asked == KEEP_AUTO:
        raise UserError(
            f"`keep_corpus: {KEEP_AUTO}` takes the stories of the base model from its recipe, but {recipe.init_from} "
            f"has no recipe.yaml: name the file or folder of its validation stories."
        )
    reading = {name: getattr(recipe, name) for name in ("text_column", "split", "skip_bad_rows")}
    return {"corpus": asked, **reading, "max_validation_stories": most}


@dataclasses.dataclass
class OldStories:
    """Old stories, and the name of their corpus."""

    name: str
    fingerprint: str
    validation: Dataset
    train: Dataset | None

    def rows(
        self, split: str, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, length: int, seed: int
    ) -> PackedStories:
        """The rows of one split, packed as those of the new stories."""
        stories = self.validation if split == "validation" else self.train
        assert stories is not None
        context = recipe.max_length
        return PackedStories(
            tokenize_stories(stories, tokenizer, f"{self.fingerprint}-{split}", recipe.num_proc),
            context=context,
            overlap=context // 2 if split == "validation" else context // 8,
            pad_token_id=tokenizer.pad_token_id,
            length=length,
            seed=seed,
        )


def load_old_stories(recipe: Recipe) -> OldStories | None:
    """The old stories of a recipe; None without `keep_corpus`.

    All stories of a file without splits are validation stories, unless some are needed for `replay` or the base model
    was trained on the others.

    Raises:
        UserError: if they cannot be loaded.
    """
    settings = keep_settings(recipe)
    if settings is None:
        return None
    if unknown := settings.keys() - {*READING}:
        raise UserError(f"`keep_corpus` has no key {', '.join(sorted(unknown))}; its keys are {', '.join(READING)}.")
    if recipe.replay is None and "validation_fraction" not in settings:
        stories = load_texts(
            settings["corpus"],
            "validation",
            text_column=settings.get("text_column", "text"),
            max_stories=settings.get("max_validation_stories"),
            text_split=settings.get("split", "auto"),
            skip_bad_rows=settings.get("skip_bad_rows", False),
            num_proc=recipe.num_proc,
        )
        return OldStories(Path(settings["corpus"]).name, stories._fingerprint, stories, None)
    corpus: Corpus = recipe_corpus(dataclasses.replace(Recipe(num_proc=recipe.num_proc), **settings))
    assert isinstance(corpus.train, Dataset)
    return OldStories(corpus.name, corpus.fingerprint, corpus.validation, corpus.train)


def with_replay(
    rows: PackedStories | PackedStream,
    old: OldStories | None,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    seed: int,
) -> PackedStories | PackedStream:
    """The rows, mixed with those of old training stories if the recipe says so."""
    if recipe.replay is None or old is None:
        return rows
    assert isinstance(rows, PackedStories)
    return ReplayedRows(
        rows, old.rows("train", tokenizer, recipe, rows.length, seed), fraction=recipe.replay, seed=seed
    )
