"""Attention of packed stories for training on a CPU, more than twice as fast as torch's: see attention.c.

torch's own kernel is made for long sequences, and cuts stories of 200 tokens into pieces too small to be worth it.
Here the work is shared out among torch's own threads, by the OpenMP library that torch has loaded: threads of another
kind would wait for a core on which torch's, which spin for a while after each operation, are still turning.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch

from modeling_tinyllama import modeling_tinyllama

from ...utils.errors import UserError
from .build import library


_INTEGERS = ("stories", "length", "heads", "head_dim", "threads", "backward")
_POINTERS = ("offsets", "query", "key", "value", "attended", "log_sums", "gradient", "query_gradient", "key_gradient",
             "value_gradient", "scratch")  # fmt: skip


class _Attention(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        ("scaling", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("scratch_size", "next", "started")),
    ]


def use_native_attention() -> bool:
    """Have `TinyLlama` attend by this in packed rows on a CPU, in float32, from now on; whether it can be had."""
    try:
        library()
    except UserError:
        return False
    if _openmp() is None:
        return False
    modeling_tinyllama.native_attention = NativeAttention
    return True


class NativeAttention:
    """What `tinyllama::attend_within_stories` and its backward pass do, for what is taken here; None for the rest."""

    @staticmethod
    def forward(query, key, value, offsets, count, scaling) -> tuple[torch.Tensor, torch.Tensor] | None:
        if not _taken(query, key, value):
            return None
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        batch, length, heads, _ = query.shape
        attended, log_sums = torch.empty_like(query), query.new_empty((batch, heads, length))
        _run(query, key, value, offsets, count, scaling, attended, log_sums)
        return attended, log_sums

    @staticmethod
    def backward(
        gradient, query, key, value, offsets, count, attended, log_sums, scaling
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        if not _taken(gradient, query, key, value, attended, log_sums):
            return None
        gradient, query, key, value = (each.contiguous() for each in (gradient, query, key, value))
        gradients = tuple(torch.empty_like(query) for _ in range(3))
        _run(query, key, value, offsets, count, scaling, attended, log_sums, gradient, *gradients)
        return gradients


def _taken(*tensors: torch.Tensor) -> bool:
    float32 = all(tensor.dtype == torch.float32 for tensor in tensors)
    return float32 and bool(library().tinystories_attention_takes(tensors[0].shape[-1]))


def _run(query, key, value, offsets, count, scaling, attended, log_sums, *gradients) -> None:
    _, length, heads, head_dim = query.shape
    stories, threads = count.item() - 1, torch.get_num_threads()
    size = library().tinystories_attention_scratch(length, head_dim)  # no story is longer than a row
    tensors = (offsets, query, key, value, attended, log_sums, *gradients, query.new_empty(threads * size))
    pointers = [tensor.data_ptr() for tensor in tensors]
    if not gradients:
        pointers[6:6] = [None] * 4
    task = _Attention(stories, length, heads, head_dim, threads, bool(gradients), scaling, *pointers, size, 0, 0)
    _openmp().GOMP_parallel(library().tinystories_attention, ctypes.byref(task), threads, 0)


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP library, as torch has loaded it; None where torch's threads are others."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    # Of several, another package's would be threads of their own.
    within_torch = [file for file in files if "torch" in file] or sorted(files)
    if not within_torch:
        return None
    found = ctypes.CDLL(within_torch[0])
    found.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    found.GOMP_parallel.restype = None
    return found
