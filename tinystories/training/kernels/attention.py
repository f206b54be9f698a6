"""Causal attention over packed documents on a CPU, as a custom operator for autograd and `torch.compile`.

- float32 is computed by attention.c, more than twice as fast as torch's kernel, which is made for long sequences and
  splits documents of 200 tokens into blocks that are too small to be efficient.
- Other dtypes and head sizes, and machines without a C compiler, use torch's flash attention, one document at a time.
- attention.c runs on torch's own OpenMP threads. Other threads would compete for cores with torch's threads, which
  spin for a while after each operation.
"""

import ctypes
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from ...generation.native.build import library
from ...utils.errors import UserError


_INTEGERS = ("documents", "tokens", "heads", "head_dim", "threads", "backward")
_POINTERS = ("cu_seqlens", "query", "key", "value", "output", "log_sums", "gradient", "query_gradient",
             "key_gradient", "value_gradient", "scratch")  # fmt: skip


class _Attention(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("scaling", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("scratch_size", "next", "started")),
    ]


@torch.library.custom_op("tinystories::cu_seqlens", mutates_args=())
def cu_seqlens(starts: Tensor) -> Tensor:
    """Offsets into `batch * length` where `starts` `[batch, length]` is true, then the end: int32 `[documents + 1]`.

    It is an operator because `torch.compile` cannot trace a result whose length depends on the data.
    """
    offsets = starts.flatten().nonzero().flatten().to(torch.int32)
    return torch.nn.functional.pad(offsets, (0, 1), value=starts.numel())


@cu_seqlens.register_fake
def _(starts):
    return starts.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)


@torch.library.custom_op("tinystories::varlen_attention", mutates_args=())
def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Causal attention within each document, on a CPU.

    Args:
        query, key, value: `[tokens, heads, head_dim]`, all of one dtype.
        cu_seqlens: int32 `[documents + 1]`, where each document starts, then the number of tokens.

    Returns:
        The output `[tokens, heads, head_dim]`, and the log-sum-exp of the scores `[heads, tokens]` for the backward
        pass.
    """
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    log_sums = _empty_log_sums(query)
    if uses_native_kernel(query.dtype, query.shape[-1]):
        _run((query, key, value), cu_seqlens, scaling, output, log_sums)
        return output, log_sums
    for document in _documents(cu_seqlens):
        result, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(_batch_of_one(states[document]) for states in (query, key, value)), 0.0, True, scale=scaling
        )
        output[document], log_sums[:, document] = result[0].transpose(0, 1), sums[0]
    return output, log_sums


@varlen_attention.register_fake
def _(query, key, value, cu_seqlens, scaling):
    return torch.empty_like(query, memory_format=torch.contiguous_format), _empty_log_sums(query)


@torch.library.custom_op("tinystories::varlen_attention_backward", mutates_args=())
def varlen_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    output: Tensor,
    log_sums: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `query`, `key` and `value`, each `[tokens, heads, head_dim]`."""
    gradients = _empty_gradients(query, key, value)
    if uses_native_kernel(query.dtype, query.shape[-1]):
        _run((query, key, value), cu_seqlens, scaling, output, log_sums, gradient, *gradients)
        return gradients
    for document in _documents(cu_seqlens):
        results = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(_batch_of_one(states[document]) for states in (gradient, query, key, value, output)),
            log_sums[None, :, document], 0.0, True, scale=scaling,
        )  # fmt: skip
        for whole, part in zip(gradients, results, strict=True):
            whole[document] = part[0].transpose(0, 1)
    return gradients


@varlen_attention_backward.register_fake
def _(gradient, query, key, value, cu_seqlens, output, log_sums, scaling):
    return _empty_gradients(query, key, value)


def _setup_context(ctx, inputs, output):
    query, key, value, offsets, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value, offsets, *output)


def _backward(ctx, gradient, _):
    return *varlen_attention_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None


varlen_attention.register_autograd(_backward, setup_context=_setup_context)


def uses_native_kernel(dtype: torch.dtype, head_dim: int) -> bool:
    """Whether attention.c computes heads of this dtype and size on this machine."""
    return dtype == torch.float32 and _native_available() and bool(library().tinystories_attention_supports(head_dim))


def _empty_log_sums(query: Tensor) -> Tensor:
    return query.new_empty((query.shape[1], query.shape[0]), dtype=torch.promote_types(query.dtype, torch.float))


def _empty_gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    empty = partial(torch.empty_like, memory_format=torch.contiguous_format)
    return empty(query), empty(key), empty(value)


def _documents(cu_seqlens: Tensor) -> list[slice]:
    offsets = cu_seqlens.tolist()
    return [slice(begin, end) for begin, end in zip(offsets, offsets[1:], strict=False)]


def _batch_of_one(states: Tensor) -> Tensor:
    """`[length, heads, head_dim]` to `[1, heads, length, head_dim]`."""
    return states.transpose(0, 1)[None]


def _run(states, cu_seqlens, scaling, output, log_sums, gradient=None, *gradients) -> None:
    states = [each.contiguous() for each in states]
    tokens, heads, head_dim = output.shape
    threads = torch.get_num_threads()
    size = library().tinystories_attention_scratch(int(cu_seqlens.diff().max()), head_dim)
    gradient = gradient if gradient is None else gradient.contiguous()
    tensors = (cu_seqlens, *states, output, log_sums, gradient, *(gradients or (None,) * 3))
    scratch = output.new_empty(threads * size)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (*tensors, scratch)]
    task = _Attention(
        len(cu_seqlens) - 1, tokens, heads, head_dim, threads, gradient is not None, scaling, *pointers, size, 0, 0
    )
    _openmp().GOMP_parallel(library().tinystories_attention, ctypes.byref(task), threads, 0)


@cache
def _native_available() -> bool:
    try:
        library()
        _openmp()
    except UserError:
        return False
    return True


@cache
def _openmp() -> ctypes.CDLL:
    """GNU's OpenMP library as torch has loaded it.

    Raises:
        UserError: if torch uses another one.
    """
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines() if maps.exists() else []
    files = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    # Another package's copy would have threads of its own.
    candidates = [file for file in files if "torch" in file] or sorted(files)
    if not candidates:
        raise UserError("torch does not use GNU's OpenMP library here")
    openmp = ctypes.CDLL(candidates[0])
    openmp.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    openmp.GOMP_parallel.restype = None
    return openmp
