"""Tokenize stories and pack them into rows for training with document masking.

- A story is `<|endoftext|> story <|endoftext|>`: the tokenizer also puts the first token before prompts, and from the
  last one the model learns to end with EOS.
- `position_ids` restart at 0 at every document, and there is no `attention_mask`. transformers treats such a batch as
  packed: it masks attention between documents, and derives `cu_seqlens` for varlen attention from the positions.
- `labels` equal `input_ids`; the model shifts. They are -100 on the first token of a document, on repeated context and
  on padding.
- With the column `prompt`, a story is `<|endoftext|> prompt story <|endoftext|>`, and labels are -100 on the prompt.
- A row may be longer than the model's context: 512 tokens cannot be filled with stories of about 200 (7% is padding),
  768 can (less than 0.1%). No position reaches the context length.
- A story that exceeds the context continues in a second document, which repeats the end of the first without loss:
  each token is scored once.
- Tokens stay in the memory-mapped cache of `datasets`; rows are built when they are read.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import vocabulary_size
from tinystories.tokenization.pretokenizer import text_encoder, word_encoder

from ..utils.hardware import usable_cores
from .renaming import REPORTED_STORIES, NameTokens, Renaming, RenamingReport


IGNORE_INDEX = -100
THREAD_STORIES = 1_000  # that a thread encodes at a time
MAX_BATCH = 32_000  # stories that are encoded before they are written, about 30 MB of text
_CACHE_VERSION = 3


def pack_stories(
    stories: Iterable[str] | datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 512,
    row_length: int | None = None,
    overlap: int | None = None,
    seed: int = 0,
) -> "PackedStories":
    """Tokenize stories and pack them into rows, to train a model with any `Trainer`.

    Args:
        stories: texts, or a dataset with the column `text`, one story each.
        tokenizer: of the model; it has a `bos_token`, an `eos_token` and a `pad_token`.
        max_length: the model's context length in tokens; a longer story is split into overlapping chunks.
        row_length: tokens per row, at least `max_length`; by default the shortest with less than 1% padding.
        overlap: tokens that consecutive chunks of a long story share; by default `max_length // 8`.
        seed: sets the order of stories of equal length.

    Returns:
        A dataset of rows with `input_ids`, `labels` and `position_ids`, int64 tensors `[row_length]`, for
        `transformers.default_data_collator`.

    Raises:
        ValueError: if there are no stories, the tokenizer lacks one of these tokens, or `row_length` or `overlap` does
            not fit `max_length`.
    """
    if missing := [name for name in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None]:
        raise ValueError(f"The tokenizer has no {' and no '.join(missing)}, which packing needs: set it first.")
    if not isinstance(stories, datasets.Dataset):
        stories = datasets.Dataset.from_dict(
            {"text": list(stories)}, datasets.Features({"text": datasets.Value("string")})
        )
    if not len(stories):
        raise ValueError("There are no stories to pack.")
    return PackedStories(
        tokenize_stories(stories, tokenizer, stories._fingerprint),
        context=max_length,
        overlap=max_length // 8 if overlap is None else overlap,
        pad_token_id=tokenizer.pad_token_id,
        length=row_length,
        seed=seed,
    )


def tokenize_stories(
    stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, fingerprint: str, num_proc: int | None = None
) -> datasets.Dataset:
    """Tokenize the column `text`, cached by `datasets` under a key of corpus and tokenizer.

    Threads need less memory than processes, and less time on few cores.

    Args:
        tokenizer: has a `bos_token` and an `eos_token`.
        fingerprint: of the corpus; changes if a story does.
        num_proc: number of threads; by default one per core.

    Returns:
        `input_ids` (integers, BOS and EOS included), `bytes` (UTF-8 length of the story) and, if there is a column
        `prompt`, the number of its tokens, `prompt_tokens`.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    key = Hasher.hash((_CACHE_VERSION, fingerprint, len(stories), _tokenizer_fingerprint(tokenizer), bos, eos))
    id_type = _id_type(tokenizer).name
    threads = min(num_proc or usable_cores(), MAX_BATCH // THREAD_STORIES, len(stories) // THREAD_STORIES + 1)
    stored, selected = _stored_rows(stories)
    with ThreadPoolExecutor(threads) as pool:
        tokenized = stored.with_format("arrow").map(
            partial(_encode_in_threads, encode=encode_stories(tokenizer), pool=pool, selected=selected),
            batched=True,
            batch_size=max(THREAD_STORIES, MAX_BATCH // THREAD_STORIES // threads * threads * THREAD_STORIES),
            with_indices=selected is not None,
            remove_columns=stories.column_names,
            features=datasets.Features(
                {
                    "input_ids": datasets.List(datasets.Value(id_type)),
                    "bytes": datasets.Value("int32"),
                    **({"prompt_tokens": datasets.Value("int32")} if "prompt" in stories.column_names else {}),
                }
            ),
            new_fingerprint=key,
            desc="Tokenizing",
        )
    return tokenized.with_format(None)


def _stored_rows(stories: datasets.Dataset) -> tuple[datasets.Dataset, np.ndarray | None]:
    """The stories as they are on disk, and which of those to keep; None for all.

    `datasets` reads selected rows one by one, which takes longer than to tokenize them.
    """
    if stories._indices is None:
        return stories, None
    rows = stories._indices.column(0).to_numpy().astype(np.int64)
    if len(rows) < 2 or (np.diff(rows) <= 0).any() or rows[-1] - rows[0] > 2 * len(rows):
        return stories, None
    stored = datasets.Dataset(stories.data, info=stories.info, fingerprint=stories._fingerprint)
    selected = np.zeros(rows[-1] - rows[0] + 1, dtype=bool)
    selected[rows - rows[0]] = True
    return stored.select(range(rows[0], rows[-1] + 1)), selected


def _encode_in_threads(
    table: pa.Table,
    indices: list[int] | None = None,
    *,
    encode: Callable[[pa.Table], pa.Table],
    pool: ThreadPoolExecutor,
    selected: np.ndarray | None,
) -> pa.Table:
    """Encode parts of a table in the threads of a pool; the parts stay in order."""
    if selected is not None:
        table = table.filter(pa.array(selected[indices]))
    parts = [table.slice(begin, THREAD_STORIES) for begin in range(0, max(1, len(table)), THREAD_STORIES)]
    return pa.concat_tables(pool.map(encode, parts))


def encode_stories(tokenizer: PreTrainedTokenizerBase) -> Callable[[pa.Table], pa.Table]:
    """The function by which [`tokenize_stories`] maps a table with the column `text`, and perhaps `prompt`."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    id_type = _id_type(tokenizer)
    # Both encode the name of a special token inside a story as ordinary text.
    encode = word_encoder(tokenizer) or text_encoder(tokenizer)

    def encode_table(table: pa.Table) -> pa.Table:
        stories = texts = table["text"].cast(pa.string())
        has_prompts = "prompt" in table.column_names
        if has_prompts:
            texts = pc.binary_join_element_wise(table["prompt"].cast(pa.string()), texts, "")
        inner, counts = encode(texts)
        ends = np.cumsum(counts + 2)
        ids = np.empty(len(inner) + 2 * len(counts), dtype=id_type)
        ids[np.arange(len(inner)) + np.repeat(2 * np.arange(len(counts)) + 1, counts)] = inner
        ids[ends - counts - 2] = bos
        ids[ends - 1] = eos
        offsets = np.append(0, ends).astype(np.int32)
        encoded = {"input_ids": pa.ListArray.from_arrays(offsets, ids), "bytes": pc.binary_length(stories)}
        if has_prompts:
            prompt_ids, lengths = encode(table["prompt"].cast(pa.string()))
            encoded["prompt_tokens"] = pa.array(_common_lengths(prompt_ids, lengths, inner, counts), pa.int32())
        return pa.table(encoded)

    return encode_table


def _common_lengths(some: np.ndarray, lengths: np.ndarray, others: np.ndarray, other_lengths: np.ndarray) -> list[int]:
    """For each pair of token sequences, the number of first tokens that are the same.

    The tokens of a prompt alone are those with which prompt and story begin, unless a token spans both.

    Args:
        some, others: the tokens of all sequences.
        lengths, other_lengths: of each sequence.
    """
    common, at, other_at = [], 0, 0
    for length, other_length in zip(lengths.tolist(), other_lengths.tolist(), strict=True):
        shorter = min(length, other_length)
        differs = some[at : at + shorter] != others[other_at : other_at + shorter]
        common.append(int(differs.argmax()) if differs.any() else shorter)
        at, other_at = at + length, other_at + other_length
    return common


def _id_type(tokenizer: PreTrainedTokenizerBase) -> np.dtype:
    return np.dtype(np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.int32)


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what determines the ids of a text; padding and truncation of the last call do not."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return Hasher.hash(backend.to_str())


@dataclass
class Segments:
    """The documents of packed rows: stories, or parts of long ones; each attribute is `[segments]`.

    Attributes:
        story: index of the story.
        start: offset of the first token in the story.
        length: number of tokens.
        context: number of tokens at the beginning that are not scored here: BOS, a prompt, or repeated tokens.
    """

    story: np.ndarray
    start: np.ndarray
    length: np.ndarray
    context: np.ndarray


def split_long_stories(lengths: np.ndarray, context: int, overlap: int) -> Segments:
    """Split stories of `lengths` `[stories]` tokens into segments of at most `context`; each but the first repeats the
    `overlap` tokens before it.

    Raises:
        ValueError: if `overlap` is not from 1 to `context - 1`.
    """
    if not 1 <= overlap < context:
        raise ValueError(f"`overlap` ({overlap}) must be from 1 to {context - 1}, the context length minus one.")
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
    """Pack items of `lengths` `[items]` into rows; returns the row of each item `[items]`.

    The minimum bin slack heuristic (Gupta and Ho, 1999, https://doi.org/10.1080/095372899233235): a row gets the
    longest remaining item and the combination of others that leaves the least padding. Each combination is used as
    often as there are items for it, so the cost grows with the number of distinct lengths, not of items.
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
    """The shortest row length with less than 1% padding, for segments of `lengths` `[segments]` up to `context`.

    If there are too few segments for any row length up to eight contexts, the one with the least padding.
    """
    padding = {}
    for quarters in range(4, 33):
        row_length = context * quarters // 4
        rows = best_fit(lengths, row_length).max(initial=0) + 1
        padding[row_length] = 1 - lengths.sum() / (rows * row_length)
        if padding[row_length] < 0.01:
            return row_length
    return min(padding, key=padding.__getitem__)


def _fullest(left: list[int], space: int) -> tuple[int, ...]:
    """The lengths with the largest sum up to `space`, each used at most `left[length]` times. Long ones are preferred,
    because short ones are easier to place later."""
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
    """Packed rows for a `Trainer` with `transformers.default_data_collator`.

    A row has `input_ids`, `labels` and `position_ids`, int64 tensors `[length]`.

    Args:
        stories: from [`tokenize_stories`].
        context: the model's context length; the maximum number of tokens per document.
        overlap: tokens that consecutive chunks of a long story share.
        pad_token_id: fills the end of a row.
        length: tokens per row; by default the shortest with less than 1% padding.
        seed: sets the order of stories of equal length, and the names of characters.
        rename: replace the names of characters, differently in each epoch ([`renaming`][tinystories.data.renaming]).
        train_on_prompts: whether the prompts in front of the stories are scored, too.

    Attributes:
        tokens: all tokens that are not padding.
        scored: tokens that have a loss.
        bytes: UTF-8 bytes of the stories, for bits per byte.
        padding: fraction of padding.
        tokens_per_row: mean number of tokens per row that are not padding.
        mean_attended: mean number of positions that a token attends to, including its own.
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
        rename: NameTokens | None = None,
        train_on_prompts: bool = False,
    ):
        if length is not None and length < context:
            raise ValueError(f"A row of {length} tokens is shorter than the model's context of {context}.")
        self.pad_token_id = pad_token_id
        self.stories = stories
        self._tokens = TokenLists(stories)
        self._renaming = None if rename is None else Renaming(self._tokens.values, rename, seed)
        # In shared memory, so that data loader workers that are already running see it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        lengths = self._tokens.lengths
        segments = split_long_stories(lengths, context, overlap)
        if "prompt_tokens" in stories.column_names and not train_on_prompts:
            prompts = 1 + np.asarray(stories.with_format("numpy")["prompt_tokens"][:], dtype=np.int64)
            unscored = np.minimum(prompts[segments.story] - segments.start, segments.length)
            segments.context = np.maximum(segments.context, unscored)
        self.length = length = length or shortest_full_row(segments.length, context)

        shuffled = np.random.default_rng(seed).permutation(len(segments.length))
        row_of = np.empty_like(shuffled)
        row_of[shuffled] = best_fit(segments.length[shuffled], length)
        by_row = np.argsort(row_of, kind="stable")
        self._segments = Segments(**{name: array[by_row] for name, array in vars(segments).items()})
        self._row_starts = np.searchsorted(row_of[by_row], np.arange(row_of.max(initial=-1) + 2))

        self.tokens = int(segments.length.sum())
        self.scored = int((segments.length - segments.context).sum())
        self.bytes = int(np.sum(stories.with_format("numpy")["bytes"][:], dtype=np.int64))
        self.padding = 1 - self.tokens / max(1, len(self) * length)
        self.tokens_per_row = self.tokens / max(1, len(self))
        self.mean_attended = float((segments.length * (segments.length + 1) / 2).sum() / max(1, self.tokens))

    def __len__(self) -> int:
        return len(self._row_starts) - 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the names of characters for an epoch, if they are replaced."""
        self._epoch.fill_(epoch)

    def renaming_report(self) -> RenamingReport | None:
        """Which names are replaced, by up to `REPORTED_STORIES` stories; None without `rename`."""
        if self._renaming is None:
            return None
        step = -(-len(self.stories) // REPORTED_STORIES)
        return self._renaming.report(map(self._tokens.span, range(0, len(self.stories), step)))

    def _story(self, story: int) -> np.ndarray:
        if self._renaming is None:
            return self._tokens[story]
        chunk, begin, end = self._tokens.span(story)
        tokens = self._tokens.values[chunk][begin:end]
        return self._renaming.rename(tokens, chunk, begin, story, int(self._epoch))

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, torch.Tensor]]:
        shape = (len(rows), self.length)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        position_ids = np.empty(shape, dtype=np.int64)
        arange = np.arange(self.length)
        parts = self._segments
        for row, row_ids, row_labels, row_positions in zip(rows, input_ids, labels, position_ids, strict=True):
            begin = 0
            row = range(len(self))[row]
            for segment in range(self._row_starts[row], self._row_starts[row + 1]):
                start, length, context = parts.start[segment], parts.length[segment], parts.context[segment]
                end = begin + length
                row_ids[begin:end] = self._story(int(parts.story[segment]))[start : start + length]
                row_labels[begin + context : end] = row_ids[begin + context : end]
                row_positions[begin:end] = arange[:length]
                begin = end
            row_positions[begin:] = arange[: self.length - begin]
        columns = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        tensors = map(torch.from_numpy, columns.values())
        return [dict(zip(columns, row, strict=True)) for row in zip(*tensors, strict=True)]


class TokenLists:
    """The tokens of each story of [`tokenize_stories`], as views into the memory-mapped file; `datasets` copies them.

    Attributes:
        lengths: number of tokens of each story `[stories]`.
        values: all tokens of each chunk of the file.
    """

    def __init__(self, stories: datasets.Dataset):
        self._stories = stories
        self._index = None if stories._indices is None else stories._indices.column(0).to_numpy().astype(np.int64)
        chunks = [chunk for chunk in stories.data.column("input_ids").chunks if len(chunk)]
        self._chunk_starts = np.cumsum([0, *map(len, chunks)])
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self.values = [chunk.values.to_numpy() for chunk in chunks]
        lengths = np.concatenate([np.empty(0, np.int64), *map(np.diff, self._offsets)]).astype(np.int64)
        self.lengths = lengths if self._index is None else lengths[self._index]

    def __getitem__(self, story: int) -> np.ndarray:
        chunk, begin, end = self.span(story)
        return self.values[chunk][begin:end]

    def span(self, story: int) -> tuple[int, int, int]:
        """The chunk of a story, and its first and last token (exclusive) there."""
        at = story if self._index is None else self._index[story]
        chunk = int(np.searchsorted(self._chunk_starts, at, side="right")) - 1
        begin, end = self._offsets[chunk][at - self._chunk_starts[chunk] :][:2].tolist()
        return chunk, begin, end

    def __reduce__(self):
        return TokenLists, (self._stories,)  # pickles the name of the file and not its content
