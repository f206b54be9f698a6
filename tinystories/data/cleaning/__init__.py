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

from .check import Example, QualityFinding, QualityReport, check_quality, refuse
from .cleaning import clean_stories, count_changes, write_clean
from .kinds import DROPPED, FAULTS, KINDS, SEVERITIES, WARNINGS


__all__ = [
    "DROPPED",
    "FAULTS",
    "KINDS",
    "SEVERITIES",
    "WARNINGS",
    "Example",
    "QualityFinding",
    "QualityReport",
    "check_quality",
    "clean_stories",
    "count_changes",
    "refuse",
    "write_clean",
]
