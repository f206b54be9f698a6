"""Many stories in one forward pass, each with the logits that it would have alone, bit for bit.

Design decisions
- **A row for each story, at its own length.** Keys and values of all stories lie in one tensor a layer; a story writes
  its next token at its own place, and a mask hides what is behind it. Nothing is padded on the left, so a story's
  positions are those of `generate`, and joining or leaving moves nobody else.
- **The native step where there is one** (`tinystories.generation.native`). A row's bits there do not depend on the
  number of rows, so a story is also, bit for bit, the one that `generate` tells. What follows is for other models and
  machines.
- **A row does not feel its neighbours.** torch's matrix products round differently for different numbers of rows: one
  row goes through another kernel than four. That is enough to turn a story at a near tie. So only numbers of rows are
  used that were found, with this model on this machine, to give the same bits wherever a row lies
  (`find_exact_sizes`); what is left over is filled with rows that nobody reads. On an x86 CPU these are 4, 8, 16, ...;
  where there are none, each row is decoded by itself.
- **Attention written out** ("eager"). For one new token a row it is as fast as torch's fused kernel, whose bits depend
  on the thread that a row falls to.
- **As many threads as help.** A second one makes a small model slower, the more so where the machine has other work,
  as this server's own. So before anything else a step is timed with one thread, two, four, ..., and the fewest are
  kept that are nearly as fast as any (`settle_threads`).
- **The prompt alone.** It is read in a forward pass of its own, so it cannot depend on others, either.
"""

import time

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from ..generation.native.cache import PreallocatedCacheLayer
from ..generation.native.model import NativeDecodingMixin, use_native_decoding
from ..utils.errors import UserError


EXTENT = 64  # the part of the cache that is looked at grows by so many positions
WORTH = 0.85  # more threads are used where they take less than this share of the time


class StoryBatch:
    """Up to `capacity` stories that are written at once; row i is the story that was added i-th, until one leaves.

    Args:
        model: a causal model of transformers with keys and values for every position; it is set to "eager" attention.
        capacity: most stories at once.
        context: most tokens of a story.

    Raises:
        UserError: for a model whose cache keeps only part of a story.
    """

    def __init__(self, model: PreTrainedModel, capacity: int, context: int):
        model.set_attn_implementation("eager")
        self.model, self.capacity, self.context = model, capacity, context
        self.lengths: list[int] = []
        self.layers = [_RowsLayer(self, layer.keys) for layer in self._probe().layers]
        if not isinstance(model, NativeDecodingMixin):
            use_native_decoding(model, warn=False)
        self.native = self._decode_natively([0], [0], slice(1)) is not None
        self._cache = Cache(layers=self.layers)
        self.threads = self.settle_threads()
        self.exact_sizes = self.find_exact_sizes()
        if self.native and capacity in self.exact_sizes:
            self.exact_sizes = list(range(1, capacity + 1))  # a row is summed by itself there

    def __len__(self) -> int:
        return len(self.lengths)

    @torch.inference_mode()
    def _probe(self) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        self._forward(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), past_key_values=cache)
        if any(type(layer) not in (DynamicLayer, PreallocatedCacheLayer) for layer in cache.layers):
            raise UserError("This model keeps only part of a text in its cache, which the server cannot batch.")
        return cache

    def _forward(self, ids: torch.Tensor, **arguments) -> torch.Tensor:
        return self.model(input_ids=ids, use_cache=True, **arguments).logits

    @torch.inference_mode()
    def add(self, prompt_ids: list[int], all_logits: bool = False) -> torch.Tensor:
        """Read a prompt and make it the last row. Returns the logits `[1, vocab]` after it, or with `all_logits`
        those after each of its tokens `[length, vocab]`.

        Raises:
            ValueError: for a token that the model does not have: on a GPU, asking for it would end all stories.
        """
        if max(prompt_ids) >= self.model.get_input_embeddings().num_embeddings:
            raise ValueError(f"The model has no token {max(prompt_ids)}: this is not its tokenizer.")
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([prompt_ids], device=self.model.device)
        logits = self._forward(ids, past_key_values=cache, logits_to_keep=0 if all_logits else 1)[0]
        for layer, read in zip(self.layers, cache.layers, strict=True):
            layer.fill(len(self.lengths), read.keys[0], read.values[0])
        self.lengths.append(len(prompt_ids))
        return logits

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Take a story out; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def clear(self) -> None:
        """Take all stories out."""
        self.lengths = []

    def step(self, tokens: list[int]) -> torch.Tensor:
        """Append a token to each story: the logits `[stories, vocab]` after it."""
        stories, places = len(self.lengths), self.lengths
        if self.exact_sizes:
            fill = [0] * (min(size for size in self.exact_sizes if size >= stories) - stories)
            logits = self._decode(0, tokens + fill, places + fill)[:stories]
        else:
            logits = torch.cat([self._decode(row, [tokens[row]], [places[row]]) for row in range(stories)])
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    @torch.inference_mode()
    def _decode(self, first: int, tokens: list[int], places: list[int]) -> torch.Tensor:
        """Logits `[rows, vocab]` of the rows from `first`, whose `tokens` stand at `places`."""
        device = self.model.device
        rows = slice(first, first + len(tokens))
        if self.native and (logits := self._decode_natively(tokens, places, rows)) is not None:
            return logits
        positions = torch.tensor(places, device=device)
        extent = min(self.context, (max(places) // EXTENT + 1) * EXTENT)
        self.rows = torch.arange(first, first + len(tokens), device=device)
        self.places, self.seen = positions, (rows, slice(None), slice(extent))
        visible = torch.arange(extent, device=device) <= positions[:, None]
        mask = torch.zeros(len(tokens), 1, 1, extent, dtype=self.model.dtype, device=device)
        mask.masked_fill_(~visible[:, None, None], float("-inf"))
        ids = torch.tensor(tokens, device=device)[:, None]
        places = {"position_ids": positions[:, None], "past_key_values": self._cache}
        return self._forward(ids, attention_mask=mask, **places)[:, -1]

    def _decode_natively(self, tokens: list[int], places: list[int], rows: slice) -> torch.Tensor | None:
        """The same by the native step; None where there is none."""
        if not isinstance(self.model, NativeDecodingMixin):
            return None
        keys, values = [layer.keys[rows] for layer in self.layers], [layer.values[rows] for layer in self.layers]
        return self.model.row_logits(torch.tensor(tokens), torch.tensor(places), keys, values)

    def settle_threads(self) -> int:
        """Let torch use as many threads as a step gains by, at most as many as it uses now; returns how many."""
        most = torch.get_num_threads()
        counts = sorted({2**power for power in range(most.bit_length())} | {most})
        if self.model.device.type != "cpu":
            return most
        best, took = 1, self._step_time(1) if len(counts) > 1 else 0.0
        for count in counts[1:]:
            if (seconds := self._step_time(count)) < WORTH * took:
                best, took = count, seconds
        torch.set_num_threads(best)
        return best

    def _step_time(self, threads: int) -> float:
        """Seconds of a step of one story and a step of a full batch, the shortest of some."""
        torch.set_num_threads(threads)
        shortest = []
        for rows in (1, self.capacity):
            times = []
            while len(times) < 5 and sum(times) < 1.0:
                began = time.perf_counter()
                self._decode(0, [0] * rows, [0] * rows)
                times.append(time.perf_counter() - began)
            shortest.append(min(times[1:] or times))
        return sum(shortest)

    @torch.inference_mode()
    def find_exact_sizes(self) -> list[int]:
        """Numbers of rows, ascending, for which a row's logits are the same bits, whatever its place and neighbours.

        Looked for among the powers of two and the capacity, with this model and random caches. Empty: there are none.
        """
        if self.lengths:
            raise RuntimeError("There are stories in the batch, whose caches this would overwrite.")
        generator = torch.Generator().manual_seed(0)
        sizes = sorted({2**power for power in range(self.capacity.bit_length())} | {self.capacity})
        for layer in self.layers:
            layer.randomize(generator)
        for longest in {min(EXTENT, self.context), self.context}:
            tokens = torch.randint(self.model.config.vocab_size, (self.capacity,), generator=generator).tolist()
            places = torch.randint(longest, (self.capacity,), generator=generator).tolist()
            places[0] = longest - 1
            want = self._decode(0, tokens, places)
            sizes = self._agreeing(sizes, want, tokens, places)
            self._rotate()
            rotated = self._decode(0, tokens[-1:] + tokens[:-1], places[-1:] + places[:-1])
            if not torch.equal(rotated.roll(-1, 0), want):
                sizes = []
        for layer in self.layers:
            layer.clear()
        return sizes

    def _agreeing(self, sizes: list[int], want: torch.Tensor, tokens: list[int], places: list[int]) -> list[int]:
        agreeing = []
        for size in sizes:
            starts = range(0, self.capacity - size + 1, size)
            got = (self._decode(start, tokens[start : start + size], places[start : start + size]) for start in starts)
            if all(torch.equal(logits, want[start : start + size]) for start, logits in zip(starts, got, strict=True)):
                agreeing.append(size)
        return agreeing

    def _rotate(self) -> None:
        for layer in self.layers:
            layer.keys, layer.values = layer.keys.roll(1, 0), layer.values.roll(1, 0)


class _RowsLayer(CacheLayerMixin):
    """Keys and values `[capacity, heads, context, head_dim]` of a layer; the batch says which rows and places."""

    is_sliding = False

    def __init__(self, batch: StoryBatch, example: torch.Tensor):
        super().__init__()
        self.batch = batch
        _, heads, _, width = example.shape
        shape = (batch.capacity, heads, batch.context, width)
        self.keys = torch.empty(shape, dtype=example.dtype, device=example.device)
        self.values = torch.empty_like(self.keys)
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        rows, places = self.batch.rows, self.batch.places
        self.keys[rows, :, places] = key_states[:, :, 0]
        self.values[rows, :, places] = value_states[:, :, 0]
        return self.keys[self.batch.seen], self.values[self.batch.seen]

    def fill(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """What is behind the prompt is cleared: a number there that is none would come through the mask."""
        for own, given in ((self.keys[row], keys), (self.values[row], values)):
            own[:, : given.shape[1]] = given
            own[:, given.shape[1] :] = 0

    def move(self, source: int, target: int, length: int) -> None:
        for own in (self.keys, self.values):
            own[target, :, :length] = own[source, :, :length]
            own[target, :, length:] = 0

    def randomize(self, generator: torch.Generator) -> None:
        for own in (self.keys, self.values):
            own.copy_(torch.randn(own.shape, generator=generator))

    def clear(self) -> None:
        """Fresh tensors, which on a CPU take no memory for rows that no story ever had."""
        self.keys, self.values = torch.empty_like(self.keys), torch.empty_like(self.values)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        pass

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.batch.seen[2].stop, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.batch.context
