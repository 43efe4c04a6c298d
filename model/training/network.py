"""The network that turns an image into an embedding: the features that `network` names, and a dense layer on them."""

import contextlib
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from model.networks.entries import NETWORKS
from model.params import Params
from model.training.batch_normalization import FusedBatchNormalization

# The last layers: all others together are what weights are loaded for, and what may be frozen.
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        weights: Numbers that are learned.
        weights_of_embedding: Those of them that are in the last layer.
        outputs: Numbers that all layers together put out for an image.
    """

    weights: int
    weights_of_embedding: int
    outputs: int


def size_of_network(params: Params, image_shape: tuple[int, int, int]) -> Size:
    """Returns how large the network of `build_network` would be, which for the cnn nobody has to build.

    Args:
        params: The experiment.
        image_shape: Height, width and channels of an image.
    """
    own, load = params.of_the_network, NETWORKS[params.network].size
    if load is None:
        weights, outputs, features = _size_if_built(params.network, tuple(own.items()), image_shape)
    else:
        weights, outputs, features = load()(image_shape, **own)
    of_embedding = (features + 1) * params.embedding_size
    outputs += params.embedding_size * (1 + params.has_unit_length)
    return Size(weights + of_embedding, of_embedding, outputs)


@functools.cache
def _size_if_built(name: str, own: tuple[tuple[str, Any], ...], image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Returns what `Network.size` would, of features that are built to be counted: a second or two."""
    features = build_features(Params.model_validate({"network": name, **dict(own)}), image_shape)
    weights = sum(math.prod(variable.shape) for variable in features.trainable_variables)
    outputs = sum(math.prod(layer.output.shape[1:]) for layer in features.layers)
    return weights, outputs, features.output_shape[-1]


def build_features(params: Params, image_shape: tuple[int, int, int], precision: str = "float32") -> keras.Model:
    """Builds the features as the function of `NETWORKS` makes them, as yet with nothing seeded that it does not seed.

    Args:
        params: The experiment.
        image_shape: Height, width and channels of an image.
        precision: "float32" or "mixed_bfloat16".
    """
    images = keras.Input(image_shape, name="images")
    with _computing_in(precision):
        features = NETWORKS[params.network].load()(images, seed=params.seed, **params.of_the_network)
    return keras.Model(images, features, name="features")


def build_network(params: Params, image_shape: tuple[int, int, int], precision: str = "float32") -> keras.Model:
    """Builds the embedding network.

    The features that `network` names, and a dense layer to `embedding_size`; scaled to length 1 with
    `normalize_embeddings` or the cosine distance, so that euclidean neighbours are those of the cosine.

    Whatever the features are made of, initial weights and random generators depend on the seed alone, layers have the
    same names in every process, and batch normalization of images is `FusedBatchNormalization`. Its momentum is that of
    the parameters: in MobileNets it would be 0.999, with which statistics are those of a thousand steps ago.

    Args:
        params: The experiment; its seed decides the initial weights. Weights of a file are not loaded here
            (`pretrained.load`).
        image_shape: Height, width and channels of an image.
        precision: "float32" or "mixed_bfloat16", the arithmetic of the convolutions. Weights are float32 either
            way, and so is the dense layer, whose output is measured.

    Returns:
        A model from float32 images of shape (B, *image_shape) in [0, 1] to float32 embeddings of shape
        (B, embedding_size).
    """
    plain = build_features(params, image_shape, precision)
    initializer = keras.initializers.GlorotUniform(seed=params.seed)
    dense = keras.layers.Dense(params.embedding_size, kernel_initializer=initializer, dtype="float32", name=EMBEDDING)
    with keras.name_scope("network"):  # so begin the names of all weights
        features = keras.models.clone_model(plain, clone_function=_in_our_way(plain, params), recursive=True)
        embeddings = dense(features.output)
    if params.has_unit_length:
        embeddings = keras.layers.UnitNormalization(dtype="float32", name="unit_length")(embeddings)
    return keras.Model(features.input, embeddings, name="network")


def _in_our_way(plain: keras.Model, params: Params) -> Callable[[keras.layers.Layer], keras.layers.Layer]:
    """Returns a function that makes each layer again: named and seeded by its place, in our batch normalization."""
    names, numbers = names_of_layers(plain), itertools.count()

    def make_again(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = _seeded(layer.get_config(), params.seed, numbers)
        config["name"] = names.get(layer.name, layer.name)
        kind = type(layer)
        if kind is keras.layers.BatchNormalization:
            rank, is_last = len(layer.input.shape), layer.axis in (-1, len(layer.input.shape) - 1)
            if rank == 4 and is_last and layer.scale and layer.center:  # what the one operation can do
                kind = FusedBatchNormalization
            config |= {"trainable": not params.frozen_batch_norm, "momentum": params.bn_momentum}
        return kind.from_config(config)

    return make_again


def names_of_layers(plain: keras.Model) -> dict[str, str]:
    """Returns new names of layers by their names: what Keras counts in a process is counted in each model.

    `conv2d_7`, a name that Keras gave, becomes `conv2d` if it is the first; `block_7_add`, given by a person, stays.
    """
    names, counts = {}, dict[str, int]()
    for layer in plain.layers:
        base = re.sub(r"_\d+$", "", layer.name)
        names[layer.name] = layer.name
        if base.replace("_", "") == type(layer).__name__.lower():
            number = counts[base] = counts.get(base, -1) + 1
            names[layer.name] = f"{base}_{number}" if number else base
    return names


def _seeded(config: Any, seed: int, numbers: Iterator[int]) -> Any:
    """Returns what Keras tells of a layer, with a seed wherever there is none: of initializers and random layers."""
    if isinstance(config, list | tuple):
        return type(config)(_seeded(value, seed, numbers) for value in config)
    if not isinstance(config, dict):
        return config
    seeded = {key: _seeded(value, seed, numbers) for key, value in config.items()}
    if "seed" in config and config["seed"] is None:
        (drawn,) = np.random.SeedSequence([seed, next(numbers)]).generate_state(1)
        seeded["seed"] = int(drawn) >> 1
    return seeded


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """Lets layers that are made in the block compute in this precision, as those of `keras.applications` take none."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
