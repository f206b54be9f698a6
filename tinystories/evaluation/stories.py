"""The stories that models are evaluated on, and those that they were trained on."""

import dataclasses
import glob
import random
from collections.abc import Sequence
from pathlib import Path

from ..data.corpus import load_texts, recipe_corpus
from ..recipe import Recipe
from ..runs.run_folder import run_recipe
from ..text.sentences import sentence_spans
from ..utils.errors import UserError
from .text_statistics import slice_words, words


MAX_TRAINING_STORIES = 100_000  # searched for copied text; about 90 MB


def held_out_stories(
    paths: Sequence[str], corpus: str | None = None, limit: int | None = None, **reading
) -> tuple[str, list[str]]:
    """Name and texts of the first `limit` held-out stories of `corpus`, by default those of the models' recipes.

    Args:
        reading: options of [`load_texts`] for `corpus`.

    Raises:
        UserError: if they cannot be loaded, or the recipes have different ones.
    """
    if corpus is not None:
        found = load_texts(corpus, "validation", max_stories=limit, **reading)
        return Path(corpus).name if Path(corpus).exists() else corpus, found["text"][:]
    recipes: dict[tuple, tuple[str, Recipe]] = {}
    for path in paths:
        if recipe := run_recipe(path):
            recipes.setdefault((*_source(recipe), recipe.max_validation_stories), (path, recipe))
    if len(recipes) > 1:
        named = " and ".join(f"{path} ({recipe.corpus})" for path, recipe in list(recipes.values())[:2])
        raise UserError(f"{named} have different held-out stories: specify the stories to evaluate on with --corpus.")
    path, recipe = next(iter(recipes.values()), ("", Recipe()))
    most = smaller(recipe.max_validation_stories, limit)
    try:
        found = recipe_corpus(dataclasses.replace(recipe, max_validation_stories=most))
    except UserError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"The held-out stories of {path} cannot be loaded: {reason}. Specify others with --corpus."
        ) from None
    return found.name, found.validation["text"][:]


class TrainingStories:
    """The training stories of models; the last ones are kept in memory for the next checkpoint of the same run.

    Args:
        corpus: training stories of all models; by default those of each model's recipe.
        reading: options of [`load_texts`] for `corpus`.
    """

    def __init__(self, corpus: str | None, reading: dict):
        self._corpus = corpus
        self._key: tuple = ()
        self._texts: list[str] = []
        if corpus is not None:
            self._texts = load_texts(corpus, max_stories=MAX_TRAINING_STORIES, **reading)["text"][:]

    def of(self, path: str) -> tuple[str, list[str]]:
        """Name and texts of the training stories of the model in `path`.

        Raises:
            UserError: if they are not on this machine.
        """
        if self._corpus is not None:
            return self._corpus, self._texts
        recipe = run_recipe(path)
        if recipe is None:
            raise UserError("the run has no recipe.yaml, so its training stories are not known")
        source = recipe.corpus
        if source != "sample" and not Path(source).expanduser().exists() and not glob.has_magic(source):
            raise UserError(f"the training stories of the run ({source}) are not on this machine")
        key = (*_source(recipe), recipe.max_stories)
        if key != self._key:
            most = smaller(recipe.max_stories, MAX_TRAINING_STORIES)
            found = recipe_corpus(dataclasses.replace(recipe, max_stories=most, streaming=False))
            self._texts, self._key = found.train["text"][:], key
        return source, self._texts


def _source(recipe: Recipe) -> tuple:
    reading = recipe.text_column, recipe.split, recipe.skip_bad_rows
    return recipe.corpus, recipe.validation_corpus, recipe.validation_fraction, *reading


def smaller(one: int | None, other: int | None) -> int | None:
    """The smaller of two limits; None is no limit."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


def shuffled_words(stories: Sequence[str], seed: int = 0) -> list[str]:
    """Each story with its words in random order, their punctuation attached."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(pieces, len(pieces))) for pieces in map(str.split, stories)]


def shuffled_sentences(stories: Sequence[str], seed: int = 0) -> list[str]:
    """Each story with its sentences in random order, their words unchanged: correct grammar without coherence.

    White space stays between the places; text after the last sentence stays at the end.
    """
    rng = random.Random(seed)
    shuffled = []
    for story in stories:
        spans = sentence_spans(story)
        sentences = [story[start:end] for start, end in spans]
        gaps = [
            story[end:start]
            for end, start in zip([0, *(end for _, end in spans)], [*(start for start, _ in spans), None], strict=True)
        ]
        mixed = [*rng.sample(sentences, len(sentences)), ""]
        shuffled.append("".join(gap + sentence for gap, sentence in zip(gaps, mixed, strict=True)))
    return shuffled


def real_stories_of_same_length(
    stories: Sequence[str], prompts: Sequence[str], completions: Sequence[str], seed: int = 0
) -> list[str] | None:
    """For each completion, a passage of a real story with the same number of words.

    A passage starts after as many words as the prompt has. Each story is used once; it is drawn from those that are
    long enough, or is the longest remaining one.

    Returns:
        One passage per completion; None if there are fewer stories than completions.
    """
    if len(stories) < len(completions):
        return None
    lengths = [len(words(story)) for story in stories]
    skipped, wanted = ([len(words(text)) for text in texts] for texts in (prompts, completions))
    left = random.Random(seed).sample(range(len(stories)), len(stories))
    chosen = {}
    for place in sorted(range(len(wanted)), key=lambda place: -skipped[place] - wanted[place]):
        needed = skipped[place] + wanted[place]
        story = next((story for story in left if lengths[story] >= needed), None)
        story = max(left, key=lengths.__getitem__) if story is None else story
        left.remove(story)
        chosen[place] = slice_words(stories[story], skipped[place], needed)
    return [chosen[place] for place in range(len(wanted))]
