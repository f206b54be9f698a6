"""From stories to pairs of sentences, one true and one with a fault, and to a file that a person can read."""

import difflib
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ...utils.errors import UserError
from .errors import KINDS, Fault
from .sentences import Sentence, all_sentences, normalized, plain_sentences


logger = logging.getLogger(__name__)

# Candidates that are kept for each that is wanted: enough to choose from, and a bound on the memory.
_CHOICE = 20
# How many pairs of a kind one story may give, and which share of them the same words may take; tried in this order.
_LIMITS = ((1, 0.03), (2, 0.03), (3, 0.03), (3, 1.0))


@dataclass(frozen=True)
class Pair:
    """`good` is a sentence of a story and `bad` the same with one fault of `kind`.

    `story` is the story's index. `context` is the story up to the sentence, white space included, where only that
    shows the fault (`pronoun_gender`), and "" otherwise.
    """

    kind: str
    good: str
    bad: str
    story: int
    context: str = ""

    @property
    def change(self) -> str:
        """The sentence with what was there and what is there now: "She saw [a -> an] dog."."""
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
    progress: bool = True,
) -> list[Pair]:
    """Up to `per_kind` pairs of each of `kinds` (all by default), by kind and in the order of the stories.

    The same stories and seed give the same pairs, whatever other kinds are asked for. A sentence makes one pair of a
    kind at most, a story at most three, the second and third only where there are not enough others, and no `bad` is
    a sentence of the stories. The ways of making a fault share a kind equally as long as each has enough. Where one
    word stands for another, there are as many pairs with the two the other way round: "a" is as often right as "an".
    Where a kind stays below `per_kind`, a warning says so.

    Raises:
        UserError: for a kind that there is not, or stories that are no list of texts.
    """
    kinds = list(KINDS) if kinds is None else list(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}."
            raise UserError(f"There is no kind of pair called {kind!r}; {hint}")
    if per_kind < 1:
        raise UserError(f"per_kind must be at least 1, but is {per_kind}.")
    if isinstance(stories, str):
        raise UserError("stories is one string; give a list (or any iterable) of stories.")
    stories = list(stories)
    for number, story in enumerate(stories, 1):
        if not isinstance(story, str):
            raise UserError(f"Story {number} is {type(story).__name__}, not a string.")
    sentences = {sentence for story in stories for sentence in all_sentences(story)}
    found: dict[str, dict[str, _BySwap]] = {kind: {} for kind in kinds}
    order = random.Random(seed).sample(range(len(stories)), len(stories))
    for story in tqdm(order, desc="making pairs", unit=" stories", disable=not progress):
        for sentence in plain_sentences(stories[story]):
            for kind in kinds:
                for fault in KINDS[kind].rule(sentence):
                    candidates = found[kind].setdefault(fault.group, {}).setdefault(fault.swap, [])
                    if len(candidates) < _CHOICE * per_kind:
                        candidates.append(_Candidate(story, sentence, fault))

    pairs, short = [], []
    for kind in kinds:
        chosen = _choose(found[kind], per_kind, sentences, random.Random(f"{seed} {kind}"))
        if len(chosen) < per_kind:
            short.append(f"{kind} {len(chosen)}")
        pairs += [_pair(kind, candidate) for candidate in sorted(chosen, key=lambda candidate: candidate.place)]
    if short:
        logger.warning("fewer than %d pairs could be made of some kinds: %s", per_kind, ", ".join(short))
    return pairs


@dataclass(frozen=True)
class _Candidate:
    story: int
    sentence: Sentence
    fault: Fault

    @property
    def place(self) -> tuple[int, int]:
        return self.story, self.sentence.start


_BySwap = dict[tuple[str, str] | None, list[_Candidate]]


def _pair(kind: str, candidate: _Candidate) -> Pair:
    context = candidate.sentence.before if KINDS[kind].needs_context else ""
    return Pair(kind, str(candidate.sentence), str(candidate.fault.bad), candidate.story, context)


def _choose(groups: dict[str, _BySwap], wanted: int, sentences: set[str], rng: random.Random) -> list[_Candidate]:
    """`wanted` candidates, or as many as there are, no story and no words among them too often."""
    chosen: list[_Candidate] = []
    used, per_story, per_item, per_group = set(), Counter(), Counter(), Counter()
    units = {name: _units(groups[name], rng) for name in sorted(groups)}

    def fits(candidate: _Candidate, most_of_story: int, most_of_item: float) -> bool:
        return (
            str(candidate.sentence) not in used
            and per_story[candidate.story] < most_of_story
            and per_item[candidate.fault.item] < max(1, most_of_item * wanted)
            and normalized(str(candidate.fault.bad)) not in sentences
        )

    # First an equal share for each group, then whatever is left.
    for share in (-(-wanted // max(1, len(groups))), wanted):
        for limits in _LIMITS:
            queues = {name: iter(units[name]) for name in units}
            while queues:
                for name in list(queues):
                    room = min(share - per_group[name], wanted - len(chosen))
                    unit = next((u for u in queues[name] if len(u) <= room and all(fits(c, *limits) for c in u)), None)
                    if unit is None:
                        del queues[name]
                        continue
                    chosen += unit
                    per_group[name] += len(unit)
                    for candidate in unit:
                        used.add(str(candidate.sentence))
                        per_story[candidate.story] += 1
                        per_item[candidate.fault.item] += 1
    return chosen


def _units(by_swap: _BySwap, rng: random.Random) -> list[tuple[_Candidate, ...]]:
    """What is chosen together, in random order: single candidates, or two that swap the same words the other way."""
    by_swap = {swap: rng.sample(candidates, len(candidates)) for swap, candidates in by_swap.items()}
    units: list[tuple[_Candidate, ...]] = [(candidate,) for candidate in by_swap.pop(None, [])]
    for swap, ones in by_swap.items():
        others = by_swap.get(swap[::-1], [])
        if swap < swap[::-1]:
            units += [unit for unit in zip(ones, others, strict=False) if _differ(*unit)]
    rng.shuffle(units)
    return units


def _differ(one: _Candidate, other: _Candidate) -> bool:
    return one.story != other.story and str(one.sentence) != str(other.sentence)


def write_pairs(pairs: Iterable[Pair], path: str | Path) -> None:
    """Write pairs for a person to read, as .tsv or .jsonl: kind, story, change, good, bad and context.

    `change` shows the changed place in brackets, "She saw [a -> an] dog.".

    Raises:
        UserError: for another ending.
    """
    path = Path(path)
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"{path} must end in .tsv or .jsonl.")
    columns = ("kind", "story", "change", "good", "bad", "context")
    rows = ({column: getattr(pair, column) for column in columns} for pair in pairs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_tsv(columns, rows) if path.suffix == ".tsv" else map(_json, rows))


def _json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _tsv(columns: Sequence[str], rows: Iterable[dict]) -> Iterator[str]:
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join(" ".join(str(row[column]).split()) for column in columns) + "\n"
