"""Do the figures of a report rank models in the same order, and in that of a judge?"""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from .grades import CRITERIA


Reader = Callable[[dict], Any]
FEWEST_MODELS = 6  # with fewer, most rank correlations are far from 0 by chance
OWN = ("bits per byte", "minimal pairs", "coherence", "stories without faults")
# Rates of stories without a prompt, of which less is better
FAULTS = {
    "names introduced": "unintroduced_names",
    "things introduced": "unintroduced_objects",
    "no repeated sentence": "repeated_sentences",
}


def rank_correlations(report: dict) -> dict[str, dict[str, float | None]] | None:
    """Spearman's rank correlation, over the models of a report, of each figure with the headline figures and with the
    grades of a judge for the first preset, if it has graded enough models.

    Figures of which less is better are negated, so that 1 means the same order of the models.

    Returns:
        By figure and column; None where fewer than 6 models have both figures or all have the same value. None instead
        of a table if the report has fewer than 6 models.
    """
    models = report["models"]
    if len(models) < FEWEST_MODELS:
        return None
    preset = report["settings"]["presets"][0]
    readers = _own_figures(models)
    graded = sum(preset in (model.get("judge") or {}).get("presets", {}) for model in models)
    criteria = [f"judge: {name}" for name in CRITERIA] if graded >= FEWEST_MODELS else []
    for title, name in zip(criteria, CRITERIA, strict=False):
        readers[title] = _reader("judge", "presets", preset, name)
    table = pd.DataFrame({title: [_read(reader, model) for model in models] for title, reader in readers.items()})
    found = table.corr("spearman", min_periods=FEWEST_MODELS)
    figures = [row for row in table.columns if row not in criteria]
    return {row: {column: _known(found.loc[row, column]) for column in (*OWN, *criteria)} for row in figures}


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _own_figures(models: list[dict]) -> dict[str, Reader]:
    """Readers of the figures, the larger the better."""
    kinds = dict.fromkeys(kind for model in models for kind in model["coherence"])
    return {
        "bits per byte": _reader("bits_per_byte", "value", sign=-1),
        "minimal pairs": _reader("minimal_pair_accuracy"),
        "coherence": _reader("coherence_accuracy"),
        "stories without faults": _reader("unprompted", "faulty_stories", sign=-1),
        **{f"coherence: {kind}": _reader("coherence", kind, "accuracy") for kind in kinds},
        **{title: _reader("unprompted", key, sign=-1) for title, key in FAULTS.items()},
        "different first sentences": _reader("unprompted", "distinct_openings"),
    }


def _reader(*keys: str, sign: int = 1) -> Reader:
    """Reads the value under `keys` in the entry of a model."""

    def read(model: dict) -> Any:
        value: Any = model
        for key in keys:
            value = value[key]
        return sign * value

    return read


def _read(reader: Reader, model: dict) -> float:
    """The figure; NaN if the model does not have it."""
    try:
        return float(reader(model))
    except (KeyError, TypeError):
        return math.nan
