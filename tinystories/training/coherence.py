"""Coherence in each evaluation during training: accuracy on probes of names and of the order of sentences."""

from collections import Counter
from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.coherence import Probe, accuracy, make_probes, score_probes


KINDS = ("name", "order")
MOST_STORIES = 2_000  # to make probes of
MOST_PROBES, FEWEST_PROBES = 100, 20  # of a kind; with fewer, it is left out: an interval of 50 points says nothing


def training_probes(validation: Dataset) -> list[Probe]:
    """Probes of the column `text` of held-out stories, at most 100 of each kind, and of no kind with fewer than 20."""
    stories = validation["text"][:MOST_STORIES]
    probes = make_probes(stories, per_kind=MOST_PROBES, kinds=KINDS, warn=False, progress=False)
    counts = Counter(probe.kind for probe in probes)
    return [probe for probe in probes if counts[probe.kind] >= FEWEST_PROBES]


def probe_metrics(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe]
) -> dict[str, float]:
    """`eval_name_accuracy` and `eval_order_accuracy`, for the kinds of `probes`."""
    rates = accuracy(score_probes(model, tokenizer, probes, progress=False))
    return {f"eval_{kind}_accuracy": rate["accuracy"] for kind, rate in rates.items()}
