"""Adam: the first step of each variable is one learning rate, whenever it comes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.params import Params
from model.training.adam import Adam
from model.training.model_fn import build_optimizer


def test_the_first_step_of_a_late_variable_is_one_learning_rate():
    """Adam's first step is the learning rate against the sign of the gradient, whatever its size."""
    early, late = (keras.Variable([1.0, 1.0]) for _ in range(2))
    optimizer = Adam(0.01)
    optimizer.build([early, late])
    for _ in range(50):
        optimizer.apply([tf.constant([0.3, -2.0])], [early])
    np.testing.assert_array_equal(late, [1, 1])
    for step in range(1, 6):
        optimizer.apply([tf.constant([0.3, -2.0])] * 2, [early, late])
        np.testing.assert_allclose(late, [1 - 0.01 * step, 1 + 0.01 * step], rtol=1e-5)
    np.testing.assert_allclose(early, [1 - 0.55, 1 + 0.55], rtol=1e-4)


def test_where_all_learn_from_the_beginning_it_is_adam():
    ours, theirs = keras.Variable([1.0, 2.0, 3.0]), keras.Variable([1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    pairs = (Adam(0.01), ours), (keras.optimizers.Adam(0.01), theirs)
    for _ in range(20):
        gradient = tf.constant(rng.normal(size=3), tf.float32)
        for optimizer, variable in pairs:
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("frozen_epochs", [0, 3])
def test_a_run_with_weights_may_change_how_long_they_are_frozen(frozen_epochs):
    params = Params(weights="some.weights.h5", weights_sha256="0" * 64, frozen_epochs=frozen_epochs)
    assert type(build_optimizer(params, 100)) is Adam
    assert type(build_optimizer(Params(), 100)) is keras.optimizers.Adam
