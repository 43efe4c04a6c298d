"""Verification: how well distance tells pairs of images of one class ("same") from pairs of two ("different").

A pair is accepted as the same when its distance is at most the threshold. FAR is the part of the different pairs that
is accepted, FRR that of the same pairs that is not, TAR = 1 - FRR. All pairs i < j of images count, or where some are
queries and some the gallery, all pairs of a query and a gallery image that do not share a group, each once.

Distances are euclidean, computed in float64 and rounded to a grid whose step is at most 2^-19 of the largest distance
from the mean; equal after that is a tie, which counts half in the AUC. Thresholds lie between two points of the grid,
in the middle between the distances that they part, so that other ways of computing a distance decide alike. Time grows
with N^2, or with queries x gallery, two or three times through all pairs; memory with N.
"""

import dataclasses
import math
import threading
from dataclasses import dataclass

import numpy as np

from model.common import draws
from model.scoring import intervals
from model.scoring.labelled import LabelledEmbeddings
from model.scoring.neighbors import Visit, visit_distances

_FAR_POWERS = (1, 2, 3, 4)  # TAR is measured at these false accept rates: 10 to the power of minus each
_UNDEFINED = (math.nan,) * len(_FAR_POWERS)
# The grid: distances are less than 2 units of `visit_distances`, which are divided into 2^20 steps.
_NUM_STEPS = 2**20
_STEP = 2.0 / _NUM_STEPS  # in units
# The bootstrap counts pairs in some 1,000 coarse bins, which end at these quantiles of the distances. They are dense at
# both ends, because there the ROC curve of good embeddings bends.
_LEVELS = np.append(1 / (1 + np.exp(-np.linspace(-12, 12, 500))), 1.0)
# It finds them by a table. The bits of a float64 without the last 41 are its exponent and 11 binary digits: read as an
# integer they are the number of a cell, the larger the farther. Squared distances below 2^-40 are in the first cell,
# which is as good as 0, and no pair is farther than 2^2.
_DROPPED_BITS = 41
_FIRST_CELL, _LAST_CELL = (int(np.float64(2.0**power).view(np.int64)) >> _DROPPED_BITS for power in (-40, 2))
_LAST_CELL -= _FIRST_CELL
_ROWS_AT_A_TIME = 32  # whose numbers stay in the cache


@dataclass(frozen=True)
class Verification:
    """How well distance tells same pairs from different ones. Whatever the images do not define is NaN.

    Attributes:
        roc_auc: The probability that a same pair is nearer than a different one; a tie counts half.
        roc_auc_low95: Where the 95 % interval of `roc_auc` begins.
        roc_auc_high95: Where it ends.
        eer: The equal error rate: FAR and FRR where they are equal, on straight lines between the points of the ROC
            curve.
        eer_low95: Where the 95 % interval of `eer` begins.
        eer_high95: Where it ends.
        eer_threshold: The threshold where FAR and FRR differ least, the smallest such.
        tar_at_far: TAR at the largest threshold whose FAR is at most 1e-1, 1e-2, 1e-3 and 1e-4; NaN with fewer
            different pairs than 1/FAR.
        threshold_at_far: These thresholds.
        verification_threshold: The threshold with the best balanced accuracy (TAR + 1 - FAR) / 2 for the pairs inside
            one half of the images (the smallest of several); both kinds of pairs weigh the same, as in the protocol of
            LFW. The halves are random and divide each class, two images at a time. This and the following are NaN where
            one of the halves lacks a kind of pair.
        verification_accuracy: Balanced accuracy at that threshold for the pairs inside the other half.
        false_accept_rate: FAR at that threshold for the pairs inside the other half.
        false_reject_rate: FRR at that threshold for the pairs inside the other half.

    References:
        Huang, Ramesh, Berg, Learned-Miller: Labeled Faces in the Wild, 2007.
    """

    roc_auc: float = math.nan
    roc_auc_low95: float = math.nan
    roc_auc_high95: float = math.nan
    eer: float = math.nan
    eer_low95: float = math.nan
    eer_high95: float = math.nan
    eer_threshold: float = math.nan
    tar_at_far: tuple[float, ...] = _UNDEFINED
    threshold_at_far: tuple[float, ...] = _UNDEFINED
    verification_threshold: float = math.nan
    verification_accuracy: float = math.nan
    false_accept_rate: float = math.nan
    false_reject_rate: float = math.nan

    def scores(self) -> dict[str, float]:
        """Returns all numbers by name: the attributes, with "tar_at_far_1e-1" to "tar_at_far_1e-4" for `tar_at_far`
        and "threshold_at_far_1e-1" to "threshold_at_far_1e-4" for `threshold_at_far`.
        """
        scores = dataclasses.asdict(self)
        for name in ("tar_at_far", "threshold_at_far"):
            values = scores.pop(name)
            scores |= {f"{name}_1e-{power}": value for power, value in zip(_FAR_POWERS, values, strict=True)}
        return scores


def measure(images: LabelledEmbeddings, seed: int) -> Verification:
    """Measures all pairs of the images.

    Args:
        images: What to compare with each other, as far as they are queries or the gallery. All is NaN where there are
            no same pairs or no different ones.
        seed: From 0 to 2^64 - 1; decides the halves and the bootstrap.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = LabelledEmbeddings(np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1]))
        >>> measure(line, seed=0).roc_auc  # same 1 and 4, different 2, 3, 6 and 7: of 8 comparisons 4 + 2 are right
        0.75
    """
    images = images.at(np.union1d(images.queries, images.gallery)) if images.has_roles else images
    _, classes = np.unique(images.labels, return_inverse=True)
    classes = classes.astype(np.int32)
    inside_halves, all_pairs, unit = _pair_histograms(images, classes, _second_half(classes, seed))
    if not all_pairs.any(axis=1).all():
        return Verification()
    step = _STEP * unit
    thresholds, accepted = _roc(all_pairs)
    tar, far = accepted / accepted[:, -1:]
    auc, eer = auc_and_eer(accepted)
    lasts = [_last_within(far_power, accepted[1]) for far_power in _FAR_POWERS]
    threshold, accuracy, false_accept_rate, false_reject_rate = _calibrate(*inside_halves)
    auc_interval, eer_interval = _bootstrap_intervals(images, classes, all_pairs, unit, seed)
    return Verification(
        roc_auc=float(auc),
        roc_auc_low95=auc_interval[0],
        roc_auc_high95=auc_interval[1],
        eer=float(eer),
        eer_low95=eer_interval[0],
        eer_high95=eer_interval[1],
        eer_threshold=float(thresholds[np.abs(far + tar - 1).argmin()] * step),
        tar_at_far=tuple(math.nan if last is None else float(tar[last]) for last in lasts),
        threshold_at_far=tuple(math.nan if last is None else float(thresholds[last] * step) for last in lasts),
        verification_threshold=float(threshold * step),
        verification_accuracy=float(accuracy),
        false_accept_rate=float(false_accept_rate),
        false_reject_rate=float(false_reject_rate),
    )


@dataclass(frozen=True, eq=False)
class RocCurve:
    """What thresholds decide, from one that accepts no pair to one that accepts all.

    Attributes:
        thresholds: (T,) float64, ascending, in the unit of distances.
        far: (T,), the part of the different pairs that each accepts.
        tar: (T,), the part of the same pairs.
        eer: The equal error rate, as in `Verification`.
    """

    thresholds: np.ndarray
    far: np.ndarray
    tar: np.ndarray
    eer: float


def roc_curve(images: LabelledEmbeddings, points: int = 400) -> RocCurve | None:
    """Returns the ROC curve of the pairs that `measure` takes; None where there are no same pairs or no different ones.

    Args:
        images: As for `measure`.
        points: About how many there are to draw; dense at both ends of both rates.

    Example:
        >>> line = LabelledEmbeddings(np.array([[0.0], [1.0], [5.0]]), np.array([4, 4, 7]))
        >>> curve = roc_curve(line)  # one same pair at 1, different ones at 4 and 5
        >>> curve.tar.tolist(), curve.far.tolist()
        ([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0])
    """
    images = images.at(np.union1d(images.queries, images.gallery)) if images.has_roles else images
    _, classes = np.unique(images.labels, return_inverse=True)
    _, histogram, unit = _pair_histograms(images, classes.astype(np.int32), np.zeros(len(classes), bool))
    if not histogram.any(axis=1).all():
        return None
    thresholds, accepted = _roc(histogram)
    tar, far = accepted / accepted[:, -1:]
    levels = 1 / (1 + np.exp(-np.linspace(-12, 12, max(1, points // 2))))
    ends = [0, len(thresholds) - 1]
    chosen = np.unique(np.concatenate([ends, *(np.searchsorted(rate, levels) for rate in (far, tar))]))
    _, eer = auc_and_eer(accepted)
    return RocCurve(thresholds[chosen] * _STEP * unit, far[chosen], tar[chosen], float(eer))


# ------------------------------------------------------------------------------------------ pairs, counted by distance


def _second_half(classes: np.ndarray, seed: int) -> np.ndarray:
    """Deals the images of each class in random order, two to one half and two to the other, (N,) bool.

    Two at a time, because a single image of a class is in no same pair. Every other class begins with the second half,
    so that the halves are about equally large however many images the classes have.
    """
    shuffled = draws.permutation(seed, draws.Stream.CALIBRATION_HALVES, size=len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    sizes = np.bincount(classes)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each image in its class
    is_second = np.empty(len(classes), bool)
    is_second[by_class] = (place // 2 + classes[by_class]) % 2 == 1
    return is_second


def _pair_histograms(
    images: LabelledEmbeddings, classes: np.ndarray, is_second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Counts the pairs of each kind, same or different, by distance.

    Returns:
        Those inside the first and those inside the second half, (2, 2, bins); all, (2, bins); the unit of distances.
        There is one bin for each point of the grid.
    """
    rank = np.argsort(np.argsort(is_second, kind="stable"))  # of each image, when the second half comes last
    queries, gallery = (some[np.argsort(rank[some])] for some in (images.queries, images.gallery))
    # Where the second half begins.
    row_border, column_border = (int(np.count_nonzero(~is_second[some])) for some in (queries, gallery))
    is_square = len(queries) == len(gallery) == len(images)
    is_both = np.isin(np.arange(len(images)), queries) & np.isin(np.arange(len(images)), gallery)
    no_pair = 2 * (_NUM_STEPS + 1)  # a bin of its own
    counts = np.zeros((3, no_pair + 1), np.int64)  # inside the first half, inside the second, across
    lock = threading.Lock()

    def bins_of(rows: np.ndarray, columns: np.ndarray, distances: np.ndarray, above: int) -> np.ndarray:
        """Returns the bins of pairs, (rows, columns); `above` are the rows of the chunk before these."""
        if images.has_roles:
            counts_not = distances == np.inf
            is_twice = rank[columns] <= rank[rows, np.newaxis]  # from both sides, if both are queries and gallery
            counts_not |= is_twice & is_both[columns] & is_both[rows, np.newaxis]
            distances[counts_not] = 0
        else:
            counts_not = np.tri(len(rows), above + len(rows), above, dtype=bool)  # pairs i < j only
        bins = _round(distances)
        bins += (classes[rows, np.newaxis] != classes[columns]) * np.int32(_NUM_STEPS + 1)  # different: second row
        bins[:, : counts_not.shape[1]][counts_not] = no_pair
        return bins

    def visit(chunk: slice, distances: np.ndarray) -> None:
        start = chunk.start if is_square else 0  # the pairs with columns before that were counted with earlier rows
        rows, columns = queries[chunk], gallery[start:]
        bins = np.empty((len(rows), len(columns)), np.int64)
        for above in range(0, len(rows), _ROWS_AT_A_TIME):
            part = slice(above, above + _ROWS_AT_A_TIME)
            bins[part] = bins_of(rows[part], columns, distances[part, start:], above)
        row, column = max(row_border - chunk.start, 0), max(column_border - start, 0)
        blocks = (0, bins[:row, :column]), (1, bins[row:, column:]), (2, bins[:row, column:]), (2, bins[row:, :column])
        for part_of_images, block in blocks:
            if block.size:
                found = np.bincount(block.ravel(), minlength=counts.shape[1])
                with lock:
                    counts[part_of_images] += found

    unit = _visit_pairs(visit, images, queries, gallery)
    histograms = counts[:, :no_pair].reshape(3, 2, _NUM_STEPS + 1)
    return histograms[:2], histograms.sum(axis=0), unit


def _visit_pairs(
    visit: Visit,
    images: LabelledEmbeddings,
    queries: np.ndarray,
    gallery: np.ndarray,
    unit: float | None = None,
) -> float:
    """Shows the distances between images at some indices; inf is no pair, but that of an image with itself may be 0."""
    itself = groups = None
    if images.has_roles:
        places = np.full(len(images), -1)
        places[gallery] = np.arange(len(gallery))
        itself = places[queries]
    if images.group is not None:
        groups = images.group[queries], images.group[gallery]
    points = images.embeddings
    return visit_distances(visit, points[queries], points[gallery], itself, groups, dtype=np.float64, unit=unit)


def _round(distances: np.ndarray) -> np.ndarray:
    """Rounds distances to the nearest points of the grid: integers from 0 to 2^20.

    Args:
        distances: float64 array of squared distances in units of `visit_distances`; it is overwritten.
    """
    np.sqrt(distances, out=distances)
    distances *= 1 / _STEP
    distances += 0.5
    return distances.astype(np.int32)


# ------------------------------------------------------------------------------------------------------- the ROC curve


def _roc(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the thresholds that decide differently, in steps of the grid, and the pairs that they accept.

    Args:
        histogram: Array of shape (2, bins), of same and of different pairs.

    Returns:
        Ascending thresholds of shape (T,), each a half more than a whole number; numbers of pairs of shape (2, T), from
        none to all.
    """
    used = np.flatnonzero(histogram.any(axis=0))
    middle = (used[:-1] + used[1:]) // 2 + 0.5
    accepted = np.cumsum(histogram[:, used], axis=1)
    thresholds = np.concatenate([[used[0] - 0.5], middle, [used[-1] + 0.5]])
    return thresholds, np.pad(accepted, ((0, 0), (1, 0)))


def auc_and_eer(accepted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns areas under ROC curves and equal error rates.

    Args:
        accepted: Array of shape (..., 2, T), the same and the different pairs that T ascending thresholds accept, from
            none to all, at least one of both kinds.

    Returns:
        Two arrays of shape (...).

    Example:
        >>> auc, eer = auc_and_eer(np.array([[0, 1, 1, 2, 2], [0, 0, 1, 1, 2]]))  # same, different, same, different
        >>> float(auc), float(eer)  # 3 of 4 comparisons are right; the third threshold errs on half of each kind
        (0.75, 0.5)
    """
    same, different = accepted[..., 0, :], accepted[..., 1, :]
    all_same, all_different = same[..., -1:], different[..., -1:]
    # Trapezoids, so that ties count half. Whole numbers, in floats: of 100,000 images an int64 cannot hold the area.
    area = np.sum(np.diff(different) * (same[..., 1:] + same[..., :-1]).astype(float), axis=-1) / 2
    auc = area / all_same[..., 0] / all_different[..., 0]
    tar, far = same / all_same, different / all_different
    # FAR - FRR grows from -1 to 1; between the points before and after its zero the curve is straight.
    excess = far + tar - 1
    after = (excess >= 0).argmax(axis=-1)[..., np.newaxis]
    above, below = (np.take_along_axis(excess, at, axis=-1) for at in (after, after - 1))
    part = below / (below - above)
    far_above, far_below = (np.take_along_axis(far, at, axis=-1) for at in (after, after - 1))
    return auc, (far_below + part * (far_above - far_below))[..., 0]


def _last_within(far_power: int, accepted: np.ndarray) -> int | None:
    """Returns the index of the largest threshold whose FAR is at most 10^-far_power.

    Args:
        far_power: At least 1.
        accepted: Array of shape (T,), the numbers of different pairs that each threshold accepts, from none to all.

    Returns:
        An index from 0 to T - 1; None where there are so few pairs that one of them would be more than that FAR.
    """
    if accepted[-1] < 10**far_power:
        return None
    return int(np.flatnonzero(accepted * 10**far_power <= accepted[-1])[-1])


def _calibrate(calibrating: np.ndarray, judging: np.ndarray) -> tuple[float, float, float, float]:
    """Chooses a threshold by some pairs and judges it by others.

    Args:
        calibrating: Array of shape (2, bins), the same and the different pairs that choose the threshold.
        judging: Array of shape (2, bins), those that judge it.

    Returns:
        The threshold with the best balanced accuracy, in steps of the grid; balanced accuracy, FAR and FRR at it. NaN
        where one of the arrays lacks a kind of pair.
    """
    if not (calibrating.any(axis=1).all() and judging.any(axis=1).all()):
        return math.nan, math.nan, math.nan, math.nan
    thresholds, accepted = _roc(calibrating)
    tar, far = accepted / accepted[:, -1:]
    threshold = thresholds[(tar - far).argmax()]
    num_accepted = int(threshold + 0.5)  # bins below the threshold, which is between two of them
    tar, far = judging[:, :num_accepted].sum(axis=1) / judging.sum(axis=1)
    return threshold, (1 + tar - far) / 2, far, 1 - tar


# ------------------------------------------------------------------------------------------------------- the bootstrap


def _bootstrap_intervals(
    images: LabelledEmbeddings, classes: np.ndarray, all_pairs: np.ndarray, unit: float, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns the 95 % intervals of AUC and EER over bootstrap samples of the images, not of the pairs.

    Args:
        images: N images.
        classes: int32 array of shape (N,).
        all_pairs: Array of shape (2, bins), the histogram of all pairs.
        unit: Of its distances.
        seed: Decides the samples.
    """
    accepted = np.cumsum(_bootstrap_histograms(images, classes, all_pairs, unit, seed), axis=2)
    accepted = np.pad(accepted, ((0, 0), (0, 0), (1, 0)))  # (replicates, 2, T)
    # Where a kind has few pairs, the expansion may give a sample none of them, or fewer: such a sample is left out.
    accepted = accepted[(accepted[:, :, -1] > 0).all(axis=1)]
    if not len(accepted):
        return (math.nan, math.nan), (math.nan, math.nan)
    # The expansion may also leave [0, 1] by a little.
    (auc_low, auc_high), (eer_low, eer_high) = (
        np.clip(intervals.percentile_interval(values), 0, 1).tolist() for values in auc_and_eer(accepted)
    )
    return (auc_low, auc_high), (eer_low, eer_high)


def _bootstrap_histograms(
    images: LabelledEmbeddings, classes: np.ndarray, all_pairs: np.ndarray, unit: float, seed: int
) -> np.ndarray:
    """Counts the pairs of bootstrap samples of the images by distance, in coarse bins.

    In a sample that holds image i w_i times, pair (i, j) weighs w_i w_j, here in its first-order expansion
    w_i + w_j - 1 (Hajek's projection). That makes the sample's histogram linear in w: sum_i w_i h_i - T, where h_i is
    the histogram of the pairs of image i and T that of all pairs.

    Returns:
        float64 array of shape (replicates, 2, coarse bins).

    References:
        Hajek: Asymptotic Normality of Simple Linear Rank Statistics under Alternatives, 1968.
    """
    table, num_bins = _coarse_bins(all_pairs)
    no_pair = 2 * num_bins  # a bin of its own
    weights = intervals.resample_counts(seed, len(classes))  # w, (replicates, N)
    sums = np.zeros((len(weights), no_pair))
    total = np.zeros(no_pair)  # of both ends of all pairs
    lock = threading.Lock()

    def add(rows: np.ndarray, columns: np.ndarray, is_done: np.ndarray) -> None:
        """Adds w_i h_i of the images of the rows, without their pairs with those of the columns that are done."""
        rows, columns = (some[np.argsort(classes[some], kind="stable")] for some in (rows, columns))
        # The images of each class stand side by side, from its begin to the next one.
        begins = np.searchsorted(classes[columns], np.arange(classes.max() + 2))

        def histograms_of(images_of_rows: np.ndarray, distances: np.ndarray) -> np.ndarray:
            bins = table.take(_cells(distances))  # (rows, G)
            bins += num_bins
            for row, image in enumerate(images_of_rows):
                bins[row, begins[classes[image]] : begins[classes[image] + 1]] -= num_bins
            if images.has_roles:
                is_done_twice = is_done[images_of_rows, np.newaxis] & is_done[columns]
                bins[(distances == np.inf) | is_done_twice] = no_pair
            else:
                bins[images_of_rows[:, np.newaxis] == columns] = no_pair  # an image is no pair with itself
            bins += np.arange(len(bins))[:, np.newaxis] * (no_pair + 1)
            counts = np.bincount(bins.ravel(), minlength=len(bins) * (no_pair + 1))
            return counts.reshape(len(bins), -1)[:, :no_pair].astype(np.float32)

        def visit(chunk: slice, distances: np.ndarray) -> None:
            images_of_rows = rows[chunk]
            parts = range(0, len(distances), _ROWS_AT_A_TIME)
            histograms = np.concatenate(
                [
                    histograms_of(images_of_rows[at : at + _ROWS_AT_A_TIME], distances[at : at + _ROWS_AT_A_TIME])
                    for at in parts
                ]
            )  # h_i of the images of the chunk
            product = weights[:, images_of_rows].astype(np.float32) @ histograms
            with lock:
                np.add(sums, product, out=sums)
                np.add(total, histograms.sum(axis=0, dtype=np.float64), out=total)

        _visit_pairs(visit, images, rows, columns, unit)

    queries, gallery = images.queries, images.gallery
    add(queries, gallery, np.zeros(len(images), bool))
    if len(queries) < len(images) or len(gallery) < len(images):  # a gallery image is in pairs, too
        indices = np.arange(len(images))
        add(gallery, queries, np.isin(indices, queries) & np.isin(indices, gallery))
    return (sums - total / 2).reshape(len(weights), 2, num_bins)


def _coarse_bins(all_pairs: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the coarse bin of each cell of `_cells`, int64, and how many bins there are, at most 1002."""
    ends = np.unique([np.searchsorted(np.cumsum(kind), _LEVELS * kind.sum()) for kind in all_pairs])
    cells_of_ends = np.unique(_cells(np.square((ends + 0.5) * _STEP)))
    return np.searchsorted(cells_of_ends, np.arange(_LAST_CELL + 1)), len(cells_of_ends) + 1


def _cells(squared: np.ndarray) -> np.ndarray:
    """Returns the numbers of the cells that squared distances, float64, fall into, int64 from 0 to `_LAST_CELL`."""
    cells = squared.view(np.int64) >> _DROPPED_BITS
    cells -= _FIRST_CELL
    return np.clip(cells, 0, _LAST_CELL, out=cells)
