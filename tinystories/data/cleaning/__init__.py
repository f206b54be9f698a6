"""Find text that a model should not be trained on, and write a clean copy of the stories.

    report = check_quality(corpus.train)               # print(report), report.as_dict(), report.errors
    stories, counts = clean_stories(corpus.train)      # a Dataset
    counts = write_clean(corpus, "my_stories_clean")   # train.jsonl and validation.jsonl, for load_corpus

- Cleaning uses the checks: it drops what `check_quality` would report as an error after the repairs, so a clean corpus
  has no errors, and cleaning it again changes nothing.
- A repair has one possible result (HTML entities, mojibake, spaces). Text that has lost characters is dropped.
- Thresholds are far outside the range of 16,054 TinyStories. Memory grows by 16 bytes per story, to find duplicates.
"""

from .clean import clean_stories, count_changes, write_clean
from .problems import DROPPED, ERRORS, KINDS, SEVERITIES, WARNINGS
from .reading import excerpt
from .report import Example, QualityFinding, QualityReport, check_quality


__all__ = [
    "DROPPED",
    "ERRORS",
    "KINDS",
    "SEVERITIES",
    "WARNINGS",
    "Example",
    "QualityFinding",
    "QualityReport",
    "check_quality",
    "clean_stories",
    "count_changes",
    "excerpt",
    "write_clean",
]
