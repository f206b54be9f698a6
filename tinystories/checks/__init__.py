"""Checks of a recipe, a run, a model or stories: `tinystories doctor TARGET`.

    findings = examine("runs/quickstart")     # a recipe, a run folder, any causal model, a tokenizer, stories
    findings = check_trainer(trainer)         # any transformers Trainer, before its first step

- A finding is "ok", "error", "inconclusive" or "note", with the figures it rests on and what to do. What cannot be
  checked is reported as such; it is never taken for right, and never stops the other checks.
- An error is what makes a model come out wrong or a run fail. What is only unusual is a note.
- Each check measures what happens and not what was configured: real batches, real losses, real logs.
"""

from .before_training import check_trainer
from .examine import LIMIT, examine
from .findings import Finding, has_error, summary
from .report import report_lines
from .targets import corpus_of, special_tokens_of


__all__ = [
    "LIMIT",
    "Finding",
    "check_trainer",
    "corpus_of",
    "examine",
    "has_error",
    "report_lines",
    "special_tokens_of",
    "summary",
]
