"""From which distance on an image is unknown, and how that is told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.scoring.identification import (
    FEWEST_CLASSES,
    GallerySize,
    Rate,
    Threshold,
    TooFew,
    choose_threshold,
    choose_threshold_for,
    distances_to,
)

# The rate at which strangers may be named where nobody asks for another.
DEFAULT_RATE = 0.01


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

    def choose(self, gallery: GallerySize, rate: float, seed: int) -> Threshold | TooFew:
        """Chooses a threshold by enrolling some of them."""
        return choose_threshold(self.embeddings, self.labels, gallery, rate, seed)

    def notes(self, threshold: Threshold, gallery: GallerySize) -> list[str]:
        """Returns lines on what a threshold was found with, and how far it holds."""
        judged = "classes never trained on" if self.are_unseen else "test classes, which were trained on"
        lines = [
            f"found with {threshold.num_images} images of {threshold.num_classes} {judged}, which did not choose the "
            f"threshold, in galleries of {_size(threshold.size)}; an interval is that of one such gallery"
        ]
        if not self.are_unseen:
            lines.append(
                "the network has learned to keep these apart: strangers may come nearer, and get names more often"
            )
        if threshold.extrapolation > 1:
            lines.append(
                f"this gallery has {_size(gallery)}: the rate of strangers is an upper bound for it; enrolled ones are "
                "misnamed more often than in the smaller galleries"
            )
        return lines


@dataclass(frozen=True, eq=False)
class LookedUp:
    """Images of classes that nobody learned from, and test images of those in a gallery, looked up in that gallery.

    Attributes:
        labels: (N,) integers, their classes.
        own: (N,) float32, the distances to their own classes; inf for strangers, whose classes are not in the gallery.
        other: (N,) float32, the distances to the nearest gallery image of another class.
    """

    labels: np.ndarray
    own: np.ndarray
    other: np.ndarray
    are_unseen = True

    @classmethod
    def of(
        cls, gallery: np.ndarray, gallery_labels: np.ndarray, embeddings: np.ndarray, labels: np.ndarray
    ) -> "LookedUp":
        """Looks images up, (N, D) with labels (N,), in a gallery, (G, D) with labels (G,)."""
        return cls(labels, *distances_to(gallery, gallery_labels, embeddings, labels))

    def choose(self, gallery: GallerySize, rate: float, seed: int) -> Threshold | TooFew:
        """Chooses a threshold for the gallery, which is of this size."""
        return choose_threshold_for(gallery, self.labels, self.own, self.other, rate, seed)

    def notes(self, threshold: Threshold, gallery: GallerySize) -> list[str]:
        """Returns lines on what a threshold was found with, and how far it holds."""
        return [
            f"found with {threshold.num_images} images of {threshold.num_classes} classes never trained on, which did "
            f"not choose the threshold, and {threshold.num_enrolled_images} test images of the {gallery.num_classes} "
            "others",
            f"looked up are the training images of these {gallery.num_classes} classes alone, none of classes never "
            "trained on",
        ]


@dataclass(frozen=True)
class Refusal:
    """What makes an image unknown.

    Attributes:
        threshold: The distance, and how often it is wrong.
        rate: The rate at which strangers may be named, as asked for.
        gallery: The size of the gallery at hand.
        by_unseen: Whether classes that nobody learned from chose it.
        notes: Lines on what it was found with.
    """

    threshold: Threshold
    rate: float
    gallery: GallerySize
    by_unseen: bool
    notes: Sequence[str] = ()

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
            "num_enrolled_images": threshold.num_enrolled_images,
            **_as_json("false_negative_identification_rate", threshold.false_negative),
            "misnamed": threshold.misnamed,
        }

    def as_lines(self) -> list[str]:
        """Returns lines for a person."""
        threshold = self.threshold
        is_missed = threshold.mean_false_positive.low95 > self.rate
        enrolled = "not known how many are unknown or misnamed, as no test image is of a class in the gallery"
        if threshold.false_negative is not None:
            enrolled = f"{_told(threshold.false_negative)} are unknown or misnamed, {threshold.misnamed:.2%} misnamed"
        return [
            f"unknown: the nearest is farther than {threshold.distance:.4f}, the threshold for --false_accept_rate "
            f"{self.rate:g}",
            f"  strangers: {_told(threshold.false_positive)} are named",
            *(["    more than asked for: too few classes chose the threshold"] if is_missed else []),
            f"  enrolled: {enrolled}",
            *(f"  {note}" for note in self.notes),
        ]


def refuse(judges: Strangers | LookedUp, gallery_labels: np.ndarray, rate: float, seed: int) -> Refusal | str:
    """Chooses the distance for a gallery.

    Args:
        judges: What chooses and judges it.
        gallery_labels: (G,) integers, of the gallery at hand.
        rate: The rate at which strangers may be named, more than 0 and less than 1.
        seed: Decides what is drawn.

    Returns:
        What makes an image unknown, or in words why that cannot be promised.

    Example:
        >>> strangers = Strangers(np.repeat(np.eye(4), 2, axis=0), np.repeat(np.arange(4), 2), are_unseen=True)
        >>> refusal = refuse(strangers, gallery_labels=np.array([0]), rate=0.5, seed=0)
        >>> round(refusal.threshold.distance, 4)  # in the middle between 0 and sqrt(2), where strangers begin
        0.7071
    """
    size = GallerySize.of(gallery_labels)
    found = judges.choose(size, rate, seed)
    if isinstance(found, TooFew):
        return _why(found, size, judges.are_unseen)
    return Refusal(found, rate, size, judges.are_unseen, judges.notes(found, size))


def why_so_few_cannot(num_unseen: int) -> str | None:
    """Tells why so many classes that nobody learned from cannot promise any rate; None where they may."""
    return None if num_unseen >= FEWEST_CLASSES else _why(TooFew(num_unseen), GallerySize(1, 1), are_unseen=True)


def _why(few: TooFew, size: GallerySize, are_unseen: bool) -> str:
    classes = "classes never trained on" if are_unseen else "test classes"
    if not few.num_images:
        return (
            f"cannot be promised: expected at least {FEWEST_CLASSES} {classes}, of two images or more each, received "
            f"{few.num_classes}; add some, see holdout_classes"
        )
    said = f"cannot be promised by {few.num_images} images of strangers, a half of the {few.num_classes} {classes}"
    smallest = _rounded_up(few.smallest_rate)
    remedy = f"the smallest is {smallest:g}" if smallest < 1 else "no rate can be; add such classes, or enrol fewer"
    return f"{said}, in a gallery of {_size(size)}; {remedy}"


def _rounded_up(rate: float) -> float:
    """Returns a rate of two digits that is not smaller."""
    step = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return math.ceil(rate / step * (1 - 1e-9)) * step


def _told(rate: Rate) -> str:
    return f"{rate.value:.2%} [{rate.low95:.2%}, {rate.high95:.2%}]"


def _size(size: GallerySize) -> str:
    return f"{size.num_classes:,} {'class' if size.num_classes == 1 else 'classes'} x {size.images_per_class:,}"


def _as_json(name: str, rate: Rate | None) -> dict[str, float | None]:
    value, low, high = (None, None, None) if rate is None else (rate.value, rate.low95, rate.high95)
    return {name: value, f"{name}_low95": low, f"{name}_high95": high}
