"""Mojibake: UTF-8 that was decoded as Windows-1252 or Latin-1. `ftfy` repairs most of it, and a few rules the rest.

The rules cover cases in stories that `ftfy` does not repair, or repairs wrongly: “â€” whose third byte, 0x9D, was lost
(these occur in TinyStories), a lost no-break space, a single Polish or Czech letter, and C1 control characters in text
that is otherwise correct. Only `ftfy.fix_encoding` is used, so quotes, ligatures and widths do not change.
"""

import os.path
import re

import ftfy

from .reading import Span


_SUSPECT = re.compile("[Â-ô\x80-\x9f]")  # most stories hold none of these, and `ftfy` takes 0.1 ms each
_FOLLOWERS = "\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"  # the bytes 0x80 to 0xBF in either encoding
_LOST_QUOTE = re.compile(f"â€\ufffd?(?![{_FOLLOWERS}])")
_OPENING, _CLOSING = re.compile("“|â€œ"), re.compile(f"”|â€\x9d|{_LOST_QUOTE.pattern}")
_LOST_SPACE = re.compile(r"(?<=[a-z.,!?;:\"])Â(?=\s|\Z)|(?<=[a-zß-ÿ])Ã(?= )")
_LETTER = re.compile(f"(?<=[a-z])[ÄÅ][{_FOLLOWERS}]")
_C1 = re.compile("[\x80-\x9f]")


def find_mojibake(text: str) -> Span | None:
    """Where mojibake, or a character that was lost in decoding (U+FFFD), begins."""
    repaired = repair_mojibake(text)
    if repaired == text:
        match = re.search("\ufffd", text) or (_SUSPECT.search(text) and _LOST_QUOTE.search(text))
        return match.span() if match else None
    first = len(os.path.commonprefix([text, repaired]))
    return first, first + 1


def repair_mojibake(text: str) -> str:
    """The text as it was before it was decoded wrongly; a closing quote without an opening one is not repaired."""
    if not _SUSPECT.search(text):
        return text
    text = _LOST_QUOTE.sub(_close_quote, text)
    if _LOST_QUOTE.search(text):
        return text  # `ftfy` would read "â€ she" as "†she"
    fixed = ftfy.fix_encoding(text)
    if fixed == text:
        fixed = _LETTER.sub(lambda match: match.group().encode("sloppy-windows-1252").decode(), text)
        fixed = _LOST_SPACE.sub(lambda match: "à" if match.group() == "Ã" else " ", fixed)
        fixed = _C1.sub(lambda match: match.group().encode("latin-1").decode("cp1252", "ignore"), fixed)
    return fixed


def _close_quote(match: re.Match) -> str:
    """A closing quote, if one is open. Five characters have 0x9D as third byte; the others do not occur in stories."""
    before = match.string[: match.start()]
    return "”" if len(_OPENING.findall(before)) > len(_CLOSING.findall(before)) else match.group()
