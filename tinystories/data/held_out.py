"""Hold out validation stories, and keep those of a stream out of its training stories."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

from ..utils.errors import UserError
from .sources.source import VERSION


def story_keys(stories: Dataset, num_proc: int | None = None) -> np.ndarray:
    """64-bit hashes of the stories; the chance that any two of 2 million collide is one in ten million."""
    keys = stories.with_format("arrow").map(
        _hash_batch,
        batched=True,
        remove_columns=["text"],
        features=Features({"key": Value("int64")}),
        fn_kwargs={"version": VERSION},
        num_proc=num_proc,
        desc="Looking for duplicates",
    )
    return keys.with_format("numpy")[:]["key"]


def _hash_batch(table: pa.Table, version: int) -> pa.Table:
    texts = table["text"].cast(pa.binary()).to_pylist()
    hashes = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
    return pa.table({"key": np.frombuffer(hashes, "<i8")})


def hold_out(keys: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Rows to hold out, at least one, each distinct story once."""
    distinct, rows = np.unique(keys, return_index=True)
    if len(distinct) < 2:
        raise UserError(
            f"{name} contains only one distinct story; at least two are needed, one of them for validation."
        )
    count = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    # The order is that of the hashes times an odd number: a permutation that depends on the seed and the texts alone.
    odd = np.frombuffer(blake2b(str(seed).encode(), digest_size=8).digest(), "<u8") | np.uint64(1)
    return np.sort(rows[np.argsort(distinct.view(np.uint64) * odd)[:count]])


def without_keys(table: pa.Table, keys: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~np.isin(_hash_batch(table, VERSION)["key"].to_numpy(), keys)))
