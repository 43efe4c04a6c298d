"""How good embeddings are: NumPy in, plain numbers out.

Retrieval ranks a gallery by its distance from a query. Among images equally distant from it those of other classes come
first: ties count against the query, so that a network whose embeddings have collapsed is never lucky, and the order
of the images does not matter. Squared distances are compared as float32 without their last bit; closer ones are ties.
Classification, `knn_accuracy`, goes by the order of the gallery instead: of images equally near the first one counts.

Distances are euclidean. An embedding that is not finite is a ValueError. A number that the images do not define is NaN.
"""

import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.data import sampling
from model.scoring.neighbors import k_nearest, visit_distances

_MAX_CLUSTERED = 10_000
_REPLICATES = 1000
_FALSE_ACCEPT_RATES = (1, 2, 3, 4)  # 10 to the power of minus these
# Distances between pairs are rounded to the 2^20th part of 2 units, the most that there can be.
_NUM_BINS = 2**20
_BIN_WIDTH = 2.0 / _NUM_BINS
# Quantiles of the distances where the bootstrap's bins end, dense at both ends, where good embeddings decide.
_LEVELS = np.append(1 / (1 + np.exp(-np.linspace(-12, 12, 500))), 1.0)


@dataclass(frozen=True)
class Retrieval:
    """How well each query finds the images of its class, R of them in the gallery; queries with R = 0 are left out.

    All but the first two are float64 arrays of shape (number of queries with R >= 1,), in [0, 1].

    Attributes:
        queries: int64 array, the indices of these queries, ascending.
        left_out: The number of queries with R = 0.
        recall_at_1: 1 where the nearest image is of the query's class, else 0. The mean of it is also precision@1.
        recall_at_5: 1 where one of the 5 nearest is, else 0.
        recall_at_10: 1 where one of the 10 nearest is, else 0.
        r_precision: The part of the R nearest that is.
        map_at_r: 1/R sum_{i <= R} P(i) rel(i): rel(i) is 1 where the i-th nearest is, else 0, and P(i) the mean of the
            first i of them.
        reciprocal_rank: 1/i for the first i with rel(i) = 1.

    References:
        Musgrave, Belongie, Lim: A Metric Learning Reality Check, 2020, section 3.2 (R-precision and MAP@R).
        Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, 2016 (recall).
    """

    queries: np.ndarray
    left_out: int
    recall_at_1: np.ndarray
    recall_at_5: np.ndarray
    recall_at_10: np.ndarray
    r_precision: np.ndarray
    map_at_r: np.ndarray
    reciprocal_rank: np.ndarray

    def means(self) -> dict[str, float]:
        """Returns the means over the queries by name, NaN where there are none.

        "recall_at_1", "recall_at_5", "recall_at_10", "precision_at_1" (another name of recall@1), "r_precision",
        "map_at_r" and "mrr", the mean reciprocal rank.
        """
        values = {
            "recall_at_1": self.recall_at_1,
            "recall_at_5": self.recall_at_5,
            "recall_at_10": self.recall_at_10,
            "precision_at_1": self.recall_at_1,
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
            "mrr": self.reciprocal_rank,
        }
        return {name: float(value.mean()) if len(value) else float("nan") for name, value in values.items()}


def retrieval(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ignore: np.ndarray | None = None,
) -> Retrieval:
    """Ranks the gallery for each query, as far as it matters.

    Args:
        queries: Array of shape (Q, D).
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D).
        gallery_labels: Integer array of shape (G,).
        ignore: Integer array of shape (Q,): for each query the one gallery row that is not a neighbour, because it is
            the query itself.

    Raises:
        ValueError: An embedding is not finite, or there is not one label for each.
    """
    _check(queries, query_labels)
    _check(gallery, gallery_labels)
    classes, gallery_classes, sizes = np.unique(gallery_labels, return_inverse=True, return_counts=True)
    query_classes = np.searchsorted(classes, query_labels)  # of a class that is not there: any, and R = 0
    relevant = np.append(sizes, 0)[query_classes] * (np.append(classes, 0)[query_classes] == query_labels)  # R, (Q,)
    if ignore is not None:
        relevant -= gallery_labels[ignore] == query_labels
    kept = np.flatnonzero(relevant)
    order = kept[np.argsort(relevant[kept], kind="stable")]  # queries with a similar R are ranked together
    available = len(gallery) - (ignore is not None)
    query_classes, gallery_classes = query_classes.astype(np.int32), gallery_classes.astype(np.int32)
    found = np.empty((6, len(query_labels)))

    def visit(chunk: slice, distances: np.ndarray) -> None:
        images = order[chunk]
        keys = distances.view(np.int32)  # (rows, G): floats that are not negative sort as their bits do
        keys &= ~1
        keys |= query_classes[images, np.newaxis] == gallery_classes  # the last bit says whether it is relevant
        found[:, images] = _ranked(keys, relevant[images], available)

    own = None if ignore is None else ignore[order]
    visit_distances(visit, queries[order], gallery, own)
    return Retrieval(kept, len(query_labels) - len(kept), *found[:, kept])


def _ranked(keys: np.ndarray, relevant: np.ndarray, available: int) -> list[np.ndarray]:
    """Returns the six measures of some queries.

    Args:
        keys: int32 array of shape (rows, G), ascending with the distance, odd where the image is relevant; reordered.
        relevant: Integer array of shape (rows,), R >= 1.
        available: How many of the gallery's rows may be neighbours.
    """
    rows, count = np.arange(len(keys)), min(max(relevant.max(), 10), available)
    keys.partition(count - 1, axis=1)
    hits = np.sort(keys[:, :count], axis=1) & 1  # (rows, count), rel(i)
    so_far = np.cumsum(hits, axis=1, dtype=np.int32)
    rank = np.arange(1, count + 1)
    precision = hits * so_far / rank  # P(i) rel(i)
    precision *= rank <= relevant[:, np.newaxis]
    first = hits.argmax(axis=1) + 1
    for row in np.flatnonzero(so_far[:, -1] == 0):  # farther than `count` images
        nearest = keys[row][keys[row] & 1 == 1].min()
        first[row] = 1 + np.count_nonzero(keys[row] < nearest)
    recalls = [(so_far[:, min(k, count) - 1] > 0).astype(np.float64) for k in (1, 5, 10)]
    return [*recalls, so_far[rows, relevant - 1] / relevant, precision.sum(axis=1) / relevant, 1 / first]


def retrieval_among(embeddings: np.ndarray, labels: np.ndarray) -> Retrieval:
    """Ranks all other images for each image. An image is never its own neighbour; its duplicate is another image.

    Args:
        embeddings: Array of shape (N, D).
        labels: Integer array of shape (N,). An image that is the only one of its class is left out as a query.

    Raises:
        ValueError: An embedding is not finite, or there is not one label for each.
    """
    return retrieval(embeddings, labels, embeddings, labels, ignore=np.arange(len(labels)))


def recall_at_1(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Computes the fraction of the images whose nearest other image has their label.

    Args:
        embeddings: Array of shape (N, D).
        labels: Integer array of shape (N,).

    Returns:
        A number in [0, 1]: `retrieval_among(embeddings, labels).means()["recall_at_1"]`.
    """
    return retrieval_among(embeddings, labels).means()["recall_at_1"]


def knn_predictions(queries: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Classifies by the k nearest neighbours: `majority_vote` of them.

    Args:
        queries: Array of shape (Q, D).
        gallery: Array of shape (G, D), G >= 1.
        gallery_labels: Integer array of shape (G,).
        k: At least 1. All images vote where there are not so many.

    Returns:
        Array of shape (Q,), labels of the gallery.

    Raises:
        ValueError: The gallery is empty, an embedding is not finite, or there is not one label for each.
    """
    _check(gallery, gallery_labels)
    # `k_nearest` refuses an empty gallery.
    return majority_vote(gallery_labels[k_nearest(queries, gallery, min(k, max(len(gallery), 1)))])


def majority_vote(neighbor_labels: np.ndarray) -> np.ndarray:
    """Returns the label that most neighbours have; of those with equally many, that of the nearest neighbour.

    One search serves several k: the votes of the k nearest are `majority_vote(neighbor_labels[:, :k])`.

    Args:
        neighbor_labels: Integer array of shape (Q, K), nearest first, K >= 1.

    Returns:
        Array of shape (Q,).
    """
    votes = np.zeros(neighbor_labels.shape, np.int32)
    for voter in neighbor_labels.T:
        votes += neighbor_labels == voter[:, np.newaxis]
    return neighbor_labels[np.arange(len(votes)), votes.argmax(axis=1)]


def knn_accuracy(
    queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, k: int = 1
) -> float:
    """Computes the accuracy of the k-nearest-neighbour classifier.

    Args:
        queries: Array of shape (Q, D), for example the embeddings of the test images.
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D), for example the embeddings of the training images; G >= 1.
        gallery_labels: Integer array of shape (G,).
        k: As for `knn_predictions`.

    Returns:
        The fraction of the queries that are given their own label, in [0, 1]; NaN without queries.

    Raises:
        ValueError: As for `knn_predictions`.
    """
    _check(queries, query_labels)
    if not len(queries):
        return float("nan")
    return float(np.mean(knn_predictions(queries, gallery, gallery_labels, k) == query_labels))


def clustering(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Measures whether the classes are clusters.

    Above 10,000 images a sample of 10,000 is measured, in which every class keeps its share.

    Args:
        embeddings: Array of shape (N, D).
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1, of k-means and of the sample.

    Returns:
        "nmi", in [0, 1], and "ami", at most 1 and 0 by chance: the mutual information, normalized and adjusted, between
        the classes and as many clusters by k-means (the best of 10 starts for up to 10 classes, of fewer for more);
        "silhouette", in [-1, 1]: the mean silhouette of the classes. NaN with one class, where every image is its own
        class, and where all embeddings are equal.

    Raises:
        ValueError: An embedding is not finite, or there is not one label for each.

    References:
        Vinh, Epps, Bailey: Information Theoretic Measures for Clusterings Comparison, 2010.
        Rousseeuw: Silhouettes: a Graphical Aid to the Interpretation and Validation of Cluster Analysis, 1987.
    """
    _check(embeddings, labels)
    sample = sampling.stratified_sample(labels, seed, _MAX_CLUSTERED)
    points, labels = np.asarray(embeddings[sample], np.float64), labels[sample]
    if not np.isfinite(points).all():
        raise ValueError("Expected finite embeddings. Received: NaN or infinity.")
    num_classes = len(np.unique(labels))
    if not 1 < num_classes < len(labels) or (points == points[0]).all():
        return dict.fromkeys(("nmi", "ami", "silhouette"), float("nan"))
    import sklearn
    from sklearn import cluster, exceptions, metrics

    points -= points.mean(axis=0)
    with sklearn.config_context(working_memory=64), warnings.catch_warnings():  # MiB
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # fewer different points than classes
        starts = min(max(100 // num_classes, 1), 10)
        clusters = cluster.KMeans(num_classes, n_init=starts, random_state=seed % 2**32).fit_predict(points)
        return {
            "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
            "ami": float(metrics.adjusted_mutual_info_score(labels, clusters)),
            "silhouette": float(metrics.silhouette_score(points, labels)),
        }


def verification(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Measures how well distance tells pairs of one class ("same") from pairs of two ("different").

    A pair is accepted as the same when its distance is at most the threshold. FAR is the part of the different pairs
    that is accepted, FRR that of the same pairs that is not, TAR = 1 - FRR. All pairs i < j of images count.

    Distances are computed in float64 and rounded to a grid whose step is at most 2^-19 of the largest distance from the
    mean; equal after that is a tie, which counts half in the AUC. Thresholds lie between two points of the grid, in the
    middle between the distances that they part, so that other ways of computing a distance decide alike. Time grows
    with N^2, twice through all pairs; memory with N.

    The intervals come from 1,000 bootstrap samples of the images, not of the pairs: in a sample that holds image i w_i
    times, pair (i, j) weighs w_i w_j, here in its first-order expansion w_i + w_j - 1 (Hajek's projection). That makes
    the sample's histogram of distances linear in w: sum_i w_i h_i - T, where h_i is the histogram of the pairs of
    image i and T that of all. Distances are rounded to some 1,000 quantiles for it.

    Args:
        embeddings: Array of shape (N, D).
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1; decides the halves and the bootstrap.

    Returns:
        All NaN where there are no same pairs or no different ones.

        "roc_auc": the probability that a same pair is nearer than a different one, with "roc_auc_low95" and
        "roc_auc_high95".
        "eer": FAR = FRR where they are equal, on straight lines between the points of the ROC curve, with "eer_low95"
        and "eer_high95"; "eer_threshold": the threshold where they differ least, the smallest such.
        "tar_at_far_1e-1" to "tar_at_far_1e-4", "threshold_at_far_1e-1" to "threshold_at_far_1e-4": TAR at the largest
        threshold whose FAR is not above that; NaN with fewer different pairs than 1/FAR.
        "verification_threshold": the threshold with the best balanced accuracy (TAR + 1 - FAR) / 2 for the pairs inside
        one half of the images (the smallest of several); both kinds of pairs weigh the same, as in the protocol of LFW.
        "verification_accuracy", "false_accept_rate", "false_reject_rate": balanced accuracy, FAR and FRR at it for the
        pairs inside the other half. The halves are random and divide each class, two images at a time; NaN where one of
        them lacks a kind of pair.

    Raises:
        ValueError: An embedding is not finite, or there is not one label for each.

    References:
        Huang, Ramesh, Berg, Learned-Miller: Labeled Faces in the Wild, 2007.
        Hajek: Asymptotic Normality of Simple Linear Rank Statistics under Alternatives, 1968.
    """
    _check(embeddings, labels)
    _, classes = np.unique(labels, return_inverse=True)
    classes = classes.astype(np.int32)
    is_second = _second_half(classes, seed)
    inside, total, unit = _pair_histograms(embeddings, classes, is_second)
    width = _BIN_WIDTH * unit
    far_names = [f"far_1e-{power}" for power in _FALSE_ACCEPT_RATES]
    names = ["roc_auc", "eer", "eer_threshold"]
    names += [f"{what}_at_{name}" for name in far_names for what in ("tar", "threshold")]
    names += ["verification_threshold", "verification_accuracy", "false_accept_rate", "false_reject_rate"]
    names += [f"{name}_{end}95" for name in ("roc_auc", "eer") for end in ("low", "high")]
    scores = dict.fromkeys(names, float("nan"))
    if not total.any(axis=1).all():
        return scores

    thresholds, accepted = _roc(total)
    tar, far = accepted / accepted[:, -1:]
    auc, eer = _auc_and_eer(accepted)
    scores |= {"roc_auc": float(auc), "eer": float(eer)}
    scores["eer_threshold"] = thresholds[np.abs(far + tar - 1).argmin()] * width
    for power, name in zip(_FALSE_ACCEPT_RATES, far_names, strict=True):
        if accepted[1, -1] >= 10**power:
            last = np.flatnonzero(accepted[1] * 10**power <= accepted[1, -1])[-1]
            scores |= {f"tar_at_{name}": tar[last], f"threshold_at_{name}": thresholds[last] * width}

    if inside.any(axis=2).all():
        thresholds, accepted = _roc(inside[0])
        tar, far = accepted / accepted[:, -1:]
        threshold = thresholds[(tar - far).argmax()]
        cut = int(threshold + 0.5)  # the bins below the threshold
        tar, far = inside[1, :, :cut].sum(axis=1) / inside[1].sum(axis=1)
        scores |= {"verification_threshold": threshold * width, "verification_accuracy": (1 + tar - far) / 2}
        scores |= {"false_accept_rate": far, "false_reject_rate": 1 - tar}

    replicates = np.cumsum(_bootstrap_histograms(embeddings, classes, total, seed), axis=2)
    replicates = np.pad(replicates, ((0, 0), (0, 0), (1, 0)))
    valid = (replicates[:, :, -1] > 0).all(axis=1)  # the expansion of few pairs may fall below nothing
    if valid.any():
        for name, values in zip(("roc_auc", "eer"), _auc_and_eer(replicates[valid]), strict=True):
            low, high = np.clip(np.percentile(values, [2.5, 97.5]), 0, 1)
            scores |= {f"{name}_low95": low, f"{name}_high95": high}
    return {name: float(score) for name, score in scores.items()}


def _second_half(classes: np.ndarray, seed: int) -> np.ndarray:
    """Deals the images of each class in random order, two to one half and two to the other, (N,) bool.

    Two at a time, because one image of a class has no same pair; and the classes take turns in who begins.
    """
    shuffled = sampling.permutation(seed, sampling.Stream.CALIBRATION_HALVES, size=len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    sizes = np.bincount(classes)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each image in its class
    is_second = np.empty(len(classes), bool)
    is_second[by_class] = (place // 2 + classes[by_class]) % 2 == 1
    return is_second


def _pair_histograms(
    embeddings: np.ndarray, classes: np.ndarray, is_second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Counts the pairs of each kind, same or different, by distance.

    Returns:
        Those inside the first and those inside the second half, (2, 2, bins); all, (2, bins); the unit of distances.
    """
    order = np.argsort(is_second, kind="stable")
    border = len(order) - int(np.count_nonzero(is_second))
    classes = classes[order]
    counts = np.zeros((3, 2 * (_NUM_BINS + 1)), np.int64)  # inside the first half, inside the second, across
    lock = threading.Lock()

    def visit(chunk: slice, distances: np.ndarray) -> None:
        start = chunk.start
        codes = _bins(distances[:, start:])
        codes += (classes[chunk, np.newaxis] != classes[start:]) * np.int32(_NUM_BINS + 1)
        codes[:, : len(codes)][np.tri(len(codes), dtype=bool)] = -1  # i < j only
        split = max(border - start, 0)
        blocks = codes[:split, :split], codes[split:], codes[:split, split:]
        for count, block in zip(counts, blocks, strict=True):
            found = np.bincount(block.ravel() + 1, minlength=counts.shape[1] + 1)[1:]
            with lock:
                count += found

    points = embeddings[order]
    unit = visit_distances(visit, points, points, dtype=np.float64)
    histograms = counts.reshape(3, 2, _NUM_BINS + 1)
    return histograms[:2], histograms.sum(axis=0), unit


def _bins(distances: np.ndarray) -> np.ndarray:
    """Rounds squared distances, which it overwrites, to the nearest point of the grid: integers from 0 to 2^20."""
    np.sqrt(distances, out=distances)
    distances *= 1 / _BIN_WIDTH
    distances += 0.5
    return distances.astype(np.int32)


def _roc(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the thresholds that differ, in steps of the grid, and the pairs that they accept.

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


def _auc_and_eer(accepted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns areas under ROC curves and equal error rates, of numbers of pairs of shape (..., 2, T) as from `_roc`."""
    same, different = accepted[..., 0, :], accepted[..., 1, :]
    all_same, all_different = same[..., -1:], different[..., -1:]
    # By straight lines, so that ties count half; whole numbers until the end.
    area = np.sum(np.diff(different) * (same[..., 1:] + same[..., :-1]), axis=-1) / 2
    auc = area / all_same[..., 0] / all_different[..., 0]
    tar, far = same / all_same, different / all_different
    # FAR - FRR grows from -1 to 1; between the points before and after its zero the curve is straight.
    excess = far + tar - 1
    after = (excess >= 0).argmax(axis=-1)[..., np.newaxis]
    above, below = (np.take_along_axis(excess, at, axis=-1) for at in (after, after - 1))
    part = below / (below - above)
    far_above, far_below = (np.take_along_axis(far, at, axis=-1) for at in (after, after - 1))
    return auc, (far_below + part * (far_above - far_below))[..., 0]


def _bootstrap_histograms(embeddings: np.ndarray, classes: np.ndarray, total: np.ndarray, seed: int) -> np.ndarray:
    """Returns the histograms, (replicates, 2, coarse bins), of samples of the images; see `verification`."""
    ends = np.unique([np.searchsorted(np.cumsum(kind), _LEVELS * kind.sum()) for kind in total])
    coarse = np.searchsorted(ends, np.arange(_NUM_BINS + 1)).astype(np.int16)  # of each bin
    num_bins = len(ends) + 1  # at most 1003
    # A byte is enough: no image comes 256 times.
    weights = np.empty((_REPLICATES, len(classes)), np.uint8)
    for weight, images in zip(weights, _resamples(seed, len(classes), _REPLICATES), strict=True):
        weight[:] = np.bincount(images, minlength=len(classes))
    sums = np.zeros((_REPLICATES, 2 * num_bins))
    lock = threading.Lock()

    def visit(chunk: slice, distances: np.ndarray) -> None:
        histograms = np.empty((len(distances), 2 * num_bins), np.float32)  # h_i of the images of the chunk
        for row, image in enumerate(range(chunk.start, chunk.stop)):
            codes = coarse[_bins(distances[row])]  # (N,)
            codes[classes != classes[image]] += num_bins
            histograms[row] = np.bincount(codes, minlength=2 * num_bins)
            histograms[row, codes[image]] -= 1  # an image and itself
        product = weights[:, chunk].astype(np.float32) @ histograms
        with lock:
            np.add(sums, product, out=sums)

    visit_distances(visit, embeddings, embeddings, dtype=np.float64)
    all_pairs = np.stack([np.bincount(coarse, kind, minlength=num_bins) for kind in total])
    return sums.reshape(_REPLICATES, 2, num_bins) - all_pairs


def bootstrap_interval(values: np.ndarray, seed: int, replicates: int = _REPLICATES) -> tuple[float, float]:
    """Computes a 95 % interval of the mean over images: the percentiles 2.5 and 97.5 of the means of bootstrap samples.

    It tells how much the mean depends on the choice of the test images. The gallery is held fixed, and how another
    training run would have ended it does not tell.

    Args:
        values: Array of shape (N,), a number for each image, such as those of `Retrieval`.
        seed: From 0 to 2^64 - 1.
        replicates: How many samples to draw.

    Returns:
        The lower and the upper end; NaN without values.

    References:
        Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not len(values):
        return float("nan"), float("nan")
    means = [values[images].mean() for images in _resamples(seed, len(values), replicates)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _resamples(seed: int, size: int, replicates: int) -> Iterator[np.ndarray]:
    """Yields samples of 0 ... size - 1 with replacement, as large as the whole, (size,)."""
    for replicate in range(replicates):
        draws = sampling.draw(seed, sampling.Stream.BOOTSTRAP, replicate, size=size)
        yield (draws % np.uint64(size)).astype(np.int64)


def _check(embeddings: np.ndarray, labels: np.ndarray) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        shapes = f"{embeddings.shape} and {labels.shape}"
        raise ValueError(f"Expected embeddings of shape (N, D) and labels of shape (N,). Received: {shapes}.")
