"""Check the course of a run in its log: its length, its validation curve, and which checkpoint is the best."""

from pathlib import Path

import numpy as np

from ..runs.run_folder import checkpoint_folder, is_checkpoint, run_of
from ..utils.console import counted
from .findings import Finding, as_check, error, inconclusive, note, ok
from .log import SAME, Log, log_of_run, own_evaluation, times


FALLING = 0.01  # relative decrease of the validation metric from which it is still falling
RISING = 0.01  # relative increase over the best evaluation from which it is rising
WORSE = 0.02  # fraction by which a checkpoint may be worse than the best one without an error
LATE = 0.9  # evaluations after this fraction of a run are too close to the last one to show a trend
# Tokens per parameter: https://arxiv.org/abs/2203.15556 (Chinchilla) for compute-optimal training, 328M / 22.8M for
# Stanford CS336's TinyStories model.
CHINCHILLA, CS336 = 20, 14


@as_check("training length")
def check_end(
    folder: Path, log: Log, *, minutes: float | None = None, patience: int | None = None
) -> Finding | list[Finding]:
    """Whether the run has ended, and why.

    Args:
        minutes: the time limit of the recipe, which replaces its number of steps.
        patience: evaluations without improvement after which the recipe stops the run.
    """
    if minutes is not None:
        evidence = f"{log.steps:,} steps in {log.seconds / 60:.3g} of {minutes:.3g} minutes"
    elif log.planned:
        evidence = f"{log.steps:,} of {log.planned:,} steps"
    else:
        return []
    if log.ended if minutes is not None else log.steps >= log.planned:
        return ok(evidence)
    if is_checkpoint(folder) and log_of_run(folder, log).ended:
        return note(f"{evidence}: a checkpoint of a run that has ended", f"Check the run folder {folder.parent}.")
    if not log.ended:
        return note(
            f"{evidence}: the run is unfinished, and the learning rate has not reached its final value",
            "Resume it with --resume_from_checkpoint.",
        )
    reason = "training was stopped by a callback"
    if patience is not None and log.evaluations:
        step, best = log.best
        reason = (
            f"early stopping after {counted(patience, 'evaluation')} without improvement over {best:.4f} "
            f"{log.unit} at step {step:,}"
        )
    return note(
        f"{evidence}: {reason}, before the learning rate reached its final value",
        f"A run of about {log.steps:,} steps with a complete schedule often gives a better model than a longer one "
        f"that is stopped early.",
    )


@as_check("tokens seen")
def check_tokens(log: Log, parameters: int, tokens: float | None, source: str = "") -> Finding:
    """How many tokens each parameter has seen; `tokens` and `source` are those of [`tokens_seen`]."""
    if tokens is None:
        return inconclusive(f"{log.steps:,} steps, but the number of tokens per step is not known")
    ratio = tokens / parameters
    evidence = (
        f"{log.steps:,} steps, {tokens:,.0f} tokens{f' ({source})' if source else ''}, {ratio:.3g} tokens per "
        f"parameter ({parameters:,} parameters; Chinchilla: {CHINCHILLA}, CS336's TinyStories model: {CS336})"
    )
    if ratio < CS336 / 2:
        return note(evidence, "More stories or more epochs would improve the model.")
    return ok(evidence)


@as_check("validation curve")
def check_validation(log: Log) -> Finding:
    """Whether validation is still falling."""
    if len(log.evaluations) < 2:
        return inconclusive(
            f"validation was measured {times(len(log.evaluations))} in training; at least two evaluations are needed"
        )
    steps, values = np.array([*log.evaluations.items()]).T
    best_step, best = log.best
    last_step, last = int(steps[-1]), values[-1]
    evidence = f"{last:.4f} {log.unit} at step {last_step:,}; {_slope(steps[-4:], values[-4:])}"
    if last > best * (1 + RISING) and best_step < last_step:
        return note(f"{evidence}: up from {best:.4f} at step {best_step:,}", "See `overfitting`.")
    before = np.flatnonzero(steps[:-1] <= LATE * last_step)
    if not len(before):
        return inconclusive(f"{evidence}: all evaluations are in the last tenth of the run", "Lower eval_steps.")
    step, value = steps[before[-1]], values[before[-1]]
    gain = (value - last) / value
    evidence += f", {-gain:+.1%} since step {step:,.0f}"
    if gain > FALLING:
        advice = "A longer run (more steps or epochs) would improve the model."
        return note(f"{evidence}: still falling", advice)
    if len(values) < 3:
        return inconclusive(f"{evidence}: two evaluations are too few", "Lower eval_steps.")
    return ok(f"{evidence}: levelled out")


def _slope(steps: np.ndarray, values: np.ndarray) -> str:
    unit, name = (1_000, "thousand") if steps[-1] >= 1_000 else (100, "hundred")
    slope = np.polyfit(steps, values, 1)[0] * unit
    return f"{slope:+.4f} per {name} steps over the last {len(values)} evaluations"


@as_check("overfitting")
def check_overfitting(log: Log, best_is_kept: bool = False) -> Finding | list[Finding]:
    """Whether validation rises while the training loss falls.

    Args:
        best_is_kept: whether the weights are those of the best evaluation, so that later overfitting has no effect.
    """
    losses, evaluations = len(log.losses[0]), len(log.evaluations)
    if evaluations < 2:
        return []  # see `validation curve`
    if losses < 2 or evaluations < 3:
        return inconclusive(
            f"the training loss was logged {times(losses)} and validation {times(evaluations)}; at least two entries "
            f"of the loss and three of validation are needed"
        )
    (best_step, best), (last_step, last) = log.best, [*log.evaluations.items()][-1]
    if last <= best * (1 + WORSE):
        return ok(f"the last evaluation ({last:.4f}) is within {WORSE:.0%} of the best ({best:.4f})")
    before, after = np.interp([best_step, last_step], *log.losses)
    rise = f"since step {best_step:,} validation has risen from {best:.4f} to {last:.4f} {log.unit}"
    training = f"the training loss went from {before:.3f} to {after:.3f} nats per token"
    if after >= before:
        advice = "This is instability, not overfitting: lower the learning rate."
        return note(f"{rise}, and {training}", advice)
    advice = "Train on more stories, for fewer epochs, or with a smaller model."
    if best_is_kept:
        return note(f"{rise}, while {training}; these are the weights of the best step", advice)
    return error(f"{rise}, while {training}", f"Use the checkpoint of step {best_step:,}. {advice}")


@as_check("best checkpoint")
def check_best_checkpoint(folder: Path, log: Log) -> Finding:
    """Whether the model in `folder` (a run folder or a checkpoint of one) is the best of its run."""
    run = log_of_run(folder, log)
    if not run.evaluations:
        return inconclusive("the log has no evaluation")
    own = own_evaluation(folder, log)
    if own is None:
        return inconclusive(f"step {log.steps:,} was not evaluated")
    step, best = run.best
    if own <= best * (1 + SAME):
        return ok(f"{own:.4f} {run.unit} is the best of {len(run.evaluations)} evaluations")
    kept = checkpoint_folder(run_of(folder), step)
    where, advice = f"its checkpoint is {kept}", f"Use {kept}."
    if not kept.is_dir():
        where = "its checkpoint was not kept"
        advice = "Set load_best_model_at_end and a larger save_total_limit."
    judge = error if own > best * (1 + WORSE) else note
    return judge(
        f"{own:.4f} {run.unit}; the best evaluation is {best:.4f}, at step {step:,}, lower by {own - best:.4f} "
        f"({own / best - 1:.1%}); {where}",
        advice,
    )
