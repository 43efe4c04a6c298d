"""Classification by the nearest neighbours in a gallery.

Of images equally near the one that comes first in the gallery counts as nearer, but in `nearest_is_right`, where ties
count against the query.
"""

from collections.abc import Sequence

import numpy as np

from model.scoring.labelled import LabelledEmbeddings
from model.scoring.neighbors import k_nearest, visit_distances

# Squared distances that differ by less, in squared units of `visit_distances`, are equal but for rounding in float64.
_TIE = 2.0**-36


def knn_correct(images: LabelledEmbeddings, gallery: LabelledEmbeddings, ks: Sequence[int] = (1,)) -> np.ndarray:
    """Tells which images the k nearest neighbours classify correctly, for each of some k.

    Args:
        images: What to classify, for example the test images, N of them.
        gallery: What is voted by, for example the training images; at least one.
        ks: Numbers of neighbours, each at least 1; the whole gallery votes where it has no more than that.

    Returns:
        bool array of shape (len(ks), N), whether `majority_vote` gives an image its own label. The mean of a row is
        the accuracy of that k.

    Raises:
        ValueError: The gallery is empty, or an embedding is not finite.

    Example:
        >>> gallery = LabelledEmbeddings(np.array([[0.0], [1.0], [3.0]]), np.array([4, 4, 7]))
        >>> images = LabelledEmbeddings(np.array([[0.4], [2.5]]), np.array([4, 4]))
        >>> knn_correct(images, gallery, ks=(1, 3)).tolist()  # nearest to 2.5 is 3, of class 7; two of three are of 4
        [[True, False], [True, True]]
    """
    labels = gallery.labels[nearest_of(images.embeddings, gallery.embeddings, max(ks))]  # (N, K)
    return np.stack([majority_vote(labels[:, :k]) == images.labels for k in ks])


def nearest_of(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Returns the k nearest gallery rows of each query, (Q, k), as `neighbors.k_nearest` does; all if there are fewer.

    Args:
        queries: Array of shape (Q, D).
        gallery: Array of shape (G, D), G >= 1.
        k: At least 1.

    Example:
        >>> nearest_of(np.array([[0.9]]), np.array([[0.0], [1.0], [3.0]]), k=2)
        array([[1, 0]])
    """
    return k_nearest(queries, gallery, min(k, len(gallery)))


def majority_vote(neighbor_labels: np.ndarray) -> np.ndarray:
    """Returns the label that most neighbours have; of those with equally many, that of the nearest neighbour.

    One search serves several k: the votes of the k nearest are `majority_vote(neighbor_labels[:, :k])`.

    Args:
        neighbor_labels: Integer array of shape (Q, K), nearest first, K >= 1.

    Returns:
        Array of shape (Q,).

    Example:
        >>> majority_vote(np.array([[5, 7, 7], [5, 7, 9]]))
        array([7, 5])
    """
    votes = np.zeros(neighbor_labels.shape, np.int32)  # (Q, K), for the label of each neighbour
    for voter in neighbor_labels.T:
        votes += neighbor_labels == voter[:, np.newaxis]
    # argmax takes the first of several maxima, which is the nearest neighbour.
    return neighbor_labels[np.arange(len(votes)), votes.argmax(axis=1)]


def nearest_is_right(queries: np.ndarray, gallery: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Tells for which queries the nearest gallery row is a right answer; a wrong one that is as near makes it false.

    Args:
        queries: Array of shape (Q, D), of any floating type.
        gallery: Array of shape (G, D).
        is_right: (Q, G) bool, which answers are right.

    Returns:
        bool array of shape (Q,).

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = np.array([[0.0], [2.0]])
        >>> nearest_is_right(np.array([[0.9], [1.0]]), line, np.array([[True, False], [True, False]]))
        array([ True, False])
    """
    found = np.zeros(len(queries), bool)

    def visit(chunk: slice, distances: np.ndarray) -> None:
        right = np.min(distances, axis=1, where=is_right[chunk], initial=np.inf)
        wrong = np.min(distances, axis=1, where=~is_right[chunk], initial=np.inf)
        found[chunk] = right + _TIE < wrong

    visit_distances(visit, queries, gallery, dtype=np.float64)
    return found
