"""Image files for tests."""

import struct
import zlib
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


def png_of_size(
    width: int, height: int, depth: int = 8, colours: int = 0, rows: bytes = b"", transparent: bytes | None = None
) -> bytes:
    """A PNG that promises so many pixels; `rows` are what it holds, `transparent` names what is not seen of them."""
    header = struct.pack(">2I5B", width, height, depth, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent is not None:
        chunks.insert(1, (b"tRNS", transparent))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
