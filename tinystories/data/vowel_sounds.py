"""Whether a word begins with a vowel sound, for "a" and "an"."""

import re


_CONSONANT_SOUND = re.compile(
    r"(?:u\Z|one\Z|once\Z|oui|eu|ewe|uni(?:[cfoqstv]|\Z)|us(?:e|u|a)|ut(?:e|i|o)|ura|uku)", re.IGNORECASE
)
_VOWEL_SOUND = re.compile(r"(?:[aeiou]|hour|hono|honest|heir|8\d*\Z|1[18]\Z|[fhlmnrsx]\Z)", re.IGNORECASE)
_SPELT_OUT = re.compile(r"[AEFHILMNORSX][B-DF-HJ-NP-TV-Z]*\Z")


def begins_with_vowel_sound(word: str) -> bool:
    """Whether "an" is correct before `word`, judged by its spelling: "an hour", "a unicorn", "an 8", "an X-ray"."""
    if _SPELT_OUT.match(word):
        return True
    return bool(_VOWEL_SOUND.match(word)) and not _CONSONANT_SOUND.match(word)
