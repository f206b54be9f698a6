"""Figures with their confidence intervals."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float


NOT_MEASURED = Interval(math.nan, math.nan, math.nan)


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Sum of `numerators` over sum of `denominators`, both `[stories]`, with a percentile bootstrap over stories.

    Stories are resampled, not words, because words of one story depend on each other (B. Efron and R. Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). A single story, or an event that never occurs, gives an interval
    of zero width. All three values are NaN if the denominators sum to 0.

    Raises:
        ValueError: for vectors of different lengths, or an invalid `confidence` or `resamples`.
    """
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"`resamples` ({resamples}) must be at least 1.")
    numerators, denominators = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if numerators.ndim != 1 or numerators.shape != denominators.shape:
        raise ValueError(f"Two vectors of equal length are needed, not {numerators.shape} and {denominators.shape}.")
    if not denominators.sum():
        return NOT_MEASURED
    value = numerators.sum() / denominators.sum()
    generator = np.random.default_rng(seed)
    stories = len(numerators)
    at_once = max(1, 2_000_000 // stories)  # 16 MB of indices
    ratios = []
    for first in range(0, resamples, at_once):
        drawn = generator.integers(stories, size=(min(at_once, resamples - first), stories))
        above, below = numerators[drawn].sum(1), denominators[drawn].sum(1)
        ratios.append(above[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    # Where all stories have the same ratio, rounding alone could leave the value outside.
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def bits_per_byte_interval(nats: ArrayLike, byte_counts: ArrayLike, **options) -> Interval:
    """Bits per byte of stories `[stories]`: total loss in nats / ln 2 / UTF-8 bytes.

    Unlike nats per token, it compares models with different tokenizers. `options` are those of [`ratio_interval`].
    """
    return ratio_interval(np.asarray(nats, dtype=np.float64) / math.log(2), byte_counts, **options)


def wilson_interval(successes: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Fraction of `successes` with Wilson's score interval (1927, doi.org/10.1080/01621459.1927.10502953).

    Its coverage holds for few trials, and for fractions of 0 and 1. A tie may count as half a success.

    Raises:
        ValueError: if there are more successes than trials, or for an invalid `confidence`.
    """
    _check_confidence(confidence)
    if not 0 <= successes <= trials:
        raise ValueError(f"There cannot be {successes} successes in {trials} trials.")
    if not trials:
        return NOT_MEASURED
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    margin = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return Interval(rate, min(rate, max(0.0, centre - margin)), max(rate, min(1.0, centre + margin)))


def jackknife_interval(value: float, without_each: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """A fraction with a normal interval whose variance is the jackknife's (Efron and Tibshirani 1993, chapter 11).

    For figures such as the number of distinct values, which a bootstrap underestimates because it draws values twice.

    Args:
        without_each: the figure without each of the observations, `[observations]`, at least two.
    """
    _check_confidence(confidence)
    left_out = np.asarray(without_each, dtype=np.float64)
    count = len(left_out)
    if count < 2:
        raise ValueError(f"At least two observations are needed, not {count}.")
    variance = (count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum())
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return Interval(value, max(0.0, value - margin), min(1.0, value + margin))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` ({confidence}) must lie between 0 and 1.")


def flatten(statistics: Mapping[str, Interval | float]) -> dict[str, float]:
    """Plain numbers for loggers and `evaluate`: an `Interval` x becomes x, x_low and x_high."""
    flat: dict[str, float] = {}
    for name, value in statistics.items():
        if isinstance(value, Interval):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = value
    return flat
