"""The gender of characters: of their names, nouns and pronouns."""

import re
from collections.abc import Iterator

from ..data.names import BOYS, GIRLS, MORE_BOYS, MORE_GIRLS
from . import word_lists as lists


SHE, HE = "she", "he"
# Names of people of one gender; `STRICT` are those that are never the other gender's, or an animal's.
NAMES = dict.fromkeys((*GIRLS, *MORE_GIRLS), SHE) | dict.fromkeys((*BOYS, *MORE_BOYS), HE)
STRICT = dict.fromkeys(lists.WOMENS_NAMES, SHE) | dict.fromkeys(lists.MENS_NAMES, HE)
PRONOUNS = dict.fromkeys("she her hers herself".split(), SHE) | dict.fromkeys("he him his himself".split(), HE)
NOUNS = dict.fromkeys(lists.WOMEN - PRONOUNS.keys(), SHE) | dict.fromkeys(lists.MEN - PRONOUNS.keys(), HE)
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")


def bare(word: str) -> str:
    """A word without "'s"."""
    return re.sub(r"['’]s$", "", word)


def genders(text: str) -> Iterator[tuple[str, int]]:
    """The gender of each gendered word of a text, and its offset."""
    for match in WORD.finditer(text):
        word = bare(match[0])
        gender = NAMES.get(word) or STRICT.get(word) or NOUNS.get(word.lower()) or PRONOUNS.get(word.lower())
        if gender:
            yield gender, match.start()
