"""Varlen attention over packed rows, without a mask: `attn_implementation="story_varlen"`.

- It is registered with transformers' attention and mask interfaces, so every model that uses them can be trained with
  it. The mask function that transformers builds from `position_ids` determines where documents start.
- On a GPU it runs `torch.nn.attention.varlen`, on a CPU the operator in kernels/attention.py.
- SDPA with a mask is used where it is not supported: with padding masks, caches, sliding windows, attention dropout,
  and in float32 on a GPU.
- `packed_attention(model)` selects it temporarily, so that no saved configuration contains its name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from .kernels import attention as kernels


NAME = "story_varlen"
DROPOUTS = ("attention_dropout", "attn_pdrop")


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use `story_varlen` in `model` during the block, if [`is_supported`]."""
    if not is_supported(model):
        yield
        return
    before, model.config._attn_implementation = model.config._attn_implementation, NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def is_supported(model: PreTrainedModel) -> bool:
    """Whether [`packed_attention`] changes the attention of `model`."""
    return unsupported_reason(model) is None


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why packed rows of `model` are computed with a mask, or None if varlen attention supports it."""
    config = model.config
    if not getattr(model, "_supports_attention_backend", False):
        return "the model does not use transformers' attention interface"
    if config._attn_implementation not in ("sdpa", NAME):
        return f"attn_implementation is {config._attn_implementation}"
    return _unsupported_setting(config, model.device)


def active_implementation(model: PreTrainedModel) -> str:
    """The attention implementation of packed rows in training: `story_varlen`, or that of `model`'s configuration."""
    return NAME if is_supported(model) else model.config._attn_implementation


def kernel_name(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The kernel that `story_varlen` runs for heads of this size and dtype (under autocast, the lower one)."""
    if device.type == "cuda":
        return "flash attention with cu_seqlens" if dtype in (torch.bfloat16, torch.float16) else "SDPA with a mask"
    return (
        "the native CPU kernel of this package"
        if kernels.uses_native_kernel(dtype, head_dim)
        else "torch's flash attention for CPUs"
    )


def _unsupported_setting(config: PreTrainedConfig, device: torch.device) -> str | None:
    if any(getattr(config, name, 0) for name in DROPOUTS):
        return "attention dropout needs the attention weights"
    if (getattr(config, "sliding_window", None) or 0) and getattr(config, "use_sliding_window", True):
        return "the model attends within a sliding window"
    if device.type == "cuda":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if head_dim % 8 or head_dim > 256:
            return f"flash attention does not support a head size of {head_dim}"
        if not _has_flash_attention(device):
            return "this GPU or this version of torch has no flash attention"
    elif device.type != "cpu":
        return f"there is no kernel for {device.type}"
    return None


@torch.compiler.assume_constant_result
def _has_flash_attention(device: torch.device) -> bool:
    return (
        torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.backends.cuda.flash_sdp_enabled()
    )


def _matmul_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of matrix products with tensors of `dtype`, which autocast may change."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def varlen_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    *,
    config: PreTrainedConfig,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The `attention_mask` of the layers: `cu_seqlens` `[documents + 1]` of packed rows, otherwise SDPA's mask.

    A token starts a document if `mask_function` does not let it attend to the token before it.
    """
    device = torch.device(device)
    dense = use_vmap or attention_mask is not None or q_length != kv_length
    if device.type == "cuda" and _matmul_dtype(dtype, device) not in (torch.bfloat16, torch.float16):
        dense = True
    if dense or _unsupported_setting(config, device):
        return sdpa_mask(
            batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
            mask_function=mask_function, attention_mask=attention_mask, device=device, use_vmap=use_vmap, **kwargs,
        )  # fmt: skip
    rows = torch.arange(batch_size, device=device)[:, None]
    tokens = torch.arange(1, q_length, device=device)[None]
    starts = torch.ones((batch_size, q_length), dtype=torch.bool, device=device)
    starts[:, 1:] = ~mask_function(rows, torch.zeros_like(rows), tokens, tokens - 1)
    return kernels.cu_seqlens(starts)


def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `[batch, heads, length, head_dim]`; `attention_mask` is what [`varlen_mask`] returned."""
    if attention_mask is None or attention_mask.ndim != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, length, head_dim = query.shape
    scaling = head_dim**-0.5 if scaling is None else scaling
    groups = heads // key.shape[1]
    # Under autocast, the rotary embedding returns float32.
    dtype = _matmul_dtype(value.dtype, value.device)
    query, key, value = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    if query.device.type == "cuda":
        output: torch.Tensor = varlen_attn(  # type: ignore[assignment]  # a pair only with `return_aux`
            query, key, value, attention_mask, attention_mask, length, length, scale=scaling, window_size=(-1, 0)
        )
    else:
        output, _ = kernels.varlen_attention(query, key, value, attention_mask, scaling)
    return output.view(batch, length, heads, head_dim), None


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, varlen_mask)
