"""A recipe: one YAML file, overridden by the command line, that becomes a [`Recipe`].

- The recipes in `configs/` are installed with the package and found by name: `quickstart`, `race/5`.
- Keys of this package are at the top level. The sections `model` and `trainer` hold fields of `TinyLlamaConfig` and of
  transformers' `TrainingArguments` under their own names.
- On the command line the name alone is enough (`--learning_rate 1e-3`), and some have a short one (`ALIASES`).
- `model` and `trainer` hold only what is given, since further defaults depend on it (`training/arguments.py`).
  `HfArgumentParser` cannot tell a given value from a default, and has no `null`, `auto` or lists in YAML.
"""

from .build import build_recipe, load_recipe, parse_overrides, save_recipe
from .check import check_recipe
from .installed import is_in_recipe_folder, recipe_names, recipe_path, recipe_summary, similar_recipes
from .settings import (
    ALIASES,
    DERIVED,
    FROM_BASE,
    KEEP_AUTO,
    SECTIONS,
    SHORT_NAMES,
    KeyReference,
    Recipe,
    known_keys,
    recipe_reference,
)


__all__ = [
    "build_recipe",
    "load_recipe",
    "parse_overrides",
    "save_recipe",
    "check_recipe",
    "is_in_recipe_folder",
    "recipe_names",
    "recipe_path",
    "recipe_summary",
    "similar_recipes",
    "ALIASES",
    "DERIVED",
    "FROM_BASE",
    "KEEP_AUTO",
    "SECTIONS",
    "SHORT_NAMES",
    "KeyReference",
    "Recipe",
    "known_keys",
    "recipe_reference",
]
