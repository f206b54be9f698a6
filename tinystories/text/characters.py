"""Find characters that a story mentions by name without having introduced them.

Small models often change names: a story that begins with Lily continues with Mia. The rule needs no LLM judge: a first
name that occurs after the opening of a story must have been introduced.
"""

import re

from ..data.names import FIRST_NAMES


OPENING_SENTENCES = 3  # any name may occur here first
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.!?,]")
_POSSESSIVE = re.compile(r"['’]s?\Z")
_DETERMINERS = frozenset("a an the his her their its my your our this another two three".split())
_TITLES = frozenset("Mr Mrs Ms Miss Dr Uncle Aunt Auntie Captain Princess Prince King Queen Grandma Grandpa".split())
_NAMING = frozenset("named called names calls were am i'm i’m is was be are name it it's it’s".split())
_PRONOUNS = frozenset("him her it them".split())
_GIVING = frozenset("name names named naming call calls called calling".split())
_JOINING = frozenset({",", "and"})  # two friends, Tom, Mia and Sue
# Words before a name that are not nouns: "his mom and Tom" introduces nobody, "his friend Tom" does.
_FUNCTION_WORDS = frozenset(
    """about after and as asked at because but by for from gave helped how hugged if in like of on or saw said since so
    than thanked that then to told until what when where while who why with""".split()
)


def unintroduced_names(story: str) -> list[str]:
    """The first names that a story mentions without having introduced them, in order.

    A name is introduced in one of the first three sentences, or by its first mention: "a dog named Spot", "his friend
    Tom", "his friend, Tom", "Tom, a boy from school", "Tom was her brother", "I'm Tom", "Mr. Tom", "named him Tom",
    "two friends, Tom and Sue".

    Only listed first names ([`FIRST_NAMES`]) count, and none that the story also has as a word ("a daisy"); a misspelt
    name is a word outside the training vocabulary instead. By this rule 0.4% of 3,613 TinyStories and 1% of the sample
    stories have such a name.
    """
    tokens = _TOKEN.findall(story)
    words = [_POSSESSIVE.sub("", token) for token in tokens]
    known = {word.capitalize() for word in words if word.islower()}  # "Daisy" may be a daisy
    missing = []
    sentences = 0
    introduced = -1  # the place of the last name that was introduced after the opening
    for index, word in enumerate(words):
        if word in (".", "!", "?"):
            sentences += words[index - 1] not in _TITLES
        elif word in FIRST_NAMES and word not in known:
            known.add(word)
            if sentences < OPENING_SENTENCES:
                continue
            follows_another = introduced >= 0 and _JOINING.issuperset(words[introduced + 1 : index])
            if follows_another or _introduces(tokens[max(0, index - 8) : index], words[index + 1 : index + 3]):
                introduced = index
            else:
                missing.append(word)
    return missing


def _introduces(before: list[str], after: list[str]) -> bool:
    """Whether the words around the first mention of a name introduce it."""
    last = before[-1] if before else ""
    if last.lower() in _NAMING or last in _TITLES or (last == "." and before[-2:-1] and before[-2] in _TITLES):
        return True
    if last in _PRONOUNS and before[-2:-1] and before[-2] in _GIVING:  # named him Tom
        return True
    if last == ",":  # his friend, Tom
        before = before[:-1]
        last = before[-1] if before else ""
    else:
        before = before[-5:]
    if last.islower() and last not in _FUNCTION_WORDS and any(map(_is_determiner, before[:-1])):
        return True
    following = [word.lower() for word in after]
    if following[:1] == [","]:
        return following[1:] != [] and (following[1] in _DETERMINERS or following[1] == "who")
    return following[:1] in (["is"], ["lived"]) or (
        following[:1] == ["was"] and _DETERMINERS.issuperset(following[1:])
    )


def _is_determiner(word: str) -> bool:
    """Whether a word is a determiner, such as "his", or a possessive, such as "Tim's"."""
    return word.lower() in _DETERMINERS or (word[0].isupper() and word.endswith(("'s", "’s")))
