"""Make minimal pairs from stories, and write them to a file."""

import difflib
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...text.sentences import all_sentences, normalized, plain_sentences
from ...utils.errors import UserError
from ...utils.progress import progress_bar
from ..likelihood import check_stories
from .errors import KINDS


logger = logging.getLogger(__name__)

COLUMNS = ("kind", "story", "distance", "change", "good", "bad", "context")
_CANDIDATES = 20  # kept for each pair that is wanted: enough to choose from, and a bound on the memory
# Pairs of a kind per story, and the fraction of them with the same words; tried in this order
_LIMITS = ((1, 0.03), (2, 0.03), (3, 0.03), (3, 1.0))


@dataclass(frozen=True)
class Pair:
    """A text of a story and the same text with one error.

    Attributes:
        story: index of the story.
        context: the story up to the text where only that shows the error, as in the probes of `coherence`, else "".
        distance: number of words between what the error contradicts and the error, if that is one place.
    """

    kind: str
    good: str
    bad: str
    story: int
    context: str = ""
    distance: int | None = None

    @property
    def change(self) -> str:
        """The sentence with the change in brackets: "She saw [a -> an] dog."."""
        good, bad = self.good.split(), self.bad.split()
        first = len(os.path.commonprefix([good, bad]))
        last = len(os.path.commonprefix([good[first:][::-1], bad[first:][::-1]]))
        was, now = (" ".join(words[first : len(words) - last]) for words in (good, bad))
        return " ".join([*good[:first], f"[{was} -> {now}]", *good[len(good) - last :]])


def make_pairs(
    stories: Iterable[str],
    *,
    per_kind: int = 500,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    warn: bool = True,
    progress: bool = True,
) -> list[Pair]:
    """Up to `per_kind` pairs of each of `kinds` (all by default), by kind and in the order of the stories.

    The same stories and seed give the same pairs, regardless of the other kinds. A sentence makes at most one
    pair of a kind, a story at most three, and no `bad` occurs in the stories. Where one word replaces another, the
    reverse replacement occurs in equally many pairs. With `warn`, a warning names the kinds
    with fewer than `per_kind` pairs.

    Raises:
        UserError: for an unknown kind, or stories that are not a list of texts.
    """
    stories, kinds = check_request(stories, per_kind, kinds, KINDS)
    sentences = {sentence for story in stories for sentence in all_sentences(story)}
    found: dict[str, Candidates] = {kind: {} for kind in kinds}
    order = random.Random(seed).sample(range(len(stories)), len(stories))
    for story in progress_bar(order, desc="Making pairs", unit=" stories", show=progress):
        for sentence in plain_sentences(stories[story]):
            for kind in kinds:
                for bad in KINDS[kind].rule(sentence):
                    candidates = found[kind].setdefault(bad.group, {}).setdefault(bad.swap, [])
                    if len(candidates) < _CANDIDATES * per_kind:
                        pair = Pair(kind, str(sentence), str(bad.sentence), story)
                        candidates.append(Candidate(pair, sentence.start, bad.item))

    pairs = {
        kind: choose_pairs(found[kind], per_kind, random.Random(f"{seed} {kind}"), exclude=sentences) for kind in kinds
    }
    if warn:
        warn_about_few({kind: len(chosen) for kind, chosen in pairs.items()}, per_kind)
    return [pair for chosen in pairs.values() for pair in chosen]


def check_request(
    stories: Iterable[str], per_kind: int, kinds: Sequence[str] | None, known: Collection[str]
) -> tuple[list[str], list[str]]:
    """The stories and the distinct kinds (by default all of `known`) to make pairs of.

    Raises:
        UserError: for an unknown kind, `per_kind` below 1, or stories that are not a list of texts.
    """
    kinds = list(known) if kinds is None else list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in known:
            near = difflib.get_close_matches(kind, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the kinds are {', '.join(known)}."
            raise UserError(f"There is no kind of pair called {kind!r}; {hint}")
    if per_kind < 1:
        raise UserError(f"`per_kind` must be at least 1, but is {per_kind}.")
    stories = stories if isinstance(stories, str) else list(stories)
    check_stories(stories)
    return list(stories), kinds


def warn_about_few(counts: Mapping[str, int], per_kind: int, what: str = "minimal pairs") -> None:
    """Log a warning that names the kinds of `what` with fewer than `per_kind` of them."""
    few = [f"{kind} {count}" for kind, count in counts.items() if count < per_kind]
    if few:
        logger.warning("Fewer than %d %s of some kinds: %s", per_kind, what, ", ".join(few))


class Candidate(NamedTuple):
    """A pair that may be chosen, where its text starts in the story, and the words concerned."""

    pair: Pair
    start: int
    item: str


_BySwap = dict[tuple[str, str] | None, list[Candidate]]
Candidates = dict[str, _BySwap]  # by group, then by swap, as in `BadSentence`


def choose_pairs(
    groups: Candidates, wanted: int, rng: random.Random, *, exclude: Collection[str] = frozenset()
) -> list[Pair]:
    """Up to `wanted` pairs in the order of the stories, spread over groups, stories and words.

    Args:
        exclude: [`normalized`] texts that cannot be `bad`.
    """
    chosen: list[Candidate] = []
    used: set[str] = set()
    per_story: Counter[int] = Counter()
    per_item: Counter[str] = Counter()
    per_group: Counter[str] = Counter()
    units = {name: _units(groups[name], rng) for name in sorted(groups)}

    def fits(candidate: Candidate, most_of_story: int, most_of_item: float) -> bool:
        return (
            candidate.pair.good not in used
            and per_story[candidate.pair.story] < most_of_story
            and per_item[candidate.item] < max(1, most_of_item * wanted)
            and normalized(candidate.pair.bad) not in exclude
        )

    # First an equal number for each group, then whatever is left.
    for per_group_limit in (-(-wanted // max(1, len(groups))), wanted):
        for limits in _LIMITS:
            queues = {name: iter(units[name]) for name in units}
            while queues:
                for name in list(queues):
                    left = min(per_group_limit - per_group[name], wanted - len(chosen))
                    unit = next((u for u in queues[name] if len(u) <= left and all(fits(c, *limits) for c in u)), None)
                    if unit is None:
                        del queues[name]
                        continue
                    chosen += unit
                    per_group[name] += len(unit)
                    for candidate in unit:
                        used.add(candidate.pair.good)
                        per_story[candidate.pair.story] += 1
                        per_item[candidate.item] += 1
    chosen.sort(key=lambda candidate: (candidate.pair.story, candidate.start))
    return [candidate.pair for candidate in chosen]


def _units(by_swap: _BySwap, rng: random.Random) -> list[tuple[Candidate, ...]]:
    """What is chosen together, in random order: single candidates, or two that swap the same words in reverse."""
    by_swap = {swap: rng.sample(candidates, len(candidates)) for swap, candidates in by_swap.items()}
    units: list[tuple[Candidate, ...]] = []
    for swap, candidates in by_swap.items():
        if swap is None:
            units += [(candidate,) for candidate in candidates]
        elif swap < (reverse := (swap[1], swap[0])):
            units += [
                (one, other)
                for one, other in zip(candidates, by_swap.get(reverse, []), strict=False)
                if one.pair.story != other.pair.story and one.pair.good != other.pair.good
            ]
    rng.shuffle(units)
    return units


def check_pairs_file(path: str | Path) -> Path:
    """The path, if [`write_pairs`] may write there.

    Raises:
        UserError: for a suffix other than .tsv and .jsonl, a folder, or an existing file that does not contain pairs.
    """
    path = Path(path)
    starts = {".tsv": "kind\tstory\t", ".jsonl": '{"kind": '}
    if path.suffix not in starts:
        raise UserError(f"{path} must end in .tsv or .jsonl.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: specify a file.")
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(starts[path.suffix]):
        raise UserError(
            f"{path} exists and is not a file of minimal pairs, so it is not overwritten: choose another file."
        )
    return path


def write_pairs(pairs: Iterable[Pair], path: str | Path) -> None:
    """Write `COLUMNS` of pairs as .tsv or .jsonl; `change` shows the change in brackets: "She saw [a -> an] dog."."""
    path = check_pairs_file(path)
    rows = [{column: getattr(pair, column) for column in COLUMNS} for pair in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            cells = ([" ".join(str("" if value is None else value).split()) for value in row.values()] for row in rows)
            table = [COLUMNS, *cells]
            file.writelines("\t".join(row) + "\n" for row in table)
