"""What a run needs of the machine beside memory (see `step.py`): precision, disk and time.

Time comes from real steps on a copy of the model, which is deleted afterwards. It leaves out evaluation, so it is an
estimate.
"""

import copy
import shutil
import time
from datetime import timedelta
from pathlib import Path

import torch

from .batches import Rows
from .findings import Finding
from .hyperparameters import Run
from .training_step import optimizer_bytes, size_in_words, some_rows


SECONDS_A_MEASUREMENT = 2.0


def check_precision(args) -> Finding:
    """Whether the machine computes in bf16, and whether training does."""
    from ..utils.hardware import computes_in_bf16

    check = "precision"
    can = computes_in_bf16(args.device.type == "cpu")
    has = f"{args.device.type} has {'' if can else 'no '}bf16 instructions"
    if args.bf16 and can:
        return Finding(check, "ok", f"bf16 autocast; {has}")
    if args.bf16:
        return Finding(
            check,
            "note",
            f"bf16 autocast, but {has}",
            "bf16 is emulated here, and slow: set it to false, or in a recipe to auto.",
        )
    used = "fp16" if args.fp16 else "fp32"
    if can:
        return Finding(
            check, "note", f"{used}, although {has}", "bf16 is faster: set it to true, or in a recipe to auto."
        )
    return Finding(check, "ok", f"{used}; {has}")


def check_disk(
    model, args, optimizer: str | None, steps: int | None, output_dir: str | Path, averaged: bool = False
) -> Finding:
    """The disk space that checkpoints and the model take, against what is free.

    Args:
        averaged: checkpoints hold an average of the weights beside the weights.
    """
    check = "disk"
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if getattr(model.config, "tie_word_embeddings", False):
        head = model.get_output_embeddings()
        shared = head is not None and head.weight is not model.get_input_embeddings().weight
        weights -= head.weight.numel() * head.weight.element_size() if shared else 0
    one = weights * (2 if averaged else 1) + (0 if args.save_only_model else optimizer_bytes(model, args, optimizer))
    kind = getattr(args.save_strategy, "value", args.save_strategy)
    if kind == "no":
        count, how = 0, "no checkpoints"
    elif args.save_total_limit:
        # A new one is complete before an old one is deleted, and the best one is kept beside the last ones.
        count = args.save_total_limit + 1
        how = f"{args.save_total_limit} checkpoints, and one while it is written"
    elif kind == "steps" and steps:
        every = args.save_steps if args.save_steps >= 1 else max(1, round(args.save_steps * steps))
        count = int(steps // every) + 1
        how = f"a checkpoint every {every:g} of {steps:,} steps, none deleted"
    elif kind == "epoch":
        count = int(args.num_train_epochs) + 1
        how = "a checkpoint per epoch, none deleted"
    else:
        return Finding(
            check,
            "inconclusive",
            "how many checkpoints will be kept depends on the length of the run, which is not known",
            "Set save_total_limit.",
        )
    place = Path(output_dir).absolute()
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    needed, free = count * one + weights, shutil.disk_usage(place).free
    evidence = (
        f"{size_in_words(needed)} ({how}, {size_in_words(one)} each, and the model); {size_in_words(free)} free in "
        f"{place}"
    )
    if needed > free:
        return Finding(check, "error", evidence, "Set save_total_limit, or an output_dir on another disk.")
    if needed > 0.5 * free:
        return Finding(check, "note", evidence, "Little disk is left: set save_total_limit.")
    return Finding(check, "ok", evidence)


def measure_step(trainer, rows: Rows) -> float:
    """Seconds of one optimizer step, from real ones on a copy of the model with as many rows as fit the time."""
    args, total = trainer.args, len(rows.ids)
    model = copy.deepcopy(trainer.model).train()
    optimizer = _fresh_optimizer(trainer, model)

    def seconds(count: int) -> float:
        prepared = trainer._prepare_inputs(some_rows(rows, count))
        _wait(args.device)
        began = time.perf_counter()
        with torch.enable_grad():
            with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, prepared)
            loss.backward()
        _wait(args.device)
        return time.perf_counter() - began

    seconds(1)
    count = max(1, min(total, int(SECONDS_A_MEASUREMENT / 3 / max(1e-6, seconds(1)))))
    batch = min(seconds(count) for _ in range(3)) * total / count
    update = []
    for _ in range(2):
        _wait(args.device)
        began = time.perf_counter()
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        _wait(args.device)
        update.append(time.perf_counter() - began)
    return batch * args.gradient_accumulation_steps + min(update)


def _fresh_optimizer(trainer, model) -> torch.optim.Optimizer:
    """What the trainer would make for this model, without its keeping it."""
    kept = trainer.optimizer
    trainer.optimizer = None
    try:
        return trainer.create_optimizer(model)
    finally:
        trainer.optimizer = kept


def check_time(trainer, rows: Rows, run: Run) -> Finding:
    """How long the run will take, or how far it will come in its time, from a few real steps."""
    check = "time"
    seconds = measure_step(trainer, rows)
    measured = f"{seconds:.2f} s per step, about {run.tokens_per_step / seconds:,.0f} tokens per second, measured here"
    if run.minutes is not None:
        steps = max(1, int(run.minutes * 60 / seconds))
        return Finding(
            check,
            "ok",
            f"an estimate: about {steps:,} steps and {steps * run.tokens_per_step:,.0f} tokens in the {run.minutes:g} "
            f"minutes of the run ({measured}), less what evaluation takes",
        )
    if run.steps is None:
        return Finding(check, "inconclusive", f"{measured}; how many steps the run will have is not known")
    whole = timedelta(seconds=round(run.steps * seconds))
    return Finding(check, "ok", f"an estimate: {whole} for {run.steps:,} steps ({measured}), evaluation not counted")


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
