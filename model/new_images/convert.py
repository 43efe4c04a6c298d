"""Images from outside -> what the network was trained on, and in words what that took.

What they have to become is learned from the training images themselves. Where these lie on one background, as
scanned digits do, so should an image from outside: it is inverted if its background is the opposite one, cropped to
its content, and scaled and placed as theirs. MNIST's digits, for example, are 20 pixels large, with their centre of
mass in the middle. Where they have no common background, as photos, an image is only resized, as a folder of images
is when it is loaded. An image that is as the training images are is not touched.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.common.errors import UserError, explain, listed
from model.common.images import Images
from model.data import image_files

_log = logging.getLogger(__name__)


# Levels of 255 by which pixels of one background may differ: noise of a scan, traces of JPEG.
_TOLERANCE = 32
# The share of the border that has to be background; content may touch the rest.
_MAJORITY = 0.6
# The share of the training images that have to lie on a background for it to be that of all.
_NEARLY_ALL = 0.9
# Training images that are measured, evenly spread.
_SAMPLE, _MAX_BYTES = 2000, 2**27
# The share of the content that may lie beyond each side of its box: dust does not count.
_TRIMMED = 0.002
# Content is looked for in at most so many pixels a side, which bounds time and memory.
_MAX_SIDE = 2048


@dataclass(frozen=True)
class Framing:
    """How the training images lie on their background.

    Attributes:
        background: (C,) float32, 0 to 255.
        size: How large the content is, the longer of its sides as a fraction of the image's.
        center: Where its centre is, (y, x), as fractions of the image's sides.
        by_mass: Whether that is its centre of mass, else the middle of its box.
        peak: By how many levels its strongest pixel differs from the background; None where that varies.
        usual: (2, 5) float64, the least and the most of nearly all images: distance of their border from the
            background, size, y, x, peak.
    """

    background: np.ndarray
    size: float
    center: tuple[float, float]
    by_mass: bool
    peak: float | None
    usual: np.ndarray


@dataclass(frozen=True)
class Converted:
    """An image as the network takes it.

    Attributes:
        image: uint8, of the training images' shape (H, W, C).
        size: The (height, width) that it had.
        kind: How it was stored, for example "RGB" or "16-bit grey".
        steps: What was done to it, in this order, for example "inverted"; empty if nothing.
        is_blank: Whether it shows nothing but background.
    """

    image: np.ndarray
    size: tuple[int, int]
    kind: str
    steps: tuple[str, ...]
    is_blank: bool


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Lists image files, and those below folders, and makes sure that they can be decoded.

    Args:
        paths: Image files, and folders; hidden files do not count in these, and what is no image is told.

    Returns:
        The files, in the order of `paths`, those below a folder sorted by their paths.

    Raises:
        UserError: A path is not there, a folder holds no image, or an image cannot be decoded.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            try:
                below = image_files.files_below(path)
            except OSError as error:
                raise UserError(f"{explain(error, path)}; expected a folder of images that can be read") from None
            found = [file for file in below if file.is_file() and image_files.is_image(file)]
            if not found:
                raise UserError(f"{path}: holds no image; expected files such as PNG or JPEG in it or below")
            files += found
            if others := sorted(set(map(str, below)) - set(map(str, found))):
                _log.warning("%s: no images, and left out: %s.", path, listed(others, most=5))
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file; expected an image, or a folder of images")
    check_readable(files)
    return files


def check_readable(files: Sequence[Path]) -> None:
    """Makes sure that image files can be decoded.

    Raises:
        UserError: Some cannot, which are named.
    """
    with image_files.metadata_ignored():
        decoded = (image_files.read_unless_damaged(file, image_files.Decoding()) for file in files)
        damaged = [image for image in decoded if isinstance(image, image_files.DamagedImage)]
    if len(damaged) == 1:
        raise damaged[0]
    if damaged:
        raise UserError(f"{image_files.describe(damaged, len(files))}; replace or remove them")


def learn_framing(images: Images) -> Framing | None:
    """Measures how the training images lie on their background.

    Args:
        images: (N, H, W, C) uint8, N at least 1; at most 2,000 of them, evenly spread, are looked at, and of large ones
            fewer.

    Returns:
        The framing, or None if they have no background in common.
    """
    most = max(1, min(_SAMPLE, _MAX_BYTES // images[:1].nbytes))
    some = images[:: -(-len(images) // most)]
    borders = np.stack([_border(image) for image in some])  # (n, P, C)
    background = np.median(borders, axis=(0, 1))  # (C,)
    is_background = (np.abs(borders - background) <= _TOLERANCE).all(axis=2)  # (n, P)
    if np.mean(is_background.mean(axis=1) >= _MAJORITY) < _NEARLY_ALL:
        return None
    contents = [content for image in some if (content := _find_content(image)) and content.peak > 0]
    if not contents:
        return None
    by_mass, by_box = (np.array([_measure(content, background, way) for content in contents]) for way in (True, False))
    is_by_mass = bool(by_mass[:, 2:4].var(axis=0).sum() < by_box[:, 2:4].var(axis=0).sum())
    measured = by_mass if is_by_mass else by_box  # (n, 5)
    _, size, y, x, peak = np.median(measured, axis=0).tolist()
    is_steady = np.percentile(measured[:, 4], 5) >= 0.9 * peak
    usual = np.percentile(measured, [0.5, 99.5], axis=0)  # (2, 5)
    return Framing(background, size, (y, x), is_by_mass, peak if is_steady else None, usual)


def read(
    path: Path,
    shape: tuple[int, int, int],
    framing: Framing | None,
    image_bits: int = 16,
    image_fit: image_files.Fit = "stretch",
) -> Converted:
    """Reads an image file and makes it what the training images are.

    Args:
        path: An image file.
        shape: Height, width and channels of the training images.
        framing: What `learn_framing` says of them.
        image_bits: As for `Decoding`.
        image_fit: As for `Decoding`.

    Raises:
        UserError: The file cannot be decoded.
    """
    image, kind = _decode(path, image_bits)
    size = image.shape[:2]
    steps = []
    if _is_blank(image):  # perhaps because it is black on nothing, which is laid on black
        on_white, _ = _decode(path, image_bits, ground=255)
        if not _is_blank(on_white):
            image = on_white
            steps.append("laid on white")
    is_blank = _is_blank(image)
    if image.shape[2] != shape[2]:
        image = _with_channels(image, shape[2])
        steps.append("grey" if shape[2] == 1 else "RGB")
    if framing is not None:
        image, framed = _frame(image, shape[:2], framing)
        steps += framed
    if image.shape != shape:
        height, width = image.shape[:2]
        keeps_ratio = abs(height * shape[1] - width * shape[0]) < max(shape[:2])  # up to a pixel
        done = {"stretch": "stretched", "crop": "resized and cut", "pad": "resized and padded"}[image_fit]
        steps.append(f"{'resized' if keeps_ratio else done} to {shape[1]}x{shape[0]}")
        image = image_files.resize(image, shape[:2], image_fit)
    return Converted(image, size, kind, tuple(steps), is_blank)


def _frame(image: np.ndarray, size: tuple[int, int], framing: Framing) -> tuple[np.ndarray, list[str]]:
    """Lays an image (h, w, C) on the training images' background as they lie there.

    Returns:
        The image, of (height, width) `size` unless only resizing it is left to do, and what was done.
    """
    content = _find_content(image)
    if content is None:
        return image, [] if image.shape[:2] == size else ["no plain background"]
    steps = []
    if _distance(255 - content.border, framing.background) < _distance(content.border, framing.background):
        image, content = 255 - image, content.inverted()
        steps.append("inverted")
    distance = _distance(content.border, framing.background)
    if image.shape[:2] == size and distance <= _TOLERANCE:
        return image, steps
    if image.shape[0] * size[1] == image.shape[1] * size[0]:
        resized = _find_content(image_files.resize(image, size))
        if resized is not None and resized.peak > 0:
            measured = _measure(resized, framing.background, framing.by_mass)
            if np.all((framing.usual[0] <= measured) & (measured <= framing.usual[1])):
                return image, steps
    if content.peak <= _TOLERANCE:
        deviation = np.zeros((*size, image.shape[2]), np.float32)
    else:
        deviation = _place(content, size, framing)
        pixels = round(framing.size * max(size))
        steps += ["cropped to its content", f"{pixels} pixels", f"centred by {'mass' if framing.by_mass else 'box'}"]
        peak = float(np.abs(deviation).max())
        if framing.peak is not None and peak > 0:
            deviation *= framing.peak / peak
            if peak < 0.9 * framing.peak:
                steps.append("contrast stretched")
    steps.append(f"{size[1]}x{size[0]}")
    return (framing.background + deviation).round().clip(0, 255).astype(np.uint8), steps


@dataclass(frozen=True)
class _Content:
    """What an image (h, w, C) shows: by how much its pixels differ from its border, and where.

    Attributes:
        deviation: (h, w, C) float32, 0 where it is background.
        border: (C,) float32.
        box: Top, left, bottom, right.
        mass: The centre of mass, (y, x); the middle of the first pixel is (0.5, 0.5).
    """

    deviation: np.ndarray
    border: np.ndarray
    box: tuple[int, int, int, int]
    mass: tuple[float, float]

    @property
    def peak(self) -> float:
        return float(np.abs(self.deviation).max())

    def center(self, by_mass: bool) -> tuple[float, float]:
        top, left, bottom, right = self.box
        return self.mass if by_mass else ((top + bottom) / 2, (left + right) / 2)

    def inverted(self) -> "_Content":
        return _Content(-self.deviation, 255 - self.border, self.box, self.mass)


def _find_content(image: np.ndarray) -> _Content | None:
    """Tells what an image (h, w, C) shows from its background; None if its border is not that of a background."""
    image = _reduced(image)
    border = _border(image)
    color = np.median(border, axis=0)  # (C,)
    off = np.abs(border - color)  # (P, C)
    if (off <= _TOLERANCE).all(axis=1).mean() < _MAJORITY:
        return None
    noise = min(6 * float(np.median(off)), _TOLERANCE)  # 4 standard deviations, if it is normal
    deviation = image - color
    deviation = np.sign(deviation) * np.maximum(np.abs(deviation) - noise, 0)  # (h, w, C)
    mass = np.abs(deviation).max(axis=2)  # (h, w)
    top, bottom, y = _extent(mass.sum(axis=1, dtype=np.float64))
    left, right, x = _extent(mass.sum(axis=0, dtype=np.float64))
    return _Content(deviation, color, (top, left, bottom, right), (y, x))


def _extent(profile: np.ndarray) -> tuple[int, int, float]:
    """Returns where the mass along an axis begins and ends, but for the trimmed share, and its centre."""
    total = profile.sum()
    if total == 0:
        return 0, len(profile), len(profile) / 2
    until = np.append(0, profile.cumsum()) / total
    begin = np.searchsorted(until, _TRIMMED, side="right") - 1
    end = np.searchsorted(until, 1 - _TRIMMED)
    return int(begin), int(end), float(profile @ (np.arange(len(profile)) + 0.5) / total)


def _measure(content: _Content, background: np.ndarray, by_mass: bool) -> np.ndarray:
    """Returns distance of the border from the background, size, y, x, peak, as `Framing.usual` has them."""
    top, left, bottom, right = content.box
    height, width = content.deviation.shape[:2]
    y, x = content.center(by_mass)
    size = max((bottom - top) / height, (right - left) / width)
    return np.array([_distance(content.border, background), size, y / height, x / width, content.peak])


def _place(content: _Content, size: tuple[int, int], framing: Framing) -> np.ndarray:
    """Scales and places content as the training images': its deviation, (*size, C) float32, by one resampling."""
    top, left, bottom, right = content.box
    deviation = content.deviation[top:bottom, left:right]
    scale = max((bottom - top) / size[0], (right - left) / size[1]) / framing.size  # pixels that become one
    corner = np.array([top, left])
    # The window that becomes the image. It may begin and end outside, but not inside: all of the content is seen.
    window = np.array(size) * scale
    begin = np.array(content.center(framing.by_mass)) - corner - np.array(framing.center) * window
    begin = begin.clip(deviation.shape[:2] - window, 0)
    end = begin + window
    before = np.ceil(np.maximum(-begin, 0)).astype(int) + 1
    after = np.ceil(np.maximum(end - deviation.shape[:2], 0)).astype(int) + 1
    padded = np.pad(deviation, [*zip(before, after, strict=True), (0, 0)])
    (y0, x0), (y1, x1) = begin + before, end + before
    channels = [
        Image.fromarray(channel).resize(size[::-1], Image.Resampling.HAMMING, box=(x0, y0, x1, y1))
        for channel in np.moveaxis(padded, 2, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def _border(image: np.ndarray) -> np.ndarray:
    """Returns the outermost pixels, (P, C) float32."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)


def _is_blank(image: np.ndarray) -> bool:
    color = np.median(_border(image), axis=0)
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    return bool((color - low <= _TOLERANCE).all() and (high - color <= _TOLERANCE).all())


def _distance(border: np.ndarray, background: np.ndarray) -> float:
    return float(np.abs(border - background).mean())


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns grey (h, w, 1) as RGB (h, w, 3), or RGB as grey."""
    if channels == 3:
        return image.repeat(3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]


def _reduced(image: np.ndarray) -> np.ndarray:
    factor = -(-max(image.shape[:2]) // _MAX_SIDE)
    if factor == 1:
        return image
    reduced = np.asarray(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).reduce(factor))
    return reduced.reshape(*reduced.shape[:2], -1)


def _decode(path: Path, image_bits: int, ground: int = 0) -> tuple[np.ndarray, str]:
    """Returns an image in the size that it has, and how it is stored."""
    with image_files.metadata_ignored():
        decoded = image_files.read_image(path, image_files.Decoding(image_bits=image_bits), ground)
    return decoded.pixels, decoded.kind
