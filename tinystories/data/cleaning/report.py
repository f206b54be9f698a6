"""Check every story, and report the problems found."""

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

import numpy as np

from ...utils.console import counted
from ...utils.errors import UserError
from .duplicates import DuplicateFinder, words_of
from .problems import KINDS, SEVERITIES, find_problems, token_pattern
from .reading import Span, Stories, batches, excerpt, number_of


EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """The index of a story among those checked, from 0, and the text around the problem."""

    story: int
    excerpt: str


@dataclass
class QualityFinding:
    """One kind of problem.

    Attributes:
        kind: a key of `KINDS`.
        severity: "error", "warning" or "info".
        count: stories that have it, each counted once.
        fraction: of the stories checked, from 0 to 1.
        what, remedy: a description of the problem, and what to do about it.
        examples: the first few.
    """

    kind: str
    severity: str
    count: int
    fraction: float
    what: str
    remedy: str
    examples: list[Example] = field(default_factory=list)


@dataclass
class QualityReport:
    """The result of `check_quality`.

    Attributes:
        stories, characters: number of stories checked, and of their characters.
        total: number of stories in the corpus, if known: more than `stories` if there was a limit.
        findings: the problems that occur, by severity and then by count.
    """

    stories: int
    characters: int
    total: int | None
    findings: list[QualityFinding]

    @property
    def errors(self) -> list[QualityFinding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[QualityFinding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    def as_dict(self) -> dict:
        """Plain values for JSON; `counts` has every kind that was looked for, including those not found."""
        found = {finding.kind: finding.count for finding in self.findings}
        return {**asdict(self), "counts": {kind: found.get(kind, 0) for kind in KINDS}}

    def lines(self) -> list[str]:
        """The lines of the report for a terminal."""
        part = f" (the first of {self.total:,})" if self.total is not None and self.total > self.stories else ""
        counts = {"error": len(self.errors), "warning": len(self.warnings)}
        kinds = [f"{counted(count, 'type')} of {name}" for name, count in counts.items() if count]
        verdict = " and ".join(kinds) or "suitable for training"
        lines = [f"{counted(self.stories, 'story')}{part}, {counted(self.characters, 'character')}: {verdict}"]
        for found in self.findings:
            stories = "story" if found.count == 1 else "stories"
            fraction = "<0.01%" if found.fraction < 5e-5 else f"{100 * found.fraction:.2f}%"
            lines.append(
                f"{found.severity:<8} {found.kind:<21}{found.count:>9,} {stories:<8}{fraction:>9}   {found.what}"
            )
            lines += [f"{example.story:>18,}: {example.excerpt}" for example in found.examples]
            lines.append(f"{'':9}-> {found.remedy}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def check_quality(
    stories: Stories, *, limit: int | None = None, special_tokens: Collection[str] = (), progress: bool = True
) -> QualityReport:
    """Check every story (or the first `limit`) for text that is unsuitable for training.

    Args:
        stories: a `datasets.Dataset` with the column "text", or any iterable of strings; it is read once, in order.
        special_tokens: further names of special tokens, such as `tokenizer.all_special_tokens`.

    Raises:
        UserError: if there are no stories, or one of them is not a string.
    """
    if limit is not None and limit < 1:
        raise UserError(f"`limit` must be at least 1, but is {limit}.")
    special, find_duplicates = token_pattern(special_tokens), DuplicateFinder()
    counts: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    count = characters = 0

    def note(kind: str, row: int, span: Span) -> None:
        counts[kind] += 1
        if len(examples[kind]) < EXAMPLES:
            examples[kind].append(Example(count + row, excerpt(texts[row], *span)))

    for texts in batches(stories, "Checking stories", progress, limit):
        words = list(map(words_of, texts))
        for row, text in enumerate(texts):
            for kind, span in find_problems(text, words[row], special).items():
                note(kind, row, span)
        for kind, repeated in find_duplicates(texts, words).items():
            for row in np.flatnonzero(repeated).tolist():
                note(kind, row, (0, 0))
        count += len(texts)
        characters += sum(map(len, texts))
    if not count:
        raise UserError("There are no stories to check.")
    findings = [
        QualityFinding(kind, about.severity, number, number / count, about.what, about.remedy, examples[kind])
        for kind, about in KINDS.items()
        if (number := counts[kind])
    ]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))
    return QualityReport(count, characters, number_of(stories), findings)
