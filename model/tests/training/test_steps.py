"""The compiled steps against float64: the loss of an oracle, its gradient by differences, and gradient descent."""

import dataclasses
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.tests import oracles
from model.tests.training.learners import SHAPE, bits_of, embed, images, linear_learner, weights_of
from model.training import steps as module
from model.training.feeding import replicate, send_memory, windows
from model.training.guard import Broken
from model.training.model_fn import model_fn
from model.training.steps import Pace, compile_eval_step, compile_predict_step, compile_train_step, repeat

pytestmark = pytest.mark.slow

ONE_DEVICE = tf.distribute.get_strategy()
IMAGES = images(20)
LABELS = np.random.default_rng(1).integers(0, 3, 20).astype(np.int32)
BATCHES = np.random.default_rng(2).permuted(np.tile(np.arange(20), (4, 1)), axis=1)[:, :8].astype(np.int32)  # (S, B)


def sgd_learner(learning_rate=0.5, triplet_strategy="contrastive", **params):
    optimizer = keras.optimizers.SGD(learning_rate, name="sgd")
    return linear_learner(optimizer, triplet_strategy=triplet_strategy, **params)


def train_step_of(learner, model_fn=model_fn):
    """A function from the global step before them to the result of the next step, that of one of the batches."""
    train_step = compile_train_step(model_fn, learner, ONE_DEVICE)
    return lambda done=0: train_step(*map(tf.constant, (IMAGES, LABELS, BATCHES)), tf.constant(done, tf.int64))


def slopes(function, array):
    """The gradient of a function of an array, by differences in float64."""
    found = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = np.zeros_like(array)
        moved[index] = 1e-6
        found[index] = (function(array + moved) - function(array - moved)) / 2e-6
    return found


@pytest.mark.parametrize("loss", ["contrastive", "batch_all"])
def test_three_steps_are_those_of_gradient_descent(loss):
    """They begin in the middle of a run: the batch is the one of the step, counted from the upload."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([101], [0.5, 0.25])  # 0.5 until step 101
    learner = sgd_learner(schedule, triplet_strategy=loss, margin=0.3)
    learner.optimizer.iterations.assign(101)
    next_step = train_step_of(learner)
    kernel, bias = weights_of(learner)
    for batch, rate in zip(BATCHES[1:], (0.5, 0.25, 0.25), strict=True):
        result = next_step(done=100)
        pixels, labels = IMAGES[batch].reshape(8, -1) / 255, LABELS[batch]

        def value(kernel, bias, pixels=pixels, labels=labels):
            return getattr(oracles, loss)(labels, pixels @ kernel + bias, 0.3)

        total, count = result.sums["loss"]
        assert float(total / count) == pytest.approx(value(kernel, bias), rel=1e-4)
        np.testing.assert_array_equal(result.labels, labels)
        np.testing.assert_allclose(result.embeddings, pixels @ kernel + bias, rtol=1e-4, atol=1e-5)
        of_kernel = slopes(lambda moved: value(moved, bias), kernel)  # noqa: B023
        of_bias = slopes(lambda moved: value(kernel, moved), bias)  # noqa: B023
        assert float(result.gradient_norm) == pytest.approx(
            math.sqrt((of_kernel**2).sum() + (of_bias**2).sum()), rel=1e-3
        )
        assert float(result.learning_rate) == rate
        assert [int(flag) for flag in result.broken] == [0, 0, 0]
        kernel, bias = kernel - rate * of_kernel, bias - rate * of_bias
        for seen, expected in zip(weights_of(learner), (kernel, bias), strict=True):
            np.testing.assert_allclose(seen, expected, atol=1e-5)
    assert int(learner.optimizer.iterations) == 104


# ------------------------------------------------------------------------------------------- what breaks down

# What goes wrong in a step depends on how many steps were made before it: nothing in the first four, then the loss, the
# gradient (which gets into the weights), the weights. What is told of each: loss, gradient, weights.
LOSS, GRADIENT, WEIGHTS = 4, 5, 6
TOLD = {LOSS: [1, 0, 0], GRADIENT: [0, 1, 1], WEIGHTS: [0, 0, 1]}


def spoilt_model_fn(features, labels, mode, params, network, step):
    """`model_fn`, whose loss or its gradient is spoilt in those steps."""

    @tf.custom_gradient
    def change(loss):
        factor = tf.where(step == GRADIENT, math.inf, tf.where(step == WEIGHTS, 1e3, 1.0))
        return loss + tf.where(step == LOSS, math.nan, 0.0), lambda upstream: upstream * factor

    spec = model_fn(features, labels, mode, params, network, step)
    return dataclasses.replace(spec, loss=change(spec.loss))


def spoilt_with_memory(features, labels, mode, params, network, step, memory=None):
    """The same with a memory of past batches, and the loss broken in one step alone."""
    spec = model_fn(features, labels, mode, params, network, step, memory=memory)
    return dataclasses.replace(spec, loss=spec.loss + tf.where(step == LOSS, math.nan, 0.0))


def learner_that_breaks_down(on_nan):
    """A learner, and a function from the steps made before to the result of the next one."""
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([WEIGHTS - 1], [0.5, 3e38])
    learner = sgd_learner(rates, on_nan=on_nan)
    return learner, train_step_of(learner, spoilt_model_fn)


@pytest.fixture(scope="module")
def compiled():
    """By `on_nan`, learners that break down. Compiling a step takes longer than all that is tested with it."""
    return {on_nan: learner_that_breaks_down(on_nan) for on_nan in ("stop", "skip")}


@pytest.fixture
def breaking(compiled):
    """The same as they were at first."""
    fresh = linear_learner().network.get_weights()
    for learner, _ in compiled.values():
        learner.network.set_weights(fresh)
        learner.optimizer.iterations.assign(0)
    return compiled


@pytest.mark.parametrize("step", TOLD)
def test_what_is_not_a_number_is_told(breaking, step):
    learner, next_step = breaking["stop"]
    learner.optimizer.iterations.assign(step)
    assert [int(flag) for flag in next_step(done=step).broken] == TOLD[step]
    assert all(np.isfinite(weights).all() for weights in weights_of(learner)) == (not TOLD[step][2])


@pytest.mark.parametrize(("step", "expected"), [(LOSS, [1, 0, 0]), (GRADIENT, [0, 1, 0])])
def test_a_broken_step_that_is_skipped_moves_no_weight(breaking, step, expected):
    learner, next_step = breaking["skip"]
    before = bits_of(learner.network.variables)
    learner.optimizer.iterations.assign(step)
    assert [int(flag) for flag in next_step(done=step).broken] == expected
    assert bits_of(learner.network.variables) == before
    assert int(learner.optimizer.iterations) == step + 1  # it counts


def test_skipping_changes_nothing_while_all_is_well(breaking):
    before = bits_of(breaking["stop"][0].network.variables)
    for _, next_step in breaking.values():
        for _ in BATCHES:
            assert [int(flag) for flag in next_step().broken] == [0, 0, 0]
    stopping, skipping = (bits_of(learner.network.variables) for learner, _ in breaking.values())
    assert stopping == skipping != before


def test_without_an_optimizer_nothing_is_learned():
    with pytest.raises(ValueError, match="Expected a learner with an optimizer"):
        compile_train_step(model_fn, linear_learner(), ONE_DEVICE)


# ------------------------------------------------------------------------------------------- several in a call


@pytest.mark.parametrize("memory_size", [None, 12])
def test_several_steps_in_a_call_have_the_bits_of_so_many_calls(memory_size):
    """And what breaks down is told of each of them: the loss of the third."""
    found = []
    for counts in ([1, 1, 1, 1], [3, 1], [4]):
        learner = sgd_learner(triplet_strategy="batch_all", margin=0.3, on_nan="skip", memory_size=memory_size)
        learner.optimizer.iterations.assign(LOSS - 2)
        make_steps = repeat(compile_train_step(spoilt_with_memory, learner, ONE_DEVICE))
        given = [tf.constant(array) for array in (IMAGES, LABELS, BATCHES)]
        memory, told = send_memory(ONE_DEVICE, None, learner.params), []
        for count in counts:
            result = make_steps(*given, tf.constant(LOSS - 2, tf.int64), memory, tf.constant(count))
            memory = result.memory
            told += np.stack(result.broken, axis=1).tolist()
        assert told == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
        np.testing.assert_array_equal(result.indices, BATCHES[3])
        last = [result.gradient_norm, result.embeddings, *tf.nest.flatten([result.sums, memory])]
        found.append((bits_of(learner.network.variables), [np.asarray(part).tobytes() for part in last]))
    assert found[0] == found[1] == found[2]


def test_so_many_steps_are_made_that_a_request_to_stop_is_soon_heard(monkeypatch):
    now, made = [0.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def steps_of(seconds):
        def make_steps(count):
            now[0] += seconds * int(count)
            made.append(int(count))
            return SimpleNamespace(broken=Broken(*[tf.zeros(count)] * 3))

        return make_steps

    pace = Pace()
    # The first is compiled; then others need the machine.
    for seconds in [8.0, *[1 / 128] * 6, 1 / 8, 1 / 16, 1 / 16, 1 / 2, 1 / 2]:
        pace.take(pace.most, steps_of(seconds))
    assert made == [1, 1, 2, 4, 8, 16, 32, 32, 2, 4, 4, 1]
    pace = Pace()
    for count in (1, 1, 2, 1, 4):  # there was something to do after one step: the next call need not be small for that
        assert count <= pace.most
        pace.take(count, steps_of(1 / 128))


# ------------------------------------------------------------------------------------------- two devices


def test_a_step_of_two_devices_is_that_of_the_whole_batch(two_devices):
    """Each looks for the partners of its half among all, and what breaks down is counted once."""
    with two_devices.scope():
        learner = sgd_learner(triplet_strategy="batch_all", margin=0.3)
    learner.optimizer.iterations.assign(LOSS - 2)
    train_step = compile_train_step(spoilt_model_fn, learner, two_devices)
    images, labels = replicate(two_devices, IMAGES), replicate(two_devices, LABELS)
    (window,) = windows(two_devices, lambda step: BATCHES[step - LOSS + 2], range(LOSS - 1, LOSS + 2), None)
    results = (train_step(images, labels, window.on_devices, window.done) for _ in window.steps)
    kernel, bias = weights_of(learner)
    for batch in BATCHES[:2]:
        result = next(results)
        pixels = IMAGES[batch].reshape(8, -1) / 255

        def value(kernel, bias, pixels=pixels, batch=batch):
            return oracles.batch_all(LABELS[batch], pixels @ kernel + bias, 0.3)

        total, count = result.sums["loss"]
        assert float(total / count) == pytest.approx(value(kernel, bias), rel=1e-4)
        for seen, expected in zip(
            (result.labels, result.indices, result.embeddings),
            (LABELS[batch], batch, pixels @ kernel + bias),
            strict=True,
        ):
            np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)
        assert [int(flag) for flag in result.broken] == [0, 0, 0]
        of_kernel = slopes(lambda moved: value(moved, bias), kernel)  # noqa: B023
        of_bias = slopes(lambda moved: value(kernel, moved), bias)  # noqa: B023
        norm = math.sqrt((of_kernel**2).sum() + (of_bias**2).sum())
        assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-3)
        kernel, bias = kernel - 0.5 * of_kernel, bias - 0.5 * of_bias
        for seen, expected in zip(weights_of(learner), (kernel, bias), strict=True):
            np.testing.assert_allclose(seen, expected, atol=1e-5)
    assert [int(flag) for flag in next(results).broken] == [1, 0, 0]


# ------------------------------------------------------------------------------------------- without learning


def test_an_evaluation_step_sums_up_a_batch_of_any_size():
    learner = linear_learner(margin=0.3)
    before = bits_of(learner.network.variables)
    eval_step = compile_eval_step(model_fn, learner)
    for size in (20, 7, 1):
        predictions, sums = eval_step(IMAGES[:size], LABELS[:size])
        embeddings = embed(learner, IMAGES[:size])
        np.testing.assert_allclose(predictions["embeddings"], embeddings, rtol=1e-4, atol=1e-5)
        expected = {
            "loss": oracles.batch_all(LABELS[:size], embeddings, 0.3),
            "embedding_mean_norm": np.sqrt((embeddings**2).sum(axis=1)).mean(),
            **oracles.statistics(LABELS[:size], embeddings, 0.3),
        }
        assert sums.keys() == expected.keys()
        for name, (total, count) in sums.items():
            assert total.shape == count.shape == ()
            assert float(total) / max(float(count), 1) == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert bits_of(learner.network.variables) == before


class AtMost(keras.layers.Layer):
    """Fails on more images at a time."""

    def __init__(self, most):
        super().__init__(name="at_most")
        self.most = most

    def call(self, images):
        tf.debugging.assert_less_equal(tf.shape(images)[0], self.most)
        return images


@pytest.mark.parametrize("size", [1, 4, 8, 17])
def test_an_evaluation_step_takes_no_more_images_at_a_time_than_a_training_step(size):
    whole = linear_learner(batch_size=16)
    params = whole.params.model_copy(update={"micro_batch_size": 4})
    learner = dataclasses.replace(
        whole, params=params, network=keras.Sequential([keras.Input(SHAPE), AtMost(4), *whole.network.layers])
    )
    found = compile_eval_step(model_fn, learner)(IMAGES[:size], LABELS[:size])
    expected = compile_eval_step(model_fn, whole)(IMAGES[:size], LABELS[:size])
    np.testing.assert_allclose(found[0]["embeddings"], expected[0]["embeddings"], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, pair in expected[1].items():
        np.testing.assert_allclose(found[1][name], pair, rtol=1e-4)


def test_a_prediction_is_made_of_uint8_images_of_the_size_of_the_network():
    learner = linear_learner()
    predict_step = compile_predict_step(model_fn, learner)
    for size in (20, 1, 0):
        np.testing.assert_allclose(
            predict_step(IMAGES[:size])["embeddings"], embed(learner, IMAGES[:size]), rtol=1e-4, atol=1e-5
        )
    for others in (tf.cast(IMAGES, tf.float32), np.zeros((2, *SHAPE[::-1]), np.uint8)):
        with pytest.raises((TypeError, ValueError)):
            predict_step(others)
