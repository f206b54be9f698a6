"""The output of `evaluation.evaluate`: a table in the terminal, `report.json` and `report.html`.

- The page is one file without scripts, and loads nothing. Jinja escapes all text.
- Every figure of a model is shown with a baseline: chance for minimal pairs, real stories and shuffled words for
  generated stories.
- matplotlib is imported only when a page is written.
"""

from .files import report_folder, write_report
from .names import HTML, JSON
from .terminal import terminal_table


__all__ = ["HTML", "JSON", "report_folder", "terminal_table", "write_report"]
