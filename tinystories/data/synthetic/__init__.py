"""A built-in corpus of short stories for children, so that the first model can be trained without a network.

The stories are written by rules: 59 plots (see `plots`), each of which tells its own kind of story in many ways.
They are no match for the TinyStories dataset in variety, but their English is plain and correct, and articles in
particular are used as a native speaker would: "an orange kite", then "the kite"; "an hour", "a useful"; none in
"at home", "in summer", "warm milk" or before a name.

What keeps a story coherent:

- a plot chooses first the row of a table in which everything belongs together (what is lost, where it was last used
  and so where it is found), and only then the sentences, each of which is true whatever the others are;
- characters and things carry their grammar with them (`grammar`): name, gender, number, adjectives; who meets as
  friends differs in gender, so that "he" and "she" are never in doubt, and nameless helpers are "it";
- sentences are templates that read like the text they make (`story`), so that each can be judged as English.

The corpus is a stream: a seed gives an endless sequence of distinct stories, the same on every platform and Python
version, and `n` only says where it ends. Any change to a word or a template changes the corpus.
"""

from collections.abc import Iterator
from random import Random

from .plots import PLOTS
from .story import Story


NOTICE = (
    "These stories are synthetic: they were made by the rule-based generator of this project "
    "and are not the TinyStories dataset."
)

_MIN_WORDS, _MAX_WORDS = 60, 220


def sample_stories(n: int = 20_000, seed: int = 0) -> Iterator[str]:
    """`n` distinct stories; paragraphs are separated by an empty line."""
    if n < 0:
        raise ValueError(f"the number of stories must be 0 or more, not {n}")
    return _distinct_stories(n, Random(seed))


def _distinct_stories(n: int, random: Random) -> Iterator[str]:
    told: set[str] = set()
    while len(told) < n:
        text = _tell(random)
        if _MIN_WORDS <= len(text.split()) <= _MAX_WORDS and text not in told:
            told.add(text)
            yield text


def _tell(random: Random) -> str:
    story = Story(random)
    plot = story.pick(PLOTS)
    plot(story)
    return story.text()
