"""From a YAML file and a command line to a [`Recipe`], and back."""

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..sizes import SIZES
from ..utils.errors import UserError, first_line
from ..utils.paths import expand_user
from .check import check_recipe
from .installed import recipe_path
from .settings import ALIASES, DERIVED, FROM_BASE, MIN_SIMILARITY, PATHS, SECTIONS, TOP, Key, Recipe, known_keys
from .values import Loader, convert


def load_recipe(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> Recipe:
    """Read a recipe and apply `overrides`.

    Args:
        path: a YAML file, or the name of an installed recipe (`quickstart`).
        overrides: values by key (`{"max_steps": 100, "lr": 1e-3}`), of the recipe, of `TinyLlamaConfig` or of
            `TrainingArguments`; or the arguments of a command line (`["--max_steps", "100"]`).

    Raises:
        UserError: for a file that cannot be read or has no settings, an unknown name or key, or a value of the wrong
            type.
    """
    file = recipe_path(path)
    try:
        # From bytes, PyYAML recognises UTF-16 with a byte order mark, which `>` writes in Windows PowerShell.
        content = yaml.load(file.read_bytes(), Loader)
    except (OSError, yaml.reader.ReaderError) as error:
        raise UserError(f"The recipe {path} cannot be read: {first_line(error)}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place} is not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if content is None or isinstance(content, dict) and all(key in SECTIONS and not content[key] for key in content):
        raise UserError(
            f"{path} has no settings: `tinystories recipes show NAME > my.yaml` copies a recipe that you can edit."
        )
    given = overrides if isinstance(overrides, dict) else parse_overrides(overrides or [])
    return build_recipe(content, given, source=str(path))


def build_recipe(content: dict | None, overrides: dict[str, Any] | None = None, source: str = "the recipe") -> Recipe:
    """A recipe from the content of a YAML file and the values of a command line by key (`model.` may precede it).

    Args:
        source: name of the file, for messages.

    Raises:
        UserError: for an unknown key, a value of the wrong type, or values that contradict each other.
    """
    if not isinstance(content, dict | None):
        raise UserError(f"{source} must contain `key: value` lines, but contains one {type(content).__name__}.")
    hints = known_keys()
    settings: dict[Key, Any] = {}
    for section, name, value in _flat(content or {}, source):
        where = f"{source}, section `{section}`" if section else source
        key = _find_key(name, section, hints, where)
        if key in settings:
            raise UserError(f"{source}: `{key[1]}` is set twice, under two names: remove one of them.")
        settings[key] = convert(value, hints[key], f"`{'.'.join(filter(None, key))}`")
    given: dict[Key, Any] = {}
    for option, text in (overrides or {}).items():
        section, dot, name = option.rpartition(".")
        if dot and section not in SECTIONS:
            raise UserError(f"--{option}: there is no section `{section}`; the sections are {' and '.join(SECTIONS)}.")
        key = _find_key(name, section if dot else None, hints, f"--{option}")
        given[key] = convert(text, hints[key], f"`--{name}`")
    _drop_replaced(settings, given)
    settings |= given
    _apply_size(settings)
    if settings.get((TOP, "init_from")) is not None:
        for name, value in FROM_BASE.items():
            settings.setdefault((TOP, name), value)
    for key in PATHS:
        if isinstance(settings.get(key), str):
            settings[key] = expand_user(settings[key])
    parts: dict[str, dict[str, Any]] = {section: {} for section in (TOP, *SECTIONS)}
    for (section, name), value in settings.items():
        parts[section][name] = value
    recipe = Recipe(**parts[TOP], model=parts["model"], trainer=parts["trainer"])
    check_recipe(recipe)
    return recipe


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--key value`, `--key=value` and `--flag` to a dict of strings; dashes and underscores are the same in a key.

    Raises:
        UserError: for an argument that is not an option.
    """
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"Unexpected argument {argument!r}: write settings as `--key value`.")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, dot, name = key.replace("-", "_").rpartition(".")
        if name == "one_story_per_file" and not dot:
            name, value = "split", "file" if convert(value, bool, f"`--{name}`") else "auto"
        values[section + dot + ALIASES.get(name, name)] = value
    return values


def save_recipe(recipe: Recipe, path: str | Path, comment: str = "") -> None:
    """Write the recipe as YAML that [`load_recipe`] reads back, after the lines of a comment."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    content = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
    Path(path).write_text(lines + content, "utf-8")


def _flat(content: dict, source: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in content.items():
        if key not in SECTIONS:
            yield TOP, key, value
        elif isinstance(value, dict | None):
            yield from ((key, name, inner) for name, inner in (value or {}).items())
        else:
            raise UserError(f"{source}: `{key}` is a section and must contain indented `key: value` lines.")


def _find_key(name: Any, section: str | None, hints: dict[Key, Any], where: str) -> Key:
    """The key `name` of `section`, or of any section if that is None.

    Raises:
        UserError: for a key that does not exist there; it names a similar one.
    """
    name = ALIASES.get(name, name)
    sections = (TOP, *SECTIONS)
    for key in ((place, name) for place in (sections if section is None else [section])):
        if key in hints:
            return key
    if name in DERIVED:
        raise UserError(
            f"{where}: `{name}` cannot be set: it follows from the keys `tokenizer`, `vocab_size` and `max_length`."
        )
    for place in sections:
        if (place, name) in hints:
            there = f"the section `{place}`" if place else "the top level of the recipe"
            raise UserError(f"{where}: `{name}` belongs to {there}.")
    raise UserError(f"{where}: there is no setting `{name}`; {_key_hint(str(name), section, hints)}")


def _key_hint(name: str, section: str | None, hints: dict[Key, Any]) -> str:
    """A similar key, in `section` if there is one; otherwise where the keys are described."""
    for places in ([section], (TOP, *SECTIONS)):
        names = {known: place for place, known in hints if place in places or section is None}
        if similar := difflib.get_close_matches(name, names, n=1, cutoff=MIN_SIMILARITY):
            place = names[similar[0]]
            where = "" if section in (None, place) else f" in section `{place}`" if place else " at the top level"
            return f"did you mean `{similar[0]}`{where}?"
    return {
        "model": "the keys of this section are the fields of `TinyLlamaConfig`.",
        "trainer": "the keys of this section are the fields of `TrainingArguments`.",
    }.get(section or TOP, "`tinystories train --help` lists the keys of a recipe.")


def _drop_replaced(settings: dict[Key, Any], given: dict[Key, Any]) -> None:
    """Remove the size, length, optimizer or schedule of a file that the command line replaces by another."""
    dropped: list[Key] = []
    if (TOP, "size") in given:
        shape = (*next(iter(SIZES.values())), "head_dim", "num_key_value_heads", "initializer_range")
        dropped += [(TOP, "vocab_size"), *(("model", name) for name in shape)]
    schedule = ("trainer", "lr_scheduler_type")
    if schedule in given and given[schedule] != settings.get(schedule):
        dropped.append(("trainer", "lr_scheduler_kwargs"))
    # `max_steps` takes precedence over epochs, and `max_minutes` over both.
    if ("trainer", "max_steps") in given or ("trainer", "num_train_epochs") in given:
        dropped.append((TOP, "max_minutes"))
    if ("trainer", "num_train_epochs") in given:
        dropped.append(("trainer", "max_steps"))
    if ("trainer", "optim") in given:
        dropped.append((TOP, "optimizer"))
    for key in dropped:
        settings.pop(key, None)


def _apply_size(settings: dict[Key, Any]) -> None:
    asked = settings.get((TOP, "size"))
    if asked is None:
        return
    size = "".join(asked.lower().split()).removesuffix("m") + "m"
    if size not in SIZES:
        raise UserError(f"There is no `size` {asked}; the sizes are {', '.join(SIZES)}.")
    settings[TOP, "size"] = size
    for name, value in SIZES[size].items():
        settings.setdefault((TOP if name == "vocab_size" else "model", name), value)
