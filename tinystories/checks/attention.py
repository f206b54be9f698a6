"""The attention implementation that a trainer uses, observed in a forward pass instead of read from a setting."""

from typing import Any

from torch import Tensor
from transformers import Trainer

from ..training.packed_attention import DROPOUTS, active_implementation, kernel_name, unsupported_reason
from .batches import Rows
from .findings import Finding, as_check, inconclusive, note, ok
from .forward import model_of, training_loss
from .memory import size_in_words
from .recorder import PER_DOCUMENT, SOFTMAX, Recorder


KERNELS = {
    "_scaled_dot_product_flash_attention_for_cpu": "torch's flash attention for CPUs",
    "_scaled_dot_product_flash_attention": "flash attention",
    "_scaled_dot_product_efficient_attention": "memory-efficient attention",
    "_scaled_dot_product_cudnn_attention": "cuDNN attention",
    "flex_attention": "flex attention",
}
MASK_NAMES = ("attn_mask", "attn_bias")


@as_check("attention kernel")
def check_attention(trainer: Trainer, rows: Rows) -> Finding:
    """Report the attention kernel of a training step, and how it gets document boundaries: `cu_seqlens`, a mask or not
    at all."""
    model = model_of(trainer).train()
    with Recorder() as recorder:
        training_loss(trainer, rows.inputs)
    packs = hasattr(trainer, "attention_context")
    if recorder.attention is None:
        implementation = active_implementation(model) if packs else model.config._attn_implementation
        return inconclusive(
            f"no attention operator was observed in a forward pass (attn_implementation {implementation!r})"
        )
    name, arguments, results = recorder.attention
    if name in SOFTMAX:
        return _without_kernel(trainer, results)
    query = next(value for value in arguments.values() if isinstance(value, Tensor) and value.ndim >= 3)
    shape = f"{query.shape[1]} heads of {query.shape[-1]}, {_dtype(query)}"
    if name in PER_DOCUMENT:
        kernel = kernel_name(query.device, query.dtype, query.shape[-1])
        documents = f"{len(rows.stories):,} documents in {len(rows.ids):,} rows of {rows.ids.shape[1]:,}"
        return ok(f"story_varlen, {kernel}: each document separately, without a mask ({documents}), {shape}")
    evidence = f"{KERNELS.get(name, name)}, {_mask(arguments, rows)}, {shape}"
    if packs:
        default = "these rows have an attention_mask, or are float32 on a GPU"
        evidence += f"; not separately for each document, because {unsupported_reason(model) or default}"
    return ok(evidence)


def _without_kernel(trainer: Trainer, scores: Tensor) -> Finding:
    config = model_of(trainer).config
    reason = ""
    if config._attn_implementation == "eager":
        reason = " (attn_implementation is eager)"
    elif trainer.args.device.type == "cpu" and any(getattr(config, name, 0) for name in DROPOUTS):
        reason = " (attention dropout, which the fused kernels of this device do not support)"
    batch, heads, length, _ = scores.shape
    return note(
        f"no fused kernel: matrix products and a softmax over {heads} heads and rows of {length}{reason}; each layer "
        f"stores attention scores of {size_in_words(scores.nbytes)} for {batch} rows, {_dtype(scores)}",
        "A fused kernel is faster and stores no scores: use attn_implementation sdpa, no attention dropout, and bf16 "
        "on a GPU.",
    )


def _mask(arguments: dict[str, Any], rows: Rows) -> str:
    mask = next((arguments[name] for name in MASK_NAMES if arguments.get(name) is not None), None)
    if mask is None:
        return "causal, without a mask"
    kind = "document mask" if rows.marked else "mask"
    return f"with a {kind} of {list(mask.shape)} ({size_in_words(mask.untyped_storage().nbytes())})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
