"""Replace the first names of training stories by other names of the same gender, different ones in each epoch.

In a corpus, the most frequent names can be predicted without the context, and small models learn only that. If names
are drawn again for each epoch, they can be predicted only by copying them from the context.

- A name is replaced by one with as many tokens, so rows, positions and the number of tokens stay the same.
- All mentions of a name in a story are replaced by the same name, which the story did not mention before and no other
  character of it gets.
- A name is kept if the story also contains it in another form: as a word ("lily"), in capitals, within a longer word
  (Tim and Timmy), next to a hyphen, or with other tokens.
- The choice depends on seed, epoch and story only: not on the number of workers or processes, nor on resuming.
- Names are found once, when the rows are packed. Replacing them takes about 0.2 ms per row.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.tokenization import token_pieces

from .names import BOYS, FIRST_NAMES, GIRLS, MORE_BOYS, MORE_GIRLS


GIRL, BOY, UNKNOWN = range(3)
PREFIXES = (" ", "", '"')  # what precedes a name in its first token
_BEFORE = ("a", "\n", "a")  # a text after which a name has that prefix
_LETTERS = re.compile(r"[^\W\d_]+")
_BYTE = "\ufffd"  # of a token that is part of a character
REPORTED_STORIES = 5_000
CACHED_STORIES = 10_000  # with the same names, in the same order, in the same forms


class _Word(NamedTuple):
    """A word that is or contains a first name.

    Attributes:
        name: index of the name that the word is, or -1.
        prefix: index of its prefix in `PREFIXES`.
        others: indices of names that the word contains in a form that cannot be replaced.
    """

    name: int
    prefix: int
    others: tuple[int, ...]


_NO_WORD = _Word(-1, 0, ())


class NameTokens:
    """First names in the vocabulary of a tokenizer.

    Attributes:
        names: all first names `[names]`.
        forms: token ids of the name with index `i` after `PREFIXES[p]`, by `(i, p)`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._pieces = pieces = token_pieces(tokenizer)
        self.names = tuple(sorted(FIRST_NAMES))
        self._index = {name: index for index, name in enumerate(self.names)}
        self._by_lower = {name.lower(): index for index, name in enumerate(self.names)}
        girls, boys = {*GIRLS, *MORE_GIRLS}, {*BOYS, *MORE_BOYS}
        self._genders = [GIRL if name in girls else BOY if name in boys else UNKNOWN for name in self.names]
        self.forms = self._encoded_names(tokenizer)
        # Tim may be Timmy, so neither replaces a name in a story of the other.
        self._similar = [
            {at for at, other in enumerate(self.names) if other.startswith(name) or name.startswith(other)}
            for name in self.names
        ]
        self._alternatives: dict[tuple, list[int]] = {}
        self._replaceable: dict[tuple[int, ...], dict[int, list[int]]] = {}

        # Per token: whether a word begins with it, whether one ends with it, and whether it may begin a name. A single
        # space belongs to the next word.
        self._opens = np.array([not piece or not _in_word(piece[0]) for piece in pieces])
        self._closes = np.array([not piece or not (piece[-1] == " " or _in_word(piece[-1])) for piece in pieces])
        beginnings = {name[:end] for name in self._by_lower for end in range(len(name) + 1)}
        cores = [_core(piece) for piece in pieces]
        self._may_begin = np.array(
            [core in beginnings or any(core[:end] in self._by_lower for end in range(2, len(core))) for core in cores]
        )
        self._hyphen_first = np.array([piece.startswith("-") for piece in pieces])
        self._hyphen_last = np.array([piece.endswith("-") for piece in pieces])

        self.words = [_NO_WORD]  # by their code; 0 is a word without names
        self._codes: dict[_Word, int] = {_NO_WORD: 0}
        self._code_of: dict[tuple[int, ...], int] = {}
        self._code_of_token = np.array(
            [
                self._code((index,)) if may and _LETTERS.search(piece) else 0
                for index, (piece, may) in enumerate(zip(pieces, self._may_begin, strict=True))
            ],
            dtype=np.int32,
        )

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the words of `ids` `[tokens]` that concern names, in order, and their indices in `words`."""
        if not len(ids):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        begins = self._opens[ids]
        begins[1:] |= self._closes[ids[:-1]]
        begins[0] = True
        ends = np.append(begins[1:], True)
        code = np.where(begins & ends, self._code_of_token[ids], 0)
        long_words = np.flatnonzero(begins & ~ends & self._may_begin[ids])
        last = np.flatnonzero(ends)
        last = last[np.searchsorted(last, long_words)]
        for first, end in zip(long_words.tolist(), (last + 1).tolist(), strict=True):
            code[first] = self._code(tuple(ids[first:end].tolist()))
        at = np.flatnonzero(code)
        codes = code[at].astype(np.int32)
        after = np.flatnonzero(ends)
        after = np.minimum(after[np.searchsorted(after, at)] + 1, len(ids) - 1)
        before = np.maximum(at - 1, 0)
        hyphen = self._hyphen_first[ids[after]] | (~self._opens[ids[at]] & self._hyphen_last[ids[before]])
        for index in np.flatnonzero(hyphen):
            word = self.words[codes[index]]
            others = word.others if word.name < 0 else (*word.others, word.name)
            codes[index] = self._code_of_word(_Word(-1, 0, others))
        return at.astype(np.int32), codes

    def replaceable(self, codes: list[int]) -> dict[int, list[int]]:
        """The names of a story that can be replaced, and by which.

        Args:
            codes: of the words of the story, as of [`find`][tinystories.data.renaming.NameTokens.find].
        """
        key = tuple(dict.fromkeys(codes))
        if key not in self._replaceable:
            if len(self._replaceable) >= CACHED_STORIES:
                self._replaceable.clear()
            self._replaceable[key] = self._find_replaceable(key)
        return self._replaceable[key]

    def _find_replaceable(self, codes: tuple[int, ...]) -> dict[int, list[int]]:
        prefixes: dict[int, set[int]] = {}
        fixed: set[int] = set()
        for name, prefix, others in map(self.words.__getitem__, codes):
            fixed.update(others)
            if name >= 0:
                prefixes.setdefault(name, set()).add(prefix)
        mentioned = fixed | prefixes.keys()
        taken = set().union(*(self._similar[name] for name in mentioned))
        alternatives = {
            name: [other for other in self._same_lengths(name, used) if other not in taken]
            for name, used in prefixes.items()
            if name not in fixed and self._genders[name] != UNKNOWN and len(self._similar[name] & mentioned) == 1
        }
        return {name: others for name, others in alternatives.items() if others}

    def draw(self, codes: list[int], random: Random) -> dict[int, int]:
        """The new names of a story by the old ones."""
        new: dict[int, int] = {}
        taken: set[int] = set()
        for name, others in self.replaceable(codes).items():  # in the order of their first mentions
            if left := [other for other in others if other not in taken]:
                new[name] = random.choice(left)
                taken |= self._similar[new[name]]
        return new

    def _same_lengths(self, name: int, prefixes: set[int]) -> list[int]:
        """Names of the same gender with as many tokens as `name` after each of `prefixes`."""
        lengths = tuple((prefix, len(self.forms[name, prefix])) for prefix in sorted(prefixes))
        key = self._genders[name], lengths
        if key not in self._alternatives:
            self._alternatives[key] = [
                other
                for other, gender in enumerate(self._genders)
                if gender == key[0] and all(len(self.forms.get((other, at), ())) == length for at, length in lengths)
            ]
        return self._alternatives[key]

    def _encoded_names(self, tokenizer: PreTrainedTokenizerBase) -> dict[tuple[int, int], np.ndarray]:
        keys = [(name, prefix) for name in range(len(self.names)) for prefix in range(len(PREFIXES))]
        texts = [_BEFORE[prefix] + PREFIXES[prefix] + self.names[name] for name, prefix in keys]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        forms = {}
        for (name, prefix), ids in zip(keys, encoded, strict=True):
            wanted = PREFIXES[prefix] + self.names[name]
            for first in range(1, len(ids)):
                if "".join(self._pieces[index] for index in ids[first:]) == wanted:
                    forms[name, prefix] = np.array(ids[first:])
        return forms

    def _code(self, ids: tuple[int, ...]) -> int:
        """The index in `words` of the word with these token ids."""
        if ids not in self._code_of:
            self._code_of[ids] = self._code_of_word(self._word(ids))
        return self._code_of[ids]

    def _code_of_word(self, word: _Word) -> int:
        if word not in self._codes:
            self._codes[word] = len(self.words)
            self.words.append(word)
        return self._codes[word]

    def _word(self, ids: tuple[int, ...]) -> _Word:
        text = "".join(self._pieces[index] for index in ids)
        others = []
        for run in _LETTERS.findall(text):
            begins_with = [run[:end] for end in range(2, len(run))]
            others += [self._index[part] for part in begins_with if part in self._index]
            if run not in self._index and run.lower() in self._by_lower:
                others.append(self._by_lower[run.lower()])
        core = text.lstrip("".join(PREFIXES))
        prefix = text[: len(text) - len(core)]
        name = self._index.get(core, -1)
        if name >= 0:
            kind = PREFIXES.index(prefix) if prefix in PREFIXES else -1
            if kind >= 0 and tuple(self.forms.get((name, kind), ())) == ids:
                return _Word(name, kind, tuple(others))
            others.append(name)
        else:
            others += [self._index[run] for run in _LETTERS.findall(text) if run in self._index]
        return _Word(-1, 0, tuple(others)) if others else _NO_WORD


def _in_word(character: str) -> bool:
    return character.isalpha() or character == _BYTE


def _core(piece: str) -> str:
    """The first run of letters in a piece, in lower case."""
    found = _LETTERS.search(piece)
    return found[0].lower() if found else ""


@dataclass
class RenamingReport:
    """What can be renamed in a corpus.

    Attributes:
        stories: fraction of stories with a name that is replaced.
        mentions: fraction of the mentions of first names that are replaced.
        names: number of names that replace others.
    """

    stories: float
    mentions: float
    names: int

    def __str__(self) -> str:
        return (
            f"{self.mentions:.0%} of the mentions, in {self.stories:.0%} of the stories, are replaced by {self.names} "
            f"names"
        )


class Renaming:
    """The names of tokenized stories, and their replacements in each epoch.

    Args:
        values: all tokens of each chunk of stories.
        names: of the tokenizer.
        seed: of the choice, together with epoch and story.
    """

    def __init__(self, values: list[np.ndarray], names: NameTokens, seed: int):
        self.names, self.seed = names, seed
        self._found = [names.find(chunk) for chunk in values]

    def rename(self, ids: np.ndarray, chunk: int, begin: int, story: int, epoch: int) -> np.ndarray:
        """The tokens of a story with other names.

        Args:
            ids: tokens of the story, at `begin` in `chunk`; they are not changed.
            story: index of the story.
        """
        positions, codes = self._names_in(chunk, begin, begin + len(ids))
        if not codes:
            return ids
        new = self.names.draw(codes, Random(f"{self.seed} {epoch} {story}"))  # faster than numpy's
        ids = ids.copy()
        for position, code in zip(positions, codes, strict=True):
            name, prefix, _ = self.names.words[code]
            if name in new:
                form = self.names.forms[new[name], prefix]
                first = position - begin
                ids[first : first + len(form)] = form
        return ids

    def report(self, spans: Iterable[tuple[int, int, int]]) -> RenamingReport:
        """What can be renamed in the stories at `spans` (chunk, begin and end)."""
        stories = renamed = mentions = replaced = 0
        names: set[int] = set()
        for span in spans:
            _, codes = self._names_in(*span)
            found = [self.names.words[code] for code in codes]
            replaceable = self.names.replaceable(codes)
            stories += 1
            renamed += bool(replaceable)
            mentions += sum(word.name >= 0 for word in found)
            replaced += sum(word.name in replaceable for word in found)
            names.update(*replaceable.values())
        return RenamingReport(renamed / max(1, stories), replaced / max(1, mentions), len(names))

    def _names_in(self, chunk: int, begin: int, end: int) -> tuple[list[int], list[int]]:
        """Positions and codes of the words that concern names between two tokens of a chunk."""
        positions, codes = self._found[chunk]
        first, last = np.searchsorted(positions, np.array((begin, end), dtype=positions.dtype))
        return positions[first:last].tolist(), codes[first:last].tolist()
