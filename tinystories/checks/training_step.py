"""What one training step runs and holds: the attention that really computes it, and its memory at the peak.

Design decisions:

- Nothing is predicted from the configuration. A batch of the trainer goes forward and backward through its own
  `compute_loss`, and a dispatch mode records the operators that run and the storages that are alive.
- On a GPU a whole batch runs, and torch's allocator gives the peak; a batch that does not fit says so. On a CPU, where
  a process that takes too much memory is killed, one row and two rows run, and the rest is extrapolated.
- Evaluation is measured, too: it holds the logits of a whole batch, which the training step of this package does not.
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..training.packed_attention import kernel_name
from .batches import Rows
from .findings import Finding


GIB = 2**30
# What a process grows by, over what its tensors hold at the peak: pieces that the allocator cannot use again. On a CPU
# glibc's allocator was seen to take 1.0 to 1.3 times as much (3.4M parameters, 4 to 12 rows of 768, vocabularies of
# 400 to 4,096).
OVERHEAD = {"cpu": 1.3}
OTHER_OVERHEAD = 1.1

PER_DOCUMENT = ("varlen_attention", "_varlen_attn")  # the operators of training/packed_attention.py
KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu": "torch's flash attention for CPUs",
    "_scaled_dot_product_flash_attention": "flash attention",
    "_scaled_dot_product_efficient_attention": "memory-efficient attention",
    "_scaled_dot_product_cudnn_attention": "cuDNN attention",
    "flex_attention": "flex attention",
}
WRITTEN_OUT = ("_softmax", "_safe_softmax")
MASK_NAMES = ("attn_mask", "attn_bias")


class Recorder(TorchDispatchMode):
    """Records the attention operators that run, and how many bytes the results of all operators hold at once.

    Args:
        own: tensors whose storage is not counted, such as weights and inputs.

    Attributes:
        attention: `(operator, its arguments by name, its results)` of the first call that computes attention.
        peak: the most bytes alive at one time.
    """

    supports_higher_order_operators = True

    def __init__(self, own):
        super().__init__()
        self.attention: tuple[str, dict, object] | None = None
        self.peak = self._held = 0
        self._sizes: dict[int, int] = {}
        self._own = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if self.attention is None:
            self._look_for_attention(func, args, kwargs or {}, results)
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        return results

    def _look_for_attention(self, func, args, kwargs, results) -> None:
        name = str(func).removesuffix(".default")
        short = name.rpartition(".")[2]
        if short in WRITTEN_OUT and isinstance(results, torch.Tensor):
            # Of attention, the softmax is over `[batch, heads, length, length]`; a loss has no such shape.
            if results.ndim != 4 or results.shape[-1] != results.shape[-2] or results.shape[-1] == 1:
                return
        elif "attention" not in short and "attn" not in short:
            return
        schema = getattr(func, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        self.attention = name, {**dict(zip(names, args, strict=False)), **kwargs}, results

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._own or key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._held += self._sizes[key]
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self._held -= self._sizes.pop(key, 0)


def some_rows(rows: Rows, count: int) -> dict:
    """The inputs of the first `count` rows."""
    total = len(rows.ids)
    return {
        name: value[:count] if isinstance(value, torch.Tensor) and value.ndim and len(value) == total else value
        for name, value in rows.inputs.items()
    }


def forward_and_backward(trainer, inputs: dict) -> None:
    """A training step on these inputs, without the optimizer; no gradient is left in the model."""
    trainer.model.train()
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    with torch.enable_grad(), getattr(trainer, "attention_context", nullcontext)():
        with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
            # As training calls it: where the outputs are not asked for, some models hold no logits.
            loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(inputs)))
        torch.autograd.grad(loss, weights, allow_unused=True)


def evaluate_batch(trainer, inputs: dict) -> None:
    """What `Trainer.evaluate` computes for one batch."""
    trainer.model.eval()
    _, logits, labels = trainer.prediction_step(trainer.model, dict(inputs), prediction_loss_only=False)
    if trainer.preprocess_logits_for_metrics is not None:
        trainer.preprocess_logits_for_metrics(logits, labels)


# Attention


def check_attention(trainer, rows: Rows) -> Finding:
    """Which attention computes these rows in training, as seen in a forward pass."""
    check = "attention kernel"
    trainer.model.train()
    inputs = trainer._prepare_inputs(dict(rows.inputs))
    with Recorder([]) as recorder, torch.no_grad():
        with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
            trainer.compute_loss(trainer.model, inputs)
    implementation = getattr(trainer.model.config, "_attn_implementation", None)
    if recorder.attention is None:
        return Finding(
            check,
            "inconclusive",
            f"no attention operator was seen in a forward pass (attn_implementation {implementation!r})",
        )
    name, arguments, results = recorder.attention
    short = name.rpartition(".")[2]
    if short in WRITTEN_OUT:
        return _written_out(check, trainer, implementation, results)
    query = next((value for value in arguments.values() if isinstance(value, torch.Tensor) and value.ndim >= 3), None)
    if short in PER_DOCUMENT:
        kernel, masked = (
            kernel_name(query.device, query.dtype, query.shape[-1]),
            f"each document by itself ({_documents(rows)})",
        )
        heads = query.shape[1]
    else:
        kernel = KERNELS.get(short, name)
        heads = query.shape[1] if query is not None and query.ndim == 4 else None
        masked = _mask_of(arguments, rows)
    shape = "" if query is None else f", {f'{heads} heads of ' if heads else ''}{query.shape[-1]}, {_dtype(query)}"
    return Finding(check, "ok", f"{kernel}, {masked}{shape}")


def _written_out(check: str, trainer, implementation: str | None, scores: torch.Tensor) -> Finding:
    causes = {
        "attention dropout, which the fused kernels of this device do not have": trainer.args.device.type == "cpu"
        and any(getattr(trainer.model.config, name, 0) for name in ("attention_dropout", "attn_pdrop")),
        "attn_implementation is eager": implementation == "eager",
    }
    why = next((f" ({cause})" for cause, applies in causes.items() if applies), "")
    batch, heads, length, _ = scores.shape
    return Finding(
        check,
        "note",
        f"no fused kernel: matrix products and a softmax over {heads} heads and rows of {length}{why}; each layer "
        f"holds scores of {size_in_words(scores.nbytes)} for {batch} rows, {_dtype(scores)}",
        "A fused kernel is faster and holds no scores: use attn_implementation sdpa, no attention dropout, and on a "
        "GPU bf16.",
    )


def _documents(rows: Rows) -> str:
    return f"{len(rows.stories):,} documents in {len(rows.ids):,} rows of {rows.ids.shape[1]:,}"


def _mask_of(arguments: dict, rows: Rows) -> str:
    mask = next((arguments[name] for name in MASK_NAMES if arguments.get(name) is not None), None)
    if mask is None:
        return "causal, without a mask"
    what = "document mask" if rows.marked else "mask"
    return f"with a {what} of {list(mask.shape)} ({size_in_words(mask.untyped_storage().nbytes())})"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# Memory


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device; on a CPU, what this process may still take."""
    if device.type == "cuda":
        # What torch has cached is free for torch.
        return torch.cuda.mem_get_info(device)[0] + (
            torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        # A container may have less than the machine.
        free = min(free, int(limit.read_text("ascii")) - int(used.read_text("ascii")))
    except (OSError, ValueError):
        pass
    return free


def optimizer_bytes(model, args, optimizer: str | None) -> int:
    """Bytes of the optimizer's states: two numbers a weight for Adam and its like, one for Muon's matrices."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    numbers = 2 if "adam" in args.optim or optimizer == "muon" else 1
    size = sum(numbers * weight.numel() * weight.element_size() for weight in trained)
    if optimizer == "muon":
        from ..training.optimizers import hidden_matrices

        size -= sum(weight.numel() * weight.element_size() for weight in hidden_matrices(model).values())
    return size


def peak_bytes(trainer, rows: Rows, compute: Callable, count: int, *, whole: bool) -> tuple[int, str]:
    """Bytes beside the weights at the peak of `compute(trainer, inputs)` for `count` rows, and how it was measured.

    Args:
        whole: run a whole batch where the device can say that it does not fit.

    Raises:
        torch.OutOfMemoryError: where a whole batch was tried and does not fit.
    """
    device = trainer.args.device
    if device.type == "cuda" and whole:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            compute(trainer, some_rows(rows, count))
            return torch.cuda.max_memory_allocated(device) - before, "measured on a whole batch"
        finally:
            torch.cuda.empty_cache()

    def measure(some: int) -> int:
        inputs = some_rows(rows, some)
        own = [*trainer.model.parameters(), *(each for each in inputs.values() if isinstance(each, torch.Tensor))]
        with Recorder(own) as recorder:
            compute(trainer, inputs)
        return recorder.peak

    one = measure(1)
    if min(count, len(rows.ids)) == 1:
        return one * count, "measured on one row"
    # What one row more adds is what all others add; the rest is there once, such as the gradients.
    each = max(0, measure(2) - one)
    return one + (count - 1) * each, "measured on one and two rows"


def check_memory(trainer, rows: Rows, optimizer: str | None) -> Finding:
    """The memory that training takes beside the weights, against what is free."""
    check = "memory"
    model, args = trainer.model, trainer.args
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    gradients = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    states = optimizer_bytes(model, args, optimizer) + (weights if getattr(trainer, "ema", None) else 0)
    lower = "Lower per_device_train_batch_size and raise gradient_accumulation_steps by as much."
    count = len(rows.ids)
    try:
        batch, how = peak_bytes(trainer, rows, forward_and_backward, count, whole=True)
    except torch.OutOfMemoryError:
        return Finding(
            check,
            "note" if args.auto_find_batch_size or args.gradient_checkpointing else "error",
            f"a batch of {count} rows of {rows.ids.shape[1]} does not fit on {args.device}: it was tried; "
            f"{size_in_words(free_memory(args.device))} free",
            lower,
        )
    # Gradients of the batches before stay where several batches make a step.
    batch += gradients if args.gradient_accumulation_steps > 1 else 0
    step, evaluation = max(batch, 2 * gradients), 0
    if trainer.eval_dataset is not None:
        evaluation, _ = peak_bytes(trainer, rows, evaluate_batch, args.eval_batch_size, whole=False)
    overhead = OVERHEAD.get(args.device.type, OTHER_OVERHEAD)
    # The weights are there already.
    needed, free = round(states + overhead * max(step, evaluation)), free_memory(args.device)
    evidence = (
        f"about {size_in_words(needed)} beside {size_in_words(weights)} of weights: {size_in_words(states)} of "
        f"optimizer states, and at the peak {size_in_words(step)} for a training batch of {count} rows of "
        f"{rows.ids.shape[1]} ({how})"
        + (f" or {size_in_words(evaluation)} for an evaluation batch of {args.eval_batch_size}" if evaluation else "")
        + f", {overhead - 1:.0%} more for the allocator; {size_in_words(free)} free on {args.device}"
    )
    if evaluation > step:
        lower = "Lower per_device_eval_batch_size."
    if needed > free and (args.gradient_checkpointing or args.auto_find_batch_size):
        return Finding(check, "note", evidence, "It exceeds what is free without gradient checkpointing.")
    if needed > free:
        return Finding(check, "error", evidence, lower)
    if needed > 0.8 * free:
        return Finding(check, "note", evidence, f"Little is left. {lower}")
    return Finding(check, "ok", evidence)


def size_in_words(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
