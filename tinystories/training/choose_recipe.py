"""Choose the recipe of `tinystories train TEXT --minutes M`: read the stories, measure the machine, make the plan.

`training/plan.py` has the rules, without reading or measuring anything.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..data.corpus import recipe_corpus, training_stories
from ..generation.prompts import openings
from ..recipe import ALIASES, Recipe, build_recipe
from ..utils.errors import UserError
from .arguments import training_arguments
from .fine_tuning import BaseModel, complete_recipe
from .fine_tuning_plan import FineTuningPlan, make_fine_tuning_plan
from .plan import Plan, Shape, Text, bytes_per_token_for, make_plan
from .resume import checkpoint_to_resume
from .speed import Measurement, measure_speed


SAMPLE_STORIES = 1_000  # read for the measurement
PROMPTS = 3


AnyPlan = Plan | FineTuningPlan


class ChosenRecipe(NamedTuple):
    """A recipe, the plan that it was made from, and which settings of the user replaced those of the plan."""

    recipe: Recipe
    plan: AnyPlan
    replaced: list[str]


def check_settings(source: str, given: dict[str, str]) -> Recipe:
    """The settings of the user as a recipe, checked before the stories are read.

    Args:
        source: file, folder, glob or Hub id of the stories, or `sample`.
        given: settings of the command line by key, `max_minutes` among them.

    Raises:
        UserError: for settings that training cannot use, or an output folder with a run.
    """
    asked = build_recipe({"corpus": source}, given)
    assert asked.max_minutes is not None
    if length := next((name for name in ("max_steps", "num_train_epochs") if name in asked.trainer), None):
        raise UserError(f"--minutes sets the length of training: remove --{length}.")
    if asked.streaming:
        raise UserError(
            "--streaming needs a recipe: without one, the settings are chosen from the size of the whole text."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "With several processes, use a recipe. A run in one process writes one to its run folder: "
            "`tinystories train RUN/recipe.yaml`."
        )
    first = build_recipe(_base(source, given), given)
    checkpoint_to_resume(training_arguments(first), first)  # checks the output folder before any work
    return asked


def choose_recipe(source: str, given: dict[str, str], asked: Recipe, base: BaseModel | None = None) -> ChosenRecipe:
    """Choose the recipe for stories and a number of minutes.

    Args:
        source: file, folder, glob or Hub id of the stories, or `sample`.
        given: settings of the command line by key, `max_minutes` among them; they replace those of the plan.
        asked: the same settings, from `check_settings`.
        base: the model to fine-tune, that of `asked.init_from`.

    Raises:
        UserError: for settings or stories that training cannot use.
    """
    start = _base(source, given)
    if base is not None:
        complete_recipe(asked, base)  # refuses a contradiction before the stories are read
    with _quiet():
        stories, has_validation = training_stories(asked)
        text = _describe(stories, has_validation)
        plan: AnyPlan
        if base is None:
            plan = _measured_plan(text, asked, start, given, stories)
        else:
            plan = _fine_tuning_plan(text, asked, base, start, given, stories)
        recipe = build_recipe(_content(plan, start, given), given)
        corpus = recipe_corpus(recipe)
        if "prompts" not in given and recipe.template is None:
            prompts = list(islice(openings(corpus.validation[: 10 * PROMPTS]["text"]), PROMPTS))
            recipe = dataclasses.replace(recipe, prompts=prompts)
    return ChosenRecipe(recipe, plan, _replaced(plan, given, recipe))


def _base(source: str, given: dict[str, str]) -> dict[str, Any]:
    return {"corpus": source, "trainer": {"output_dir": str(run_folder_for(source, given))}}


def run_folder_for(source: str, given: dict[str, str]) -> Path:
    """The run folder: that of the user, or one in `runs` with the name of the stories."""
    return Path(given.get("output_dir", f"runs/{_run_name(source)}"))


def _measured_plan(text: Text, asked: Recipe, base: dict, given: dict[str, str], stories: Dataset) -> Plan:
    """A plan with the measured speed of its own shape, or of the last shape that was measured."""
    sample = stories.select(range(min(len(stories), SAMPLE_STORIES)))
    gpu = training_arguments(asked).device.type == "cuda"
    assert asked.max_minutes is not None
    planned = partial(
        make_plan,
        text,
        asked.max_minutes,
        gpu=gpu,
        fixed_shape=_fixed_shape(asked),
        vocab_size=_fixed_vocabulary(asked, given),
    )
    plan = planned()
    for _ in range(2):
        measured: Measurement = measure_speed(build_recipe(_content(plan, base, given), given), sample)
        shape = plan.shape
        plan = planned(measured.speed, bytes_per_token=measured.bytes_per_token)
        if plan.shape == shape:
            break
    return plan


def _fine_tuning_plan(
    text: Text, asked: Recipe, base: BaseModel, start: dict, given: dict[str, str], stories: Dataset
) -> FineTuningPlan:
    assert asked.max_minutes is not None
    config = base.config
    planned = partial(
        make_fine_tuning_plan,
        text,
        asked.max_minutes,
        model=base.name,
        shape=Shape(**{name: getattr(config, name) for name in Shape._fields}),
        vocab_size=config.vocab_size,
        context=asked.max_length or config.max_position_embeddings,
    )
    sample = stories.select(range(min(len(stories), SAMPLE_STORIES)))
    recipe = build_recipe(_content(planned(None, bytes_per_token=bytes_per_token_for(4_096)), start, given), given)
    measured = measure_speed(complete_recipe(recipe, base), sample, base)
    return planned(measured.speed, bytes_per_token=measured.bytes_per_token)


def _content(plan: AnyPlan, base: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    content = plan.recipe()
    if "max_length" in given:
        # The row length that was planned may be too short for it.
        del content["row_length"]
    return {**base, **content, "trainer": {**base["trainer"], **content["trainer"]}}


def _fixed_shape(asked: Recipe) -> Shape | None:
    """The shape that the user chose, if all of it is given."""
    if not all(isinstance(asked.model.get(name), int) for name in Shape._fields):
        return None
    return Shape(**{name: asked.model[name] for name in Shape._fields})


def _fixed_vocabulary(asked: Recipe, given: dict[str, str]) -> int | None:
    return asked.vocab_size if {"vocab_size", "size"} & given.keys() else None


def _describe(stories: Dataset, has_validation: bool) -> Text:
    table = stories.with_format("arrow")
    lengths = np.concatenate([pc.binary_length(batch["text"]).to_numpy() for batch in table.iter(batch_size=10_000)])
    return Text.of(lengths, has_validation)


def _run_name(source: str) -> str:
    """The name of the run folder: that of the file, folder or dataset."""
    path = Path(source.partition("@")[0].partition(":")[0] if not Path(source).exists() else source)
    name = path.resolve().name if path.exists() else path.name
    stem = name.split(".")[0] or name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-") or "stories"


def _replaced(plan: AnyPlan, given: dict[str, str], recipe: Recipe) -> list[str]:
    """The settings of the plan that the user's settings replaced, such as `hidden_size 256 (planned: 128)`."""
    content, replaced = plan.recipe(), []
    planned = {**content, **content["model"], **content["trainer"]}
    values = {**dataclasses.asdict(recipe), **recipe.model, **recipe.trainer}
    for option in given:
        name = option.rpartition(".")[2]
        name = ALIASES.get(name, name)
        if name in planned and name != "max_minutes" and values.get(name) != planned[name]:
            replaced.append(f"{name} {values.get(name)} (planned: {planned[name]})")
    return replaced


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log below errors: training reads the same stories again and reports on them."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if shown:
            enable_progress_bar()
