"""What learns, saved and restored: bit for bit, all of it or nothing, and only what fits."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.common.errors import UserError
from model.params import Params
from model.tests.training.learners import SHAPE, bits_of, images, linear_learner
from model.training import checkpoints
from model.training.checkpoints import Checkpoint
from model.training.learner import Learner, MinedRound
from model.training.run_state import RunState

OFFLINE = {"triplet_strategy": "offline_hard", "batch_size": 4, "mining_size": 8}


def random_learner(seed):
    """A learner with all that changes in a step: weights, moving averages, random states, and those of Adam."""
    initializer = keras.initializers.RandomNormal(seed=seed)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dropout(0.5, seed=seed, name="first"),
        keras.layers.Dense(4, kernel_initializer=initializer, name="hidden"),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.Dropout(0.5, seed=seed + 1, name="second"),
        keras.layers.Dense(3, kernel_initializer=initializer, name="embedding"),
    ]
    network = keras.Sequential(layers, name="network")
    optimizer = keras.optimizers.Adam(0.01, name="adam")
    optimizer.build(network.trainable_variables)
    return Learner(Params(embedding_size=3), network, optimizer)


def make_steps(learner, count):
    for _ in range(count):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(learner.network(images(8) / np.float32(255), training=True) ** 2)
        weights = learner.network.trainable_variables
        learner.optimizer.apply(tape.gradient(loss, weights), weights)


def variables(learner):
    return [*learner.network.variables, *learner.optimizer.variables]


def save_and_load(learner, model_dir):
    return checkpoints.load(learner.save(model_dir, keep=5))


def test_what_was_saved_goes_on_with_the_same_bits(tmp_path):
    learner, other = random_learner(1), random_learner(5)  # whose random states Keras counts on from those of the first
    make_steps(learner, 5)
    learner.network.get_layer("embedding").bias.assign([-0.0, 1e-45, 3.4e38])  # the ends of what float32 can say
    learner.state = RunState(5, "map_at_r", 0.25, 4, 1, "sha", "code", 3, 0.5)
    make_steps(other, 2)
    other.restore(save_and_load(learner, tmp_path))
    assert other.state == learner.state
    assert len(bits_of(variables(learner))) == 4 + 4 + 2 + 2 + 2 * 6  # weights, averages, random states; Adam's
    assert bits_of(variables(other)) == bits_of(variables(learner))
    for one in (learner, other):
        one.network.get_layer("embedding").bias.assign([0.0, 0.0, 0.0])
        make_steps(one, 3)
    assert bits_of(variables(other)) == bits_of(variables(learner))


def test_names_tell_what_the_tensors_are(tmp_path):
    """Those who read a checkpoint without this program know the tensors by them."""
    random_learner(0)  # after which Keras counts random generators from 2
    learner = random_learner(1)
    tensors = save_and_load(learner, tmp_path).tensors
    assert {name for name in tensors if not name.startswith(("run/", "adam/"))} == {
        "network/hidden/kernel", "network/hidden/bias", "network/embedding/kernel", "network/embedding/bias",
        "network/norm/gamma", "network/norm/beta", "network/norm/moving_mean", "network/norm/moving_variance",
        "seed_generator/seed_generator_state", "seed_generator_1/seed_generator_state",
    }  # fmt: skip
    assert Params.model_validate_json(tensors["run/params"].item()) == learner.params
    np.testing.assert_array_equal(tensors["network/hidden/kernel"], learner.network.get_layer("hidden").kernel)


def test_params_decide_the_learning_rate(tmp_path):
    learner = linear_learner(keras.optimizers.Adam(0.5, name="adam"))
    learner.optimizer.iterations.assign(7)
    resumed = linear_learner(keras.optimizers.Adam(0.125, name="adam"))
    resumed.restore(save_and_load(learner, tmp_path))
    assert float(resumed.optimizer.learning_rate) == 0.125
    assert int(resumed.optimizer.iterations) == 7


def test_who_does_not_learn_needs_no_optimizer(tmp_path, caplog):
    learner = linear_learner(keras.optimizers.Adam(0.5, name="adam"), weights_seed=1)
    user = linear_learner(weights_seed=2, margin=0.25)
    with caplog.at_level("INFO"):
        user.restore(save_and_load(learner, tmp_path))
    assert bits_of(user.network.variables) == bits_of(learner.network.variables)
    assert caplog.messages == []  # nothing is going to be learned under another margin


def test_changed_parameters_are_logged_and_remembered(tmp_path, caplog):
    learner = linear_learner(keras.optimizers.SGD(0.1, name="sgd"), margin=0.5)
    learner.state = RunState(10)
    resumed = linear_learner(keras.optimizers.SGD(0.1, name="sgd"), margin=0.25)
    with caplog.at_level("INFO"):
        resumed.restore(save_and_load(learner, tmp_path))
    assert caplog.messages == ["'margin' is 0.25 in params.json and was 0.5 until step 10."]
    assert [entry["params"] for entry in resumed.state.changes] == [{"margin": 0.5}, {"margin": 0.25}]


def test_checkpoints_of_older_versions_do_not_tell_the_size_of_images(tmp_path):
    learner = linear_learner(keras.optimizers.SGD(0.1, name="sgd"), weights_seed=1)
    checkpoint = save_and_load(learner, tmp_path)
    other = linear_learner(keras.optimizers.SGD(0.1, name="sgd"), weights_seed=2)
    other.restore(Checkpoint(checkpoint.path, without(checkpoint.tensors, "run/image_shape")))
    assert bits_of(other.network.variables) == bits_of(learner.network.variables)


# ------------------------------------------------------------------------------------------- what does not fit


def without(tensors, name):
    return {other: tensor for other, tensor in tensors.items() if other != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors: without(tensors, "network/embedding/bias"), "holds no 'network/embedding/bias': .* folder$"),
        (lambda tensors: without(tensors, "adam/iteration"), "holds no 'adam/iteration'"),
        (
            lambda tensors: {**tensors, "network/embedding/bias": np.zeros(4, np.float32)},
            r"'network/embedding/bias' has shape \(4,\), the network of params.json needs \(3,\); use a new folder$",
        ),
        (
            lambda tensors: {**tensors, "run/params": np.array(Params(embedding_size=4).to_json().encode(), object)},
            "'embedding_size' is 3 in params.json and was 4 when this was saved",
        ),
        (lambda tensors: without(tensors, "run/params"), "not a checkpoint of this program"),
        (
            lambda tensors: {**tensors, "run/image_shape": np.array([9, 9, 1])},
            "trained on images of 9x9x1, and these are of .*; set image_size back, or use a new folder$",
        ),
        (lambda tensors: {**tensors, "run/image_shape": np.array(7)}, "trained on images of 7, and"),
    ],
    ids=["a weight", "the optimizer", "a shape", "parameters", "foreign", "images", "no images"],
)
def test_a_checkpoint_of_something_else_changes_nothing(tmp_path, spoil, message):
    """The misfit is at the end: what comes before has not been taken over."""
    read = save_and_load(linear_learner(keras.optimizers.Adam(name="adam"), weights_seed=1), tmp_path)
    learner = linear_learner(keras.optimizers.Adam(name="adam"), weights_seed=2)
    learner.state, before = RunState(3), bits_of(variables(learner))
    with pytest.raises(UserError, match=message) as raised:
        learner.restore(checkpoints.Checkpoint(read.path, spoil(read.tensors)))
    assert str(raised.value).startswith(f"{read.path}: ") and "\n" not in str(raised.value)
    assert learner.state == RunState(3) and bits_of(variables(learner)) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["network/embedding/bias", "adam/network_embedding_kernel_velocity"])
def test_weights_that_are_not_numbers_are_not_saved(tmp_path, name, value):
    learner = linear_learner(keras.optimizers.Adam(name="adam"))
    learner.state = RunState(global_step=10)
    saved = learner.save(tmp_path, keep=5)
    learner.state = RunState(global_step=11)
    (broken,) = [variable for variable in variables(learner) if variable.path == name]
    content = broken.numpy()
    content.flat[-1] = value
    broken.assign(content)
    with pytest.raises(UserError, match=f"'{name}' holds NaN or infinity at step 11, .* lower learning_rate"):
        learner.save(tmp_path, keep=5)
    assert checkpoints.list_checkpoints(tmp_path) == [saved]


def test_layers_need_different_names(tmp_path):
    first = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="same")], name="same")
    second = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="same")], name="same")

    class Both:
        variables = first.variables + second.variables

    with pytest.raises(ValueError, match="Expected layers with different names"):
        Learner(Params(), Both()).save(tmp_path, 5)


# ------------------------------------------------------------------------------------------- mined triplets


@pytest.mark.parametrize(
    ("changes", "is_kept"),
    [
        ({}, True),
        ({"learning_rate": 0.5, "margin": 0.25, "num_epochs": 7}, True),
        ({"triplet_strategy": "offline_semi_hard"}, False),
        ({"triplet_strategy": "batch_all", "mining_size": None}, False),
        ({"mining_size": 12}, False),
        ({"batch_size": 8}, False),
        ({"distance": "squared_euclidean"}, False),
        ({"seed": 1}, False),
    ],
)
def test_mined_triplets_are_kept_while_they_would_be_mined_again(tmp_path, changes, is_kept):
    learner = linear_learner(**OFFLINE)
    learner.mined = MinedRound(2**33, np.arange(24, dtype=np.int32).reshape(2, 12))
    resumed = linear_learner(**{**OFFLINE, **changes})
    resumed.restore(save_and_load(learner, tmp_path))
    if not is_kept:
        assert resumed.mined is None
        return
    assert resumed.mined.number == 2**33 and resumed.mined.batches.dtype == np.int32
    np.testing.assert_array_equal(resumed.mined.batches, learner.mined.batches)


def test_a_run_that_mines_nothing_saves_no_triplets(tmp_path):
    read = save_and_load(linear_learner(), tmp_path)
    assert not [name for name in read.tensors if name.startswith("mined/")]
    learner = linear_learner()
    learner.restore(read)
    assert learner.mined is None
