"""Check before a run whether there is enough text for the model, and whether warm-up and evaluations fit its length.

These findings are notes, since a short run may be a trial. `tinystories train` prints them before the first step.
"""

import math
from collections.abc import Iterable

from transformers import PreTrainedModel, TrainingArguments

from ..sizes import SIZES, parameter_count
from ..utils.console import counted
from .findings import Finding, as_check, note, ok
from .forward import embedding_count
from .hyperparameters import RunLength


# Of the training stories. From 0.13 tokens per parameter, `small-corpus` learns correct grammar; with 70 tokens per
# entry, a vocabulary of 8,192 was still better than one of 4,096 (benchmarks/RACE.md).
TOKENS_PER_PARAMETER, TOKENS_PER_ENTRY = 0.1, 50
MOST_EPOCHS = 20
FEW_STORIES, FEW_FRACTION = 50, 0.1  # of validation stories: too few if below both
CHECKS = ("training text", "warm-up", "evaluations", "validation stories")


def check_length(
    args: TrainingArguments, run: RunLength, model: PreTrainedModel, *, fine_tunes: bool = False
) -> list[Finding]:
    """Findings on a run before its first step, as far as its length is known.

    Args:
        fine_tunes: whether the model is a trained one, for which little text is enough.
    """
    return [
        *([] if fine_tunes else _check_text(run, model)),
        *_check_warmup(args, run),
        *_check_evaluations(args, run),
    ]


@as_check("validation stories")
def check_validation_stories(training: int | None, held_out: int) -> Finding:
    """Whether there are enough validation stories.

    Args:
        training: number of training stories, None for a stream.
    """
    evidence = counted(held_out, "validation story")
    if training is not None:
        evidence += f", {held_out / (training + held_out):.1%} of all"
    few = training is None or held_out < FEW_FRACTION * (training + held_out)
    if held_out < FEW_STORIES and few:
        return note(
            f"{evidence}: too few to see small differences, or overfitting",
            f"Hold out {FEW_STORIES} stories, or a tenth of all: set --validation_fraction or --validation_corpus.",
        )
    return ok(evidence)


@as_check("training text")
def _check_text(run: RunLength, model: PreTrainedModel) -> Finding | list[Finding]:
    tokens, parameters, entries = run.corpus_tokens, model.num_parameters(), embedding_count(model)
    if tokens is None:
        return []
    evidence = (
        f"{tokens:,.0f} tokens in the training stories, {tokens / parameters:.2g} per parameter ({parameters:,} "
        f"parameters) and {tokens / entries:,.0f} per entry of the vocabulary ({entries:,} entries)"
    )
    needed = max(TOKENS_PER_PARAMETER * parameters, TOKENS_PER_ENTRY * entries)
    if tokens < needed:
        return note(f"{evidence}: too little text for this model, which will memorise it", _smaller(tokens, needed))
    if run.epochs is not None and run.epochs > MOST_EPOCHS:
        advice = "The model will memorise the stories: set fewer steps, or --num_train_epochs 5."
        return note(f"{evidence}, in {run.epochs:,.0f} epochs", advice)
    return ok(evidence)


def _smaller(tokens: float, needed: float) -> str:
    """What to change if there are fewer tokens than needed."""
    more = f"{needed / tokens:.2g} times as much text"
    fitting = [
        name
        for name, shape in SIZES.items()
        if tokens >= max(TOKENS_PER_PARAMETER * parameter_count(shape), TOKENS_PER_ENTRY * shape["vocab_size"])
    ]
    if fitting:
        return f"Use --size {fitting[-1]}, or {more}."
    return f"Use {more}: also the smallest size, {next(iter(SIZES))}, needs more text than there is."


@as_check("warm-up")
def _check_warmup(args: TrainingArguments, run: RunLength) -> Finding | list[Finding]:
    total = run.planned or run.steps
    if not total:
        return []
    steps = args.get_warmup_steps(total)
    if steps >= total:
        return note(
            f"{counted(steps, 'step')} of warm-up in a run of {counted(total, 'step')}: the learning rate never "
            f"reaches its maximum, and never decays",
            "Set --warmup_steps 0.05, a fraction of all steps, or train for longer.",
        )
    return ok(f"{steps:,} of {counted(total, 'step')}")


@as_check("evaluations")
def _check_evaluations(args: TrainingArguments, run: RunLength) -> Finding | list[Finding]:
    total = run.planned or run.steps
    if not total or args.eval_strategy != "steps" or not args.eval_steps:
        return []
    every = math.ceil(args.eval_steps * total) if args.eval_steps < 1 else int(args.eval_steps)
    number = (total - 1) // every
    if not number:
        return note(
            f"none before the last of {counted(total, 'step')} (eval_steps is {every:,}), so overfitting would not be "
            f"noticed, and the last weights are kept",
            "Set --eval_steps 0.1, a fraction of all steps.",
        )
    return ok(f"{number:,} before the last of {counted(total, 'step')}")


def verdict(findings: Iterable[Finding]) -> list[str]:
    """The findings of these checks as lines to print before the first step."""
    problems = [finding for finding in findings if finding.check in CHECKS and finding.status != "ok"]
    if not problems:
        return ["verdict     enough text and validation stories; warm-up and evaluations fit the length of the run"]
    lines = [f"warning: {finding.check}: {finding.evidence}. {finding.advice}" for finding in problems]
    return [f"verdict     {counted(len(problems), 'warning')}; training starts nevertheless", *lines]
