"""Contact sheets: each image and caption is where the order of the rows says."""

import io

import numpy as np
import pytest
from PIL import Image

from model.pictures import contact_sheet


def row(*greys, size=(8, 8), channels=1):
    return [(np.full((*size, channels), grey, np.uint8), f"{grey}\nsecond line") for grey in greys]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (200, 200)])
def test_rows_are_in_reading_order(size, channels):
    rows = [row(10 * i + 10, 10 * i + 11, size=size, channels=channels) for i in range(5)]
    sheet = contact_sheet.draw(rows)
    width = (sheet.width - contact_sheet._GAP) // 3
    height = (sheet.height - contact_sheet._GAP) // 2
    middle = contact_sheet._SIDE // 2 + contact_sheet._GAP
    for i in range(5):
        for place in range(2):
            left = i % 3 * width + middle + place * (contact_sheet._SIDE + contact_sheet._GAP)
            assert sheet.getpixel((left, i // 3 * height + middle)) == (10 * i + 10 + place,) * 3
    assert sheet.getpixel((2 * width + middle, height + middle)) == (255,) * 3  # no sixth row


def test_captions_are_below_their_image():
    with_caption, without = (
        contact_sheet.draw([[(np.zeros((8, 8, 1), np.uint8), text)]]).convert("L") for text in ("cat", "")
    )
    difference = np.argwhere(np.asarray(with_caption) != np.asarray(without))
    assert difference[:, 0].min() >= contact_sheet._GAP + contact_sheet._SIDE


def test_a_long_or_hostile_name_stays_below_its_image():
    blank = np.full((8, 8, 1), 255, np.uint8)
    sheet = contact_sheet.draw([[(blank, "\x1b[2J" + "W" * 500), (blank, "")]])
    assert sheet.width == contact_sheet.draw([row(0, 0)]).width
    dark = np.argwhere(np.asarray(sheet.convert("L")) < 255)
    assert 0 < dark[:, 1].max() <= contact_sheet._GAP + contact_sheet._SIDE


def test_names_of_other_alphabets_are_letters_and_no_boxes():
    def drawn(text):
        sheet = contact_sheet.draw([[(np.zeros((8, 8, 1), np.uint8), text)]]).convert("L")
        return np.asarray(sheet)[contact_sheet._GAP + contact_sheet._SIDE :].tobytes()

    box = drawn("\u72ac")
    assert drawn("\u732b") == box  # the font has no Chinese
    letters = {drawn(letter) for letter in ("\xc4", "\xe9", "\u043a", "\u03b1")}
    assert len(letters) == 4 and box not in letters


def test_a_title_stands_above_and_moves_the_rest_down():
    plain, titled = (np.asarray(contact_sheet.draw([row(9)], title).convert("L")) for title in ("", "two\nlines"))
    down = len(titled) - len(plain)
    assert down > 2 * 10 and (titled[:down] < 128).any()
    np.testing.assert_array_equal(titled[down + contact_sheet._GAP :], plain[contact_sheet._GAP :])


def test_it_is_a_png():
    assert Image.open(io.BytesIO(contact_sheet.draw_png([row(1)]))).format == "PNG"
