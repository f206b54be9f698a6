"""Every story looked at, and what was found as a report."""

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

import numpy as np

from ...utils.errors import UserError
from .duplicates import Seen, in_words_of, repeated
from .kinds import KINDS, SEVERITIES
from .reading import Place, Stories, batches, excerpt, progress_bar
from .rules import look, token_pattern


EXAMPLES = 3


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
    special = token_pattern(special_tokens)
    seen, seen_words = Seen(), Seen()
    counts, examples = Counter(), {kind: [] for kind in KINDS}
    total = len(stories) if hasattr(stories, "__len__") else None
    count = characters = 0

    def note(kind: str, story: int, text: str, place: Place) -> None:
        counts[kind] += 1
        if len(examples[kind]) < EXAMPLES:
            examples[kind].append(Example(story, excerpt(text, *place)))

    with progress_bar("Checking stories", min(filter(None, (total, limit)), default=None), progress) as bar:
        for texts in batches(stories, limit):
            in_words = []
            for index, text in enumerate(texts, count):
                words = in_words_of(text)
                in_words.append(" ".join(words))
                for kind, place in look(text, words, special).items():
                    note(kind, index, text, place)
            again, alike = repeated(texts, in_words, seen, seen_words)
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
