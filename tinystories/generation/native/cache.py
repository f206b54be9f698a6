"""A key/value cache with spare capacity, for native decoding and transformers' forward alike.

A `DynamicLayer` copies all keys and values for each new token. Here new tokens are written into preallocated memory,
and `keys` and `values` are views of its filled part.
"""

import torch
from transformers.cache_utils import DynamicLayer

from .memory import empty


MAX_INITIAL_CAPACITY = 4096  # tokens
MIN_SPARE = 64  # tokens added, at least, when a layer grows
_EMPTY = torch.empty(0, 0, 0, 0, device="cpu")


class PreallocatedCacheLayer(DynamicLayer):
    """A `DynamicLayer` `[batch, heads, length, head_dim]` in memory for more tokens.

    Args:
        expected: initial capacity in tokens; it grows as needed.

    Attributes:
        memory: keys and values `[batch, heads, capacity, head_dim]`; empty before the first token.
    """

    def __init__(self, expected: int = 0):
        self.memory = [_EMPTY, _EMPTY]
        self._lengths = [0, 0]
        self._expected = min(expected, MAX_INITIAL_CAPACITY)
        super().__init__()

    @classmethod
    def of(cls, layer: DynamicLayer) -> "PreallocatedCacheLayer":
        """A copy of another layer."""
        copied = cls()
        if layer.is_initialized and layer.keys is not None and layer.values is not None:
            copied.lazy_initialization(layer.keys, layer.values)
            copied.keys, copied.values = layer.keys, layer.values
        return copied

    @property
    def keys(self) -> torch.Tensor:
        return self._filled(0)

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        self._replace(0, value)

    @property
    def values(self) -> torch.Tensor:
        return self._filled(1)

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        self._replace(1, value)

    def _filled(self, which: int) -> torch.Tensor:
        return self.memory[which][:, :, : self._lengths[which]]

    def _replace(self, which: int, value: torch.Tensor | None) -> None:
        if value is None or value.ndim != 4:  # transformers' empty layers have None or one dimension
            self.memory[which], self._lengths[which] = _EMPTY, 0
            return
        self._lengths[which] = value.shape[2]
        memory = value.new_empty((*value.shape[:2], max(self._expected, value.shape[2]), value.shape[3]))
        memory[:, :, : value.shape[2]] = value
        self.memory[which] = memory

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        states = (key_states, value_states)
        batch, heads, new, dim = key_states.shape
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            # The backward pass needs the earlier tensors unchanged, so they are copied.
            for which in (0, 1):
                filled = [self._filled(which)] if self._lengths[which] else []
                self.memory[which] = torch.cat([*filled, states[which]], dim=-2)
        else:
            self.reserve(batch, heads, new, dim)
            for which in (0, 1):
                length = self._lengths[which]
                self.memory[which][:, :, length : length + new] = states[which]
        self.extend(new)
        return self.keys, self.values

    def reserve(self, batch: int, heads: int, new: int, dim: int) -> None:
        """Ensure contiguous memory for `new` more tokens; the layer must be initialized."""
        for which in (0, 1):
            memory, length = self.memory[which], self._lengths[which]
            needed = length + new
            if needed <= memory.shape[2] and memory.is_contiguous():
                continue
            capacity = self._expected
            if needed > capacity:
                capacity = needed + max(MIN_SPARE, needed // 2) if length else needed
            grown = empty((batch, heads, capacity, dim), self.dtype, self.device)
            if length:
                grown[:, :, :length] = memory[:, :, :length].detach()
            self.memory[which] = grown

    def accepts(self, batch: int, heads: int, dim: int) -> bool:
        """Whether float32 keys and values of these sizes on the CPU can be added; initializes an empty layer."""
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = torch.float32, torch.device("cpu"), True
        if self.dtype != torch.float32 or self.device.type != "cpu":
            return False
        return all(
            (*memory.shape[:2], memory.shape[3]) == (batch, heads, dim) for memory in self.memory if memory.shape[2]
        )

    def extend(self, new: int) -> None:
        """Add `new` tokens, already written to `memory`, to the length."""
        self._lengths = [length + new for length in self._lengths]

    def get_seq_length(self) -> int:
        return self._lengths[0]

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:  # transformers raises an error; before 5.18, it is the length to keep
            super().crop(tokens_to_remove)
            return
        self._lengths = [max(0, length + tokens_to_remove) for length in self._lengths]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx.to(self.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(self.memory[0].shape[0], device=self.device)
        self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.get_seq_length() == 0:
            return
        for which in (0, 1):
            memory, selected = self.memory[which], self._filled(which)[indices]
            if len(selected) != len(memory):
                memory = self.memory[which] = memory.new_empty((len(selected), *memory.shape[1:]))
            memory[:, :, : selected.shape[2]] = selected
