"""The peak memory of a training step, measured instead of computed from the configuration.

- Forward and backward pass of a batch run with the trainer's own loss and attention, and all live tensors are counted.
- On a GPU, a whole batch runs, and torch's allocator reports the peak or an error. On a CPU, where the system kills a
  process that takes too much memory, only a few rows run, and the peak of a batch is extrapolated.
- Evaluation is measured, too: it stores the logits of a whole batch, which the training step of this package does not.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from ..training.kernels.head_loss import LOGITS_AT_A_TIME
from ..training.optimizers import hidden_matrices
from .batches import Rows
from .findings import Finding, as_check, error, note, ok
from .forward import embedding_count, evaluate_batch, forward_and_backward, model_of
from .recorder import Recorder


GIB = 2**30
# Growth of the process over the live tensors at the peak, because of fragmentation. Measured on a CPU with glibc's
# allocator: 1.0 to 1.3 in float32 and 1.7 in bf16 (3.4M parameters, 4 to 12 rows of 768, vocabulary 400 to 4,096).
CPU_OVERHEAD, CPU_BF16_OVERHEAD = 1.3, 1.8
GPU_OVERHEAD = 1.1


def size_in_words(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"


def free_memory(device: torch.device) -> int:
    """Free memory on the device in bytes; on a CPU, the memory that this process may still use."""
    if device.type == "cuda":
        # Memory that torch has cached is available to torch.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        # A container may have less than the machine.
        return min(free, int(limit.read_text("ascii")) - int(used.read_text("ascii")))
    except (OSError, ValueError):
        return free


def optimizer_bytes(model: PreTrainedModel, args: TrainingArguments, muon: bool) -> int:
    """Bytes of the optimizer's states: two numbers per weight for Adam and similar ones, one for Muon's matrices."""
    numbers = 2 if "adam" in args.optim or muon else 1
    size = numbers * tensor_bytes(weight for weight in model.parameters() if weight.requires_grad)
    return size - tensor_bytes(hidden_matrices(model).values()) if muon else size


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_bytes(
    trainer: Trainer, rows: Rows, compute: Callable[[Trainer, dict], None], count: int, *, whole: bool
) -> tuple[int, str]:
    """Peak memory in bytes, without the weights, of `compute(trainer, inputs)` for `count` rows, and how it was
    measured.

    Args:
        whole: run a whole batch if the device raises an error for one that does not fit.

    Raises:
        torch.OutOfMemoryError: if a whole batch does not fit.
    """
    device, model = trainer.args.device, model_of(trainer)
    if device.type == "cuda" and whole:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            compute(trainer, rows.select(range(count)).inputs)
            return torch.cuda.max_memory_allocated(device) - before, "measured on a whole batch"
        finally:
            torch.cuda.empty_cache()

    def measure(some: int) -> int:
        inputs = rows.select(range(some)).inputs
        own = [*model.parameters(), *(each for each in inputs.values() if isinstance(each, torch.Tensor))]
        with Recorder(own) as recorder:
            compute(trainer, inputs)
        return recorder.peak

    available = min(count, len(rows.ids))
    # The loss stores up to LOGITS_AT_A_TIME logits twice; below that, each row adds its logits.
    logits_of_a_row = rows.ids.shape[1] * embedding_count(model)
    few = min(available // 2, -(-2 * LOGITS_AT_A_TIME["cpu"] // logits_of_a_row))
    if few < 1:
        return measure(1) * count, "measured on one row"
    fewer, more = measure(few), measure(2 * few)
    # Memory grows linearly with the rows; a constant part, such as the gradients, is counted once.
    return fewer + round((count / few - 1) * max(0, more - fewer)), f"measured on {few} and {2 * few} rows"


@as_check("memory")
def check_memory(trainer: Trainer, rows: Rows, muon: bool) -> Finding:
    """Compare the memory that training needs in addition to the weights with the free memory."""
    model, args = model_of(trainer), trainer.args
    weights = tensor_bytes(model.parameters())
    gradients = tensor_bytes(weight for weight in model.parameters() if weight.requires_grad)
    states = optimizer_bytes(model, args, muon) + (weights if getattr(trainer, "ema", None) else 0)
    count, length = rows.ids.shape
    smaller = "Lower per_device_train_batch_size, and raise gradient_accumulation_steps by the same factor."
    may_adapt = args.gradient_checkpointing or args.auto_find_batch_size
    try:
        batch, how = peak_bytes(trainer, rows, forward_and_backward, count, whole=True)
    except torch.OutOfMemoryError:
        evidence = f"a batch of {count} rows of {length} tokens does not fit on {args.device} (measured)"
        evidence += f"; {size_in_words(free_memory(args.device))} free"
        return note(evidence, smaller) if may_adapt else error(evidence, smaller)
    # With gradient accumulation, the gradients of earlier batches stay in memory.
    batch += gradients if args.gradient_accumulation_steps > 1 else 0
    step, evaluation = max(batch, 2 * gradients), 0
    if trainer.eval_dataset is not None:
        evaluation, _ = peak_bytes(trainer, rows, evaluate_batch, args.eval_batch_size, whole=False)
    cpu_overhead = CPU_BF16_OVERHEAD if args.bf16 else CPU_OVERHEAD
    overhead = cpu_overhead if args.device.type == "cpu" else GPU_OVERHEAD
    # The weights are already in memory.
    needed, free = round(states + overhead * max(step, evaluation)), free_memory(args.device)
    loss = "without storing all logits" if getattr(trainer, "_uses_head_loss", False) else "with all logits"
    evidence = (
        f"about {size_in_words(needed)} in addition to {size_in_words(weights)} of weights: {size_in_words(states)} "
        f"of optimizer state, and a peak of {size_in_words(step)} for a training batch of {count} rows of {length} "
        f"tokens, {loss} ({how})"
    )
    if evaluation:
        evidence += f", or {size_in_words(evaluation)} for an evaluation batch of {args.eval_batch_size} rows"
    evidence += f", plus {overhead - 1:.0%} for the allocator; {size_in_words(free)} free on {args.device}"
    smaller = "Lower per_device_eval_batch_size." if evaluation > step else smaller
    if needed > free and may_adapt:
        return note(evidence, "Without gradient checkpointing, this would exceed the free memory.")
    if needed > free:
        return error(evidence, smaller)
    if needed > 0.8 * free:
        return note(evidence, f"Little memory is left. {smaller}")
    return ok(evidence)
