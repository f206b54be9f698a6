"""Keys and values with room to grow, for the native step and the ordinary model alike.

A `DynamicLayer` copies all it holds for each new token. Here a layer has room for more, a new token is written behind
the others, and `keys` and `values` are views of the filled part: whatever reads or assigns them does so as ever.
"""

import torch
from transformers.cache_utils import DynamicLayer

from .memory import empty


MOST_AT_FIRST = 4096  # tokens that room is made for in advance
SPARE = 64  # tokens of room, at least, when a layer grows


class PreallocatedCacheLayer(DynamicLayer):
    """A `DynamicLayer` `[batch, heads, length, head_dim]` inside of memory for more tokens.

    Args:
        expected: tokens to make room for at first; it grows by itself.
    """

    def __init__(self, expected: int = 0):
        self.memory: list[torch.Tensor | None] = [None, None]  # [batch, heads, capacity, head_dim] of keys, values
        self._lengths = [0, 0]
        self._expected = min(expected, MOST_AT_FIRST)
        super().__init__()

    @classmethod
    def of(cls, layer: DynamicLayer) -> "PreallocatedCacheLayer":
        """A layer that holds what another does."""
        roomy = cls()
        if layer.is_initialized:
            roomy.lazy_initialization(layer.keys, layer.values)
            roomy.keys, roomy.values = layer.keys, layer.values
        return roomy

    @property
    def keys(self) -> torch.Tensor | None:
        return self._filled(0)

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        self._replace(0, value)

    @property
    def values(self) -> torch.Tensor | None:
        return self._filled(1)

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        self._replace(1, value)

    def _filled(self, which: int) -> torch.Tensor | None:
        memory = self.memory[which]
        return None if memory is None else memory[:, :, : self._lengths[which]]

    def _replace(self, which: int, value: torch.Tensor | None) -> None:
        if value is None or value.ndim != 4:  # transformers' own empty layers are one-dimensional
            self.memory[which], self._lengths[which] = None, 0
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
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            # What a backward pass will read must not be written behind, so here all is copied, as ever.
            for which in (0, 1):
                if self._lengths[which]:
                    self.memory[which] = torch.cat([self._filled(which), states[which]], dim=-2)
                else:
                    self.memory[which] = states[which]
                self._lengths[which] = self.memory[which].shape[2]
            return self.keys, self.values
        batch, heads, new, dim = key_states.shape
        self.make_room(batch, heads, new, dim)
        for which in (0, 1):
            place = self._lengths[which]
            self.memory[which][:, :, place : place + new] = states[which]
        self.grow(new)
        return self.keys, self.values

    def make_room(self, batch: int, heads: int, new: int, dim: int) -> None:
        """Have contiguous memory for `new` more tokens; the layer must be initialised."""
        for which in (0, 1):
            memory, length = self.memory[which], self._lengths[which]
            needed = length + new
            if memory is not None and needed <= memory.shape[2] and memory.is_contiguous():
                continue
            capacity = self._expected
            if needed > capacity:
                capacity = needed + max(SPARE, needed // 2) if length else needed
            grown = empty((batch, heads, capacity, dim), self.dtype, self.device)
            if length:
                grown[:, :, :length] = memory[:, :, :length].detach()
            self.memory[which] = grown

    def fits(self, batch: int, heads: int, dim: int) -> bool:
        """Whether float32 keys and values of these sizes, on the CPU, can be added."""
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = torch.float32, torch.device("cpu"), True
        if self.dtype != torch.float32 or self.device.type != "cpu":
            return False
        shapes = {(*memory.shape[:2], memory.shape[3]) for memory in self.memory if memory is not None}
        return shapes <= {(batch, heads, dim)}

    def grow(self, new: int) -> None:
        """Count `new` tokens, which were written behind the others, as held."""
        self._lengths = [length + new for length in self._lengths]

    def get_seq_length(self) -> int:
        return self._lengths[0]

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            # An error, in transformers' words; before 5.18 it is the size to keep.
            super().crop(tokens_to_remove)
            return
        self._lengths = [max(0, length + tokens_to_remove) for length in self._lengths]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        if self.get_seq_length() > 0:
            self.batch_select_indices(beam_idx.to(self.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.get_seq_length() > 0:
            rows = torch.arange(self.memory[0].shape[0], device=self.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.get_seq_length() == 0:
            return
        for which in (0, 1):
            memory, filled = self.memory[which], self._filled(which)
            chosen = filled[indices]
            if len(chosen) != len(memory):
                memory = self.memory[which] = memory.new_empty((len(chosen), *memory.shape[1:]))
            memory[:, :, : chosen.shape[2]] = chosen
