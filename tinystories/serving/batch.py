"""Decode many sequences in one forward pass, each with logits that are bit-identical to those without the others.

- Each sequence has a row of the cache and its own length; a mask excludes the positions after it. There is no padding,
  so sequences can be added and removed without moving others.
- The native step, if available, computes each row independently of the number of rows, so a completion is also
  bit-identical to that of `generate`. The following applies to other models and devices.
- torch's matrix products round differently for different numbers of rows. So only those numbers of rows are used for
  which this model, on this machine, gives bit-identical results for every row; unused rows are filled. On an x86 CPU
  these are 4, 8, 16, ...; if there are none, rows are decoded one at a time.
- Attention is "eager": for one token per row, it is as fast as torch's fused kernel, whose rounding depends on the
  thread.
- A second thread slows down a small model. So a step is timed with one, two, four, ... threads, and the smallest
  number is used with which it is about as fast as with any other.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from ..generation.native.cache import PreallocatedCacheLayer
from ..generation.native.model import NativeDecodingMixin, use_native_decoding
from ..generation.native.speculation import Guess, Lookahead, Memory
from ..utils.errors import UserError


EXTENT_STEP = 64  # positions by which the visible part of the cache grows
MORE_THREADS_BELOW = 0.85  # more threads are used if they take less than this fraction of the time


@dataclass(frozen=True)
class Drafting:
    """What is needed to draft tokens of the only sequence of a batch.

    Attributes:
        begin: called at the start of a draft; returns a function that chooses its tokens.
        last: index of the last token of the sequence whose logits may be needed.
        eos_ids: tokens after which the sequence ends.
    """

    begin: Callable[[], Guess]
    last: int
    eos_ids: Collection[int]


class ContinuousBatch:
    """Up to `capacity` sequences; row i is the i-th that was added, until one is removed.

    Args:
        model: a causal model of transformers; it is set to "eager" attention.
        capacity: maximum number of sequences.
        context: maximum length of a sequence.

    Raises:
        UserError: for a model whose cache keeps only part of a sequence.
    """

    def __init__(self, model: PreTrainedModel, capacity: int, context: int):
        model.set_attn_implementation("eager")
        self.model, self.capacity, self.context = model, capacity, context
        self.lengths: list[int] = []
        self._lookahead: Lookahead | None = None
        self._drafts = False  # whether `_lookahead` is that of the only sequence
        self._last_prompt: tuple[list[int], Any, torch.Tensor] | None = None
        self.layers = [_RowsLayer(self, keys) for keys in self._example_keys()]
        if not isinstance(model, NativeDecodingMixin):
            use_native_decoding(model, warn=False)
        self.native = self._decode_natively([0], [0], slice(1)) is not None
        self._cache = Cache(layers=list(self.layers))
        self.threads = self.choose_threads()
        self.exact_sizes = self.find_exact_sizes()
        if self.native and capacity in self.exact_sizes:
            self.exact_sizes = list(range(1, capacity + 1))  # rows are independent there

    def __len__(self) -> int:
        return len(self.lengths)

    @torch.inference_mode()
    def _example_keys(self) -> list[torch.Tensor]:
        """The keys of each layer after one token."""
        cache: Any = DynamicCache(config=self.model.config)
        self._forward(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), past_key_values=cache)
        if any(type(layer) not in (DynamicLayer, PreallocatedCacheLayer) for layer in cache.layers):
            raise UserError("The server does not support models whose cache holds only part of the context.")
        return [layer.keys for layer in cache.layers]

    def _forward(self, ids: torch.Tensor, **arguments) -> torch.Tensor:
        return self.model(input_ids=ids, use_cache=True, **arguments).logits

    @torch.inference_mode()
    def add(self, prompt_ids: list[int], all_logits: bool = False) -> torch.Tensor:
        """Process a prompt, in a forward pass of its own, and make it the last row.

        The forward pass is skipped for the same prompt as before, so several completions of a prompt need only one.

        Returns:
            The logits after the prompt `[1, vocab]`, or with `all_logits` after each of its tokens `[length, vocab]`.

        Raises:
            ValueError: for a token that is not in the model's vocabulary; on a GPU, its lookup would make all
                completions fail.
        """
        if max(prompt_ids) >= self.model.config.get_text_config(decoder=True).vocab_size:
            raise ValueError(f"The model has no token with the id {max(prompt_ids)}: use the tokenizer of this model.")
        if self._last_prompt and self._last_prompt[0] == prompt_ids and not all_logits:
            _, cache, logits = self._last_prompt
        else:
            cache = DynamicCache(config=self.model.config)
            ids = torch.tensor([prompt_ids], device=self.model.device)
            logits = self._forward(ids, past_key_values=cache, logits_to_keep=0 if all_logits else 1)[0]
            self._last_prompt = None if all_logits else (prompt_ids, cache, logits)
        for layer, prompt in zip(self.layers, cache.layers, strict=True):
            layer.fill(len(self.lengths), prompt.keys[0], prompt.values[0])
        self._drafts = False
        self.lengths.append(len(prompt_ids))
        return logits

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Remove a sequence; the last row takes its place."""
        self._drafts = False
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def clear(self) -> None:
        self.lengths, self._drafts = [], False

    def step(self, tokens: list[int], drafting: Drafting | None = None) -> torch.Tensor:
        """Append a token to each sequence and return the logits after it `[sequences, vocab]`.

        Args:
            drafting: for a single sequence, to decode it speculatively where that is faster; the logits are the same.
        """
        count, positions = len(self.lengths), self.lengths
        if count == 1 and drafting and (drafted := self._speculate(tokens[0], drafting)) is not None:
            self.lengths = [positions[0] + 1]
            return drafted
        if self.exact_sizes:
            fill = [0] * (min(size for size in self.exact_sizes if size >= count) - count)
            logits = self._decode(0, tokens + fill, positions + fill)[:count]
        else:
            logits = torch.cat([self._decode(row, [tokens[row]], [positions[row]]) for row in range(count)])
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    @torch.inference_mode()
    def _speculate(self, token: int, drafting: Drafting) -> torch.Tensor | None:
        """The logits `[1, vocab]` after the next token of the only sequence; None if they must be computed alone."""
        past = self.lengths[0]
        if not self._drafts:
            self._lookahead, self._drafts = None, True
            if self.native and isinstance(self.model, NativeDecodingMixin):
                self._lookahead = self.model.lookahead(past, drafting.last, drafting.eos_ids)
        if self._lookahead is None or self._lookahead.off:
            return None

        def reserve(new: int) -> Memory:
            return [layer.keys[:1] for layer in self.layers], [layer.values[:1] for layer in self.layers]

        return self._lookahead.logits(token, past, drafting.begin, reserve)

    @torch.inference_mode()
    def _decode(self, first: int, tokens: list[int], positions: list[int]) -> torch.Tensor:
        """Logits `[rows, vocab]` of the rows from `first` on, after `tokens` at `positions`."""
        device = self.model.device
        rows = slice(first, first + len(tokens))
        if self.native and (logits := self._decode_natively(tokens, positions, rows)) is not None:
            return logits
        extent = min(self.context, (max(positions) // EXTENT_STEP + 1) * EXTENT_STEP)
        self.rows = torch.arange(first, first + len(tokens), device=device)
        self.positions = torch.tensor(positions, device=device)
        self.visible = (rows, slice(None), slice(extent))
        mask = torch.zeros(len(tokens), 1, 1, extent, dtype=self.model.dtype, device=device)
        behind = torch.arange(extent, device=device) > self.positions[:, None]
        mask.masked_fill_(behind[:, None, None], float("-inf"))
        ids = torch.tensor(tokens, device=device)[:, None]
        options = {"position_ids": self.positions[:, None], "past_key_values": self._cache}
        return self._forward(ids, attention_mask=mask, **options)[:, -1]

    def _decode_natively(self, tokens: list[int], positions: list[int], rows: slice) -> torch.Tensor | None:
        """The same by the native step; None if it is not available."""
        if not isinstance(self.model, NativeDecodingMixin):
            return None
        keys, values = [layer.keys[rows] for layer in self.layers], [layer.values[rows] for layer in self.layers]
        return self.model.row_logits(torch.tensor(tokens), torch.tensor(positions), keys, values)

    def choose_threads(self) -> int:
        """Set the number of torch's threads, at most the current one, and return it."""
        most = torch.get_num_threads()
        counts = sorted({2**power for power in range(most.bit_length())} | {most})
        if self.model.device.type != "cpu":
            return most
        best, fastest = 1, self._step_time(1) if len(counts) > 1 else 0.0
        for count in counts[1:]:
            if (seconds := self._step_time(count)) < MORE_THREADS_BELOW * fastest:
                best, fastest = count, seconds
        torch.set_num_threads(best)
        return best

    def _step_time(self, threads: int) -> float:
        """Seconds of a step of one row and a step of a full batch, each the shortest of several."""
        torch.set_num_threads(threads)
        shortest = []
        for rows in (1, self.capacity):
            times: list[float] = []
            while len(times) < 5 and sum(times) < 1.0:
                began = time.perf_counter()
                self._decode(0, [0] * rows, [0] * rows)
                times.append(time.perf_counter() - began)
            shortest.append(min(times[1:] or times))
        return sum(shortest)

    @torch.inference_mode()
    def find_exact_sizes(self) -> list[int]:
        """Numbers of rows, ascending, for which the logits of a row do not depend on its place or on other rows.

        The powers of two and the capacity are tested, with random caches.
        """
        generator = torch.Generator().manual_seed(0)
        sizes = sorted({2**power for power in range(self.capacity.bit_length())} | {self.capacity})
        for layer in self.layers:
            for own in (layer.keys, layer.values):
                own.copy_(torch.randn(own.shape, generator=generator))
        for longest in {min(EXTENT_STEP, self.context), self.context}:
            tokens = torch.randint(self.model.config.vocab_size, (self.capacity,), generator=generator).tolist()
            positions = torch.randint(longest, (self.capacity,), generator=generator).tolist()
            positions[0] = longest - 1
            want = self._decode(0, tokens, positions)
            sizes = [size for size in sizes if torch.equal(self._decode_in_parts(size, tokens, positions), want)]
            for layer in self.layers:
                layer.keys, layer.values = layer.keys.roll(1, 0), layer.values.roll(1, 0)
            rotated = self._decode(0, tokens[-1:] + tokens[:-1], positions[-1:] + positions[:-1])
            if not torch.equal(rotated.roll(-1, 0), want):
                sizes = []
        for layer in self.layers:  # new tensors, which take no memory on a CPU for rows that are never used
            layer.keys, layer.values = torch.empty_like(layer.keys), torch.empty_like(layer.values)
        return sizes

    def _decode_in_parts(self, size: int, tokens: list[int], positions: list[int]) -> torch.Tensor:
        """The logits of all rows, `size` at a time; a last part may overlap the one before it."""
        logits = []
        for start in range(0, self.capacity, size):
            first = min(start, self.capacity - size)
            part = self._decode(first, tokens[first : first + size], positions[first : first + size])
            logits.append(part[start - first :])
        return torch.cat(logits)


class _RowsLayer(CacheLayerMixin):
    """Keys and values of a layer `[capacity, heads, context, head_dim]`; the batch has the rows and positions."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, batch: ContinuousBatch, example: torch.Tensor):
        super().__init__()
        self.batch = batch
        _, heads, _, head_dim = example.shape
        shape = (batch.capacity, heads, batch.context, head_dim)
        self.keys = torch.empty(shape, dtype=example.dtype, device=example.device)
        self.values = torch.empty_like(self.keys)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        rows, positions = self.batch.rows, self.batch.positions
        self.keys[rows, :, positions] = key_states[:, :, 0]
        self.values[rows, :, positions] = value_states[:, :, 0]
        return self.keys[self.batch.visible], self.values[self.batch.visible]

    def fill(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store a prompt `[heads, length, head_dim]`; the rest becomes 0, because a mask does not remove NaN."""
        for own, given in ((self.keys[row], keys), (self.values[row], values)):
            own[:, : given.shape[1]] = given
            own[:, given.shape[1] :] = 0

    def move(self, source: int, target: int, length: int) -> None:
        for own in (self.keys, self.values):
            own[target, :, :length] = own[source, :, :length]
            own[target, :, length:] = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.batch.visible[2].stop, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.batch.context
