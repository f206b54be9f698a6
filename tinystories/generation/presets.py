"""Sampling settings by name and their ranges, and the room for a completion. Nothing heavy is imported here."""

from collections.abc import Callable, Mapping

from ..utils.errors import UserError


PRESETS: dict[str, dict[str, float]] = {
    "balanced": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
    "conservative": {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    "creative": {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "repetition_penalty": 1.1},
    # A penalty on repetition also falls on a character's name, and the smallest models then take another.
    "plain": {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.0},
}
GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0")  # how the weights in a GGUF file, which llama.cpp reads, can be stored
GREEDY = "greedy"  # always the likeliest token; no preset of ours, but known wherever one is named


def check_preset(preset: str) -> None:
    """Refuse a preset that there is not, with a `UserError` that names those there are."""
    if preset not in (*PRESETS, GREEDY):
        raise UserError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)} and {GREEDY}.")


SAMPLING: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 2, "from 0 to 2"),
    "top_k": (lambda value: 0 <= value < 2**31, "0 or more"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "repetition_penalty": (lambda value: 1 <= value <= 2, "from 1 to 2"),
}
MIN_TEMPERATURE = 0.01  # a lower temperature is greedy decoding


def check_sampling(preset: str | None, sampling: Mapping[str, float]) -> None:
    """Refuse sampling settings that are out of range, or that greedy decoding would ignore.

    Raises:
        UserError: for the first of them.
    """
    for name, value in sampling.items():
        option, (fits, text) = "--" + name.replace("_", "-"), SAMPLING[name]
        if not fits(value):
            raise UserError(f"{option} must be {text}, but is {value}.")
        if preset == GREEDY and name != "repetition_penalty":
            raise UserError(f"The preset {GREEDY} draws nothing at random, so it takes no {option}.")


def preset_of(settings: Mapping[str, object]) -> str | None:
    """The preset whose values a `generation_config.json` states; None where they are of none of them.

    One that does not sample stands for "balanced", with which such a model is generated from by default.
    """
    if not settings.get("do_sample"):
        return "balanced"
    own = stated_settings(settings)
    return next((name for name, values in PRESETS.items() if values == own), None)


def stated_settings(settings: Mapping[str, object]) -> dict[str, float]:
    """Temperature, top-k, top-p and repetition penalty of a `generation_config.json`, as `generate()` takes them."""
    unset = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
    return {name: unset[name] if settings.get(name) is None else settings[name] for name in unset}


def check_dtype(dtype: str | None) -> None:
    """Refuse weights that `load_model` cannot give, with a `UserError`: there are "int8", and None for those saved."""
    if dtype not in (None, "int8"):
        raise UserError(
            f"--dtype is int8 or left out, not {dtype!r}: what else there is goes with --engine llama.cpp of "
            f"`tinystories generate`."
        )


def resolve_max_new_tokens(context: int, used: int, max_new_tokens: int | None) -> int:
    """How many tokens a story may have after a prompt of `used` tokens: `max_new_tokens`, or all that are left.

    Raises:
        UserError: where the prompt leaves no room in the context, or `max_new_tokens` asks for more than there is.
    """
    room = context - used
    if room < 1:
        raise UserError(f"The prompt is {used} tokens long, but the model's context is {context}: shorten the prompt.")
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"The context is {context} tokens and the prompt takes {used}: --max-new-tokens can be at most {room}."
        )
    return max_new_tokens or room
