"""Embeddings together with the classes of their images: what every score is computed from."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelledEmbeddings:
    """The embeddings of some images, and the classes of these images.

    Attributes:
        embeddings: Array of shape (N, D), of any floating type.
        labels: Integer array of shape (N,).

    Raises:
        ValueError: There is not one label for each embedding.
    """

    embeddings: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or self.labels.shape != self.embeddings.shape[:1]:
            shapes = f"{self.embeddings.shape} and {self.labels.shape}"
            raise ValueError(f"Expected embeddings of shape (N, D) and labels of shape (N,). Received: {shapes}.")

    def __len__(self) -> int:
        return len(self.labels)

    def of_classes(self, classes: Collection[int]) -> "LabelledEmbeddings":
        """Returns those whose label is one of `classes`, in the same order."""
        chosen = np.isin(self.labels, list(classes))  # (N,)
        return LabelledEmbeddings(self.embeddings[chosen], self.labels[chosen])

    def and_those_of(self, others: "LabelledEmbeddings") -> "LabelledEmbeddings":
        """Returns these, followed by others."""
        embeddings = np.concatenate([self.embeddings, others.embeddings])
        return LabelledEmbeddings(embeddings, np.concatenate([self.labels, others.labels]))
