"""What the log of a run says: its learning rate, its length, its validation curve, and which checkpoint is the best.

The log is `trainer_state.json`, as any transformers `Trainer` writes it. Validation is `eval_bits_per_byte` where it
is there, else `eval_loss` in nats a token.
"""

import filecmp
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..time_limit import STEPS_WITHOUT_END
from .findings import Finding


STATE = "trainer_state.json"
RISE = 1.02  # the least rise of a learning rate, as a factor, that is not rounding
FALLING = 0.01  # share of the validation figure that an evaluation must gain to count as falling
WORSE = 0.02  # share by which a checkpoint may be worse than the best one before that is a fault

# Tokens per parameter: https://arxiv.org/abs/2203.15556 (Chinchilla) for compute-optimal training, 328M / 22.8M for
# Stanford CS336's TinyStories model.
CHINCHILLA, CS336 = 20, 14


@dataclass
class Log:
    """The log of one run.

    Attributes:
        steps, planned: optimizer steps made, and those that the run was to make.
        rates: `(step, learning rate)`.
        losses: `(step, training loss)`, in nats a token.
        figures: `(step, validation figure)`, one a step, as it was during training.
        last_figure: the one that was logged last; it may be of the best weights, loaded again after the last step.
        unit: of the figures.
        entries: all of it.
    """

    steps: int
    planned: int
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
            rates=_series(entries, "learning_rate"),
            losses=_series(entries, "loss"),
            figures=_series(entries, metric),
            last_figure=next((float(entry[metric]) for entry in reversed(entries) if metric in entry), None),
            unit="bits per byte" if metric == "eval_bits_per_byte" else "nats a token",
            entries=entries,
        )
    except FileNotFoundError:
        raise UserError(f"{folder} has no {STATE}, so nothing is known of how it was trained") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} cannot be read as the log of a Trainer") from None


def _planned(state: dict) -> int:
    """The steps that a run was to make; 0 where that is not known, as in a run by the clock that was interrupted."""
    planned = int(state.get("max_steps") or 0)
    return 0 if planned == STEPS_WITHOUT_END else planned


def _series(entries: list[dict], key: str) -> list[tuple[int, float]]:
    """By step; where a step stands twice, the first counts."""
    found: dict[int, float] = {}
    for entry in entries:
        if isinstance(entry.get(key), int | float):
            found.setdefault(int(entry["step"]), float(entry[key]))
    return sorted(found.items())


def check_learning_rate(log: Log, expected=None, restarts_wanted: bool = False) -> list[Finding]:
    """Whether the logged learning rate ever rises again, and whether it is the one that the recipe says.

    Args:
        expected: the learning rate by step (from 0) that the recipe gives, where it is known.
        restarts_wanted: the recipe asks for a schedule with restarts.
    """
    check = "learning rate"
    # Entries in the order in which they were logged: a run that was begun again may repeat steps.
    logged = [(int(entry["step"]), float(entry["learning_rate"])) for entry in log.entries if "learning_rate" in entry]
    if len(logged) < 3:
        return [Finding(check, "cannot tell", f"the log has {len(logged)} entries of the learning rate")]
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
                "note" if restarts_wanted else "fault",
                f"restarts: {before:.2e} at step {step_before:,}, then {rate:.2e} at step {step:,}",
                ""
                if restarts_wanted
                else "Let one schedule end with the run; when resuming, keep its number of steps.",
            )
        )
    else:
        findings.append(Finding(check, "ok", f"never rises again: {span}"))
    if expected is not None:
        findings.append(_compare_with_recipe(logged, peak, expected))
    return findings


def _compare_with_recipe(logged: list[tuple[int, float]], peak: float, expected) -> Finding:
    check = "learning rate and recipe"
    worst = (0.0, 0, 0.0, 0.0)
    for step, rate in logged:
        # One step more or less, since trainers log before or after the schedule moves.
        near = [expected(max(0, step + by)) for by in (-2, -1, 0, 1)]
        off = max(min(near) - rate, rate - max(near), 0.0)
        worst = max(worst, (off, step, rate, near[1]))
    off, step, rate, wanted = worst
    if off > 0.02 * peak:
        return Finding(
            check,
            "fault",
            f"at step {step:,} the log has {rate:.2e} and the recipe gives {wanted:.2e}",
            "The run was not trained as its recipe.yaml says.",
        )
    return Finding(check, "ok", f"the logged rates are those of the recipe, to {logged[-1][1]:.2e} at the last step")


def check_length(log: Log, parameters: int, tokens: float | None) -> list[Finding]:
    """Whether the run came to its end, and how many tokens each parameter has seen.

    Args:
        tokens: seen in training, padding not counted, where it is known.
    """
    findings = []
    if log.planned and log.steps < log.planned:
        findings.append(
            Finding(
                "training length",
                "note",
                f"step {log.steps:,} of {log.planned:,}: it is unfinished, and its learning rate has not ended",
                "Go on with --resume_from_checkpoint.",
            )
        )
    if tokens is None:
        findings.append(
            Finding("tokens seen", "cannot tell", f"{log.steps:,} steps, but not how many tokens each had")
        )
        return findings
    ratio = tokens / parameters
    seen = (
        f"{log.steps:,} steps, about {tokens:,.0f} tokens, {ratio:.1f} for each of {parameters:,} parameters "
        f"(Chinchilla {CHINCHILLA}, CS336's TinyStories model {CS336})"
    )
    if ratio < CS336 / 2:
        findings.append(Finding("tokens seen", "note", seen, "More text or more epochs would make it better."))
    else:
        findings.append(Finding("tokens seen", "ok", seen))
    return findings


def check_validation(log: Log) -> list[Finding]:
    """Is validation still falling, and does it rise while training falls?"""
    check = "validation curve"
    figures = log.figures
    if len(figures) < 2:
        return [Finding(check, "cannot tell", f"the log has {len(figures)} evaluations; it takes two")]
    last = figures[-4:]
    steps, values = np.array(last, dtype=float).T
    slope = float(np.polyfit(steps, values, 1)[0]) * 1000
    best_step, best = min(figures, key=lambda figure: figure[1])
    gain = (figures[-2][1] - figures[-1][1]) / figures[-2][1]
    seen = (
        f"{values[-1]:.4f} {log.unit} at step {figures[-1][0]:,}; {slope:+.4f} per thousand steps over the last "
        f"{len(last)} evaluations, {-gain:+.1%} at the last"
    )
    findings = []
    if figures[-1][1] > best * (1 + WORSE / 2) and best_step < figures[-1][0]:
        findings.append(
            Finding(check, "note", f"{seen}: it has risen from {best:.4f} at step {best_step:,}", "See overfitting.")
        )
    elif gain > FALLING:
        findings.append(
            Finding(check, "note", f"{seen}: still falling", "A longer run (more steps or epochs) would be better.")
        )
    else:
        findings.append(Finding(check, "ok", f"{seen}: it has levelled out"))
    findings.append(_check_overfitting(log, best_step, best))
    return findings


def _check_overfitting(log: Log, best_step: int, best: float) -> Finding:
    check = "overfitting"
    if len(log.losses) < 2 or len(log.figures) < 3:
        return Finding(check, "cannot tell", f"{len(log.losses)} training losses, {len(log.figures)} evaluations")
    end_step, end = log.figures[-1]
    at_best = np.interp(best_step, *np.array(log.losses).T)
    at_end = np.interp(end_step, *np.array(log.losses).T)
    training = f"the training loss went from {at_best:.3f} to {at_end:.3f} nats"
    if end > best * (1 + WORSE) and at_end < at_best:
        return Finding(
            check,
            "fault",
            f"since step {best_step:,} validation has risen from {best:.4f} to {end:.4f} {log.unit}, while {training}",
            f"Use the checkpoint of step {best_step:,}; train on more stories, fewer epochs, or a smaller model.",
        )
    if end > best * (1 + WORSE):
        return Finding(
            check,
            "note",
            f"since step {best_step:,} validation has risen from {best:.4f} to {end:.4f} {log.unit}, and {training}",
            "Not overfitting but instability: lower the learning rate.",
        )
    return Finding(check, "ok", f"the last evaluation ({end:.4f}) is within {WORSE:.0%} of the best ({best:.4f})")


def check_checkpoint(folder: Path, log: Log) -> Finding:
    """Whether the model in `folder` (a run folder or a checkpoint of one) is the best that its run has."""
    check = "best checkpoint"
    whole = _whole_run(folder, log)
    if not whole.figures:
        return Finding(check, "cannot tell", "the log has no evaluation")
    best_step, best = min(whole.figures, key=lambda figure: figure[1])
    own = _own_figure(folder, log, best_step)
    if own is None:
        return Finding(check, "cannot tell", f"step {log.steps:,} was not evaluated")
    shown = f"{own:.4f} {whole.unit}"
    if own <= best * (1 + 1e-4):
        return Finding(check, "ok", f"{shown} is the best of {len(whole.figures)} evaluations")
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    kept = run / f"checkpoint-{best_step}"
    where = f"{kept} has it" if kept.is_dir() else "that checkpoint was not kept"
    return Finding(
        check,
        "fault" if own > best * (1 + WORSE) else "note",
        f"{shown} here, {best:.4f} at step {best_step:,}: worse by {own - best:.4f} ({own / best - 1:.1%}); {where}",
        f"Use {kept}." if kept.is_dir() else "Set load_best_model_at_end and a larger save_total_limit.",
    )


def _whole_run(folder: Path, log: Log) -> Log:
    """The longest log of the run: that of a checkpoint stops where the checkpoint was made."""
    if not folder.name.startswith("checkpoint-"):
        return log
    logs = [log]
    for other in (folder.parent, *folder.parent.glob("checkpoint-*")):
        try:
            logs.append(read_log(other))
        except UserError:
            continue
    return max(logs, key=lambda found: len(found.figures))


def _own_figure(folder: Path, log: Log, best_step: int) -> float | None:
    """The figure of the weights that lie in `folder`, where the log has it."""
    figures = dict(log.figures)
    if folder.name.startswith("checkpoint-"):
        return figures.get(log.steps)
    weights = [place / "model.safetensors" for place in (folder, folder / f"checkpoint-{best_step}")]
    if all(file.is_file() for file in weights) and filecmp.cmp(*weights, shallow=False):
        return figures[best_step]
    return log.last_figure


def rows_seen(log: Log) -> float | None:
    """Rows trained on over all processes, from what a Trainer notes at the end of a run."""
    last = next((entry for entry in reversed(log.entries) if "train_samples_per_second" in entry), None)
    if last is None or "train_runtime" not in last:
        return None
    return last["train_samples_per_second"] * last["train_runtime"] * log.steps / max(1, log.planned)
