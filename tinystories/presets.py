"""How stories can be told, by name, and the room that there is for one. Nothing heavy is imported here."""

from .errors import UserError


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


def check_dtype(dtype: str | None) -> None:
    """Refuse weights that `load_model` cannot give, with a `UserError`: there are "int8", and None for those saved."""
    if dtype not in (None, "int8"):
        raise UserError(
            f"--dtype is int8 or left out, not {dtype!r}: what else there is goes with --engine llama.cpp of "
            f"`tinystories generate`."
        )


def room_for_story(context: int, used: int, max_new_tokens: int | None) -> int:
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
