"""Record which attention operator runs, and the peak memory of the results of all operators."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


PER_DOCUMENT = ("varlen_attention", "_varlen_attn")  # the operators of training/packed_attention.py
SOFTMAX = ("_softmax", "_safe_softmax")


class Recorder(TorchDispatchMode):
    """Records the operators that run in its block.

    Args:
        own: tensors whose storage is not counted, such as weights and inputs.

    Attributes:
        attention: operator, arguments by name, and results of the first call that computes attention.
        peak: the most bytes alive at one time.
    """

    supports_higher_order_operators = True

    def __init__(self, own: Iterable[Tensor] = ()):
        super().__init__()
        self.attention: tuple[str, dict[str, Any], Any] | None = None
        self.peak = self._held = 0
        self._sizes: dict[int, int] = {}
        self._own = {tensor.untyped_storage()._cdata for tensor in own}

    @property
    def attends_per_document(self) -> bool:
        """Whether attention ran document by document, without a mask."""
        return self.attention is not None and self.attention[0] in PER_DOCUMENT

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        name = str(func).removesuffix(".default").rpartition(".")[2]
        if self.attention is None and _is_attention(name, results):
            schema = getattr(func, "_schema", None)
            names = [argument.name for argument in schema.arguments] if schema is not None else []
            self.attention = name, {**dict(zip(names, args, strict=False)), **kwargs}, results
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return results

    def _hold(self, tensor: Tensor) -> None:
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


def _is_attention(name: str, results: Any) -> bool:
    if name in SOFTMAX and isinstance(results, torch.Tensor):
        # The softmax of attention is over `[batch, heads, length, length]`; that of a loss has another shape.
        return results.ndim == 4 and results.shape[-1] == results.shape[-2] != 1
    return "attention" in name or "attn" in name
