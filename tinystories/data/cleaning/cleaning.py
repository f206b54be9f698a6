"""A mended copy: what can be mended without guessing is, and the rest is dropped."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher

from ...utils.errors import UserError, first_line
from ...utils.paths import output_folder
from ..corpus import TEXT, Corpus
from .duplicates import Seen, in_words_of, repeated
from .kinds import DROPPED, END_OF_TEXT, FAULTS, KINDS, WARNINGS
from .reading import BATCH, Stories, batches, datasets_bars, progress_bar, require_string, require_text_column
from .repair import MENDING, gap
from .rules import SPACES, SUSPECT, look, token_pattern


VERSION = 1  # in the name of the cache file of `clean_stories`


def clean_stories(
    stories: Dataset | Iterable[str],
    *,
    special_tokens: Collection[str] = (),
    drop: Collection[str] = DROPPED,
    progress: bool = True,
) -> tuple[Dataset, dict]:
    """Mend what can be mended without guessing, drop what cannot.

    special_tokens: as for `check_quality`.
    drop: the warnings (keys of `KINDS`) for which stories are left out; for faults they are in any case.

    Returns the stories that are left, in their order, and how many there were: `stories` (given), `parted` (added by
    an end of text in the middle of one), `kept`, `mended` and `dropped` by kind. A dropped story is counted once.
    A Dataset on disk gives one on disk, in its own cache; what is in memory stays there.

    Raises UserError for a kind that cannot be dropped, for no story left, and as `check_quality`.
    """
    cleaner = _Cleaner(special_tokens, drop)
    if isinstance(stories, IterableDataset):
        raise UserError("A stream cannot become a Dataset; write it to a file with write_clean, or do not stream it.")
    if not isinstance(stories, Dataset):
        with progress_bar("Cleaning stories", None, progress) as bar:
            left = []
            for texts in batches(stories):
                left += cleaner(texts)
                bar.update(len(texts))
        return Dataset.from_dict({"text": left}, features=TEXT), cleaner.counts()
    require_text_column(stories)
    key = Hasher.hash([VERSION, stories._fingerprint, sorted(special_tokens), sorted(drop)])
    with datasets_bars(progress):
        left = stories.with_format(None).map(
            lambda batch: {"text": cleaner(batch["text"])},
            batched=True,
            batch_size=BATCH,
            remove_columns=stories.column_names,
            features=TEXT,
            load_from_cache_file=False,  # taken from there, nothing would be counted
            new_fingerprint=key,
            desc="Cleaning stories",
        )
    return left, cleaner.counts()


def count_changes(stories: Stories, *, special_tokens: Collection[str] = (), drop: Collection[str] = DROPPED) -> dict:
    """The counts that [`clean_stories`] would give for these stories, also where it would leave none."""
    cleaner = _Cleaner(special_tokens, drop)
    for texts in batches(stories):
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
    """Write a mended copy that `load_corpus` reads. It is written beside its place and put there when it is whole.

    out: for a `Corpus`, a new or empty folder, which gets train.jsonl and validation.jsonl; else a new file that ends
        in .jsonl or .parquet.
    special_tokens, drop: as for `clean_stories`.

    Returns the counts of `clean_stories`; for a Corpus, by split. Training stories that are validation stories after
    mending are dropped as duplicates.

    Raises UserError for a place that is taken or cannot be written to, and as `clean_stories`.
    """
    out, whole = Path(out), isinstance(stories, Corpus)
    cleaner = _Cleaner(special_tokens, drop)
    if whole and out.suffix in WRITERS:
        raise UserError(f"A corpus has two splits and is written to a folder, not to a file like {out.name}.")
    if not whole and out.suffix not in WRITERS:
        raise UserError(f"{out} must end in {' or '.join(WRITERS)}.")
    _require_free(out, whole)
    output_folder(out.parent)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            made = Path(beside) / out.name
            if whole:
                made.mkdir()
                counts = {  # validation first, so that what is in both stays there
                    split: _write(getattr(stories, split), made / f"{split}.jsonl", cleaner, progress)
                    for split in ("validation", "train")
                }
            else:
                counts = _write(stories, made, cleaner, progress)
            _require_free(out, whole)
            if out.exists():
                out.rmdir()
            made.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {first_line(error)}.") from None
    return counts


class _Cleaner:
    """Batches of stories in, what is left of them out. It counts, and remembers stories to know duplicates."""

    def __init__(self, special_tokens: Collection[str], drop: Collection[str]):
        if wrong := sorted(set(drop) - set(WARNINGS)):
            raise UserError(f"`drop` takes kinds of warnings ({', '.join(WARNINGS)}), and {wrong[0]!r} is none.")
        self._special = token_pattern(special_tokens)
        self._removable = token_pattern(special_tokens, removable=True)
        self._drop = [kind for kind in KINDS if kind in drop or kind in FAULTS]
        self._seen, self._seen_words = Seen(), Seen()
        self._start()

    def _start(self) -> None:
        self._stories = self._parted = self._kept = 0
        self._mended, self._dropped = Counter(), Counter()

    def __call__(self, texts: Iterable[str | None]) -> list[str]:
        left, in_words = [], []
        for text in map(require_string, texts):
            self._stories += 1
            parts, mended = self._mend(text)
            self._mended.update(mended)
            self._parted += len(parts) - 1
            for part in parts:
                words = in_words_of(part)
                found = look(part, words, self._special)
                if reason := next((kind for kind in self._drop if kind in found), None):
                    self._dropped[reason] += 1
                else:
                    left.append(part)
                    in_words.append(" ".join(words))
        keep = np.ones(len(left), dtype=bool)
        again = repeated(left, in_words, self._seen, self._seen_words)
        for kind, rows in zip(("duplicates", "near_duplicates"), again, strict=True):
            if kind in self._drop:
                self._dropped[kind] += int(rows.sum())
                keep &= ~rows
        left = [left[row] for row in np.flatnonzero(keep)]
        self._kept += len(left)
        return left

    def counts(self, *, may_be_empty: bool = False) -> dict:
        """The counts since the last call."""
        mended, dropped = (
            {kind: counts[kind] for kind in KINDS if counts[kind]} for counts in (self._mended, self._dropped)
        )
        if not self._kept and not may_be_empty:
            why = ", ".join(f"{kind} {count:,}" for kind, count in dropped.items()) or "none were given"
            raise UserError(f"No story is left of {self._stories:,} ({why}); nothing was written.")
        counts = {"stories": self._stories, "parted": self._parted, "kept": self._kept}
        self._start()
        return {**counts, "mended": mended, "dropped": dropped}

    def _mend(self, text: str) -> tuple[list[str], set[str]]:
        """The stories in `text` (at least one, which may be empty) with nothing left to mend, and what was mended."""
        mended = set()
        if text.isascii() and not (SUSPECT.search(text) or SPACES.search(text) or self._removable.search(text)):
            return [text], mended
        while step := self._mend_one_kind(text):
            kind, text = step
            mended.add(kind)
        if END_OF_TEXT not in text:
            return [text], mended
        parts = [self._mend(part) for part in text.split(END_OF_TEXT)]
        stories = [story for stories, _ in parts for story in stories if story] or [""]
        return stories, mended.union({"special_tokens"}, *(kinds for _, kinds in parts))

    def _mend_one_kind(self, text: str) -> tuple[str, str] | None:
        for kind, mend in MENDING.items():
            if (better := mend(text)) != text:
                return kind, better
        if END_OF_TEXT not in text and (better := self._removable.sub(gap, text)) != text:
            return "special_tokens", better
        return None


def _write(stories: Stories, path: Path, cleaner: _Cleaner, progress: bool) -> dict:
    total = len(stories) if hasattr(stories, "__len__") else None
    with WRITERS[path.suffix](path) as write, progress_bar(f"Writing {path.name}", total, progress) as bar:
        for texts in batches(stories):
            write(cleaner(texts))
            bar.update(len(texts))
    return cleaner.counts()


@contextmanager
def _jsonl_writer(path: Path) -> Iterator[Callable]:
    with path.open("x", encoding="utf-8", newline="\n") as file:
        yield lambda texts: file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable]:
    with pq.ParquetWriter(path, TEXT.arrow_schema) as file:
        yield lambda texts: file.write_table(pa.table([pa.array(texts, pa.string())], schema=TEXT.arrow_schema))


WRITERS = {".jsonl": _jsonl_writer, ".parquet": _parquet_writer}


def _require_free(out: Path, folder: bool) -> None:
    if (out.exists() or out.is_symlink()) and not (folder and out.is_dir() and not any(out.iterdir())):
        raise UserError(
            f"{out} exists already and is not overwritten; choose another {'folder' if folder else 'file'}."
        )
