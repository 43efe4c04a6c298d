"""Losses that learn a vector for each class: the vectors are trained, kept, and taken up again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from model.common.errors import UserError
from model.data.input_fn import TrainInput
from model.params import Params
from model.strategies import STRATEGIES
from model.tests import oracles
from model.tests.experiments import final_tensors
from model.tests.training.test_estimator import linear_network
from model.training import class_vectors as module
from model.training.batch_loss import loss_with_class_vectors
from model.training.class_vectors import ClassVectors
from model.training.estimator import Estimator, RunConfig
from model.training.model_fn import ModeKeys, build_optimizer, model_fn

NAMES = [name for name, strategy in STRATEGIES.items() if strategy.learns_class_vectors]
ORACLES = {"proxy_anchor": oracles.proxy_anchor, "arcface": oracles.arcface}
SEED = tf.constant([0, 0], tf.int64)


def noise(labels, seed=0):
    """Random images of 4 x 4 pixels with these labels; a step takes six of them."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (len(labels), 4, 4, 1)).astype(np.uint8), np.array(labels, np.int32)
    order = [rng.permutation(len(labels))[:6].astype(np.int32) for _ in range(40)]
    return TrainInput(images, labels, lambda step: order[step], 6)


def estimator(model_dir, name, **changes):
    params = Params(**{"triplet_strategy": name, "batch_size": 6, "embedding_size": 5, **changes})
    run = Estimator(model_fn, model_dir, params, RunConfig(5, 1, 9))
    run.network_fn = linear_network
    return run


def test_vectors_belong_to_the_labels_that_there_are():
    vectors = ClassVectors(np.array([7, 3, 7, 900, 3]), 16, seed=1)
    assert vectors.labels.tolist() == [3, 7, 900] and vectors.variable.shape == (3, 16)
    assert vectors.rows_of(tf.constant([900, 3, 3, 7])).numpy().tolist() == [2, 0, 0, 1]
    assert vectors.rows_of(tf.constant([0, 5, 7, 901])).numpy().tolist() == [-1, -1, 1, -1]
    lengths = np.linalg.norm(ClassVectors(np.arange(500), 64, seed=1).variable, axis=1)
    assert 0.95 < lengths.mean() < 1.05


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_the_paper_and_its_gradient_a_difference(name):
    rng = np.random.default_rng(5)
    labels, embeddings = np.array([3, 9, 9, 4, 3, 4], np.int32), rng.normal(size=(6, 4))
    vectors = ClassVectors(np.array([3, 4, 8, 9]), 4, seed=0)
    vectors.variable.assign(rng.normal(size=(4, 4)))
    own = {"scale": 3.0}

    def expected(embeddings, matrix):
        return ORACLES[name](np.searchsorted([3, 4, 8, 9], labels), embeddings, matrix, 0.2, **own)

    points = tf.constant(embeddings, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(points)
        loss, sums = loss_with_class_vectors(STRATEGIES[name], tf.constant(labels), points, vectors, 0.2, SEED, own)
    gradients = tape.gradient(loss, [points, vectors.variable.value])
    inputs = [embeddings, vectors.variable.numpy().astype(np.float64)]
    assert float(loss) == pytest.approx(expected(*inputs), rel=1e-5)
    assert [float(part) for part in sums["loss"]] == pytest.approx([expected(*inputs), 1], rel=1e-5)
    for number, gradient in enumerate(gradients):
        for place in np.ndindex(*inputs[number].shape):
            moved = [[part.copy() for part in inputs] for _ in range(2)]
            moved[0][number][place] += 1e-5
            moved[1][number][place] -= 1e-5
            difference = (expected(*moved[0]) - expected(*moved[1])) / 2e-5
            assert float(gradient[place]) == pytest.approx(difference, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_of_a_class_without_a_vector_has_no_loss_that_could_be_believed(name):
    points, own = tf.ones((2, 4)), {"scale": 3.0}
    vectors = ClassVectors(np.array([3, 9]), 4, seed=0)
    batches = [tf.constant(labels) for labels in ([3, 9], [3, 4], [3, 10])]
    losses = [loss_with_class_vectors(STRATEGIES[name], batch, points, vectors, 0.2, SEED, own)[0] for batch in batches]
    assert np.isnan(losses).tolist() == [False, True, True]


@pytest.mark.parametrize("name", NAMES)
def test_beside_the_loss_one_sees_how_far_apart_images_are(name):
    rng = np.random.default_rng(2)
    labels, embeddings = np.array([0, 0, 1, 1, 1], np.int32), rng.normal(size=(5, 3)).astype(np.float32)
    vectors = ClassVectors(labels, 3, seed=0)
    _, sums = loss_with_class_vectors(
        STRATEGIES[name], tf.constant(labels), tf.constant(embeddings), vectors, 0.1, SEED, {"scale": 3.0}
    )
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances, same = 1 - unit @ unit.T, labels[:, None] == labels
    total, count = sums["mean_negative_dist"]
    assert float(total / count) == pytest.approx(distances[~same].mean(), rel=1e-5)
    total, count = sums["hardest_positive_dist"]
    assert float(total / count) == pytest.approx(np.where(same, distances, -1).max(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_no_training_batch_are_scored_among_each_other(name):
    """Their classes may be new, and have no vector."""
    rng = np.random.default_rng(3)
    params = Params(triplet_strategy=name, embedding_size=3)
    images, labels = tf.constant(rng.random((8, 1, 3, 1)), tf.float32), np.arange(8) % 3 + 100
    network = keras.Sequential([keras.Input((1, 3, 1)), keras.layers.Flatten()])
    spec = model_fn(images, tf.constant(labels, tf.int32), ModeKeys.EVAL, params, network)
    distances = cdist(*2 * [images.numpy().reshape(8, 3).astype(np.float64)], "cosine")
    of_anchors = []
    for anchor in range(8):
        others = [other for other in range(8) if other != anchor]
        positives = [distances[anchor, other] for other in others if labels[other] == labels[anchor]]
        negatives = [distances[anchor, other] for other in others if labels[other] != labels[anchor]]
        of_anchors.append(oracles.supervised_contrastive(positives, negatives, None, temperature=0.1))
    assert float(spec.loss) == pytest.approx(np.mean(of_anchors), rel=1e-4)


def test_the_vectors_have_a_learning_rate_of_their_own():
    params = Params(triplet_strategy="proxy_anchor", learning_rate=0.01, class_vector_learning_rate_factor=7)
    kernel = keras.Variable([1.0, 1.0], name="kernel")
    vectors = keras.Variable([1.0, 1.0], name=module.NAME_OF_VECTORS)
    optimizer = build_optimizer(params, 100)
    optimizer.build([kernel, vectors])
    optimizer.apply([tf.constant([0.3, -2.0])] * 2, [kernel, vectors])
    np.testing.assert_allclose(kernel, [0.99, 1.01], rtol=1e-5)
    np.testing.assert_allclose(vectors, [0.93, 1.07], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_they_are_learned_and_kept_and_a_run_goes_on_with_the_same_bits(name, tmp_path):
    data = noise([5, 5, 5, 2, 2, 2, 9, 9, 9, 9])
    whole = estimator(tmp_path / "whole", name, num_epochs=20)
    whole.train(lambda: data, 9)
    for steps in (1, 4, 9):
        estimator(tmp_path / "parts", name, num_epochs=20).train(lambda: data, steps)
    assert final_tensors(tmp_path / "parts") == final_tensors(tmp_path / "whole")
    tensors = whole.checkpoint("newest").tensors
    assert tensors["class_vectors/labels"].tolist() == [2, 5, 9]
    start = ClassVectors(data.labels, 5, seed=whole.params.seed).variable.numpy()
    assert tensors["class_vectors"].shape == (3, 5) and np.all(tensors["class_vectors"] != start)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_parts_moves_them_as_a_whole_one_does(name, tmp_path):
    data = noise([0, 1, 1, 2, 2, 2, 3, 3])
    for folder, size in (("whole", None), ("parts", 2)):
        estimator(tmp_path / folder, name, micro_batch_size=size).train(lambda: data, 1)
    whole, parts = (estimator(tmp_path / folder, name).checkpoint("newest").tensors for folder in ("whole", "parts"))
    # Of what Adam remembers after one step, the momentum is a tenth of the gradient.
    for key in [key for key in whole if "momentum" in key]:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-4, atol=1e-7, err_msg=key)
    assert any("class_vectors" in key and "momentum" in key for key in whole)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_classes(tmp_path):
    estimator(tmp_path, "arcface").train(lambda: noise([0, 0, 1, 1, 2, 2]), 1)
    with pytest.raises(UserError, match="holds vectors of other classes than those of the training images"):
        estimator(tmp_path, "arcface").train(lambda: noise([0, 0, 1, 1, 3, 3]), 2)
    assert estimator(tmp_path, "arcface").checkpoint("newest").step == 1


@pytest.mark.slow
def test_a_run_without_vectors_does_not_go_on_with_them(tmp_path):
    data = noise([0, 0, 1, 1, 2, 2])
    estimator(tmp_path, "batch_all").train(lambda: data, 1)
    said = 'holds no class vectors, as triplet_strategy was "batch_all", and "arcface" learns them; use a new folder'
    with pytest.raises(UserError, match=said):
        estimator(tmp_path, "arcface", margin=0.5).train(lambda: data, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_classes_that_are_told_apart_by_their_images_are_told_apart(name, tmp_path):
    """Bright in one of four corners: every image ends nearest to the vector of its class."""
    labels = np.arange(40) % 4
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (40, 4, 4, 1)).astype(np.uint8)
    for number, label in enumerate(labels):
        row, column = divmod(int(label), 2)
        images[number, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 150
    order = [rng.permutation(40)[:6].astype(np.int32) for _ in range(60)]
    data = TrainInput(images, labels.astype(np.int32), lambda step: order[step], 6)
    run = estimator(tmp_path, name, learning_rate=0.01, class_vector_learning_rate_factor=3)
    run.train(lambda: data, 60)
    tensors = run.checkpoint("newest").tensors
    kernel, bias = (
        next(value for key, value in tensors.items() if key.endswith(f"d/{part}")) for part in ("kernel", "bias")
    )
    vectors = tensors["class_vectors"] / np.linalg.norm(tensors["class_vectors"], axis=1, keepdims=True)
    similarities = (images.reshape(40, 16) / 255 @ kernel + bias) @ vectors.T
    assert np.array_equal(similarities.argmax(axis=1), labels)
