"""The bootstrap: samples that are uniform and always the same, and intervals as wide as theory has them."""

import itertools

import numpy as np
import pytest

from model.scoring import intervals
from model.tests import oracles


def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = intervals.bootstrap_interval(values, 0)
    error = values.std() / 400**0.5
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)
    assert (low, high) == intervals.bootstrap_interval(values, 0)
    assert (low, high) != intervals.bootstrap_interval(values, 1)
    assert intervals.bootstrap_interval(np.ones(5), 2**64 - 1) == (1, 1)
    assert np.isnan(intervals.bootstrap_interval(np.zeros(0), 0)).all()


def test_percentiles_by_hand():
    assert intervals.percentile_interval(list(range(201))) == (5, 195)  # 2.5 % of 200 steps are 5


def test_samples_of_the_bootstrap():
    """Images are drawn with replacement, each as likely as the others, and other ones each time."""
    counts = intervals.resample_counts(5, 40)
    assert counts.shape == (1000, 40)
    assert (counts.sum(axis=1, dtype=np.int64) == 40).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.15)
    assert counts.var() == pytest.approx(39 / 40, abs=0.05)
    assert all((a != b).any() for a, b in itertools.pairwise(counts))


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_a_seed_draws_the_same_samples_in_every_version(seed):
    counts = intervals.resample_counts(seed, 30)
    values = np.random.default_rng(1).normal(size=30)
    samples = [(oracles.drawn(seed, replicate, 6, 0, 30) % np.uint64(30)).tolist() for replicate in range(1000)]
    assert counts.tolist() == [[sample.count(image) for image in range(30)] for sample in samples]
    ends = np.percentile([np.mean([values[image] for image in sample]) for sample in samples], [2.5, 97.5])
    assert intervals.bootstrap_interval(values, seed) == pytest.approx(tuple(ends), abs=1e-12)
