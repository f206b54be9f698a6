"""Packed rows from a stream of stories, for corpora larger than the disk.

Stories are tokenized and packed in blocks in memory, while the rows of the previous block are trained on. A checkpoint
records where the block of its next row begins: resuming reads at most one block again, and gives exactly the rows that
would have followed.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from .packing import PackedStories, encode_stories
from .renaming import NameTokens, RenamingReport


STATE_NAME = "stream.json"
BLOCK_STORIES = 4_096  # less than 0.1% padding, and about 8 MB of tokens


class PackedStream(torch.utils.data.IterableDataset):
    """Rows like those of [`PackedStories`], without end: after its last story the stream starts again.

    Args:
        stories: a stream with the column `text`, and perhaps `prompt`.
        context, overlap, length, seed, rename, train_on_prompts: as of [`PackedStories`]; each block has its own seed.

    Attributes:
        tokens_per_row, mean_attended, padding: of the first block; estimates for the rest.
    """

    def __init__(
        self,
        stories: datasets.IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int,
        overlap: int,
        length: int | None = None,
        seed: int = 0,
        block_stories: int = BLOCK_STORIES,
        rename: NameTokens | None = None,
        train_on_prompts: bool = False,
    ):
        self.stories, self.block_stories, self.seed = stories, block_stories, seed
        self._encode = encode_stories(tokenizer)
        self._shape: dict[str, Any] = {
            **{"context": context, "overlap": overlap, "pad_token_id": tokenizer.pad_token_id, "rename": rename},
            "train_on_prompts": train_on_prompts,
        }
        self._start: dict[str, Any] = {"epoch": 0, "block": 0, "rows_before": 0, "source": None}
        self._skip = 0
        self._begun: deque[dict] = deque()  # blocks whose rows may come after the next checkpoint
        beginning = list(islice(iter(stories), block_stories))
        if not beginning:
            raise UserError("The streamed corpus has no stories.")
        first = self._pack(beginning, 0, length)
        self._renaming_report = first.renaming_report()
        self.length, self.padding = first.length, first.padding
        self.tokens_per_row, self.mean_attended = first.tokens_per_row, first.mean_attended

    def renaming_report(self) -> RenamingReport | None:
        """Which names are replaced in the first block; None without `rename`."""
        return self._renaming_report

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if torch.utils.data.get_worker_info() is not None:
            raise UserError("`streaming` reads stories in the training process: set `dataloader_num_workers` to 0.")
        skip = self._skip
        self._begun.clear()
        blocks = self._blocks()
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(next, blocks)
            while True:
                state, rows = following.result()
                following = reader.submit(next, blocks)
                self._begun.append(state)
                order = np.random.default_rng((self.seed, state["block"])).permutation(len(rows))
                for row in order[skip:]:
                    yield rows[int(row)]
                skip = 0

    def _blocks(self) -> Iterator[tuple[dict, PackedStories]]:
        """Blocks without end, each with the state of the stream at its beginning."""
        state = dict(self._start)
        while True:
            self.stories.set_epoch(state["epoch"])
            if state["source"] is not None:
                self.stories.load_state_dict(state["source"])
            stories, first_block = iter(self.stories), state["block"]
            while block := list(islice(stories, self.block_stories)):
                rows = self._pack(block, state["block"], self.length)
                yield state, rows
                state = {
                    "epoch": state["epoch"],
                    "block": state["block"] + 1,
                    "rows_before": state["rows_before"] + len(rows),
                    "source": self.stories.state_dict(),
                }
            if state["block"] == first_block and state["source"] is None:
                raise UserError("The streamed corpus no longer has any stories: its files were deleted or emptied.")
            state = {**state, "epoch": state["epoch"] + 1, "source": None}

    def _pack(self, stories: list[dict], block: int, length: int | None) -> PackedStories:
        columns = {name: [story[name] for story in stories] for name in ("text", "prompt") if name in stories[0]}
        encoded = datasets.Dataset(self._encode(pa.table(columns)))
        return PackedStories(encoded, length=length, seed=self.seed + block, **self._shape)

    def save_state(self, folder: Path, rows_seen: int) -> None:
        """Save to a checkpoint where to resume after `rows_seen` rows, counted from the start of the run."""
        while len(self._begun) > 1 and self._begun[1]["rows_before"] <= rows_seen:
            self._begun.popleft()
        block = self._begun[0] if self._begun else self._start
        (folder / STATE_NAME).write_text(json.dumps({**block, "skip": rows_seen - block["rows_before"]}), "utf-8")

    def load_state(self, folder: Path) -> None:
        """Resume where the checkpoint in `folder` was saved.

        Raises:
            UserError: if it was not saved by a streamed run.
        """
        try:
            state = json.loads((folder / STATE_NAME).read_text("utf-8"))
        except (OSError, ValueError):
            raise UserError(
                f"{folder} was not written by a run with `streaming: true`, so this run cannot resume from it."
            ) from None
        self._skip = state.pop("skip")
        self._start = state
