"""The model_fn: what a batch is asked for in each mode, and the learning rate of each step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.params import Params
from model.strategies import STRATEGIES
from model.training.class_vectors import ClassVectors
from model.training.model_fn import ModeKeys, build_optimizer, model_fn
from model.training.network import build_network

pytestmark = pytest.mark.slow


def images(*shape):
    return tf.constant(np.random.default_rng(0).random(shape), tf.float32)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_model_fn(strategy):
    params = Params(triplet_strategy=strategy, use_batch_norm=True)
    network = build_network(params, (8, 8, 1))
    features, labels = images(6, 8, 8, 1), tf.constant([0, 0, 1, 1, 2, 2])
    learned = {}
    if params.strategy.learns_class_vectors:
        learned["class_vectors"] = ClassVectors(labels.numpy(), params.embedding_size, seed=0)
        with pytest.raises(ValueError, match="Expected a loss that learns class vectors, and these"):
            model_fn(features, labels, ModeKeys.TRAIN, params, network)
    train = model_fn(features, labels, ModeKeys.TRAIN, params, network, **learned)
    # A loss with class vectors shows of the images what the loss shows that scores them, and is scored by its defaults.
    counterpart = {"offline_semi_hard": "batch_semi_hard", "offline_hard": "batch_hard"}.get(strategy, strategy)
    margin, own = params.margin, params.strategy.loss_parameters
    if learned:
        counterpart, margin, own = "supervised_contrastive", None, {"temperature": 0.1}
    arguments = margin, params.distance, tf.constant([params.seed, 0], tf.int64)
    shown = STRATEGIES[counterpart] if learned else params.strategy
    said = shown.load()(labels, train.predictions["embeddings"], *arguments, **own)
    assert "loss" in said
    assert set(train.metrics) == {*said, "embedding_mean_norm"}
    np.testing.assert_array_equal(train.images["train_image"], features[:1])

    evaluation = model_fn(features, labels, ModeKeys.EVAL, params, network)
    embeddings = network(features, training=False).numpy()
    np.testing.assert_allclose(evaluation.predictions["embeddings"], embeddings)
    total, count = evaluation.metrics["embedding_mean_norm"]
    assert float(total / count) == pytest.approx(np.linalg.norm(embeddings, axis=1).mean(), rel=1e-5)
    assert not np.allclose(train.predictions["embeddings"], embeddings)  # batch statistics against moving averages

    expected = STRATEGIES[counterpart].load()(labels, embeddings, *arguments, **own)["loss"]
    assert float(evaluation.metrics["loss"][0]) == pytest.approx(float(expected[0]), rel=1e-4)

    predicted = model_fn(features, None, ModeKeys.PREDICT, params, network)
    np.testing.assert_allclose(predicted.predictions["embeddings"], embeddings)
    assert predicted.loss is None and not predicted.metrics


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("multi_similarity", {"scale_positive": 3.0, "scale_negative": 9.0, "similarity_threshold": 0.3}),
        ("supervised_contrastive", {"temperature": 0.7}),
        ("circle", {"scale": 16.0}),
    ],
)
def test_the_loss_has_the_parameters_of_its_own_that_params_say(strategy, changes):
    assert changes.keys() == STRATEGIES[strategy].loss_parameters.keys()
    network = build_network(Params(triplet_strategy=strategy), (8, 8, 1))
    features, labels = images(6, 8, 8, 1), tf.constant([0, 0, 1, 1, 2, 2])
    seen = set()
    for some in ({}, *({key: value} for key, value in changes.items()), changes):
        params = Params(triplet_strategy=strategy, margin=STRATEGIES[strategy].margin, **some)
        spec = model_fn(features, labels, ModeKeys.TRAIN, params, network)
        own = STRATEGIES[strategy].loss_parameters | some
        sums = params.strategy.load()(labels, spec.predictions["embeddings"], params.margin, "cosine", **own)
        assert float(spec.loss) == pytest.approx(float(sums["loss"][0] / sums["loss"][1]), rel=1e-6)
        seen.add(float(spec.loss))
    assert len(seen) == len(changes) + 1 + (len(changes) > 1)


@pytest.mark.parametrize("normalize", [True, False])
def test_an_image_and_its_mirror_image_are_embedded_as_their_mean(normalize):
    params = Params(test_time_augmentation="mirror", normalize_embeddings=normalize, use_batch_norm=True)
    network = build_network(params, (8, 6, 3))
    features, labels = images(6, 8, 6, 3), tf.constant([0, 0, 1, 1, 2, 2])
    mirrored = np.stack([[row[::-1] for row in image] for image in features.numpy()])
    expected = (network(features).numpy() + network(mirrored).numpy()) / 2
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for mode in (ModeKeys.EVAL, ModeKeys.PREDICT):
        for some in (features, tf.constant(mirrored)):
            spec = model_fn(some, labels, mode, params, network)
            np.testing.assert_allclose(spec.predictions["embeddings"], expected, rtol=1e-5, atol=1e-6)
    plain = Params(normalize_embeddings=normalize, use_batch_norm=True)
    trained = [model_fn(features, labels, ModeKeys.TRAIN, some, network) for some in (params, plain)]
    np.testing.assert_array_equal(*[spec.predictions["embeddings"] for spec in trained])


def test_an_image_and_those_shifted_are_embedded_as_their_mean():
    params = Params(test_time_augmentation="shifts", normalize_embeddings=True)
    network = build_network(params, (10, 6, 1))
    features = images(4, 10, 6, 1)
    wider = np.pad(features, [(0, 0), (1, 1), (1, 1), (0, 0)], "edge")  # a pixel, which is more than 4 % of 10
    shifted = [wider[:, y : y + 10, x : x + 6] for y in range(3) for x in range(3)]
    expected = np.mean([network(view).numpy() for view in shifted], axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = model_fn(features, None, ModeKeys.PREDICT, params, network).predictions["embeddings"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def learning_rates(params, steps):
    """The learning rate of each step, as the optimizer uses it."""
    optimizer = build_optimizer(params, steps)
    variable = keras.Variable(0.0)
    optimizer.build([variable])
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([tf.constant(1.0)])
    return np.array(rates)


def test_learning_rate_schedules():
    assert learning_rates(Params(learning_rate=0.5), 4).tolist() == [0.5] * 4
    cosine = Params(learning_rate=0.5, learning_rate_schedule="cosine")
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    np.testing.assert_allclose(learning_rates(cosine, 10), expected, rtol=1e-5)
    warm = Params(learning_rate=0.5, learning_rate_schedule="cosine", warmup_steps=5)
    after = 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    np.testing.assert_allclose(learning_rates(warm, 15), [*np.arange(5) / 10, *after], rtol=1e-5, atol=1e-7)
