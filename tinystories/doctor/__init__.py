"""Proves the objective, or names the fault: `tinystories doctor TARGET`.

    findings = examine("runs/quickstart")     # a recipe, a run folder, any causal model, stories
    findings = check_trainer(trainer)         # any transformers Trainer, before its first step

Design decisions:

- A finding is "ok", "fault", "cannot tell" or "note", with the figures it rests on and what to do. What cannot be
  checked is said to be so; it is never taken for right, and never stops the other checks.
- A fault is what makes a model come out wrong or a run fail. What is only unusual is a note.
- Each check looks at what happens and not at what was meant: real batches, real losses, real logs.

`findings` what a check says; `batches` what a trainer feeds to its model; `through_model` what that makes of it;
`objective` what a model has learnt; `text` stories and vocabulary; `history` the log; `settings` published recipes;
`machine` memory, disk and time; `before_training` and `examine` put them together, and `report` prints them.
"""

from .before_training import check_trainer
from .examine import LIMIT, corpus_of, examine
from .findings import Finding, as_dicts, has_fault
from .report import report_lines


__all__ = ["LIMIT", "Finding", "as_dicts", "check_trainer", "corpus_of", "examine", "has_fault", "report_lines"]
