"""`tinystories recipes`: list the installed recipes, or print one."""

import argparse

from ..recipe import recipe_names, recipe_path, recipe_summary
from .arguments import add_examples


EXAMPLES = """
tinystories recipes                               # list them
tinystories recipes show quickstart               # print one, comments included
tinystories recipes show race/5 > my-recipe.yaml  # copy one, to edit it
"""
SHOW_EXAMPLES = """
tinystories recipes show quickstart
tinystories recipes show tinystories-3m > my-recipe.yaml
tinystories recipes show race/60
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="<action>", dest="action")
    show = actions.add_parser("show", help="print a recipe, comments included", description="Print a recipe.")
    show.add_argument("name", help="name of an installed recipe")
    add_examples(show, SHOW_EXAMPLES)


def run(options: argparse.Namespace) -> None:
    if options.action == "show":
        print(recipe_path(options.name).read_text(encoding="utf-8"), end="")
        return
    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {recipe_summary(name)}")
