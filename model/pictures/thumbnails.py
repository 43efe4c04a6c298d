"""Many images in one: thumbnails on a square grid."""

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from model.common.images import Images, blocks

# The largest side of a picture that browsers and TensorBoard show, in pixels.
MAX_SIDE = 8192

# Images with sides up to this are kept without a loss in a page.
SMALL = 32

# Sides of a thumbnail, in pixels: smaller images are enlarged by a whole number, larger ones shrunk.
_MIN_THUMBNAIL, MAX_THUMBNAIL = 24, 96


def make_thumbnails(images: Images, max_side: int = MAX_SIDE) -> np.ndarray:
    """Resizes images so that a square grid of all of them has at most so many pixels a side.

    Args:
        images: uint8, of shape (N, H, W, C), N at least 1.
        max_side: Of the grid.

    Returns:
        uint8 array of shape (N, h, w, C), in the proportions of the images.
    """
    count, height, width, channels = images.shape
    longest = max(height, width)
    room = max(1, min(MAX_THUMBNAIL, max_side // math.ceil(math.sqrt(count))))
    if longest > room:
        height, width = (max(1, side * room // longest) for side in (height, width))
        resized = np.empty((count, height, width, channels), np.uint8)
        for i, image in enumerate(image for block in blocks(images) for image in block):
            picture = Image.fromarray(image if channels == 3 else image[..., 0])
            picture = picture.resize((width, height), Image.Resampling.BOX)
            resized[i] = np.asarray(picture).reshape(height, width, channels)
        return resized
    factor = max(1, min(room // longest, -(-_MIN_THUMBNAIL // longest)))
    return images[:].repeat(factor, axis=1).repeat(factor, axis=2)


def make_sprite(thumbnails: np.ndarray) -> Image.Image:
    """Lays thumbnails (N, h, w, C) out, row by row, on a square grid of ceil(sqrt(N)) a side; the rest is black."""
    count, height, width, channels = thumbnails.shape
    side = math.ceil(math.sqrt(count))
    cells = np.zeros((side * side, height, width, channels), np.uint8)
    cells[:count] = thumbnails
    grid = cells.reshape(side, side, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(side * height, side * width, channels)
    return Image.fromarray(grid if channels == 3 else grid[..., 0])


def fit_webp(sprite: Image.Image, most_bytes: int, lossless: bool) -> bytes | None:
    """Returns a picture as WebP in the best quality that is small enough; None where none is.

    Args:
        sprite: At most 16,383 pixels a side.
        most_bytes: How large the file may be.
        lossless: Whether to try without a loss first: for small images, of which every pixel is seen.
    """
    options: list[dict[str, Any]] = [{"quality": quality, "method": 2} for quality in (80, 60, 40, 20)]
    for option in [{"lossless": True, "quality": 50, "method": 2}] * lossless + options:
        picture = as_bytes(functools.partial(sprite.save, format="WEBP", **option))
        if len(picture) <= most_bytes:
            return picture
    return None


def as_webp(image: np.ndarray) -> bytes:
    """Returns an image (H, W, C) as WebP, at most as large as a thumbnail; a small one without a loss."""
    (small,) = make_thumbnails(image[np.newaxis])
    picture = Image.fromarray(small if small.shape[2] == 3 else small[..., 0])
    is_small = max(image.shape[:2]) <= SMALL
    return as_bytes(lambda file: picture.save(file, "WEBP", lossless=is_small, quality=80, method=4))


def as_bytes(save: Callable[[io.BytesIO], object]) -> bytes:
    """Returns what a function writes that saves a picture to a file."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()
