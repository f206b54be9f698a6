"""A built-in corpus of short stories for children, to train a first model without a network.

Rules generate the stories from 25 plots and a few games (`plots`). They vary much less than TinyStories, but their
English is plain and correct, articles included.

- A plot first chooses a row of a table of events that fit together (what is lost, where it was last used, where it is
  found), and then sentences that are true for any choice.
- Characters and things have grammatical attributes (`grammar`): name, gender, number and adjectives. Two friends
  differ in gender, so that "he" and "she" are never ambiguous.
- Sentences are templates that read like the generated text (`story`).
- A seed gives an endless sequence of distinct stories, the same on every platform; `n` only limits its length. A
  change to a word or a template changes the corpus.
"""

from collections.abc import Iterator
from random import Random

from .plots import GAMES, PLOTS
from .story import Story


NAME = "sample (synthetic stories)"  # of the corpus, in reports and on model cards
NOTICE = (
    "These stories are synthetic: they were made by the rule-based generator of this project "
    "and are not the TinyStories dataset."
)

_MIN_WORDS, _MAX_WORDS = 60, 220
SHARE_OF_GAMES = 0.25


def sample_stories(n: int = 20_000, seed: int = 0) -> Iterator[str]:
    """`n` distinct stories; paragraphs are separated by an empty line."""
    if n < 0:
        raise ValueError(f"`n` must be at least 0, but is {n}.")
    return _distinct_stories(n, Random(seed))


def _distinct_stories(n: int, random: Random) -> Iterator[str]:
    generated: set[str] = set()
    while len(generated) < n:
        text = _generate(random)
        if _MIN_WORDS <= len(text.split()) <= _MAX_WORDS and text not in generated:
            generated.add(text)
            yield text


def _generate(random: Random) -> str:
    story = Story(random)
    plot = story.pick(GAMES if story.chance(SHARE_OF_GAMES) else PLOTS)
    plot(story)
    return story.text()
