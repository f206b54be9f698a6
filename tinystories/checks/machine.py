"""Check the machine's requirements other than memory: precision, disk space and time.

The time is estimated from real steps on a copy of the model, which is deleted afterwards; it excludes evaluation.
"""

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..training.trainer import StoryTrainer
from ..utils.console import counted
from ..utils.hardware import computes_in_bf16
from ..utils.paths import nearest_existing
from .batches import Rows
from .findings import Finding, as_check, error, inconclusive, note, ok
from .forward import model_of, training_pass
from .hyperparameters import RunLength
from .memory import optimizer_bytes, size_in_words, tensor_bytes


SECONDS_PER_MEASUREMENT = 2.0


@as_check("precision")
def check_precision(args: TrainingArguments) -> Finding:
    """Whether the machine computes in bf16, and whether training does."""
    supported = computes_in_bf16(args.device.type == "cpu")
    machine = f"{args.device.type} has {'' if supported else 'no '}bf16 instructions"
    used = "bf16 autocast" if args.bf16 else "fp16" if args.fp16 else "fp32"
    if args.bf16 == supported:
        return ok(f"{used}; {machine}")
    if args.bf16:
        advice = "bf16 is emulated on this device, which is slow: set bf16 to false, or to auto in a recipe."
        return note(f"{used}, but {machine}", advice)
    return note(f"{used}, although {machine}", "bf16 is faster: set bf16 to true, or to auto in a recipe.")


@as_check("disk")
def check_disk(trainer: Trainer, muon: bool, steps: int | None, output_dir: str | Path) -> Finding:
    """Compare the disk space that checkpoints and the model need with the free space.

    Args:
        steps: of the run; None if unknown.
    """
    model, args = model_of(trainer), trainer.args
    _, count = checkpoints_at_once(args, steps, best_beside=isinstance(trainer, StoryTrainer))
    if count is None:
        return inconclusive(
            "the number of checkpoints depends on the length of the run, which is not known", "Set save_total_limit."
        )
    one = checkpoint_bytes(model, args, muon=muon, averaged=getattr(trainer, "ema", None) is not None)
    folder = nearest_existing(Path(output_dir).absolute())
    needed, free = count * one + tensor_bytes(model.parameters()), shutil.disk_usage(folder).free
    evidence = (
        f"{size_in_words(needed)} needed (up to {counted(count, 'checkpoint')} at a time, {size_in_words(one)} each, "
        f"and the model); {size_in_words(free)} free in {folder}"
    )
    if needed > free:
        return error(evidence, "Set save_total_limit, or an output_dir on another disk.")
    if needed > 0.5 * free:
        return note(evidence, "Little disk space is left: set save_total_limit.")
    return ok(evidence)


def checkpoint_bytes(model: PreTrainedModel, args: TrainingArguments, *, muon: bool, averaged: bool) -> int:
    """Bytes of a checkpoint: the weights, their average if there is one, and the states of the optimizer."""
    weights = tensor_bytes(model.parameters())
    return weights * (2 if averaged else 1) + (0 if args.save_only_model else optimizer_bytes(model, args, muon))


def checkpoints_at_once(
    args: TrainingArguments, steps: int | None, *, best_beside: bool = True
) -> tuple[int, int | None]:
    """The fewest and the most checkpoints that are on the disk at one time during a run.

    Args:
        steps: of the run; None or -1 if unknown, and then the most may be None.
        best_beside: the best checkpoint is kept in addition to `save_total_limit` others, as in `StoryTrainer`;
            transformers' `Trainer` does so only for a limit of 1.
    """
    if args.save_strategy == "no":
        return 0, 0
    saves = None
    if args.save_strategy == "steps" and steps is not None and steps > 0:
        every = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * steps)
        saves = math.ceil(steps / every)  # one is written at the end, too
    elif args.save_strategy == "epoch" and args.max_steps <= 0:
        saves = math.ceil(args.num_train_epochs)
    limit = args.save_total_limit
    if not limit or limit < 1:
        return saves or 1, saves
    # The oldest is deleted when the next one is complete.
    most = limit + 1 + (args.metric_for_best_model is not None and (best_beside or limit == 1))
    return min(saves or 1, limit + 1), min(saves or most, most)


def measure_step(trainer: Trainer, rows: Rows) -> float:
    """Seconds of one optimizer step, measured on a copy of the model with as many rows as fit into
    `SECONDS_PER_MEASUREMENT`."""
    args, total = trainer.args, len(rows.ids)

    def backward(inputs: dict) -> None:
        with training_pass(trainer, inputs) as loss:
            loss.backward()

    def update() -> None:
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model_of(trainer).parameters(), args.max_grad_norm)
        optimizer.step()

    def measure_batch(count: int) -> float:
        inputs = trainer._prepare_inputs(rows.select(range(count)).inputs)
        return _seconds(args.device, lambda: backward(inputs))

    with _copied_model(trainer) as optimizer:
        measure_batch(1)
        count = max(1, min(total, int(SECONDS_PER_MEASUREMENT / 3 / max(1e-6, measure_batch(1)))))
        batch = min(measure_batch(count) for _ in range(3)) * total / count
        return batch * args.gradient_accumulation_steps + min(_seconds(args.device, update) for _ in range(2))


@contextmanager
def _copied_model(trainer: Trainer) -> Iterator[torch.optim.Optimizer]:
    """Within the block, the trainer has a copy of its model; yields an optimizer for that copy."""
    model, optimizer = trainer.model, trainer.optimizer
    trainer.model, trainer.optimizer = copy.deepcopy(model_of(trainer)).train(), None
    try:
        yield trainer.create_optimizer(trainer.model)
    finally:
        trainer.model, trainer.optimizer = model, optimizer


def _seconds(device: torch.device, compute: Callable[[], None]) -> float:
    synchronize = torch.cpu.synchronize if device.type == "cpu" else torch.accelerator.synchronize
    synchronize(device)
    start = time.perf_counter()
    compute()
    synchronize(device)
    return time.perf_counter() - start


@as_check("time")
def check_time(trainer: Trainer, rows: Rows, run: RunLength) -> Finding:
    """Estimate how long the run will take, or how many steps it can make in its time limit, from a few real steps."""
    tokens = run.tokens_per_step
    assert tokens is not None  # wherever there are rows
    seconds = measure_step(trainer, rows)
    measured = f"{seconds:.2f} s per step, about {tokens / seconds:,.0f} tokens per second, measured on this machine"
    if run.minutes is not None:
        steps = max(1, int(run.minutes * 60 / seconds))
        return ok(
            f"estimate: about {steps:,} steps and {steps * tokens:,.0f} tokens in {run.minutes:g} minutes "
            f"({measured}), without time for evaluations"
        )
    if run.steps is None:
        return inconclusive(f"{measured}; the number of steps of the run is not known")
    duration = timedelta(seconds=round(run.steps * seconds))
    return ok(f"estimate: {duration} for {run.steps:,} steps ({measured}), excluding evaluation")
