"""What is looked for in one story."""

import re
from collections.abc import Collection
from html.entities import html5

from ...utils.errors import UserError
from .kinds import (
    COMMON_WORDS,
    LOST_WORDS,
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    MIN_COMMON_WORDS,
    MIN_DIFFERENT_RUNS,
    OTHER_TOKENS,
)
from .mojibake import find_mojibake
from .reading import Place, find_part


def token_pattern(names: Collection[str], removable: bool = False) -> re.Pattern:
    if isinstance(names, str):
        raise UserError("special_tokens is one string; give a list of names.")
    fixed = {*OTHER_TOKENS, *LOST_WORDS, *filter(None, names)} - set(LOST_WORDS if removable else ())
    # <|im_start|>, <|begin of text|>, and the broad bars that some models have
    any_name = rf"<[|｜]{'(?!unk|mask)' if removable else ''}[\w▁ ./-]{{1,60}}[|｜]>"
    return re.compile("|".join([any_name, *map(re.escape, sorted(fixed, key=len, reverse=True))]))


CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufff9-\ufffc\ufffe\uffff"
    "\U000f0000-\U0010ffff]"
)
# Joiners tie letters of some scripts, and emoji.
_TIED = "[\u0600-\u1fff\u2070-\U0010ffff]"
INVISIBLE = re.compile(
    f"[\xad\u034f\u180e\u200b\u2060-\u2064\ufeff]|(?<!{_TIED})[\u200c\u200d]|[\u200c\u200d](?!{_TIED})"
)
DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
RIGHT_TO_LEFT = re.compile("[\u0590-\u05ff\u0620-\u08ff\ufb1d-\ufdfd\ufe70-\ufefc]")
LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x1c-\x1f\u2028\u2029]")
# All but the ideographic space, with which Chinese and Japanese indent.
ODD_SPACES = "\t\xa0\u1680\u2000-\u200a\u202f\u205f"
SPACES = re.compile(rf"[{ODD_SPACES}\r\u2028\u2029]|  | \n|\n |\n\n\n|\A\s|\s\Z")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_TAGS = """
    a abbr article aside audio b big blockquote body br button center cite code dd del div dl dt em embed figcaption
    figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins label legend li link main map
    mark meta nav noscript object ol option p param picture pre q script section select small source span strike strong
    style sub sup svg table tbody td textarea tfoot th thead title tr tt u ul video wbr
    """.split()
_HTML = re.compile(
    rf"</?(?:{'|'.join(_TAGS)})(?:\s[^<>]*=[^<>]*)?\s*/?>|<!--|<!doctype\b|<\?xml\b|<!\[CDATA\[", re.IGNORECASE
)
_MARKDOWN = re.compile(
    r"^\#{1,6} +\S"  # heading
    r"|```|^ *~~~"  # code
    r"|\*\*[^\s*][^*\n]*\*\*|(?<!\w)__[^\s_][^_\n]*__(?!\w)"  # bold
    r"|!?\[[^\]\n]+\]\([^)\s]+\)"  # link, picture
    r"|^ *\|? *:?-{3,}:? *\|[-|: ]*$",  # below the head of a table
    re.MULTILINE,
)
_WEB = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.[\w-]+\.[a-z]{2,}|\b[a-z0-9-]{2,}\.(?:com|org|net|edu|gov)\b")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_ASTERISKS = re.compile(r"(?<![\w*])\*[^\s*](?:[^*\n]{0,80}[^\s*])?\*(?![\w*])")
# Something in ASCII of which one stands in all that is matched by the patterns above and by `_TEMPLATE`.
SUSPECT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f<&@#*`|\\\[{_]|://|www\.|\.(?:com|org|net|edu|gov)\b|-{3}|~{3}")

_OPENING = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely)\b[^.\n]{0,60}\b(?:story|stories)\b[^.\n]*[:\n]"
    r"|here(?:['’]s| is) (?:[\w-]+ ){0,4}(?:possible|short|simple|example|revised|requested) (?:[\w-]+ ){0,3}story\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:prompt|instructions?|words|features|summary|random sentence|story|response|output|user|human|assistant|"
    r"system|title) ?:(?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_TEMPLATE = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}|\{[A-Za-z_]{2,30}\}|\[(?:(?:insert|your) [^\]\n]{1,40}|(?:child['’]s |character )?name)\]",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\bas an (?:ai|artificial intelligence)\b|\b(?:ai|large) language model\b|\b\d+ ?[-–] ?\d+ paragraphs\b"
    r"|\bthe story (?:should|must) (?:use|contain|have|be|include)\b|\bstory has the following\b|\(\d+ words\)"
)
_IN_PHRASE = ("as an a", "language model", " paragraphs", "story should", "story must", "story has the", " words)")

_OTHER_SCRIPT = re.compile(
    "[\u0250-\u02af\u0370-\u1dbf\u2c00-\u2c5f\u2c80-\u2dff\u3040-\u318f\u31a0-\ua71f\uaa00-\uab2f\uab70-\ud7ff"
    "\uf900-\ufaff\ufb13-\ufdff\ufe70-\ufefc\uff10-\uff5a\uff66-\uffdc\U00020000-\U0003ffff]"
)
_DOUBLED_QUOTES = re.compile(r"''|(?<!`)``(?!`)|\"\"|[“”]\"|\"[“”]")
_MISSING_SPACE = re.compile(r"[a-z][.!?][A-Z][a-z]")
_NO_END = frozenset(",;:([{“‘&/\\–—-")


def look(text: str, words: list[str], special: re.Pattern) -> dict[str, Place]:
    """The kinds of findings in one story, duplicates left out, and where the first of each is."""
    stripped = text.strip()
    if not stripped:
        return {"empty": (0, len(text))}
    found: dict[str, Place | re.Match | None] = {"special_tokens": special.search(text)}
    plain, suspect, long_enough = text.isascii(), SUSPECT.search(text), len(stripped) >= MIN_CHARACTERS
    if suspect:
        found["html"] = _HTML.search(text)
        found["html_entities"] = next((one for one in ENTITY.finditer(text) if is_entity(one.group())), None)
        found["markdown"] = _MARKDOWN.search(text)
        found["web_addresses"] = _WEB.search(text)
        found["email_addresses"] = _EMAIL.search(text)
        found["backslashes"] = find_part(text, "\\")
        found["asterisks"] = _ASTERISKS.search(text)
    if suspect or not plain:
        found["control_characters"] = CONTROL.search(text)
    if not plain:
        found["invisible_characters"] = _find_invisible(text)
        found["mojibake"] = find_mojibake(text)
    if not long_enough:
        found["very_short"] = (0, 0)
    if len(stripped) > MAX_CHARACTERS:
        found["very_long"] = (0, 0)
    found["instructions"] = _find_instructions(text)
    last = stripped[-1]
    is_cut = last.isalnum() or last in _NO_END or stripped[-2:] in (' "', '\n"')
    if is_cut and not stripped[-7:].lower().endswith("the end"):
        end = len(text.rstrip())
        found["unfinished"] = (end, end)
    if long_enough and sum(map(COMMON_WORDS.__contains__, words)) <= MIN_COMMON_WORDS * len(words):
        found["not_english"] = (0, 0)
    elif not plain:
        found["not_english"] = _OTHER_SCRIPT.search(text)
    runs = len(words) - 3
    if long_enough and len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) < MIN_DIFFERENT_RUNS * runs:
        found["repetitive"] = (0, 0)
    if stripped[0].islower():
        found["begins_midway"] = (0, 0)
    found |= _look_at_quotes(text, plain)
    found["missing_spaces"] = _MISSING_SPACE.search(text)
    found["spaces"] = SPACES.search(text)
    return {kind: place.span() if isinstance(place, re.Match) else place for kind, place in found.items() if place}


def _find_invisible(text: str) -> re.Match | None:
    return INVISIBLE.search(text) or (None if RIGHT_TO_LEFT.search(text) else DIRECTION.search(text))


def _find_instructions(text: str) -> re.Match | None:
    small = text.lower()
    return (
        _OPENING.match(text)
        or (":" in text and _LABEL.search(text))
        or (any(part in small for part in _IN_PHRASE) and _PHRASE.search(small))
        or (("{" in text or "[" in text) and _TEMPLATE.search(text))
        or None
    )


def _look_at_quotes(text: str, plain: bool) -> dict[str, Place | re.Match | None]:
    straight = text.count('"')
    opened, closed = (0, 0) if plain else (text.count("“"), text.count("”"))
    if straight % 2 or (opened != closed and "„" not in text):  # „these“ are German
        last = max(text.rfind(mark) for mark in '"“”')
        return {"odd_quotes": (last, last + 1)}
    mixed = find_part(text, '"') if straight and opened else None
    return {"odd_quotes": _DOUBLED_QUOTES.search(text), "mixed_quotes": mixed}


def is_entity(text: str) -> bool:
    return text.startswith("&#") or text[1:] in html5
