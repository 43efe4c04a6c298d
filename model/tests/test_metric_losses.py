"""The losses of pairs against plain loops, by hand-worked cases, invariances and finite differences."""

import functools
import inspect
import math

import numpy as np
import pytest
import tensorflow as tf

from model import metric_losses, triplet_loss
from model.metric_losses import circle_loss, lifted_structured_loss, multi_similarity_loss, supervised_contrastive_loss
from model.strategies import STRATEGIES
from model.tests import oracles
from model.tests.test_triplet_loss import BATCHES, HOW, SLOW, some_anchors
from model.triplet_loss import DISTANCES

LOSSES = {
    "multi_similarity": multi_similarity_loss,
    "supervised_contrastive": supervised_contrastive_loss,
    "lifted_structured": lifted_structured_loss,
    "circle": circle_loss,
}
ORACLES = {name: getattr(oracles, name) for name in LOSSES}
SUMS = {name: getattr(metric_losses, f"{name}_sums") for name in LOSSES}
# The margin and the parameters of each loss, none of them the default.
MARGINS = {"multi_similarity": 0.3, "supervised_contrastive": None, "lifted_structured": 0.7, "circle": 0.25}
OWN = {
    "multi_similarity": {"scale_positive": 3.0, "scale_negative": 7.0, "similarity_threshold": 0.4},
    "supervised_contrastive": {"temperature": 0.5},
    "lifted_structured": {},
    "circle": {"scale": 4.0},
}
# Each loss with every distance that it takes.
EACH = [
    *((name, "cosine") for name in LOSSES),
    *(("lifted_structured", distance) for distance in DISTANCES if distance != "cosine"),
]
STATISTICS = (
    "mean_positive_dist", "mean_negative_dist", "hardest_positive_dist", "hardest_negative_dist",
    "anchors_without_positive", "anchors_without_negative",
)  # fmt: skip


def sums_of(name, labels, embeddings, distance="cosine", candidates=None):
    return SUMS[name](labels, embeddings, MARGINS[name], distance, None, candidates, **OWN[name])


def values(name, labels, embeddings, distance="cosine"):
    """Everything that a loss says of a batch, by name."""
    sums = sums_of(name, labels, embeddings, distance)
    return {key: triplet_loss.mean(*pair) for key, pair in sums.items()}


def loss_and_gradient(name, labels, embeddings, distance="cosine"):
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        loss = values(name, tf.constant(labels), variable, distance)["loss"]
    return float(loss), tf.convert_to_tensor(tape.gradient(loss, variable)).numpy()


@functools.cache
def everything(name, distance, how):
    """A function of labels and embeddings: all that the loss says of them, and its gradient."""

    def everything_of(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            seen = values(name, labels, embeddings, distance)
        return seen, tape.gradient(seen["loss"], embeddings)

    return HOW[how](everything_of)


def terms_among(name, labels, anchors, classes, candidates, places, distance, fixed=None):
    """The losses of the anchors that count, by plain loops; the weights of circle are those of anchors `fixed`."""
    for a, (label, anchor, place) in enumerate(zip(labels, anchors, places, strict=True)):
        weighed = fixed or (anchors, candidates)
        sides = []
        for one, others in ((anchor, candidates), (weighed[0][a], weighed[1])):
            d = [oracles.distance(one, other, distance) for other in others]
            sides.append(
                (
                    [d[c] for c, of in enumerate(classes) if of == label and c != place],
                    [d[c] for c, of in enumerate(classes) if of != label],
                )
            )
        more = {"fixed": sides[1]} if name == "circle" else {}
        term = ORACLES[name](*sides[0], MARGINS[name], **OWN[name], **more)
        if term is not None:
            yield term


def expected_loss(name, labels, embeddings, distance, fixed=None):
    everyone = (labels, embeddings, labels, embeddings, range(len(labels)))
    return oracles.average(
        terms_among(name, *everyone, distance, None if fixed is None else (fixed, fixed)),
    )


# ---------------------------------------------------------------------------------------- by hand

# Class A in the directions (1, 0) and (0.6, 0.8), class B in (0, 1), of any length: s(1, 2) = 0.6, s(1, 3) = 0 and
# s(2, 3) = 0.8. The single image of class B has no positive and never counts.
BY_HAND = tf.constant([0, 0, 1]), tf.constant([[2.0, 0.0], [3.0, 4.0], [0.0, 0.1]])


def test_simple_multi_similarity_loss():
    """Of anchor 1, no pair is mined: 0 < 0.6 - 0.1. Of anchor 2, both: 0.8 > 0.6 - 0.1 and 0.6 < 0.8 + 0.1."""
    of_second = math.log(1 + math.exp(-2 * (0.6 - 0.5))) / 2 + math.log(1 + math.exp(4 * (0.8 - 0.5))) / 4
    assert float(multi_similarity_loss(*BY_HAND, 0.1, 2.0, 4.0, 0.5)) == pytest.approx((0 + of_second) / 2, rel=1e-5)
    of_first = math.log(1 + math.exp(-2 * (0.6 - 0.5))) / 2 + math.log(1 + math.exp(4 * (0 - 0.5))) / 4
    found = float(multi_similarity_loss(*BY_HAND, 0.7, 2.0, 4.0, 0.5))  # with such a margin, all are
    assert found == pytest.approx((of_first + of_second) / 2, rel=1e-5)


def test_simple_supervised_contrastive_loss():
    of_first = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(0 / 0.5)))
    of_second = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(0.8 / 0.5)))
    assert float(supervised_contrastive_loss(*BY_HAND, 0.5)) == pytest.approx((of_first + of_second) / 2, rel=1e-5)


def test_two_images_of_each_class_make_it_nt_xent():
    """The cross-entropy of each image's similarities to all others, whose class is the other image of its own."""
    embeddings = np.random.default_rng(0).normal(size=(8, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = unit @ unit.T / 0.2
    np.fill_diagonal(logits, -np.inf)
    partner = np.arange(8) ^ 1
    expected = tf.keras.losses.sparse_categorical_crossentropy(partner, logits, from_logits=True)
    loss = supervised_contrastive_loss(np.arange(8) // 2, embeddings, 0.2)
    assert float(loss) == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-9)


def test_simple_lifted_structured_loss():
    """Points 0 and 1 of class A and 3 of class B on a line, margin 2.5: 1 + 2.5 - 3 and 1 + 2.5 - 2.

    With a second positive at 1, and a second negative at 3, each of two equal exponentials adds log 2.
    """
    labels, embeddings = tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]])
    assert float(lifted_structured_loss(labels, embeddings, 2.5)) == pytest.approx((0.5 + 1.5) / 2)
    labels, embeddings = tf.constant([0, 0, 0, 1, 1]), tf.constant([[0.0], [1.0], [1.0], [3.0], [3.0]])
    of_first, of_other = 1 + 2.5 - 3 + 2 * math.log(2), math.log(math.e + 1) + 2.5 - 2 + math.log(2)
    of_negative = math.log(2) + math.log(math.exp(-3) + 2 * math.exp(-2)) - 0  # its positive lies at 0
    expected = (of_first + 2 * of_other + 2 * max(0 + 2.5 + of_negative - math.log(2), 0)) / 5
    assert float(lifted_structured_loss(labels, embeddings, 2.5)) == pytest.approx(expected, rel=1e-6)
    assert float(lifted_structured_loss(labels, 9 * embeddings, 0.5)) == 0  # keeps the margin


def test_simple_circle_loss():
    """M = 0.25. Anchor 1: weights 1.25 - 0.6 and 0 + 0.25. Anchor 2: weights 1.25 - 0.6 and 0.8 + 0.25."""
    of_positive = -2 * 0.65 * (0.6 - 0.75)
    of_first, of_second = 2 * 0.25 * (0 - 0.25), 2 * 1.05 * (0.8 - 0.25)
    expected = (math.log(1 + math.exp(of_positive + of_first)) + math.log(1 + math.exp(of_positive + of_second))) / 2
    assert float(circle_loss(*BY_HAND, 0.25, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_the_defaults_are_those_of_the_strategies():
    for name, loss in LOSSES.items():
        parameters = inspect.signature(loss).parameters.values()
        defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
        expected = {key: value for key, value in STRATEGIES[name].defaults.items() if key in defaults}
        assert defaults == expected, name
        assert STRATEGIES[name].loss_parameters.keys() <= defaults.keys() and STRATEGIES[name].load() is SUMS[name]


# ---------------------------------------------------------------------------------------- against the oracles


@pytest.mark.parametrize(
    ("name", "distance", "how"),
    [
        *((*each, "eager") for each in EACH),
        *(pytest.param(*each, "tf.function, unknown B", marks=SLOW) for each in EACH[:4]),
    ],
)
def test_losses_and_statistics(name, distance, how):
    for key, (labels, embeddings) in BATCHES.items():
        if how == "eager":
            seen = values(name, tf.constant(labels), tf.constant(embeddings), distance)
        else:
            seen, _ = everything(name, distance, how)(tf.constant(labels, tf.float64), tf.constant(embeddings))
        expected = oracles.statistics(labels, embeddings, 0.5, distance)
        assert seen.keys() == {"loss", *STATISTICS}
        for statistic in STATISTICS:
            np.testing.assert_allclose(
                seen[statistic], expected[statistic], rtol=1e-9, atol=1e-9, err_msg=f"{key}: {statistic}"
            )
        loss = expected_loss(name, labels, embeddings, distance)
        np.testing.assert_allclose(seen["loss"], loss, rtol=1e-9, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_by_name_is_that_of_the_sums(name):
    labels, embeddings = BATCHES["random"]
    margin = {} if MARGINS[name] is None else {"margin": MARGINS[name]}
    loss = LOSSES[name](labels, embeddings, **margin, **OWN[name])
    distance = STRATEGIES[name].distance
    assert float(loss) == float(values(name, labels, embeddings, distance)["loss"])
    assert float(loss) != float(LOSSES[name](labels, embeddings))
    np.testing.assert_allclose(loss, expected_loss(name, labels, embeddings, distance), rtol=1e-9)


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_float32_and_half_precision(name, distance):
    labels, embeddings = BATCHES["random"]
    seen = values(name, labels, tf.constant(embeddings, tf.float32), distance)
    assert all(value.dtype == tf.float32 for value in seen.values())
    assert float(seen["loss"]) == pytest.approx(expected_loss(name, labels, embeddings, distance), rel=1e-5)
    for dtype in (tf.bfloat16, tf.float16):
        half = tf.constant(embeddings, dtype)
        seen = values(name, labels, half, distance)
        assert all(value.dtype == tf.float32 for value in seen.values())
        expected = expected_loss(name, labels, tf.cast(half, tf.float64).numpy(), distance)
        assert float(seen["loss"]) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_gradients_against_finite_differences(name, distance):
    """The weights of circle are fixed, as they have no gradient."""
    labels, embeddings = BATCHES["random"]
    _, gradient = loss_and_gradient(name, labels, embeddings, distance)
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=embeddings.shape)
        ahead, behind = (
            expected_loss(name, labels, embeddings + step * direction, distance, embeddings) for step in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(np.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_gradients_are_finite_at_duplicates_and_at_zero(name, distance):
    for embeddings in (np.ones((8, 4), np.float32), np.zeros((8, 4), np.float32)):
        loss, gradient = loss_and_gradient(name, [0, 0, 1, 1, 2, 2, 3, 3], embeddings, distance)
        assert loss > 0
        assert np.abs(gradient).max() < 1e-5  # nothing has a direction to go


@pytest.mark.parametrize("name", LOSSES)
def test_a_zero_vector_has_no_direction(name):
    embeddings = np.random.default_rng(0).normal(size=(6, 3))
    embeddings[2] = 0
    _, gradient = loss_and_gradient(name, [0, 0, 0, 1, 1, 1], embeddings)
    assert (gradient[2] == 0).all() and gradient.any()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_partners_has_loss_and_gradient_zero(name, labels):
    embeddings = np.random.default_rng(0).normal(size=(4, 3))
    loss, gradient = loss_and_gradient(name, labels, embeddings)
    if name == "supervised_contrastive" and labels[1] == 0:  # whose positives are compared with each other
        assert loss > math.log(3) - 1e-9 and gradient.any()
    else:
        assert loss == 0
        assert not gradient.any()


def test_nothing_is_learned_from_pairs_that_are_easy():
    """Two classes in opposite directions: no pair is mined, and the margin of the lifted structured loss is kept."""
    labels, embeddings = [0, 0, 1, 1], np.array([[1.0, 0.1], [1.0, 0.0], [-1.0, 0.1], [-1.0, 0.0]])
    for name, distance in (("multi_similarity", "cosine"), ("lifted_structured", "euclidean")):
        loss, gradient = loss_and_gradient(name, labels, embeddings, distance)
        assert loss == 0 and not gradient.any()


# ---------------------------------------------------------------------------------------- invariances and limits


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_invariances(name, distance):
    labels, embeddings = BATCHES["random"]
    expected, gradient = loss_and_gradient(name, labels, embeddings, distance)
    order = np.random.default_rng(2).permutation(len(labels))
    permuted = loss_and_gradient(name, labels[order] * 7 - 3, embeddings[order], distance)
    np.testing.assert_allclose(permuted[0], expected, rtol=1e-12)
    np.testing.assert_allclose(permuted[1], gradient[order], atol=1e-12)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))
    lengths = np.random.default_rng(4).uniform(0.1, 9, (20, 1))
    moved = embeddings @ rotation * lengths if distance == "cosine" else embeddings @ rotation + 3.0
    np.testing.assert_allclose(loss_and_gradient(name, labels, moved, distance)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_gives_a_loss_that_is_none(name, bad):
    for image in (0, 3, 5):
        embeddings = np.random.default_rng(0).normal(size=(6, 3))
        embeddings[image, 1] = bad
        assert np.isnan(loss_and_gradient(name, [0, 0, 0, 1, 1, 1], embeddings)[0])
    assert np.isnan(loss_and_gradient(name, [0], np.array([[bad, 1.0]]))[0])
    labels, anchors, classes, candidates, places = some_anchors()
    candidates[0, 0] = bad
    sums = sums_of(name, labels, anchors, candidates=triplet_loss.Candidates(classes, candidates, places))
    assert np.isnan(sums["loss"][0])


@pytest.mark.parametrize("how", ["eager", pytest.param("tf.function, unknown B", marks=SLOW)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_label_that_is_nan_is_never_a_number(name, how):
    function = everything(name, "cosine", how)
    labels, embeddings = np.array([0, 0, 1, 1, np.nan]), tf.constant(BATCHES["random"][1][:5])
    assert np.isnan(function(tf.constant(labels), embeddings)[0]["loss"])
    assert np.isfinite(function(tf.constant(np.nan_to_num(labels, nan=2.0)), embeddings)[0]["loss"])


# The sharpest that is in use and beyond, where e^x is far beyond what float32 holds.
SHARP = {
    "multi_similarity": {"margin": 2.0, "scale_positive": 500.0, "scale_negative": 500.0, "similarity_threshold": 0.0},
    "supervised_contrastive": {"temperature": 1e-3},
    "lifted_structured": {"margin": 1000.0},
    "circle": {"margin": 0.25, "scale": 256.0},
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_exponential_overflows(name):
    """Positives in opposite directions and negatives in the same one: the worst that there is, and a random batch."""
    worst = np.array([[1.0, 0.0], [-1.0, 1e-3], [1.0, 1e-3], [-1.0, 0.0]]) * (500 if name == "lifted_structured" else 1)
    for labels, embeddings in ((np.array([0, 0, 1, 1]), worst), BATCHES["random"]):
        found = []
        for dtype in (tf.float32, tf.float64):
            points = tf.Variable(embeddings, dtype=dtype)
            with tf.GradientTape() as tape:
                loss = LOSSES[name](labels, points, **SHARP[name])
            found.append((loss, tape.gradient(loss, points).numpy()))
        (loss, gradient), (exact, exact_gradient) = found
        assert float(exact) > 0 and (embeddings is not worst or name == "multi_similarity" or float(exact) > 88)
        assert float(loss) == pytest.approx(float(exact), rel=1e-5)
        assert np.linalg.norm(gradient - exact_gradient) < 2e-3 * np.linalg.norm(exact_gradient)


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_lengths(name, scale):
    labels, embeddings = BATCHES["random"]
    loss, gradient = loss_and_gradient(name, labels, (scale * embeddings).astype(np.float32))
    assert np.isfinite(gradient).all()
    assert loss == pytest.approx(expected_loss(name, labels, embeddings, "cosine"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_function_compiled_by_xla_gives_the_same(name):
    distance = STRATEGIES[name].distance
    compiled = everything(name, distance, "XLA, unknown B")
    labels, embeddings = (tf.constant(part[:18], tf.float64) for part in BATCHES["random"])
    expected, gradient = everything(name, distance, "eager")(labels, embeddings)
    seen, gradient_seen = compiled(labels, embeddings)
    np.testing.assert_allclose(gradient_seen, gradient, atol=1e-12)
    for key, value in seen.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, err_msg=key)
    assert np.isnan(compiled(tf.tensor_scatter_nd_update(labels, [[4]], [np.nan]), embeddings)[0]["loss"])


# ---------------------------------------------------------------------------------------- whatever comes


@pytest.mark.parametrize(
    ("name", "distance", "how"),
    [
        *((*each, "eager") for each in EACH),
        *(pytest.param(*each, "tf.function, unknown B", marks=SLOW) for each in EACH),
        *(pytest.param(*each, "XLA, unknown B", marks=pytest.mark.proof) for each in EACH),
    ],
)
def test_an_empty_batch_has_loss_and_gradient_zero(name, distance, how):
    nothing = tf.zeros(0, tf.float64), tf.zeros((0, 3), tf.float64)
    seen, gradient = everything(name, distance, how)(*nothing)
    assert gradient.shape == (0, 3)
    assert all(float(value) == 0 for value in seen.values()), seen


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "uint32", "float16", "float64"])
def test_labels_of_any_number_type(dtype):
    embeddings = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([0, 1, 0, 1])
    for name in LOSSES:
        expected = expected_loss(name, labels, embeddings, "cosine")
        np.testing.assert_allclose(values(name, labels.astype(dtype), embeddings)["loss"], expected)
        np.testing.assert_allclose(
            values(name, labels.astype(dtype).tolist(), embeddings.tolist())["loss"], expected, 1e-5
        )


@pytest.mark.parametrize("name", LOSSES)
def test_other_shapes_and_distances_are_refused(name):
    with pytest.raises(ValueError, match=r"Expected labels of shape \(B,\), .* Received: shape"):
        LOSSES[name](tf.zeros((4, 1)), tf.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"Expected embeddings of shape \(B, D\). Received: shape \(4, 2, 2\)"):
        LOSSES[name](tf.zeros(4), tf.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="Expected a label for each embedding"):
        LOSSES[name](tf.zeros(3), tf.zeros((4, 2)))
    if name == "lifted_structured":
        with pytest.raises(ValueError, match=r"Expected distance to be one of euclidean, .*\. Received: 'manhattan'"):
            lifted_structured_loss(tf.zeros(4), tf.zeros((4, 2)), distance="manhattan")
    else:
        with pytest.raises(ValueError, match=r'Expected distance "cosine", .*\. Received: \'euclidean\''):
            sums_of(name, tf.zeros(4), tf.zeros((4, 2)), "euclidean")


# ------------------------------------------------------------------------------ anchors that look at candidates


def sums_among(name, labels, anchors, classes, candidates, places, distance="cosine", share=1.0):
    """The sums, and the gradients of the total of the loss with respect to anchors and candidates."""
    anchors, candidates = tf.constant(anchors), tf.constant(candidates)
    with tf.GradientTape() as tape:
        tape.watch([anchors, candidates])
        among = triplet_loss.Candidates(tf.constant(classes), candidates, tf.constant(places), share)
        sums = sums_of(name, tf.constant(labels), anchors, distance, among)
        total = sums["loss"][0]
    return sums, [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(total, [anchors, candidates])]


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_anchors_among_candidates(name, distance):
    labels, anchors, classes, candidates, places = some_anchors(copies=False)
    sums, gradients = sums_among(name, labels, anchors, classes, candidates, places, distance)
    terms = list(terms_among(name, labels, anchors, classes, candidates, places, distance))
    np.testing.assert_allclose(sums["loss"], [sum(terms), len(terms)], rtol=1e-10)
    for which, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [anchors.copy(), candidates.copy()]
                moved[which][index] += step
                fixed = anchors, candidates
                ends.append(sum(terms_among(name, labels, moved[0], classes, moved[1], places, distance, fixed)))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize(("name", "distance"), EACH)
def test_the_sums_of_parts_of_the_anchors_are_those_of_all(name, distance):
    """Copies of an image, classes that only one part has, and a part in which no anchor has a positive."""
    labels = np.array([3, 0, 0, 0, 1, 1, 2, 0, 0, 1, 0, 2])
    embeddings = np.random.default_rng(2).normal(size=(12, 4))
    embeddings[7] = embeddings[1]
    variable = tf.Variable(embeddings)
    with tf.GradientTape() as tape:
        whole = sums_of(name, labels, variable, distance)
    expected = tf.convert_to_tensor(tape.gradient(whole["loss"][0], variable)).numpy()
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, 11), slice(11, 12), slice(12, 12)):
        places = np.arange(12, dtype=np.int32)[part]
        parts.append(
            sums_among(name, labels[part], embeddings[part], labels, embeddings, places, distance, len(places) / 12)
        )
        parts[-1][1][1][part] += parts[-1][1][0]  # an anchor is pulled where it is a candidate, too
    np.testing.assert_allclose(sum(gradients[1] for _, gradients in parts), expected, rtol=1e-9, atol=1e-12)
    for key, pair in whole.items():
        np.testing.assert_allclose(
            sum(np.array(sums[key]) for sums, _ in parts), pair, rtol=1e-12, atol=1e-12, err_msg=key
        )


@pytest.mark.parametrize("how", ["eager", "tf.function"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_in_blocks_is_a_batch(name, how, monkeypatch):
    """Of 20 anchors in blocks of 6, the last one smaller."""
    labels, embeddings = BATCHES["random"]

    def of_all(embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            whole = sums_of(name, labels, embeddings)
            loss = 3.0 * triplet_loss.mean(*whole["loss"])
        return whole, tape.gradient(loss, embeddings)

    at_once = of_all(tf.constant(embeddings))
    monkeypatch.setattr(triplet_loss, "PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(triplet_loss, "PAIRS_OF_A_BLOCK", 120)
    blocks = HOW[how](of_all)(tf.constant(embeddings))
    for one, other in zip(tf.nest.flatten(at_once), tf.nest.flatten(blocks), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-12)


def test_a_large_batch_is_exact():
    """512 images in 10 classes, in float32 and one matrix operation after the other, against float64."""
    rng = np.random.default_rng(0)
    labels, embeddings = rng.integers(0, 10, 512), rng.normal(size=(512, 64)).astype(np.float32)
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    s = unit @ unit.T
    same = labels[:, None] == labels
    other = ~np.eye(512, dtype=bool)
    exponentials = np.exp(s / 0.1)
    log_all = np.log(np.sum(exponentials * other, axis=1))
    expected = np.mean(log_all - np.sum(s / 0.1 * (same & other), axis=1) / np.sum(same & other, axis=1))
    assert float(supervised_contrastive_loss(labels, embeddings)) == pytest.approx(expected, rel=1e-6)
    of_positives = np.sum(np.exp(-80 * np.maximum(1.4 - s, 0) * (s - 0.6)) * (same & other), axis=1)
    of_negatives = np.sum(np.exp(80 * np.maximum(s + 0.4, 0) * (s - 0.4)) * ~same, axis=1)
    expected = np.mean(np.log1p(of_positives * of_negatives))
    assert float(circle_loss(labels, embeddings)) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------ losses with class vectors

WITH_VECTORS = {
    "proxy_anchor": (metric_losses.proxy_anchor_loss, {"margin": 0.2, "scale": 5.0}),
    "arcface": (metric_losses.arcface_loss, {"margin": 0.4, "scale": 6.0}),
}
DEFAULTS = {"proxy_anchor": {"margin": 0.1, "scale": 32.0}, "arcface": {"margin": 0.5, "scale": 64.0}}


def images_and_vectors(dtype=np.float64):
    """Of six classes, one without an image."""
    rng = np.random.default_rng(3)
    vectors, labels = rng.normal(size=(6, 4)), np.array([0, 0, 1, 2, 2, 2, 4, 5, 5])
    embeddings = rng.normal(size=(9, 4))
    embeddings[7] = -vectors[5] + 0.1 * embeddings[7]  # an angle beyond pi - margin
    return labels, embeddings.astype(dtype), vectors.astype(dtype)


def with_vectors(loss, labels, embeddings, vectors, **parameters):
    embeddings, vectors = tf.Variable(embeddings), tf.Variable(vectors)
    with tf.GradientTape() as tape:
        value = loss(labels, embeddings, vectors, **parameters)
    gradients = tape.gradient(value, [embeddings, vectors])
    return float(value), *(tf.convert_to_tensor(gradient).numpy() for gradient in gradients)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_losses_with_class_vectors(name):
    loss, parameters = WITH_VECTORS[name]
    oracle = getattr(oracles, name)
    labels, embeddings, vectors = images_and_vectors()
    value, *gradients = with_vectors(loss, labels, embeddings, vectors, **parameters)
    assert value == pytest.approx(oracle(labels, embeddings, vectors, **parameters), rel=1e-9)
    default = float(loss(labels, embeddings, vectors))
    assert default == pytest.approx(oracle(labels, embeddings, vectors, **DEFAULTS[name]), rel=1e-9)
    for which, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [embeddings.copy(), vectors.copy()]
                moved[which][index] += step
                ends.append(oracle(labels, *moved, **parameters))
            assert gradient[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
    value, *_ = with_vectors(loss, labels, *images_and_vectors(np.float32)[1:])
    assert value == pytest.approx(default, rel=1e-5)
    assert loss(labels, tf.cast(embeddings, tf.bfloat16), tf.cast(vectors, tf.bfloat16)).dtype == tf.float32


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_class_vectors_are_rows_in_any_order_and_of_any_length(name):
    loss, parameters = WITH_VECTORS[name]
    labels, embeddings, vectors = images_and_vectors()
    value, *_ = with_vectors(loss, labels, embeddings, vectors, **parameters)
    order = np.array([4, 2, 5, 0, 1, 3])
    lengths = np.random.default_rng(4).uniform(0.1, 9, (6, 1))
    moved = with_vectors(loss, np.argsort(order)[labels], 3 * embeddings, vectors[order] * lengths, **parameters)
    assert moved[0] == pytest.approx(value, rel=1e-9)
    rotation, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(4, 4)))
    rotated = with_vectors(loss, labels, embeddings @ rotation, vectors @ rotation, **parameters)
    assert rotated[0] == pytest.approx(value, rel=1e-9)
    shuffled = np.random.default_rng(5).permutation(9)
    assert with_vectors(loss, labels[shuffled], embeddings[shuffled], vectors, **parameters)[0] == pytest.approx(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_VECTORS)
def test_losses_with_class_vectors_compiled_by_xla(name):
    loss, parameters = WITH_VECTORS[name]
    labels, embeddings, vectors = images_and_vectors()
    expected = with_vectors(loss, labels, embeddings, vectors, **parameters)

    @tf.function(jit_compile=True)
    def compiled(embeddings, vectors):
        with tf.GradientTape() as tape:
            tape.watch([embeddings, vectors])
            value = loss(labels, embeddings, vectors, **parameters)
        return value, *tape.gradient(value, [embeddings, vectors])

    for found, exact in zip(compiled(tf.constant(embeddings), tf.constant(vectors)), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_images_on_their_class_vector_and_opposite_have_finite_gradients(name):
    loss, _ = WITH_VECTORS[name]
    vectors = np.eye(3, dtype=np.float32)
    embeddings = np.concatenate([2 * vectors, -vectors, np.zeros((1, 3), np.float32)])
    labels = np.array([0, 1, 2, 0, 1, 2, 0], np.uint8)
    value, *gradients = with_vectors(loss, labels, embeddings, vectors, scale=256.0)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0][6] == 0).all()


@pytest.mark.parametrize("how", ["eager", pytest.param("XLA", marks=SLOW)])
@pytest.mark.parametrize("name", WITH_VECTORS)
def test_no_images_and_what_is_no_number_and_no_row(name, how):
    loss, _ = WITH_VECTORS[name]
    loss = HOW[how](loss)
    labels, embeddings, vectors = images_and_vectors()
    expected = float(WITH_VECTORS[name][0](labels, embeddings, vectors))
    assert float(loss(tf.constant(labels), tf.constant(embeddings), tf.constant(vectors))) == pytest.approx(expected)
    value, *gradients = with_vectors(loss, tf.zeros(0, tf.int32), np.zeros((0, 4)), vectors)
    assert value == 0 and all((gradient == 0).all() for gradient in gradients)
    for row in (6, -1):
        assert math.isnan(loss(tf.constant([*labels[:-1], row]), tf.constant(embeddings), tf.constant(vectors)))
    for bad in (math.nan, math.inf):
        for which in (embeddings, vectors):
            before, which[1, 1] = which[1, 1], bad
            assert math.isnan(loss(tf.constant(labels), tf.constant(embeddings), tf.constant(vectors)))
            which[1, 1] = before
    with pytest.raises(ValueError, match=r"Expected embeddings of shape \(B, D\)"):
        loss(tf.constant(labels), tf.constant(embeddings), tf.constant(vectors[0]))


def test_more_classes_than_a_label_of_8_bits_can_name():
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    labels = np.array([3, 255], np.uint8)
    for loss, _ in WITH_VECTORS.values():
        embeddings = vectors[[3, 255]] + 0.1
        assert float(loss(labels, embeddings, vectors)) == float(loss(labels.astype(int), embeddings, vectors))


@pytest.mark.parametrize(("dtype", "label"), [(tf.float16, 2048), (tf.bfloat16, 256)])
def test_more_classes_than_a_label_of_16_bits_can_tell_apart(dtype, label):
    """Above these, not every whole number is one of the type: the next row would be rounded to the same."""
    vectors = np.random.default_rng(0).normal(size=(label + 3, 4))
    for loss, _ in WITH_VECTORS.values():
        images = [3, label], vectors[[3, label]] + 0.1, vectors
        assert float(loss(tf.cast(images[0], dtype), *images[1:])) == float(loss(*images))
