"""Large pages for weights.

Decoding reads each weight once per token. With pages of 4 KB, address translation takes as long as reading; with large
pages decoding is nearly twice as fast. Linux uses them only on request; on other systems, nothing changes.
"""

import ctypes
import math
import mmap
from contextlib import suppress

import torch
from torch import nn

from .build import library


LARGE_PAGE = 2 << 20  # bytes
MAX_GAP = 64 << 10  # bytes between two tensors that are assumed to belong to one mapping
MIN_MODEL = 4 * LARGE_PAGE  # bytes of weights; smaller models are not faster with large pages


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`torch.empty`, in large pages if the tensor fills one."""
    count = math.prod(shape)
    if device.type != "cpu" or count * dtype.itemsize < LARGE_PAGE:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = torch.empty(count + LARGE_PAGE // dtype.itemsize, dtype=dtype)
    memory = memory[-memory.data_ptr() % LARGE_PAGE // dtype.itemsize :][:count]
    library().tinystories_large_pages(memory.data_ptr(), _end(memory), True)
    return memory.view(shape)


class Arena:
    """Memory for many tensors, side by side in large pages, each with its own storage.

    Args:
        size: capacity in bytes.
    """

    def __init__(self, size: int):
        self._memory = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        begin = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        self._next = -begin % LARGE_PAGE

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` in this memory."""
        copied = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=self._next)
        self._next += aligned_size(tensor)
        return copied.view(tensor.shape).copy_(tensor)


def aligned_size(tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in an arena."""
    return -(-tensor.nbytes // 64) * 64


@torch.no_grad()
def use_large_pages(model: nn.Module, native: ctypes.CDLL) -> None:
    """Put a model's weights into large pages, in place where possible.

    The others, such as those of a memory-mapped file, are copied to an arena.
    """
    parameters = sorted(model.parameters(), key=lambda parameter: parameter.data_ptr())
    if sum(parameter.nbytes for parameter in parameters) < MIN_MODEL:
        return
    groups: list[list[nn.Parameter]] = []
    for parameter in parameters:
        if groups and parameter.data_ptr() - _end(groups[-1][-1]) <= MAX_GAP:
            groups[-1].append(parameter)
        else:
            groups.append([parameter])
    small_pages = [
        parameter
        for group in groups
        if not native.tinystories_large_pages(group[0].data_ptr(), _end(group[-1]), False)
        for parameter in group
        if not (parameter.is_shared() or parameter.is_inference())
    ]
    if small_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        arena = Arena(sum(map(aligned_size, small_pages)))
        for parameter in small_pages:
            parameter.data = arena.copy(parameter.data)


def _end(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() + tensor.nbytes
