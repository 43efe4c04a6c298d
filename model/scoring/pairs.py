"""Verification of pairs that somebody has published: which of these show the same, by their euclidean distance.

As in `verification`, a pair is accepted as the same when its distance is at most the threshold: FAR is the part of the
different pairs that is accepted, TAR the part of the same pairs that is. Ties count half in the AUC. The accuracy is
that of the protocol of Labeled Faces in the Wild: the pairs come in folds; those of each fold are decided by the
threshold that decides most pairs of the other folds rightly. Its mean over F folds has the standard error

    S_E = s / sqrt(F),  s the standard deviation over the folds, with F - 1 in its denominator.

Pairs that share an image are not independent of each other, so that intervals which take them to be so are too narrow.
With psi_p the influence of pair p on a score, its variance is the sum of psi_p psi_q over all p, q that share an image,

    sum_i (sum of psi_p over the pairs p of image i)^2 - sum_p psi_p^2.

The bootstrap gives both sums without psi, as variances of the score: the first where a pair weighs w_i + w_j - 1, w_i
being how often image i is in a sample of images; the second where it weighs how often it is in a sample of pairs. The
95 % interval is the score -+ 1.96 times the root of their difference, which is never taken to be below the second.

References:
    Huang, Ramesh, Berg, Learned-Miller: Labeled Faces in the Wild, 2007, section 3.
    Aronow, Samii, Assenova: Cluster-Robust Variance Estimation for Dyadic Data, 2015 (the variance).
"""

import math
from collections.abc import Iterable

import numpy as np

from model.scoring.intervals import resamples
from model.scoring.verification import auc_and_eer

FAR_POWERS = (1, 2, 3)  # TAR is measured at these false accept rates: 10 to the power of minus each
NUM_FOLDS = 10  # where those who publish the pairs name none, as in LFW
_NUMBERS_AT_A_TIME = 2**22  # of embeddings, 64 MiB of float64 for both images of the pairs
_NAMES = ("roc_auc", "eer", *(f"tar_at_far_1e-{power}" for power in FAR_POWERS))


def deal_into_folds(is_same: np.ndarray) -> np.ndarray:
    """Deals pairs into folds where nobody says which belong together: in their order, the same and the different apart.

    Ten folds, or as many as there are pairs of the rarer kind: the first tenth of the same pairs and the first tenth of
    the different ones are the first fold, and so on. The pairs of LFW, in the order of its file, get their own folds.

    Args:
        is_same: (P,) bool, at least two pairs of each kind.

    Returns:
        (P,) int64, from 0.

    Example:
        >>> deal_into_folds(np.array([True, True, False, False]))  # a pair of each kind in each
        array([0, 1, 0, 1])
    """
    num_folds = min(NUM_FOLDS, int(np.count_nonzero(is_same)), int(np.count_nonzero(~is_same)))
    folds = np.empty(len(is_same), np.int64)
    for kind in (is_same, ~is_same):
        size = np.count_nonzero(kind)
        folds[kind] = np.arange(size) * num_folds // size
    return folds


def measure(
    embeddings: np.ndarray, pairs: np.ndarray, is_same: np.ndarray, folds: np.ndarray, seed: int
) -> dict[str, float]:
    """Measures how well distance tells same pairs from different ones.

    Args:
        embeddings: Array of shape (N, D), of all images.
        pairs: Integer array of shape (P, 2), the indices of the images of each pair.
        is_same: (P,) bool, whether they show the same.
        folds: (P,) int64, from 0 to F - 1, F at least 2; both kinds of pairs lie outside of every fold.
        seed: From 0 to 2^64 - 1, decides the draws of the bootstrap.

    Returns:
        "num_pairs", "num_same_pairs", "num_images", "num_folds"; "accuracy", with "accuracy_standard_error", and
        "accuracy_low95" and "accuracy_high95": the mean -+ S_E times the quantile 0.975 of Student's t with F - 1
        degrees of freedom; "roc_auc", "eer" and "tar_at_far_1e-1" to "tar_at_far_1e-3", each with "_low95" and
        "_high95". TAR is NaN with fewer different pairs than 1/FAR.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = np.array([[0.0], [1.0], [8.0], [9.0]])
        >>> pairs, is_same = np.array([[0, 1], [2, 3], [1, 2], [0, 3]]), np.array([True, True, False, False])
        >>> scores = measure(line, pairs, is_same, folds=np.array([0, 1, 0, 1]), seed=0)
        >>> scores["accuracy"], scores["roc_auc"], scores["eer"]  # same 1 apart, different 7 and 9
        (1.0, 1.0, 0.0)
    """
    distances = pair_distances(embeddings, pairs)
    accuracies = fold_accuracies(distances, is_same, folds)
    num_folds = len(accuracies)
    mean, error = float(accuracies.mean()), float(accuracies.std(ddof=1)) / math.sqrt(num_folds)

    from scipy.stats import t

    half = float(t.ppf(0.975, num_folds - 1)) * error
    return {
        "num_pairs": float(len(pairs)),
        "num_same_pairs": float(np.count_nonzero(is_same)),
        "num_images": float(len(np.unique(pairs))),
        "num_folds": float(num_folds),
        "accuracy": mean,
        "accuracy_standard_error": error,
        "accuracy_low95": max(mean - half, 0.0),
        "accuracy_high95": min(mean + half, 1.0),
        **_roc_scores(distances, is_same, pairs, seed),
    }


def pair_distances(embeddings: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns the euclidean distances of pairs, (P,) float64, computed from differences: those of duplicates are 0.

    Args:
        embeddings: Array of shape (N, D).
        pairs: Integer array of shape (P, 2).

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> pair_distances(np.array([[0.0], [1.0], [5.0]]), np.array([[0, 1], [1, 2]]))
        array([1., 4.])
    """
    distances = np.empty(len(pairs))
    size = max(1, _NUMBERS_AT_A_TIME // embeddings.shape[1])
    for start in range(0, len(pairs), size):
        first, second = embeddings[pairs[start : start + size].T].astype(np.float64)  # (n, D)
        distances[start : start + size] = np.sqrt(np.square(first - second).sum(axis=1))
    if not np.isfinite(distances).all():
        raise ValueError("Expected finite embeddings. Received: NaN or infinity.")
    return distances


def fold_accuracies(distances: np.ndarray, is_same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns the part of the pairs of each fold that is decided rightly by the best threshold of the others.

    That is the threshold with the most right decisions, the smallest of several. It lies in the middle between the
    distances that it parts, or below or above all.

    Args:
        distances: (P,) float64.
        is_same: (P,) bool.
        folds: (P,) int64, from 0 to F - 1.

    Returns:
        float64 array of shape (F,).

    Example:
        >>> distances, is_same = np.array([3.0, 5.0, 1.0, 4.5]), np.array([True, False, True, False])
        >>> fold_accuracies(distances, is_same, folds=np.array([0, 0, 1, 1]))  # at (1 + 4.5) / 2, and at (3 + 5) / 2
        array([0.5, 1. ])
    """
    accuracies = []
    for fold in range(int(folds.max()) + 1):
        chosen = folds == fold
        threshold = _best_threshold(distances[~chosen], is_same[~chosen])
        accuracies.append(np.mean((distances[chosen] <= threshold) == is_same[chosen]))
    return np.array(accuracies)


def _best_threshold(distances: np.ndarray, is_same: np.ndarray) -> float:
    values, accepted = _accepted(distances, is_same)
    middles = np.concatenate([[-math.inf], (values[:-1] + values[1:]) / 2, [math.inf]])
    return float(middles[(accepted[0] - accepted[1]).argmax()])


def _accepted(distances: np.ndarray, is_same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distances that there are, ascending, and the pairs that thresholds between them accept.

    Returns:
        float64 array of shape (V,); the numbers of same and of different pairs, (2, V + 1), from none to all.
    """
    values, place = np.unique(distances, return_inverse=True)
    return values, _count(place, is_same, len(values))


def _count(place: np.ndarray, is_same: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the weights of same and of different pairs up to each place, (2, size + 1), from none to all."""
    histogram = np.bincount(place + size * ~is_same, weights, 2 * size).reshape(2, size)
    return np.pad(np.cumsum(histogram, axis=1), ((0, 0), (1, 0)))


def _roc_scores(distances: np.ndarray, is_same: np.ndarray, pairs: np.ndarray, seed: int) -> dict[str, float]:
    values, place = np.unique(distances, return_inverse=True)
    has_enough = [np.count_nonzero(~is_same) >= 10**power for power in FAR_POWERS]

    def count(weights: np.ndarray | None = None) -> np.ndarray:
        return _count(place, is_same, len(values), weights)

    found = _scores(count())
    images, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(pairs.shape)  # (P, 2)
    of_images = _variance(count(counts[ends].sum(axis=1) - 1) for counts in resamples(seed, len(images)))
    of_pairs = _variance(count(counts) for counts in resamples(seed, len(pairs)))
    half = 1.96 * np.sqrt(np.maximum(of_images - of_pairs, of_pairs))
    known: dict[str, float] = {}
    for name, score, width, is_known in zip(_NAMES, found, half, [True, True, *has_enough], strict=True):
        ends_of_interval = (score, max(score - width, 0.0), min(score + width, 1.0))
        for suffix, value in zip(("", "_low95", "_high95"), ends_of_interval, strict=True):
            known[name + suffix] = float(value) if is_known else math.nan
    return known


def _variance(samples: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the variances of the scores over bootstrap samples, without those that lack a kind of pair."""
    found = [_scores(accepted) for accepted in samples if (accepted[:, -1] > 0).all()]
    return np.var(found, axis=0) if len(found) > 1 else np.full(len(_NAMES), np.nan)


def _scores(accepted: np.ndarray) -> np.ndarray:
    """Returns AUC, EER and TAR at each FAR, of numbers of pairs as from `_count`."""
    auc, eer = auc_and_eer(accepted)
    same, different = accepted
    lasts = [np.flatnonzero(different * 10**power <= different[-1])[-1] for power in FAR_POWERS]
    return np.array([auc, eer, *(same[lasts] / same[-1])])
