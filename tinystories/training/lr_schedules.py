"""Learning rates over a run: linear warm-up, then constant, linear, cosine or warmup-stable-decay.

The schedules of transformers reach their last value one step too late, and some rise again after it. Here step
`total_steps - 1` and every later one have the last value. transformers handles the types that are not in `KINDS`.
"""

import math
from collections.abc import Callable
from functools import partial

from transformers import SchedulerType, TrainingArguments

from ..utils.errors import UserError
from .time_limit import TimeLimitCallback


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "linear": lambda progress: 1 - progress,
    # https://arxiv.org/abs/2405.18392: better than linear at the same length of the decay.
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}
MINIMUM = {"min_lr", "min_lr_rate"}
# The `lr_scheduler_kwargs` of each type; the two longer names for a cosine are those of transformers.
KINDS = {
    "cosine": MINIMUM,
    "cosine_with_min_lr": MINIMUM,
    "cosine_warmup_with_min_lr": MINIMUM,
    "linear": MINIMUM,
    "warmup_stable_decay": MINIMUM | {"num_decay_steps", "decay_type"},
    "constant": set(),
    "constant_with_warmup": set(),
}
INSTANTS = 1_000_000  # parts of the time limit, which replace the steps in a schedule by elapsed time


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, decay_steps: int, min_rate: float, decay: str
) -> float:
    """The factor of the learning rate in step `step` (from 0).

    It rises linearly to 1 in the last step of the warm-up, stays there, and falls from 1 to `min_rate` in the last
    `decay_steps` of `total_steps`. With `decay_steps` 0 it stays constant.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    begin = total_steps - decay_steps
    if step < begin or not decay_steps:
        return 1.0
    return min_rate + (1 - min_rate) * DECAYS[decay](min(1.0, (step + 1 - begin) / decay_steps))


def schedule_of(args: TrainingArguments) -> tuple[str, dict]:
    """The name of `lr_scheduler_type`, and `lr_scheduler_kwargs` as a dictionary."""
    settings = args.lr_scheduler_kwargs
    return SchedulerType(args.lr_scheduler_type).value, settings if isinstance(settings, dict) else {}


def lr_lambda(
    args: TrainingArguments, total_steps: int, warmup_steps: int | None = None
) -> Callable[[int], float] | None:
    """The factor by step, for `LambdaLR`, of `lr_scheduler_type`, `lr_scheduler_kwargs` and `warmup_steps`.

    `lr_scheduler_kwargs` may hold `min_lr` or `min_lr_rate` (a fraction of the learning rate; 0 by default) and, for
    `warmup_stable_decay`, `num_decay_steps` (steps, or a fraction of all if below 1; 0.2 by default) and `decay_type`
    (linear, cosine or 1-sqrt, which is the default).

    Args:
        warmup_steps: instead of those of `args`.

    Returns:
        None for the types that transformers handles.

    Raises:
        UserError: for a setting that the type does not have, or a value out of range.
    """
    kind, given = schedule_of(args)
    if kind not in KINDS:
        return None
    settings = _checked(kind, given)
    min_rate = settings.get("min_lr_rate", settings.get("min_lr", 0.0) / args.learning_rate)
    if not 0 <= min_rate <= 1:
        raise UserError(
            f"`lr_scheduler_kwargs`: the minimum learning rate must be between 0 and `learning_rate` "
            f"({args.learning_rate})."
        )
    if warmup_steps is None:
        warmup_steps = min(args.get_warmup_steps(total_steps), total_steps)
    decay_steps, decay = total_steps - warmup_steps, "linear" if kind == "linear" else "cosine"
    if kind == "warmup_stable_decay":
        asked, decay = settings.get("num_decay_steps", 0.2), settings.get("decay_type", "1-sqrt")
        if decay not in DECAYS or asked < 0:
            names = ", ".join(DECAYS)
            raise UserError(f"`lr_scheduler_kwargs`: `decay_type` must be {names}, and `num_decay_steps` at least 0.")
        decay_steps = min(decay_steps, round(asked * total_steps) if asked < 1 else int(asked))
    elif kind.startswith("constant"):
        decay_steps = 0
    return partial(
        learning_rate_factor,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        min_rate=min_rate,
        decay=decay,
    )


def timed_lr_lambda(args: TrainingArguments, limit: TimeLimitCallback) -> Callable[[int], float]:
    """[`lr_lambda`] by the elapsed fraction of the time limit; a `warmup_steps` of at least 1 still counts steps.

    Raises:
        UserError: as [`lr_lambda`], and for the types that transformers handles, which count steps.
    """
    warmup_steps = args.warmup_steps
    by_instant = lr_lambda(args, INSTANTS, warmup_steps=0 if warmup_steps >= 1 else None)
    if by_instant is None:
        kind, _ = schedule_of(args)
        raise UserError(f"`max_minutes` does not support the schedule {kind}; it supports {', '.join(KINDS)}.")

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps >= 1 else 1.0
        return min(warmup, by_instant(round(limit.progress * INSTANTS)))

    return factor


def _checked(kind: str, settings: dict) -> dict:
    if unknown := settings.keys() - KINDS[kind]:
        raise UserError(
            f"`lr_scheduler_kwargs`: {kind} has no setting {', '.join(sorted(unknown))}; its settings are "
            f"{', '.join(sorted(KINDS[kind])) or 'none'}. To use the defaults, set --lr_scheduler_kwargs '{{}}'."
        )
    for name, value in settings.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if name != "decay_type" and not is_number:
            raise UserError(f"`lr_scheduler_kwargs`: {name} must be a finite number, but is {value!r}.")
    return settings
