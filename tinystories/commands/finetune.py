"""`tinystories finetune`: `tinystories train` from the weights of a trained model, by default the built-in one."""

import argparse

from ..recipe import load_recipe, parse_overrides
from ..runs.builtin_model import BUILTIN
from ..utils.paths import expand_user
from . import train
from .train import FINE_TUNING, describe_keys, names_stories, take_rest


__all__ = ["EXAMPLES", "add_arguments", "run", "take_rest"]

EXAMPLES = """
tinystories finetune my_stories.txt --minutes 2                        # the built-in model
tinystories finetune my_stories.txt --init_from runs/quickstart        # with the recipe `finetune`
tinystories finetune my_stories.txt --init_from you/model --epochs 2   # a Llama or Phi-3 on the Hub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fine-tune a trained model on other stories: `tinystories train` with --init_from. With --minutes, the "
        "settings are chosen for the stories and the time; otherwise they are those of the recipe `finetune`. Every "
        "key of the recipe and of TrainingArguments is also an option."
    )
    parser.usage = "%(prog)s [-h] <stories or recipe> [--init_from MODEL] [--key value ...]"
    parser.epilog = describe_keys()
    parser.add_argument(
        "recipe",
        type=expand_user,
        metavar="stories or recipe",
        help="a file or folder of stories, a dataset id on the Hub, or sample; or a recipe",
    )
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    given = parse_overrides(options.overrides)
    timed = {"max_minutes": "1", **given}
    is_stories = names_stories(options.recipe, timed)
    if is_stories and "max_minutes" not in given:
        options.overrides += ["--corpus", options.recipe]
        options.recipe = FINE_TUNING
    elif "init_from" not in given and (is_stories or load_recipe(options.recipe, given).init_from is None):
        options.overrides += ["--init_from", BUILTIN]
    train.run(options)
