"""One image file -> its pixels: uint8, upright, grey or RGB.

Whatever the file is called, its content decides: PNG, JPEG, WebP, BMP, GIF and TIFF (of these the first picture), PGM,
PPM and their relatives. An image is grey if it is stored as grey (one channel; a palette counts as colour), else RGB.
Of 16 bits the upper 8 stay, of grey ones without an alpha channel the upper 8 of those that are used. Transparent
pixels are laid on black, and EXIF's rotation is carried out where EXIF can be read.
"""

import contextlib
import errno
import hashlib
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from model.common.errors import UserError, explain, listed, one_line
from model.common.images import blank_images
from model.data.decoding import Decoding, Fit

# Suffixes of images; what a file is, its content says.
_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".pgm", ".ppm", ".pbm", ".pnm",
)  # fmt: skip
# What programs leave beside the images.
_JUNK = frozenset({"__MACOSX"})

# As Pillow calls them; its other readers are older, rarer, or start programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# How Pillow names the layout of pixels whose every channel has 16 bits, as in "RGB;16B".
_SIXTEEN_BITS = re.compile(r";16[BLN]")
# And that of grey with an alpha channel, each of 16 bits, of which it makes "RGBA" of 8.
_DEEP_GREY_WITH_ALPHA = "LA;16B"
# And those of grey of 2 and 4 bits: it brings pixels to 8 bits by these factors, and not the value that is transparent.
_FACTORS = {"L;2": 85, "L;4": 17}

# Pixels of the largest image that is decoded, which takes 2 GB, and of one that is decoded beside others.
_MAX_PIXELS, _MAX_PIXELS_BESIDE_OTHERS = 2**27, 2**24
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns first; ours is checked before anything is decoded
_one_large_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """The pixels of an image file.

    Attributes:
        pixels: (H, W, C) uint8, upright; C is 1 if it is stored as grey, else 3.
        kind: How it is stored, in words: "grey", "16-bit grey", "RGBA", "palette", "RGB, turned by EXIF", ...
        brightest: Its largest value, of opaque pixels and not of alpha, before 16 bits became 8; None where it is
            stored with 8.
        heeds_image_bits: Whether `Decoding.image_bits` decided which 8 of 16 bits stayed; in colour it is the upper 8.
        ratio: The longer of its sides by the shorter, as it is stored.
    """

    pixels: np.ndarray
    kind: str
    brightest: int | None = None
    heeds_image_bits: bool = False
    ratio: float = 1.0


class DamagedImage(UserError):
    """A file that cannot be decoded, whoever reads it and when.

    Attributes:
        path: The file.
        why: What is wrong with it, in a few words.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: no readable image ({why}); replace or remove it")
        self.path = path
        self.why = why


@contextlib.contextmanager
def metadata_ignored() -> Iterator[None]:
    """While the block runs, nobody is warned of what Pillow finds odd in the metadata of images.

    Not to be entered in several threads at once, as Python's filters of warnings are those of the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is passed over wherever images are looked for."""
    return name.startswith(".") or name in _JUNK


def files_below(folder: Path) -> list[Path]:
    """Returns the files in a folder and below, but hidden ones, sorted; a folder that links lead to counts once.

    Raises:
        OSError: A folder cannot be read.
    """
    found: list[Path] = []
    seen = set[tuple[int, int]]()

    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(here, name) for name in names if not is_hidden(name)]
    return sorted(found)


def is_image(path: Path) -> bool:
    """Returns whether a file is meant as an image: it is called so, or has no suffix and begins as one does."""
    if path.suffix:
        return path.suffix.lower() in _SUFFIXES
    try:
        with Image.open(path, formats=_FORMATS):
            return True
    except Exception:  # on bytes of any kind Pillow raises nearly anything
        return False


def read_image(path: Path, decoding: Decoding, ground: int = 0) -> Decoded:
    """Decodes an image file.

    Args:
        path: The file.
        decoding: What is asked for. Of a blank image, only what the file says before its pixels is read.
        ground: 0 to 255, the grey that transparent pixels are laid on.

    Raises:
        DamagedImage: The file cannot be decoded.
        UserError: It cannot be opened or read, which the system may allow later.
        MemoryError: The image is larger than what memory is left.
    """
    try:
        # A file, as Pillow would map the path of a TIFF into memory, and then mixes up the rows of one on its side.
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            num_pixels = image.size[0] * image.size[1]
            if num_pixels > _MAX_PIXELS:
                raise ValueError(f"it has {num_pixels:,} pixels, expected at most {_MAX_PIXELS:,}")
            if image.mode == "F":
                raise ValueError("it has values with fractions, expected 8 or 16 bits")
            if _is_deep(image) and image.mode == "RGB" and "transparency" in image.info:
                # Of which Pillow keeps too little to know its pixels.
                raise ValueError("it has a transparent colour of 16 bits, expected an alpha channel, or 8 bits")
            if decoding.blank:
                return _blank(image, decoding)
            is_large = num_pixels > _MAX_PIXELS_BESIDE_OTHERS
            with _one_large_at_a_time if is_large else contextlib.nullcontext():
                return _decode(image, decoding, ground)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage(path, f"it is none of {', '.join(_FORMATS)}") from error
    except Exception as error:  # on damaged bytes Pillow raises nearly anything
        if isinstance(error, OSError) and _is_of_the_system(error):
            raise _unreadable(path, error) from None
        raise DamagedImage(path, one_line(error) or type(error).__name__) from error


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        UserError: It cannot be opened or read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{explain(error, path)}; make the file readable, or remove it")


def _is_of_the_system(error: OSError) -> bool:
    """Returns whether the system did not let a file be read; else what is in the file is to blame."""
    # Bytes that lead to a place where no file can have any are answered with EINVAL.
    return error.errno not in (None, errno.EINVAL)


def read_unless_damaged(path: Path, decoding: Decoding) -> Decoded | DamagedImage:
    """Decodes an image file as `read_image` does; returns what is wrong with it if that cannot be."""
    try:
        return read_image(path, decoding)
    except DamagedImage as error:
        return error


def describe(damaged: Sequence[DamagedImage], num_files: int) -> str:
    """Returns which of so many files cannot be decoded, and why, in words."""
    told = listed(f"{image.path} ({image.why})" for image in damaged)
    return f"{len(damaged)} of {num_files} images cannot be read: {told}"


def resize(image: np.ndarray, size: tuple[int, int], fit: Fit = "stretch") -> np.ndarray:
    """Resizes an image (H, W, C) to a (height, width), bilinear and antialiased, as `Decoding.image_fit` says.

    The image itself when it has that size already.
    """
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    return np.asarray(_fitted(picture, size[::-1], fit)).reshape(*size, -1)


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Resizes an image to a (width, height)."""
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=0)
    return image.resize(size, Image.Resampling.BILINEAR)


def _ratio(size: tuple[int, int]) -> float:
    return max(size) / min(size)


def _blank(opened: ImageFile.ImageFile, decoding: Decoding) -> Decoded:
    """Returns a blank image of the shape that `_decode` returns, by what the file says before its pixels."""
    kind, channels = _describe(opened), 1 if _is_grey(opened) else 3
    width, height = opened.size
    ratio = _ratio(opened.size)
    if decoding.image_size is not None:
        width = height = decoding.image_size
    elif width != height and not _is_turned_by_loading(opened) and (turn := _turn(opened)) is not None:
        width, height = Image.new("1", opened.size).transpose(turn).size
    return Decoded(blank_images(1, height, width, channels)[0], kind, ratio=ratio)


def _decode(opened: ImageFile.ImageFile, decoding: Decoding, ground: int) -> Decoded:
    # Loading forgets these, and so may reading the metadata, which some formats have at their end.
    is_deep, is_grey, kind = _is_deep(opened), _is_grey(opened), _describe(opened)
    if opened.tile and opened.tile[0].args in _FACTORS and "transparency" in opened.info:
        opened.info["transparency"] *= _FACTORS[opened.tile[0].args]
    is_turned = _turn(opened) is not None
    opened.load()
    turn = _turn(opened)  # None where loading has turned it, as it does a TIFF
    image: Image.Image = opened
    brightest = None
    heeds_image_bits = image.mode.startswith("I")
    if heeds_image_bits:
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("it has values of 32 bits, expected 8 or 16")
        upper = np.minimum(values >> (decoding.image_bits - 8), 255)  # beyond image_bits nothing gets brighter
        is_opaque = values != image.info.get("transparency", -1)
        brightest = int(values.max(initial=0, where=is_opaque))
        image = Image.fromarray(np.where(is_opaque, upper, ground).astype(np.uint8))
    elif is_deep:  # of these Pillow keeps the upper 8 bits
        brightest = int(np.asarray(image)[..., : 3 if image.mode == "RGBA" else None].max()) * 257
    if is_turned:
        kind = f"{kind}, turned by EXIF"
    if turn is not None:
        image = image.transpose(turn)
    image = _opaque(image, "L" if is_grey else "RGB", ground)
    ratio = _ratio(image.size)
    size = image.size if decoding.image_size is None else (decoding.image_size, decoding.image_size)
    if image.size != size:  # what `resize` does, without the way through an array
        image = _fitted(image, size, decoding.image_fit)
    pixels = np.asarray(image)
    return Decoded(pixels.reshape(*pixels.shape[:2], -1), kind, brightest, heeds_image_bits, ratio)


def _is_deep(opened: ImageFile.ImageFile) -> bool:
    """Returns whether the pixels, which are not loaded, have several channels of 16 bits."""
    return any(_SIXTEEN_BITS.search(str(tile.args)) for tile in opened.tile)


def _is_deep_grey_with_alpha(opened: ImageFile.ImageFile) -> bool:
    return any(tile.args == _DEEP_GREY_WITH_ALPHA for tile in opened.tile)


def _is_grey(opened: ImageFile.ImageFile) -> bool:
    """Returns whether an image that is not loaded is stored as grey; "I" and its relatives are grey of 16 bits."""
    return opened.mode in ("1", "L", "LA") or opened.mode.startswith("I") or _is_deep_grey_with_alpha(opened)


def _describe(opened: ImageFile.ImageFile) -> str:
    if _is_deep_grey_with_alpha(opened):
        return "16-bit grey with transparency"
    names = {"1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette"}
    return "16-bit grey" if opened.mode.startswith("I") else names.get(opened.mode, opened.mode)


# What undoes each value of EXIF's Orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns how to set an image upright; None if it is, or if its metadata cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # on damaged bytes Pillow raises nearly anything; the pixels are as good as without
        if isinstance(error, OSError) and _is_of_the_system(error):
            raise
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _is_turned_by_loading(image: Image.Image) -> bool:
    """Returns whether the size of an image that is not loaded is already that of the upright one."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and ExifTags.Base.Orientation in image.tag_v2


def _opaque(image: Image.Image, mode: str, ground: int) -> Image.Image:
    """Lays an image on its ground, in the mode "L" or "RGB"."""
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)  # which would copy it
