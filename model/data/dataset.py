"""A data set: images with their classes, in splits; and its classes turned by quarters, as classes of their own."""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from model.common.errors import UserError
from model.common.images import Images, are_blank, quarter_turns, subset
from model.data.listing import Roles
from model.data.store import fingerprints

# Which images are turned: the training images alone, or all.
Rotated = Literal["train", "all"]


@dataclass(frozen=True)
class Split:
    """Images with their classes.

    Attributes:
        images: (N, H, W, C) uint8, C is 1 or 3; in memory or stored.
        labels: (N,) int32, indices into `Dataset.class_names`.
        roles: Which are queries, which the gallery, and what they have in common; None where the data do not say.
    """

    images: Images
    labels: np.ndarray
    roles: Roles | None = None

    def where(self, chosen: np.ndarray) -> "Split":
        """Returns those that a mask, (N,) bool, chooses."""
        return Split(subset(self.images, chosen), self.labels[chosen], self.roles and self.roles.where(chosen))

    def roles_as_arrays(self) -> list[np.ndarray]:
        """Returns what `roles` holds."""
        roles = self.roles
        return [] if roles is None else [a for a in (roles.is_query, roles.is_gallery, roles.group) if a is not None]


@dataclass(frozen=True)
class Dataset:
    """A data set: images of one size, at least two classes to train on and one image to test.

    Attributes:
        name: As it was asked for.
        train: The training images.
        test: The test images.
        class_names: Of the labels 0, 1, ...
        validation: Validation images, where the data come with a folder of them.
        notes: A line for what was left out, or looks as if somebody should know.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Fingerprint of all images, labels and roles; "" if images are blank."""
        return self._sha256_after_each_split[-1]

    @property
    def train_sha256(self) -> str:
        """Fingerprint of the training images and their labels; "" if images are blank."""
        return self._sha256_after_each_split[0]

    @functools.cached_property
    def _sha256_after_each_split(self) -> list[str]:
        if are_blank(self.train.images):
            return [""]
        scored = [self.test, *([self.validation] if self.validation else [])]
        return fingerprints(
            [
                (self.train.images, [self.train.labels]),
                *((split.images, [split.labels, *split.roles_as_arrays()]) for split in scored),
            ]
        )


def rotate_classes(data: Dataset, which: Rotated) -> Dataset:
    """Returns a data set with three classes more for each: its images turned by 90, 180 and 270 degrees.

    A character on its side is another character, so that there are four times as many classes to learn from (Santoro
    et al.: Meta-Learning with Memory-Augmented Neural Networks, 2016; Vinyals et al.: Matching Networks, 2016). Those
    of `Greek/character03` are called `Greek/character03_rot090`, and so on, by degrees against the clock. Labels of
    the classes that were there stay.

    Args:
        data: With images as high as they are wide.
        which: Whose images are turned; the classes of others stay what they are.

    Raises:
        UserError: Images are not square.
    """
    height, width = data.train.images.shape[1:3]
    if height != width:
        raise UserError(
            f"'rotated_classes' needs images as high as wide, those of {data.name} are {height}x{width}; set image_size"
        )
    with_test = which == "all"
    rotated = [data.train, *([data.test, data.validation] if with_test else [])]
    turned = np.unique(np.concatenate([split.labels for split in rotated if split]))  # labels of what is turned
    count = len(data.class_names)

    def rotate(split: Split) -> Split:
        place = np.searchsorted(turned, split.labels)
        labels = [split.labels, *(count + turn * len(turned) + place for turn in range(3))]
        roles = split.roles and split.roles.where(np.tile(np.arange(len(split.labels)), 4))
        return Split(quarter_turns(split.images), np.concatenate(labels).astype(np.int32), roles)

    names = [f"{data.class_names[label]}_rot{angle:03}" for angle in (90, 180, 270) for label in turned.tolist()]
    return replace(
        data,
        train=rotate(data.train),
        test=rotate(data.test) if with_test else data.test,
        validation=rotate(data.validation) if with_test and data.validation else data.validation,
        class_names=(*data.class_names, *names),
    )
