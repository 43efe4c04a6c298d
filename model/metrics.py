"""How good embeddings are: NumPy in, plain numbers out.

A query is right at rank 1 when its nearest neighbour has its label. Distances are euclidean. Ties go to the
neighbour that comes first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Distances are computed for this many pairs at a time (32 MiB of float32), whatever the size of the gallery.
_PAIRS_AT_A_TIME = 2**23


def knn_accuracy(
    queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray
) -> float:
    """Computes the accuracy of the 1-nearest-neighbour classifier.

    Args:
        queries: Array of shape (Q, D), for example the embeddings of the test images.
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D), for example the embeddings of the training images; G >= 1.
        gallery_labels: Integer array of shape (G,).

    Returns:
        The fraction of the queries whose nearest gallery image has their label, in [0, 1]; NaN without queries.
    """
    if not len(queries):
        return float("nan")
    nearest = nearest_neighbors(queries, gallery)
    return float(np.mean(gallery_labels[nearest] == query_labels))


def recall_at_1(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Computes the fraction of the images whose nearest other image has their label.

    Args:
        embeddings: Array of shape (N, D).
        labels: Integer array of shape (N,).

    Returns:
        A number in [0, 1]. An image that is the only one of its class cannot be answered rightly and is left out
        as a query; NaN when no query is left.

    References:
        Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, 2016.
    """
    _, class_of, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(class_sizes[class_of] > 1)
    if not len(queries):
        return float("nan")
    nearest = nearest_neighbors(embeddings[queries], embeddings, ignore=queries)
    return float(np.mean(labels[nearest] == labels[queries]))


def nearest_neighbors(queries: np.ndarray, gallery: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Finds the nearest gallery row of each query.

    Args:
        queries: Array of shape (Q, D).
        gallery: Array of shape (G, D).
        ignore: Integer array of shape (Q,): for each query the one gallery row that is not a neighbour, because
            it is the query itself.

    Returns:
        int64 array of shape (Q,), indices into the gallery; the first one of those equally near.
    """
    nearest = np.empty(len(queries), np.int64)
    for chunk, distances in _distances(queries, gallery, ignore):
        nearest[chunk] = distances.argmin(axis=1)
    return nearest


@dataclass(frozen=True)
class ClassNeighbors:
    """The nearest gallery rows of each query; -1 and inf where there is none of that kind.

    Attributes:
        nearest: int64 array of shape (Q,), the nearest of all, an index into the gallery.
        same: int64 array of shape (Q,), the nearest of the query's own class.
        other: int64 array of shape (Q,), the nearest of another class.
        same_distance: float32 array of shape (Q,), euclidean.
        other_distance: float32 array of shape (Q,).
    """

    nearest: np.ndarray
    same: np.ndarray
    other: np.ndarray
    same_distance: np.ndarray
    other_distance: np.ndarray


def class_neighbors(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ignore: np.ndarray | None = None,
) -> ClassNeighbors:
    """Finds for each query its nearest gallery row of the same class, and that of another class.

    Args:
        queries: Array of shape (Q, D).
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D).
        gallery_labels: Integer array of shape (G,).
        ignore: As for `nearest_neighbors`.
    """
    nearest = np.empty(len(queries), np.int64)
    found = np.empty((2, len(queries)), np.int64)  # of the query's class, of another one
    for chunk, distances in _distances(queries, gallery, ignore):
        rows = np.arange(len(distances))
        first = nearest[chunk] = distances.argmin(axis=1)
        # It is the nearest of its kind; the other kind is what is left without its.
        exists = np.isfinite(distances[rows, first])
        is_same = query_labels[chunk, np.newaxis] == gallery_labels  # (rows, G)
        first_is_same = is_same[rows, first]
        np.copyto(distances, np.inf, where=is_same == first_is_same[:, np.newaxis])
        second = distances.argmin(axis=1)
        second = np.where(np.isfinite(distances[rows, second]), second, -1)
        first = np.where(exists, first, -1)
        found[:, chunk] = np.where(first_is_same, [first, second], [second, first])
    # The difference itself is more exact than what the search compares.
    length = np.linalg.norm(queries - gallery[found], axis=2)  # (2, Q)
    same_distance, other_distance = np.where(found >= 0, length, np.inf).astype(np.float32)
    same, other = found
    return ClassNeighbors(nearest, same, other, same_distance, other_distance)


def _distances(
    queries: np.ndarray, gallery: np.ndarray, ignore: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields some queries at a time with their squared distances to the gallery, (rows, G), up to a constant a row."""
    # Distances do not change when both move together, and small numbers have less to lose by rounding.
    center = gallery.mean(axis=0, dtype=np.float64)
    queries = (queries - center).astype(np.float32)
    gallery = (gallery - center).astype(np.float32)
    square_norm = np.einsum("gd,gd->g", gallery, gallery)  # (G,)
    rows = max(1, _PAIRS_AT_A_TIME // len(gallery))
    for start in range(0, len(queries), rows):
        chunk = slice(start, min(start + rows, len(queries)))
        # ||q - g||^2 without ||q||^2, which is the same for the whole row
        distances = queries[chunk] @ gallery.T  # (rows, G)
        distances *= -2
        distances += square_norm
        if ignore is not None:
            distances[np.arange(len(distances)), ignore[chunk]] = np.inf
        yield chunk, distances
