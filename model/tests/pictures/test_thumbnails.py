"""Thumbnails and the grid they are laid out on."""

import math

import numpy as np
import pytest

from model.pictures.thumbnails import MAX_SIDE, make_sprite, make_thumbnails


@pytest.mark.parametrize(("count", "height", "width", "channels"), [(1, 8, 8, 1), (5, 28, 28, 1), (17, 6, 9, 3)])
def test_every_image_is_in_its_cell(count, height, width, channels):
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    thumbnails = make_thumbnails(images)
    sprite = np.asarray(make_sprite(thumbnails)).reshape(
        -1, math.ceil(math.sqrt(count)) * thumbnails.shape[2], channels
    )
    side = math.ceil(math.sqrt(count))
    assert sprite.shape[:2] == (side * thumbnails.shape[1], side * thumbnails.shape[2])
    factor = thumbnails.shape[1] // height
    for index in range(count):
        row, column = divmod(index, side)
        cell = sprite[row * height * factor :, column * width * factor :][: height * factor, : width * factor]
        np.testing.assert_array_equal(cell, np.kron(images[index], np.ones((factor, factor, 1), np.uint8)))
    assert not sprite[-1, -1].any() or count == side**2  # what is left over is black


def test_small_images_are_enlarged_and_large_ones_shrunk():
    assert make_thumbnails(np.zeros((4, 8, 8, 1), np.uint8)).shape == (4, 24, 24, 1)
    assert make_thumbnails(np.zeros((4, 28, 28, 1), np.uint8)).shape == (4, 28, 28, 1)
    assert make_thumbnails(np.full((2, 200, 400, 3), 7, np.uint8)).shape == (2, 48, 96, 3)


@pytest.mark.parametrize(
    ("count", "image_side", "side"),
    [
        (85_264, 28, 28), (8_281, 90, 90), (8_282, 90, 89),  # 292 x 292 and 91 x 91, and one more
        (100_000, 25, 25), (100_000, 13, 13), (85_264, 13, 26),  # enlarged only where there is room
    ],
)  # fmt: skip
def test_a_sprite_is_never_larger_than_tensorboard_accepts(count, image_side, side):
    images = np.broadcast_to(np.uint8(200), (count, image_side, image_side, 1))
    thumbnails = make_thumbnails(images)
    assert thumbnails.shape == (count, side, side, 1)
    assert math.ceil(math.sqrt(count)) * side <= MAX_SIDE
    assert (thumbnails[[0, -1]] == 200).all()
