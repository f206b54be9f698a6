"""Grades in the answer of a judge."""

import json
import re
from collections.abc import Iterator


CRITERIA = ("grammar", "creativity", "consistency")


def read_grades(answer: str) -> dict[str, float] | None:
    """The three grades in a judge's answer, each from 1 to 10; None if they are missing or ambiguous.

    They are read from a JSON object anywhere in the answer, or else from a number beside each criterion's name
    ("Grammar: 8/10", "a 7 for creativity"). An answer with two different sets has none, because one of them may be
    quoted from the story. Reasoning before `</think>` is ignored.
    """
    answer = re.split(r"</think(?:ing)?>", answer)[-1]
    if re.search(r"<think(?:ing)?>", answer):
        return None
    objects = [found for found in map(_grades_in_object, _json_objects(answer)) if found]
    found = objects if objects else [_grades_in_prose(answer)]
    grades = found[0]
    if any(other != grades for other in found) or any(len(grades[name]) != 1 for name in CRITERIA):
        return None
    values = {name: grades[name].pop() for name in CRITERIA}
    return values if all(values.values()) else None


def _json_objects(text: str) -> Iterator[dict]:
    """The outermost JSON objects in a text."""
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield value
        place = text.find("{", end)


def _grades_in_object(value: dict) -> dict[str, set[float]] | None:
    """Grades of each criterion anywhere in a JSON object, 0 for invalid ones; None if it names no criterion."""
    grades: dict[str, set[float]] = {name: set() for name in CRITERIA}
    rest = [value]
    while rest:
        for key, inner in rest.pop().items():
            name = re.sub(r"[\W_]*(?:score|grade|rating)$", "", key.strip().lower())
            if name in grades:
                if isinstance(inner, dict):
                    inner = next((inner[key] for key in ("score", "grade", "rating", "value") if key in inner), None)
                grades[name].add(_number(inner))
            elif isinstance(inner, dict):
                rest.append(inner)
    return grades if any(grades.values()) else None


def _number(value: object) -> float:
    """A grade as a number; 0 if it is not one from 1 to 10."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,2}(?:\.\d+)?)\s*(?:(?:/|out of)\s*10\s*)?", value)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 10:
        return 0.0
    return float(value)


# A grade out of 10: not "4/5", "8-9", "80%" or the beginning of a longer number.
_PROSE_NUMBER = r"(\d+(?:\.\d+)?)(?![\d%])(?![.,]\d)(?!\s*%)(?!\s*[-–—]\s*\d)(?!\s*(?:/|out\s+of)\s*(?!10\b)\d)"
_GAP = r"[\s\"'*_`|]{0,4}"
_PROSE = {
    name: re.compile(
        rf"\b{name}\b{_GAP}(?:score|grade|rating)?{_GAP}(?:\(1\s?(?:-|–|to)\s?10\)|\(out of 10\))?"
        rf"{_GAP}(?::|=|-|–|—|is|of|gets)?{_GAP}{_PROSE_NUMBER}"
        rf"|{_PROSE_NUMBER}(?:\s?(?:/|out\s+of)\s?10)?\s+(?:for|in|on)\s+(?:the\s+)?{name}\b",
        re.IGNORECASE,
    )
    for name in CRITERIA
}


def _grades_in_prose(text: str) -> dict[str, set[float]]:
    return {
        name: {_number(match[1] or match[2]) for match in pattern.finditer(text)} for name, pattern in _PROSE.items()
    }
