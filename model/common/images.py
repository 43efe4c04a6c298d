"""Images wherever they lie: in memory as an array, or in a file of which only what is asked for is read."""

import itertools
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from model.common.errors import UserError

# Bytes that are read at a time where all images pass by.
_BYTES_OF_A_BLOCK = 2**26


class StoredImages:
    """Images (N, H, W, C) of uint8 in a file, one after the other; indexed as an array is, but only by images.

    What is read is `images[3]`, `images[10:20]` or `images[indices]`, each a new array. The whole is never in memory,
    and `subset` reads nothing. The file is read, not mapped into memory: where it is cut off or the disk fails there is
    an error that can be told, and from a cold disk an image comes several times sooner (docs/decisions). Whether the
    bytes are those that were written is not looked at here; `data/store.py` does where the time of the file differs.

    Args:
        path: The file.
        shape: How many images it begins with, and height, width and channels of each.

    Raises:
        OSError: The file cannot be opened.
        UserError: It is shorter.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(bytes([0, 1, 2, 3, 4, 5]))
        ...     file.flush()
        ...     print(StoredImages(Path(file.name), (2, 1, 3, 1))[1].tolist())  # of two images of 1 x 3 pixels
        [[[3], [4], [5]]]
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        self.path = path
        self._row = shape[1] * shape[2] * shape[3]
        self._indices = np.arange(shape[0])
        self._turns = np.zeros(shape[0], np.uint8)  # by how many quarters each is turned
        self._descriptor = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if size < shape[0] * self._row:  # it may be longer, as another process may be adding to it
            raise _damaged(path, f"{size:,} bytes, expected {shape[0] * self._row:,}")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that they would take in memory."""
        return len(self) * self._row

    def __getitem__(self, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """Reads some images: (H, W, C) by a number, (n, H, W, C) by a slice, by n indices, or by a mask (N,)."""
        places, turns = self._indices[index], np.atleast_1d(self._turns[index])
        images = self._read(np.atleast_1d(places))
        for turn in np.setdiff1d(turns, 0).tolist():
            images[turns == turn] = _turn(images[turns == turn], turn)
        return images if np.ndim(places) else images[0]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NoReturn:
        """Refuses to become an array, which would take all of the memory; `images[...]` reads some."""
        raise TypeError(f"Expected some of the images, as images[indices]. Received: all {len(self)} of {self.path}")

    def subset(self, index: slice | np.ndarray) -> "StoredImages":
        """Returns some of the images, as `images[index]` would read them."""
        return self._with(self._indices[index], self._turns[index])

    def quarter_turns(self) -> "StoredImages":
        """Returns the images as they are, turned by 90, by 180, and by 270 degrees, as the function of this name."""
        turns = [self._turns + turn for turn in range(4)]
        return self._with(np.tile(self._indices, 4), np.concatenate(turns) % 4)

    def _with(self, indices: np.ndarray, turns: np.ndarray) -> "StoredImages":
        some = object.__new__(StoredImages)
        some.__dict__ |= self.__dict__ | {"_whole": self}  # which has to stay open
        some._indices, some._turns = indices, turns
        some.shape = (len(indices), *self.shape[1:])
        return some

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields all images, some at a time, in their order."""
        size = max(1, _BYTES_OF_A_BLOCK // self._row)
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @property
    def places(self) -> np.ndarray:
        """Where each image lies in the file, and by how many quarters it is turned: (N,) int64, 4 place + turn."""
        return 4 * self._indices + self._turns

    def _read(self, places: np.ndarray) -> np.ndarray:
        """Reads the images at these places of the file; those that lie one after the other at once."""
        images = np.empty((len(places), *self.shape[1:]), np.uint8)
        if not images.size:
            return images
        view = images.reshape(-1).data
        starts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for start, end in itertools.pairwise(starts):
            self._fill(view[start * self._row : end * self._row], int(places[start]) * self._row)
        return images

    def _fill(self, view: memoryview, offset: int) -> None:
        while len(view):
            try:
                count = os.preadv(self._descriptor, [view], offset)
            except OSError as error:
                raise _damaged(self.path, f"it cannot be read ({error.strerror})") from None
            if count == 0:
                raise _damaged(self.path, f"it ends after {offset:,} bytes")
            view, offset = view[count:], offset + count


# Images of uint8, (N, H, W, C), wherever they lie.
Images = np.ndarray | StoredImages
# Where they are to lie; "auto" decides by the memory there is.
Kind = Literal["auto", "memory", "stored"]


def blank_images(*shape: int) -> np.ndarray:
    """Returns black images of this shape, (N, H, W, C), that take no memory: all are one pixel, which stays black."""
    return np.broadcast_to(np.uint8(0), shape)


def are_blank(images: Images) -> bool:
    """Returns whether these are `blank_images`, or some of them."""
    return isinstance(images, np.ndarray) and not any(images.strides)


def subset(images: Images, index: slice | np.ndarray) -> Images:
    """Returns some of the images, by a slice, indices or a mask (N,).

    Stored ones are not read, those of an array are not copied where they lie one after the other, and of blank ones
    there are as many blank ones.
    """
    if isinstance(images, StoredImages):
        return images.subset(index)
    places = np.arange(len(images))[index]
    first = int(places[0]) if len(places) else 0
    if are_blank(images) or np.array_equal(places, np.arange(first, first + len(places))):
        return images[first : first + len(places)]
    return images[places]


def quarter_turns(images: Images) -> Images:
    """Returns N images as they are, turned by 90, by 180, and by 270 degrees against the clock: (4 N, S, S, C).

    Stored ones are not read, and blank ones stay blank.

    Args:
        images: (N, S, S, C), as high as wide.

    Example:
        >>> image = np.array([[1, 2], [3, 4]], np.uint8)
        >>> quarter_turns(image[np.newaxis, :, :, np.newaxis])[1, :, :, 0].tolist()
        [[2, 4], [1, 3]]
    """
    if isinstance(images, StoredImages):
        return images.quarter_turns()
    if are_blank(images):
        return blank_images(4 * len(images), *images.shape[1:])
    return np.concatenate([_turn(images, turn) for turn in range(4)])


def _turn(images: np.ndarray, quarters: int) -> np.ndarray:
    return np.rot90(images, quarters, axes=(1, 2))


def blocks(images: Images) -> Iterator[np.ndarray]:
    """Yields all images in their order, those that are stored some at a time; nothing if there are none."""
    return images.blocks() if isinstance(images, StoredImages) else iter([images] if len(images) else [])


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged, {why}; delete the folder {path.parent}, the images are then stored anew")
