"""How image files become arrays: what an experiment may ask for."""

from dataclasses import dataclass
from typing import Literal

Fit = Literal["stretch", "crop", "pad"]

# To be raised with every change of `image_files` after which some file becomes other pixels, is refused or is no longer
# so: images that are stored are made anew then. A change of Pillow's version does so by itself.
DECODER_VERSION = 2


@dataclass(frozen=True)
class Decoding:
    """How image files become arrays.

    Attributes:
        image_size: Side in pixels to which every image is resized; None keeps its size.
        image_fit: How an image that is not square becomes so: "stretch" resizes both sides, "crop" the shorter one and
            cuts out the middle, "pad" the longer one and adds black.
        image_bits: Of grey images that are stored with 16 bits, how many of them are used, 8 to 16: cameras and
            scanners often fill the lower 10 or 12.
        on_damaged: What becomes of a data set of which some files cannot be decoded: "stop" refuses it, "skip" leaves
            them out. A file that the system does not let be read is not damaged, and stops it either way.
        blank: Whether nothing is decoded: each image is a blank one of the size and colours that it would have. Where
            only numbers, classes and sizes are asked for, this takes little time and next to no memory.
    """

    image_size: int | None = None
    image_fit: Fit = "stretch"
    image_bits: int = 16
    on_damaged: Literal["stop", "skip"] = "stop"
    blank: bool = False
