r"""Is this text fit to train on? What is wrong with which story, and a copy in which it is mended.

    report = check_quality(corpus.train)               # print(report), report.as_dict(), report.faults
    stories, counts = clean_stories(corpus.train)      # a Dataset
    counts = write_clean(corpus, "my_stories_clean")   # train.jsonl and validation.jsonl, for load_corpus

Decisions:
- Three severities. A `fault` should not be trained on: the model would learn to write it (markup, broken characters),
  or training breaks (the name of a special token becomes that token). A `warning` may be meant and wants a look. An
  `info` is how people write, and is counted only because a model copies it.
- Evidence, not suspicion. "café", curly quotes, dashes, emoji, "AT&T", "3 < 5" and "..." are no findings. Each pattern
  names something that has hardly another reading in a story.
- One function looks. `clean_stories` drops what `check_quality` would call a fault after mending, so a cleaned corpus
  has none. It mends until nothing changes, so cleaning twice is cleaning once.
- Mending does not guess. Entities, characters nobody sees, text decoded by the wrong table, quotes behind a backslash
  and spaces have one right form. A story with `<unk>` or U+FFFD in it has lost something, and is dropped.
- No library for mojibake. Of 19,197 different lines with other than ASCII in installed packages, ftfy 6.3 changes 5
  and the rules below 3, which are mojibake. 2,886 of them read as Windows-1252 are restored by ftfy in 2,867 cases, by
  these rules in all. But the kind that TinyStories holds, "â€" whose third byte was lost, ftfy leaves: of 404
  stories read so it restores 96, these rules 386. It knows twenty more encodings, none of which occurs here.
- Thresholds lie far outside of what 16,054 real TinyStories hold, so that a finding is not a matter of taste.
- Memory: 16 bytes a story, to find duplicates; three times that for moments, while they are sorted.
"""

import html
import json
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from html.entities import html5
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from tqdm.auto import tqdm

from .corpus import SEPARATOR, TEXT, Corpus
from .errors import UserError, first_line
from .folders import output_folder


Stories = Dataset | IterableDataset | Iterable[str]
Place = tuple[int, int]  # where in a story: first character, and the one after the last

VERSION = 1  # in the name of the cache file of `clean_stories`
BATCH = 1_000
EXAMPLES = 3

# The TinyStories at hand have 234 to 4,107 characters. Below 100, the whole of them has interrupted beginnings such as
# "Once upon a time, there" (huggingface.co/datasets/roneneldan/TinyStories/discussions/15).
MIN_CHARACTERS, MAX_CHARACTERS = 100, 10_000
# Their share in a story is at least 0.109 in TinyStories, and was under 0.04 in passages of eight other languages.
COMMON_WORDS = frozenset(
    "the and to of they you that his her with for said she it not had at be but him them what were".split()
)
MIN_COMMON_WORDS = 0.06
# Different runs of four words among all such runs: at least 0.81 in TinyStories.
MIN_DIFFERENT_RUNS = 0.5

END_OF_TEXT = SEPARATOR.decode()
# These stand where a word was: taking them out would leave a hole.
LOST_WORDS = ("<unk>", "[UNK]", "<mask>", "[MASK]")
OTHER_TOKENS = (
    *("<s>", "</s>", "<pad>", "<bos>", "<eos>", "<sep>", "<cls>", "[PAD]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
)


class Kind(NamedTuple):
    severity: str
    what: str
    remedy: str


_TAKEN_OUT, _DROPPED, _FIRST_KEPT = "Cleaning takes them out.", "Cleaning drops them.", "Cleaning keeps the first."
KINDS = {
    "empty": Kind("fault", "no text", _DROPPED),
    "special_tokens": Kind(
        "fault",
        "the name of a special token, which becomes that token",
        f"Cleaning takes them out, and parts stories at {END_OF_TEXT}; a story that lost a word to <unk> is dropped.",
    ),
    "control_characters": Kind("fault", "control characters, or private ones", _TAKEN_OUT),
    "invisible_characters": Kind("fault", "zero-width characters, soft hyphens, marks of direction", _TAKEN_OUT),
    "mojibake": Kind("fault", "decoded by the wrong table", "Cleaning mends them, or drops what has lost characters."),
    "html": Kind("fault", "HTML", "Cleaning drops them. Better: make text of it with an HTML parser."),
    "html_entities": Kind("fault", "HTML entities", "Cleaning puts the characters in their place."),
    "very_short": Kind("warning", f"fewer than {MIN_CHARACTERS} characters", _DROPPED),
    "very_long": Kind("warning", f"more than {MAX_CHARACTERS:,} characters", "See whether stories run together."),
    "duplicates": Kind("warning", "the same as an earlier story", _FIRST_KEPT),
    "near_duplicates": Kind("warning", "an earlier story but for case, spaces and punctuation", _FIRST_KEPT),
    "instructions": Kind("warning", "a prompt, a template or the voice of an assistant", _DROPPED),
    "markdown": Kind("warning", "Markdown", _DROPPED),
    "web_addresses": Kind("warning", "web addresses", _DROPPED),
    "email_addresses": Kind("warning", "e-mail addresses", _DROPPED),
    "backslashes": Kind("warning", "backslashes, mostly of JSON", r"Cleaning mends \" and \n, and drops the others."),
    "unfinished": Kind("warning", "cut off: no mark at the end", _DROPPED),
    "not_english": Kind(
        "warning",
        "few common English words, or letters of another script",
        "Nothing, where another language is meant; but what is said of grammar holds for English.",
    ),
    "repetitive": Kind("warning", "goes round in circles", "See whether a model wrote it and did not stop."),
    "begins_midway": Kind("info", "a small letter at the beginning", "Nothing, unless beginnings are missing."),
    "odd_quotes": Kind("info", "quotation marks without a partner, or doubled", "Nothing, unless they are many."),
    "mixed_quotes": Kind("info", "straight and curly quotation marks in one story", "Nothing."),
    "asterisks": Kind("info", "words between asterisks", "Nothing, where they stress a word."),
    "missing_spaces": Kind("info", "no space between two sentences", "Nothing, unless they are many."),
    "spaces": Kind("info", "doubled, odd or trailing spaces", "Cleaning mends them."),
}
SEVERITIES = ("fault", "warning", "info")
FAULTS = tuple(kind for kind, about in KINDS.items() if about.severity == "fault")
WARNINGS = tuple(kind for kind, about in KINDS.items() if about.severity == "warning")
DROPPED = tuple(kind for kind in WARNINGS if kind not in ("very_long", "not_english", "repetitive"))


@dataclass(frozen=True)
class Example:
    """The index of a story among those checked, from 0, and the text around the place, with escapes for what cannot
    be seen."""

    story: int
    excerpt: str


@dataclass
class QualityFinding:
    """One kind of thing that was found.

    Attributes:
        kind: a key of `KINDS`.
        severity: "fault", "warning" or "info".
        count: stories that have it, each once.
        share: of the stories checked, between 0 and 1.
        what, remedy: what it is, and what to do about it.
        examples: the first few.
    """

    kind: str
    severity: str
    count: int
    share: float
    what: str
    remedy: str
    examples: list[Example] = field(default_factory=list)


@dataclass
class QualityReport:
    """What `check_quality` found.

    Attributes:
        stories, characters: how many were checked.
        total: how many stories there are, where that is known: more than `stories` under a limit.
        findings: those that occur, faults first and then the most frequent.
    """

    stories: int
    characters: int
    total: int | None
    findings: list[QualityFinding]

    @property
    def faults(self) -> list[QualityFinding]:
        return [finding for finding in self.findings if finding.severity == "fault"]

    @property
    def warnings(self) -> list[QualityFinding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    def as_dict(self) -> dict:
        """Plain values, for JSON; `counts` has every kind that was looked for, those not found too."""
        found = {finding.kind: finding.count for finding in self.findings}
        return {**asdict(self), "counts": {kind: found.get(kind, 0) for kind in KINDS}}

    def lines(self) -> list[str]:
        """The report for a terminal, a line each."""
        part = f" (the first of {self.total:,})" if self.total is not None and self.total > self.stories else ""
        lines = [f"{self.stories:,} stories{part}, {self.characters:,} characters: {self._verdict()}"]
        for found in self.findings:
            many = "story" if found.count == 1 else "stories"
            share = "<0.01 %" if found.share < 5e-5 else f"{100 * found.share:.2f} %"
            lines.append(f"{found.severity:<8} {found.kind:<21}{found.count:>9,} {many:<8}{share:>9}   {found.what}")
            lines += [f"{example.story:>18,}: {example.excerpt}" for example in found.examples]
            lines.append(f"{'':9}-> {found.remedy}")
        return lines

    def _verdict(self) -> str:
        counts = {"fault": len(self.faults), "warning": len(self.warnings)}
        said = [f"{count} kind{'s' * (count != 1)} of {name}" for name, count in counts.items() if count]
        return " and ".join(said) or "fit to train on"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def check_quality(
    stories: Stories, *, limit: int | None = None, special_tokens: Collection[str] = (), progress: bool = True
) -> QualityReport:
    """Look at every story (or the first `limit`) for what should not be trained on.

    stories: a `datasets.Dataset` with the column "text", or any iterable of strings; it is read once, in order.
    special_tokens: further names that a tokenizer takes for special tokens, such as `tokenizer.all_special_tokens`.

    Raises UserError for no stories, and for something that is not text.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, but is {limit}.")
    special = _token_pattern(special_tokens)
    seen, seen_words = _Seen(), _Seen()
    counts, examples = Counter(), {kind: [] for kind in KINDS}
    total = len(stories) if hasattr(stories, "__len__") else None
    count = characters = 0

    def note(kind: str, story: int, text: str, place: Place) -> None:
        counts[kind] += 1
        if len(examples[kind]) < EXAMPLES:
            examples[kind].append(Example(story, _excerpt(text, *place)))

    with _bar("Checking stories", min(filter(None, (total, limit)), default=None), progress) as bar:
        for texts in _batches(stories, limit):
            in_words = []
            for index, text in enumerate(texts, count):
                words = _words(text)
                in_words.append(" ".join(words))
                for kind, place in _look(text, words, special).items():
                    note(kind, index, text, place)
            again, alike = _repeated(texts, in_words, seen, seen_words)
            for kind, rows in ("duplicates", again), ("near_duplicates", alike):
                for row in np.flatnonzero(rows):
                    note(kind, count + int(row), texts[row], (0, 0))
            count += len(texts)
            characters += sum(map(len, texts))
            bar.update(len(texts))
    if not count:
        raise UserError("There are no stories to check.")
    findings = [
        QualityFinding(kind, about.severity, counts[kind], counts[kind] / count, about.what, about.remedy, found)
        for (kind, about), found in zip(KINDS.items(), examples.values(), strict=True)
        if counts[kind]
    ]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))
    return QualityReport(count, characters, total, findings)


def refuse(report: QualityReport, mend: str) -> None:
    """Raise a UserError of one line if there are faults; `mend` is the command that writes a mended copy."""
    if report.faults:
        kinds = ", ".join(f"{finding.kind} in {finding.count:,}" for finding in report.faults)
        raise UserError(
            f"Not all of these {report.stories:,} stories are fit to train on: {kinds}. `{mend}` writes a mended copy."
        )


# Cleaning


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
        with _bar("Cleaning stories", None, progress) as bar:
            left = []
            for texts in _batches(stories):
                left += cleaner(texts)
                bar.update(len(texts))
        return Dataset.from_dict({"text": left}, features=TEXT), cleaner.counts()
    _require_text_column(stories)
    key = Hasher.hash([VERSION, stories._fingerprint, sorted(special_tokens), sorted(drop)])
    with _bars(progress):
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
        self._special = _token_pattern(special_tokens)
        self._removable = _token_pattern(special_tokens, removable=True)
        self._drop = [kind for kind in KINDS if kind in drop or kind in FAULTS]
        self._seen, self._seen_words = _Seen(), _Seen()
        self._start()

    def _start(self) -> None:
        self._stories = self._parted = self._kept = 0
        self._mended, self._dropped = Counter(), Counter()

    def __call__(self, texts: Iterable[str | None]) -> list[str]:
        left, in_words = [], []
        for text in map(_require_string, texts):
            self._stories += 1
            parts, mended = self._mend(text)
            self._mended.update(mended)
            self._parted += len(parts) - 1
            for part in parts:
                words = _words(part)
                found = _look(part, words, self._special)
                if reason := next((kind for kind in self._drop if kind in found), None):
                    self._dropped[reason] += 1
                else:
                    left.append(part)
                    in_words.append(" ".join(words))
        keep = np.ones(len(left), dtype=bool)
        repeated = _repeated(left, in_words, self._seen, self._seen_words)
        for kind, rows in zip(("duplicates", "near_duplicates"), repeated, strict=True):
            if kind in self._drop:
                self._dropped[kind] += int(rows.sum())
                keep &= ~rows
        left = [left[row] for row in np.flatnonzero(keep)]
        self._kept += len(left)
        return left

    def counts(self) -> dict:
        """What happened since they were last asked for."""
        mended, dropped = (
            {kind: counts[kind] for kind in KINDS if counts[kind]} for counts in (self._mended, self._dropped)
        )
        if not self._kept:
            why = ", ".join(f"{kind} {count:,}" for kind, count in dropped.items()) or "none were given"
            raise UserError(f"No story is left of {self._stories:,} ({why}); nothing was written.")
        counts = {"stories": self._stories, "parted": self._parted, "kept": self._kept}
        self._start()
        return {**counts, "mended": mended, "dropped": dropped}

    def _mend(self, text: str) -> tuple[list[str], set[str]]:
        """The stories in `text` (at least one, which may be empty) with nothing left to mend, and what was mended."""
        mended = set()
        if text.isascii() and not (_SUSPECT.search(text) or _SPACES.search(text) or self._removable.search(text)):
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
        if END_OF_TEXT not in text and (better := self._removable.sub(_gap, text)) != text:
            return "special_tokens", better
        return None


def _write(stories: Stories, path: Path, cleaner: _Cleaner, progress: bool) -> dict:
    total = len(stories) if hasattr(stories, "__len__") else None
    with WRITERS[path.suffix](path) as write, _bar(f"Writing {path.name}", total, progress) as bar:
        for texts in _batches(stories):
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


# What is looked for


def _token_pattern(names: Collection[str], removable: bool = False) -> re.Pattern:
    if isinstance(names, str):
        raise UserError("special_tokens is one string; give a list of names.")
    fixed = {*OTHER_TOKENS, *LOST_WORDS, *filter(None, names)} - set(LOST_WORDS if removable else ())
    # <|im_start|>, <|begin of text|>, and the broad bars that some models have
    any_name = rf"<[|｜]{'(?!unk|mask)' if removable else ''}[\w▁ ./-]{{1,60}}[|｜]>"
    return re.compile("|".join([any_name, *map(re.escape, sorted(fixed, key=len, reverse=True))]))


_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufff9-\ufffc\ufffe\uffff"
    "\U000f0000-\U0010ffff]"
)
# Joiners tie letters of some scripts, and emoji.
_TIED = "[\u0600-\u1fff\u2070-\U0010ffff]"
_INVISIBLE = re.compile(
    f"[\xad\u034f\u180e\u200b\u2060-\u2064\ufeff]|(?<!{_TIED})[\u200c\u200d]|[\u200c\u200d](?!{_TIED})"
)
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u05ff\u0620-\u08ff\ufb1d-\ufdfd\ufe70-\ufefc]")
_LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x1c-\x1f\u2028\u2029]")
# All but the ideographic space, with which Chinese and Japanese indent.
_ODD_SPACES = "\t\xa0\u1680\u2000-\u200a\u202f\u205f"
_SPACES = re.compile(rf"[{_ODD_SPACES}\r\u2028\u2029]|  | \n|\n |\n\n\n|\A\s|\s\Z")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_TAGS = """
    a abbr article aside audio b big blockquote body br button center cite code dd del div dl dt em embed figcaption
    figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins label legend li link main map
    mark meta nav noscript object ol option p param picture pre q script section select small source span strike strong
    style sub sup svg table tbody td textarea tfoot th thead title tr tt u ul video wbr
    """.split()
_HTML = re.compile(
    rf"</?(?:{'|'.join(_TAGS)})(?:\s[^<>]*=[^<>]*)?\s*/?>|<!--|<!doctype\b|<\?xml\b|<!\[CDATA\[", re.IGNORECASE
)
_MARKDOWN = re.compile(
    r"^\#{1,6} +\S"  # heading
    r"|```|^ *~~~"  # code
    r"|\*\*[^\s*][^*\n]*\*\*|(?<!\w)__[^\s_][^_\n]*__(?!\w)"  # bold
    r"|!?\[[^\]\n]+\]\([^)\s]+\)"  # link, picture
    r"|^ *\|? *:?-{3,}:? *\|[-|: ]*$",  # below the head of a table
    re.MULTILINE,
)
_WEB = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.[\w-]+\.[a-z]{2,}|\b[a-z0-9-]{2,}\.(?:com|org|net|edu|gov)\b")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_ASTERISKS = re.compile(r"(?<![\w*])\*[^\s*](?:[^*\n]{0,80}[^\s*])?\*(?![\w*])")
# Something in ASCII of which one stands in all that is matched by the patterns above and by `_TEMPLATE`.
_SUSPECT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f<&@#*`|\\\[{_]|://|www\.|\.(?:com|org|net|edu|gov)\b|-{3}|~{3}")

_OPENING = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely)\b[^.\n]{0,60}\b(?:story|stories)\b[^.\n]*[:\n]"
    r"|here(?:['’]s| is) (?:[\w-]+ ){0,4}(?:possible|short|simple|example|revised|requested) (?:[\w-]+ ){0,3}story\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:prompt|instructions?|words|features|summary|random sentence|story|response|output|user|human|assistant|"
    r"system|title) ?:(?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_TEMPLATE = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}|\{[A-Za-z_]{2,30}\}|\[(?:(?:insert|your) [^\]\n]{1,40}|(?:child['’]s |character )?name)\]",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\bas an (?:ai|artificial intelligence)\b|\b(?:ai|large) language model\b|\b\d+ ?[-–] ?\d+ paragraphs\b"
    r"|\bthe story (?:should|must) (?:use|contain|have|be|include)\b|\bstory has the following\b|\(\d+ words\)"
)
_IN_PHRASE = ("as an a", "language model", " paragraphs", "story should", "story must", "story has the", " words)")

_OTHER_SCRIPT = re.compile(
    "[\u0250-\u02af\u0370-\u1dbf\u2c00-\u2c5f\u2c80-\u2dff\u3040-\u318f\u31a0-\ua71f\uaa00-\uab2f\uab70-\ud7ff"
    "\uf900-\ufaff\ufb13-\ufdff\ufe70-\ufefc\uff10-\uff5a\uff66-\uffdc\U00020000-\U0003ffff]"
)
_DOUBLED_QUOTES = re.compile(r"''|(?<!`)``(?!`)|\"\"|[“”]\"|\"[“”]")
_MISSING_SPACE = re.compile(r"[a-z][.!?][A-Z][a-z]")
_NO_END = frozenset(",;:([{“‘&/\\–—-")


def _look(text: str, words: list[str], special: re.Pattern) -> dict[str, Place]:
    """The kinds of findings in one story, duplicates left out, and where the first of each is."""
    stripped = text.strip()
    if not stripped:
        return {"empty": (0, len(text))}
    found: dict[str, Place | re.Match | None] = {"special_tokens": special.search(text)}
    plain, suspect, long_enough = text.isascii(), _SUSPECT.search(text), len(stripped) >= MIN_CHARACTERS
    if suspect:
        found["html"] = _HTML.search(text)
        found["html_entities"] = next((one for one in _ENTITY.finditer(text) if _is_entity(one.group())), None)
        found["markdown"] = _MARKDOWN.search(text)
        found["web_addresses"] = _WEB.search(text)
        found["email_addresses"] = _EMAIL.search(text)
        found["backslashes"] = _find(text, "\\")
        found["asterisks"] = _ASTERISKS.search(text)
    if suspect or not plain:
        found["control_characters"] = _CONTROL.search(text)
    if not plain:
        found["invisible_characters"] = _find_invisible(text)
        found["mojibake"] = _find_mojibake(text)
    if not long_enough:
        found["very_short"] = (0, 0)
    if len(stripped) > MAX_CHARACTERS:
        found["very_long"] = (0, 0)
    found["instructions"] = _find_instructions(text)
    last = stripped[-1]
    is_cut = last.isalnum() or last in _NO_END or stripped[-2:] in (' "', '\n"')
    if is_cut and not stripped[-7:].lower().endswith("the end"):
        end = len(text.rstrip())
        found["unfinished"] = (end, end)
    if long_enough and sum(map(COMMON_WORDS.__contains__, words)) <= MIN_COMMON_WORDS * len(words):
        found["not_english"] = (0, 0)
    elif not plain:
        found["not_english"] = _OTHER_SCRIPT.search(text)
    runs = len(words) - 3
    if long_enough and len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) < MIN_DIFFERENT_RUNS * runs:
        found["repetitive"] = (0, 0)
    if stripped[0].islower():
        found["begins_midway"] = (0, 0)
    found |= _look_at_quotes(text, plain)
    found["missing_spaces"] = _MISSING_SPACE.search(text)
    found["spaces"] = _SPACES.search(text)
    return {kind: place.span() if isinstance(place, re.Match) else place for kind, place in found.items() if place}


def _find(text: str, part: str) -> Place | None:
    at = text.find(part)
    return None if at < 0 else (at, at + len(part))


def _find_invisible(text: str) -> re.Match | None:
    return _INVISIBLE.search(text) or (None if _RIGHT_TO_LEFT.search(text) else _DIRECTION.search(text))


def _find_instructions(text: str) -> re.Match | None:
    small = text.lower()
    return (
        _OPENING.match(text)
        or (":" in text and _LABEL.search(text))
        or (any(part in small for part in _IN_PHRASE) and _PHRASE.search(small))
        or (("{" in text or "[" in text) and _TEMPLATE.search(text))
        or None
    )


def _look_at_quotes(text: str, plain: bool) -> dict[str, Place | re.Match | None]:
    straight = text.count('"')
    opened, closed = (0, 0) if plain else (text.count("“"), text.count("”"))
    if straight % 2 or (opened != closed and "„" not in text):  # „these“ are German
        last = max(text.rfind(mark) for mark in '"“”')
        return {"odd_quotes": (last, last + 1)}
    mixed = _find(text, '"') if straight and opened else None
    return {"odd_quotes": _DOUBLED_QUOTES.search(text), "mixed_quotes": mixed}


def _is_entity(text: str) -> bool:
    return text.startswith("&#") or text[1:] in html5


# Mojibake: UTF-8 that was read as Windows-1252 or Latin-1. Characters whose bytes in that table are a character in
# UTF-8 are a candidate. In true text that can be a letter and what stands behind it ("é…”" is also the bytes of a
# Chinese character), so it counts only where a letter and marks cannot be what was meant.


def _readings(codes: Iterable[int]) -> dict[str, int]:
    """Characters as which these bytes are read, with the byte."""
    readings = {chr(code): code for code in codes}
    for code in list(readings.values()):
        try:
            readings[bytes([code]).decode("cp1252")] = code
        except UnicodeDecodeError:  # five bytes that the table leaves out; most decoders pass them through
            pass
    return readings


def _one_of(characters: Iterable[str]) -> str:
    return "[" + "".join(map(re.escape, sorted(characters))) + "]"


_BYTES = {ord(character): code for character, code in _readings(range(0x80, 0x100)).items()}
_WINDOWS = {chr(code): character for character, code in _readings(range(0x80, 0xA0)).items() if ord(character) > 0xFF}
_FOLLOWERS = set(_readings(range(0x80, 0xC0)))
_LETTERS = set("šžŠŽœŒŸƒ")
_MARKS = set("’‘“”…–—»«›‹\xa0™®©ªº²³¹°·´¨")  # which stand behind a letter in true text
_ANY, _NO_MARK, _TELLING = map(_one_of, (_FOLLOWERS, _FOLLOWERS - _MARKS, _FOLLOWERS - _MARKS - _LETTERS))
_LAST = _one_of(_MARKS - set("’–—…\xa0"))  # marks with no letter behind them
_SEQUENCE = f"(?:[Â-ß]{_ANY}|[à-ï]{_ANY}{{2}}|[ð-ô]{_ANY}{{3}})"
_RUN, _ONE, _HAS_TELLING = re.compile(f"{_SEQUENCE}+"), re.compile(_SEQUENCE), re.compile(_TELLING)
_EVIDENCE = re.compile(
    # Â and Ã, with which Latin-1's signs and letters begin, end a word only where all of it is capitals
    rf"(?<![A-ZÀ-Þ]{{2}})[ÂÃ]{_ANY}|[ÂÃ]{_NO_MARK}|[ÂÃ]{_LAST}(?=[^\W\d_])"
    # Ä and Å, with which those of Central Europe begin, are letters in the North
    rf"|(?<![A-ZÀ-Þ])[ÄÅ]{_NO_MARK}|(?<=[a-zß-ÿ])[ÄÅ]{_ANY}|[ÄÅ]{_LAST}(?=[^\W\d_])"
    # quotes, dashes, signs, emoji, full-width forms
    rf"|â(?:{_NO_MARK}|™){_ANY}|â{_ANY}{_TELLING}|ð[\x90\x9fŸ]{_ANY}{{2}}|ï[¬¼½¾¿»¸]{_ANY}|[à-ï]{_TELLING}{{2}}"
)
_LEAD, _C1 = re.compile("[Â-ô]"), re.compile("[\x80-\x9f]")
# Byte 0x9D, which Windows-1252 leaves out, is lost in TinyStories. Elsewhere a no-break space has become a space.
_LOST_QUOTE = re.compile(f"â€\ufffd?(?!{_ANY})")
_LOST_SPACE = re.compile(r"(?<=[a-z.,!?;:\"])Â(?=\s|\Z)|(?<=[a-zß-ÿ])Ã(?= )")


def _find_mojibake(text: str) -> Place | None:
    matches = [_C1.search(text)]
    if _LEAD.search(text):
        matches += [_LOST_QUOTE.search(text), _LOST_SPACE.search(text)]
    places = [match.span() for match in matches if match] + [_find(text, "\ufffd")]
    places += [(start, end) for start, end, _ in _sequences(text)[0][:1]]
    return min(filter(None, places), default=None)


def _sequences(text: str) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """Where what stands for UTF-8 begins and ends, and what it is: first the certain ones, then those that may be."""
    certain, possible = [], []
    for run in _RUN.finditer(text):
        groups: list[list[tuple[int, int, str]]] = []
        for one in _ONE.finditer(text, *run.span()):
            try:
                decoded = one.group().translate(_BYTES).encode("latin-1").decode()
            except UnicodeDecodeError:
                continue
            if not groups or groups[-1][-1][1] != one.start():
                groups.append([])
            groups[-1].append((*one.span(), decoded))
        for group in groups:
            start, end = group[0][0], group[-1][1]
            several = len(group) > 1 and _HAS_TELLING.search(text, start, end)
            evident = several or any(_EVIDENCE.match(text, begin) for begin, _, _ in group)
            (certain if evident else possible).append((start, end, "".join(decoded for _, _, decoded in group)))
    return certain, possible


def _mend_mojibake(text: str) -> str:
    """One step of it: what was read wrongly twice takes two."""
    if text.isascii():
        return text
    if _LEAD.search(text):
        certain, possible = _sequences(text)
        length = sum(end - start for start, end, _ in certain + possible)
        if certain and length == sum(not character.isascii() for character in text):
            certain = sorted(certain + possible)  # the whole text was read by the wrong table
        for start, end, decoded in reversed(certain):
            text = text[:start] + decoded + text[end:]
        if certain:
            return text
        text = _LOST_SPACE.sub(lambda match: "à" if match.group() == "Ã" else " ", text)
        text = _LOST_QUOTE.sub(_close_quote, text)
    return _C1.sub(lambda match: _WINDOWS.get(match.group(), ""), text)


def _close_quote(match: re.Match) -> str:
    """Of the five characters that have lost such a byte, four are not seen; ” it is where a “ is open."""
    before = match.string[: match.start()]
    is_open = before.count("“") > before.count("”") + len(_LOST_QUOTE.findall(before))
    return "”" if is_open else match.group()


# The other mending


def _mend_entities(text: str) -> str:
    return _ENTITY.sub(
        lambda match: html.unescape(match.group()) if _is_entity(match.group()) else match.group(), text
    )


def _mend_controls(text: str) -> str:
    return _CONTROL.sub("", _LINE_BREAK.sub("\n", text)) if _CONTROL.search(text) else text


def _mend_invisible(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    return text if _RIGHT_TO_LEFT.search(text) else _DIRECTION.sub("", text)


def _mend_backslashes(text: str) -> str:
    text = re.sub(r"(?:\\r)?\\n(?=[A-Z\"'“‘\\\s]|\Z)", "\n", text)
    return re.sub(r"\\+(?=[\"'“”‘’])", "", text)


def _mend_spaces(text: str) -> str:
    text = re.sub(f"[{_ODD_SPACES}]", " ", _LINE_BREAK.sub("\n", text))
    text = re.sub(" *\n *", "\n", re.sub("  +", " ", text))
    return re.sub("\n{3,}", "\n\n", text).strip()


def _gap(match: re.Match) -> str:
    """What is left of a name: a space where words or sentences would grow together, else nothing."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " if after.isalnum() and (before.isalnum() or before in tuple(".!?,;:")) else ""


MENDING = {
    "html_entities": _mend_entities,
    "mojibake": _mend_mojibake,
    "control_characters": _mend_controls,
    "invisible_characters": _mend_invisible,
    "backslashes": _mend_backslashes,
    "spaces": _mend_spaces,
}


# Duplicates


class _Seen:
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


def _repeated(texts: list[str], in_words: list[str], seen: _Seen, seen_words: _Seen) -> tuple[np.ndarray, np.ndarray]:
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


def _words(text: str) -> list[str]:
    """The words in small letters, without punctuation; "don't" and "don’t" are the same."""
    if text.isascii():
        return text.lower().translate(_ASCII_WORDS).split()
    text = unicodedata.normalize("NFKC", text).casefold()
    return _ANY_WORD.findall(text.replace("'", "").replace("’", "").replace("‘", ""))


# Reading and showing


def _batches(stories: Stories, limit: int | None = None) -> Iterator[list[str]]:
    if isinstance(stories, (str, bytes)):
        raise UserError("stories is one string; give a list (or any iterable) of stories.")
    if isinstance(stories, (Dataset, IterableDataset)):
        _require_text_column(stories)
        texts = (text for batch in stories.with_format(None).iter(BATCH) for text in batch["text"])
    else:
        texts = iter(stories)
    texts = map(_require_string, islice(texts, limit))
    while batch := list(islice(texts, BATCH)):
        yield batch


def _require_string(text: str | None) -> str:
    if text is not None and not isinstance(text, str):
        raise UserError(f"A story is of type {type(text).__name__}, not text.")
    return text or ""


def _require_text_column(stories: Dataset | IterableDataset) -> None:
    if stories.column_names is not None and "text" not in stories.column_names:
        raise UserError(f'Stories must be in the column "text"; there are: {", ".join(stories.column_names)}.')


def _excerpt(text: str, start: int, end: int, around: int = 30) -> str:
    """The text around a place in one line, with escapes for what cannot be seen."""
    begin, stop = max(0, start - around), min(len(text), min(end, start + around) + around)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[begin:stop])
    return f"{'...' * (begin > 0)}{shown}{'...' * (stop < len(text))}"


def _bar(label: str, total: int | None, progress: bool) -> tqdm:
    seconds = 0.2 if sys.stderr.isatty() else 30.0  # a log file keeps every line
    return tqdm(total=total, desc=label, unit=" stories", disable=not progress, mininterval=seconds)


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """`datasets` has one switch for all its bars."""
    were_off = datasets.are_progress_bars_disabled()
    if not progress:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()
