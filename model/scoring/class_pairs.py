"""Pairs of classes: which two are told apart by distance, and which are not.

The number of two classes a and b is the ROC AUC of verification, `roc_auc` of the scores, for their images alone: how
often a same pair s, of two images of a or two of b, is nearer than a different pair t, of an image of each. A tie
counts half.

    AUC(a, b) = sum over all s and t of ([d(s) < d(t)] + [d(s) = d(t)] / 2) / (number of s * number of t)

At 1 a threshold tells the two apart without a mistake, at 0.5 distance says nothing. No threshold has to be chosen, and
every two classes have a number: the nearest image tells only which class is taken for which other one first.

Squared distances are computed in float64 and rounded down to 8 significant binary digits, by less than 1 part in 128;
equal after that is a tie. That changes the AUC in its fourth or fifth decimal. Time grows with the pairs of images, all
of which are visited twice; memory with C^2, with some 5,000 numbers for each class, and with the images.
"""

import threading
from dataclasses import dataclass

import numpy as np

from model.scoring.neighbors import Groups, visit_distances

# The bits of a float64 without the last 45 are its exponent and 7 binary digits. Read as an integer they are the number
# of a cell, the larger the farther. Cells begin at a squared distance of 2^-40, and less is as good as 0; they end at
# 2^2, beyond which there is only inf, the distance of what is no pair.
_DROPPED_BITS = 45
_FIRST, _LAST = (int(np.float64(2.0**power).view(np.int64)) >> _DROPPED_BITS for power in (-40, 2))
_NO_PAIR = _LAST - _FIRST + 1


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """How well C classes are told apart.

    Attributes:
        classes: Their labels, (C,), ascending.
        roc_auc: (C, C) float64, symmetric, from 0 to 1, in the order of `classes`. NaN on the diagonal, and where there
            is no same pair or no different one.
    """

    classes: np.ndarray
    roc_auc: np.ndarray

    @property
    def lowest(self) -> np.ndarray:
        """The lowest AUC of each class with another one, (C,) float64; NaN where it has none."""
        return np.fmin.reduce(self.roc_auc, axis=1, initial=np.nan)

    def worst(self, count: int) -> list[tuple[int, int, float]]:
        """Returns the labels and the AUC of so many pairs of classes, or of all there are, the lowest AUC first."""
        a, b = np.triu_indices(len(self.classes), 1)
        values = self.roc_auc[a, b]
        order = np.argsort(values, kind="stable")[: min(count, np.count_nonzero(~np.isnan(values)))]
        pairs = zip(self.classes[a[order]], self.classes[b[order]], values[order], strict=True)
        return [(int(first), int(second), float(value)) for first, second, value in pairs]


def measure(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ignore: np.ndarray | None = None,
    groups: Groups | None = None,
) -> ClassPairs:
    """Measures every two of the classes that have both a query and a gallery row; a pair is one of each.

    Where the queries are the gallery each pair counts from both sides, which leaves the AUC as it is.

    Args:
        queries: Array of shape (Q, D).
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D).
        gallery_labels: Integer array of shape (G,).
        ignore: As for `visit_distances`.
        groups: As for `visit_distances`.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = np.array([[0.0], [1.0], [2.0], [9.0]])  # pairs: same at 1 and 7; different at 1, 2, 8 and 9
        >>> labels = np.array([4, 4, 7, 7])
        >>> measure(line, labels, line, labels, ignore=np.arange(4)).worst(1)
        [(4, 7, 0.6875)]
    """
    classes = np.intersect1d(query_labels, gallery_labels)
    rows = np.flatnonzero(np.isin(query_labels, classes))
    columns = np.flatnonzero(np.isin(gallery_labels, classes))
    columns = columns[np.argsort(gallery_labels[columns], kind="stable")]
    row_class = np.searchsorted(classes, query_labels[rows])  # (Q,)
    column_class = np.searchsorted(classes, gallery_labels[columns])  # (G,), ascending
    first_column = np.searchsorted(column_class, np.arange(len(classes)))  # (C,)
    if ignore is not None:
        place = np.full(len(gallery) + 1, -1)  # the last is that of the query that ignores none
        place[columns] = np.arange(len(columns))
        ignore = place[ignore[rows]]
    if groups is not None:
        groups = groups[0][rows], groups[1][columns]
    queries, gallery = queries[rows], gallery[columns]
    lock = threading.Lock()

    same = np.zeros((len(classes), _NO_PAIR + 1))  # (C, cells), same pairs by their class and cell

    def count_same(chunk: slice, distances: np.ndarray) -> None:
        row, column = np.nonzero(row_class[chunk, np.newaxis] == column_class)
        cells = _cells(distances)[row, column]
        with lock:
            np.add.at(same, (column_class[column], cells), 1)

    visit_distances(count_same, queries, gallery, ignore, groups, dtype=np.float64)
    same[:, _NO_PAIR] = 0
    num_same = same.sum(axis=1)  # (C,)
    nearer = np.cumsum(same, axis=1)  # (C, cells), how many are nearer than a different pair of this cell
    same /= 2
    nearer -= same
    nearer[:, _NO_PAIR] = 0

    # For the class of the query and that of the gallery row: comparisons with same pairs that are nearer, and pairs.
    won, num_different = np.zeros((2, len(classes), len(classes)))  # (C, C)

    def compare(chunk: slice, distances: np.ndarray) -> None:
        cells = _cells(distances)  # (rows, G)
        wins = nearer[row_class[chunk, np.newaxis], cells]  # (rows, G)
        wins += nearer[column_class, cells]
        wins = np.add.reduceat(wins, first_column, axis=1)  # (rows, C)
        counts = np.add.reduceat(cells < _NO_PAIR, first_column, axis=1, dtype=np.int64)  # (rows, C)
        with lock:
            np.add.at(won, row_class[chunk], wins)
            np.add.at(num_different, row_class[chunk], counts)

    visit_distances(compare, queries, gallery, ignore, groups, dtype=np.float64)
    comparisons = (num_different + num_different.T) * (num_same[:, np.newaxis] + num_same)
    np.fill_diagonal(comparisons, 0)
    roc_auc = np.divide(won + won.T, comparisons, out=np.full_like(won, np.nan), where=comparisons > 0)
    return ClassPairs(classes, roc_auc)


def _cells(distances: np.ndarray) -> np.ndarray:
    """Returns the cells of squared distances, float64, from 0 to `_NO_PAIR`; it overwrites them."""
    bits = distances.view(np.int64)
    bits >>= _DROPPED_BITS
    bits -= _FIRST
    return np.clip(bits, 0, _NO_PAIR, out=bits)
