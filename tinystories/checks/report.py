"""Format findings for a terminal: the settings as a table with its sources, then one line per finding."""

from .findings import Finding, SettingFinding, summary
from .hyperparameters import SOURCES


def report_lines(findings: list[Finding]) -> list[str]:
    """Lines to print. Published values are only in the table."""
    lines = settings_table(findings)
    lines += [""] if lines else []
    for finding in findings:
        if isinstance(finding, SettingFinding):
            remark = f"; {finding.remark}" if finding.remark else ""
            finding = Finding(finding.check, finding.status, f"{finding.here}{remark}", finding.advice)
        lines.append(str(finding))
    return [*lines, "", summary(findings)]


def settings_table(findings: list[Finding]) -> list[str]:
    """The settings among the findings as a table, and below it the source of each column."""
    rows = [finding for finding in findings if isinstance(finding, SettingFinding)]
    if not rows:
        return []
    sources = [source for source in SOURCES if any(source in row.published for row in rows)]
    cells = [["setting", "this run", *sources]]
    cells += [
        [row.check.removeprefix("setting: "), row.here, *(row.published.get(source, "") for source in sources)]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return [*lines, "", *(f"{source}: {SOURCES[source]}" for source in sources)]
