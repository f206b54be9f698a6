"""Sampling settings by name, their ranges, and the length of a completion. Imports neither torch nor transformers."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.errors import UserError


PRESETS: dict[str, dict[str, Any]] = {
    "balanced": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
    "conservative": {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    "creative": {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "repetition_penalty": 1.1},
    # A repetition penalty also lowers the probability of a character's name: the smallest models then switch names.
    "plain": {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.0},
}
GREEDY = "greedy"  # greedy decoding; accepted wherever a preset is named
GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0")
MIN_TEMPERATURE = 0.01  # a lower temperature means greedy decoding

SAMPLING: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 2, "from 0 to 2"),
    "top_k": (lambda value: 0 <= value < 2**31, "0 or more"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "repetition_penalty": (lambda value: 1 <= value <= 2, "from 1 to 2"),
}


@dataclass(frozen=True)
class SamplingSettings:
    """The sampling settings of `generate()`; the defaults are those of `generate()`. A `top_k` of 0 is off."""

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @classmethod
    def from_preset(cls, preset: str) -> "SamplingSettings":
        """Raises `UserError` for an unknown preset."""
        check_preset(preset)
        return cls(do_sample=preset != GREEDY, **PRESETS.get(preset, {}))

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> "SamplingSettings":
        """The settings in a `generation_config.json`, or "balanced" if it does not sample."""
        if not config.get("do_sample"):
            return cls.from_preset("balanced")
        given = {field.name: config.get(field.name) for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def replace(self, **changes: float | None) -> "SamplingSettings":
        """A copy with the changes that are not None; many clients write a `top_k` of -1 for 0."""
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if given.get("top_k") == -1:
            given["top_k"] = 0
        return dataclasses.replace(self, **given)


def check_preset(preset: str) -> None:
    """Raises `UserError` for an unknown preset."""
    if preset not in (*PRESETS, GREEDY):
        raise UserError(f"There is no preset {preset!r}; the presets are {', '.join(PRESETS)} and {GREEDY}.")


def check_sampling(preset: str | None, sampling: Mapping[str, float]) -> None:
    """Raises `UserError` for a setting that is out of range or has no effect with greedy decoding."""
    for name, value in sampling.items():
        option, (fits, text) = "--" + name.replace("_", "-"), SAMPLING[name]
        if not fits(value):
            raise UserError(f"{option} must be {text}, but is {value}.")
        if preset == GREEDY and name != "repetition_penalty":
            raise UserError(f"The preset {GREEDY} does not sample, so {option} has no effect: remove it.")


def is_greedy(preset: str | None, sampling: Mapping[str, float]) -> bool:
    """Whether these settings give the same story each time."""
    return preset == GREEDY or sampling.get("temperature", 1) < MIN_TEMPERATURE


def preset_of(config: Mapping[str, Any]) -> str | None:
    """The preset with the values of a `generation_config.json`, or None."""
    settings = SamplingSettings.from_generation_config(config)
    return next((name for name in PRESETS if SamplingSettings.from_preset(name) == settings), None)


def check_dtype(dtype: str | None) -> None:
    """Raises `UserError` for weights other than "int8", or None for those of the checkpoint."""
    if dtype not in (None, "int8"):
        hint = f" {dtype} needs `tinystories generate --engine llama.cpp`." if dtype in GGUF_DTYPES else ""
        raise UserError(f"--dtype {dtype} is not supported: use int8, or remove --dtype.{hint}")


def resolve_max_new_tokens(context: int | None, prompt_tokens: int, max_new_tokens: int | None) -> int:
    """`max_new_tokens`, or the remaining context length if it is None.

    Raises:
        UserError: if the prompt fills the context, `max_new_tokens` exceeds the remaining context length, or both
            are None.
    """
    if context is None:
        if max_new_tokens is None or max_new_tokens < 1:
            raise UserError("This model's config has no context length: set `max_new_tokens`, at least to 1.")
        return max_new_tokens
    remaining = context - prompt_tokens
    if remaining < 1:
        raise UserError(
            f"The prompt has {prompt_tokens:,} tokens, but the context length of the model is {context:,}: shorten "
            f"the prompt."
        )
    if max_new_tokens is None:
        return remaining
    if not 1 <= max_new_tokens <= remaining:
        raise UserError(
            f"max_new_tokens must be from 1 to {remaining} (the context has {context} tokens, of which the prompt "
            f"takes {prompt_tokens}), but is {max_new_tokens}."
        )
    return max_new_tokens
