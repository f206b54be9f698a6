"""Detect the split of a file from its name.

The names of data files (`train-00000-of-00004.parquet`, `stories-validation.txt`) and folders contain splits, titles
(`Test of courage.txt`) do not. The patterns of `datasets` would also find a split in a title.
"""

import re
from pathlib import Path

from ..formats import name_suffixes


SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = {word: split for split, words in SPLITS.items() for word in words}
_SHARD = re.compile(r"[-_. ]*(?:\d+[-_]of[-_]\d+(?:[-_][0-9a-f]{8,})?|\d+|\(\d+\)|part[-_.]?\d+)$")
_TITLE_WORDS = frozenset(
    "a an the and or but of in on at to for from with by my your his her our their its is was are who what when how "
    "no not i we he she it".split()
)
_DATA_WORD = re.compile(r"\d|stor(?:y|ies)|tale|data|text|corpus|corpora|^set$|split|shard")


def split_names(files: list[Path]) -> list[str]:
    """The split of each file, by its name or that of its innermost folder that names one; otherwise "train".

    A name is that of a split if nothing else is in it except the number of a shard (`val-00000-of-00004.parquet`). A
    split as the first or last word between `-`, `_` or `.` counts if the rest is a name of data: if there is a file of
    the same name for another split or for none, or one named `train`, or if the rest has a word for data (`stories`)
    or a digit. A name with spaces or with a word such as "the" or "of" is a title.
    """
    siblings: dict[Path, set[str]] = {}
    for file in files:
        for part in (file, *file.parents[:-1]):
            siblings.setdefault(part.parent, set()).add(_stem(part, part == file))

    def split_of(file: Path) -> str:
        parts = (file, *file.parents[:-1])
        found = (_split_of(_stem(part, part == file), siblings[part.parent]) for part in parts)
        return next(filter(None, found), "train")

    return list(map(split_of, files))


def _stem(path: Path, is_file: bool) -> str:
    name = path.name.lower()
    if is_file:
        suffix, compressed = name_suffixes(name)
        name = name.removesuffix(compressed).removesuffix(suffix)
    return _SHARD.sub("", name)


def _split_of(stem: str, siblings: set[str]) -> str | None:
    if stem in _WORDS:
        return _WORDS[stem]
    words = _words(stem)
    if " " in stem or len(words) < 2 or _TITLE_WORDS.intersection(words):
        return None
    for word, rest in ((words[-1], words[:-1]), (words[0], words[1:])):
        if word in _WORDS and (
            any(map(_DATA_WORD.search, rest))
            or any(_WORDS.get(other) == "train" for other in siblings)
            or any(other != stem and _without_split(_words(other)) == rest for other in siblings)
        ):
            return _WORDS[word]
    return None


def _words(stem: str) -> list[str]:
    return [word for word in re.split(r"[-_.]", stem) if word]


def _without_split(words: list[str]) -> list[str]:
    if words[-1:] and words[-1] in _WORDS:
        return words[:-1]
    return words[1:] if words[:1] and words[0] in _WORDS else words
