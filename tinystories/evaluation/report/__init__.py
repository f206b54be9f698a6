"""The report of `evaluation.evaluate_models` for people: a table in the terminal, `report.json` and `report.html`.

Design decisions
- **One file that needs nothing.** The page holds its style and its plots, no script, and asks no network for
  anything.
- **Plots are rows.** Each value has its own line: name, dot on a scale, number. Positions are percentages and sizes
  are not, so that a phone shows a narrower plot and not a smaller one; colour only repeats what the name says. Light
  and dark follow the reader's system.
- **Nothing without its yardstick**: chance beside minimal pairs, real stories beside told ones, and shuffled words
  beside whatever they score well at.
- **A file that is not our report stays as it is.** That is found out before any work.
"""

from .files import report_folder, write_report
from .page import HTML, JSON, html_report
from .terminal import terminal_table


__all__ = ["HTML", "JSON", "html_report", "report_folder", "terminal_table", "write_report"]
