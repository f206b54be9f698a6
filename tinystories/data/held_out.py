"""Hold out validation stories, and keep those of a stream out of its training stories."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from ..utils.errors import UserError
from .sources.source import VERSION


def digests(texts: Iterable[bytes]) -> np.ndarray:
    """64-bit hashes `[texts]` (uint64); the chance that any two of 2 million collide is one in ten million."""
    return np.frombuffer(b"".join(blake2b(text, digest_size=8).digest() for text in texts), dtype="<u8")


def story_keys(stories: Dataset, column: str = "text") -> np.ndarray:
    """The digests of the stories, or of another column, as int64."""
    keys = stories.with_format("arrow").map(
        _hash_batch,
        batched=True,
        remove_columns=stories.column_names,
        features=Features({"key": Value("int64")}),
        fn_kwargs={"version": VERSION, "column": column},
        desc="Looking for duplicates" if column == "text" else None,
    )
    return keys.with_format("numpy")[:]["key"]


def _hash_batch(table: pa.Table, version: int, column: str = "text") -> pa.Table:
    return pa.table({"key": digests(table[column].cast(pa.binary()).to_pylist()).view(np.int64)})


def hold_out(keys: np.ndarray, fraction: float | None, seed: int, name: str) -> np.ndarray:
    """Rows to hold out, at least one, each distinct story once.

    Args:
        keys: from [`story_keys`].
        fraction: of the distinct stories; None for 2%, but at least 50 stories or 10%, whichever is less.
        name: of the corpus, for messages.

    Raises:
        UserError: if there are fewer than two distinct stories.
    """
    distinct, rows = np.unique(keys, return_index=True)
    if len(distinct) < 2:
        raise UserError(
            f"{name} contains only one distinct story, but at least two are needed, one of them for validation: add "
            f"stories, or check --split."
        )
    if fraction is None:
        fraction = max(0.02, min(50 / len(distinct), 0.1))
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    # The order is that of the hashes times an odd number: a permutation that depends on the seed and the texts alone.
    odd = digests([str(seed).encode()]) | np.uint64(1)
    return np.sort(rows[np.argsort(distinct.view(np.uint64) * odd)[:count]])


def without_keys(table: pa.Table, keys: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~np.isin(_hash_batch(table, VERSION)["key"].to_numpy(), keys)))
