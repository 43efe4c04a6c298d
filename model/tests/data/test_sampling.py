"""Batches: every image once an epoch, P x K exact, and a pure function of the step."""

import numpy as np
import pytest

from model.common import draws
from model.common.draws import Stream
from model.data import sampling
from model.tests import oracles

LABELS = np.random.default_rng(0).integers(0, 7, 103)


def policies():
    return {
        "uniform": sampling.uniform_batches(LABELS, seed=230, batch_size=16),
        "class balanced": sampling.class_balanced_batches(
            LABELS, seed=230, num_classes_per_batch=3, num_images_per_class=4
        ),
        "anchors and positives": sampling.anchor_positive_batches(LABELS, seed=230, batch_size=12),
    }


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_permutation_holds_every_number_once(size):
    permutation = draws.permutation(3, Stream.EVALUATION_ORDER, 1, size=size)
    assert permutation.dtype == np.int32
    assert sorted(permutation) == list(range(size))


def test_permutations_of_different_streams_and_seeds_differ():
    drawn = {
        tuple(draws.permutation(seed, stream, number, part, size=50))
        for seed in (0, 1, 2**64 - 1)
        for stream in Stream
        for number in (0, 1, 2**64 - 1)
        for part in (0, 1, 2**64 - 1)
    }
    assert len(drawn) == 3 * len(Stream) * 3 * 3


def test_permutation_is_uniform():
    """Each of the 24 orders of 4 numbers comes as often as chance has it (chi-square below its 1 - 1e-4 quantile)."""
    drawn = [tuple(draws.permutation(9, Stream.TRAINING_ORDER, epoch, size=4)) for epoch in range(24_000)]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 1000.0) ** 2) / 1000 < 56.0


def test_permutation_never_drifts():
    """Philox4x64-10 is a published algorithm: this is its order, whatever NumPy will be installed."""
    keys = [_philox((1 + i // 4, 5, 3, 9), (230, 0))[i % 4] for i in range(10)]
    assert draws.draw(230, Stream.POSITIVES, 5, 9, size=10).tolist() == keys
    expected = sorted(range(10), key=lambda index: keys[index])
    assert list(draws.permutation(230, Stream.POSITIVES, 5, 9, size=10)) == expected


def _philox(counter, key):
    """Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011), in plain integers."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(right >> 64) ^ c[1] ^ k[0], right & mask, (left >> 64) ^ c[3] ^ k[1], left & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


@pytest.mark.parametrize("batch_size", [1, 16, 50, 103])
def test_uniform_batches_hold_every_image_once_an_epoch(batch_size):
    batch = sampling.uniform_batches(LABELS, seed=1, batch_size=batch_size)
    epochs = 5
    stream = np.concatenate([batch(step) for step in range(-(-103 * epochs // batch_size))])
    orders = [tuple(stream[epoch * 103 : (epoch + 1) * 103]) for epoch in range(epochs)]
    assert all(sorted(order) == list(range(103)) for order in orders)
    assert len(set(orders)) == epochs  # a new order each time


@pytest.mark.parametrize("policy", policies())
def test_the_same_batches_after_a_resume_at_every_step(policy):
    steps = 60
    uninterrupted = policies()[policy]
    expected = [uninterrupted(step) for step in range(steps)]
    for start in range(steps):
        resumed = policies()[policy]
        for step in (start, min(start + 1, steps - 1), steps - 1):
            np.testing.assert_array_equal(resumed(step), expected[step])


@pytest.mark.parametrize("policy", policies())
def test_batches_are_int32_of_one_size(policy):
    batch = policies()[policy]
    assert {(batch(step).dtype.name, len(batch(step))) for step in range(50)} == {
        ("int32", 16 if policy == "uniform" else 12)
    }


@pytest.mark.parametrize(("p", "k"), [(7, 2), (3, 4), (2, 8)])
def test_class_balanced_batches_are_exactly_p_x_k(p, k):
    batch = sampling.class_balanced_batches(LABELS, 5, p, k)
    for step in range(200):
        indices = batch(step)
        classes, counts = np.unique(LABELS[indices], return_counts=True)
        assert len(classes) == p and (counts == k).all()
        assert len(set(indices)) == p * k  # different images


def test_class_balanced_batches_visit_classes_and_images_evenly():
    batch = sampling.class_balanced_batches(LABELS, 5, 3, 4)
    rounds = 700
    indices = np.concatenate([batch(step) for step in range(2 * rounds)])  # 2 batches a round, one class sits out
    visits = np.bincount(LABELS[indices], minlength=7) / 4
    assert visits.sum() == 2 * rounds * 3
    assert np.abs(visits - rounds * 6 / 7).max() < 5 * np.sqrt(rounds * (6 / 7) * (1 / 7))
    for label in range(7):
        of_class = np.bincount(indices, minlength=len(LABELS))[np.flatnonzero(label == LABELS)]
        assert of_class.min() > 0.6 * of_class.mean() and of_class.max() < 1.4 * of_class.mean()


def test_a_class_with_too_few_images_repeats_them_evenly():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    batch = sampling.class_balanced_batches(labels, 0, 2, 5)
    for step in range(20):
        indices = batch(step)
        assert (np.bincount(labels[indices]) == 5).all()
        assert sorted(np.bincount(indices, minlength=8)) == [1] * 6 + [2] * 2


def test_every_image_is_an_anchor_once_an_epoch_with_each_positive_as_often():
    labels = np.array([5, 0, 5, 9, 5, 0, 5])  # 9 is alone
    batch = sampling.anchor_positive_batches(labels, seed=1, batch_size=4)
    epochs = 2000
    pairs = np.concatenate([batch(step) for step in range(6 * epochs // 4)])
    anchors, positives = pairs.T
    assert (labels[anchors] == labels[positives]).all() and (anchors != positives).all()
    np.testing.assert_array_equal(np.bincount(anchors), [epochs, epochs, epochs, 0, epochs, epochs, epochs])
    for anchor in (0, 2, 4, 6):
        counts = np.bincount(positives[anchors == anchor], minlength=7)[[i for i in (0, 2, 4, 6) if i != anchor]]
        assert np.sum((counts - epochs / 3) ** 2) / (epochs / 3) < 18.4  # chi-square, its 1 - 1e-4 quantile
    assert (positives[anchors == 1] == 5).all()


def test_a_stratified_sample_keeps_the_shares_of_the_classes():
    labels = np.repeat([4, 7, 2], [600, 300, 100])[np.random.default_rng(1).permutation(1000)]
    sample = draws.stratified_sample(labels, seed=3, count=100)
    assert len(set(sample)) == 100 and (np.diff(sample) > 0).all()
    counts = {label: np.count_nonzero(labels[sample] == label) for label in (4, 7, 2)}
    assert counts == {4: 60, 7: 30, 2: 10}
    assert list(sample) != list(draws.stratified_sample(labels, seed=4, count=100))
    np.testing.assert_array_equal(draws.stratified_sample(labels, 3, 5000), np.arange(1000))


def test_a_sample_of_very_many_classes_keeps_images_of_a_class_together():
    sizes = np.array([1, 3, 20] * 40)  # 960 images
    labels = np.repeat(np.arange(120) * 5, sizes)[np.random.default_rng(1).permutation(960)]
    sample = draws.sample_with_partners(labels, seed=3, count=200)
    assert 190 < len(set(sample)) == len(sample) <= 200 and (np.diff(sample) > 0).all()
    drawn, counts = np.unique(labels[sample], return_counts=True)
    np.testing.assert_array_equal(counts, np.minimum(sizes[drawn // 5], 8))
    assert 40 < len(drawn) < 60  # 4 images each
    others = draws.sample_with_partners(labels, seed=4, count=200)
    assert set(labels[others]) != set(drawn)
    for count in (960, 5000):
        np.testing.assert_array_equal(draws.sample_with_partners(labels, 3, count), np.arange(960))
    few = labels % 5 + labels // 300  # of which each class can have its share
    np.testing.assert_array_equal(draws.sample_with_partners(few, 3, 200), draws.stratified_sample(few, 3, 200))


# --- The draws of an experiment are part of what its seed means. Each is worked out here from NumPy's own Philox, with
# the counters as plain numbers: nobody renumbers a stream without noticing.


def order(seed, first, second, third, size):
    return np.argsort(oracles.drawn(seed, first, second, third, size), kind="stable").tolist()


def test_draws_of_uniform_batches():
    batch = sampling.uniform_batches(LABELS, seed=230, batch_size=16)
    epochs = [index for epoch in range(3) for index in order(230, epoch, 0, 0, 103)]
    assert [batch(step).tolist() for step in range(18)] == [epochs[16 * step : 16 * step + 16] for step in range(18)]


def test_draws_of_class_balanced_batches():
    """7 classes, 3 in a batch: 2 batches in a round. A class of n images is dealt again every n // 4 rounds."""
    batch = sampling.class_balanced_batches(LABELS, 230, 3, 4)
    images_of = [np.flatnonzero(label == LABELS) for label in range(7)]
    for step in range(40):
        round_, position = divmod(step, 2)
        expected = []
        for label in order(230, round_, 0, 0, 7)[3 * position : 3 * position + 3]:
            images = images_of[label]
            deal, hand = divmod(round_, len(images) // 4)
            expected += images[order(230, deal, 1, label, len(images))][4 * hand : 4 * hand + 4].tolist()
        assert batch(step).tolist() == expected


def test_draws_of_anchor_positive_batches():
    batch = sampling.anchor_positive_batches(LABELS, 2**64 - 1, 12)
    anchors = [index for epoch in range(2) for index in order(2**64 - 1, epoch, 0, 0, 103)]
    for step in range(17):
        expected = []
        numbers = oracles.drawn(2**64 - 1, step, 3, 0, 12).tolist()
        for anchor, number in zip(anchors[12 * step : 12 * step + 12], numbers, strict=True):
            images = np.flatnonzero(LABELS[anchor] == LABELS).tolist()
            place = images.index(anchor) + 1 + number % (len(images) - 1)
            expected.append([anchor, images[place % len(images)]])
        assert batch(step).tolist() == expected


def test_draws_of_a_stratified_sample():
    shuffled = order(7, 0, 4, 0, 103)
    in_a_row = [index for label in range(7) for index in shuffled if LABELS[index] == label]
    expected = sorted(in_a_row[place * 103 // 20] for place in range(20))
    assert draws.stratified_sample(LABELS, 7, 20).tolist() == expected
