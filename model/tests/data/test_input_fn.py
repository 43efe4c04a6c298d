"""What a step consumes: scaling, augmentation, and batches that fit the data."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from model.data import input_fn
from model.data.datasets import Dataset, Split
from model.common.errors import UserError
from model.params import Params


def dataset(num_classes=3, per_class=10):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)  # class by class, like a folder
    split = Split(rng.integers(0, 256, (len(labels), 4, 4, 1), np.uint8), labels)
    return Dataset("small", split, split, tuple("abc"))


def test_images_are_scaled_to_one():
    prepared = input_fn.prepare_images(tf.constant([[[[0], [51], [255]]]], tf.uint8))
    np.testing.assert_allclose(np.ravel(prepared), [0, 0.2, 1], rtol=1e-6)


def test_training_input():
    data = input_fn.train_input_fn(dataset(), Params(batch_size=12))
    assert data.steps_per_epoch == 2.5
    assert [data.steps_in(epochs) for epochs in (1, 2, 3)] == [3, 5, 8]
    assert sorted(np.concatenate([data.batches(step) for step in range(5)])) == sorted([*range(30)] * 2)


def test_p_x_k_input():
    params = Params(batch_size=6, num_classes_per_batch=2, num_images_per_class=3)
    data = input_fn.train_input_fn(dataset(), params)
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
        input_fn.train_input_fn(dataset(), Params(**changes))


@pytest.mark.parametrize(("num_classes", "per_class", "found"), [(1, 10, "has 1 and 10"), (10, 1, "has 10 and 0")])
def test_offline_mining_needs_classes_and_pairs(num_classes, per_class, found):
    data = dataset(num_classes, per_class)
    params = Params(batch_size=10, triplet_strategy="offline_semi_hard")
    with pytest.raises(
        UserError, match=f"'triplet_strategy' \"offline_semi_hard\" needs two training classes.*{found}"
    ):
        input_fn.train_input_fn(data, params)


def test_evaluation_sees_every_image_once_and_mixes_the_classes():
    data = input_fn.eval_input_fn(dataset(), Params(batch_size=8))
    assert sorted(np.concatenate(data.batches)) == list(range(30))
    assert [len(batch) for batch in data.batches] == [8, 8, 8, 6]
    assert all(len(set(data.labels[batch])) > 1 for batch in data.batches)


def test_what_validates_is_neither_learned_from_nor_searched_nor_a_test_image():
    """Each image of 6 classes has its number as its pixels: 0 to 203 to train on, 204 to 251 to test."""
    numbers = np.arange(252, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.tile(np.arange(6, dtype=np.int32), 42)
    data = Dataset("small", Split(numbers[:204], labels[:204]), Split(numbers[204:], labels[204:]), tuple("abcdef"))

    def seen(images):
        return set(images.ravel().tolist())

    for asked in ({"validation_size": 40}, {"validation_classes": [1, 2]}):
        params = Params(batch_size=10, holdout_classes=[3, 4], **asked)
        train = input_fn.train_input_fn(data, params)
        validation = input_fn.validation_input_fn(data, params)
        parts = [seen(validation.images), seen(validation.gallery_images), seen(train.images), set(range(204, 252))]
        assert not parts[0] & (parts[1] | parts[2] | parts[3]) and not parts[2] & parts[3]
        assert not (set(train.labels) | set(validation.labels)) & {3, 4}
        if "validation_size" in asked:
            assert len(parts[0]) == 40 and parts[1] == parts[2]
        else:
            assert set(validation.labels) == set(validation.gallery_labels) == {1, 2} and set(train.labels) == {0, 5}
        test = input_fn.eval_input_fn(data, params)
        assert (seen(test.images), seen(test.gallery_images)) == (set(range(204, 252)), set(range(204)))
        assert test.groups == {"seen": tuple(sorted(set(train.labels.tolist()))), "unseen": (3, 4)}
    assert input_fn.eval_input_fn(data, Params()).groups == {}


def augment(images, step=1, seed=230, **options):
    step = tf.constant(step, tf.int64)
    return input_fn.augment_images(tf.constant(images, tf.float32), seed, step, **options).numpy()


def test_augmentation_is_a_function_of_seed_and_step():
    images = np.random.default_rng(0).random((5, 28, 28, 3))
    first = augment(images)
    np.testing.assert_array_equal(first, augment(images))
    assert not np.allclose(first, augment(images, step=2))
    assert not np.allclose(first, augment(images, seed=231))


def test_augmentation_differs_between_the_images_of_a_batch():
    images = np.repeat(np.random.default_rng(0).random((1, 28, 28, 1)), 6, axis=0)
    assert len({image.tobytes() for image in augment(images)}) == 6


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_augmentation_is_an_affine_map_within_its_limits(strength):
    """The map is fitted to what happens to a picture of its own coordinates, and decomposed."""
    y, x = np.mgrid[0:41, 0:41].astype(float)
    images = np.repeat(np.stack([x, y, np.ones_like(x)], axis=-1)[None], 200, axis=0)
    center, sizes, inside = 20.0, [], 12
    moved = augment(images, strength=strength)
    for image in moved:
        part = image[inside:-inside, inside:-inside].reshape(-1, 3)
        assert np.allclose(part[:, 2], 1)  # nothing from outside comes in this far
        points = np.stack([x, y], axis=-1)[inside:-inside, inside:-inside].reshape(-1, 2) - center
        design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        fitted, residuals, *_ = np.linalg.lstsq(design, part[:, :2] - center, rcond=None)
        assert residuals.max() < 1e-4  # affine, exactly
        matrix, shift = fitted[:2].T, fitted[2]
        # matrix = rotation x [[zoom_x, shear], [0, zoom_y]]
        angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        upper = np.array([[c := np.cos(np.radians(angle)), s := np.sin(np.radians(angle))], [-s, c]]) @ matrix
        sizes.append([angle, upper[0, 0] - 1, upper[1, 1] - 1, upper[0, 1], *(shift / 41)])
    extremes = np.abs(sizes).max(axis=0)
    limits = strength * np.array([10, 0.1, 0.1, 0.1, 0.08, 0.08])
    assert (extremes <= limits * 1.001).all()
    assert (extremes >= limits * 0.9).all()  # 200 draws come close to each limit
    assert (np.abs(np.mean(sizes, axis=0)) < limits * 0.2).all()  # and lie on both sides


def test_half_of_the_images_are_mirrored_before_they_are_moved():
    images = np.random.default_rng(0).random((400, 6, 9, 1)).astype(np.float32)
    moved, mirrored, flipped = augment(images), augment(images[:, :, ::-1]), augment(images, flip=True)
    as_they_are, mirror = ((flipped == other).all(axis=(1, 2, 3)) for other in (moved, mirrored))
    assert (as_they_are ^ mirror).all() and 160 < mirror.sum() < 240


def test_augmentation_samples_bilinearly(monkeypatch):
    """A pure shift by a known amount, against SciPy."""
    for limit in ("_MAX_ROTATION", "_MAX_SHEAR", "_MAX_ZOOM"):
        monkeypatch.setattr(input_fn, limit, 0.0)
    images = np.random.default_rng(0).random((3, 16, 16, 1)).astype(np.float32)
    draw = tf.random.stateless_uniform((7, 3), [230, 1], -1.0, 1.0, alg="philox").numpy()
    shifts = draw[4:6] * 0.08 * 16
    expected = [
        scipy.ndimage.shift(image[..., 0], (-dy, -dx), order=1, mode="grid-constant")
        for image, dx, dy in zip(images, *shifts, strict=True)
    ]
    np.testing.assert_allclose(augment(images)[..., 0], expected, atol=1e-5)
