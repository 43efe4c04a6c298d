"""Where the images of a data set lie: in memory, or stored in a file beside the data.

Images are stored if they would take more than a quarter of the memory that is free, unless --images decides it.
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.common.devices import memory_of_machine
from model.common.images import Images, Kind, are_blank, blank_images
from model.data.decoding import Decoding
from model.data.store import Contents, Item, store

# Of the free memory, what images may take: on a CPU, training needs them a second time.
_SHARE_OF_MEMORY = 0.25
# In the folder of a data set, hidden, so that nobody looks for images in it.
_FOLDER = ".decoded"


@dataclass(frozen=True)
class Room:
    """Where the images of a data set are to lie.

    Attributes:
        folder: Of the data set.
        kind: "memory", "stored", or "auto", which decides by the memory that is free.
        copies: How many times the images will be there if they are in memory; stored ones are there once.
    """

    folder: Path
    kind: Kind = "auto"
    copies: int = 1

    def stores(self, num_bytes: int) -> bool:
        """Returns whether images that would take so many bytes of memory are to be stored."""
        free = memory_of_machine()
        return self.kind == "stored" or (
            self.kind == "auto" and free is not None and self.copies * num_bytes > _SHARE_OF_MEMORY * free
        )

    def for_bytes(self, num_bytes: int) -> "Room":
        """Returns this room for several sets of images, which take so many bytes and are all to lie alike."""
        return dataclasses.replace(self, kind="stored" if self.stores(num_bytes) else "memory")

    def place_of(self, decoding: Decoding) -> Path:
        """Returns the folder for images that are decoded in this way."""
        size = "own_size" if decoding.image_size is None else f"{decoding.image_size}px_{decoding.image_fit}"
        return self.folder / _FOLDER / (size + (f"_{decoding.image_bits}bit" if decoding.image_bits != 16 else ""))


def keep(images: np.ndarray, room: Room, decoding: Decoding, part: str = "") -> Images:
    """Returns images that are in memory, or stores them if they are to be.

    Args:
        images: (N, H, W, C) uint8.
        room: Where they are to lie.
        decoding: How they were made.
        part: What to call them, where the room is for others as well.
    """
    if are_blank(images) or not room.stores(images.nbytes):
        return images
    contents = Contents(
        sources=[None] * len(images),
        made_with={"sha256": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()},
        shape=lambda: images.shape[1:],
        items=lambda indices: (Item(images[index]) for index in indices),
    )
    return store(room.place_of(decoding) / part, contents).images


def of_items(contents: Contents, room: Room, decoding: Decoding, description: str) -> tuple[Images, np.ndarray]:
    """Returns images that come one after the other, each with its label.

    Args:
        contents: What is known of each item is its label; each has an image.
        room: Where they are to lie.
        decoding: How they are made.
        description: What the progress bar says.

    Returns:
        (N, H, W, C) uint8, and (N,) int64.
    """
    number, shape = len(contents.sources), contents.shape()
    if not decoding.blank and room.stores(number * math.prod(shape)):
        stored = store(room.place_of(decoding), contents)
        return stored.images, np.array(stored.about, np.int64)
    images = blank_images(number, *shape) if decoding.blank else np.empty((number, *shape), np.uint8)
    labels = np.empty(number, np.int64)
    items = tqdm(contents.items(range(number)), description, number, unit=" images", delay=2, disable=None)
    for i, item in zip(range(number), items, strict=True):
        labels[i] = item.about
        if not decoding.blank:
            images[i] = item.pixels
    return images, labels
