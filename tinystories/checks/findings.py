"""The result of a check: one line that a person and a program can read."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from ..utils.errors import UserError, first_line


logger = logging.getLogger(__name__)

STATUSES = ("ok", "error", "inconclusive", "note")
FORMER_STATUSES = {"fault": "error", "cannot tell": "inconclusive"}


@dataclass
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked.
        status: "ok" (shown to be right), "error" (shown to be wrong), "inconclusive" (and why), or "note" (allowed,
            worth knowing).
        evidence: what was measured, with figures.
        advice: what to do, where there is something to do.
    """

    check: str
    status: str
    evidence: str
    advice: str = ""

    def __post_init__(self):
        if self.status in FORMER_STATUSES:
            new = FORMER_STATUSES[self.status]
            warnings.warn(f"The status {self.status!r} is now {new!r}.", FutureWarning, stacklevel=3)
            self.status = new
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {', '.join(STATUSES)}, but is {self.status!r}.")

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<12}  {self.check}: {self.evidence}{advice}"


@dataclass
class SettingFinding(Finding):
    """A setting next to those of published recipes.

    Attributes:
        here: its value.
        remark: why it cannot be compared, where it cannot.
        published: value by source (see `settings.SOURCES`).
    """

    here: str = ""
    remark: str = ""
    published: dict[str, str] = field(default_factory=dict)


def as_dicts(findings: list[Finding]) -> list[dict]:
    """The findings as plain dictionaries, for JSON."""
    return [asdict(finding) for finding in findings]


def has_error(findings: list[Finding]) -> bool:
    return any(finding.status == "error" for finding in findings)


def has_fault(findings: list[Finding]) -> bool:
    """The former name of [`has_error`]."""
    warnings.warn("`has_fault` is now `has_error`.", FutureWarning, stacklevel=2)
    return has_error(findings)


def tried(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of `look`, or "inconclusive" with the reason where it fails: one check must not stop the others."""
    try:
        return look()
    except UserError as error:
        return [Finding(check, "inconclusive", str(error))]
    except Exception as error:
        logger.debug("%s could not be checked", check, exc_info=True)
        return [
            Finding(check, "inconclusive", f"this could not be checked: {type(error).__name__}: {first_line(error)}")
        ]
