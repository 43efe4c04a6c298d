"""What becomes of images on the device: scaled exactly, moved within limits, by a draw that (seed, step) decides."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from model.training import augmentation


def test_images_are_scaled_to_one():
    prepared = augmentation.prepare_images(tf.constant([[[[0], [51], [255]]]], tf.uint8))
    np.testing.assert_allclose(np.ravel(prepared), [0, 0.2, 1], rtol=1e-6)


def augment(images, step=1, seed=230, **options):
    step = tf.constant(step, tf.int64)
    return augmentation.augment_images(tf.constant(images, tf.float32), seed, step, **options).numpy()


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
        monkeypatch.setattr(augmentation, limit, 0.0)
    images = np.random.default_rng(0).random((3, 16, 16, 1)).astype(np.float32)
    draw = tf.random.stateless_uniform((7, 3), [230, 1], -1.0, 1.0, alg="philox").numpy()
    shifts = draw[4:6] * 0.08 * 16
    expected = [
        scipy.ndimage.shift(image[..., 0], (-dy, -dx), order=1, mode="grid-constant")
        for image, dx, dy in zip(images, *shifts, strict=True)
    ]
    np.testing.assert_allclose(augment(images)[..., 0], expected, atol=1e-5)
