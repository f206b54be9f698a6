"""Check whether the logged learning rate ever rises again, and whether it is that of the recipe."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import TrainingArguments, get_scheduler

from ..training.lr_schedules import lr_lambda, schedule_of
from .findings import Finding, as_check, error, inconclusive, note, ok
from .log import Log, times


RISE = 1.02  # a smaller factor between two logged rates may be rounding
LEAST_ENTRIES = 3
TOLERANCE = 0.02  # of the highest rate, by which a logged one may differ from that of the recipe


def expected_rate(arguments: TrainingArguments, steps: int) -> Callable[[int], float] | None:
    """The learning rate by step (from 0) that the arguments give for a run of `steps` steps; None if unknown."""
    factor = lr_lambda(arguments, steps)
    if factor is None:
        kind, settings = schedule_of(arguments)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        scheduler = get_scheduler(
            kind,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=settings,
        )
        factor = getattr(scheduler, "lr_lambdas", [None])[0]
    return None if factor is None else lambda step: arguments.learning_rate * factor(step)


@as_check("learning rate")
def check_learning_rate(
    log: Log, expected: Callable[[int], float] | None = None, restarts_wanted: bool = False
) -> list[Finding]:
    """Whether the learning rate restarts, and whether it is the expected one.

    Args:
        expected: the learning rate by step (from 0) that the recipe gives, if known.
        restarts_wanted: whether the schedule of the recipe has restarts.
    """
    # In the order in which they were logged: a resumed run may repeat steps.
    steps, rates = log.column("learning_rate")
    if len(rates) < LEAST_ENTRIES:
        return [inconclusive(f"the learning rate was logged {times(len(rates))}; at least three entries are needed")]
    findings = [_check_restart(steps, rates, restarts_wanted)]
    if expected is not None:
        findings.append(_compare_with_recipe(steps, rates, expected))
    return findings


def _check_restart(steps: np.ndarray, rates: np.ndarray, restarts_wanted: bool) -> Finding:
    # Neither rounding nor a constant phase is a decrease.
    falls = np.flatnonzero(rates < np.maximum.accumulate(rates) / RISE)
    if len(falls):
        start = falls[0]
        lowest, peak = np.minimum.accumulate(rates[start:]), rates[:start].max()
        rises = np.flatnonzero(rates[start + 1 :] > np.maximum(lowest[:-1] * RISE, lowest[:-1] + 1e-3 * peak))
        if len(rises):
            at = start + 1 + rises[0]
            evidence = (
                f"the learning rate restarts: {rates[at - 1]:.2e} at step {steps[at - 1]:,}, then {rates[at]:.2e} at "
                f"step {steps[at]:,}"
            )
            if restarts_wanted:
                return note(evidence)
            advice = "Use one schedule that ends with the run, and resume with the same number of steps."
            return error(evidence, advice)
    return ok(
        f"no restart: {rates[0]:.2e} at step {steps[0]:,}, maximum {rates.max():.2e}, {rates[-1]:.2e} at step "
        f"{steps[-1]:,}"
    )


def _compare_with_recipe(steps: np.ndarray, rates: np.ndarray, expected: Callable[[int], float]) -> Finding:
    check = "learning rate and recipe"
    # One step more or less, since trainers log before or after the scheduler steps.
    near = np.array([[expected(max(0, step + by)) for by in (-2, -1, 0, 1)] for step in steps])
    difference = np.maximum(near.min(1) - rates, rates - near.max(1))
    worst = difference.argmax()
    if difference[worst] > TOLERANCE * rates.max():
        return error(
            f"at step {steps[worst]:,} the logged rate is {rates[worst]:.2e}, but recipe.yaml gives "
            f"{near[worst, 1]:.2e}",
            "The run, or a part of it before a resume, was trained with settings other than those in recipe.yaml.",
            check=check,
        )
    return ok(f"the logged learning rates match the recipe, up to {rates[-1]:.2e} at the last step", check=check)
