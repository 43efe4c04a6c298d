"""What becomes of images on the device: scaled exactly, moved within limits, by a draw that (seed, step) decides."""

import colorsys
import typing

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf

from model.params import Params, augmentations_with
from model.training import augmentation

# What leaves an image as it is, for tests of one thing at a time.
STILL = {
    "augmentation": "photo", "photo_area": 1.0, "photo_aspect_ratio": 1.0, "photo_mirror": False,
    "photo_brightness": 0.0, "photo_contrast": 0.0, "photo_saturation": 0.0, "photo_hue": 0.0,
}  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114])


def test_images_are_scaled_to_one():
    prepared = augmentation.prepare_images(tf.constant([[[[0], [51], [255]]]], tf.uint8))
    np.testing.assert_allclose(np.ravel(prepared), [0, 0.2, 1], rtol=1e-6)


def augment(images, step=1, seed=230, flip=False, strength=1.0):
    kind = "affine_and_flip" if flip else "affine"
    return changed(images, step, seed=seed, augmentation=kind, augmentation_strength=strength)


def changed(images, step=1, **params):
    step = tf.constant(step, tf.int64)
    return augmentation.augment(tf.constant(images, tf.float32), Params(**params), step).numpy()


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
        scipy.ndimage.shift(image[..., 0], (-dy, -dx), order=1, mode="grid-constant", cval=median_along_edge(image))
        for image, dx, dy in zip(images, *shifts, strict=True)
    ]
    np.testing.assert_allclose(augment(images)[..., 0], expected, atol=1e-5)


def median_along_edge(image):
    height, width, _ = image.shape
    places = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    return sorted(float(image[place][0]) for place in places)[len(places) // 2]


@pytest.mark.parametrize("kind", ["affine", "affine_and_flip", "drawing"])
def test_what_comes_in_from_outside_is_background(kind):
    """Dark strokes on white do not get black corners, nor bright ones on black white corners."""
    images = np.ones((50, 20, 20, 3), np.float32)
    images[:, 6:14, 9:11] = 0
    changes = {"augmentation": kind, "augmentation_strength": 4.0, "seed": 3}
    moved, inverse = changed(images, **changes), changed(1 - images, **changes)
    corners = moved[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.min(axis=(1, 2)) > 0.99).mean() > 0.9  # strokes themselves get there now and then
    if kind != "drawing":  # where what makes bright strokes thicker makes dark ones thinner
        np.testing.assert_allclose(moved, 1 - inverse, atol=1e-5)


# What leaves a drawing as it is but for one thing.
UNMOVED = {"augmentation": "drawing", "augmentation_strength": 1e-9, "drawing_bend": 0.0, "drawing_stroke": 0.0}


def drawn_numbers(count):
    return tf.random.stateless_uniform((40, count), [230, 1], -1.0, 1.0, alg="philox").numpy()


def test_drawings_without_limits_stay_as_they_are():
    images = photos(5, 12, 9, 1)
    np.testing.assert_allclose(changed(images, **UNMOVED), images, atol=1e-5)


def test_strokes_become_thicker_and_thinner():
    """Against SciPy's morphology of grey images."""
    images, amounts = photos(6, 12, 9, 1), 0.7 * drawn_numbers(6)[7]
    assert amounts.min() < -0.1 and amounts.max() > 0.1
    moved = changed(images, **{**UNMOVED, "drawing_stroke": 0.7})
    for image, amount, found in zip(images[..., 0], amounts, moved[..., 0], strict=True):
        change = scipy.ndimage.grey_dilation if amount > 0 else scipy.ndimage.grey_erosion
        other = change(image, size=(3, 3), mode="nearest")
        np.testing.assert_allclose(found, (1 - abs(amount)) * image + abs(amount) * other, atol=1e-5)


def test_drawings_are_bent_smoothly():
    """Against SciPy's bilinear sampling; how a grid becomes a field is TensorFlow's own resizing."""
    images = photos(4, 15, 10, 1)
    grid = 0.1 * drawn_numbers(4)[8:].T.reshape(4, 4, 4, 2)
    field = tf.image.resize(grid, (15, 10), "bicubic").numpy() * (15, 10)
    moved = changed(images, **{**UNMOVED, "drawing_bend": 0.1})
    for image, beside, found in zip(images[..., 0], field, moved[..., 0], strict=True):
        where = np.mgrid[0:15, 0:10] + beside.transpose(2, 0, 1)
        expected = scipy.ndimage.map_coordinates(image, where, order=1, mode="nearest")
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(field).max() > 0.5  # of a pixel, and more


@pytest.mark.parametrize("shape", [(8, 8), (50, 30)])
def test_shifted_views_are_those_of_numpy(shape):
    images = photos(2, *shape, 3)
    down, right = max(1, round(0.04 * shape[0])), max(1, round(0.04 * shape[1]))
    views = [view.numpy() for view in augmentation.test_time_views(tf.constant(images), "shifts")]
    wider = np.pad(images, [(0, 0), (down, down), (right, right), (0, 0)], "symmetric")
    expected = []
    for dy in (-down, 0, down):
        for dx in (-right, 0, right):
            if dy or dx:
                expected.append(np.roll(wider, (dy, dx), (1, 2))[:, down:-down, right:-right])
    assert len(views) == 8
    assert {view.tobytes() for view in views} == {view.tobytes() for view in expected}


def photos(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def test_what_params_json_may_name_is_there():
    assert set(augmentation.AUGMENTATIONS) == set(typing.get_args(Params.model_fields["augmentation"].annotation))
    photo = [key for key in Params.model_fields if key.startswith("photo_")]
    assert all(augmentations_with(key) == ["photo"] for key in photo) and len(photo) == 7
    drawing = [key for key in Params.model_fields if key.startswith("drawing_")]
    assert all(augmentations_with(key) == ["drawing"] for key in drawing) and len(drawing) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_photos_without_limits_stay_as_they_are(channels):
    images = photos(5, 9, 12, channels)
    np.testing.assert_allclose(changed(images, **STILL), images, atol=1e-6)


def test_photos_are_a_function_of_seed_and_step():
    images = photos(5, 16, 16, 3)
    first = changed(images, augmentation="photo")
    np.testing.assert_array_equal(first, changed(images, augmentation="photo"))
    assert not np.allclose(first, changed(images, 2, augmentation="photo"))
    assert not np.allclose(first, changed(images, augmentation="photo", seed=231))
    assert first.min() >= 0 and first.max() <= 1 and np.isfinite(first).all()


@pytest.mark.parametrize("shape", [(41, 41), (31, 61)])
def test_parts_of_photos_lie_inside_and_within_the_limits(shape):
    """The part is read off from a picture of its own coordinates, as relative to the size."""
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    images = np.repeat(np.stack([x, y, 0 * x], axis=-1)[None], 400, axis=0)
    parts = changed(images, **{**STILL, "photo_area": 0.2, "photo_aspect_ratio": 1.5, "photo_mirror": True})
    left, right = parts[:, 0, 0, 0], parts[:, 0, -1, 0]
    top, bottom = parts[:, 0, 0, 1], parts[:, -1, 0, 1]
    steps = np.linspace(0, 1, shape[1])  # even steps from edge to edge: nothing but cut out and stretched
    np.testing.assert_allclose(parts[:, 3, :, 0], left[:, None] + (right - left)[:, None] * steps, atol=1e-5)
    assert 0.4 < (right < left).mean() < 0.6
    width, height = abs(right - left), bottom - top
    assert (height > 0).all() and max(width.max(), height.max()) <= 1 + 1e-6
    free = (width < 0.999) & (height < 0.999)  # sides that are not cut to those of the image
    area, ratio = (width * height)[free], (width / height)[free]
    assert area.min() >= 0.2 * 0.999 and area.min() < 0.25 and area.max() > 0.7
    assert ratio.max() <= 1.5 * 1.001 and ratio.min() >= 0.999 / 1.5 and ratio.max() > 1.4 and ratio.min() < 1 / 1.4
    assert top.min() >= -1e-6 and top[height < 0.8].max() > 0.3  # anywhere in it


@pytest.mark.parametrize("smallest", [0.1, 0.9, 1.0])
def test_no_part_of_a_photo_is_smaller_or_more_oblong_than_asked_for(smallest):
    """Also where a side of the part would be longer than that of the image."""
    width, height = sizes_of_parts(400, smallest, 1.5)
    assert max(width.max(), height.max()) <= 1 + 1e-5
    assert (width * height).min() >= smallest - 1e-5
    assert abs(np.log(width / height)).max() <= np.log(1.5) + 1e-5


def test_areas_of_parts_are_uniform_and_their_ratios_log_uniform():
    width, height = sizes_of_parts(2000, 0.2, 1.5)
    area = width * height
    assert scipy.stats.kstest(area, "uniform", (0.2, 0.8)).pvalue > 0.01
    fits = area < 1 / 1.5  # at any ratio
    log_ratio = np.log(width / height)[fits] / np.log(1.5)
    assert scipy.stats.kstest(log_ratio, "uniform", (-1, 2)).pvalue > 0.01


def sizes_of_parts(number, smallest, ratio):
    """Widths and heights of parts, relative to the image, read off from a picture of its own coordinates."""
    y, x = np.mgrid[0:1:9j, 0:1:9j]
    images = np.repeat(np.stack([x, y, 0 * x], axis=-1)[None], number, axis=0)
    parts = changed(images, **{**STILL, "photo_area": smallest, "photo_aspect_ratio": ratio})
    return parts[:, 0, -1, 0] - parts[:, 0, 0, 0], parts[:, -1, 0, 1] - parts[:, 0, 0, 1]


def test_parts_of_photos_are_sampled_bilinearly():
    images = photos(4, 17, 13, 3)
    parts = changed(images, **{**STILL, "photo_area": 0.3})
    y, x = np.mgrid[0:1:17j, 0:1:13j]
    coordinates = np.repeat(np.stack([x, y, 0 * x], axis=-1)[None], 4, axis=0)
    seen = changed(coordinates, **{**STILL, "photo_area": 0.3})
    for image, part, place in zip(images, parts, seen, strict=True):
        points = [place[..., 1] * 16, place[..., 0] * 12]
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(image[..., channel], points, order=1, mode="nearest")
            np.testing.assert_allclose(part[..., channel], expected, atol=1e-5)


def factor_of(images, outputs, around):
    """The one factor of each image by which its distance from `around` was multiplied, from pixels not cut off."""
    inside = (outputs > 1e-4) & (outputs < 1 - 1e-4) & (abs(images - around) > 0.05)
    factors = np.where(inside, (outputs - around) / np.where(inside, images - around, 1), np.nan)
    low, high = (np.nanpercentile(factors, q, axis=(1, 2, 3)) for q in (1, 99))
    np.testing.assert_allclose(low, high, atol=2e-3)
    return (low + high) / 2


@pytest.mark.parametrize("key", ["photo_brightness", "photo_contrast", "photo_saturation"])
def test_light_and_colors_of_photos_by_their_formulas(key):
    images = photos(200, 6, 7, 3)
    outputs = changed(images, **{**STILL, key: 0.3})
    grey = (images @ LUMA)[..., None]
    around = {
        "photo_brightness": 0 * grey,
        "photo_contrast": grey.mean(axis=(1, 2), keepdims=True),
        "photo_saturation": grey,
    }[key]
    factors = factor_of(images, outputs, around)
    assert 0.7 * 0.999 <= factors.min() < 0.73 and 1.27 < factors.max() <= 1.3 * 1.001


def test_the_hue_of_photos_is_that_of_colorsys():
    images = photos(60, 3, 4, 3)
    outputs = changed(images, **{**STILL, "photo_hue": 0.2})
    turns = []
    for image, output in zip(images.reshape(60, 12, 3), outputs.reshape(60, 12, 3), strict=True):
        before, after = (np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels]) for pixels in (image, output))
        np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-4)
        turned = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        np.testing.assert_allclose(turned, turned[0], atol=1e-3)
        turns.append(turned[0])
    assert -0.2001 <= min(turns) < -0.17 and 0.17 < max(turns) <= 0.2001


def test_grey_photos_have_no_colors():
    images = photos(5, 6, 7, 1)
    np.testing.assert_array_equal(
        changed(images, **STILL), changed(images, **{**STILL, "photo_saturation": 1.0, "photo_hue": 0.5})
    )


@pytest.mark.parametrize("augmentation_", ["photo", "drawing"])
def test_each_place_of_a_batch_has_its_own_draw(augmentation_):
    images = np.repeat(photos(1, 8, 8, 3), 6, axis=0)
    assert len({image.tobytes() for image in changed(images, augmentation=augmentation_)}) == 6


@pytest.mark.parametrize("augmentation_", ["photo", "drawing"])
def test_two_devices_change_images_as_one_does(two_devices, augmentation_):
    images, step = photos(6, 8, 9, 3), tf.constant(3, tf.int64)
    params = Params(augmentation=augmentation_)
    expected = augmentation.augment(tf.constant(images), params, step)

    @tf.function
    def changed_on_devices():
        def on_device():
            first = 3 * tf.distribute.get_replica_context().replica_id_in_sync_group
            return augmentation.augment(tf.constant(images)[first : first + 3], params, step)

        return two_devices.run(on_device)

    parts = two_devices.experimental_local_results(changed_on_devices())
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-6)
