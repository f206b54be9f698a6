"""What a check says: one line that a person and a program can read."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from ..errors import UserError, first_line


logger = logging.getLogger(__name__)

STATUSES = ("ok", "fault", "cannot tell", "note")


@dataclass
class Finding:
    """The result of one check.

    Attributes:
        check: what was looked at.
        status: "ok" (proven), "fault" (disproven), "cannot tell" (and why), or "note" (allowed, worth knowing).
        evidence: what was seen, with figures.
        advice: what to do, where there is something to do.
    """

    check: str
    status: str
    evidence: str
    advice: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {', '.join(STATUSES)}, but is {self.status!r}.")

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<11}  {self.check}: {self.evidence}{advice}"


@dataclass
class SettingFinding(Finding):
    """A setting beside those of published recipes.

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


def has_fault(findings: list[Finding]) -> bool:
    return any(finding.status == "fault" for finding in findings)


def tried(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What `look` finds, or "cannot tell" with the reason where it cannot look: a check must not stop the others."""
    try:
        return look()
    except UserError as error:
        return [Finding(check, "cannot tell", str(error))]
    except Exception as error:
        logger.debug("%s could not be checked", check, exc_info=True)
        return [
            Finding(check, "cannot tell", f"this could not be checked: {type(error).__name__}: {first_line(error)}")
        ]
