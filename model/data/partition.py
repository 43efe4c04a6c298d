"""Who sees what: the images that are learned from, those that choose, and the classes that nobody saw.

The test images belong to no part: they are scored once, at the end. `split_seed` decides every draw, and not `seed`,
so that runs that differ only in their seed are scored on the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.common.errors import UserError
from model.data import sampling
from model.data.datasets import Dataset, Split
from model.params import Params

# Numbers the draws of the stream CHOSEN_CLASSES.
_UNSEEN_CLASSES, _VALIDATION_CLASSES = 0, 1


@dataclass(frozen=True)
class Partition:
    """A data set whose training images are divided.

    Attributes:
        data: The data set.
        train: Those that are learned from.
        validation: Those that early stopping and the choice of the best checkpoint look at; None where nothing is
            chosen.
        validation_gallery: Those among which the neighbours of the validation images are looked for.
        unseen: Labels of the classes that nobody learns from, ascending: those that `holdout_classes` asks for, and
            those that no training image is of. Classes of `validation_classes` are not among them.
    """

    data: Dataset
    train: Split
    validation: Split | None = None
    validation_gallery: Split | None = None
    unseen: tuple[int, ...] = ()


def divide(data: Dataset, params: Params) -> Partition:
    """Divides the training images as the parameters ask.

    With `validation_size` a stratified sample is set aside, whose gallery is what is learned from. With
    `validation_classes` whole classes are set aside: half of their images are the validation images and the other half
    is their gallery. With neither, the validation images that the data come with are taken, if they do: their gallery
    is what is learned from, or half of them if their classes are others.

    Args:
        data: The data set.
        params: `holdout_classes`, `validation_size` or `validation_classes`, and `split_seed`.

    Raises:
        UserError: There is no such class, too few classes or images are left to learn from, or
            `early_stopping_patience` is set and nothing validates.
    """
    train, seed = data.train, params.split_seed
    classes = np.unique(train.labels)
    unseen = _choose(params.holdout_classes, "holdout_classes", classes, data.class_names, seed, _UNSEEN_CLASSES)
    train, _ = _take_classes(train, unseen)
    _check_left(train, data, "holdout_classes")
    train, validation, gallery = _set_aside(train, data, params, unseen)
    if validation is None and params.early_stopping_patience is not None:
        raise UserError(
            "'early_stopping_patience' needs images to watch: set 'validation_size' or 'validation_classes', or add a "
            "folder val/ to the data"
        )
    unseen = np.union1d(unseen, np.setdiff1d(data.test.labels, data.train.labels)).astype(np.int64)
    return Partition(data, train, validation, gallery, tuple(unseen.tolist()))


def _set_aside(
    train: Split, data: Dataset, params: Params, unseen: np.ndarray
) -> tuple[Split, Split | None, Split | None]:
    """Returns what is left to learn from, the validation images and their gallery."""
    seed, classes = params.split_seed, np.unique(train.labels)
    validation = gallery = None
    if params.validation_classes is not None:
        names = data.class_names
        chosen = _choose(params.validation_classes, "validation_classes", classes, names, seed, _VALIDATION_CLASSES)
        train, aside = _take_classes(train, chosen)
        validation, gallery = _take_sample(aside, seed, len(aside.labels) // 2)
        _check_left(train, data, "validation_classes")
        both = np.intersect1d(validation.labels, gallery.labels)
        if len(both) < 2:
            raise UserError(
                f"'validation_classes' needs at least 2 classes of 2 images, one to look for and one to be found: "
                f"received {len(chosen)} classes with {len(aside.labels)} training images"
            )
    elif params.validation_size is not None:
        size = params.validation_size
        count = size if isinstance(size, int) else round(size * len(train.labels))
        if not 1 <= count < len(train.labels):
            raise UserError(
                f"'validation_size' must be at least one image and leave some to learn from: received {size}, which is "
                f"{count} of {len(train.labels)} training images of {data.name}"
            )
        validation, train = _take_sample(train, seed, count)
        _check_left(train, data, "validation_size")
        gallery = train
    elif data.validation is not None and not np.isin(data.validation.labels, unseen).all():
        validation, _ = _take_classes(data.validation, unseen)
        gallery = train
        if not np.isin(validation.labels, train.labels).any():
            validation, gallery = _take_sample(validation, seed, len(validation.labels) // 2)
    return train, validation, gallery


def _choose(
    asked: int | Sequence[int | str] | None,
    key: str,
    classes: np.ndarray,
    class_names: Sequence[str],
    seed: int,
    number: int,
) -> np.ndarray:
    """Returns the labels of the classes that a key asks for, by label or name, or so many at random."""
    if asked is None:
        return np.zeros(0, np.int64)
    if isinstance(asked, int):  # all of them, if there are not so many
        order = sampling.permutation(seed, sampling.Stream.CHOSEN_CLASSES, number, size=len(classes))
        return np.sort(classes[order[:asked]])
    label_of = {name: label for label, name in enumerate(class_names)}
    found = [label_of.get(name, -1) if isinstance(name, str) else name for name in asked]
    wrong = [name for name, label in zip(asked, found, strict=True) if label not in classes]
    if wrong:
        known = ", ".join(class_names[label] for label in classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise UserError(f"'{key}' must name classes that could be trained on ({known}), received {wrong[0]!r}")
    if len(set(found)) < 2:
        raise UserError(f"'{key}' must name at least 2 classes, as every neighbour is right in one: received {asked}")
    return np.unique(found)


def _check_left(train: Split, data: Dataset, key: str) -> None:
    num_classes = len(np.unique(train.labels))
    if num_classes < 2 and train is not data.train:
        raise UserError(
            f"'{key}' must leave at least 2 classes to learn from, {num_classes} of the {len(data.class_names)} "
            f"classes of {data.name} would be left"
        )


def _take_classes(split: Split, classes: np.ndarray) -> tuple[Split, Split]:
    """Returns the images of all other classes, and those of these."""
    if not len(classes):
        return split, split.where(np.zeros(len(split.labels), bool))
    chosen = np.isin(split.labels, classes)
    return split.where(~chosen), split.where(chosen)


def _take_sample(split: Split, seed: int, count: int) -> tuple[Split, Split]:
    """Returns a stratified sample, and the rest."""
    chosen = np.zeros(len(split.labels), bool)
    chosen[sampling.stratified_sample(split.labels, seed, count)] = True
    return split.where(chosen), split.where(~chosen)
