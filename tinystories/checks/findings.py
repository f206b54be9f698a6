"""The result of a check, in one line."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import ParamSpec

from ..utils.errors import UserError, first_line


logger = logging.getLogger(__name__)

STATUSES = ("ok", "error", "inconclusive", "note")
Arguments = ParamSpec("Arguments")


@dataclass
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check.
        status: "ok" (verified), "error" (shown to be wrong), "inconclusive" (with the reason), or "note" (allowed, but
            worth knowing).
        evidence: what was measured, with figures.
        advice: what to do; may be empty.
    """

    check: str
    status: str
    evidence: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"`status` must be one of {', '.join(STATUSES)}, but is {self.status!r}.")

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<12}  {self.check}: {self.evidence}{advice}"


@dataclass
class SettingFinding(Finding):
    """A setting compared with published recipes.

    Attributes:
        here: its value in this run.
        remark: why it cannot be compared; empty if it can.
        published: its value by source (see `hyperparameters.SOURCES`).
    """

    here: str = ""
    remark: str = ""
    published: dict[str, str] = field(default_factory=dict)


def ok(evidence: str, *, check: str = "") -> Finding:
    return Finding(check, "ok", evidence)


def error(evidence: str, advice: str = "", *, check: str = "") -> Finding:
    return Finding(check, "error", evidence, advice)


def note(evidence: str, advice: str = "", *, check: str = "") -> Finding:
    return Finding(check, "note", evidence, advice)


def inconclusive(evidence: str, advice: str = "", *, check: str = "") -> Finding:
    return Finding(check, "inconclusive", evidence, advice)


def as_check(
    name: str,
) -> Callable[[Callable[Arguments, Finding | list[Finding]]], Callable[Arguments, list[Finding]]]:
    """Decorate a function that returns a finding or a list of findings; those without a name get `name`.

    The decorated function always returns a list. If the function raises an exception, the result is "inconclusive"
    with the reason, so that no check stops the others.
    """

    def decorate(function: Callable[Arguments, Finding | list[Finding]]) -> Callable[Arguments, list[Finding]]:
        @wraps(function)
        def check(*args: Arguments.args, **kwargs: Arguments.kwargs) -> list[Finding]:
            try:
                found = function(*args, **kwargs)
            except UserError as reason:
                found = inconclusive(str(reason))
            except Exception as reason:
                logger.debug("%s could not be checked", name, exc_info=True)
                found = inconclusive(f"the check failed: {type(reason).__name__}: {first_line(reason)}")
            findings = [found] if isinstance(found, Finding) else found
            for finding in findings:
                finding.check = finding.check or name
            return findings

        return check

    return decorate


def summary(findings: list[Finding]) -> str:
    """How many findings have each status, such as "18 ok, 0 errors, 1 inconclusive, 5 notes"."""
    parts = []
    for status in STATUSES:
        count = sum(finding.status == status for finding in findings)
        plural = "s" if status in ("error", "note") and count != 1 else ""
        parts.append(f"{count} {status}{plural}")
    return ", ".join(parts)


def has_error(findings: list[Finding]) -> bool:
    return any(finding.status == "error" for finding in findings)
