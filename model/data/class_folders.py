"""A folder of class folders of PNG and JPEG files -> arrays.

Every folder that directly holds images is one class, named by its path. The images come out grey if all are
stored as grey (one channel of 1, 8 or 16 bits; a palette counts as colour), else all in RGB. Of 16 bits the
upper 8 stay, transparent pixels are laid on black, and EXIF's rotation is carried out.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from model.common.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


def find_images(root: Path, skip: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """Finds the images below `root`, in an order that no file system can change.

    Args:
        root: the folder of class folders. Links are followed; hidden files and folders, and files that are not
          called .png, .jpg or .jpeg, are passed over.
        skip: folders that are passed over too.

    Returns:
        Class name (the path below `root`, with `/`) -> its image files; both sorted.

    Raises:
        UserError: an image lies in `root` itself, in no class.
        OSError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise error

    classes = {}
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        here = Path(folder)
        folders[:] = [f for f in folders if not f.startswith(".")]
        folders[:] = [f for f in folders if here / f not in skip and not _leads_back(here, here / f)]
        images = sorted(f for f in files if f.lower().endswith(SUFFIXES) and not f.startswith("."))
        if images and here == root:
            raise UserError(f"{here / images[0]}: lies in no class folder; move it into the one of its class")
        if images:
            classes[here.relative_to(root).as_posix()] = [here / image for image in images]
    return dict(sorted(classes.items()))


def _leads_back(here: Path, link: Path) -> bool:
    """Whether `link` is a link to a folder above it, which a walk would never leave again."""
    return link.is_symlink() and here.resolve().is_relative_to(link.resolve())


def read_images(paths: Sequence[Path], image_size: int | None) -> np.ndarray:
    """Decodes image files, in threads, with a progress bar on a terminal when it takes a while.

    Args:
        paths: N files, at least one.
        image_size: side in pixels to which every image is resized, or None.

    Returns:
        Images (N, H, W, C), uint8; C is 1 if all are stored as grey, else 3.

    Raises:
        UserError: a file cannot be decoded, or `image_size` is None and two images differ in size.
    """
    images: list[np.ndarray] = []
    pool = ThreadPoolExecutor()
    try:
        decoded = pool.map(partial(_read_image, image_size=image_size), paths)
        for image in tqdm(decoded, "Reading images", len(paths), unit=" images", delay=2, disable=None):
            images.append(image)
            if image.shape[:2] != images[0].shape[:2]:
                raise UserError(
                    f"{paths[0]} has {_size(images[0])} pixels, {paths[len(images) - 1]} has {_size(image)}; "
                    f'set "image_size" in params.json to bring all images to one size'
                )
    finally:
        pool.shutdown(cancel_futures=True)
    height, width, _ = images[0].shape
    stacked = np.empty((len(images), height, width, max(image.shape[2] for image in images)), np.uint8)
    for target, image in zip(stacked, images, strict=True):
        target[:] = image  # grey, (H, W, 1), is spread over the channels
    return stacked


def resize(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """Resizes an image (H, W, C) to (image_size, image_size, C), bilinear and antialiased.

    The image itself when it has that size already, or when `image_size` is None.
    """
    return image if image_size is None else resize_to(image, (image_size, image_size))


def resize_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image (H, W, C) to any (height, width), as `resize` does."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    resized = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(*size, -1)


def read_image(path: Path, ground: int = 0) -> tuple[np.ndarray, str]:
    """Decodes an image file.

    Args:
        path: the file; its content counts, not its name.
        ground: 0 to 255, the grey that transparent pixels are laid on.

    Returns:
        The image (H, W, C), uint8, upright; C is 1 if it is stored as grey, else 3. And how it is stored, in
        words: "grey", "16-bit grey", "RGBA", "palette", "RGB, turned by EXIF", ...

    Raises:
        UserError: the file cannot be decoded.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            pixels = np.asarray(_to_grey_or_rgb(ImageOps.exif_transpose(image), ground))
            return pixels.reshape(*pixels.shape[:2], -1), _describe(image)
    except Exception as error:  # on damaged bytes Pillow raises nearly anything
        raise UserError(f"{path}: no readable PNG or JPEG image ({error}); replace or remove it") from error


def _read_image(path: Path, image_size: int | None) -> np.ndarray:
    return resize(read_image(path)[0], image_size)


def _describe(image: Image.Image) -> str:
    names = {"1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette"}
    kind = "16-bit grey" if image.mode.startswith("I") else names.get(image.mode, image.mode)
    return kind if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else f"{kind}, turned by EXIF"


def _to_grey_or_rgb(image: Image.Image, ground: int) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    is_grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image.convert("L" if is_grey else "RGB")


def _size(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    return f"{width} x {height}"
