"""Coherence probes: continuations of held-out stories, each with a continuation that contradicts the story.

probes = make_probes(stories)                    # Probe(kind, good, bad, story, context, distance, ...)
scores = score_probes(model, tokenizer, probes)  # log-likelihoods of good and bad after the context
accuracy(scores)                                 # {kind: {"accuracy", "low", "high", "pairs", ...}}
accuracy_by_distance(scores)                     # {kind: {"1-10": {"accuracy", ...}, "11-20": ...}}
"""

from .kinds import DISTANCE_RANGES, KINDS, KINDS_BY_DISTANCE, ProbeKind
from .probes import Probe, make_probes
from .scoring import ProbeScore, accuracy, accuracy_by_distance, score_probes


__all__ = [
    "DISTANCE_RANGES",
    "KINDS",
    "KINDS_BY_DISTANCE",
    "Probe",
    "ProbeKind",
    "ProbeScore",
    "accuracy",
    "accuracy_by_distance",
    "make_probes",
    "score_probes",
]
