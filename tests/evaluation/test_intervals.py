"""Bootstrap and Wilson intervals, against textbook values and exact coverage."""

import math

import numpy as np
import pytest

from tinystories.evaluation.intervals import Interval, flatten, jackknife_interval, ratio_interval, wilson_interval


def test_the_bootstrap_agrees_with_the_delta_method():
    generator = np.random.default_rng(0)
    above, below = generator.normal(10, 3, 400), generator.integers(5, 15, 400)
    interval = ratio_interval(above, below)
    ratio = above.sum() / below.sum()
    error = np.std(above - ratio * below) / below.mean() / np.sqrt(400)  # delta method
    assert interval.value == pytest.approx(ratio)
    assert interval.low == pytest.approx(ratio - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(ratio + 1.96 * error, abs=0.2 * error)
    assert ratio_interval(above, below) == interval != ratio_interval(above, below, seed=1)
    quarter = ratio_interval(above[:100], below[:100])
    assert 1.5 < (quarter.high - quarter.low) / (interval.high - interval.low) < 2.5
    assert interval.value != pytest.approx(np.mean(above / below)), "a mean of ratios would be another figure"


def test_the_bootstrap_of_few_stories():
    assert ratio_interval([3.0], [2.0]) == Interval(1.5, 1.5, 1.5)
    same = ratio_interval(np.full(50, 0.1), np.full(50, 0.3))
    assert same.low <= same.value <= same.high
    assert all(math.isnan(end) for end in ratio_interval([], []) + ratio_interval([0.0], [0]))
    sparse = ratio_interval([1, 0, 0], [1, 0, 0])
    assert sparse == Interval(1, 1, 1), "samples without an occasion say nothing"
    for mistake, message in (
        ({"confidence": 1}, "`confidence`"),
        ({"resamples": 0}, "`resamples`"),
        ({"denominators": [1, 2, 3]}, "equal length"),
    ):
        with pytest.raises(ValueError, match=message):
            ratio_interval(**{"numerators": [1, 2], "denominators": [1, 2], **mistake})


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    above, below = np.arange(1, 2001), np.full(2000, 3)
    interval = ratio_interval(above, below, resamples=1500)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * above.std() / 3 / np.sqrt(2000), rel=0.1)


def test_wilson_interval_has_its_coverage():
    """Coverage of the 95% interval by exact enumeration, where the usual normal interval fails."""
    for trials, share in ((10, 0.05), (20, 0.9), (50, 0.5), (200, 0.01)):
        hits = 0.0
        for successes in range(trials + 1):
            low, high = wilson_interval(successes, trials)[1:]
            chance = math.comb(trials, successes) * share**successes * (1 - share) ** (trials - successes)
            hits += chance * (low <= share <= high)
        assert 0.9 < hits < 0.995
    # Newcombe 1998, table I: 81 of 263, and none of 20.
    assert wilson_interval(81, 263) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0, 0, 0.1611), abs=1e-4)
    assert math.isnan(wilson_interval(0, 0).value)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)


def test_flatten():
    assert flatten({"a": Interval(1, 0, 2), "b": 3.0}) == {"a": 1, "a_low": 0, "a_high": 2, "b": 3.0}


def test_the_jackknife_interval_covers_the_number_of_distinct_values():
    rng = np.random.default_rng(0)
    expected = 1000 / 100 * (1 - (1 - 1 / 1000) ** 100)  # of 100 values from 1,000
    covered = 0
    for _ in range(300):
        drawn = rng.integers(1000, size=100)
        counts = np.bincount(drawn, minlength=1000)[drawn]
        distinct = len(set(drawn.tolist()))
        interval = jackknife_interval(distinct / 100, (distinct - (counts == 1)) / 99)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= expected <= interval.high
    assert covered > 0.9 * 300
    with pytest.raises(ValueError, match="two observations"):
        jackknife_interval(1.0, [1.0])
