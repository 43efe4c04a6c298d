"""What is asked of new images, and all of it that can be found out before TensorFlow is started."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from model.data import gallery as galleries
from model.new_images import answers, convert, training_images
from model.new_images.answers import Calibration
from model.new_images.refusal import DEFAULT_RATE
from model.new_images.training_images import TrainingImages

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Enrolled:
    """A gallery from outside.

    Attributes:
        path: Its folder or CSV file.
        files: Its image files, at least one.
        labels: (G,) int64, indices into `class_names`.
        class_names: In their order.
        notes: A line for what was left out, or looks as if somebody should know.
    """

    path: Path
    files: Sequence[Path]
    labels: np.ndarray
    class_names: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        files: The new images.
        known: What is known of the training images.
        calibration: What decides whether two images show the same; None where each is looked up in a gallery.
        enrolled: The gallery; None for the training images.
        neighbors: How many of the nearest vote, or are shown.
        false_accept_rate: The rate at which strangers may be named; None where every image gets a name.
        must_refuse: Whether somebody asked for this rate; else every image gets a name where it cannot be promised.
    """

    files: Sequence[Path]
    known: TrainingImages | None
    calibration: Calibration | None = None
    enrolled: Enrolled | None = None
    neighbors: int = 1
    false_accept_rate: float | None = None
    must_refuse: bool = False

    @property
    def notes(self) -> Sequence[str]:
        """Lines that a person should read first."""
        return self.enrolled.notes if self.enrolled else ()


def of_a_pair(pair: Sequence[Path], model_dir: Path, data_dir: Path | None) -> Question:
    """Returns the question whether two images show the same.

    Raises:
        UserError: An image cannot be decoded, or the experiment was not evaluated.
    """
    files = convert.find_images(pair)
    return Question(files, training_images.read(model_dir), answers.read_calibration(model_dir, data_dir))


def of_images(
    images: Sequence[Path],
    model_dir: Path,
    neighbors: int,
    gallery: Path | None,
    false_accept_rate: float | Literal["off"] | None,
) -> Question:
    """Returns the question what images show.

    Args:
        images: Files, and folders of them.
        model_dir: Folder of the experiment.
        neighbors: How many of the nearest vote, or are shown.
        gallery: Folder or CSV file in which they are looked up; None for the training images.
        false_accept_rate: The rate at which strangers may be named; "off" where every image gets a name, None for
            `DEFAULT_RATE` where that can be promised.

    Raises:
        UserError: An image cannot be decoded, or the gallery is none.
    """
    files = convert.find_images(images)
    enrolled = None if gallery is None else _enrol(gallery)
    asked = DEFAULT_RATE if false_accept_rate is None else false_accept_rate
    rate, must_refuse = None if asked == "off" else asked, false_accept_rate is not None
    return Question(files, training_images.read(model_dir), None, enrolled, neighbors, rate, must_refuse)


def _enrol(path: Path) -> Enrolled:
    listing = galleries.find(path)
    names = listing.in_order({image.class_name for image in listing.images})
    index = {name: label for label, name in enumerate(names)}
    labels = np.array([index[image.class_name] for image in listing.images])
    return Enrolled(path, [image.path for image in listing.images], labels, names, listing.notes)
