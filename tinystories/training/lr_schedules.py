"""Learning rates over a run: warm-up, then one of four shapes, at its end exactly in the last step.

transformers' own schedules are one step short of their end in the last step, and some rise again after it. Here step
`total_steps - 1` has the last value and so has every step after it.
"""

import math
from collections.abc import Callable
from functools import partial

from transformers import TrainingArguments

from ..utils.errors import UserError
from .time_limit import TimeLimit


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda progress: 1 - progress,
    # https://arxiv.org/abs/2405.18392: better than linear at the same length of the decay.
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}
# Two more names that transformers has for a cosine with a minimum.
KINDS = {
    "cosine": {"min_lr", "min_lr_rate"},
    "cosine_with_min_lr": {"min_lr", "min_lr_rate"},
    "cosine_warmup_with_min_lr": {"min_lr", "min_lr_rate"},
    "linear": {"min_lr", "min_lr_rate"},
    "warmup_stable_decay": {"min_lr", "min_lr_rate", "num_decay_steps", "decay_type"},
    "constant": set(),
    "constant_with_warmup": set(),
}


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, decay_steps: int, min_rate: float, shape: str
) -> float:
    """What the learning rate of step `step` (from 0) is multiplied by.

    It rises linearly to 1 in the last step of the warm-up, stays there, and falls from 1 to `min_rate` in the last
    `decay_steps` of `total_steps`. `decay_steps` 0 is a constant rate.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    begin = total_steps - decay_steps
    if step < begin or not decay_steps:
        return 1.0
    progress = min(1.0, (step + 1 - begin) / decay_steps)
    return min_rate + (1 - min_rate) * SHAPES[shape](progress)


# What a time is divided into, for a schedule by the clock.
INSTANTS = 1_000_000


def timed_schedule(args: TrainingArguments, limit: TimeLimit) -> Callable[[int], float]:
    """[`schedule`] by the share of the time that is over; a `warmup_steps` above 1 are steps all the same.

    Raises:
        UserError: also for a type that is left to transformers, which counts steps.
    """
    rises_by_step = args.warmup_steps >= 1
    by_instant = schedule(args, INSTANTS, warmup_steps=0 if rises_by_step else None)
    if by_instant is None:
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(f"`max_minutes` has no schedule {kind}; it has {', '.join(KINDS)}.")

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / args.warmup_steps) if rises_by_step else 1.0
        return min(rise, by_instant(round(limit.progress * INSTANTS)))

    return factor


def schedule(
    args: TrainingArguments, total_steps: int, warmup_steps: int | None = None
) -> Callable[[int], float] | None:
    """The factor by step that `lr_scheduler_type`, `lr_scheduler_kwargs` and `warmup_steps` ask for, or None for the
    types that are left to transformers.

    `lr_scheduler_kwargs` may hold `min_lr` or `min_lr_rate` (a share of the learning rate; 0 by default) and, for
    `warmup_stable_decay`, `num_decay_steps` (steps, or below 1 a share of all; 0.2 by default) and `decay_type`
    (linear, cosine or 1-sqrt; 1-sqrt by default).

    Args:
        warmup_steps: instead of those of `args`.

    Raises:
        UserError: for a setting that the type does not have, or that cannot be.
    """
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if kind not in KINDS:
        return None
    settings = dict(args.lr_scheduler_kwargs or {})
    if unknown := settings.keys() - KINDS[kind]:
        known = ", ".join(sorted(KINDS[kind])) or "none"
        raise UserError(
            f"`lr_scheduler_kwargs`: {kind} has no setting {', '.join(sorted(unknown))} (it has: {known}); "
            f"--lr_scheduler_kwargs '{{}}' empties them."
        )
    for name in settings.keys() - {"decay_type"}:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"`lr_scheduler_kwargs`: {name} must be a finite number, but is {value!r}.")
    min_rate = settings.get("min_lr_rate", settings.get("min_lr", 0.0) / args.learning_rate)
    if not 0 <= min_rate <= 1:
        raise UserError(f"`lr_scheduler_kwargs`: the least learning rate must lie between 0 and {args.learning_rate}.")
    if warmup_steps is None:
        warmup_steps = min(args.get_warmup_steps(total_steps), total_steps)
    decay_steps = total_steps - warmup_steps
    shape = "linear" if kind == "linear" else "cosine"
    if kind == "warmup_stable_decay":
        asked, shape = settings.get("num_decay_steps", 0.2), settings.get("decay_type", "1-sqrt")
        if shape not in SHAPES or asked < 0:
            raise UserError(
                f"`lr_scheduler_kwargs`: `decay_type` must be {', '.join(SHAPES)}, and `num_decay_steps` not below 0."
            )
        decay_steps = min(decay_steps, round(asked * total_steps) if asked < 1 else int(asked))
    if kind.startswith("constant"):
        decay_steps = 0
    return partial(
        learning_rate_factor,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        min_rate=min_rate,
        shape=shape,
    )
