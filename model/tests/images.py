"""Image files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(1)
COLOUR = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)  # H, W, C
GREY = COLOUR[..., 0].copy()


def save(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    """Writes pixels, or a picture of Pillow, to a file whose folder need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path
