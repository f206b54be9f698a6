"""What has one right form is put into it."""

import html
import re

from .mojibake import repair_mojibake
from .rules import CONTROL, DIRECTION, ENTITY, INVISIBLE, LINE_BREAK, ODD_SPACES, RIGHT_TO_LEFT, is_entity


def _mend_entities(text: str) -> str:
    return ENTITY.sub(lambda match: html.unescape(match.group()) if is_entity(match.group()) else match.group(), text)


def _mend_controls(text: str) -> str:
    return CONTROL.sub("", LINE_BREAK.sub("\n", text)) if CONTROL.search(text) else text


def _mend_invisible(text: str) -> str:
    text = INVISIBLE.sub("", text)
    return text if RIGHT_TO_LEFT.search(text) else DIRECTION.sub("", text)


def _mend_backslashes(text: str) -> str:
    text = re.sub(r"(?:\\r)?\\n(?=[A-Z\"'“‘\\\s]|\Z)", "\n", text)
    return re.sub(r"\\+(?=[\"'“”‘’])", "", text)


def _mend_spaces(text: str) -> str:
    text = re.sub(f"[{ODD_SPACES}]", " ", LINE_BREAK.sub("\n", text))
    text = re.sub(" *\n *", "\n", re.sub("  +", " ", text))
    return re.sub("\n{3,}", "\n\n", text).strip()


def gap(match: re.Match) -> str:
    """What is left of a name: a space where words or sentences would grow together, else nothing."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return " " if after.isalnum() and (before.isalnum() or before in tuple(".!?,;:")) else ""


MENDING = {
    "html_entities": _mend_entities,
    "mojibake": repair_mojibake,
    "control_characters": _mend_controls,
    "invisible_characters": _mend_invisible,
    "backslashes": _mend_backslashes,
    "spaces": _mend_spaces,
}
