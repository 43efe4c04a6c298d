"""Which labels are probably wrong: what the nearest neighbours of an image say of its label.

The neighbours vote, the nearer the more. With the k nearest at distances d_1 <= ... <= d_k, and the next at d_(k+1),

    w_j = 1 - d_j / d_(k+1)                                    (where all of these are 0, each is 1)
    p_c = sum of w_j over the neighbours of class c / sum of all w_j
    score = (1 + p_y - max of p_c over all c but y) / 2        for an image with the label y

The score is from 0 to 1. At 1 all that have a vote say y, at 0 all say one other class, and below 0.5 another class has
more of the vote than y: the label is doubted, and that class is suggested.

Weights in parts of d_(k+1) depend neither on the unit of distances nor on how dense the images lie at a place. What is
as far as the next neighbour has no vote, so that it does not matter which of several equally near ones are taken for
the k nearest, unless all k + 1 are equally near.

Of a class with fewer than k images in the gallery, k neighbours could never agree. So k is that number where it is
smaller. A label that no image of the gallery has cannot be judged; its score is NaN.

The weights are those of Hechenbichler and Schliep, with a triangular kernel. That neighbours in the space of a deep
network find wrong labels, even if it was trained with such labels, is shown by Bahri et al.; p_c in the place of a
classifier's probability makes the score the "normalized margin" by which implementations of confident learning
(Northcutt et al.) rank labels. Probabilities of an image have to come from a network that has not seen it, as one that
has may have learned its label by heart.

References:
    K. Hechenbichler, K. Schliep: Weighted k-Nearest-Neighbor Techniques and Ordinal Classification, 2004.
    D. Bahri, H. Jiang, M. Gupta: Deep k-NN for Noisy Labels, 2020.
    C. Northcutt, L. Jiang, I. Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels, 2021.
"""

from dataclasses import dataclass

import numpy as np

from model.scoring.neighbors import class_neighbors, k_nearest

# Neighbours that vote, if nobody asks for another number.
NUM_NEIGHBORS = 10
# Below this score another class than the label has more of the vote.
DOUBTED = 0.5

# Images of which the embeddings of all neighbours are in memory at the same time.
_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class JudgedLabels:
    """What neighbours say of the labels of N images.

    Attributes:
        score: (N,) float64 from 0 to 1, as above; NaN where no image of the gallery has the label.
        suggested: (N,) int64, the class with most of the vote: where two have the same, the label if it is one of them,
            else that of the nearer neighbour. -1 where there is no score.
        nearest: (N, K) int64, the nearest gallery rows, nearest first; K is k, or less in a smaller gallery. All are
            told, however many of them vote.
        distances: (N, K) float64, to these.
        ratio: (N,) float64, how many times as far as the nearest of another class the nearest of its own is, by which
            images with equal scores are told apart; inf where it is infinitely far.
    """

    score: np.ndarray
    suggested: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    ratio: np.ndarray

    @property
    def is_doubted(self) -> np.ndarray:
        """(N,) bool, whether another class than its label has more of the vote."""
        return self.score < DOUBTED


def judge(
    queries: np.ndarray, labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, k: int = NUM_NEIGHBORS
) -> JudgedLabels:
    """Judges the labels of images by those of a gallery, in which none of them is.

    Args:
        queries: (N, D), their embeddings, by a network that has not learned from them.
        labels: (N,) integers.
        gallery: (G, D), embeddings by the same network. G is at least 2.
        gallery_labels: (G,) integers, of two classes at least.
        k: How many neighbours vote, at least 1.

    Raises:
        ValueError: The gallery has fewer than two classes, or an embedding is not finite.

    Example:
        >>> gallery, gallery_labels = np.array([[0.0], [0.2], [1.0], [1.2]]), np.array([3, 3, 8, 8])
        >>> judged = judge(np.array([[0.1], [1.1]]), np.array([3, 3]), gallery, gallery_labels)
        >>> judged.score.tolist(), judged.suggested.tolist()
        ([1.0, 0.0], [3, 8])
    """
    if len(np.unique(gallery_labels)) < 2:
        raise ValueError("Expected a gallery of two classes at least. Received: fewer.")
    num_found = min(k + 1, len(gallery))
    nearest = k_nearest(queries, gallery, num_found)  # (N, F)
    classes, sizes = np.unique(gallery_labels, return_counts=True)
    place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    of_label = np.where(classes[place] == labels, sizes[place], 0)
    # At most G - 1, as there is another class, so that there is always a next neighbour.
    num_voting = np.minimum(k, of_label)  # (N,)
    score, suggested = np.full(len(labels), np.nan), np.full(len(labels), -1, np.int64)
    distances = np.empty(nearest.shape)
    for start in range(0, len(labels), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        # The search compares rounded distances; the differences of the rows that it found give exact ones.
        exact = np.subtract(queries[some, np.newaxis], gallery[nearest[some]], dtype=np.float64)  # (n, F, D)
        length = np.linalg.norm(exact, axis=2)
        order = np.argsort(length, axis=1, kind="stable")
        nearest[some] = np.take_along_axis(nearest[some], order, axis=1)
        distances[some] = np.take_along_axis(length, order, axis=1)
        score[some], suggested[some] = _vote(
            labels[some], gallery_labels[nearest[some]], distances[some], num_voting[some]
        )
    neighbors = class_neighbors(queries, labels, gallery, gallery_labels)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(neighbors.same_distance, neighbors.other_distance, dtype=np.float64)
    ratio[np.isnan(ratio)] = 1.0  # both at the same place as the image
    return JudgedLabels(score, suggested, nearest[:, :k], distances[:, :k], ratio)


def _vote(
    labels: np.ndarray, neighbor_labels: np.ndarray, distances: np.ndarray, num_voting: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and suggested labels.

    Args:
        labels: (n,).
        neighbor_labels: (n, F), nearest first.
        distances: (n, F).
        num_voting: (n,), how many of the neighbours vote, fewer than F; where it is 0 there is no score.
    """
    rows = np.arange(len(labels))
    votes = np.arange(distances.shape[1]) < num_voting[:, np.newaxis]  # (n, F)
    bandwidth = distances[rows, num_voting][:, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(votes & (bandwidth > 0), 1 - distances / bandwidth, 0.0)
    all_equal = ~weights.any(axis=1, keepdims=True)
    weights = np.where(all_equal & votes, 1.0, weights)
    total = weights.sum(axis=1)
    is_same = neighbor_labels[:, :, np.newaxis] == neighbor_labels[:, np.newaxis, :]  # (n, F, F)
    # What each neighbour's class has of the vote. Added up in the same order as the total, so that all of it is 1.
    of_class = np.where(is_same, weights[:, np.newaxis, :], 0.0).sum(axis=2)  # (n, F)
    is_own = neighbor_labels == labels[:, np.newaxis]
    own = np.where(is_own, weights, 0.0).sum(axis=1)
    others = np.where(is_own | ~votes, 0.0, of_class)
    best = others.argmax(axis=1)
    other = others[rows, best]
    is_judged = num_voting > 0
    with np.errstate(invalid="ignore"):
        score = np.where(is_judged, (1 + (own - other) / total) / 2, np.nan)
    suggested = np.where(own >= other, labels, neighbor_labels[rows, best])
    return score, np.where(is_judged, suggested, -1)
