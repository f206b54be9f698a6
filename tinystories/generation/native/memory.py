"""Large pages under weights.

In pages of 4 KB a processor spends as long on finding memory as on reading it: where each weight is read once a token,
large pages nearly double the speed, and a kernel gives them only where it is asked to. What a kernel does not know or
cannot do is left as it is.
"""

import ctypes
import math
import mmap
from contextlib import suppress

import torch
from torch import nn

from .build import library


LARGE_PAGE = 2 << 20  # bytes
NEIGHBOURS = 64 << 10  # bytes between two tensors that are thought to lie in one mapping
WORTH_IT = 4 * LARGE_PAGE


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As `torch.empty`, in large pages where that is worth it."""
    count = math.prod(shape)
    if device.type != "cpu" or count * dtype.itemsize < LARGE_PAGE:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = torch.empty(count + LARGE_PAGE // dtype.itemsize, dtype=dtype)
    memory = memory[-memory.data_ptr() % LARGE_PAGE // dtype.itemsize :][:count]
    library().tinystories_large_pages(memory.data_ptr(), _end(memory), True)
    return memory.view(shape)


class Arena:
    """Memory for many tensors, side by side in large pages, each with a storage of its own.

    Args:
        size: bytes that it has room for.
    """

    def __init__(self, size: int):
        self._memory = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        begin = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        self._next = -begin % LARGE_PAGE

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` in here."""
        kept = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=self._next)
        self._next += room_for(tensor)
        return kept.view(tensor.shape).copy_(tensor)


def room_for(tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in an arena."""
    return -(-tensor.nbytes // 64) * 64


@torch.no_grad()
def use_large_pages(model: nn.Module, native: ctypes.CDLL) -> None:
    """Have a model's weights in large pages: where they are, or, where that cannot be, as for weights that are a file
    mapped into memory, by giving each parameter memory beside the others'."""
    parameters = sorted(model.parameters(), key=lambda parameter: parameter.data_ptr())
    if sum(parameter.nbytes for parameter in parameters) < WORTH_IT:
        return
    groups: list[list[nn.Parameter]] = []
    for parameter in parameters:
        if groups and parameter.data_ptr() - _end(groups[-1][-1]) <= NEIGHBOURS:
            groups[-1].append(parameter)
        else:
            groups.append([parameter])
    elsewhere = [
        parameter
        for group in groups
        if not native.tinystories_large_pages(group[0].data_ptr(), _end(group[-1]), False)
        for parameter in group
        if not (parameter.is_shared() or parameter.is_inference())
    ]
    if elsewhere and hasattr(mmap, "MADV_HUGEPAGE"):
        arena = Arena(sum(map(room_for, elsewhere)))
        for parameter in elsewhere:
            parameter.data = arena.keep(parameter.data)


def _end(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() + tensor.nbytes
