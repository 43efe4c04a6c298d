"""The losses against plain loops, by hand-worked cases, invariances and finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from model import triplet_loss
from model.tests import oracles
from model.triplet_loss import (
    _get_anchor_negative_triplet_mask,
    _get_anchor_positive_triplet_mask,
    _get_triplet_mask,
    _pairwise_distances,
    batch_all_triplet_loss,
    batch_hard_triplet_loss,
)

MARGIN = 0.5

# One batch for each thing that can go wrong: (labels, embeddings)
_rng = np.random.default_rng(7)
BATCHES = {
    "random": (_rng.integers(0, 5, 20), _rng.normal(size=(20, 6))),
    "float labels": (_rng.integers(0, 3, 12).astype(np.float32), _rng.normal(size=(12, 3))),
    "singletons": (np.array([0, 0, 1, 2, 3, 3]), _rng.normal(size=(6, 4))),
    "one class": (np.zeros(6, np.int32), _rng.normal(size=(6, 4))),
    "all classes distinct": (np.arange(6), _rng.normal(size=(6, 4))),
    "very unequal classes": (np.array([0] * 15 + [1]), _rng.normal(size=(16, 4))),
    "duplicates": (np.array([0, 0, 1, 1, 0, 1]), np.repeat(_rng.normal(size=(3, 4)), 2, axis=0)),
    "ties at the margin": (np.array([0, 0, 1, 1]), np.array([[0.0], [1.0], [1.5], [2.5]])),
    "one image": (np.array([0]), np.array([[1.0, 2.0]])),
    "two images": (np.array([0, 1]), np.array([[1.0, 2.0], [0.0, 0.0]])),
}
LOSSES = {
    "batch_all": (lambda *args: batch_all_triplet_loss(*args)[0], lambda *args: oracles.batch_all(*args)[0]),
    "batch_hard": (batch_hard_triplet_loss, oracles.batch_hard),
}


@pytest.fixture(params=BATCHES)
def batch(request):
    return BATCHES[request.param]


@pytest.mark.parametrize("squared", [False, True])
def test_pairwise_distances(batch, squared):
    _, embeddings = batch
    expected = oracles.pairwise_distances(embeddings, squared)
    np.testing.assert_allclose(_pairwise_distances(tf.constant(embeddings), squared), expected, atol=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_pairwise_distances_are_positive(squared):
    # Large norms and tiny differences are where ||a||^2 - 2 <a, b> + ||b||^2 falls below zero.
    embeddings = 1000 + 1e-4 * np.random.default_rng(0).normal(size=(50, 16))
    embeddings[25:] = embeddings[:25]
    gram = embeddings.astype(np.float32) @ embeddings.astype(np.float32).T
    assert (np.diag(gram)[:, None] - 2 * gram + np.diag(gram)[None, :]).min() < 0  # the danger is there
    distances = _pairwise_distances(tf.constant(embeddings, tf.float32), squared).numpy()
    assert distances.min() >= 0
    assert (np.diag(distances) == 0).all()


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e-7, 1e-4])
def test_gradients_pairwise_distances(squared, shift):
    """Finite at duplicates and near-duplicates, where the square root's own gradient is not."""
    embeddings = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    embeddings[3:] = embeddings[:3] + np.float32(shift)
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(_pairwise_distances(variable, squared))
    gradient = tape.gradient(total, variable).numpy()
    assert np.isfinite(gradient).all()
    # The gradient of a sum of distances is a sum of unit vectors; each point has five others, seen from both ends.
    assert squared or np.abs(gradient).max() <= 2 * 5 * 1.01


def test_pairwise_distances_of_half_precision_are_computed_in_float32():
    embeddings = tf.constant(np.random.default_rng(0).normal(size=(8, 200)), tf.bfloat16)
    distances = _pairwise_distances(embeddings)
    assert distances.dtype == tf.float32
    expected = oracles.pairwise_distances(tf.cast(embeddings, tf.float64).numpy())
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-6)


def test_anchor_positive_triplet_mask(batch):
    labels, _ = batch
    size = len(labels)
    expected = [[a != p and labels[a] == labels[p] for p in range(size)] for a in range(size)]
    np.testing.assert_array_equal(_get_anchor_positive_triplet_mask(tf.constant(labels)), expected)


def test_anchor_negative_triplet_mask(batch):
    labels, _ = batch
    size = len(labels)
    expected = [[labels[a] != labels[n] for n in range(size)] for a in range(size)]
    np.testing.assert_array_equal(_get_anchor_negative_triplet_mask(tf.constant(labels)), expected)


def test_triplet_mask(batch):
    labels, _ = batch
    expected = np.zeros((len(labels),) * 3, bool)
    for triplet in oracles.triplets(labels):
        expected[triplet] = True
    np.testing.assert_array_equal(_get_triplet_mask(tf.constant(labels)), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_simple_batch_all_triplet_loss(squared):
    """Worked by hand: points 0 and 1 of class A and 3 of class B on a line, margin 2.5.

    Anchor 0: 1 - 3 + 2.5 = 0.5; anchor 1: 1 - 2 + 2.5 = 1.5. Squared: 1 - 9 + 2.5 < 0 and 1 - 4 + 2.5 < 0.
    """
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    loss, fraction = batch_all_triplet_loss(labels, embeddings, 2.5, squared)
    assert (float(loss), float(fraction)) == ((0.0, 0.0) if squared else (1.0, 1.0))


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("strategy", triplet_loss.STRATEGIES)
def test_a_batch_without_triplets_has_loss_and_gradient_zero(strategy, labels):
    embeddings = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)))
    with tf.GradientTape() as tape:
        sums = triplet_loss.STRATEGIES[strategy](tf.constant(labels), embeddings, MARGIN, False)
        loss = triplet_loss.mean(*sums["loss"])
    assert float(loss) == 0
    assert not tape.gradient(loss, embeddings).numpy().any()
    assert float(triplet_loss.mean(*sums["fraction_positive_triplets"])) == 0


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_all_triplet_loss(batch, squared, compiled, dtype):
    labels, embeddings = batch
    function = tf.function(batch_all_triplet_loss) if compiled else batch_all_triplet_loss
    loss, fraction = function(tf.constant(labels), tf.constant(embeddings, dtype), MARGIN, squared)
    expected_loss, expected_fraction = oracles.batch_all(labels, embeddings, MARGIN, squared)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fraction, expected_fraction, rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_hard_triplet_loss(batch, squared, compiled, dtype):
    labels, embeddings = batch
    function = tf.function(batch_hard_triplet_loss) if compiled else batch_hard_triplet_loss
    loss = function(tf.constant(labels), tf.constant(embeddings, dtype), MARGIN, squared)
    np.testing.assert_allclose(loss, oracles.batch_hard(labels, embeddings, MARGIN, squared), rtol=1e-5, atol=1e-6)


def test_batch_hard_leaves_out_anchors_without_a_triplet():
    """By hand: class A at 0 and 1, a single image of class B at 3; only the two of class A are anchors."""
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    assert float(batch_hard_triplet_loss(labels, embeddings, 2.5)) == pytest.approx((0.5 + 1.5) / 2)


def test_hardest_distances_are_means_over_the_anchors_that_have_one():
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    for strategy in triplet_loss.STRATEGIES.values():
        sums = strategy(labels, embeddings, MARGIN, False)
        assert [float(part) for part in sums["hardest_positive_dist"]] == [1.0 + 1.0, 2.0]
        assert [float(part) for part in sums["hardest_negative_dist"]] == [3.0 + 2.0 + 2.0, 3.0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("squared", [False, True])
def test_gradients_against_finite_differences(loss, squared):
    function, oracle = LOSSES[loss]
    labels, embeddings = BATCHES["random"]
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        value = function(tf.constant(labels), variable, MARGIN, squared)
    gradient = tape.gradient(value, variable).numpy()
    direction = np.random.default_rng(1).normal(size=embeddings.shape)
    step = 1e-6
    ahead = oracle(labels, embeddings + step * direction, MARGIN, squared)
    behind = oracle(labels, embeddings - step * direction, MARGIN, squared)
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_duplicates(loss):
    function, _ = LOSSES[loss]
    variable = tf.Variable(np.ones((8, 4), np.float32))
    with tf.GradientTape() as tape:
        value = function(tf.constant([0, 0, 1, 1, 2, 2, 3, 3]), variable, MARGIN)
    assert float(value) == pytest.approx(MARGIN)  # every distance is 0: the loss is stuck at the margin
    assert np.isfinite(tape.gradient(value, variable)).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("squared", [False, True])
def test_invariances(loss, squared):
    function, _ = LOSSES[loss]
    labels, embeddings = BATCHES["random"]
    expected = function(tf.constant(labels), tf.constant(embeddings), MARGIN, squared)
    order = np.random.default_rng(2).permutation(len(labels))
    permuted = function(tf.constant(labels[order]), tf.constant(embeddings[order]), MARGIN, squared)
    translated = function(tf.constant(labels), tf.constant(embeddings + 3.0), MARGIN, squared)
    np.testing.assert_allclose([permuted, translated], [expected, expected], rtol=1e-9)


@pytest.mark.parametrize("strategy", triplet_loss.STRATEGIES)
def test_nan_in_nan_out(strategy):
    embeddings = np.random.default_rng(0).normal(size=(6, 3))
    embeddings[2, 1] = np.nan
    sums = triplet_loss.STRATEGIES[strategy](tf.constant([0, 0, 0, 1, 1, 1]), tf.constant(embeddings), MARGIN, False)
    assert np.isnan(float(triplet_loss.mean(*sums["loss"])))


def test_counts_beyond_what_float32_can_count():
    """408 images of 2 classes that all coincide: 408 x 203 x 204 triplets, more than 2^24, all of loss `margin`."""
    labels = tf.constant([0, 1] * 204)
    sums = triplet_loss.STRATEGIES["batch_all"](labels, tf.zeros((408, 2)), MARGIN, False)
    positive, valid = (int(part) for part in sums["fraction_positive_triplets"])
    assert positive == valid == 408 * 203 * 204 > 2**24
