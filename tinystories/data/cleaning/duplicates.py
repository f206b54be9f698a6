"""Exact duplicates, and stories with the same words, in 16 bytes per story."""

import re
import unicodedata

import numpy as np

from ..held_out import digests


class DigestSet:
    """A set of 64-bit digests as sorted arrays, 8 bytes each; a Python set takes ten times that."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, added: np.ndarray) -> np.ndarray:
        """Add digests, and return which of them were in the set before, or earlier in this call."""
        is_new = np.zeros(len(added), dtype=bool)
        is_new[np.unique(added, return_index=True)[1]] = True
        for run in self._runs:
            is_new &= run[np.minimum(np.searchsorted(run, added), len(run) - 1)] != added
        new = np.sort(added[is_new])
        # Each run is more than twice as long as the next: few runs to search, and few moves per digest.
        while len(new) and self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.concatenate([self._runs.pop(), new])
            new.sort()
        if len(new):
            self._runs.append(new)
        return ~is_new


class DuplicateFinder:
    """Finds stories that are equal to an earlier one, over all calls."""

    def __init__(self):
        self._texts, self._words = DigestSet(), DigestSet()

    def __call__(self, texts: list[str], words: list[list[str]]) -> dict[str, np.ndarray]:
        """Which stories are equal to an earlier one, and which others have the same words `[stories]`."""
        again = self._texts.add(digests(map(_encode, texts)))
        alike = self._words.add(digests(_encode(" ".join(each)) for each in words))
        has_words = np.array(list(map(bool, words)), dtype=bool)
        return {"duplicates": again & has_words, "near_duplicates": alike & ~again & has_words}


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


_ASCII_WORDS = {code: " " for code in range(128) if not chr(code).isalnum()} | {ord("'"): None}
_ANY_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation; "don't" and "don’t" are equal."""
    if text.isascii():
        return text.lower().translate(_ASCII_WORDS).split()
    text = unicodedata.normalize("NFKC", text).casefold()
    return _ANY_WORD.findall(text.replace("'", "").replace("’", "").replace("‘", ""))
