"""A contact sheet: rows of images with a line of text below each, several rows beside each other."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.common.text import printable
from model.pictures.thumbnails import as_bytes, make_thumbnails

# Images with their captions: the one that the row is about, and those to compare it with.
Row = Sequence[tuple[np.ndarray, str]]

_ROWS_BESIDE = 3
_SIDE = 96  # of the place for an image, in pixels
_TEXT, _GAP, _BETWEEN = 12, 8, 24  # height of a line of text; between images; between rows beside each other
_CHARACTERS = 18  # of a caption at most, if they are narrow enough
# That of the other pictures, which knows most alphabets; Pillow's own has ASCII and little more.
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def draw_png(rows: Sequence[Row], title: str = "") -> bytes:
    """Draws rows as `draw` does, and returns the content of a PNG file."""
    return as_bytes(lambda file: draw(rows, title).save(file, "PNG"))


def draw(rows: Sequence[Row], title: str = "") -> Image.Image:
    """Draws rows of images, in reading order.

    Args:
        rows: At least one. Each has as many images, (H, W, C) uint8, all of one shape. Of a caption the first line is
            black and others are grey.
        title: What stands above them, in lines that fit above a single row.
    """
    thumbnails = make_thumbnails(np.stack([image for row in rows for image, _ in row]), max_side=2**20)
    factor = max(1, _SIDE // max(thumbnails.shape[1:3]))  # small images are enlarged by a whole number
    thumbnails = thumbnails.repeat(factor, axis=1).repeat(factor, axis=2)
    height = thumbnails.shape[1]
    captions = [caption.split("\n") for row in rows for _, caption in row]
    per_row, lines = len(rows[0]), max(map(len, captions))
    row_width = per_row * (_SIDE + _GAP) + _BETWEEN  # as captions need, however narrow images are
    row_height = height + lines * _TEXT + _BETWEEN
    beside = min(_ROWS_BESIDE, len(rows))
    above = _GAP + (title.count("\n") + 1) * _TEXT + _GAP if title else _GAP
    size = beside * row_width + _GAP, above + -(-len(rows) // beside) * row_height
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(_FONT, _TEXT - 2)
    for line, text in enumerate(title.split("\n")):
        pen.text((_GAP, _GAP + line * _TEXT), text, "black", font)
    for number, (thumbnail, caption) in enumerate(zip(thumbnails, captions, strict=True)):
        row, place = divmod(number, per_row)
        left = _GAP + row % beside * row_width + place * (_SIDE + _GAP)
        top = above + row // beside * row_height
        picture = Image.fromarray(thumbnail if thumbnail.shape[2] == 3 else thumbnail[..., 0])
        sheet.paste(picture, (left, top))
        for line, text in enumerate(caption):
            place_of_line = left, top + height + line * _TEXT
            pen.text(place_of_line, _fitting(text, font), "black" if line == 0 else "dimgrey", font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Returns a caption as it fits below an image."""
    length = _CHARACTERS
    while font.getlength(shown := printable(text, length)) > _SIDE and length > 1:
        length -= 1
    return shown
