"""A clean copy of stories: problems with only one possible repair are repaired; stories with others are dropped."""

import html
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher

from ...utils.console import counted
from ...utils.errors import UserError
from ...utils.paths import output_folder, staged
from ...utils.progress import hidden_datasets_bars
from ..corpus import Corpus
from ..story_dataset import TEXT
from ..text_split import END_OF_TEXT
from .duplicates import DuplicateFinder, words_of
from .mojibake import repair_mojibake
from .problems import (
    CONTROL,
    DIRECTION,
    DROPPED,
    ENTITY,
    ERRORS,
    INVISIBLE,
    KINDS,
    LINE_BREAK,
    ODD_SPACES,
    RIGHT_TO_LEFT,
    SPACES,
    SUSPECT,
    WARNINGS,
    find_problems,
    is_entity,
    token_pattern,
)
from .reading import BATCH, Stories, batches, require_string, require_text_column


VERSION = 2  # in the name of the cache file of `clean_stories`
SUFFIXES = (".jsonl", ".parquet")


def clean_stories(
    stories: Dataset | Iterable[str],
    *,
    special_tokens: Collection[str] = (),
    drop: Collection[str] = DROPPED,
    progress: bool = True,
) -> tuple[Dataset, dict]:
    """Repair or drop the stories that have problems.

    A `Dataset` on disk gives one on disk, in the same cache; a `Dataset` in memory gives one in memory.

    Args:
        special_tokens: as for `check_quality`.
        drop: warnings (keys of `KINDS`) for which stories are dropped; for errors they always are.

    Returns:
        The remaining stories in their order, and a dictionary of counts: `stories` (given), `split` (stories added,
        because one contained an end-of-text token), `kept`, and `repaired` and `dropped` by kind; a dropped story
        counts once.

    Raises:
        UserError: if `drop` has a kind that is not a warning, if no story remains, and as `check_quality`.
    """
    cleaner = _Cleaner(special_tokens, drop)
    if isinstance(stories, IterableDataset):
        raise UserError(
            "`clean_stories` does not support streaming datasets: use `write_clean`, or load the dataset without "
            "streaming."
        )
    if not isinstance(stories, Dataset):
        kept = [text for texts in batches(stories, "Cleaning stories", progress) for text in cleaner(texts)]
        return Dataset.from_dict({"text": kept}, features=TEXT), cleaner.counts()
    require_text_column(stories)
    with nullcontext() if progress else hidden_datasets_bars():
        kept = stories.with_format(None).map(
            lambda batch: {"text": cleaner(batch["text"])},
            batched=True,
            batch_size=BATCH,
            remove_columns=stories.column_names,
            features=TEXT,
            load_from_cache_file=False,  # a cached result would count nothing
            new_fingerprint=Hasher.hash([VERSION, stories._fingerprint, sorted(special_tokens), sorted(drop)]),
            desc="Cleaning stories",
        )
    return kept, cleaner.counts()


def count_changes(stories: Stories, *, special_tokens: Collection[str] = (), drop: Collection[str] = DROPPED) -> dict:
    """The numbers that [`clean_stories`] would return; `kept` may be 0."""
    cleaner = _Cleaner(special_tokens, drop)
    for texts in batches(stories, "Cleaning stories", progress=False):
        cleaner(texts)
    return cleaner.counts(may_be_empty=True)


def write_clean(
    stories: Corpus | Stories,
    out: str | Path,
    *,
    special_tokens: Collection[str] = (),
    drop: Collection[str] = DROPPED,
    progress: bool = True,
) -> dict:
    """Write a clean copy that `load_corpus` reads. It is moved into place when it is complete.

    Training stories that equal a validation story after the repairs are dropped as duplicates.

    Args:
        out: for a `Corpus`, a new or empty folder, which gets train.jsonl and validation.jsonl; otherwise a new file
            that ends in .jsonl or .parquet.
        special_tokens, drop: as for `clean_stories`.

    Returns:
        The numbers of `clean_stories`; for a `Corpus`, by split.

    Raises:
        UserError: if `out` exists or cannot be written, and as `clean_stories`.
    """
    out, is_corpus = Path(out), isinstance(stories, Corpus)
    cleaner = _Cleaner(special_tokens, drop)
    if is_corpus and out.suffix in SUFFIXES:
        raise UserError(f"A cleaned corpus is a folder with a file for each split: specify a folder, not {out.name}.")
    if not is_corpus and out.suffix not in SUFFIXES:
        raise UserError(f"{out} must end in {' or '.join(SUFFIXES)}.")
    _require_new(out, is_corpus)
    output_folder(out.parent)
    with staged(out) as copy:
        if not is_corpus:
            counts = _write(stories, copy, cleaner, progress)
        else:
            copy.mkdir()
            counts = {  # validation first, so that a story in both stays there
                split: _write(getattr(stories, split), copy / f"{split}.jsonl", cleaner, progress)
                for split in ("validation", "train")
            }
        _require_new(out, is_corpus)
    return counts


class _Cleaner:
    """Cleans batches of stories, counts the changes, and finds duplicates across batches."""

    def __init__(self, special_tokens: Collection[str], drop: Collection[str]):
        if wrong := sorted(set(drop) - set(WARNINGS)):
            raise UserError(f"`drop` must contain kinds of warnings ({', '.join(WARNINGS)}), not {wrong[0]!r}.")
        self._special = token_pattern(special_tokens)
        self._removable = token_pattern(special_tokens, removable=True)
        self._drop = [kind for kind in KINDS if kind in drop or kind in ERRORS]
        self._find_duplicates = DuplicateFinder()
        self._numbers: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def __call__(self, texts: Iterable[str | None]) -> list[str]:
        kept, words = [], []
        for text in map(require_string, texts):
            parts, repaired = self._repair(text)
            self._repaired.update(repaired)
            self._numbers.update(stories=1, split=len(parts) - 1)
            for part in parts:
                part_words = words_of(part)
                found = find_problems(part, part_words, self._special)
                if reason := next((kind for kind in self._drop if kind in found), None):
                    self._dropped[reason] += 1
                else:
                    kept.append(part)
                    words.append(part_words)
        keep = np.ones(len(kept), dtype=bool)
        for kind, repeated in self._find_duplicates(kept, words).items():
            if kind in self._drop:
                self._dropped[kind] += int(repeated.sum())
                keep &= ~repeated
        kept = [kept[row] for row in np.flatnonzero(keep)]
        self._numbers["kept"] += len(kept)
        return kept

    def counts(self, *, may_be_empty: bool = False) -> dict:
        """The counts since the last call."""
        numbers = {name: self._numbers[name] for name in ("stories", "split", "kept")}
        repaired, dropped = (
            {kind: counts[kind] for kind in KINDS if counts[kind]} for counts in (self._repaired, self._dropped)
        )
        for counts in (self._numbers, self._repaired, self._dropped):
            counts.clear()
        if not numbers["kept"] and not may_be_empty:
            if not numbers["stories"]:
                raise UserError("There are no stories to clean; nothing was written.")
            why = ", ".join(f"{kind}: {count:,}" for kind, count in dropped.items())
            raise UserError(
                f"Cleaning would drop every story ({counted(numbers['stories'], 'story')}; {why}), so nothing was "
                f"written: check whether the text column and --split are right."
            )
        return {**numbers, "repaired": repaired, "dropped": dropped}

    def _repair(self, text: str) -> tuple[list[str], set[str]]:
        """The stories in `text` (at least one, which may be empty) after all repairs, and the kinds repaired."""
        repaired: set[str] = set()
        if text.isascii() and not (SUSPECT.search(text) or SPACES.search(text) or self._removable.search(text)):
            return [text], repaired
        while step := self._repair_one_kind(text):
            kind, text = step
            repaired.add(kind)
        if END_OF_TEXT not in text:
            return [text], repaired
        parts = [self._repair(part) for part in text.split(END_OF_TEXT)]
        stories = [story for stories, _ in parts for story in stories if story] or [""]
        return stories, repaired.union({"special_tokens"}, *(kinds for _, kinds in parts))

    def _repair_one_kind(self, text: str) -> tuple[str, str] | None:
        for kind, repair in REPAIRS.items():
            if (better := repair(text)) != text:
                return kind, better
        if END_OF_TEXT not in text and (better := self._removable.sub(_gap, text)) != text:
            return "special_tokens", better
        return None


def _gap(match: re.Match) -> str:
    """The replacement for a removed token: a space between words or sentences, otherwise nothing."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " if after.isalnum() and (before.isalnum() or before in tuple(".!?,;:")) else ""


def _unescape_entities(text: str) -> str:
    return ENTITY.sub(lambda match: html.unescape(match.group()) if is_entity(match.group()) else match.group(), text)


def _remove_controls(text: str) -> str:
    return CONTROL.sub("", LINE_BREAK.sub("\n", text)) if CONTROL.search(text) else text


def _remove_invisible(text: str) -> str:
    text = INVISIBLE.sub("", text)
    return text if RIGHT_TO_LEFT.search(text) else DIRECTION.sub("", text)


def _unescape_backslashes(text: str) -> str:
    text = re.sub(r"(?:\\r)?\\n(?=[A-Z\"'“‘\\\s]|\Z)", "\n", text)
    return re.sub(r"\\+(?=[\"'“”‘’])", "", text)


def _normalize_spaces(text: str) -> str:
    text = re.sub(f"[{ODD_SPACES}]", " ", LINE_BREAK.sub("\n", text))
    text = re.sub(" *\n *", "\n", re.sub("  +", " ", text))
    return re.sub("\n{3,}", "\n\n", text).strip()


REPAIRS = {
    "html_entities": _unescape_entities,
    "mojibake": repair_mojibake,
    "control_characters": _remove_controls,
    "invisible_characters": _remove_invisible,
    "backslashes": _unescape_backslashes,
    "spaces": _normalize_spaces,
}


def _write(stories: Stories, path: Path, cleaner: _Cleaner, progress: bool) -> dict:
    cleaned = map(cleaner, batches(stories, f"Writing {path.name}", progress))
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, TEXT.arrow_schema) as table:
            for texts in cleaned:
                table.write_table(pa.table([pa.array(texts, pa.string())], schema=TEXT.arrow_schema))
    else:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            for texts in cleaned:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return cleaner.counts()


def _require_new(out: Path, is_folder: bool) -> None:
    if (out.exists() or out.is_symlink()) and not (is_folder and out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"{out} already exists and is not overwritten: choose another {'folder' if is_folder else 'file'}."
        )
