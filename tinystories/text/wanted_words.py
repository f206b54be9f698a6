"""Which of the words that a story was asked to contain it uses, in any regular form."""

import re

from .word_lists import plural


_VOWELS = "aeiou"


def split_words(text: str) -> list[str]:
    """The words of a list such as "dragon, key and rain"."""
    parts = re.split(r"[,;\n]|\band\b", text)
    return [word for word in (" ".join(part.split()) for part in parts) if word]


def missing_words(story: str, words: str) -> list[str]:
    """The words of a list that a story does not use, neither themselves nor in another regular form.

    Args:
        words: separated by commas.
    """
    return [word for word in split_words(words) if not uses_word(story, word)]


def uses_word(story: str, word: str) -> bool:
    """Whether a word or a regular form of it occurs in a story, whatever the case: for "stop" also "stopped"."""
    forms = "|".join(map(re.escape, sorted(_forms(word.lower()), key=len, reverse=True)))
    return re.search(rf"(?<!\w)(?:{forms})(?!\w)", story.lower()) is not None


def _forms(word: str) -> set[str]:
    """The word with the endings of nouns, verbs and adjectives."""
    forms = {word, plural(word)} if word else set()
    stems = {word}
    if word.endswith("e"):
        stems.add(word[:-1])
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        stems.add(word[:-1] + "i")
    if len(word) > 2 and word[-1] not in f"{_VOWELS}wxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS:
        stems.add(word + word[-1])
    for stem in stems:
        forms |= {stem + ending for ending in ("s", "es", "ed", "ing", "er", "est", "ly")}
    return forms | {word + "d", word + "r", word + "st"} if word.endswith("e") else forms
