"""How image files become arrays: what an experiment may ask for."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Decoding:
    """How image files become arrays.

    Attributes:
        image_size: Side in pixels to which every image is resized; None keeps its size.
        image_bits: Of grey images that are stored with 16 bits, how many of them are used, 8 to 16: cameras and
            scanners often fill the lower 10 or 12.
        on_damaged: What becomes of a data set of which some files cannot be decoded: "stop" refuses it, "skip" leaves
            them out.
    """

    image_size: int | None = None
    image_bits: int = 16
    on_damaged: Literal["stop", "skip"] = "stop"
