"""Checks of a recipe, a run, a model or stories: `tinystories doctor TARGET`.

    findings = examine("runs/quickstart")     # a recipe, a run folder, any causal model, a tokenizer, stories
    findings = check_trainer(trainer)         # any transformers Trainer, before its first step

- A finding is "ok", "error", "inconclusive" or "note", with measured figures and advice. A check that cannot be made
  is reported as inconclusive; it never counts as ok, and never stops the other checks.
- An error means that the model will be wrong or the run will fail. Something that is only unusual is a note.
- Checks measure real batches, losses and logs instead of relying on the configuration.
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
