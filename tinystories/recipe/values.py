"""Values of a recipe, from YAML or the command line, converted to the types of its keys."""

import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import yaml
from huggingface_hub.dataclasses import type_validator

from ..utils.errors import UserError


class Loader(yaml.SafeLoader):
    """PyYAML's loader, which also reads numbers such as 5e-4, without point or sign, as numbers."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def convert(value: Any, hint: Any, name: str) -> Any:
    """`value` converted to a type that `hint` allows.

    Raises:
        UserError: if no conversion has such a type.
    """
    for reading in _readings(value):
        try:
            type_validator(name, reading, hint)
        except TypeError:
            continue
        return reading
    if value is None or value in ("", "~", "null", "true"):  # an option without a value is "true"
        raise UserError(f"{name} needs a value ({type_name(hint)}).")
    examples = {dict: ", such as '{key: value}'", list: ", such as '[a, b]'"}
    missing = (kind for kind in examples if kind in _origins(hint) and not isinstance(value, kind))
    example = next((examples[kind] for kind in missing), "")
    raise UserError(f"{name} must be {type_name(hint)}{example}, but is {value!r}.")


def _origins(hint: Any) -> list[Any]:
    """The types of a hint, without their parameters."""
    return [typing.get_origin(part) or part for part in (*typing.get_args(hint), hint)]


def _readings(value: Any) -> Iterator[Any]:
    """The possible meanings of a value of a file or command line, the most likely first."""
    if isinstance(value, str) and not value.lstrip().startswith("#"):
        try:
            parsed = yaml.load(value, Loader)
        except yaml.YAMLError:
            parsed = value
        yield parsed
        yield value
        value = parsed
    else:
        yield value
    if isinstance(value, bool):
        yield "true" if value else "no"  # YAML reads `eval_strategy: no` as false
    elif isinstance(value, (int, float)):
        yield float(value)
        if float(value).is_integer():
            yield int(value)
        yield str(value)


def type_name(hint: Any) -> str:
    """A type hint in words, such as `int or null`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is list:
        return f"list of {type_name(parts[0])}"
    if isinstance(hint, type) and issubclass(hint, str):
        return "str"  # transformers' enumerations
    return "null" if hint is type(None) else (origin or hint).__name__
