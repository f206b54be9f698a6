"""Derive columns of a corpus by rule: words, a summary and features of each story, as in TinyStories-Instruct.

    annotator = Annotator(stories)  # counts in how many stories each word occurs
    annotator(stories[0])           # {"words": "parrot, cage, hungry", "summary": "Once ...", "features": "dialogue"}

- `words`: three of the eight rarest content words of the story. A hash of the story chooses them and their order.
- `summary`: the first sentence. It introduces the characters and the situation; no rule can summarise a story.
- `features`: those that a rule finds, perhaps none. The rules are more likely to miss a feature than to report a wrong
  one.
"""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from random import Random

from .sentences import sentence_spans
from .word_lists import FUNCTION_WORDS


COLUMNS = ("words", "summary", "features")
DIALOGUE, MORAL, SAD_ENDING, HAPPY_ENDING = FEATURES = ("dialogue", "moral", "sad ending", "happy ending")
WORDS, RAREST = 3, 8  # words of a story, chosen from this many
LEAST_RATE = 5e-4  # of the stories with a word: rarer ones are often mistyped
ENDING = 3  # sentences
_WORD = re.compile(r"(?<![\w'’-])[a-z]{3,}(?![\w'’-])")  # in lower case: no names
_NO_CONTENT = FUNCTION_WORDS | frozenset(
    """according against along although among amongst another anybody anyone anything anyway anywhere apart aside
    away before behind being below beneath besides beyond both cannot could despite does doing done during each
    either else elsewhere enough especially even ever every everybody everyone everything everywhere few fewer
    former further hence hers herself himself hey however indeed instead itself latter least less lest many maybe
    might mine more moreover most much must myself neither never nobody none nor nothing nowhere often once onto
    others otherwise ought ourselves own perhaps quite rather really shall should since some somebody somehow
    someone something sometime sometimes somewhat somewhere such than that theirs themselves therefore these this
    those though throughout till towards unless unlike until upon usually very what whatever whenever wherever
    whether whichever whoever whole whom whose why within yet yours yourself yourselves are been having did was
    were will would him she they you your its our the and but for not nor with from into about over under again
    very just how who because while although""".split()
)
_SPEECH = re.compile(r'"[^"\n]*\w[^"\n]*"|“[^”\n]*\w[^”\n]*”')
_MORAL = re.compile(
    r"\bmorals?\b|\blessons?\b|\b(?:learn(?:ed|t|s)?|taught|realized|understood|knew now|remembered)"
    r"(?: \w+){0,3}? (?:that|how important|to always|not to|never to|to never|to be)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bno longer|\bno more|\bwithout|\binstead of)(?: \w+){0,3} $", re.IGNORECASE
)
_SAD = re.compile(
    r"\b(?:sad|sadly|sadder|cried|crying|cries|tears|died|dead|death|unhappy|lonely|heartbroken|regretted|lost forever"
    r"|gone forever|never (?:saw|found|came back|seen|returned|played))\b",
    re.IGNORECASE,
)
_HAPPY = re.compile(
    r"\b(?:happy|happily|happier|glad|joy|joyful|smiled|smiling|laughed|laughing|giggled|proud|fun|hugged|loved"
    r"|best friends|grateful|thankful|excited|safe)\b",
    re.IGNORECASE,
)


class Annotator:
    """Annotates the stories of a corpus.

    Args:
        stories: of the corpus; they determine how rare a word is.
    """

    def __init__(self, stories: Iterable[str]):
        self._stories_with: Counter[str] = Counter()
        number = 0
        for story in stories:
            self._stories_with.update(set(_WORD.findall(story)))
            number += 1
        self._least = max(1, round(number * LEAST_RATE))

    def __call__(self, story: str) -> dict[str, str]:
        """The columns of a story, by name; a value may be empty."""
        return {
            "words": ", ".join(self.rare_words(story)),
            "summary": first_sentence(story),
            "features": ", ".join(features(story)),
        }

    def rare_words(self, story: str) -> list[str]:
        """Three of the rarest content words; fewer if the story has fewer."""
        count = self._stories_with
        words = sorted({*_WORD.findall(story)} - _NO_CONTENT, key=lambda word: (count[word], word))
        rare = [word for word in words if count[word] >= self._least][:RAREST]
        chosen = Random(blake2b(story.encode("utf-8", "replace")).digest())
        return chosen.sample(rare, min(WORDS, len(rare)))


def first_sentence(story: str) -> str:
    """The first sentence, in one line; the first line of a story without a complete one."""
    spans = sentence_spans(story)
    sentence = story[slice(*spans[0])] if spans else story.strip().partition("\n")[0]
    return " ".join(sentence.split())


def features(story: str) -> list[str]:
    """Those of `FEATURES` that a rule finds."""
    spans = sentence_spans(story)[-ENDING:]
    ending = story[spans[0][0] :] if spans else ""
    sad, happy = _occurs(_SAD, ending), _occurs(_HAPPY, ending)
    found = {
        DIALOGUE: bool(_SPEECH.search(story)),
        MORAL: bool(_MORAL.search(ending)),
        SAD_ENDING: sad and not happy,
        HAPPY_ENDING: happy and not sad,
    }
    return [name for name, is_found in found.items() if is_found]


def _occurs(pattern: re.Pattern, text: str) -> bool:
    """Whether a match is not negated."""
    return any(not _NEGATED.search(text[: match.start()]) for match in pattern.finditer(text))
