"""What training and scoring consume: images in an order, and batches that the data can fill."""

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import input_fn
from model.data.dataset import Dataset, Split
from model.data.partition import divide
from model.params import Params
from model.tests import oracles


def dataset(num_classes=3, per_class=10):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)  # class by class, like a folder
    split = Split(rng.integers(0, 256, (len(labels), 4, 4, 1), np.uint8), labels)
    return Dataset("small", split, split, tuple("abc"))


def test_training_input():
    data = input_fn.train_input_fn(divide(dataset(), Params(batch_size=12)), Params(batch_size=12))
    assert data.steps_per_epoch == 2.5
    assert [data.steps_in(epochs) for epochs in (1, 2, 3)] == [3, 5, 8]
    assert sorted(np.concatenate([data.batches(step) for step in range(5)])) == sorted([*range(30)] * 2)


def test_p_x_k_input():
    params = Params(batch_size=6, num_classes_per_batch=2, num_images_per_class=3)
    data = input_fn.train_input_fn(divide(dataset(), params), params)
    assert sorted(np.bincount(data.labels[data.batches(0)], minlength=3)) == [0, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 31}, "'batch_size' must be at most the 30 training images of small, received 31"),
        (
            {"batch_size": 8, "num_classes_per_batch": 4, "num_images_per_class": 2},
            "'num_classes_per_batch' must be at most the 3 training classes of small, received 4",
        ),
        (
            {"batch_size": 31, "triplet_strategy": "offline_hard"},
            "'batch_size' must be at most the 30 training images of small, received 31",
        ),
    ],
)
def test_batches_that_the_data_cannot_fill(changes, message):
    with pytest.raises(UserError, match=message):
        input_fn.train_input_fn(divide(dataset(), Params(**changes)), Params(**changes))


@pytest.mark.parametrize(("num_classes", "per_class", "found"), [(1, 10, "has 1 and 10"), (10, 1, "has 10 and 0")])
def test_offline_mining_needs_classes_and_pairs(num_classes, per_class, found):
    data = dataset(num_classes, per_class)
    params = Params(batch_size=10, triplet_strategy="offline_semi_hard")
    with pytest.raises(
        UserError, match=f"'triplet_strategy' \"offline_semi_hard\" needs two training classes.*{found}"
    ):
        input_fn.train_input_fn(divide(data, params), params)


@pytest.mark.parametrize("changes", [{}, {"num_classes_per_batch": 3, "num_images_per_class": 2}])
def test_classes_of_one_image_each_have_nothing_to_teach(changes):
    params = Params(batch_size=6, **changes)
    with pytest.raises(UserError, match=r"no class of small has two images to learn from, .*; add images$"):
        input_fn.train_input_fn(divide(dataset(num_classes=8, per_class=1), params), params)


def test_classes_that_are_too_small_for_p_x_k_are_counted():
    labels = np.repeat(np.arange(5, dtype=np.int32), [1, 1, 3, 4, 9])
    balanced = Params(batch_size=8, num_classes_per_batch=2, num_images_per_class=4)
    line = input_fn.classes_too_small(labels, balanced)
    assert line.startswith("3 of 5 training classes have fewer than 'num_images_per_class' = 4 images, and 2 have one ")
    assert input_fn.classes_too_small(labels[labels > 2], balanced) == ""
    assert input_fn.classes_too_small(labels, Params(batch_size=8)) == ""
    assert input_fn.classes_too_small(labels[labels > 1], balanced).startswith("1 of 3 ")
    assert "alone" not in input_fn.classes_too_small(labels[labels > 1], balanced)


def test_evaluation_sees_every_image_once_and_mixes_the_classes():
    data = input_fn.eval_input_fn(divide(dataset(), Params(batch_size=8)), Params(batch_size=8))
    assert sorted(np.concatenate(data.batches)) == list(range(30))
    assert [len(batch) for batch in data.batches] == [8, 8, 8, 6]
    assert all(len(set(data.labels[batch])) > 1 for batch in data.batches)
    order = np.argsort(oracles.drawn(Params().seed, 0, 2, 0, 30), kind="stable")  # the same in every version
    np.testing.assert_array_equal(np.concatenate(data.batches), order)


def test_what_validates_is_neither_learned_from_nor_searched_nor_a_test_image():
    """Each image of 6 classes has its number as its pixels: 0 to 203 to train on, 204 to 251 to test."""
    numbers = np.arange(252, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.tile(np.arange(6, dtype=np.int32), 42)
    data = Dataset("small", Split(numbers[:204], labels[:204]), Split(numbers[204:], labels[204:]), tuple("abcdef"))

    def seen(images):
        return set(images.ravel().tolist())

    for asked in ({"validation_size": 40}, {"validation_classes": [1, 2]}):
        params = Params(batch_size=10, holdout_classes=[3, 4], **asked)
        train = input_fn.train_input_fn(divide(data, params), params)
        validation = input_fn.validation_input_fn(divide(data, params), params)
        parts = [seen(validation.images), seen(validation.gallery_images), seen(train.images), set(range(204, 252))]
        assert not parts[0] & (parts[1] | parts[2] | parts[3]) and not parts[2] & parts[3]
        assert not (set(train.labels) | set(validation.labels)) & {3, 4}
        if "validation_size" in asked:
            assert len(parts[0]) == 40 and parts[1] == parts[2]
        else:
            assert set(validation.labels) == set(validation.gallery_labels) == {1, 2} and set(train.labels) == {0, 5}
        test = input_fn.eval_input_fn(divide(data, params), params)
        assert (seen(test.images), seen(test.gallery_images)) == (set(range(204, 252)), set(range(204)))
        assert test.groups == {"seen": tuple(sorted(set(train.labels.tolist()))), "unseen": (3, 4)}
    assert input_fn.eval_input_fn(divide(data, Params()), Params()).groups == {}
