"""Checks of a recipe, a run, a model or stories: `tinystories doctor TARGET`.

    findings = examine("runs/quickstart")     # a recipe, a run folder, any causal model, a tokenizer, stories
    findings = check_trainer(trainer)         # any transformers Trainer, before its first step

Design decisions:

- A finding is "ok", "error", "inconclusive" or "note", with the figures it rests on and what to do. What cannot be
  checked is reported as such; it is never taken for right, and never stops the other checks.
- An error is what makes a model come out wrong or a run fail. What is only unusual is a note.
- Each check measures what happens and not what was configured: real batches, real losses, real logs.

`findings` the result of a check; `batches` what a trainer feeds to its model; `through_model` what the model computes
from it; `step` the attention and the memory of a step; `objective` what a model has learnt; `text` stories and
vocabulary; `writing` the text as a whole; `history` the log; `settings` published recipes; `machine` precision, disk
and time; `before_training` and `examine` combine them, and `report` prints them.
"""

from .before_training import check_trainer
from .examine import LIMIT, corpus_of, examine, special_tokens_of
from .findings import Finding, as_dicts, has_error, has_fault
from .report import report_lines


__all__ = [
    "LIMIT",
    "Finding",
    "as_dicts",
    "check_trainer",
    "corpus_of",
    "examine",
    "has_error",
    "has_fault",
    "report_lines",
    "special_tokens_of",
]
