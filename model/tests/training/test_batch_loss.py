"""The loss of a batch that lies on several devices, and of one that has a memory of those before it."""

import dataclasses
import itertools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import triplet_loss
from model.params import Params
from model.strategies import STRATEGIES
from model.tests import oracles
from model.tests.training.learners import embed, images, linear_learner
from model.tests.training.test_estimator import estimator, final_tensors, linear_network, train_input
from model.training.batch_loss import Memory, loss_of_batch
from model.training.class_vectors import ClassVectors
from model.training.estimator import RunConfig
from model.training.feeding import fetch_memory, replicate, send_memory, windows
from model.training.learner import Learner
from model.training.model_fn import model_fn
from model.training.network import build_network
from model.training.steps import compile_train_step

pytestmark = pytest.mark.slow

ONE_DEVICE = tf.distribute.get_strategy()
NUM_IMAGES = 60
_rng = np.random.default_rng(3)
IMAGES = _rng.integers(0, 256, (NUM_IMAGES, 9, 9, 1)).astype(np.uint8)
LABELS = _rng.choice(4, NUM_IMAGES, p=[0.5, 0.3, 0.15, 0.05]).astype(np.int32)


def indices_of(step, params):
    """A batch of random images; of triplets, an anchor, its positive and its negative follow each other."""
    rng = np.random.default_rng(step)
    if not params.strategy.mines:
        return rng.permutation(NUM_IMAGES)[: params.batch_size].astype(np.int32)
    triplets = []
    for anchor in rng.choice(NUM_IMAGES, params.batch_size):
        is_same = LABELS[anchor] == LABELS
        is_same[anchor] = LABELS[anchor] == 3  # the one class that may have no other image
        triplets += [anchor, rng.choice(np.flatnonzero(is_same)), rng.choice(np.flatnonzero(LABELS[anchor] != LABELS))]
    return np.array(triplets, np.int32)


def after_steps(strategy, params, steps=1):
    """What gradient descent with a rate of 1 has changed, the averages of the layers, the last result, the memory."""
    with strategy.scope():
        learner = Learner(params, build_network(params, IMAGES.shape[1:]), keras.optimizers.SGD(1.0, name="sgd"))
        if params.strategy.learns_class_vectors:
            learner.class_vectors = ClassVectors(LABELS, params.embedding_size, seed=4)
        network, learned = learner.network, [*learner.network.trainable_variables, *learner.vectors]
        learner.optimizer.build(learned)
    before = [variable.numpy() for variable in learned]
    train_step = compile_train_step(model_fn, learner, strategy)
    there = replicate(strategy, IMAGES), replicate(strategy, LABELS)
    memory = send_memory(strategy, None, params)
    (window,) = windows(strategy, lambda step: indices_of(step, params), range(1, steps + 1), None)
    for _ in window.steps:
        result = train_step(*there, window.on_devices, window.done, memory)
        memory = result.memory
    changes = [b - v.numpy() for b, v in zip(before, learned, strict=True)]
    averages = [variable.numpy() for variable in network.non_trainable_variables]
    return changes, averages, result, fetch_memory(strategy, memory)


def check_same_gradient(found, expected):
    found, expected = (np.concatenate([part.ravel() for part in changes]) for changes, *_ in (found, expected))
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"use_batch_norm": True, "augmentation": "affine_and_flip", "memory_size": 20}, 1),
        ({"triplet_strategy": "batch_hard", "memory_size": 20}, 2),
        ({"triplet_strategy": "batch_random_semi_hard", "micro_batch_size": 3, "augmentation": "affine"}, 1),
        ({"triplet_strategy": "offline_hard", "use_batch_norm": True}, 1),
        ({"triplet_strategy": "multi_similarity", "memory_size": 20}, 2),
        ({"triplet_strategy": "supervised_contrastive", "temperature": 0.3}, 1),
        ({"triplet_strategy": "lifted_structured", "distance": "squared_euclidean"}, 1),
        ({"triplet_strategy": "circle", "scale": 16.0, "memory_size": 20, "micro_batch_size": 3}, 2),
        ({"triplet_strategy": "proxy_anchor", "scale": 4.0, "use_batch_norm": True}, 1),
        ({"triplet_strategy": "arcface", "scale": 4.0, "micro_batch_size": 3}, 1),
    ],
)
def test_two_devices_make_the_step_of_one(two_devices, changes, steps):
    params = Params(batch_size=12, num_channels=3, num_blocks=1, embedding_size=5, **changes)
    one, two = (after_steps(strategy, params, steps) for strategy in (ONE_DEVICE, two_devices))
    check_same_gradient(two, one)
    for mine, theirs in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-7)
    for name, pair in one[2].sums.items():
        np.testing.assert_allclose(two[2].sums[name], pair, rtol=1e-5, atol=1e-5, err_msg=name)
    assert float(two[2].gradient_norm) == pytest.approx(float(one[2].gradient_norm), rel=1e-5)
    np.testing.assert_array_equal(two[2].indices, one[2].indices)
    if params.memory_size:
        np.testing.assert_array_equal(two[3].labels, one[3].labels)
        np.testing.assert_allclose(two[3].embeddings, one[3].embeddings, rtol=1e-4, atol=1e-5)


def test_both_devices_have_the_averages_of_the_whole_batch(two_devices):
    """Each one writes its own; whoever reads the first would never see that the other went astray."""
    params = Params(batch_size=12, num_channels=3, num_blocks=1, embedding_size=5, use_batch_norm=True)
    with two_devices.scope():
        network = build_network(params, IMAGES.shape[1:])
        optimizer = keras.optimizers.SGD(0.1, name="sgd")
        optimizer.build(network.trainable_variables)
    train_step = compile_train_step(model_fn, Learner(params, network, optimizer), two_devices)
    there = replicate(two_devices, IMAGES), replicate(two_devices, LABELS)
    (window,) = windows(two_devices, lambda step: indices_of(step, params), range(1, 4), None)
    for _ in window.steps:
        train_step(*there, window.on_devices, window.done)
    for variable in network.variables:
        first, second = (part.numpy() for part in two_devices.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("strategy", ["batch_all", "batch_semi_hard", "contrastive"])
@pytest.mark.parametrize(("size", "start"), [(20, 0), (20, 2), (5, 0)])
def test_a_memory_against_a_list_of_embeddings(strategy, size, start):
    """Of batches of 8: it fills in three steps, or is smaller than a batch."""
    optimizer = keras.optimizers.SGD(0.5, name="sgd")
    learner = linear_learner(
        optimizer, triplet_strategy=strategy, memory_size=size, memory_start_step=start, margin=0.3
    )
    pictures = images(30)
    classes = np.random.default_rng(1).integers(0, 3, 30).astype(np.int32)
    train_step = compile_train_step(model_fn, learner, ONE_DEVICE)
    memory, remembered = send_memory(ONE_DEVICE, None, learner.params), []
    for step in range(6):
        batch = np.random.default_rng(step).permutation(30)[:8].astype(np.int32)
        embeddings, labels = embed(learner, pictures[batch]), classes[batch]
        kept = remembered[-size:] if step >= start else []
        candidates = [*zip(labels, embeddings, strict=True), *kept]
        arguments = (pictures, classes, batch[np.newaxis])
        result = train_step(*map(tf.constant, arguments), tf.constant(step, tf.int64), memory)
        memory = result.memory
        terms = list(
            oracles.terms_among(
                strategy,
                labels,
                embeddings,
                [label for label, _ in candidates],
                [e for _, e in candidates],
                range(8),
                0.3,
            )
        )
        total, count = result.sums["loss"]
        assert float(total) == pytest.approx(sum(terms), rel=1e-4)
        assert float(count) == len(terms) / (2 if strategy == "contrastive" else 1)
        remembered += zip(labels, embeddings, strict=True)
        seen = fetch_memory(ONE_DEVICE, memory)
        assert seen.labels.tolist() == [label for label, _ in remembered[-size:]]
        np.testing.assert_allclose(seen.embeddings, [e for _, e in remembered[-size:]], rtol=1e-4, atol=1e-5)


def test_a_batch_that_is_no_number_is_not_remembered():
    learner = linear_learner(keras.optimizers.SGD(0.5, name="sgd"), memory_size=20, on_nan="skip")

    def spoilt(features, labels, mode, params, network, step, memory=None):
        spec = model_fn(features, labels, mode, params, network, step, memory)
        factor = tf.where(step == 1, np.nan, 1.0)
        embeddings = spec.predictions["embeddings"] * factor
        return dataclasses.replace(spec, predictions={"embeddings": embeddings}, loss=spec.loss * factor)

    train_step = compile_train_step(spoilt, learner, ONE_DEVICE)
    memory = send_memory(ONE_DEVICE, None, learner.params)
    filled = []
    for step in range(3):
        batch = np.arange(8, dtype=np.int32)[np.newaxis] + step
        result = train_step(
            tf.constant(images(20)),
            tf.constant(np.arange(20) % 2, tf.int32),
            batch,
            tf.constant(step, tf.int64),
            memory,
        )
        memory = result.memory
        filled.append(len(fetch_memory(ONE_DEVICE, memory).labels))
        assert [int(flag) for flag in result.broken] == [step == 1, step == 1, 0]
    assert filled == [8, 8, 16]
    assert np.isfinite(fetch_memory(ONE_DEVICE, memory).embeddings).all()


def test_a_run_with_a_memory_resumes_at_every_step_of_its_filling(tmp_path):
    def run_in(folder, **changes):
        options = {"batch_size": 8, "memory_size": 20, "memory_start_step": 1, "use_batch_norm": False, **changes}
        run = estimator(tmp_path / folder, RunConfig(5, 1, 9), **options)
        run.network_fn = linear_network
        return run

    whole = run_in("whole")
    whole.train(train_input(whole), 6)
    for step in range(1, 6):
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        for later in range(step + 1, 7):
            shutil.rmtree(tmp_path / str(step) / "checkpoints" / f"step-{later:08}")
        resumed = run_in(str(step))
        resumed.train(train_input(resumed), 6)
        assert final_tensors(tmp_path / str(step)) == final_tensors(tmp_path / "whole")
    without = run_in("without", memory_size=None, memory_start_step=0)
    without.train(train_input(without), 6)
    weights = [run.newest_checkpoint().tensors["network/d/kernel"] for run in (whole, without)]
    assert not np.array_equal(*weights)  # that it is there makes a difference


def test_another_size_of_the_memory_keeps_the_last_embeddings():
    learner = linear_learner(memory_size=4)
    kept = fetch_memory(ONE_DEVICE, send_memory(ONE_DEVICE, None, learner.params))
    assert kept.embeddings.shape == (0, 3)
    full = dataclasses.replace(kept, labels=np.arange(4, dtype=np.int32), embeddings=np.eye(4, 3, dtype=np.float32))
    for size, expected in ((2, [2, 3]), (9, [0, 1, 2, 3])):
        params = Params(embedding_size=3, memory_size=size)
        seen = fetch_memory(ONE_DEVICE, send_memory(ONE_DEVICE, full, params))
        assert seen.labels.tolist() == expected
        np.testing.assert_array_equal(seen.embeddings, full.embeddings[expected])
    assert send_memory(ONE_DEVICE, full, Params()) is None and fetch_memory(ONE_DEVICE, None) is None


@pytest.mark.parametrize("strategy", ["batch_all", "batch_random_semi_hard", "circle"])
def test_a_memory_that_is_too_large_at_once_is_looked_through_by_blocks_of_anchors(strategy, monkeypatch):
    """12 anchors and 12 + 28 candidates at most are 480 pairs, in three blocks of at most 200."""
    rng = np.random.default_rng(7)
    labels, classes = (tf.constant(rng.integers(0, 3, count), tf.int32) for count in (12, 28))
    embeddings, past = (tf.constant(rng.normal(size=(count, 4)), tf.float32) for count in (12, 28))
    chosen, anchors = STRATEGIES[strategy], []
    distances = triplet_loss.pairwise_distances

    def noting(vectors, *others):
        anchors.append(vectors.shape[0])
        return distances(vectors, *others)

    def of_a_step():
        @tf.function(autograph=False)
        def step(filled):
            memory = Memory(classes, past, filled)
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                loss, sums = loss_of_batch(
                    chosen, labels, embeddings, 0.4, chosen.distance, [1, 2], memory, chosen.loss_parameters
                )
            return loss, sums, tape.gradient(loss, embeddings)

        return [step(tf.constant(filled)) for filled in (0, 9, 28)]

    monkeypatch.setattr(triplet_loss, "pairwise_distances", noting)
    at_once = of_a_step()
    assert set(anchors) == {12}
    anchors.clear()
    monkeypatch.setattr(triplet_loss, "PAIRS_AT_ONCE", 479)
    monkeypatch.setattr(triplet_loss, "PAIRS_OF_A_BLOCK", 200)
    blocks = of_a_step()
    assert set(anchors) == {4}
    for one, other in zip(tf.nest.flatten(at_once), tf.nest.flatten(blocks), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------- parts of a batch


def test_a_network_that_is_called_twice_has_no_gradient_in_parts():
    """It would be that of the second call."""

    def two_views(features, labels, mode, params, network, step):
        network(features, training=True)
        return model_fn(1.0 - features, labels, mode, params, network, step)

    learner = linear_learner(keras.optimizers.SGD(0.5, name="sgd"), batch_size=8, micro_batch_size=4)
    step = compile_train_step(two_views, learner, ONE_DEVICE)
    batch = np.arange(8, dtype=np.int32)[np.newaxis]
    arguments = map(tf.constant, (images(8), np.arange(8, dtype=np.int32) % 2, batch))
    with pytest.raises(ValueError, match="Expected one call with training=True in a step with micro_batch_size"):
        step(*arguments, tf.constant(0, tf.int64))


@pytest.mark.parametrize("changes", [{}, {"triplet_strategy": "offline_hard"}, {"triplet_strategy": "circle"}])
def test_micro_batches_have_the_gradient_of_the_whole_batch(changes):
    params = Params(batch_size=12, num_channels=3, num_blocks=1, embedding_size=5, **changes)
    parts = params.model_copy(update={"micro_batch_size": 4})
    whole, found = (after_steps(ONE_DEVICE, one) for one in (params, parts))
    check_same_gradient(found, whole)
    assert float(found[2].sums["loss"][0]) == pytest.approx(float(whole[2].sums["loss"][0]), rel=1e-5)


def test_layers_with_a_state_see_each_part_once_and_as_they_saw_it_first():
    """Averages move once a part; a layer that draws draws the same for the gradient as it did for the embedding."""

    @keras.saving.register_keras_serializable("tests")
    class Counter(keras.layers.Layer):
        """Multiplies by how many batches it has seen, this one among them."""

        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, inputs, training=False):
            if training:
                self.count.assign(self.count + 1.0)
            return inputs * self.count

    def learner_with(micro_batch_size):
        params = Params(
            embedding_size=3,
            triplet_strategy="contrastive",
            margin=100.0,
            batch_size=8,
            micro_batch_size=micro_batch_size,
        )
        dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=1), name="embedding")
        layers = [keras.Input((2, 3, 1)), keras.layers.Flatten(), dense, Counter(), keras.layers.Dropout(0.5, seed=7)]
        network = keras.Sequential(layers, name="network")
        optimizer = keras.optimizers.SGD(1e-3, name="sgd")
        optimizer.build(network.trainable_variables)
        return Learner(params, network, optimizer)

    learner, pictures, classes = learner_with(2), images(8), np.array([0, 1] * 4, np.int32)
    twin = learner_with(None)
    twin.network.set_weights(learner.network.get_weights())
    kernel = learner.network.get_layer("embedding").kernel
    before = kernel.numpy().astype(np.float64)
    batch = np.arange(8, dtype=np.int32)[np.newaxis]
    step = compile_train_step(model_fn, learner, ONE_DEVICE)
    result = step(*map(tf.constant, (pictures, classes, batch)), tf.constant(0, tf.int64))
    # The same parts, one call of the network each, and all on one tape.
    with tf.GradientTape() as tape:
        parts = [twin.network(pictures[two : two + 2] / 255.0, training=True) for two in range(0, 8, 2)]
        embeddings = tf.concat(parts, axis=0)
        same = classes[:, None] == classes[None, :]
        squares = tf.reduce_sum((embeddings[:, None] - embeddings[None, :]) ** 2, axis=2)
        distances = tf.sqrt(tf.maximum(squares, 1e-12))
        costs = tf.where(same, squares, (100.0 - distances) ** 2) / 2
        loss = sum(costs[a, b] for a, b in itertools.combinations(range(8), 2)) / 28
    np.testing.assert_allclose(result.embeddings, embeddings, rtol=1e-5, atol=1e-6)
    expected = tape.gradient(loss, twin.network.get_layer("embedding").kernel.value).numpy()
    np.testing.assert_allclose(
        (before - kernel.numpy()) / 1e-3, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
    )
    for mine, theirs in zip(learner.network.non_trainable_variables, twin.network.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
