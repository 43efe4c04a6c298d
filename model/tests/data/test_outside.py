"""Images that belong to no data set become what they would be in one, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from model.common.errors import UserError
from model.data import datasets, outside
from model.data.outside import OutsideImages
from model.params import Params
from model.tests.images import COLOUR, GREY, save

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 2**12, (11, 8)).astype(np.uint16)


def write_class_folders(folder, with_colour):
    """Images of several sizes and kinds: bits, grey, 16 bits, transparent, a palette."""
    bits = Image.fromarray(RANDOM.integers(0, 2, (13, 13), np.uint8) * 255).convert("1")
    pictures = [
        bits,
        Image.fromarray(GREY),
        Image.fromarray(DEEP),
        bits.convert("L").transpose(Image.Transpose.ROTATE_90),
    ]
    if with_colour:
        pictures += [
            Image.fromarray(COLOUR),
            Image.fromarray(COLOUR).convert("P"),
            Image.fromarray(COLOUR).convert("RGBA"),
        ]
    for number, picture in enumerate(pictures * 2):
        save(folder / "train" / "ab"[number % 2] / f"{number:02}.png", picture)
    save(folder / "test" / "a" / "0.png", GREY)
    return folder


@pytest.mark.parametrize("with_colour", [False, True])
@pytest.mark.parametrize("image_fit", ["stretch", "crop", "pad"])
def test_they_are_decoded_as_the_images_of_class_folders(tmp_path, with_colour, image_fit, monkeypatch):
    monkeypatch.setattr(outside, "_BYTES_OF_A_BLOCK", 200)
    folder = write_class_folders(tmp_path, with_colour)
    params = Params(dataset="mine", image_size=7, image_fit=image_fit, image_bits=12)
    data = datasets.load_for(params, folder)
    assert data.train.images.shape[3] == (3 if with_colour else 1)
    paths = sorted((folder / "train").rglob("*.png"))
    blocks = list(OutsideImages(paths).blocks(data, params))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), data.train.images)


def test_what_differs_in_size_and_colour_is_brought_to_that_of_the_data(tmp_path):
    """Digits are 8x8 and grey: black on white stays so, and of colours the luminance is taken."""
    params = Params(dataset="digits")
    data = datasets.load_for(params, None)
    white = np.full((105, 105), 255, np.uint8)
    white[45:60] = 0
    files = [
        save(tmp_path / "1.png", Image.fromarray(white).convert("1")),
        save(tmp_path / "2.png", np.full((20, 30, 3), (200, 100, 50), np.uint8)),
    ]
    (images,) = OutsideImages(files).blocks(data, params)
    assert images.shape == (2, 8, 8, 1) and images.dtype == np.uint8
    assert (images[0, [0, 1, 6, 7]] == 255).all() and (images[0, 3:5] < 128).all()
    assert (images[1] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


def test_grey_images_are_spread_over_the_channels(tmp_path):
    folder = write_class_folders(tmp_path / "data", with_colour=True)
    params = Params(dataset="mine", image_size=7)
    (images,) = OutsideImages([save(tmp_path / "1.png", GREY)]).blocks(datasets.load_for(params, folder), params)
    assert images.shape == (1, 7, 7, 3) and (images == images[..., :1]).all()


@pytest.mark.parametrize("on_damaged_image", ["stop", "skip"])
def test_a_damaged_image_is_one_line(tmp_path, on_damaged_image):
    params = Params(dataset="digits", on_damaged_image=on_damaged_image)
    damaged = tmp_path / "2.png"
    damaged.write_bytes(save(tmp_path / "1.png", GREY).read_bytes()[:60])
    with pytest.raises(UserError, match=r"2\.png: no readable image") as raised:
        list(OutsideImages([tmp_path / "1.png", damaged]).blocks(datasets.load_for(params, None), params))
    assert "\n" not in str(raised.value)
