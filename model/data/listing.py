"""Which image files a data set is made of, and what is known of each: its split, its class, and what it is for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Roles:
    """What N images are for where they are scored among themselves.

    Attributes:
        is_query: (N,) bool, whether an image looks for others of its class.
        is_gallery: (N,) bool, whether it is looked for; an image may be both, and is never its own neighbour.
        group: (N,) int32, what images have in common beside their class, such as a camera, a scene or a sequence; -1 of
            an image that is in no group. None where the data know no groups.
    """

    is_query: np.ndarray
    is_gallery: np.ndarray
    group: np.ndarray | None = None

    def where(self, chosen: np.ndarray) -> "Roles":
        """Returns those that a mask, (N,) bool, chooses."""
        group = None if self.group is None else self.group[chosen]
        return Roles(self.is_query[chosen], self.is_gallery[chosen], group)

    def to_score(self, exclude_same_group: bool) -> "Roles | None":
        """Returns what scoring has to heed; None where every image looks for all others."""
        group = self.group if exclude_same_group else None
        if group is None and self.is_query.all() and self.is_gallery.all():
            return None
        return Roles(self.is_query, self.is_gallery, group)

    def count_without_answer(self, labels: np.ndarray) -> int:
        """Counts the queries for which there is no image to be found: none of their class in the gallery.

        The query itself is none, and neither are the images of its group.

        Args:
            labels: (N,) int32.
        """
        query, gallery = self.is_query, self.is_gallery
        group = np.full(len(labels), -1) if self.group is None else self.group
        _, class_ = np.unique(labels, return_inverse=True)
        _, both = np.unique(np.column_stack([labels, group]), axis=0, return_inverse=True)
        of_class = np.bincount(class_[gallery], minlength=len(labels))[class_[query]]
        of_both = np.bincount(both[gallery], minlength=len(labels))[both[query]]
        return int(np.count_nonzero(of_class == np.where(group[query] >= 0, of_both, gallery[query])))


@dataclass(frozen=True)
class ListedImage:
    """An image file.

    Attributes:
        split: "train", "test" or "validation"; "all" where a part is to be held out.
        class_name: The name of its class.
        path: The file.
        is_query: Whether it looks for others of its class, if it is scored.
        is_gallery: Whether it is looked for.
        group: The name of its group, "" if it is in none.
    """

    split: str
    class_name: str
    path: Path
    is_query: bool = True
    is_gallery: bool = True
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of a data set.

    Attributes:
        images: Split by split.
        notes: A line for what was left out, or looks as if somebody should know.
        orders_by_number: Whether classes whose names are all whole numbers are in the order of these, and not of text.
    """

    images: Sequence[ListedImage]
    notes: tuple[str, ...] = ()
    orders_by_number: bool = False

    def in_order(self, class_names: Collection[str]) -> list[str]:
        """Returns the names of classes in the order of their labels 0, 1, ..."""
        if self.orders_by_number and all(name.isascii() and name.isdigit() for name in class_names):
            return sorted(class_names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
        return sorted(class_names)


def roles_of(images: Sequence[ListedImage]) -> Roles | None:
    """Returns the roles of images; None where all look for all others and none is in a group."""
    is_query, is_gallery = (
        np.array(facts, bool) for facts in zip(*((i.is_query, i.is_gallery) for i in images), strict=True)
    )
    groups = {name: number for number, name in enumerate(dict.fromkeys(i.group for i in images if i.group))}
    group = np.array([groups.get(i.group, -1) for i in images], np.int32)
    roles = Roles(is_query, is_gallery, group if groups else None)
    return roles if groups or roles.to_score(False) else None
