"""Classification by the k nearest neighbours in a gallery.

Of images equally near the one that comes first in the gallery counts as nearer.
"""

from collections.abc import Sequence

import numpy as np

from model.scoring.labelled import LabelledEmbeddings
from model.scoring.neighbors import k_nearest


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
    """
    nearest = k_nearest(images.embeddings, gallery.embeddings, min(max(ks), len(gallery)))  # (N, K)
    labels = gallery.labels[nearest]  # (N, K)
    return np.stack([majority_vote(labels[:, :k]) == images.labels for k in ks])


def majority_vote(neighbor_labels: np.ndarray) -> np.ndarray:
    """Returns the label that most neighbours have; of those with equally many, that of the nearest neighbour.

    One search serves several k: the votes of the k nearest are `majority_vote(neighbor_labels[:, :k])`.

    Args:
        neighbor_labels: Integer array of shape (Q, K), nearest first, K >= 1.

    Returns:
        Array of shape (Q,).
    """
    votes = np.zeros(neighbor_labels.shape, np.int32)  # (Q, K), for the label of each neighbour
    for voter in neighbor_labels.T:
        votes += neighbor_labels == voter[:, np.newaxis]
    # argmax takes the first of several maxima, which is the nearest neighbour.
    return neighbor_labels[np.arange(len(votes)), votes.argmax(axis=1)]
