"""What a trained model has learned, in words: grammar, and up to which distances it prefers the right name."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation import coherence
from ..evaluation.coherence import DISTANCE_RANGES, make_probes, score_probes
from ..evaluation.minimal_pairs import accuracy, make_pairs, mean_accuracy, score_pairs
from .findings import Finding, as_check, note


PAIRS, PROBES = 30, 150  # minimal pairs of each kind, probes of names
FEWEST = 40  # with fewer pairs or probes, their accuracy is not reported
FEWEST_IN_RANGE = 10


@as_check("what the model has learned")
def check_learned(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stories: Sequence[str]) -> list[Finding]:
    """A note with accuracies on held-out stories; the rules that make pairs and probes are for English."""
    pairs = make_pairs(stories, per_kind=PAIRS, warn=False, progress=False)
    if len(pairs) < FEWEST:
        evidence = f"not measured: the {len(stories):,} held-out stories give {len(pairs)} minimal pairs"
        return [note(f"{evidence}, and at least {FEWEST} are needed")]
    grammar = mean_accuracy(accuracy(score_pairs(model, tokenizer, pairs, progress=False)))
    evidence = f"grammar {grammar:.0%} ({len(pairs)} minimal pairs)"
    probes = make_probes(stories, per_kind=PROBES, kinds=["name"], warn=False, progress=False)
    scores = score_probes(model, tokenizer, probes, progress=False)
    if len(scores) >= FEWEST:
        rate = coherence.accuracy(scores)["name"]["accuracy"]
        ranges = coherence.accuracy_by_distance(scores)["name"]
        evidence += f"; names {rate:.0%} ({len(scores)} probes): {in_words(ranges)}"
    return [note(f"{evidence}; chance is 50%")]


def in_words(ranges: dict[str, dict[str, float]]) -> str:
    """At which distances from the last mention of a name the accuracy is above chance, by [`DISTANCE_RANGES`].

    A range counts if the 95% interval of its accuracy is above 50%; ranges with fewer than 10 probes are left out.
    """
    measured = [name for name in DISTANCE_RANGES if name in ranges and ranges[name]["pairs"] >= FEWEST_IN_RANGE]
    held = []
    for name in measured:
        if ranges[name]["low"] <= 0.5:
            break
        held.append(name)
    if not held:
        return "not above chance at the shortest distance"
    if held == measured:
        return f"above chance at all distances measured (the largest: {held[-1]} words)"
    return f"above chance up to {held[-1].rpartition('-')[2]} words after the last mention, not beyond"
