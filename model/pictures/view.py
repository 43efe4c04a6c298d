"""What the pictures of an experiment show: images, where the network puts them, and what lies next to them."""

import functools
from dataclasses import dataclass

import numpy as np

from model.common.images import Images, subset
from model.common.text import printable
from model.scoring import class_pairs, verification
from model.scoring.labelled import LabelledEmbeddings
from model.scoring.neighbors import ClassNeighbors, Groups, class_neighbors, k_nearest

# More unseen classes than this are not compared with each other, but so many of them: every two have a number.
_COMPARED_CLASSES = 2000


@dataclass(frozen=True)
class Embedded:
    """Images with their classes and embeddings.

    Attributes:
        images: (N, H, W, C) uint8, C is 1 or 3; in memory or stored.
        labels: (N,) int32.
        embeddings: (N, D) float32.
        files: (N,) object, the paths of their files below the folder of the data; None where they have none.
    """

    images: Images
    labels: np.ndarray
    embeddings: np.ndarray
    files: np.ndarray | None = None

    def at(self, indices: np.ndarray) -> "Embedded":
        """Returns those at some indices, (n,), in their order."""
        files = None if self.files is None else self.files[indices]
        return Embedded(subset(self.images, indices), self.labels[indices], self.embeddings[indices], files)

    def file_of(self, index: int, length: int) -> str:
        """Returns the path of the file of an image, of at most so many letters, of which the last stay; "" without."""
        return "" if self.files is None else printable(self.files[index], length, keeps_start=False)

    def neighbors_in(self, gallery: "Embedded", ignore: np.ndarray | None, groups: Groups | None) -> ClassNeighbors:
        """Returns the nearest of a gallery, as `neighbors.class_neighbors` finds them."""
        return class_neighbors(self.embeddings, self.labels, gallery.embeddings, gallery.labels, ignore, groups)

    def nearest_others(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest others of each image, and how far they are, (N, count) each; count is less than N."""
        embeddings = self.embeddings
        nearest = k_nearest(embeddings, embeddings, count, ignore=np.arange(len(embeddings)))
        lengths = [np.linalg.norm(embeddings - embeddings[others], axis=1) for others in nearest.T]
        return nearest, np.stack(lengths, axis=1)


@dataclass(frozen=True)
class View:
    """Images, their neighbours in a gallery, and their places on a plane.

    Attributes:
        subject: Which images these are, in words.
        step: The global step of the network that embedded them.
        class_names: Of the labels 0, 1, ..., as `text.class_name` returns them.
        margin: Of the loss, a number or "soft"; None where it has none, or none that euclidean distances should keep.
        shown: The images to show.
        gallery: Those among which their neighbours are: the gallery that the data say, else the training images, unless
            these have none of the classes.
        neighbors: The nearest of these.
        points: (N, 2) float32, the places of the embeddings shown on a plane.
        projection: How these were found, in words.
        indices: Where each image shown is in its split, (N,) int32.
        gallery_indices: Where each image of the gallery is in its own, (G,) int.
        in_gallery: Where each image shown is in the gallery, (N,) int64, -1 where it is not there; None where none is.
        one_of_gallery: What an image of the gallery is, in words.
        groups: Those of the images shown and of the gallery, which are no neighbours within one; None where all may be.
        are_queries: Whether the images shown are queries, which the data look up in the gallery.
        unseen: Labels of the classes that nobody learned from; empty if there are fewer than two.
    """

    subject: str
    step: int
    class_names: tuple[str, ...]
    margin: float | str | None
    shown: Embedded
    gallery: Embedded
    neighbors: ClassNeighbors
    points: np.ndarray
    projection: str
    indices: np.ndarray
    gallery_indices: np.ndarray
    in_gallery: np.ndarray | None = None
    one_of_gallery: str = "training image"
    groups: Groups | None = None
    are_queries: bool = False
    unseen: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """What stands above a picture."""
        return f"{self.subject}, step {self.step:,}"

    @property
    def predicted(self) -> np.ndarray:
        """The label of the nearest gallery image, (N,) int32."""
        return self.gallery.labels[self.neighbors.nearest]

    @property
    def has_answer(self) -> np.ndarray:
        """Whether the gallery has another image of its class, so that the nearest can be of it, (N,) bool."""
        return self.neighbors.same >= 0

    @property
    def is_right(self) -> np.ndarray:
        """Whether the nearest is of the class of the image, (N,) bool."""
        return (self.predicted == self.shown.labels) & self.has_answer

    @property
    def is_wrong(self) -> np.ndarray:
        """Whether it is not, though it could be, (N,) bool."""
        return self.has_answer & ~self.is_right

    @property
    def safety(self) -> np.ndarray:
        """How much farther the nearest of another class is than that of its own, (N,) float32; NaN with neither."""
        same, other = self.neighbors.same_distance, self.neighbors.other_distance
        return np.subtract(other, same, out=np.full_like(same, np.nan), where=np.isfinite(same) | np.isfinite(other))

    @property
    def surest_mistakes(self) -> np.ndarray:
        """The images that are wrong, (n,), those first whose nearest is nearest beside that of their own class."""
        wrong = np.flatnonzero(self.is_wrong)
        return wrong[np.argsort(self.safety[wrong], kind="stable")]

    @property
    def confusions(self) -> list[tuple[int, int, int]]:
        """Of images that are wrong: their class, that of the nearest, how many they are; the most first."""
        pairs = np.column_stack([self.shown.labels, self.predicted])[self.is_wrong]
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(a), int(b), int(n)) for (a, b), n in zip(found[order], counts[order], strict=True)]

    @property
    def asked_classes(self) -> np.ndarray:
        """Labels of the images with an answer and of their nearest, (n,) ascending."""
        return np.union1d(self.shown.labels[self.has_answer], self.predicted[self.has_answer])

    @property
    def confusion_matrix(self) -> np.ndarray:
        """How many images of a class, a line, have a nearest of which, a column: (n, n), of `asked_classes`."""
        classes, asked = self.asked_classes, self.has_answer
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        places = (np.searchsorted(classes, labels[asked]) for labels in (self.shown.labels, self.predicted))
        np.add.at(matrix, tuple(places), 1)
        return matrix

    def of_different_classes(self, count: int) -> np.ndarray:
        """Returns the first image of so many classes, evenly spaced, (n,)."""
        _, first = np.unique(self.shown.labels, return_index=True)
        return first[np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)]

    def nearest_in_gallery(self, index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns so many images of the gallery, or all that may be found, nearest to one shown, and how far they are.

        Returns:
            Two arrays (n,), indices and euclidean distances.
        """
        lengths = np.linalg.norm(self.gallery.embeddings - self.shown.embeddings[index], axis=1)
        may_be_found = self.may_be_found(index)
        lengths[~may_be_found] = np.inf
        nearest = np.argsort(lengths, kind="stable")[: min(count, np.count_nonzero(may_be_found))]
        return nearest, lengths[nearest]

    def roc_curve(self, classes: np.ndarray | None = None) -> verification.RocCurve | None:
        """Returns the ROC curve of the pairs that verification takes, as far as they are shown.

        Args:
            classes: The labels that count; None takes all.
        """
        images = self._compared if classes is None else self._compared.of_classes(classes)
        return verification.roc_curve(images)

    @functools.cached_property
    def _compared(self) -> LabelledEmbeddings:
        """The images shown, all of which look for each other, or the queries shown and their gallery."""
        if not self.are_queries:
            return LabelledEmbeddings(self.shown.embeddings, self.shown.labels)
        places = np.full(len(self.shown.labels), -1) if self.in_gallery is None else self.in_gallery
        alone = np.flatnonzero(places < 0)  # the queries that are not in the gallery
        is_query = np.zeros(len(self.gallery.labels), bool)
        is_query[places[places >= 0]] = True
        return LabelledEmbeddings(
            np.concatenate([self.gallery.embeddings, self.shown.embeddings[alone]]),
            np.concatenate([self.gallery.labels, self.shown.labels[alone]]),
            np.append(is_query, np.ones(len(alone), bool)),
            np.arange(len(is_query) + len(alone)) < len(is_query),
            None if self.groups is None else np.concatenate([self.groups[1], self.groups[0][alone]]),
        )

    @property
    def unseen_shown(self) -> np.ndarray:
        """Labels of the unseen classes of the images shown, ascending."""
        return np.intersect1d(self.unseen, self.shown.labels)

    @functools.cached_property
    def told_apart(self) -> class_pairs.ClassPairs:
        """How well every two unseen classes are told apart: of queries in the gallery, or of the images shown.

        Of too many classes some, evenly spaced.
        """
        classes = self.unseen_shown
        if len(classes) > _COMPARED_CLASSES:
            classes = classes[np.linspace(0, len(classes) - 1, _COMPARED_CLASSES).astype(int)]
        asked = np.flatnonzero(np.isin(self.shown.labels, classes))
        shown = gallery = self.shown.at(asked)
        ignore: np.ndarray | None = np.arange(len(asked))
        groups = None
        if self.are_queries:
            gallery = self.gallery
            ignore = None if self.in_gallery is None else self.in_gallery[asked]
            groups = None if self.groups is None else (self.groups[0][asked], self.groups[1])
        return class_pairs.measure(shown.embeddings, shown.labels, gallery.embeddings, gallery.labels, ignore, groups)

    def may_be_found(self, index: int) -> np.ndarray:
        """Returns which images of the gallery may be neighbours of one that is shown, (G,) bool: not itself."""
        found = np.ones(len(self.gallery.labels), bool)
        if self.in_gallery is not None and self.in_gallery[index] >= 0:
            found[self.in_gallery[index]] = False
        if self.groups is not None and self.groups[0][index] >= 0:
            found &= self.groups[1] != self.groups[0][index]
        return found


def length_as_text(length: float) -> str:
    """Returns a distance with two decimals, or a short one, as of embeddings that have collapsed, with two digits.

    Example:
        >>> length_as_text(1.0), length_as_text(0.00123)
        ('1.00', '0.0012')
    """
    return f"{length:.2f}" if length >= 0.1 else f"{length:.2g}"
