"""Image files that belong to no data set -> what they would be if they were images of one.

They are decoded as the image files of that data set are, and keep their polarity: nothing is inverted or cropped, as
`predict.py` does with images from anywhere. What differs in size or colour is brought to those of the data set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.data import image_files
from model.data.dataset import Dataset
from model.data.datasets import decoding_of
from model.data.image_files import DamagedImage, Decoded
from model.data.reading import decode
from model.params import Params

# Bytes of decoded images that are in memory at a time.
_BYTES_OF_A_BLOCK = 2**26


@dataclass(frozen=True)
class OutsideImages:
    """Image files that belong to no data set, at least one."""

    paths: Sequence[Path]

    def blocks(self, data: Dataset, params: Params) -> Iterator[np.ndarray]:
        """Decodes the files, in their order, some at a time.

        Args:
            data: What the images become images of.
            params: How its image files are decoded.

        Yields:
            (n, H, W, C) uint8, of the height, width and channels of the data's images.

        Raises:
            UserError: A file cannot be decoded.
        """
        shape = data.train.images.shape[1:]
        size = max(1, _BYTES_OF_A_BLOCK // int(np.prod(shape)))
        for start in range(0, len(self.paths), size):
            yield np.stack(
                [_like(image, shape, params) for image in decode(self.paths[start : start + size], decoding_of(params))]
            )


def _like(image: Decoded | DamagedImage, shape: tuple[int, int, int], params: Params) -> np.ndarray:
    """Returns an image of this height, width and number of channels."""
    if isinstance(image, DamagedImage):
        raise image
    pixels = image_files.resize(image.pixels, shape[:2], params.image_fit)
    if pixels.shape[2] > shape[2]:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
    return np.broadcast_to(pixels, shape)
