"""Make probes from stories."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...utils.progress import progress_bar
from ..minimal_pairs.pairs import Candidate, Candidates, Pair, check_request, choose_pairs, warn_about_few
from .kinds import KINDS, Place
from .story import Corpus


_MOST_PLACES = 60  # for each probe that is wanted: enough to choose from, and a bound on the time
_MOST_TRIED = 100  # places that a place is compared with


@dataclass(frozen=True)
class Probe(Pair):
    """A text of a story, and one that contradicts what the story has said before; `context` is the story up to there.

    Attributes:
        earlier: offset in the context of what the bad text contradicts.
        words: the true and the false word, if the texts differ in one word only.
    """

    earlier: int = 0
    words: tuple[str, str] | None = None


def make_probes(
    stories: Iterable[str],
    *,
    per_kind: int = 500,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    warn: bool = True,
    progress: bool = True,
) -> list[Probe]:
    """Up to `per_kind` probes of each of `kinds` (all by default), by kind and in the order of the stories.

    The same stories and seed give the same probes, regardless of the other kinds. Texts are exchanged between two
    stories, so each is good in one probe and bad in another. A story has at most three probes of a kind. With `warn`,
    a warning names the kinds with fewer than `per_kind` probes.

    Raises:
        UserError: for an unknown kind, or stories that are not a list of texts.
    """
    texts, kinds = check_request(stories, per_kind, kinds, KINDS)
    corpus = Corpus(texts)
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    places: dict[str, list[Place]] = {kind: [] for kind in kinds}
    for index in progress_bar(order, desc="Making probes", unit=" stories", show=progress):
        for kind in kinds:
            if len(places[kind]) < _MOST_PLACES * per_kind:
                places[kind] += KINDS[kind].places(corpus, index)
    probes = {}
    for kind in kinds:
        rng = random.Random(f"{seed} {kind}")
        candidates = _candidates(corpus, kind, places[kind], rng)
        probes[kind] = [probe for probe in choose_pairs(candidates, per_kind, rng) if isinstance(probe, Probe)]
    if warn:
        warn_about_few({kind: len(chosen) for kind, chosen in probes.items()}, per_kind, "coherence probes")
    return [probe for chosen in probes.values() for probe in chosen]


def _candidates(corpus: Corpus, kind: str, places: list[Place], rng: random.Random) -> Candidates:
    """Probes by group and exchange, as `choose_pairs` takes them."""
    found: Candidates = {}
    if (fits := KINDS[kind].fits) is None:
        for place in places:
            found.setdefault(place.key[0], {}).setdefault(None, []).append(
                _candidate(corpus, kind, place, place.moved or "")
            )
        return found
    waiting: dict[tuple, list[Place]] = {}
    for place in rng.sample(places, len(places)):
        partners = waiting.setdefault(place.key, [])
        for number, other in enumerate(partners[:_MOST_TRIED]):
            differ = place.story != other.story and place.item != other.item
            if differ and fits(corpus, place, other) and fits(corpus, other, place):
                del partners[number]
                group = found.setdefault(place.key[0], {})
                for one, two in ((place, other), (other, place)):
                    swap = f"{one.story} {one.start}", f"{two.story} {two.start}"
                    group[swap] = [_candidate(corpus, kind, one, corpus.text(two.story, two.start, two.end))]
                break
        else:
            partners.append(place)
    return found


def _candidate(corpus: Corpus, kind: str, place: Place, new: str) -> Candidate:
    text = corpus.stories[place.story].text
    old, rest = text[place.start : place.end], text[place.end : place.stop]
    probe = Probe(
        kind=kind,
        good=old + rest,
        bad=new + rest,
        story=place.story,
        context=text[: place.start],
        distance=place.distance,
        earlier=place.earlier,
        words=(old, new) if " " not in old + new else None,
    )
    return Candidate(probe, place.start, place.item)
