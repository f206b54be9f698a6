"""UTF-8 that was read as Windows-1252 or Latin-1: found, and read again as what it was."""

import re
from collections.abc import Iterable

from .reading import Place, find_part


# Characters whose bytes in one of those tables are a character in UTF-8 are a candidate. In true text that can be a
# letter and what stands behind it ("é…”" is also the bytes of a Chinese character), so it counts only where a letter
# and marks cannot be what was meant.


def _readings(codes: Iterable[int]) -> dict[str, int]:
    """Characters as which these bytes are read, with the byte."""
    readings = {chr(code): code for code in codes}
    for code in list(readings.values()):
        try:
            readings[bytes([code]).decode("cp1252")] = code
        except UnicodeDecodeError:  # five bytes that the table leaves out; most decoders pass them through
            pass
    return readings


def _one_of(characters: Iterable[str]) -> str:
    return "[" + "".join(map(re.escape, sorted(characters))) + "]"


_BYTES = {ord(character): code for character, code in _readings(range(0x80, 0x100)).items()}
_WINDOWS = {chr(code): character for character, code in _readings(range(0x80, 0xA0)).items() if ord(character) > 0xFF}
_FOLLOWERS = set(_readings(range(0x80, 0xC0)))
_LETTERS = set("šžŠŽœŒŸƒ")
_MARKS = set("’‘“”…–—»«›‹\xa0™®©ªº²³¹°·´¨")  # which stand behind a letter in true text
_ANY, _NO_MARK, _TELLING = map(_one_of, (_FOLLOWERS, _FOLLOWERS - _MARKS, _FOLLOWERS - _MARKS - _LETTERS))
_LAST = _one_of(_MARKS - set("’–—…\xa0"))  # marks with no letter behind them
_SEQUENCE = f"(?:[Â-ß]{_ANY}|[à-ï]{_ANY}{{2}}|[ð-ô]{_ANY}{{3}})"
_RUN, _ONE, _HAS_TELLING = re.compile(f"{_SEQUENCE}+"), re.compile(_SEQUENCE), re.compile(_TELLING)
_EVIDENCE = re.compile(
    # Â and Ã, with which Latin-1's signs and letters begin, end a word only where all of it is capitals
    rf"(?<![A-ZÀ-Þ]{{2}})[ÂÃ]{_ANY}|[ÂÃ]{_NO_MARK}|[ÂÃ]{_LAST}(?=[^\W\d_])"
    # Ä and Å, with which those of Central Europe begin, are letters in the North
    rf"|(?<![A-ZÀ-Þ])[ÄÅ]{_NO_MARK}|(?<=[a-zß-ÿ])[ÄÅ]{_ANY}|[ÄÅ]{_LAST}(?=[^\W\d_])"
    # quotes, dashes, signs, emoji, full-width forms
    rf"|â(?:{_NO_MARK}|™){_ANY}|â{_ANY}{_TELLING}|ð[\x90\x9fŸ]{_ANY}{{2}}|ï[¬¼½¾¿»¸]{_ANY}|[à-ï]{_TELLING}{{2}}"
)
_LEAD, _C1 = re.compile("[Â-ô]"), re.compile("[\x80-\x9f]")
# Byte 0x9D, which Windows-1252 leaves out, is lost in TinyStories. Elsewhere a no-break space has become a space.
_LOST_QUOTE = re.compile(f"â€\ufffd?(?!{_ANY})")
_LOST_SPACE = re.compile(r"(?<=[a-z.,!?;:\"])Â(?=\s|\Z)|(?<=[a-zß-ÿ])Ã(?= )")


def find_mojibake(text: str) -> Place | None:
    matches = [_C1.search(text)]
    if _LEAD.search(text):
        matches += [_LOST_QUOTE.search(text), _LOST_SPACE.search(text)]
    places = [match.span() for match in matches if match] + [find_part(text, "\ufffd")]
    places += [(start, end) for start, end, _ in _sequences(text)[0][:1]]
    return min(filter(None, places), default=None)


def _sequences(text: str) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """Where what stands for UTF-8 begins and ends, and what it is: first the certain ones, then those that may be."""
    certain, possible = [], []
    for run in _RUN.finditer(text):
        groups: list[list[tuple[int, int, str]]] = []
        for one in _ONE.finditer(text, *run.span()):
            try:
                decoded = one.group().translate(_BYTES).encode("latin-1").decode()
            except UnicodeDecodeError:
                continue
            if not groups or groups[-1][-1][1] != one.start():
                groups.append([])
            groups[-1].append((*one.span(), decoded))
        for group in groups:
            start, end = group[0][0], group[-1][1]
            several = len(group) > 1 and _HAS_TELLING.search(text, start, end)
            evident = several or any(_EVIDENCE.match(text, begin) for begin, _, _ in group)
            (certain if evident else possible).append((start, end, "".join(decoded for _, _, decoded in group)))
    return certain, possible


def mend_mojibake(text: str) -> str:
    """One step of it: what was read wrongly twice takes two."""
    if text.isascii():
        return text
    if _LEAD.search(text):
        certain, possible = _sequences(text)
        length = sum(end - start for start, end, _ in certain + possible)
        if certain and length == sum(not character.isascii() for character in text):
            certain = sorted(certain + possible)  # the whole text was read by the wrong table
        for start, end, decoded in reversed(certain):
            text = text[:start] + decoded + text[end:]
        if certain:
            return text
        text = _LOST_SPACE.sub(lambda match: "à" if match.group() == "Ã" else " ", text)
        text = _LOST_QUOTE.sub(_close_quote, text)
    return _C1.sub(lambda match: _WINDOWS.get(match.group(), ""), text)


def _close_quote(match: re.Match) -> str:
    """Of the five characters that have lost such a byte, four are not seen; ” it is where a “ is open."""
    before = match.string[: match.start()]
    is_open = before.count("“") > before.count("”") + len(_LOST_QUOTE.findall(before))
    return "”" if is_open else match.group()
