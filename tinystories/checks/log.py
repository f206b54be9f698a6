"""What the log of a run says: its learning rate, its length, its validation curve, and which checkpoint is the best.

The log is `trainer_state.json`, as any transformers `Trainer` writes it. Validation is `eval_bits_per_byte` where it
is logged, else `eval_loss` in nats per token.
"""

import filecmp
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from ..training.throughput import logged_seconds
from ..training.time_limit import STEPS_WITHOUT_END
from ..utils.errors import UserError
from .findings import Finding


STATE, RECORD = "trainer_state.json", "run.json"
RISE = 1.02  # the least rise of a learning rate, as a factor, that is not rounding
FALLING = 0.01  # fraction of the validation figure that an evaluation must gain to count as falling
WORSE = 0.02  # fraction by which a checkpoint may be worse than the best one before that is an error
SAME = 1e-4  # relative difference of two evaluations of the same weights
LATE = 0.9  # evaluations in the last tenth of a run are too close to the last one to show a trend

# Tokens per parameter: https://arxiv.org/abs/2203.15556 (Chinchilla) for compute-optimal training, 328M / 22.8M for
# Stanford CS336's TinyStories model.
CHINCHILLA, CS336 = 20, 14


@dataclass
class Log:
    """The log of one run.

    Attributes:
        steps: optimizer steps made, those before a resume included.
        planned: steps that the run was to make; 0 where that is not known, as in an unfinished run by the clock.
        ended: training came to its end, by itself or by a callback such as early stopping.
        epoch: epochs of the training set, as the trainer counts them.
        tokens: input tokens, as the trainer counted them in all sessions; 0 where it did not.
        flops: floating point operations, as the trainer counted them; 0 where it did not.
        seconds: of training in all sessions, where the log has them.
        rates: `(step, learning rate)`.
        losses: `(step, training loss)`, in nats per token.
        figures: `(step, validation figure)`, one per step, of the weights that were being trained.
        last_figure: the one that was logged last; it may be of the best weights, loaded again after the last step.
        unit: of the figures.
        entries: all of it.
    """

    steps: int
    planned: int
    ended: bool
    epoch: float | None
    tokens: int
    flops: float
    seconds: float
    rates: list[tuple[int, float]]
    losses: list[tuple[int, float]]
    figures: list[tuple[int, float]]
    last_figure: float | None
    unit: str
    entries: list[dict]


def read_log(folder: Path) -> Log:
    """The log in a run folder or checkpoint.

    Raises:
        UserError: where there is none, or it cannot be read.
    """
    path = Path(folder) / STATE
    try:
        state = json.loads(path.read_text("utf-8"))
        entries = state["log_history"]
        metric = "eval_bits_per_byte" if any("eval_bits_per_byte" in entry for entry in entries) else "eval_loss"
        return Log(
            steps=int(state["global_step"]),
            planned=_planned(state),
            ended=any("train_runtime" in entry for entry in entries),
            epoch=None if state.get("epoch") is None else float(state["epoch"]),
            tokens=int(state.get("num_input_tokens_seen") or 0),
            flops=float(state.get("total_flos") or 0),
            seconds=float(logged_seconds(entries)),
            rates=_series(entries, "learning_rate"),
            losses=_series(entries, "loss"),
            figures=_figures(entries, metric),
            last_figure=next((float(entry[metric]) for entry in reversed(entries) if metric in entry), None),
            unit="bits per byte" if metric == "eval_bits_per_byte" else "nats per token",
            entries=entries,
        )
    except FileNotFoundError:
        raise UserError(f"{folder} has no {STATE}, so nothing is known of how it was trained") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} cannot be read as the log of a Trainer") from None


def _planned(state: dict) -> int:
    planned = int(state.get("max_steps") or 0)
    return 0 if planned == STEPS_WITHOUT_END else max(0, planned)


def _series(entries: list[dict], key: str) -> list[tuple[int, float]]:
    """By step; where a step is logged twice, the first counts."""
    found: dict[int, float] = {}
    for entry in entries:
        if isinstance(entry.get(key), int | float):
            found.setdefault(int(entry["step"]), float(entry[key]))
    return sorted(found.items())


def _figures(entries: list[dict], metric: str) -> list[tuple[int, float]]:
    """Evaluations during training. What is measured after it may be the best checkpoint, loaded again, under the
    number of the last step: the figure of an earlier step a second time."""
    found: dict[int, float] = {}
    ended = False
    for entry in entries:
        ended = (ended or "train_runtime" in entry) and "loss" not in entry
        if isinstance(entry.get(metric), int | float):
            figure = float(entry[metric])
            if not (ended and any(abs(figure - known) <= SAME * abs(known) for known in found.values())):
                found.setdefault(int(entry["step"]), figure)
    return sorted(found.items())


def tokens_seen(
    folder: Path, log: Log, model: PreTrainedModel, *, estimate: float | None = None, padded: bool = False
) -> tuple[float | None, str]:
    """Tokens that a run was trained on, in all its sessions, and where that figure is from.

    Args:
        folder: a run folder or a checkpoint of one.
        estimate: steps times rows per step times tokens per row, for runs that counted nothing.
        padded: what the trainer counted includes padding.
    """
    if log.tokens:
        return log.tokens, f"counted in training{', padding included' if padded else ''}"
    try:
        record = {} if folder.name.startswith("checkpoint-") else json.loads((folder / RECORD).read_text("utf-8"))
        recorded = record.get("tokens_seen")
    except (OSError, ValueError, AttributeError):
        recorded = None
    if isinstance(recorded, int | float) and recorded > 0:
        return recorded, f"as {RECORD} says"
    if estimate:
        return estimate, "steps x rows per step x tokens per row, if one process trained it"
    if log.flops:
        # `Trainer` counts 6 operations per token and parameter outside of the embedding.
        return log.flops / 6 / model.num_parameters(exclude_embeddings=True), "from total_flos, padding included"
    return None, ""


def check_learning_rate(log: Log, expected=None, restarts_wanted: bool = False) -> list[Finding]:
    """Whether the logged learning rate ever rises again, and whether it is the one that the recipe gives.

    Args:
        expected: the learning rate by step (from 0) that the recipe gives, where it is known.
        restarts_wanted: the recipe asks for a schedule with restarts.
    """
    check = "learning rate"
    # Entries in the order in which they were logged: a resumed run may repeat steps.
    logged = [
        (int(entry["step"]), float(entry["learning_rate"]))
        for entry in log.entries
        if isinstance(entry.get("learning_rate"), int | float)
    ]
    if len(logged) < 3:
        return [
            Finding(
                check, "inconclusive", f"the learning rate was logged {_times(len(logged))}; it takes three entries"
            )
        ]
    findings = []
    peak, lowest, restart = logged[0][1], None, None
    for (step_before, before), (step, rate) in zip(logged[:-1], logged[1:], strict=True):
        if lowest is None:
            peak = max(peak, rate)
            # Rounding and a flat stretch are no fall.
            lowest = rate if rate < peak / RISE else None
        elif rate > max(lowest * RISE, lowest + 1e-3 * peak):
            restart = (step_before, before, step, rate)
            break
        else:
            lowest = min(lowest, rate)
    span = f"{logged[0][1]:.2e} at step {logged[0][0]:,}, highest {peak:.2e}, {logged[-1][1]:.2e} at {logged[-1][0]:,}"
    if restart:
        step_before, before, step, rate = restart
        findings.append(
            Finding(
                check,
                "note" if restarts_wanted else "error",
                f"it restarts: {before:.2e} at step {step_before:,}, then {rate:.2e} at step {step:,}",
                ""
                if restarts_wanted
                else "Use one schedule that ends with the run, and resume with the same number of steps.",
            )
        )
    else:
        findings.append(Finding(check, "ok", f"it never rises again after it has fallen: {span}"))
    if expected is not None:
        findings.append(_compare_with_recipe(logged, peak, expected))
    return findings


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count:,} times")


def _compare_with_recipe(logged: list[tuple[int, float]], peak: float, expected) -> Finding:
    check = "learning rate and recipe"
    worst = (0.0, 0, 0.0, 0.0)
    for step, rate in logged:
        # One step more or less, since trainers log before or after the scheduler steps.
        near = [expected(max(0, step + by)) for by in (-2, -1, 0, 1)]
        off = max(min(near) - rate, rate - max(near), 0.0)
        worst = max(worst, (off, step, rate, near[1]))
    off, step, rate, wanted = worst
    if off > 0.02 * peak:
        return Finding(
            check,
            "error",
            f"at step {step:,} the log has {rate:.2e}, and recipe.yaml gives {wanted:.2e}",
            "The run, or a part of it before a resume, was trained with other settings than recipe.yaml has.",
        )
    return Finding(
        check, "ok", f"the logged rates are those of the recipe, up to {logged[-1][1]:.2e} at the last step"
    )


def check_end(folder: Path, log: Log, *, minutes: float | None = None, patience: int | None = None) -> list[Finding]:
    """Whether the run came to its end, and how.

    Args:
        minutes: the time that the recipe gives the run instead of a number of steps.
        patience: evaluations without improvement after which the recipe stops the run.
    """
    check = "training length"
    if minutes is not None:
        seen = f"{log.steps:,} steps in {log.seconds / 60:.3g} of {minutes:.3g} minutes"
    elif log.planned:
        seen = f"{log.steps:,} of {log.planned:,} steps"
    else:
        return []
    complete = log.ended if minutes is not None else log.steps >= log.planned
    if complete:
        return [Finding(check, "ok", seen)]
    if folder.name.startswith("checkpoint-") and _has_ended(folder.parent):
        return [Finding(check, "note", f"{seen}: a checkpoint of a run that has ended", f"See {folder.parent}.")]
    if not log.ended:
        return [
            Finding(
                check,
                "note",
                f"{seen}: the run is unfinished, and its learning rate has not decayed to its end",
                "Continue it with --resume_from_checkpoint.",
            )
        ]
    how = "training was stopped by a callback"
    if patience is not None and log.figures:
        best_step, best = min(log.figures, key=lambda figure: figure[1])
        how = (
            f"early stopping ended it after {patience} evaluations without a better figure than {best:.4f} "
            f"{log.unit} at step {best_step:,}"
        )
    return [
        Finding(
            check,
            "note",
            f"{seen}: {how}, before the learning rate had decayed to its end",
            f"A run of about {log.steps:,} steps with its whole schedule often ends better than a longer one that is "
            f"stopped early.",
        )
    ]


def check_tokens(log: Log, parameters: int, tokens: float | None, source: str = "") -> Finding:
    """How many tokens each parameter has seen.

    Args:
        tokens, source: from [`tokens_seen`].
    """
    check = "tokens seen"
    if tokens is None:
        return Finding(check, "inconclusive", f"{log.steps:,} steps, but it is not known how many tokens each had")
    ratio = tokens / parameters
    seen = (
        f"{log.steps:,} steps, {tokens:,.0f} tokens{f' ({source})' if source else ''}, {ratio:.3g} for each of "
        f"{parameters:,} parameters (Chinchilla {CHINCHILLA}, CS336's TinyStories model {CS336})"
    )
    if ratio < CS336 / 2:
        return Finding(check, "note", seen, "More stories or more epochs would improve the model.")
    return Finding(check, "ok", seen)


def check_validation(log: Log, best_is_kept: bool = False) -> list[Finding]:
    """Whether validation is still falling, and whether it rises while the training loss falls.

    Args:
        best_is_kept: the weights at hand are those of the best evaluation, so overfitting after it did no harm.
    """
    check = "validation curve"
    figures = log.figures
    if len(figures) < 2:
        return [
            Finding(check, "inconclusive", f"validation was measured {_times(len(figures))} in training; it takes two")
        ]
    best_step, best = min(figures, key=lambda figure: figure[1])
    last_step, last = figures[-1]
    seen = f"{last:.4f} {log.unit} at step {last_step:,}; {_slope(figures[-4:])}"
    findings = []
    before = [figure for figure in figures[:-1] if figure[0] <= LATE * last_step]
    if last > best * (1 + WORSE / 2) and best_step < last_step:
        findings.append(
            Finding(check, "note", f"{seen}: it has risen from {best:.4f} at step {best_step:,}", "See `overfitting`.")
        )
    elif not before:
        findings.append(
            Finding(
                check, "inconclusive", f"{seen}: all evaluations are in the last tenth of the run", "Lower eval_steps."
            )
        )
    else:
        gain = (before[-1][1] - last) / before[-1][1]
        seen += f", {-gain:+.1%} since step {before[-1][0]:,}"
        if gain > FALLING:
            advice = "A longer run (more steps or epochs) would improve the model."
            findings.append(Finding(check, "note", f"{seen}: still falling", advice))
        elif len(figures) < 3:
            findings.append(
                Finding(check, "inconclusive", f"{seen}: two evaluations are too few", "Lower eval_steps.")
            )
        else:
            findings.append(Finding(check, "ok", f"{seen}: it has levelled out"))
    findings.append(_check_overfitting(log, best_step, best, best_is_kept))
    return findings


def _slope(figures: list[tuple[int, float]]) -> str:
    steps, values = np.array(figures, dtype=float).T
    unit, name = (1_000, "thousand") if steps[-1] >= 1_000 else (100, "hundred")
    slope = float(np.polyfit(steps, values, 1)[0]) * unit
    return f"{slope:+.4f} per {name} steps over the last {len(figures)} evaluations"


def _check_overfitting(log: Log, best_step: int, best: float, best_is_kept: bool) -> Finding:
    check = "overfitting"
    if len(log.losses) < 2 or len(log.figures) < 3:
        return Finding(
            check,
            "inconclusive",
            f"the training loss was logged {_times(len(log.losses))} and validation {_times(len(log.figures))}; it "
            f"takes two and three entries",
        )
    end_step, end = log.figures[-1]
    at_best = np.interp(best_step, *np.array(log.losses).T)
    at_end = np.interp(end_step, *np.array(log.losses).T)
    training = f"the training loss went from {at_best:.3f} to {at_end:.3f} nats per token"
    if end > best * (1 + WORSE) and at_end < at_best:
        return Finding(
            check,
            "note" if best_is_kept else "error",
            f"since step {best_step:,} validation has risen from {best:.4f} to {end:.4f} {log.unit}, while {training}"
            + ("; the weights here are those of the best step" if best_is_kept else ""),
            ("" if best_is_kept else f"Use the checkpoint of step {best_step:,}. ")
            + "Train on more stories, for fewer epochs, or with a smaller model.",
        )
    if end > best * (1 + WORSE):
        return Finding(
            check,
            "note",
            f"since step {best_step:,} validation has risen from {best:.4f} to {end:.4f} {log.unit}, and {training}",
            "This is instability and not overfitting: lower the learning rate.",
        )
    return Finding(check, "ok", f"the last evaluation ({end:.4f}) is within {WORSE:.0%} of the best ({best:.4f})")


def check_checkpoint(folder: Path, log: Log) -> Finding:
    """Whether the model in `folder` (a run folder or a checkpoint of one) is the best of its run."""
    check = "best checkpoint"
    whole = _whole_run(folder, log)
    if not whole.figures:
        return Finding(check, "inconclusive", "the log has no evaluation")
    best_step, best = min(whole.figures, key=lambda figure: figure[1])
    own = _own_figure(folder, log, best_step)
    if own is None:
        return Finding(check, "inconclusive", f"step {log.steps:,} was not evaluated")
    shown = f"{own:.4f} {whole.unit}"
    if own <= best * (1 + SAME):
        return Finding(check, "ok", f"{shown} is the best of {len(whole.figures)} evaluations")
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    kept = run / f"checkpoint-{best_step}"
    where = f"it is in {kept}" if kept.is_dir() else "that checkpoint was not kept"
    return Finding(
        check,
        "error" if own > best * (1 + WORSE) else "note",
        f"{shown} here, {best:.4f} at step {best_step:,}, which is better by {own - best:.4f} ({own / best - 1:.1%}); "
        f"{where}",
        f"Use {kept}." if kept.is_dir() else "Set load_best_model_at_end and a larger save_total_limit.",
    )


def _whole_run(folder: Path, log: Log) -> Log:
    """The longest log of the run: that of a checkpoint ends where the checkpoint was saved."""
    if not folder.name.startswith("checkpoint-"):
        return log
    logs = [log]
    for other in (folder.parent, *folder.parent.glob("checkpoint-*")):
        try:
            logs.append(read_log(other))
        except UserError:
            continue
    return max(logs, key=lambda found: len(found.figures))


def _has_ended(run: Path) -> bool:
    try:
        return read_log(run).ended
    except UserError:
        return False


def has_best_weights(folder: Path, log: Log) -> bool:
    """Whether the weights in `folder` are those of the best evaluation of its run."""
    figures = _whole_run(folder, log).figures
    if not figures:
        return False
    best_step, best = min(figures, key=lambda figure: figure[1])
    own = _own_figure(folder, log, best_step)
    return own is not None and own <= best * (1 + SAME)


def _own_figure(folder: Path, log: Log, best_step: int) -> float | None:
    """The figure of the weights in `folder`, where the log has it."""
    figures = dict(log.figures)
    if folder.name.startswith("checkpoint-"):
        return figures.get(log.steps)
    weights = [place / "model.safetensors" for place in (folder, folder / f"checkpoint-{best_step}")]
    if all(file.is_file() for file in weights) and filecmp.cmp(*weights, shallow=False):
        return figures[best_step]
    return log.last_figure
