"""Who sees what: the images that are learned from, those that choose, and the classes that nobody saw.

The test images belong to no part: they are scored once, at the end. `split_seed` decides every draw, and not `seed`,
so that runs that differ only in their seed are scored on the same images.
"""

import difflib
import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.common import draws
from model.common.errors import UserError, listed
from model.common.text import class_name
from model.data import siblings
from model.data.dataset import Dataset, Split
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

    @property
    def has_unseen(self) -> bool:
        """Whether there are such classes to score apart: two at least, as in a single one every neighbour is right."""
        return len(self.unseen) > 1

    @property
    def never_learned_from(self) -> list[Split]:
        """All images of the classes that nobody learns from; the test images where there are no such classes.

        Where test images are queries or gallery, or have groups, the training images of their classes do not join them,
        as in the usual evaluation.
        """
        test, train = self.data.test, self.data.train
        if not self.has_unseen:
            return [test]
        splits = [test] if test.roles else [test, train]
        return [split.where(np.isin(split.labels, self.unseen)) for split in splits]

    @property
    def parents(self) -> np.ndarray:
        """The parent of each class, (C,) int64: a number for `Greek` of `Greek/character03`, as in `siblings.Tree`."""
        return siblings.Tree.of(self.data.class_names).node_of


def divide(data: Dataset, params: Params) -> Partition:
    """Divides the training images as the parameters ask.

    With `validation_size` a stratified sample is set aside, whose gallery is what is learned from. With
    `validation_classes` whole classes are set aside: half of their images are the validation images and the other half
    is their gallery. With neither, the validation images that the data come with are taken, if they do: their gallery
    is what is learned from. Where nobody learns from the classes of most of them, they have a gallery of their own:
    the gallery images among them that are no queries, or half of them where no roles are told.

    Args:
        data: The data set.
        params: `holdout_classes`, `validation_size` or `validation_classes`, and `split_seed`.

    Raises:
        UserError: There is no such class, too few classes or images are left to learn from,
            `early_stopping_patience` is set and nothing validates, or there are no groups to exclude.

    Example:
        >>> images = Split(np.zeros((8, 28, 28, 1), np.uint8), np.repeat(np.arange(4), 2))
        >>> data = Dataset("mine", train=images, test=images, class_names=("ant", "bee", "cow", "dog"))
        >>> partition = divide(data, Params(holdout_classes=["cow", "dog"]))
        >>> partition.train.labels.tolist(), partition.unseen
        ([0, 0, 1, 1], (2, 3))
    """
    train, seed = data.train, params.split_seed
    if params.exclude_same_group and (data.test.roles is None or data.test.roles.group is None):
        raise UserError(
            f"'exclude_same_group' needs groups of the test images, a column 'group' in the images.csv of {data.name}: "
            "received none; add it, or take false"
        )
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
        if np.isin(validation.labels, train.labels).mean() < 0.5:
            validation, gallery = _with_gallery(validation, seed)
    return train, validation, gallery


def _with_gallery(images: Split, seed: int) -> tuple[Split, Split]:
    """Returns the images to score, and those of them or beside them by which these are classified."""
    if images.roles is not None:
        only_looked_for = images.roles.is_gallery & ~images.roles.is_query
        if only_looked_for.any():
            return images, images.where(only_looked_for)
    return _take_sample(images, seed, len(images.labels) // 2)


def _choose(
    asked: int | Sequence[int | str] | None,
    key: str,
    classes: np.ndarray,
    class_names: Sequence[str],
    seed: int,
    number: int,
) -> np.ndarray:
    """Returns the labels of the classes that a key asks for, by label, name or pattern, or so many at random."""
    if asked is None:
        return np.zeros(0, np.int64)
    if isinstance(asked, int):  # all of them, if there are not so many
        order = draws.permutation(seed, draws.Stream.CHOSEN_CLASSES, number, size=len(classes))
        return np.sort(classes[order[:asked]])
    known = {class_names[label]: label for label in classes.tolist()}
    found = [_classes_of(name, key, known) for name in asked]
    chosen = np.unique(np.concatenate(found))
    if len(chosen) < 2:
        raise UserError(f"'{key}' must name at least 2 classes, as every neighbour is right in one: received {asked}")
    return chosen


def _classes_of(asked: int | str, key: str, known: Mapping[str, int]) -> np.ndarray:
    """Returns the labels of the classes that an entry of a list asks for: a label, a name, or a pattern of names.

    Patterns are those of `fnmatch`, with small and large letters told apart: `*` stands for any text, `/` included, so
    that `Fruit/*` are all classes below Fruit, however deep; `?` for a character, `[ab]` for one of these. What is the
    name of a class is no pattern.

    Args:
        asked: The entry.
        key: Of `params.json`.
        known: The labels of the classes that there are, by name.
    """
    if not isinstance(asked, str):
        found = [asked] if asked in known.values() else []
    elif asked in known or not set(asked) & set("*?["):
        found = [known[asked]] if asked in known else []
    else:
        found = [label for name, label in known.items() if fnmatch.fnmatchcase(name, asked)]
    if not found:
        near = _near(asked, known) if isinstance(asked, str) else []
        some = listed(map(class_name, near or known), most=12)
        said = f"near it are {some}" if near else some
        raise UserError(f"'{key}' must name classes that could be trained on ({said}), received {asked!r}")
    return np.array(found)


def _near(asked: str, names: Collection[str]) -> list[str]:
    """Returns the names that look most like what was asked for; for a pattern, folders of names with their `*` too."""
    folders = {name[: end.start()] for name in names for end in re.finditer("/", name)}
    candidates = [*(f"{folder}/*" for folder in sorted(folders)), *names] if "*" in asked else names
    return difflib.get_close_matches(asked, candidates, n=3)


def _check_left(train: Split, data: Dataset, key: str) -> None:
    num_classes = len(np.unique(train.labels))
    if num_classes < 2 and train is not data.train:
        raise UserError(
            f"'{key}' must leave at least 2 classes to learn from, {num_classes} of the {len(data.class_names)} "
            f"classes of {data.name} would be left"
        )


def _take_classes(split: Split, classes: np.ndarray) -> tuple[Split, Split]:
    """Returns the images of all other classes, and those of these."""
    chosen = np.isin(split.labels, classes)  # (N,)
    return split.where(~chosen) if chosen.any() else split, split.where(chosen)


def _take_sample(split: Split, seed: int, count: int) -> tuple[Split, Split]:
    """Returns a stratified sample, and the rest."""
    chosen = np.zeros(len(split.labels), bool)
    chosen[draws.stratified_sample(split.labels, seed, count)] = True
    return split.where(chosen), split.where(~chosen)
