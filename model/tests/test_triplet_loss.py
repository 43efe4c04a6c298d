"""The losses against plain loops, by hand-worked cases, invariances and finite differences."""

import functools
import itertools
import math
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from model import triplet_loss
from model.strategies import STRATEGIES
from model.tests import oracles
from model.triplet_loss import (
    DISTANCES,
    _get_anchor_negative_triplet_mask,
    _get_anchor_positive_triplet_mask,
    _get_triplet_mask,
    _pairwise_distances,
    batch_all_triplet_loss,
    batch_hard_triplet_loss,
    batch_random_semi_hard_triplet_loss,
    batch_semi_hard_triplet_loss,
    contrastive_loss,
    pairwise_distances,
)

# The strategies of this file: each says the same of the triplets of a batch, which another one need not.
ONLINE = ["batch_all", "batch_hard", "batch_semi_hard", "batch_random_semi_hard", "contrastive"]
OFFLINE = ["offline_semi_hard", "offline_hard"]
LOSSES = {name: STRATEGIES[name].load() for name in [*ONLINE, *OFFLINE]}
MARGIN = 0.5
SEED = np.array([230, 1])
SLOW = pytest.mark.slow

# One batch for each thing that can go wrong: (labels, embeddings)
_rng = np.random.default_rng(7)
BATCHES = {
    "random": (_rng.integers(0, 5, 20), _rng.normal(size=(20, 6))),
    "float labels": (_rng.integers(0, 3, 12).astype(np.float32), _rng.normal(size=(12, 3))),
    "uint8 labels": (_rng.integers(0, 3, 12).astype(np.uint8), _rng.normal(size=(12, 3))),
    "singletons": (np.array([0, 0, 1, 2, 3, 3]), _rng.normal(size=(6, 4))),
    "one class": (np.zeros(6, np.int32), _rng.normal(size=(6, 4))),
    "all classes distinct": (np.arange(6), _rng.normal(size=(6, 4))),
    "very unequal classes": (np.array([0] * 15 + [1]), _rng.normal(size=(16, 4))),
    "duplicates": (np.array([0, 0, 1, 1, 0, 1]), np.repeat(_rng.normal(size=(3, 4)), 2, axis=0)),
    "ties at the margin": (np.array([0, 0, 1, 1]), np.array([[0.0], [1.0], [1.5], [2.5]])),
    "one image": (np.array([0]), np.array([[1.0, 2.0]])),
    "two images": (np.array([0, 1]), np.array([[1.0, 2.0], [0.0, 0.0]])),
}
ORACLES = {
    "batch_all": oracles.batch_all,
    "batch_hard": oracles.batch_hard,
    "batch_semi_hard": oracles.batch_semi_hard,
    "contrastive": oracles.contrastive,
}


UNKNOWN = [tf.TensorSpec((None,), tf.float64), tf.TensorSpec((None, None), tf.float64)]
# How a function of labels and embeddings is called. A graph of unknown size serves every batch, so it is traced once.
HOW = {
    "eager": lambda function: function,
    "tf.function": tf.function,
    "tf.function, unknown B": functools.partial(tf.function, input_signature=UNKNOWN),
    "XLA": functools.partial(tf.function, jit_compile=True),
    "XLA, unknown B": functools.partial(tf.function, input_signature=UNKNOWN, jit_compile=True),
}
GRAPHS = [pytest.param(how, marks=SLOW) for how in ("tf.function", "tf.function, unknown B")]


@pytest.fixture(params=BATCHES)
def batch(request):
    return BATCHES[request.param]


def values(strategy, labels, embeddings, margin=MARGIN, distance="euclidean", seed=SEED):
    """Everything that a strategy says of a batch, by name."""
    sums = LOSSES[strategy](labels, embeddings, margin, distance, seed)
    return {name: triplet_loss.mean(*pair) for name, pair in sums.items()}


def loss_and_gradient(strategy, labels, embeddings, **options):
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        loss = values(strategy, tf.constant(labels), variable, **options)["loss"]
    return float(loss), tf.convert_to_tensor(tape.gradient(loss, variable)).numpy()


# Each strategy with one distance, and each distance with one strategy.
EITHER = [*((strategy, "euclidean") for strategy in ONLINE), *(("contrastive", name) for name in DISTANCES[1:])]


@functools.cache
def everything(strategy, distance, how):
    """A function of labels and embeddings: all that the strategy says of them, and the gradient of the loss."""

    def everything_of(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            seen = values(strategy, labels, embeddings, distance=distance)
        if "XLA" in how and strategy != "batch_all":  # statistics are the same for all, and take as long to compile
            seen = {"loss": seen["loss"]}
        return seen, tape.gradient(seen["loss"], embeddings)

    return HOW[how](everything_of)


def check_nothing(seen, gradient):
    """What has to come of an empty batch of three dimensions."""
    assert gradient.shape == (0, 3)
    assert all(float(value) == 0 for value in seen.values()), seen


@functools.cache
def statistics_of(name, distance):
    """What is plotted of one of the batches, by plain loops."""
    return oracles.statistics(*BATCHES[name], MARGIN, distance)


# ---------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("squared", [False, True])
def test_pairwise_distances(batch, squared):
    _, embeddings = batch
    expected = oracles.pairwise_distances(embeddings, "squared_euclidean" if squared else "euclidean")
    np.testing.assert_allclose(_pairwise_distances(tf.constant(embeddings), squared), expected, atol=1e-6)


def test_cosine_distances(batch):
    _, embeddings = batch
    expected = oracles.pairwise_distances(embeddings, "cosine")
    np.testing.assert_allclose(pairwise_distances(tf.constant(embeddings), "cosine"), expected, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_pairwise_distances_are_positive(distance):
    # Large norms and tiny differences are where ||a||^2 - 2 <a, b> + ||b||^2 falls below zero.
    embeddings = 1000 + 1e-4 * np.random.default_rng(0).normal(size=(50, 16))
    embeddings[25:] = embeddings[:25]
    gram = embeddings.astype(np.float32) @ embeddings.astype(np.float32).T
    assert (np.diag(gram)[:, None] - 2 * gram + np.diag(gram)[None, :]).min() < 0  # the danger is there
    distances = pairwise_distances(tf.constant(embeddings, tf.float32), distance).numpy()
    assert distances.min() >= 0
    assert (np.diag(distances) == 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shift", [0.0, 1e-7, 1e-4])
def test_gradients_pairwise_distances(distance, shift):
    """Finite at duplicates and near-duplicates, where the square root's own gradient is not."""
    embeddings = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    embeddings[3:] = embeddings[:3] + np.float32(shift)
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(pairwise_distances(variable, distance))
    gradient = tape.gradient(total, variable).numpy()
    assert np.isfinite(gradient).all()
    # The gradient of a sum of distances is a sum of unit vectors; each point has five others, seen from both ends.
    assert distance != "euclidean" or np.abs(gradient).max() <= 2 * 5 * 1.01


def test_distances_of_half_precision_are_computed_in_float32():
    embeddings = tf.constant(np.random.default_rng(0).normal(size=(8, 200)), tf.bfloat16)
    distances = _pairwise_distances(embeddings)
    assert distances.dtype == tf.float32
    expected = oracles.pairwise_distances(tf.cast(embeddings, tf.float64).numpy())
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_distance_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Expected distance to be one of euclidean, .*\. Received: 'manhattan'"):
        pairwise_distances(tf.zeros((2, 2)), "manhattan")


# ---------------------------------------------------------------------------------------- masks


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


# ---------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("how", "num_thresholds", "side"),
    [
        *itertools.product(["small"], [1, 7, 8], ["left", "right"]),
        *(
            pytest.param(how, *each, marks=SLOW)
            for how in ("large", "inside XLA")
            for each in [(1, "left"), (7, "right"), (8, "left")]
        ),
    ],
)
def test_ranks(how, num_thresholds, side, monkeypatch):
    """All three ways to find them agree with NumPy, at ties and at infinity too."""
    rng = np.random.default_rng(0)
    thresholds = np.sort(rng.integers(0, 6, (5, num_thresholds)).astype(np.float32), axis=1)
    thresholds[1, num_thresholds // 2 :] = np.inf
    values = rng.integers(-1, 8, (5, 9)).astype(np.float32)
    values[2, 3], values[1, :4] = np.inf, [0, 5, np.inf, -np.inf]
    if how == "large":
        monkeypatch.setattr(triplet_loss, "_WORTH_COMPILING", 1)
        monkeypatch.setattr(triplet_loss, "_SEARCHED_AT_ONCE", 2 * 9)  # two rows, two rows, one row
    function = tf.function(triplet_loss._ranks, jit_compile=how == "inside XLA")
    expected = [np.searchsorted(row, of_row, side) for row, of_row in zip(thresholds, values, strict=True)]
    np.testing.assert_array_equal(function(tf.constant(thresholds), tf.constant(values), side), expected)


# ---------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("squared", [False, True])
def test_simple_batch_all_triplet_loss(squared):
    """Worked by hand: points 0 and 1 of class A and 3 of class B on a line, margin 2.5.

    Anchor 0: 1 - 3 + 2.5 = 0.5; anchor 1: 1 - 2 + 2.5 = 1.5. Squared: 1 - 9 + 2.5 < 0 and 1 - 4 + 2.5 < 0.
    """
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    loss, fraction = batch_all_triplet_loss(labels, embeddings, 2.5, squared)
    assert (float(loss), float(fraction)) == ((0.0, 0.0) if squared else (1.0, 1.0))


def test_simple_batch_hard_triplet_loss():
    """The single image of class B has no positive and does not count."""
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    assert float(batch_hard_triplet_loss(labels, embeddings, 2.5)) == pytest.approx((0.5 + 1.5) / 2)
    soft = (np.log1p(np.exp(1 - 3)) + np.log1p(np.exp(1 - 2))) / 2
    assert float(batch_hard_triplet_loss(labels, embeddings, "soft")) == pytest.approx(soft)


def test_simple_semi_hard_triplet_loss():
    """Class A at 0 and 2, class B at 1, 3 and 6, margin 1.5; the pairs of class A, by hand.

    Anchor 0, positive at distance 2: of 1, 3, 6 the nearest farther one is 3: 2 - 3 + 1.5 = 0.5. Anchor 2: of 1, 1, 4
    it is 4: 2 - 4 + 1.5 < 0. Anchor 1: positives 2 (negatives 1, 1: none is farther, the farthest is 1: 2.5) and 5
    (5.5). Anchor 3: positives 2 (negatives 3, 1: 0.5) and 3 (3 is not farther than 3, so the farthest: 1.5). Anchor 6:
    positives 5 and 3 (negatives 6, 4: 5 - 6 + 1.5 = 0.5 and 3 - 4 + 1.5 = 0.5).
    """
    labels, embeddings = tf.constant([0, 0, 1, 1, 1]), tf.constant([[0.0], [2.0], [1.0], [3.0], [6.0]])
    expected = (0.5 + 0 + 2.5 + 5.5 + 0.5 + 1.5 + 0.5 + 0.5) / 8
    assert float(batch_semi_hard_triplet_loss(labels, embeddings, 1.5)) == pytest.approx(expected)
    # Semi-hard in the strict sense are the 3 for anchor 0, the 3 for anchor 3 and both for anchor 6.
    loss = batch_random_semi_hard_triplet_loss(labels, embeddings, 1.5, SEED)
    assert float(loss) == pytest.approx(0.5)


def test_simple_contrastive_loss():
    """Distance 1 in a class: 1 / 2; 3 and 2 between the classes, margin 2.5: 0 and 0.5^2 / 2."""
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    assert float(contrastive_loss(labels, embeddings, 2.5)) == pytest.approx((0.5 + 0 + 0.125) / 3)


# ---------------------------------------------------------------------------------------- against the oracles


def check_statistics(seen, expected, dtype):
    assert set(seen) == {"loss", *expected}
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        assert seen[name].dtype == dtype


@pytest.mark.parametrize(
    ("strategy", "distance", "how"),
    [
        *((*each, "eager") for each in itertools.product(ONLINE, DISTANCES)),
        *(pytest.param(*each, "tf.function, unknown B", marks=SLOW) for each in EITHER),
    ],
)
def test_losses_and_statistics(strategy, distance, how):
    for name, (labels, embeddings) in BATCHES.items():
        if how == "eager":
            seen = values(strategy, tf.constant(labels), tf.constant(embeddings), distance=distance)
        else:
            seen, _ = everything(strategy, distance, how)(tf.constant(labels, tf.float64), tf.constant(embeddings))
        check_statistics(seen, statistics_of(name, distance), tf.float64)
        if strategy in ORACLES:
            expected = ORACLES[strategy](labels, embeddings, MARGIN, distance)
            np.testing.assert_allclose(seen["loss"], expected, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "distance"), EITHER)
def test_losses_and_statistics_in_float32_and_of_a_known_size(strategy, distance):
    labels, embeddings = BATCHES["random"]
    seen = tf.function(values)(strategy, labels, tf.constant(embeddings, tf.float32), distance=distance)
    check_statistics(seen, statistics_of("random", distance), tf.float32)
    if strategy in ORACLES:
        np.testing.assert_allclose(
            seen["loss"], ORACLES[strategy](labels, embeddings, MARGIN, distance), rtol=2e-5, atol=1e-6
        )


@pytest.mark.parametrize("distance", DISTANCES)
def test_batch_all_triplet_loss(batch, distance):
    labels, embeddings = batch
    loss, fraction = batch_all_triplet_loss(tf.constant(labels), tf.constant(embeddings), MARGIN, distance=distance)
    np.testing.assert_allclose(loss, oracles.batch_all(labels, embeddings, MARGIN, distance), rtol=1e-6, atol=1e-12)
    expected = oracles.statistics(labels, embeddings, MARGIN, distance)["fraction_positive_triplets"]
    np.testing.assert_allclose(fraction, expected, rtol=1e-12)


@pytest.mark.parametrize("margin", [MARGIN, "soft"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_batch_hard_triplet_loss(batch, distance, margin):
    labels, embeddings = batch
    loss = batch_hard_triplet_loss(tf.constant(labels), tf.constant(embeddings), margin, distance=distance)
    np.testing.assert_allclose(loss, oracles.batch_hard(labels, embeddings, margin, distance), rtol=1e-6, atol=1e-7)


# Whole numbers: distances tie with each other and with the margin all the time, and exactly.
whole_batches = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(-1, 3), min_size=size, max_size=size),
        st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=size, max_size=size),
    )
)


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(whole_batches, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(DISTANCES[:2]))
def test_ties_and_label_patterns(whole, margin, distance):
    labels, embeddings = np.array(whole[0]), np.array(whole[1], float)
    expected = oracles.statistics(labels, embeddings, margin, distance)
    for strategy in ONLINE:
        seen = values(strategy, tf.constant(labels), tf.constant(embeddings, tf.float32), margin, distance)
        check_statistics(seen, expected, tf.float32)
        if strategy in ORACLES:
            loss = ORACLES[strategy](labels, embeddings, margin, distance)
            np.testing.assert_allclose(seen["loss"], loss, rtol=2e-5, atol=1e-6, err_msg=strategy)


@pytest.mark.slow
def test_random_semi_hard_negatives_are_semi_hard_and_drawn_evenly():
    """Each pair's loss is that of one of its semi-hard negatives, so the mean over many draws is known."""
    labels, embeddings = BATCHES["random"]
    pairs = oracles.semi_hard_losses(labels, embeddings, 1.0)
    assert len(pairs) > 10 and max(len(losses) for losses in pairs) > 3
    drawn = tf.function(batch_random_semi_hard_triplet_loss)
    losses = [
        float(drawn(tf.constant(labels), tf.constant(embeddings), 1.0, tf.constant([230, step]))) for step in range(400)
    ]
    assert np.mean([min(losses) for losses in pairs]) <= min(losses)
    assert max(losses) <= np.mean([max(losses) for losses in pairs])
    spread = np.sqrt(sum(np.var(losses) for losses in pairs)) / len(pairs)
    assert np.std(losses) == pytest.approx(spread, rel=0.2)
    assert np.mean(losses) == pytest.approx(np.mean([np.mean(losses) for losses in pairs]), abs=4 * spread / 20)
    again = drawn(tf.constant(labels), tf.constant(embeddings), 1.0, tf.constant([230, 7]))
    assert float(again) == losses[7]


# ---------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("strategy", "margin"), [("batch_hard", "soft"), *((name, MARGIN) for name in ORACLES)])
def test_gradients_against_finite_differences(strategy, distance, margin):
    labels, embeddings = BATCHES["random"]
    _, gradient = loss_and_gradient(strategy, labels, embeddings, distance=distance, margin=margin)
    direction = np.random.default_rng(1).normal(size=embeddings.shape)
    step = 1e-6
    ahead, behind = (
        ORACLES[strategy](labels, embeddings + sign * step * direction, margin, distance) for sign in (1, -1)
    )
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_gradient_of_random_semi_hard_is_that_of_its_loss(distance):
    labels, embeddings = BATCHES["random"]
    _, gradient = loss_and_gradient("batch_random_semi_hard", labels, embeddings, distance=distance)
    direction = np.random.default_rng(1).normal(size=embeddings.shape)
    ahead, behind = (
        loss_and_gradient("batch_random_semi_hard", labels, embeddings + sign * 1e-6 * direction, distance=distance)[0]
        for sign in (1, -1)
    )
    np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", ONLINE)
def test_gradients_are_finite_at_duplicates_and_at_zero(strategy, distance):
    for embeddings in (np.ones((8, 4), np.float32), np.zeros((8, 4), np.float32)):
        loss, gradient = loss_and_gradient(strategy, [0, 0, 1, 1, 2, 2, 3, 3], embeddings, distance=distance)
        assert np.isfinite(loss)
        assert np.abs(gradient).max() < 1e-3  # nothing has a direction to go


@pytest.mark.parametrize("strategy", ONLINE)
def test_a_zero_vector_has_no_direction(strategy):
    embeddings = np.random.default_rng(0).normal(size=(6, 3))
    embeddings[2] = 0
    _, gradient = loss_and_gradient(strategy, [0, 0, 0, 1, 1, 1], embeddings, distance="cosine")
    assert (gradient[2] == 0).all() and gradient.any()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("strategy", sorted(set(ONLINE) - {"contrastive"}))
def test_a_batch_without_triplets_has_loss_and_gradient_zero(strategy, labels):
    loss, gradient = loss_and_gradient(strategy, labels, np.random.default_rng(0).normal(size=(4, 3)))
    assert loss == 0
    assert not gradient.any()


# ---------------------------------------------------------------------------------------- invariances and limits


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", ORACLES)
def test_invariances(strategy, distance):
    labels, embeddings = BATCHES["random"]
    expected, gradient = loss_and_gradient(strategy, labels, embeddings, distance=distance)
    order = np.random.default_rng(2).permutation(len(labels))
    permuted = loss_and_gradient(strategy, labels[order] * 7 - 3, embeddings[order], distance=distance)
    np.testing.assert_allclose(permuted[0], expected, rtol=1e-12)
    np.testing.assert_allclose(permuted[1], gradient[order], atol=1e-12)
    moved = embeddings * 3.0 if distance == "cosine" else embeddings + 3.0
    np.testing.assert_allclose(loss_and_gradient(strategy, labels, moved, distance=distance)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", ONLINE)
def test_nan_in_nan_out(strategy, distance):
    for image in (0, 3, 5):
        embeddings = np.random.default_rng(0).normal(size=(6, 3))
        embeddings[image, 1] = np.nan
        assert np.isnan(loss_and_gradient(strategy, [0, 0, 0, 1, 1, 1], embeddings, distance=distance)[0])


@pytest.mark.parametrize("strategy", ONLINE)
def test_one_image_that_is_nan_or_infinite(strategy):
    for bad in (np.nan, np.inf):
        assert np.isnan(loss_and_gradient(strategy, [0], np.array([[bad, 1.0]]), distance="cosine")[0])


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", sorted(set(ONLINE) - {"contrastive"}))
def test_extreme_scales(strategy, distance, scale):
    labels, embeddings = BATCHES["random"]
    loss, gradient = loss_and_gradient(strategy, labels, (scale * embeddings).astype(np.float32), distance=distance)
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    if strategy in ORACLES and distance == "cosine":
        assert loss == pytest.approx(ORACLES[strategy](labels, embeddings, MARGIN, "cosine"), rel=1e-5)


def test_counts_beyond_what_float32_can_count():
    """1024 images of 2 classes that all coincide: 1024 x 511 x 512 triplets, 16 times 2^24, all of loss `margin`."""
    labels = tf.constant([0, 1] * 512)
    sums = LOSSES["batch_all"](labels, tf.zeros((1024, 2)), MARGIN, "euclidean", SEED)
    positive, valid = (int(part) for part in sums["fraction_positive_triplets"])
    assert positive == valid == 1024 * 511 * 512 > 2**24
    assert float(triplet_loss.mean(*sums["loss"])) == MARGIN


def test_a_large_batch_is_exact():
    """The value to 1e-6 of the float64 sum over all 84 million triplets of 1,024 images in 10 classes."""
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(0, 10, 1024), rng.normal(size=(1024, 64)).astype(np.float32)
    points = embeddings.astype(np.float64)
    square = np.sum(points**2, axis=1)
    d = np.sqrt(np.maximum(square[:, None] - 2 * points @ points.T + square, 0))
    total, active, valid = 0.0, 0, 0
    for a in range(1024):
        positives = d[a][(labels == labels[a]) & (np.arange(1024) != a)]
        losses = positives[:, None] - d[a][labels != labels[a]] + MARGIN
        total, active, valid = total + losses[losses > 0].sum(), active + (losses > 0).sum(), valid + losses.size
    loss, fraction = batch_all_triplet_loss(tf.constant(labels), tf.constant(embeddings), MARGIN)
    assert float(loss) == pytest.approx(total / active, rel=1e-6)
    assert float(fraction) == pytest.approx(active / valid, rel=1e-6)


# Compiling takes seconds for each shape, so what others cover for the most part is left to the proofs.
COMPILED = [
    *((strategy, "euclidean") for strategy in [*ORACLES, OFFLINE[0]]),
    pytest.param("batch_random_semi_hard", "euclidean", marks=pytest.mark.proof),
    *(pytest.param("contrastive", name, marks=pytest.mark.proof) for name in DISTANCES[1:]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "distance"), COMPILED)
def test_a_function_compiled_by_xla_gives_the_same(strategy, distance):
    compiled = everything(strategy, distance, "XLA, unknown B")
    labels, embeddings = (tf.constant(part[:18], tf.float64) for part in BATCHES["random"])
    expected, gradient = everything(strategy, distance, "eager")(labels, embeddings)
    seen, gradient_seen = compiled(labels, embeddings)
    if strategy == "batch_random_semi_hard":  # draws other negatives
        assert 0 < seen.pop("loss") < MARGIN
    else:
        np.testing.assert_allclose(gradient_seen, gradient, atol=1e-12)
    for name, value in seen.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
    if strategy in ONLINE:
        labels_with_nan = tf.tensor_scatter_nd_update(labels, [[4]], [np.nan])
        assert np.isnan(compiled(labels_with_nan, embeddings)[0]["loss"])


def test_second_derivatives():
    """The Hessian times a direction, against differences of the gradient."""
    labels, embeddings = BATCHES["random"]
    direction = np.random.default_rng(3).normal(size=embeddings.shape)
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = values("batch_all", labels, variable)["loss"]
        slope = tf.reduce_sum(inner.gradient(loss, variable) * direction)
    ahead, behind = (loss_and_gradient("batch_all", labels, embeddings + h * direction)[1] for h in (1e-6, -1e-6))
    np.testing.assert_allclose(outer.gradient(slope, variable), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float64"]
)
def test_labels_of_any_number_type(dtype):
    embeddings = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([0, 1, 0, 1]).astype(dtype)
    expected = oracles.batch_all(labels, embeddings, MARGIN)
    np.testing.assert_allclose(batch_all_triplet_loss(tf.constant(labels), embeddings, MARGIN)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", OFFLINE)
def test_triplets_in_a_graph_of_unknown_size(strategy):
    labels, embeddings = (tf.constant(part[:18], tf.float64) for part in BATCHES["random"])
    expected, gradient = everything(strategy, "euclidean", "eager")(labels, embeddings)
    seen, gradient_seen = everything(strategy, "euclidean", "tf.function, unknown B")(labels, embeddings)
    assert float(seen["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-9)
    np.testing.assert_allclose(gradient_seen, gradient, atol=1e-12)


def test_an_unknown_batch_size():
    function = tf.function(
        lambda labels, embeddings: values("batch_all", labels, embeddings)["loss"],
        input_signature=[tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, None), tf.float64)],
    )
    for name in ("random", "singletons", "one image"):
        labels, embeddings = BATCHES[name]
        np.testing.assert_allclose(function(labels, embeddings), oracles.batch_all(labels, embeddings, MARGIN))


@pytest.mark.parametrize("strategy", ONLINE)
@pytest.mark.parametrize("labels", [tf.zeros((4, 1)), tf.zeros((4, 3)), tf.zeros(())])
def test_labels_of_another_shape_are_refused(strategy, labels):
    with pytest.raises(ValueError, match=r"Expected labels of shape \(B,\), .* Received: shape"):
        values(strategy, labels, tf.zeros((4, 2)))


def test_embeddings_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected embeddings of shape \(B, D\). Received: shape \(4, 2, 2\)"):
        values("batch_all", tf.zeros(4), tf.zeros((4, 2, 2)))


def test_an_unknown_word_for_a_margin_is_refused():
    with pytest.raises(ValueError, match=r'Expected margin to be a number or "soft"\. Received: \'hard\''):
        values("batch_hard", tf.constant([0, 0, 1]), tf.zeros((3, 2)), "hard")


# ---------------------------------------------------------------------------------------- whatever comes

GIVEN = {"list": lambda array: array.tolist(), "array": lambda array: array, "tensor": tf.constant}


@pytest.mark.parametrize("embeddings_given", GIVEN)
@pytest.mark.parametrize("labels_given", GIVEN)
def test_tensors_arrays_and_lists_give_the_same(labels_given, embeddings_given):
    labels, embeddings = BATCHES["random"][0][:18], BATCHES["random"][1][:18].astype(np.float32)
    given = GIVEN[labels_given](labels)
    for strategy in LOSSES:
        seen = values(strategy, given, GIVEN[embeddings_given](embeddings))
        for name, expected in values(strategy, tf.constant(labels), tf.constant(embeddings)).items():
            assert float(seen[name]) == float(expected)
    for mask in (_get_anchor_positive_triplet_mask, _get_anchor_negative_triplet_mask, _get_triplet_mask):
        np.testing.assert_array_equal(mask(given), mask(tf.constant(labels)))


@pytest.mark.parametrize("given", GIVEN)
def test_functions_without_labels_take_tensors_arrays_and_lists(given):
    triplets = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    several = np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32)
    for distance in DISTANCES:
        seen = pairwise_distances(GIVEN[given](triplets[0]), distance)
        np.testing.assert_array_equal(seen, pairwise_distances(tf.constant(triplets[0]), distance))
        for parts in (triplets, [*triplets[:2], several]):
            seen = triplet_loss.triplet_loss(*(GIVEN[given](part) for part in parts), MARGIN, distance)
            assert float(seen) == float(triplet_loss.triplet_loss(*map(tf.constant, parts), MARGIN, distance))


def test_whole_numbers_are_embeddings_too():
    """By hand: 5 - 10 + 1 < 0 and 5 - 5 + 1 = 1."""
    assert float(batch_hard_triplet_loss([0, 0, 1], [[0, 0], [3, 4], [6, 8]], 1.0)) == (0 + 1) / 2


@pytest.mark.parametrize(
    ("strategy", "distance", "how"),
    [
        *((*each, "eager") for each in itertools.product([*ONLINE, OFFLINE[0]], DISTANCES)),
        *(pytest.param(*each, "tf.function, unknown B", marks=SLOW) for each in EITHER),
    ],
)
def test_an_empty_batch_has_loss_and_gradient_zero(strategy, distance, how):
    check_nothing(*everything(strategy, distance, how)(tf.zeros(0, tf.float64), tf.zeros((0, 3), tf.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [*ONLINE, OFFLINE[0]])
@pytest.mark.parametrize("how", ["tf.function", pytest.param("XLA", marks=pytest.mark.proof)])
def test_an_empty_batch_of_a_known_size(strategy, how):
    check_nothing(*everything(strategy, "euclidean", how)(tf.zeros(0), tf.zeros((0, 3))))


@pytest.mark.proof
@pytest.mark.parametrize("strategy", [*ONLINE, OFFLINE[0]])
def test_an_empty_batch_compiled_by_xla(strategy):
    nothing = tf.zeros(0, tf.float64), tf.zeros((0, 3), tf.float64)
    check_nothing(*everything(strategy, "euclidean", "XLA, unknown B")(*nothing))


def test_masks_and_distances_of_nothing():
    assert _get_triplet_mask([]).shape == (0, 0, 0)
    assert all(pairwise_distances(tf.zeros((0, 3)), distance).shape == (0, 0) for distance in DISTANCES)
    assert float(triplet_loss.triplet_loss(*[tf.zeros((0, 3))] * 3, MARGIN)) == 0


@pytest.mark.parametrize("how", ["eager", *GRAPHS, pytest.param("XLA", marks=SLOW)])
@pytest.mark.parametrize("strategy", [*ONLINE, OFFLINE[0]])
def test_another_number_of_labels_is_refused(strategy, how):
    error = tf.errors.InvalidArgumentError if "unknown" in how else ValueError
    for num_labels, num_images in [(1, 6), (3, 6), (6, 3)]:
        labels, embeddings = tf.zeros(num_labels, tf.float64), tf.ones((num_images, 2), tf.float64)
        with pytest.raises(error, match="Expected a label for each embedding"):
            everything(strategy, "euclidean", how)(labels, embeddings)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 6), (6, 1)])
def test_xla_refuses_another_number_of_labels_without_knowing_shapes(sizes):
    """Where the numbers of classes and of images would otherwise be broadcast."""
    labels, embeddings = tf.zeros(sizes[0], tf.float64), tf.ones((sizes[1], 2), tf.float64)
    expected = f"{sizes[0]} values, but the requested shape has {sizes[1]}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        everything("batch_all", "euclidean", "XLA, unknown B")(labels, embeddings)


@pytest.mark.parametrize("how", ["eager", pytest.param("tf.function, unknown B", marks=SLOW)])
@pytest.mark.parametrize("strategy", ONLINE)
def test_a_label_that_is_nan_is_never_a_number(strategy, how):
    function = everything(strategy, "euclidean", how)
    labels, embeddings = np.array([0, 0, 1, 1, np.nan]), tf.constant(BATCHES["random"][1][:5])
    assert np.isnan(function(tf.constant(labels), embeddings)[0]["loss"])
    assert np.isfinite(function(tf.constant(np.nan_to_num(labels, nan=2.0)), embeddings)[0]["loss"])


def compare_in_graphs_of_tensorflow_1():
    """Compares everything with the plain loops, where TensorFlow behaves as version 1 did."""
    labels, embeddings = BATCHES["random"]
    embeddings_fed = tf.compat.v1.placeholder(tf.float64, (None, None))
    labels_fed = tf.compat.v1.placeholder(tf.int64, (None,))
    feed = {labels_fed: labels, embeddings_fed: embeddings}
    assert (labels_fed == tf.identity(labels_fed)) is False  # two tensors are equal if they are the same object
    direction = np.random.default_rng(1).normal(size=embeddings.shape)
    masks = (_get_anchor_positive_triplet_mask, _get_anchor_negative_triplet_mask, _get_triplet_mask)
    expected_mask = np.zeros((len(labels),) * 3, bool)
    for triplet in oracles.triplets(labels):
        expected_mask[triplet] = True
    with tf.compat.v1.Session() as session:
        losses, slopes = {}, {}
        cases = [*((strategy, "euclidean") for strategy in ORACLES), *(("batch_all", name) for name in DISTANCES[1:])]
        for strategy, distance in cases:
            losses[strategy, distance] = values(strategy, labels_fed, embeddings_fed, distance=distance)["loss"]
            gradient = tf.gradients(losses[strategy, distance], embeddings_fed)[0]
            slopes[strategy, distance] = tf.reduce_sum(gradient * direction)
        seen, slopes = session.run((losses, slopes), feed)
        for (strategy, distance), loss in seen.items():
            at, ahead, behind = (
                ORACLES[strategy](labels, embeddings + step * direction, MARGIN, distance) for step in (0, 1e-6, -1e-6)
            )
            np.testing.assert_allclose(loss, at, rtol=1e-6)
            np.testing.assert_allclose(slopes[strategy, distance], (ahead - behind) / 2e-6, rtol=1e-5)
        pairs = oracles.semi_hard_losses(labels, embeddings, MARGIN)
        for given, points in ((labels_fed, embeddings_fed), (labels, embeddings)):
            drawn = session.run(values("batch_random_semi_hard", given, points)["loss"], feed)
            assert np.mean([min(losses) for losses in pairs]) <= drawn <= np.mean([max(losses) for losses in pairs])
        for strategy, points in (*((strategy, embeddings) for strategy in ORACLES), ("batch_all", embeddings_fed)):
            loss = session.run(values(strategy, labels, points)["loss"], feed)
            np.testing.assert_allclose(loss, ORACLES[strategy](labels, embeddings, MARGIN), rtol=1e-6)
        for given in (labels_fed, labels):
            positive, negative, triplet = session.run([mask(given) for mask in masks], feed)
            np.testing.assert_array_equal(positive, (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool))
            np.testing.assert_array_equal(negative, labels[:, None] != labels)
            np.testing.assert_array_equal(triplet, expected_mask)
        parts = np.random.default_rng(0).normal(size=(3, 9, 4))
        expected = np.mean(
            [
                oracles.hinge(oracles.distance(a, p, "cosine") - oracles.distance(a, n, "cosine"), MARGIN)
                for a, p, n in zip(*parts, strict=True)
            ]
        )
        fed = [tf.compat.v1.placeholder(tf.float64) for _ in parts]
        for given in (fed, parts):
            loss = triplet_loss.triplet_loss(*given, MARGIN, "cosine")
            np.testing.assert_allclose(session.run(loss, dict(zip(fed, parts, strict=True))), expected, rtol=1e-9)
        empty = {labels_fed: labels[:0], embeddings_fed: embeddings[:0]}
        assert session.run(values("batch_hard", labels_fed, embeddings_fed)["loss"], empty) == 0


@pytest.mark.slow
def test_graphs_of_tensorflow_1():
    """In a graph, which is not eager, without the behaviours of version 2 that tensors show."""
    v1 = tf.compat.v1
    try:
        v1.disable_tensor_equality(), v1.disable_v2_tensorshape(), v1.disable_control_flow_v2()
        with tf.Graph().as_default():
            compare_in_graphs_of_tensorflow_1()
    finally:
        v1.enable_tensor_equality(), v1.enable_v2_tensorshape(), v1.enable_control_flow_v2()


@pytest.mark.proof
def test_a_process_of_tensorflow_1():
    code = (
        "import tensorflow as tf; tf.compat.v1.disable_v2_behavior(); from model.tests import test_triplet_loss as t; "
        "t.compare_in_graphs_of_tensorflow_1(); print('the same')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.stdout == "the same\n", done.stderr


# ---------------------------------------------------------------------------------------- triplets chosen before


@pytest.mark.parametrize("margin", [MARGIN, "soft"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_triplet_loss(distance, margin):
    anchor, positive, negative = np.random.default_rng(0).normal(size=(3, 9, 4))
    expected = np.mean(
        [
            oracles.hinge(oracles.distance(a, p, distance) - oracles.distance(a, n, distance), margin)
            for a, p, n in zip(anchor, positive, negative, strict=True)
        ]
    )
    tensors = (tf.constant(x) for x in (anchor, positive, negative))
    np.testing.assert_allclose(triplet_loss.triplet_loss(*tensors, margin, distance), expected, rtol=1e-9)


@pytest.mark.parametrize("strategy", OFFLINE)
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_batch_of_triplets(strategy, distance):
    """Worked out from the distances of each triplet, and the same loss as that of the three tensors."""
    triplets = np.random.default_rng(0).normal(size=(99, 3, 4))
    seen = values(strategy, np.zeros(297, np.int32), triplets.reshape(297, 4), distance=distance)
    p, n = (np.array([oracles.distance(t[0], t[i], distance) for t in triplets]) for i in (1, 2))
    expected = {
        "loss": np.mean(np.maximum(p - n + MARGIN, 0)),
        "fraction_positive_triplets": np.mean(n < p + MARGIN),
        "fraction_hard_triplets": np.mean(n < p),
        "fraction_semi_hard_triplets": np.mean((p <= n) & (n < p + MARGIN)),
        "fraction_easy_triplets": np.mean(n >= p + MARGIN),
        "mean_positive_dist": np.mean(p),
        "mean_negative_dist": np.mean(n),
        "hardest_positive_dist": np.mean(p),
        "hardest_negative_dist": np.mean(n),
        "anchors_without_positive": 0,
        "anchors_without_negative": 0,
    }
    assert 0 < expected["fraction_semi_hard_triplets"] < expected["fraction_positive_triplets"] < 1
    assert seen.keys() == expected.keys() == values("batch_all", [0, 0, 1], triplets[0]).keys()
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-9, err_msg=name)
    anchor, positive, negative = (tf.constant(triplets[:, i]) for i in range(3))
    same = triplet_loss.triplet_loss(anchor, positive, negative, MARGIN, distance)
    np.testing.assert_allclose(seen["loss"], same, rtol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_triplet_loss_with_several_negatives(distance):
    rng = np.random.default_rng(0)
    anchor, positive, negatives = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), rng.normal(size=(9, 5, 4))
    negatives[0] = anchor[0]  # none is farther than the positive
    expected = []
    for a, p, several in zip(anchor, positive, negatives, strict=True):
        to_positive = oracles.distance(a, p, distance)
        to_negatives = [oracles.distance(a, n, distance) for n in several]
        farther = [d for d in to_negatives if d > to_positive]
        expected.append(max(to_positive - (min(farther) if farther else max(to_negatives)) + MARGIN, 0))
    tensors = (tf.constant(x) for x in (anchor, positive, negatives))
    np.testing.assert_allclose(triplet_loss.triplet_loss(*tensors, MARGIN, distance), np.mean(expected), rtol=1e-9)


def test_triplet_loss_has_the_right_sign():
    """A positive at the anchor and a negative far away cost nothing; the other way round they do."""
    zero, far = tf.zeros((1, 2)), tf.constant([[3.0, 4.0]])
    assert float(triplet_loss.triplet_loss(zero, zero, far, 0.5)) == 0
    assert float(triplet_loss.triplet_loss(zero, far, zero, 0.5)) == 5.5
    assert float(triplet_loss.triplet_loss(zero, far, zero[:, tf.newaxis], 0.5)) == 5.5


# ------------------------------------------------------------------------------------------- far from the origin


def around(offset, seed=3):
    """Labels and embeddings with a spread of 1 around an offset, in numbers that float32 holds even there."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 24)
    return labels, np.round(rng.normal(size=(24, 6)) * 2**10) / 2**10 + offset


@pytest.mark.parametrize("offset", [100, -1_000, 10_000])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
@pytest.mark.parametrize("strategy", ONLINE)
def test_a_common_offset_changes_nothing(strategy, distance, offset):
    labels, embeddings = around(0)
    expected, gradient = loss_and_gradient(strategy, labels, embeddings, distance=distance)  # float64
    if strategy in ORACLES:
        assert expected == pytest.approx(ORACLES[strategy](labels, embeddings, MARGIN, distance), rel=1e-9)
    _, far = around(np.array([offset, 0, offset, 1, -offset, 0]))
    assert np.array_equal(far.astype(np.float32), far)
    loss, found = loss_and_gradient(strategy, labels, far.astype(np.float32), distance=distance)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert np.linalg.norm(found - gradient) <= 1e-5 * np.linalg.norm(gradient)


def test_ties_of_whole_numbers_stay_ties_far_away():
    """Each distance is an exact tie of another: the oracle's choice, to the last bit."""
    labels = np.arange(16) % 4
    embeddings = np.random.default_rng(0).integers(-3, 4, (16, 3)) + np.array([5_000, -70, 0])
    expected = oracles.pairwise_distances(embeddings, "squared_euclidean")
    found = triplet_loss.pairwise_distances(embeddings.astype(np.float32), "squared_euclidean")
    np.testing.assert_array_equal(found, expected)
    loss = values("batch_hard", labels, embeddings.astype(np.float32), margin=1.0, distance="squared_euclidean")["loss"]
    assert float(loss) == np.float32(oracles.batch_hard(labels, embeddings, 1.0, "squared_euclidean"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_lies_around_the_origin_is_not_moved(dtype):
    _, embeddings = around(0)
    centered = (embeddings - embeddings.mean(axis=0)).astype(dtype)
    for here in (centered, centered + dtype(0.3), centered * dtype(1e-30), np.zeros((3, 2), dtype)):
        np.testing.assert_array_equal(triplet_loss._offset(tf.constant(here)), np.zeros(here.shape[1]))
    far = centered + dtype(1000)
    moved = far - triplet_loss._offset(tf.constant(far)).numpy()
    assert np.abs(moved).max() < 4 * np.abs(centered).max()


def test_two_groups_keep_the_digits_of_the_one_at_the_origin():
    """No vector suits both; the one at 0 had its distances right, and keeps them."""
    near = np.random.default_rng(0).normal(0, 0.01, (8, 4)).astype(np.float32)
    far = near + np.float32(100)
    found = triplet_loss.pairwise_distances(np.concatenate([near, far]))[:8, :8]
    np.testing.assert_allclose(found, oracles.pairwise_distances(near), rtol=1e-4)


@pytest.mark.parametrize("strategy", ONLINE)
@pytest.mark.parametrize(("offset", "spread"), [(12_345.678, 0.0), (12_345.0, 1e-36)])
def test_a_batch_that_has_collapsed_far_from_the_origin(strategy, offset, spread):
    embeddings = np.full((6, 4), offset, np.float32)
    embeddings[:, 0] = spread * np.arange(6)  # beside 0, so little is not rounded away
    loss, gradient = loss_and_gradient(strategy, np.array([0, 0, 1, 1, 2, 2]), embeddings)
    expected = {"contrastive": MARGIN**2 / 2 * 12 / 15, "batch_random_semi_hard": 0.0}.get(strategy, MARGIN)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert (gradient == 0).all()


# ------------------------------------------------------------------------------ anchors that look at candidates


def some_anchors(seed=0, offset=0.0, copies=True):
    """Unequal classes; two of the candidates are anchors, two anchors are none: what `sums_among` takes."""
    rng = np.random.default_rng(seed)
    classes, candidates = rng.choice(4, 14, p=[0.5, 0.3, 0.15, 0.05]), rng.normal(size=(14, 3)) + offset
    if copies:
        candidates[5] = candidates[3]
    places = np.array([3, -1, 11, -1], np.int32)
    anchors = np.where(places[:, None] < 0, rng.normal(size=(4, 3)) + offset, candidates[places])
    labels = np.where(places < 0, classes[[0, 7, 0, 1]], classes[places])
    return labels, anchors, classes, candidates, places


def sums_among(strategy, labels, anchors, classes, candidates, places, distance="euclidean", share=1.0):
    """The sums, and the gradients of the total of the loss with respect to anchors and candidates."""
    anchors, candidates = tf.constant(anchors), tf.constant(candidates)
    with tf.GradientTape() as tape:
        tape.watch([anchors, candidates])
        among = triplet_loss.Candidates(tf.constant(classes), candidates, tf.constant(places), share)
        sums = LOSSES[strategy](tf.constant(labels), anchors, MARGIN, distance, SEED, among)
        total = sums["loss"][0]
    return sums, [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(total, [anchors, candidates])]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", ORACLES)
def test_anchors_among_candidates(strategy, distance):
    labels, anchors, classes, candidates, places = some_anchors(copies=False)
    sums, gradients = sums_among(strategy, labels, anchors, classes, candidates, places, distance)

    def total(anchors, candidates):
        return sum(oracles.terms_among(strategy, labels, anchors, classes, candidates, places, MARGIN, distance))

    terms = list(oracles.terms_among(strategy, labels, anchors, classes, candidates, places, MARGIN, distance))
    count = len(terms) / 2 if strategy == "contrastive" else len(terms)
    np.testing.assert_allclose(sums["loss"], [sum(terms), count], rtol=1e-10)
    for which, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [anchors.copy(), candidates.copy()]
                moved[which][index] += step
                ends.append(total(*moved))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("strategy", ONLINE)
def test_the_sums_of_parts_of_the_anchors_are_those_of_all(strategy, distance):
    """Copies of an image, classes that only one part has, and a part in which no anchor has a positive."""
    labels = np.array([3, 0, 0, 0, 1, 1, 2, 0, 0, 1, 0, 2])
    embeddings = np.random.default_rng(2).normal(size=(12, 4))
    embeddings[7] = embeddings[1]
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        whole = LOSSES[strategy](labels, variable, MARGIN, distance, SEED)
    expected = tf.convert_to_tensor(tape.gradient(whole["loss"][0], variable)).numpy()
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 11), slice(11, 12), slice(12, 12)):
        places = np.arange(12, dtype=np.int32)[part]
        parts.append(
            sums_among(strategy, labels[part], embeddings[part], labels, embeddings, places, distance, len(places) / 12)
        )
        parts[-1][1][1][part] += parts[-1][1][0]  # an anchor is pulled where it is a candidate, too
    np.testing.assert_allclose(sum(gradients[1] for _, gradients in parts), expected, rtol=1e-9, atol=1e-12)
    for name, pair in whole.items():
        np.testing.assert_allclose(sum(np.array(sums[name]) for sums, _ in parts), pair, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("how", ["eager", "tf.function"])
@pytest.mark.parametrize("strategy", ONLINE)
def test_a_batch_in_blocks_is_a_batch(strategy, how, monkeypatch):
    """Of 20 anchors in blocks of 6, the last one smaller, and of some anchors among other candidates."""
    labels, embeddings = BATCHES["random"]
    among = triplet_loss.Candidates(tf.constant(labels), tf.constant(embeddings), tf.constant([7, 3, 19]), 0.25)

    def of_all(embeddings, anchors):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([embeddings, anchors])
            whole = LOSSES[strategy](labels, embeddings, MARGIN, "euclidean", SEED)
            some = among._replace(embeddings=embeddings)
            part = LOSSES[strategy](labels[[7, 3, 19]], anchors, MARGIN, "euclidean", SEED, some)
            loss = 3.0 * triplet_loss.mean(*whole["loss"])
        gradients = [tape.gradient(loss, embeddings), *tape.gradient(part["loss"][0], [embeddings, anchors])]
        return whole, part, [tf.convert_to_tensor(gradient) for gradient in gradients]

    arguments = tf.constant(embeddings), tf.constant(embeddings[[7, 3, 19]])
    at_once = of_all(*arguments)
    monkeypatch.setattr(triplet_loss, "PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(triplet_loss, "PAIRS_OF_A_BLOCK", 120)
    blocks = HOW[how](of_all)(*arguments)
    for one, other in zip(tf.nest.flatten(at_once), tf.nest.flatten(blocks), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_copy_of_an_anchor_among_the_candidates_does_not_pull(distance, offset):
    """Norms and products round in other ways, but equal images are at no distance: else its gradient would be noise."""
    rng = np.random.default_rng(0)
    candidates = (rng.normal(size=(40, 64)) + offset).astype(np.float32)
    to_all = triplet_loss.pairwise_distances(candidates[:20], distance, candidates)
    assert np.abs(np.diag(to_all)).max() <= (1e-6 if distance == "cosine" else 0)
    np.testing.assert_allclose(
        to_all, triplet_loss.pairwise_distances(candidates, distance)[:20], rtol=1e-3 if offset else 1e-5, atol=1e-6
    )


@pytest.mark.parametrize("strategy", ONLINE)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_candidate_that_is_no_number_gives_a_loss_that_is_none(strategy, value):
    labels, anchors, classes, candidates, places = some_anchors()
    candidates[0, 0] = value
    sums, _ = sums_among(strategy, labels, anchors, classes, candidates, places)
    assert math.isnan(float(sums["loss"][0]))
    assert np.isnan(triplet_loss.pairwise_distances(anchors, candidates=candidates)).all()


def test_random_negatives_depend_on_the_place_of_the_anchor_and_not_on_who_else_is_an_anchor():
    rng = np.random.default_rng(5)
    labels, embeddings = rng.integers(0, 2, 60), rng.normal(size=(60, 2)) / 9
    totals = []
    for part in (slice(0, 60), slice(20, 40), slice(40, 60)):
        places = np.arange(60, dtype=np.int32)[part]
        sums, _ = sums_among("batch_random_semi_hard", labels[part], embeddings[part], labels, embeddings, places)
        totals.append(float(sums["loss"][0]))
    first = labels[:20], embeddings[:20], labels, embeddings, np.arange(20, dtype=np.int32)
    assert sum(totals[1:]) + float(sums_among("batch_random_semi_hard", *first)[0]["loss"][0]) == pytest.approx(
        totals[0]
    )
    moved = *first[:4], np.arange(20, dtype=np.int32)[::-1].copy()  # other draws
    assert abs(float(sums_among("batch_random_semi_hard", *moved)[0]["loss"][0]) - totals[0] + sum(totals[1:])) > 1e-6
