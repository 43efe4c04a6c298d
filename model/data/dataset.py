"""A data set: images with their classes, in splits; and its classes turned by quarters, as classes of their own."""

import functools
import hashlib
import os
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from model.common.errors import UserError, listed
from model.common.images import Images, are_blank, quarter_turns, subset
from model.common.text import printable
from model.data import exclusion
from model.data.exclusion import ExclusionList
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
        names: (N,) object, how each is called: the path of its file below the folder of the data, or `train/17` where
            it has none. None where images are called nothing, as those that were turned.
    """

    images: Images
    labels: np.ndarray
    roles: Roles | None = None
    names: np.ndarray | None = None

    def where(self, chosen: np.ndarray) -> "Split":
        """Returns those that a mask, (N,) bool, chooses."""
        names = None if self.names is None else self.names[chosen]
        return Split(subset(self.images, chosen), self.labels[chosen], self.roles and self.roles.where(chosen), names)

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
        excluded: Training images that a list leaves out.
        has_files: Whether images are called by the paths of their files, and not by numbers.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    validation: Split | None = None
    notes: tuple[str, ...] = ()
    excluded: Split | None = None
    has_files: bool = False

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

    def exclude(self, without: ExclusionList) -> "Dataset":
        """Returns the data set without the training images that a list names; labels stay what they are.

        Test images stay, and so do validation images that the data come with: what is scored is not to be chosen by
        what was scored.

        Raises:
            UserError: The list is of other data, names images that are not there, or leaves less than two classes.
        """
        if without.labels_sha256 and without.labels_sha256 != self._labels_sha256:
            raise UserError(
                f"{without.path}: its numbers are those of other training images or labels than {self.name} has now; "
                "make the list anew, or name the one that was made for these data as 'exclude_images'"
            )
        names = _names(self.train)
        is_listed = np.array([name in without.names for name in names.tolist()], bool)
        scored = {name for split in (self.test, self.validation) if split for name in _names(split).tolist()}
        staying = without.names & scored
        if unknown := without.names.difference(names, staying):
            some = listed((repr(printable(name, 200)) for name in sorted(unknown)), most=3)
            raise UserError(
                f"{without.path}: {len(unknown)} of {len(without.names)} images that it names are not among those of "
                f"{self.name}: {some}; expected names such as {printable(names[0], 200)!r}; remove these lines, or "
                "is it a list of other data?"
            )
        train = self.train.where(~is_listed)
        if (num_classes := len(np.unique(train.labels))) < 2:
            raise UserError(
                f"{without.path}: leaves {len(train.labels)} of {len(self.train.labels)} training images, of "
                f"{num_classes} classes, expected at least 2 to learn from; shorten it"
            )
        note = f"{is_listed.sum():,} of {len(is_listed):,} training images are left out, as {without.path} lists them"
        if staying:
            note += f"; {len(staying)} that it lists are test or validation images, which stay"
        return replace(self, train=train, excluded=self.train.where(is_listed), notes=(*self.notes, note))

    def exclusion_list(self, chosen: np.ndarray) -> str:
        """Returns a list, as a text, that leaves out those that are left out now, and more.

        Args:
            chosen: The indices of these among the training images.
        """
        before = [] if self.excluded is None else _names(self.excluded).tolist()
        names = [*before, *_names(self.train)[chosen].tolist()]
        return exclusion.as_text(names, "" if self.has_files else self._labels_sha256)

    @property
    def _labels_sha256(self) -> str:
        """A fingerprint of the names and labels of the training images, whatever of them is left out."""
        splits = [self.train, *([self.excluded] if self.excluded else [])]
        lines = sorted(
            f"{name} {label}\n"
            for split in splits
            for name, label in zip(_names(split), split.labels.tolist(), strict=True)
        )
        return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def _names(split: Split) -> np.ndarray:
    """Returns the names of images.

    Raises:
        ValueError: They have none.
    """
    if split.names is None:
        raise ValueError("Expected images with names. Received: a split without")
    return split.names


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
