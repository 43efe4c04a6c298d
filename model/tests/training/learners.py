"""Learners for tests: one dense layer, images of 2x3 pixels, so that NumPy can say what they do."""

import math

import keras
import numpy as np

from model.params import Params
from model.training.learner import Learner

SHAPE = (2, 3, 1)


def images(count, seed=0):
    """Random uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.uint8)


def linear_learner(optimizer=None, weights_seed=0, **params):
    """A learner of three dimensions whose embedding of an image is its pixels times a matrix plus a vector."""
    initializer = keras.initializers.RandomNormal(seed=weights_seed)
    dense = keras.layers.Dense(3, kernel_initializer=initializer, bias_initializer=initializer, name="embedding")
    network = keras.Sequential(
        [keras.Input(SHAPE, name="images"), keras.layers.Flatten(name="flatten"), dense], name="network"
    )
    if optimizer is not None:
        optimizer.build(network.trainable_variables)
    return Learner(Params(**{"embedding_size": 3, **params}), network, optimizer)


def weights_of(learner):
    """The matrix (6, 3) and the vector (3,) of a linear learner, in float64."""
    return [variable.numpy().astype(np.float64) for variable in learner.network.trainable_variables]


def embed(learner, images):
    """What a linear learner makes of images, in float64."""
    kernel, bias = weights_of(learner)
    return images.reshape(len(images), math.prod(SHAPE)) / 255 @ kernel + bias


def bits_of(variables):
    """The variables as bytes, so that equal means equal bit for bit."""
    return [variable.numpy().tobytes() for variable in variables]
