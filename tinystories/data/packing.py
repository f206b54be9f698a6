"""Stories to rows of tokens for training, no story seeing another.

Design decisions:

- A story is `<|endoftext|> story <|endoftext|>`: the first is what the tokenizer puts in front of a prompt, the last
  teaches the model to stop.
- Rows are `[length]` and batches `[batch, length]`, with `position_ids` that start again at each story and no
  `attention_mask`: that is what makes transformers keep the stories of a row apart, and a given mask would undo it.
- `labels` equal `input_ids`, and nothing is shifted here; the model does that. -100 stands where no loss is wanted:
  on the first token of a story (the one before it belongs to another), on context that is repeated, on padding.
- A row may be longer than the context of the model, because rows of 512 tokens cannot be filled with whole stories of
  about 200 (7 % stay empty), and rows of 768 can (less than 0.1 % do). Positions never pass the context.
- The plan is a handful of integer arrays over the tokenised stories, which stay memory-mapped in the cache of
  `datasets`; rows are put together when they are asked for, so that another row length costs no second tokenising.
- A story longer than the context goes on in a second part, which repeats the end of the first as context without
  loss: each token of each story is scored exactly once.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import vocabulary_size
from tinystories.tokenization.words import text_encoder, word_encoder


IGNORE_INDEX = -100
_CACHE_VERSION = 3


def tokenize_stories(
    stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, fingerprint: str, num_proc: int | None = None
) -> datasets.Dataset:
    """Tokenise the column `text`, cached by `datasets` under a key of corpus, tokenizer and settings.

    Args:
        stories: one story a row.
        tokenizer: has a `bos_token` and an `eos_token`.
        fingerprint: of the corpus; changes whenever a story does.

    Returns:
        `input_ids` (list of integers, beginning and end of text included) and `bytes` (UTF-8 length of the story).
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    key = Hasher.hash((_CACHE_VERSION, fingerprint, len(stories), tokenizer_fingerprint(tokenizer), bos, eos))
    id_type = np.dtype(_id_type(tokenizer)).name
    tokenised = stories.with_format("arrow").map(
        encode_stories(tokenizer),
        batched=True,
        num_proc=num_proc,
        remove_columns=stories.column_names,
        features=datasets.Features(
            {"input_ids": datasets.List(datasets.Value(id_type)), "bytes": datasets.Value("int32")}
        ),
        new_fingerprint=key,
        desc="Tokenising",
    )
    return tokenised.with_format(None)


def encode_stories(tokenizer: PreTrainedTokenizerBase) -> Callable[[pa.Table], pa.Table]:
    """What [`tokenize_stories`] does to a table with the column `text`."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    id_type = _id_type(tokenizer)
    # A special token's name inside a story is spelt out, so that only the real end of a story ends it.
    encode = word_encoder(tokenizer) or text_encoder(tokenizer)

    def encode_table(table: pa.Table) -> pa.Table:
        texts = table["text"].cast(pa.string())
        inner, counts = encode(texts)
        ends = np.cumsum(counts + 2)
        ids = np.empty(len(inner) + 2 * len(counts), dtype=id_type)
        ids[np.arange(len(inner)) + np.repeat(2 * np.arange(len(counts)) + 1, counts)] = inner
        ids[ends - counts - 2] = bos
        ids[ends - 1] = eos
        offsets = np.append(0, ends).astype(np.int32)
        return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, ids), "bytes": pc.binary_length(texts)})

    return encode_table


def _id_type(tokenizer: PreTrainedTokenizerBase) -> type:
    return np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.int32


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Changes exactly when the ids of some text do; stays the same across processes and after use with padding."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return Hasher.hash(backend.to_str())


@dataclass
class Segments:
    """Parts of stories that go into rows, as arrays of equal length `[segments]`.

    `story` is the index of the story, `start` the offset of the part in it and `length` its tokens, of which the first
    `context` are scored elsewhere.
    """

    story: np.ndarray
    start: np.ndarray
    length: np.ndarray
    context: np.ndarray


def split_long_stories(lengths: np.ndarray, context: int, overlap: int) -> Segments:
    """Cut stories of `lengths` `[stories]` tokens into parts of at most `context`, each but the first repeating the
    `overlap` tokens before it."""
    if not 1 <= overlap < context:
        raise ValueError(f"`overlap` ({overlap}) must lie between 1 and the context ({context}) less one.")
    stride = context - overlap
    parts = 1 + np.maximum(0, -(-(lengths - context) // stride))
    story = np.repeat(np.arange(len(lengths)), parts)
    part = np.arange(len(story)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = part * stride
    return Segments(
        story=story,
        start=start,
        length=np.minimum(context, lengths[story] - start),
        context=np.where(part > 0, overlap, 1),
    )


def best_fit(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """Row of each item `[items]`: the longest item left, and with it the others that leave the least of the row empty.

    That is the minimum bin slack heuristic (Gupta and Ho, 1999, https://doi.org/10.1080/095372899233235) on whole
    groups of rows: items of one length are alike, so a combination is used as often as there are items for it, and
    the cost grows with the number of different lengths and not with the number of items.
    """
    left = np.bincount(lengths, minlength=row_length + 1).tolist()
    by_length = np.split(np.argsort(lengths, kind="stable"), np.cumsum(left)[:-1])
    row_of = np.empty(len(lengths), dtype=np.int64)
    rows = 0
    for longest in range(row_length, 0, -1):
        while left[longest]:
            left[longest] -= 1
            combination = Counter(_fullest(left, row_length - longest))
            left[longest] += 1
            combination[longest] += 1
            times = min(left[length] // number for length, number in combination.items())
            for length, number in combination.items():
                items = by_length[length][left[length] - number * times : left[length]]
                row_of[items] = np.tile(np.arange(rows, rows + times), number)
                left[length] -= number * times
            rows += times
    return row_of


def shortest_full_row(lengths: np.ndarray, context: int) -> int:
    """The shortest row that parts of stories `[parts]`, none above `context` tokens, fill to over 99 %.

    Longer rows waste less and cost more attention. Where too few parts fill none up to eight contexts, the one of them
    that wastes least is taken.
    """
    wasted = {}
    for quarters in range(4, 33):
        row_length = context * quarters // 4
        rows = best_fit(lengths, row_length).max(initial=0) + 1
        wasted[row_length] = 1 - lengths.sum() / (rows * row_length)
        if wasted[row_length] < 0.01:
            return row_length
    return min(wasted, key=wasted.get)


def _fullest(left: list[int], space: int) -> tuple[int, ...]:
    """Lengths, no more of each than are `left`, that add up to `space` or else come closest; the longest are taken
    first, since short ones are the easiest to place later."""
    reached: list[tuple[int, ...] | None] = [()] + [None] * space
    for length in range(space, 0, -1):
        if not left[length]:
            continue
        used = [0] * (space + 1)
        for total in range(length, space + 1):
            before = reached[total - length]
            if reached[total] is None and before is not None and used[total - length] < left[length]:
                reached[total] = (*before, length)
                used[total] = used[total - length] + 1
        if reached[space] is not None:
            break
    return next(combination for combination in reversed(reached) if combination is not None)


class PackedStories(torch.utils.data.Dataset):
    """Rows of packed stories, ready for a `Trainer` with `transformers.default_data_collator`.

    A row is `input_ids`, `labels` and `position_ids`, int64 tensors `[length]`.

    Args:
        stories: from [`tokenize_stories`].
        length: tokens of a row; by default the shortest that the stories fill to over 99 %.
        context: longest part of a story that stands in a row, in tokens; no position reaches it.
        overlap: what the continuation of a longer story repeats, in tokens.
        pad_token_id: fills what is left of a row.
        seed: of the order in which stories of equal length are taken.

    Attributes:
        tokens: tokens of all rows that are not padding.
        scored: tokens that have a loss.
        bytes: UTF-8 bytes of the stories, for bits per byte.
        padding: share of padding, from 0 to 1.
        tokens_per_row: tokens of a row that are not padding, on average.
        mean_attended: positions that a token attends to, itself included, on average.
    """

    def __init__(
        self,
        stories: datasets.Dataset,
        *,
        context: int,
        overlap: int,
        pad_token_id: int,
        length: int | None = None,
        seed: int = 0,
    ):
        if length is not None and length < context:
            raise ValueError(f"A row of {length} tokens cannot hold the model's context of {context}.")
        self.pad_token_id = pad_token_id
        self.stories = stories
        self._tokens = TokenLists(stories)
        lengths = self._tokens.lengths
        segments = split_long_stories(lengths, context, overlap)
        self.length = length = length or shortest_full_row(segments.length, context)

        shuffled = np.random.default_rng(seed).permutation(len(segments.length))
        row_of = np.empty_like(shuffled)
        row_of[shuffled] = best_fit(segments.length[shuffled], length)
        by_row = np.argsort(row_of, kind="stable")
        self._segments = Segments(
            *(array[by_row] for array in (segments.story, segments.start, segments.length, segments.context))
        )
        self._first = np.searchsorted(row_of[by_row], np.arange(row_of.max() + 2 if len(row_of) else 1))

        self.tokens = int(segments.length.sum())
        self.scored = int((segments.length - segments.context).sum())
        self.bytes = int(np.sum(stories.with_format("numpy")["bytes"][:], dtype=np.int64))
        self.padding = 1 - self.tokens / max(1, len(self) * length)
        self.tokens_per_row = self.tokens / max(1, len(self))
        self.mean_attended = float((segments.length * (segments.length + 1) / 2).sum() / max(1, self.tokens))

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, torch.Tensor]]:
        shape = (len(rows), self.length)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        position_ids = np.empty(shape, dtype=np.int64)
        counted = np.arange(self.length)
        parts = self._segments
        for row, ids, wanted, places in zip(rows, input_ids, labels, position_ids, strict=True):
            at = 0
            for segment in range(*self._bounds(row)):
                start, length, context = parts.start[segment], parts.length[segment], parts.context[segment]
                end = at + length
                ids[at:end] = self._tokens[parts.story[segment]][start : start + length]
                wanted[at + context : end] = ids[at + context : end]
                places[at:end] = counted[:length]
                at = end
            places[at:] = counted[: self.length - at]
        columns = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        columns = {name: torch.from_numpy(column) for name, column in columns.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _bounds(self, row: int) -> tuple[int, int]:
        row = range(len(self))[row]
        return int(self._first[row]), int(self._first[row + 1])


class TokenLists:
    """The tokens of tokenised stories, read where they lie in the memory-mapped file.

    Args:
        stories: from [`tokenize_stories`].

    Attributes:
        lengths: tokens of each story, `[stories]`.
    """

    def __init__(self, stories: datasets.Dataset):
        self._stories = stories
        self._index = None if stories._indices is None else stories._indices.column(0).to_numpy().astype(np.int64)
        chunks = [chunk for chunk in stories.data.column("input_ids").chunks if len(chunk)]
        self._first = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(offsets) for offsets in self._offsets)])
        self.lengths = lengths.astype(np.int64) if self._index is None else lengths[self._index].astype(np.int64)

    def __getitem__(self, story: int) -> np.ndarray:
        place = story if self._index is None else self._index[story]
        chunk = int(np.searchsorted(self._first, place, side="right")) - 1
        at = place - self._first[chunk]
        begin, end = self._offsets[chunk][at : at + 2]
        return self._values[chunk][begin:end]

    def __reduce__(self):
        # To another process goes the name of the file and not what is in it.
        return TokenLists, (self._stories,)
