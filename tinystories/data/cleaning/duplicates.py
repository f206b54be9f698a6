"""Which stories were there before, in 16 bytes a story."""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


class Seen:
    """A set of 64-bit digests as sorted arrays, 8 bytes each; a Python set takes ten times that."""

    def __init__(self):
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add them, and say which were there: from an earlier call, or earlier in this one."""
        is_new = np.zeros(len(digests), dtype=bool)
        is_new[np.unique(digests, return_index=True)[1]] = True
        for run in self._runs:
            is_new &= run[np.minimum(np.searchsorted(run, digests), len(run) - 1)] != digests
        fresh = np.sort(digests[is_new])
        # Each run is more than twice the next, so that there are few to search, and each digest is moved a few times.
        while len(fresh) and self._runs and len(self._runs[-1]) <= 2 * len(fresh):
            fresh = np.concatenate([self._runs.pop(), fresh])
            fresh.sort()
        if len(fresh):
            self._runs.append(fresh)
        return ~is_new


def repeated(texts: list[str], in_words: list[str], seen: Seen, seen_words: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Which stories are there for the second time `[len(texts)]`, and which others in the same words."""
    again = seen.add(_digests(texts))
    alike = seen_words.add(_digests(in_words))
    has_words = np.array([bool(words) for words in in_words], dtype=bool)
    return again & has_words, alike & ~again & has_words


def _digests(texts: Iterable[str]) -> np.ndarray:
    """64 bits of each; that any two of 2 million agree has a chance of one in ten million."""
    joined = b"".join(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype="<u8")


_ASCII_WORDS = {code: " " for code in range(128) if not chr(code).isalnum()} | {ord("'"): None}
_ANY_WORD = re.compile(r"[^\W_]+")


def in_words_of(text: str) -> list[str]:
    """The words in small letters, without punctuation; "don't" and "don’t" are the same."""
    if text.isascii():
        return text.lower().translate(_ASCII_WORDS).split()
    text = unicodedata.normalize("NFKC", text).casefold()
    return _ANY_WORD.findall(text.replace("'", "").replace("’", "").replace("‘", ""))
