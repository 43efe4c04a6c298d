"""The network: its layers, its weights and its batch normalization."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.params import Params
from model.training.batch_normalization import FusedBatchNormalization
from model.training.learner import Learner
from model.training.network import build_network, size_of_network


def images(*shape):
    return tf.constant(np.random.default_rng(0).random(shape), tf.float32)


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (1, 1, 1), (3, 5, 3), (33, 17, 3)])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_any_image_size_fits(shape, precision):
    network = build_network(Params(embedding_size=5, use_batch_norm=True), shape, precision)
    embeddings = network(images(4, *shape))
    assert embeddings.shape == (4, 5)
    assert embeddings.dtype == tf.float32
    assert all(variable.dtype == "float32" for variable in network.variables)


def test_the_network_is_that_of_the_literature():
    """3x3 convolutions of 32 and 64 channels, each followed by a 2x2 pool, then dense: counted by hand."""
    network = build_network(Params(), (28, 28, 1))
    assert network.count_params() == (3 * 3 * 1 * 32 + 32) + (3 * 3 * 32 * 64 + 64) + (7 * 7 * 64 * 64 + 64)
    norm = build_network(Params(use_batch_norm=True, bn_momentum=0.7), (28, 28, 1))
    assert norm.count_params() == network.count_params() + 4 * 32 + 4 * 64
    assert [layer.momentum for layer in norm.layers if isinstance(layer, keras.layers.BatchNormalization)] == [0.7] * 2


def test_momentum_of_batch_normalization_is_that_of_the_parameters_in_any_network():
    """MobileNetV3 has 0.999 of its own: after 500 steps, three fifths would be what it began with."""
    network = build_network(Params(network="MobileNetV3Small", bn_momentum=0.7), (32, 32, 1))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 30 and {layer.momentum for layer in norms} == {0.7}


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 4, 3), (1, 1, 1)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 4, "convolutions_per_block": 2, "use_batch_norm": True},
        {"distance": "cosine"},
        {"pooling": "average"},
    ],
)
def test_the_size_is_that_of_the_network_that_is_built(shape, changes):
    params = Params(num_channels=3, embedding_size=5, **changes)
    network = build_network(params, shape)
    size = size_of_network(params, shape)
    assert size.weights == sum(np.prod(variable.shape) for variable in network.trainable_variables)
    assert size.weights_of_embedding == network.get_layer("embedding").count_params()
    assert size.outputs == sum(np.prod(layer.output.shape[1:]) for layer in network.layers)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_batch_normalization_by_hand(dtype):
    """Ioffe and Szegedy, algorithms 1 and 2, in float64."""
    layer = FusedBatchNormalization(momentum=0.75, dtype=dtype)
    x = np.random.default_rng(0).normal(3, 2, (6, 5, 4, 3))
    layer.build(x.shape)
    layer.gamma.assign([1.0, 2.0, 0.5])
    layer.beta.assign([0.0, -1.0, 3.0])
    inputs = tf.cast(x, layer.compute_dtype)
    x = inputs.numpy().astype(np.float64)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 2**-7}[dtype]

    def expected(mean, variance):
        return [1, 2, 0.5] * (x - mean) / np.sqrt(variance + layer.epsilon) + [0, -1, 3]

    for training, statistics in ((True, (mean, variance)), (False, None)):
        if statistics is None:
            moving = 0.25 * mean, 0.75 + 0.25 * variance * 120 / 119  # from 0 and 1; of 120 numbers, unbiased
            np.testing.assert_allclose(layer.moving_mean, moving[0], rtol=1e-5)
            np.testing.assert_allclose(layer.moving_variance, moving[1], rtol=1e-5)
            statistics = moving
        outputs = layer(inputs, training=training)
        assert outputs.dtype == inputs.dtype
        np.testing.assert_allclose(tf.cast(outputs, tf.float64), expected(*statistics), rtol=tolerance, atol=tolerance)


def test_the_gradient_of_batch_normalization_is_that_of_keras():
    x = images(8, 5, 4, 3)
    weights = images(8, 5, 4, 3)
    gradients = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = kind()
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 3 * weights)
        gradients.append(tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_variables)]))
    for fused, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-3, atol=1e-3)


def test_deeper_networks_double_their_channels_and_halve_their_images():
    """Three blocks of two convolutions, 4, 8 and 16 channels, on 9x9 images: 9, 5, 3 and 2 pixels a side."""
    params = Params(num_channels=4, num_blocks=3, convolutions_per_block=2, embedding_size=5)
    network = build_network(params, (9, 9, 1))
    convolutions = sum(9 * i * o + o for i, o in ((1, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)))
    assert network.count_params() == convolutions + 2 * 2 * 16 * 5 + 5
    kernels = [layer.kernel.numpy() for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    alike = [(a, b) for a, b in itertools.combinations(kernels, 2) if a.shape == b.shape and np.array_equal(a, b)]
    assert not alike  # each has weights of its own


def test_the_seed_decides_the_weights():
    first, same, other = (
        build_network(Params(seed=seed), (8, 8, 1)).get_layer("block_2_conv").kernel.numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_normalized_embeddings_have_length_1():
    network = build_network(Params(normalize_embeddings=True), (8, 8, 1))
    np.testing.assert_allclose(np.linalg.norm(network(images(6, 8, 8, 1)), axis=1), 1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "MobileNetV3Small", pytest.param("ConvNeXtTiny", marks=pytest.mark.proof)])
def test_a_second_network_of_a_process_has_the_names_and_weights_of_the_first(network):
    """Keras counts layers in the process; a checkpoint of another process finds its tensors by these names."""
    first, second, changed = (
        {name: tensor for name, tensor in Learner(params, network_of(params)).tensors().items() if "run/" not in name}
        for params in (
            Params(network=network, seed=3),
            Params(network=network, seed=3),
            Params(network=network, seed=4),
        )
    )
    assert first.keys() == second.keys() and all(name.startswith("network/") for name in first)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name])
    kernels = [name for name in first if name.endswith("kernel")]
    assert kernels and all((first[name] != changed[name]).any() for name in kernels)


def network_of(params):
    return build_network(params, (32, 32, 3))
