"""Embeddings together with the classes of their images: what every score is computed from."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelledEmbeddings:
    """The embeddings of some images, the classes of these images, and who looks for whom among them.

    Attributes:
        embeddings: Array of shape (N, D), of any floating type.
        labels: Integer array of shape (N,).
        is_query: (N,) bool, whether an image looks for others of its class; None where all of them do.
        is_gallery: (N,) bool, whether it is looked for; None where all of them are.
        group: Integer array of shape (N,): images of one group, a number from 0, are not looked for by each other.
            Those of -1 are in no group. None where there are no groups.

    Raises:
        ValueError: There is not one label, and one of each of the others, for each embedding.

    Example:
        >>> images = LabelledEmbeddings(np.array([[0.0], [1.0], [3.0]]), np.array([4, 4, 7]))
        >>> images.of_classes({7}).embeddings.tolist()
        [[3.0]]
    """

    embeddings: np.ndarray
    labels: np.ndarray
    is_query: np.ndarray | None = None
    is_gallery: np.ndarray | None = None
    group: np.ndarray | None = None

    def __post_init__(self) -> None:
        facts = [fact for fact in (self.labels, self.is_query, self.is_gallery, self.group) if fact is not None]
        if self.embeddings.ndim != 2 or any(fact.shape != self.embeddings.shape[:1] for fact in facts):
            shapes = " and ".join(str(array.shape) for array in (self.embeddings, *facts))
            raise ValueError(f"Expected embeddings of shape (N, D) and labels of shape (N,). Received: {shapes}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_roles(self) -> bool:
        """Whether not every image looks for all others."""
        return not (self.is_query is None and self.is_gallery is None and self.group is None)

    @property
    def queries(self) -> np.ndarray:
        """The indices of the images that look for others, (Q,) int64."""
        return np.arange(len(self)) if self.is_query is None else np.flatnonzero(self.is_query)

    @property
    def gallery(self) -> np.ndarray:
        """The indices of the images that are looked for, (G,) int64."""
        return np.arange(len(self)) if self.is_gallery is None else np.flatnonzero(self.is_gallery)

    def of_classes(self, classes: Collection[int]) -> "LabelledEmbeddings":
        """Returns those whose label is one of `classes`, in the same order."""
        return self.at(np.flatnonzero(np.isin(self.labels, list(classes))))

    def at(self, indices: np.ndarray) -> "LabelledEmbeddings":
        """Returns those at some indices, (n,), in their order."""
        roles = (fact if fact is None else fact[indices] for fact in (self.is_query, self.is_gallery, self.group))
        return LabelledEmbeddings(self.embeddings[indices], self.labels[indices], *roles)

    def and_those_of(self, others: "LabelledEmbeddings") -> "LabelledEmbeddings":
        """Returns these, followed by others, all of which look for all.

        Raises:
            ValueError: Not all of these look for all others.
        """
        if self.has_roles or others.has_roles:
            raise ValueError("Expected images that all look for each other. Received: queries, a gallery or groups.")
        embeddings = np.concatenate([self.embeddings, others.embeddings])
        return LabelledEmbeddings(embeddings, np.concatenate([self.labels, others.labels]))
