"""Print the word lists of `tinystories/evaluation/articles.py`, computed from stories.

    python metrics/article_statistics/word_lists.py roneneldan/TinyStories --max-stories 12000

**Countable nouns** are the words that
- follow "a" or "an" at least 5 times, and in at least 2% of their occurrences,
- have a plural that occurs at least 5 times,
- follow "some" or "much" in at most 1% of their occurrences, unlike "water" and "fun",
- and have at least 20 occurrences that need a determiner (as in `count_articles`), with an article in at least 30% of
  these, and without any determiner in at most 3% of these (or in one). This excludes words that are also verbs
  ("walk", "play"), names ("mom"), and nouns that are used without an article in idioms ("time", "home", "bed").

**Modifiers** are the words that precede such a noun at least 4 times, and follow a determiner or another modifier in
at least 80% of these. The two lists depend on each other, so both are derived again until they no longer change.
"""

import argparse
from collections import Counter, defaultdict

from tinystories.evaluation.articles import (
    ARTICLES,
    INTENSIFIERS,
    determiner_places,
    is_determiner,
    split_pieces,
)


IRREGULAR = {"man": "men", "woman": "women", "mouse": "mice", "child": "children", "foot": "feet", "tooth": "teeth"}
ROUNDS = 10


def make_word_lists(texts: list[str]) -> tuple[list[str], list[str]]:
    """Countable nouns and modifiers, each in alphabetical order."""
    stories = [split_pieces(text) for text in texts]
    lower = [[piece.lower() for piece in story] for story in stories]
    nouns = candidates(stories, lower)
    modifiers: set[str] = set()
    for _ in range(ROUNDS):
        before = nouns, modifiers
        modifiers = find_modifiers(stories, lower, nouns)
        nouns = without_bare_nouns(stories, nouns, modifiers)
        if (nouns, modifiers) == before:
            break
    return sorted(nouns), sorted(modifiers - INTENSIFIERS)


def candidates(stories: list[list[str]], lower: list[list[str]]) -> set[str]:
    total = Counter(piece for story in stories for piece in story)
    after_a, after_some = Counter(), Counter()
    for story, words in zip(stories, lower, strict=True):
        for before, piece in zip(words, story[1:], strict=False):
            if before in ("a", "an"):
                after_a[piece] += 1
            elif before in ("some", "much"):
                after_some[piece] += 1
    return {
        word
        for word, count in after_a.items()
        if word.isalpha()
        and word.islower()
        and count >= max(5, 0.02 * total[word])
        and max(total[plural] for plural in plurals(word)) >= 5
        and after_some[word] <= 0.01 * total[word]
    }


def plurals(word: str) -> list[str]:
    forms = [word + "s", word + "es", IRREGULAR.get(word, word + "s")]
    for ending, plural in (("y", "ies"), ("f", "ves"), ("fe", "ves")):
        if word.endswith(ending):
            forms.append(word.removesuffix(ending) + plural)
    return forms


def find_modifiers(stories: list[list[str]], lower: list[list[str]], nouns: set[str]) -> set[str]:
    modifiers = set(INTENSIFIERS)
    for _ in range(3):  # for chains: "a big old red box"
        count, preceded = Counter(), Counter()
        for story, words in zip(stories, lower, strict=True):
            for at in range(1, len(story) - 1):
                before, word, after = words[at - 1], story[at], story[at + 1]
                modifies = after in nouns and word.isalpha() and word.islower() and not is_determiner(word)
                if modifies and before not in (",", "and"):  # which could join adjectives or sentences
                    count[word] += 1
                    preceded[word] += is_determiner(before) or before in modifiers
        modifiers = {w for w in count if count[w] >= 4 and preceded[w] >= 0.8 * count[w]} | INTENSIFIERS
    return modifiers


def without_bare_nouns(stories: list[list[str]], nouns: set[str], modifiers: set[str]) -> set[str]:
    found = defaultdict(Counter)
    for story in stories:
        for noun, before in determiner_places(story, nouns, modifiers):
            found[noun]["article" if before in ARTICLES else "other" if is_determiner(before) else "bare"] += 1
    return {
        noun
        for noun, kinds in found.items()
        if kinds.total() >= 20
        and kinds["article"] >= 0.3 * kinds.total()
        and kinds["bare"] <= max(1, 0.03 * kinds.total())
    }


if __name__ == "__main__":
    from textwrap import fill

    from tinystories.data.corpus import load_texts

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="dataset id on the Hub, or a local file or folder of stories")
    parser.add_argument("--max-stories", type=int, help="maximum number of stories (default: all)")
    arguments = parser.parse_args()
    stories = load_texts(arguments.corpus, max_stories=arguments.max_stories)["text"]
    for title, found in zip(("COUNTABLE_NOUNS", "MODIFIERS"), make_word_lists(list(stories)), strict=True):
        lines = fill(" ".join(found), 119, initial_indent="    ", subsequent_indent="    ")
        print(f"{title}: {len(found)}\n{lines}\n")
