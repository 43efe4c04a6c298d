"""From which distance on an image is unknown, and how that is told."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.errors import UserError
from model.scoring.identification import GallerySize, Rate, Threshold, TooFew, choose_threshold


@dataclass(frozen=True, eq=False)
class Strangers:
    """Images that tell how near those of two classes come to each other.

    Attributes:
        embeddings: (N, D) float32.
        labels: (N,) integers.
        are_unseen: Whether nobody learned from these classes; else they are those of the test images.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    are_unseen: bool


@dataclass(frozen=True)
class Refusal:
    """What makes an image unknown.

    Attributes:
        threshold: The distance, and how often it is wrong.
        rate: The rate at which strangers may be named, as asked for.
        gallery: The size of the gallery at hand.
        by_unseen: Whether classes that nobody learned from chose it.
    """

    threshold: Threshold
    rate: float
    gallery: GallerySize
    by_unseen: bool

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints."""
        threshold = self.threshold
        return {
            "threshold": threshold.distance,
            "false_accept_rate": self.rate,
            "classes": "unseen" if self.by_unseen else "test",
            "num_classes": threshold.num_classes,
            "num_images": threshold.num_images,
            "gallery_classes": self.gallery.num_classes,
            "gallery_images_per_class": self.gallery.images_per_class,
            "tried_classes": threshold.size.num_classes,
            "tried_images_per_class": threshold.size.images_per_class,
            **_as_json("false_positive_identification_rate", threshold.false_positive),
            **_as_json("false_negative_identification_rate", threshold.false_negative),
            "misnamed": threshold.misnamed,
        }

    def as_lines(self) -> list[str]:
        """Returns lines for a person."""
        threshold, size = self.threshold, self.threshold.size
        judged = "classes never trained on" if self.by_unseen else "test classes, which were trained on"
        lines = [
            f"unknown: the nearest is farther than {threshold.distance:.4f}, chosen to name strangers at a rate of "
            f"{self.rate:g}",
            f"  strangers: {_told(threshold.false_positive)} are named",
            f"  enrolled: {_told(threshold.false_negative)} are unknown or misnamed, {threshold.misnamed:.2%} misnamed",
            f"  found with {threshold.num_images} images of {threshold.num_classes} {judged}, which did not choose the "
            f"threshold, in galleries of {_size(size)}",
        ]
        if not self.by_unseen:
            lines.append(
                "  the network has learned to keep these apart: strangers may come nearer, and get names more often"
            )
        if threshold.extrapolation > 1:
            lines.append(
                f"  this gallery has {_size(self.gallery)}: the rate of strangers is an upper bound for it; enrolled "
                "ones are misnamed more often than in the smaller galleries"
            )
        return lines


def refuse(strangers: Strangers, gallery_labels: np.ndarray, rate: float, seed: int, model_dir: Path) -> Refusal:
    """Chooses the distance for a gallery.

    Args:
        strangers: What chooses and judges it.
        gallery_labels: (G,) integers, of the gallery at hand.
        rate: The rate at which strangers may be named, more than 0 and less than 1.
        seed: Decides what is drawn.
        model_dir: Of the experiment, for a message.

    Raises:
        UserError: There are too few classes or images to promise that.
    """
    size = GallerySize.of(gallery_labels)
    found = choose_threshold(strangers.embeddings, strangers.labels, size, rate, seed)
    if isinstance(found, TooFew):
        raise UserError(f"{model_dir}: --false_accept_rate {rate:g}: {_why(found, size, strangers.are_unseen)}")
    return Refusal(found, rate, size, strangers.are_unseen)


def _why(few: TooFew, size: GallerySize, are_unseen: bool) -> str:
    classes = "classes never trained on" if are_unseen else "test classes"
    if not few.num_images:
        return (
            f"cannot be promised by {few.num_classes} {classes} of two images or more, expected four at least; add "
            "some, see holdout_classes"
        )
    said = f"cannot be promised by {few.num_images} images of strangers, a half of the {few.num_classes} {classes}"
    smallest = _rounded_up(few.smallest_rate)
    remedy = f"the smallest is {smallest:g}" if smallest < 1 else "no rate can be; enrol fewer, or add such classes"
    return f"{said}, in a gallery of {_size(size)}; {remedy}"


def _rounded_up(rate: float) -> float:
    """Returns a rate of two digits that is not smaller."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return math.ceil(rate / step * (1 - 1e-9)) * step


def _told(rate: Rate) -> str:
    return f"{rate.value:.2%} [{rate.low95:.2%}, {rate.high95:.2%}]"


def _size(size: GallerySize) -> str:
    return f"{size.num_classes:,} {'class' if size.num_classes == 1 else 'classes'} x {size.images_per_class:,}"


def _as_json(name: str, rate: Rate) -> dict[str, float]:
    return {name: rate.value, f"{name}_low95": rate.low95, f"{name}_high95": rate.high95}
