"""The kinds of problems, how severe each is, and what finds them in a story.

An `error` must not be trained on: the model would learn to write it, or the name of a special token would become that
token. A `warning` may be intended. An `info` is how people write, and matters only because a model copies it. Each
pattern names what has hardly another reading in a story: "café", curly quotes, emoji, "AT&T" and "3 < 5" are correct.
"""

import re
from collections.abc import Collection
from html.entities import html5
from typing import NamedTuple

from ...utils.errors import UserError
from ..text_split import END_OF_TEXT
from .mojibake import find_mojibake
from .reading import Span, find_part


# The TinyStories at hand have 234 to 4,107 characters. Below 100, the full dataset has truncated beginnings such as
# "Once upon a time, there" (huggingface.co/datasets/roneneldan/TinyStories/discussions/15).
MIN_CHARACTERS, MAX_CHARACTERS = 100, 10_000
# Their fraction is at least 0.109 in TinyStories, and was below 0.04 in passages of eight other languages.
COMMON_WORDS = frozenset(
    "the and to of they you that his her with for said she it not had at be but him them what were".split()
)
MIN_COMMON_WORDS = 0.06
MIN_DISTINCT_4_GRAMS = 0.5  # as a fraction; at least 0.81 in TinyStories
LOST_WORDS = ("<unk>", "[UNK]", "<mask>", "[MASK]")  # they replaced a word, so removing them would leave a hole
OTHER_TOKENS = (
    *("<s>", "</s>", "<pad>", "<bos>", "<eos>", "<sep>", "<cls>", "[PAD]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>"),
)


class Kind(NamedTuple):
    severity: str
    what: str
    remedy: str


_REMOVED, _DROPPED = "--clean removes them.", "--clean drops these stories."
_FIRST_KEPT = "--clean keeps the first of them."
KINDS = {
    "empty": Kind("error", "no text", _DROPPED),
    "special_tokens": Kind(
        "error",
        "the name of a special token, which becomes that token",
        f"--clean removes them, and splits stories at {END_OF_TEXT}; it drops a story that lost a word to <unk>.",
    ),
    "control_characters": Kind("error", "control characters, or characters for private use", _REMOVED),
    "invisible_characters": Kind("error", "zero-width characters, soft hyphens or direction marks", _REMOVED),
    "mojibake": Kind(
        "error", "text decoded with the wrong encoding", "--clean repairs them, or drops what has lost characters."
    ),
    "html": Kind("error", "HTML", "--clean drops these stories; an HTML parser would keep their text."),
    "html_entities": Kind("error", "HTML entities", "--clean replaces them with the characters."),
    "very_short": Kind("warning", f"fewer than {MIN_CHARACTERS} characters", _DROPPED),
    "very_long": Kind(
        "warning", f"more than {MAX_CHARACTERS:,} characters", "Check whether several stories are joined in one."
    ),
    "duplicates": Kind("warning", "equal to an earlier story", _FIRST_KEPT),
    "near_duplicates": Kind(
        "warning", "equal to an earlier story except for case, spaces and punctuation", _FIRST_KEPT
    ),
    "instructions": Kind("warning", "a prompt, a template or an assistant's remarks", _DROPPED),
    "markdown": Kind("warning", "Markdown", _DROPPED),
    "web_addresses": Kind("warning", "web addresses", _DROPPED),
    "email_addresses": Kind("warning", "e-mail addresses", _DROPPED),
    "backslashes": Kind(
        "warning", "backslashes, mostly of JSON", r"--clean unescapes \" and \n, and drops the other stories."
    ),
    "unfinished": Kind("warning", "cut off: no punctuation at the end", _DROPPED),
    "not_english": Kind(
        "warning",
        "few common English words, or letters of another script",
        "Nothing, where another language is meant; figures on grammar are for English.",
    ),
    "repetitive": Kind(
        "warning", "the same phrases again and again", "Check whether a model generated it and did not stop."
    ),
    "begins_midway": Kind(
        "info", "a small letter at the beginning", "Check whether beginnings are missing, where it is frequent."
    ),
    "odd_quotes": Kind("info", "unpaired or doubled quotation marks", "Nothing, unless it is frequent."),
    "mixed_quotes": Kind("info", "straight and curly quotation marks in one story", "Nothing."),
    "asterisks": Kind("info", "words between asterisks", "Nothing, where they mark emphasis."),
    "missing_spaces": Kind("info", "no space between two sentences", "Nothing, unless it is frequent."),
    "spaces": Kind(
        "info", "double, unusual or trailing spaces, and line ends other than \\n", "--clean normalizes them."
    ),
}
SEVERITIES = ("error", "warning", "info")
ERRORS = tuple(kind for kind, about in KINDS.items() if about.severity == "error")
WARNINGS = tuple(kind for kind, about in KINDS.items() if about.severity == "warning")
DROPPED = tuple(kind for kind in WARNINGS if kind not in ("very_long", "not_english", "repetitive"))


def token_pattern(names: Collection[str], removable: bool = False) -> re.Pattern:
    """Matches names of special tokens; if `removable`, only those that did not replace a word."""
    if isinstance(names, str):
        raise UserError("special_tokens is one string; give a list of names.")
    fixed = {*OTHER_TOKENS, *LOST_WORDS, *filter(None, names)} - set(LOST_WORDS if removable else ())
    # <|im_start|>, <|begin of text|>, and the full-width bars that some models have
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
# All except the ideographic space, with which Chinese and Japanese indent.
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
# A cheap test: every match of the patterns above and of `_TEMPLATE` contains one of these.
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


def find_problems(text: str, words: list[str], special: re.Pattern) -> dict[str, Span]:
    """The kinds of problems in a story, duplicates excluded, with the span of the first of each."""
    stripped = text.strip()
    if not stripped:
        return {"empty": (0, len(text))}
    is_ascii, suspect = text.isascii(), SUSPECT.search(text)
    found: dict[str, Span | re.Match | None] = {
        "special_tokens": special.search(text),
        "instructions": _find_instructions(text),
        "missing_spaces": _MISSING_SPACE.search(text),
        "spaces": SPACES.search(text),
        "unfinished": _find_unfinished(text),
    }
    if suspect:
        found["html"] = _HTML.search(text)
        found["html_entities"] = next((match for match in ENTITY.finditer(text) if is_entity(match.group())), None)
        found["markdown"] = _MARKDOWN.search(text)
        found["web_addresses"] = _WEB.search(text)
        found["email_addresses"] = _EMAIL.search(text)
        found["backslashes"] = find_part(text, "\\")
        found["asterisks"] = _ASTERISKS.search(text)
    if suspect or not is_ascii:
        found["control_characters"] = CONTROL.search(text)
    if not is_ascii:
        found["invisible_characters"] = INVISIBLE.search(text) or (
            None if RIGHT_TO_LEFT.search(text) else DIRECTION.search(text)
        )
        found["mojibake"] = find_mojibake(text)
        found["not_english"] = _OTHER_SCRIPT.search(text)
    if len(stripped) < MIN_CHARACTERS:
        found["very_short"] = (0, 0)
    else:
        if sum(map(COMMON_WORDS.__contains__, words)) <= MIN_COMMON_WORDS * len(words):
            found["not_english"] = (0, 0)
        distinct = len(set(zip(words, words[1:], words[2:], words[3:], strict=False)))
        if distinct < MIN_DISTINCT_4_GRAMS * (len(words) - 3):
            found["repetitive"] = (0, 0)
    if len(stripped) > MAX_CHARACTERS:
        found["very_long"] = (0, 0)
    if stripped[0].islower():
        found["begins_midway"] = (0, 0)
    found |= _find_quotes(text, is_ascii)
    return {kind: span.span() if isinstance(span, re.Match) else span for kind, span in found.items() if span}


def _find_instructions(text: str) -> re.Match | None:
    lower = text.lower()
    return (
        _OPENING.match(text)
        or (":" in text and _LABEL.search(text))
        or (any(part in lower for part in _IN_PHRASE) and _PHRASE.search(lower))
        or (("{" in text or "[" in text) and _TEMPLATE.search(text))
        or None
    )


def _find_unfinished(text: str) -> Span | None:
    stripped = text.rstrip()
    last, end = stripped[-1], len(stripped)
    is_cut = last.isalnum() or last in _NO_END or stripped[-2:] in (' "', '\n"')
    return (end, end) if is_cut and not stripped[-7:].lower().endswith("the end") else None


def _find_quotes(text: str, is_ascii: bool) -> dict[str, Span | re.Match | None]:
    straight = text.count('"')
    opened, closed = (0, 0) if is_ascii else (text.count("“"), text.count("”"))
    if straight % 2 or (opened != closed and "„" not in text):  # „these“ are German
        last = max(text.rfind(mark) for mark in '"“”')
        return {"odd_quotes": (last, last + 1)}
    mixed = find_part(text, '"') if straight and opened else None
    return {"odd_quotes": _DOUBLED_QUOTES.search(text), "mixed_quotes": mixed}


def is_entity(text: str) -> bool:
    return text.startswith("&#") or text[1:] in html5
