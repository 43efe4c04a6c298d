"""While the last layer learns alone, nothing else changes."""

import hashlib
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.data.input_fn import TrainInput
from model.params import Params
from model.tests.experiments import final_tensors
from model.tests.training.learners import bits_of
from model.training.estimator import Estimator, RunConfig
from model.training.frozen import HeadAlone
from model.training.model_fn import model_fn
from model.training.network import build_features, build_network
from model.training.pretrained import load


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("pooling", ["flatten", "average"])
def test_the_head_sees_the_same_features_in_parts(precision, pooling):
    params = Params(embedding_size=4, num_channels=4, num_blocks=1, pooling=pooling, normalize_embeddings=True)
    network = build_network(params, (8, 8, 1), precision)
    images = tf.constant(np.random.default_rng(0).random((7, 8, 8, 1)), tf.float32)
    expected = network(images, training=False)
    assert np.ptp(expected) > 0.1
    for size in (None, 2, 7, 9):
        np.testing.assert_allclose(HeadAlone(network, size)(images, training=True), expected, atol=1e-2)


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Random weights in a file, and its digest."""
    path = tmp_path_factory.mktemp("begin") / "begin.weights.h5"
    keras.utils.set_random_seed(1)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        build_features(Params(network="MobileNetV3Small"), (32, 32, 3)).save_weights(path)
    return {"weights": str(path), "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def run(model_dir, begin, steps, **changes):
    """Trains on noise, 3 steps in an epoch."""
    params = Params(
        **{
            "network": "MobileNetV3Small", "batch_size": 6, "frozen_epochs": 1, "num_epochs": 3, "embedding_size": 4,
            "normalize_embeddings": True, "augmentation": "photo", **begin, **changes,
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (18, 32, 32, 3)).astype(np.uint8), np.arange(18, dtype=np.int32) % 3
    order = [rng.permutation(18)[:6].astype(np.int32) for _ in range(9)]
    data = TrainInput(images, labels, lambda step: order[step], 6)
    estimator = Estimator(model_fn, model_dir, params, RunConfig(3, 100, 5))
    estimator.train(lambda: data, steps)
    return estimator


@pytest.mark.proof
@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch_size": 3}, {"triplet_strategy": "arcface"}], ids=["whole", "parts", "vectors"]
)
def test_only_the_head_changes_until_the_boundary_and_a_run_goes_on_across_it(tmp_path, begin, changes):
    params = Params(network="MobileNetV3Small", embedding_size=4, normalize_embeddings=True, **begin)
    untrained = build_network(params, (32, 32, 3))
    load(untrained, params, "params.json")
    before = {variable.path: variable.numpy() for variable in untrained.variables}
    for steps in (2, 3, 5, 7):  # in the frozen epoch, at its end, after it
        newest = run(tmp_path / "parts", begin, steps, **changes).checkpoint("newest")
        assert newest.step == steps
        changed = {name for name, value in before.items() if not np.array_equal(newest.tensors[name], value)}
        if steps <= 3:
            assert changed == {"network/embedding/kernel", "network/embedding/bias"}
            assert ("class_vectors" in newest.tensors) == ("triplet_strategy" in changes)
        else:
            assert {"network/conv/kernel", "network/conv_bn/moving_mean"} < changed
    run(tmp_path / "whole", begin, 7, **changes)
    assert final_tensors(tmp_path / "parts") == final_tensors(tmp_path / "whole")


@pytest.mark.proof
def test_a_run_that_goes_on_does_not_need_the_file(tmp_path, begin):
    moved = tmp_path / "moved.weights.h5"
    moved.write_bytes(Path(begin["weights"]).read_bytes())
    run(tmp_path / "run", {**begin, "weights": str(moved)}, 1)
    moved.unlink()
    assert run(tmp_path / "run", {**begin, "weights": str(moved)}, 2).checkpoint("newest").step == 2


@pytest.mark.slow
def test_frozen_batch_normalization_keeps_everything_that_it_came_with(begin):
    params = Params(network="MobileNetV3Small", frozen_batch_norm=True, **begin)
    network = build_network(params, (32, 32, 3))
    load(network, params, "params.json")
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) > 30
    learned = {variable.path for variable in network.trainable_variables}
    assert not any(variable.path in learned for layer in layers for variable in layer.variables)
    images = tf.constant(np.random.default_rng(0).random((4, 32, 32, 3)), tf.float32)
    before = bits_of([variable for layer in layers for variable in layer.variables])
    np.testing.assert_array_equal(network(images, training=True), network(images, training=False))
    assert bits_of([variable for layer in layers for variable in layer.variables]) == before
