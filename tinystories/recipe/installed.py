"""The recipes of `configs/`, which are installed with the package and found by name: `quickstart`, `race/5`."""

import difflib
import re
from pathlib import Path

from ..utils.errors import UserError
from ..utils.paths import expand_user, installed_folder
from .settings import MIN_SIMILARITY


def recipe_names() -> list[str]:
    """The names of the installed recipes, such as `quickstart` and `race/5`."""
    folder = installed_folder("configs")
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    return sorted((name for name in names if not name.startswith("accelerate/")), key=_with_numbers)


def _with_numbers(name: str) -> list[str | int]:
    """A sort key that puts race/5 before race/20."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a YAML file, or an installed recipe by its name.

    Raises:
        UserError: if it is neither; the message suggests similar names.
    """
    path = Path(expand_user(str(name)))
    names = recipe_names()
    if path.is_file():
        return path
    if path.as_posix() in names:
        return installed_folder("configs") / f"{path.as_posix()}.yaml"
    if path.is_dir():
        raise UserError(f"{name} is a folder; a recipe is a YAML file, or a name such as {names[0]}.")
    similar = similar_recipes(path.as_posix())
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"the installed recipes are {', '.join(names)}."
    raise UserError(f"There is no recipe {name}; {hint}")


def similar_recipes(name: str) -> list[str]:
    """The installed recipes with names similar to `name`, the most similar first."""
    asked = name.lower().removeprefix("configs/").removesuffix(".yaml")
    return difflib.get_close_matches(asked, recipe_names(), cutoff=MIN_SIMILARITY)


def is_in_recipe_folder(name: str) -> bool:
    """Whether a name begins like that of an installed recipe in a folder, as `race/7` does."""
    folders = {recipe.partition("/")[0] for recipe in recipe_names() if "/" in recipe}
    return name.partition("/")[0] in folders


def recipe_summary(name: str) -> str:
    """One line on a recipe: the first comment of its file."""
    return recipe_path(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
