"""The problems that `tinystories.data.cleaning` detects, as findings, with everything that cleaning would change."""

from transformers import PreTrainedTokenizerBase

from ..data.cleaning import KINDS, check_quality, count_changes
from ..utils.console import counted
from .findings import Finding, as_check, error, note, ok


# Warnings that real stories hardly ever cause (0 of 4,000 TinyStories), so that a corpus with many of them is damaged.
DAMAGE = {"unfinished", "very_short", "instructions", "markdown", "web_addresses", "email_addresses", "backslashes"}
DAMAGE |= {"repetitive"}
DAMAGED = 0.2  # fraction of the stories
NO_CHANGES: dict = {"stories": 0, "repaired": {}, "dropped": {}}


@as_check("text quality")
def check_text_quality(
    stories: list[str],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    strict: bool,
    of: int | None = None,
    cleaned: dict | None = None,
) -> list[Finding]:
    """A finding for each problem of these stories.

    Args:
        strict: warnings, and everything that cleaning would change, are errors.
        of: number of stories in the corpus that these were sampled from.
        cleaned: counts of `clean_stories` for the whole corpus, if it was cleaned.
    """
    special = tokenizer.all_special_tokens if tokenizer is not None else ()
    report = check_quality(stories, special_tokens=special, progress=False)
    problems = {problem.kind: problem for problem in report.findings}
    would_change, changed = count_changes(stories, special_tokens=special), cleaned or NO_CHANGES
    sample = f", a sample of {of:,}" if of is not None and of > len(stories) else ""
    findings = []
    for kind, about in KINDS.items():
        problem, changes = problems.get(kind), _changes(would_change, kind)
        if not (changes or _changes(changed, kind) or (problem is not None and about.severity != "info")):
            continue
        count = max(changes, problem.count if problem is not None else 0)
        evidence = f"{count:,} of {len(stories):,} stories ({count / len(stories):.2%}){sample}: {about.what}"
        if problem is not None and problem.examples:
            evidence += f', such as "{problem.examples[0].excerpt}"'
        if cleaned is None:
            evidence += _changes_in_words(would_change, kind, "would repair", "would drop")
        elif _changes(changed, kind):
            evidence += _changes_in_words(changed, kind, "repaired", "dropped") + f" of all {changed['stories']:,}"
        damaged = kind in DAMAGE and count > DAMAGED * len(stories)
        judge = error if about.severity == "error" or strict or damaged else note
        findings.append(judge(evidence, about.remedy, check=f"text: {kind}"))
    nothing = f"no problems in {counted(len(stories), 'story')}; --clean would change nothing"
    return findings or [ok(nothing)]


def _changes(counts: dict, kind: str) -> int:
    return counts["repaired"].get(kind, 0) + counts["dropped"].get(kind, 0)


def _changes_in_words(counts: dict, kind: str, fixes: str, drops: str) -> str:
    changes = {fixes: counts["repaired"].get(kind, 0), drops: counts["dropped"].get(kind, 0)}
    named = " and ".join(f"{verb} {count:,}" for verb, count in changes.items() if count)
    return f"; --clean {named}" if named else ""
