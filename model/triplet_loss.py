"""Triplet losses with online mining: exact, in O(B^2) memory, for batches of any size.

The triplets are chosen inside each batch, from its own embeddings. The loss of one, of an anchor a, a positive p of its
class and a negative n of another class, is

    L(a, p, n) = max(d(a, p) - d(a, n) + margin, 0)

which pulls p towards a and pushes n away until it is farther than p by the margin. A batch of B images with K of each
class holds about B^2 K triplets. To visit them all is what makes other implementations slow, and not needed: all that
matters of a negative is its *rank* among the anchor's K positives, which a binary search finds. From top to bottom:

1. distances from anchors to candidates, and the masks that define positives and negatives
2. the ranks, and what can be counted and summed from them without visiting a triplet
3. the losses: batch all, batch hard, semi-hard, random semi-hard, contrastive; `..._sums` decide which triplets count
4. the losses of triplets that were chosen before ("offline")

Each loss comes as a number, `batch_all_triplet_loss`, and as the sums that it is made of beside what a person wants to
see of the batch, `batch_all_sums`. There, anchors may look for positives and negatives among other `Candidates` than
each other: the images of all devices, or of batches gone by. Sums over anchors add up: of a large batch, a block of
anchors is computed after the other.

Everything is pure TensorFlow: functions of labels and embeddings (tensors, arrays or lists), without state and without
logging. All of it works in graphs of TensorFlow 1 and in functions with `jit_compile=True`; these have to know the
shapes before they know the labels, and count with K = B, for batches of up to 32,768.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

# What a strategy says of a batch: by the name of each quantity, "loss" first, the sum of its terms and how many terms
# there are, two scalars. A mean over many batches is then a mean over terms and not a mean of means.
Sums = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


class Candidates(NamedTuple):
    """Where A anchors look for their positives and negatives, if not among themselves: C embeddings, at least one.

    Example:
        >>> seen = Candidates(tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]]), places=tf.constant([0]))
        >>> total, count = batch_hard_sums([0], [[0.0]], 2.5, "euclidean", candidates=seen)["loss"]
        >>> round(float(total), 3), float(count)  # one anchor, the first of the candidates: 1 - 3 + 2.5
        (0.5, 1.0)
    """

    labels: tf.Tensor  # (C,)
    embeddings: tf.Tensor  # (C, D)
    places: tf.Tensor  # (A,) int32, which of them each anchor is, and so none of its positives; -1 for none of them
    share: float = 1.0  # what part of all anchors of the batch these A are
    most: int = 0  # C at most, for those whose shape does not tell C when a function is traced


# ------------------------------------------------------------------------------ 1. distances and masks

DISTANCES = ("euclidean", "squared_euclidean", "cosine")


def pairwise_distances(
    embeddings: tf.Tensor, distance: str = "euclidean", candidates: tf.Tensor | None = None
) -> tf.Tensor:
    """Computes the distance between every two embeddings, or from each of them to each candidate.

    euclidean: ||a - b||, squared_euclidean: ||a - b||^2 = ||a||^2 - 2 <a, b> + ||b||^2,
    cosine: 1 - <a, b> / (||a|| ||b||)

    Args:
        embeddings: Floating-point tensor of shape (B, D).
        distance: "euclidean", "squared_euclidean" or "cosine".
        candidates: Tensor of shape (C, D), of the same dtype.

    Returns:
        Tensor of shape (B, B) or (B, C), of the dtype of the embeddings (all but float64 are computed in float32).
        Never negative, exactly 0 on the diagonal. Where a euclidean distance is 0 its gradient is 0, although that
        of the square root is infinite. A vector of length 0 has cosine distance 1 from every other one, and gradient 0.
        The products round: distances much smaller than the spread of the batch lose digits. NaN or infinity among the
        embeddings makes all distances NaN.

    Raises:
        ValueError: The embeddings are not a matrix, or there is no such distance.

    Example:
        >>> pairwise_distances([[0.0], [1.0], [3.0]]).numpy().round(3).tolist()
        [[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]
    """
    vectors = [_matrix(embeddings)] + ([] if candidates is None else [_matrix(candidates)])
    if distance != "cosine":
        return _root(_square_distances(*vectors), distance)
    vectors = [unit_length(vector) for vector in vectors]
    distances = tf.maximum(1.0 - tf.matmul(vectors[0], vectors[-1], transpose_b=True), 0.0)  # (B, C)
    if candidates is not None:
        return distances
    # XLA cannot take the gradient of `tf.linalg.set_diag` without knowing the size.
    number = tf.range(tf.shape(distances)[0])  # (B,)
    return tf.where(tf.equal(number[:, tf.newaxis], number), tf.zeros([], distances.dtype), distances)


@tf.custom_gradient
def _square_distances(*vectors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
    """Computes ||a - c||^2 = ||a||^2 - 2 <a, c> + ||c||^2: of anchors (A, D) and candidates (C, D), or of one batch."""
    offset = _offset(vectors[-1])  # (D,)
    anchors, candidates = vectors[0] - offset, vectors[-1] - offset  # (A, D), (C, D)
    dot_product = tf.matmul(anchors, candidates, transpose_b=True)  # (A, C)
    if len(vectors) == 1:
        # The norms are the diagonal of the same product, so that d(a, a) is exactly 0.
        of_anchors = of_candidates = tf.linalg.diag_part(dot_product)  # (A,)
    else:
        of_anchors, of_candidates = (tf.reduce_sum(tf.square(v), axis=1) for v in (anchors, candidates))  # (A,), (C,)
    distances = of_anchors[:, tf.newaxis] - 2.0 * dot_product + of_candidates[tf.newaxis, :]  # (A, C)
    if len(vectors) == 2:
        # These norms round in another way than the product: of two equal images, that is all there is of a distance.
        least = 16.0 * np.finfo(distances.dtype.as_numpy_dtype).eps * of_candidates[tf.newaxis, :]  # (1, C)
        distances = tf.where(tf.logical_not(distances <= least), distances, 0.0)  # NaN stays

    def gradient(upstream: tf.Tensor) -> Any:
        if len(vectors) == 1:  # the same with u(a, b) + u(b, a): one product instead of two
            return pull(upstream + tf.transpose(upstream), anchors, anchors)
        return pull(upstream, anchors, candidates), pull(tf.transpose(upstream), candidates, anchors)

    def pull(weights: tf.Tensor, ends: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Sums 2 w(e, o) (e - o) over all others o: (E, O), (E, D) and (O, D) -> (E, D)."""
        return 2.0 * (tf.reduce_sum(weights, axis=1, keepdims=True) * ends - tf.matmul(weights, others))

    # Rounding can leave a small negative number where the distance is 0.
    return tf.maximum(distances, 0.0), gradient


def _offset(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns by what to move all embeddings towards the origin, which changes no distance: (B, D) -> (D,).

    The square of a number far from 0 has no digits left for its difference from that of a neighbour. The vector is the
    mean, rounded to multiples of a power of two, two to four times the spread: a batch that lies no farther from 0 than
    it is wide stays where it is, and whole numbers stay whole, so that their exact ties stay exact.
    """
    mean = tf.reduce_mean(embeddings, axis=0)  # (D,)
    spread = tf.reduce_max(tf.abs(embeddings - mean))  # ()
    # The exponent of a float without its digits is the largest power of two that is not above it.
    integer, exponent = (tf.int32, 0xFF << 23) if spread.dtype == tf.float32 else (tf.int64, 0x7FF << 52)
    unit = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(spread, integer), exponent), spread.dtype)  # ()
    steps = tf.math.divide_no_nan(mean, 4.0 * unit)  # (D,) too large for a float where the batch has all but collapsed
    return tf.where(tf.math.is_finite(steps), tf.round(steps) * (4.0 * unit), mean)


def _pairwise_distances(embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
    """Computes the euclidean distances, or the squared ones, between every two embeddings: (B, D) -> (B, B)."""
    return pairwise_distances(embeddings, _euclidean(squared))


def _get_anchor_positive_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Tells which (a, p) are two images of one class: (B,) -> (B, B)."""
    labels = _vector(labels)
    same_class = tf.equal(labels[:, tf.newaxis], labels[tf.newaxis, :])  # (B, B)
    return tf.linalg.set_diag(same_class, tf.zeros_like(labels, tf.bool))


def _get_anchor_negative_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Tells which (a, n) are of two classes: (B,) -> (B, B)."""
    labels = _vector(labels)
    return tf.not_equal(labels[:, tf.newaxis], labels[tf.newaxis, :])


def _get_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Tells which (a, p, n) are valid triplets, which no loss here needs: (B,) -> (B, B, B)."""
    positives = _get_anchor_positive_triplet_mask(labels)[:, :, tf.newaxis]  # (B, B, 1)
    return tf.logical_and(positives, _get_anchor_negative_triplet_mask(labels)[:, tf.newaxis, :])


# ------------------------------------------------------------------------------ 2. ranks


class _Batch(NamedTuple):
    """The distances from each anchor of a batch to its candidates; K is the size of the largest class."""

    embeddings: tf.Tensor  # (A, D)
    distance: str
    candidates: Candidates
    distances: tf.Tensor  # (A, C)
    positives: tf.Tensor  # (A, K) those to the anchor's positives, ascending, +inf where there are no more
    negatives: tf.Tensor  # (A, C) those to the anchor's negatives, +inf elsewhere
    is_positive: tf.Tensor  # (A, K)
    is_negative: tf.Tensor  # (A, C)
    num_positives: tf.Tensor  # (A, 1)
    num_negatives: tf.Tensor  # (A, 1)
    num_anchors: tf.Tensor  # () 0 for an empty batch, which is padded to one image
    is_finite: tf.Tensor  # () false with NaN among the labels, or NaN or infinity elsewhere, which comparisons hide


def _sort_out(labels: tf.Tensor, embeddings: tf.Tensor, distance: str, candidates: Candidates | None) -> _Batch:
    """Computes the distances and sorts out each anchor's positives, which are few."""
    labels, embeddings = checked(labels, embeddings)
    num_anchors = tf.shape(embeddings)[0]
    if candidates is None:
        if embeddings.shape[:1].num_elements() in (0, None):
            # An empty batch becomes a single image, which has no loss either: nearest and farthest need one to exist.
            padding = [[0, tf.maximum(1 - num_anchors, 0)]]
            labels, embeddings = tf.pad(labels, padding), tf.pad(embeddings, [*padding, [0, 0]])
        distances = pairwise_distances(embeddings, distance)  # (B, B)
        candidates = Candidates(labels, embeddings, tf.range(tf.shape(distances)[0]))
    else:
        candidates = candidates._replace(embeddings=_matrix(candidates.embeddings))
        distances = pairwise_distances(embeddings, distance, candidates.embeddings)  # (A, C)
        is_self = tf.equal(candidates.places[:, tf.newaxis], tf.range(tf.shape(distances)[1]))  # (A, C)
        distances = tf.where(is_self, tf.zeros([], distances.dtype), distances)  # (A, C)
    num_candidates = tf.shape(distances)[1]

    # In the order of the labels, the candidates of a class are a contiguous run.
    order = tf.argsort(candidates.labels, stable=True)  # (C,)
    ordered = tf.gather(candidates.labels, order)  # (C,)
    start = tf.searchsorted(ordered, labels, side="left")[:, tf.newaxis]  # (A, 1)
    size = tf.searchsorted(ordered, labels, side="right")[:, tf.newaxis] - start  # (A, 1)
    largest = tf.reduce_max(tf.searchsorted(ordered, ordered, side="right") - tf.range(num_candidates))  # ()
    # XLA has to know K before it sees a label.
    offset = tf.range(num_candidates if _inside_xla() else largest)[tf.newaxis, :]  # (1, K)
    column = tf.gather(order, tf.minimum(start + offset, num_candidates - 1))  # (A, K)
    is_anchor = tf.equal(column, candidates.places[:, tf.newaxis])  # (A, K)
    other = tf.logical_and(offset < size, tf.logical_not(is_anchor))  # (A, K)
    unsorted = tf.where(other, tf.gather(tf.stop_gradient(distances), column, batch_dims=1), float("inf"))  # (A, K)
    column = tf.gather(column, tf.argsort(unsorted, axis=1), batch_dims=1)  # (A, K)
    num_positives = size - tf.cast(candidates.places[:, tf.newaxis] >= 0, tf.int32)  # (A, 1)
    is_positive = offset < num_positives  # (A, K)

    is_negative = tf.not_equal(labels[:, tf.newaxis], candidates.labels[tf.newaxis, :])  # (A, C)
    is_finite = tf.reduce_all(tf.math.is_finite(candidates.embeddings)) & tf.reduce_all(tf.math.is_finite(distances))
    if labels.dtype.is_floating:
        is_finite &= tf.reduce_all(tf.equal(ordered, ordered))  # NaN is not equal to itself
    return _Batch(
        embeddings,
        distance,
        candidates,
        distances,
        positives=tf.where(is_positive, tf.gather(distances, column, batch_dims=1), float("inf")),
        negatives=tf.where(is_negative, distances, float("inf")),
        is_positive=is_positive,
        is_negative=is_negative,
        num_positives=num_positives,
        num_negatives=num_candidates - size,
        num_anchors=num_anchors,
        is_finite=is_finite,
    )


def _ranks(thresholds: tf.Tensor, values: tf.Tensor, side: str) -> tf.Tensor:
    """Finds for each value how many thresholds of its row are smaller: a binary search in K numbers.

    Thresholds (A, K), ascending, and values (A, N) -> int32 (A, N), from 0 to K. Side "left" counts the thresholds <
    value, "right" those <= value.
    """
    thresholds, values = tf.stop_gradient(thresholds), tf.stop_gradient(values)
    inside_xla = _inside_xla()
    # XLA compiles for each shape anew: for shapes that a function was traced for, on a CPU, it pays.
    large = not tf.executing_eagerly() and (values.shape.num_elements() or 0) >= _WORTH_COMPILING
    if not inside_xla and (not large or tf.config.list_logical_devices("GPU")):
        return tf.searchsorted(thresholds, values, side=side)
    # Rows are filled up to a power of two, so that few different shapes have to be compiled.
    num_thresholds = tf.shape(thresholds)[1]
    width = tf.reduce_min(tf.where(num_thresholds < _POWERS_OF_TWO, _POWERS_OF_TWO, _POWERS_OF_TWO[-1]))
    thresholds = tf.pad(thresholds, [[0, 0], [0, width - num_thresholds]], constant_values=float("inf"))
    if inside_xla:
        ranks = _search(thresholds, values, side)
    else:
        batch_size, num_values = values.shape.as_list()
        num_rows = max(1, _SEARCHED_AT_ONCE // num_values)
        blocks = [slice(start, start + num_rows) for start in range(0, batch_size, num_rows)]
        ranks = tf.concat([_compiled_search(thresholds[rows], values[rows], side) for rows in blocks], axis=0)
    return tf.minimum(ranks, num_thresholds)  # what was filled up does not count


def _search(thresholds: tf.Tensor, values: tf.Tensor, side: str) -> tf.Tensor:
    """Searches without branches, for XLA: all values take the same steps, each half as long as the one before.

    A processor guesses which way a branch goes, and in a binary search it is wrong half of the time: compiled by XLA,
    this takes a third of the time of `tf.searchsorted`. The W thresholds of a row are a power of two, the last is +inf.
    """
    width = tf.shape(thresholds)[1]
    before = tf.range(tf.shape(values)[0])[:, tf.newaxis] * width - 1  # (A, 1)
    position = before + tf.zeros_like(values, tf.int32)  # (A, N) of the last threshold found to be smaller
    for step in reversed(_POWERS_OF_TWO):
        # Steps that are longer than a row are known when XLA compiles, which leaves them out.
        ahead = position + step  # (A, N)
        threshold = tf.gather(tf.reshape(thresholds, [-1]), ahead)  # (A, N)
        smaller = threshold < values if side == "left" else threshold <= values  # (A, N)
        position = tf.where(tf.logical_and(step < width, smaller), ahead, position)
    return position - before


_compiled_search = tf.function(_search, jit_compile=True, autograph=False)

# With so many values a search takes longer than a millisecond: over many steps it pays to have waited for XLA.
_WORTH_COMPILING = 2**16

# Values of which XLA keeps every step in memory; many more do not fit into the cache.
_SEARCHED_AT_ONCE = 2**18

_POWERS_OF_TWO = 2 ** np.arange(31, dtype=np.int32)


def _inside_xla() -> bool:
    """Returns whether this is being traced for a function with `jit_compile=True`.

    TensorFlow has no public way to tell. Without it, XLA would take `tf.searchsorted` to compare every threshold with
    every value, B^3 times, and could not know K.
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _num_above(batch: _Batch, ranks: tf.Tensor) -> tf.Tensor:
    """Counts the thresholds above each negative: (A, C) -> (A, C), 0 for what is no negative."""
    return tf.maximum(batch.num_positives - ranks, 0)


def _num_below(ranks: tf.Tensor, num_thresholds: tf.Tensor) -> tf.Tensor:
    """Counts the values below each threshold of a row; below threshold k are those of rank 0 to k: (A, N) -> (A, K)."""
    bucket, num_buckets = _buckets(ranks, num_thresholds + 1)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(bucket), bucket, num_buckets)
    return tf.cumsum(tf.reshape(counts, [-1, num_thresholds + 1])[:, :-1], axis=1)


def _buckets(ranks: tf.Tensor, num_ranks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives each rank of each row a bucket of its own: the bucket of each value, (A * N,), and how many there are."""
    row = tf.range(tf.shape(ranks)[0])[:, tf.newaxis]  # (A, 1)
    return tf.reshape(row * num_ranks + ranks, [-1]), tf.shape(ranks)[0] * num_ranks


# ------------------------------------------------------------------------------ 3. online mining


def batch_all_triplet_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool = False, *, distance: str | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the mean loss over all triplets of the batch whose loss is positive, in O(B^2) memory.

    Triplets that already keep the margin ("easy" ones) are left out of the mean, which they would only dilute.

    Args:
        labels: Tensor of shape (B,), the class of each image.
        embeddings: Tensor of shape (B, D).
        margin: How much farther than the positive the negative has to be, in units of the distance; at least 0.
        squared: Whether euclidean distances are squared.
        distance: "euclidean", "squared_euclidean" or "cosine", instead of `squared`.

    Returns:
        The loss and the fraction of the valid triplets whose loss is positive, in [0, 1]; scalars. Both are 0 when the
        batch holds no valid triplet, or nothing. NaN or infinite embeddings and NaN labels give a NaN loss.

    Raises:
        ValueError: Labels are not of shape (B,), embeddings not of shape (B, D), or there is no such distance.
        tf.errors.InvalidArgumentError: The same, where a shape is known only when the function runs.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 6.

    Example:
        >>> loss, fraction = batch_all_triplet_loss([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], margin=0.5)
        >>> round(float(loss), 3), float(fraction)  # 2 of 8 cost, those of the pair (3, 7): 4 - 3 + 0.5, 4 - 2 + 0.5
        (2.0, 0.25)
    """
    sums = batch_all_sums(labels, embeddings, margin, distance or _euclidean(squared))
    return mean(*sums["loss"]), mean(*sums["fraction_positive_triplets"])


def batch_hard_triplet_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float | str, squared: bool = False, *, distance: str | None = None
) -> tf.Tensor:
    """Computes the mean loss of each anchor's hardest triplet: its farthest positive and its nearest negative.

    With margin "soft", max(x + margin, 0) is replaced by softplus(x) = ln(1 + e^x), which never stops to pull. All else
    is as for `batch_all_triplet_loss`.

    Returns:
        The loss, a scalar. An anchor without a positive or without a negative has no triplet and does not count;
        0 when no anchor has one.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 5 and section 2.

    Example:
        >>> loss = batch_hard_triplet_loss([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], margin=0.5)
        >>> round(float(loss), 3)  # the anchor at 3 costs 4 - 2 + 0.5, the other three nothing
        0.625
    """
    return mean(*batch_hard_sums(labels, embeddings, margin, distance or _euclidean(squared))["loss"])


def batch_semi_hard_triplet_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool = False, *, distance: str | None = None
) -> tf.Tensor:
    """Computes the mean loss over all (anchor, positive) pairs, each with its semi-hard negative.

    That is the nearest of the negatives that are farther than the positive, and the farthest negative where none is.
    All else is as for `batch_all_triplet_loss`.

    Returns:
        The loss, a scalar; 0 when the batch holds no valid triplet.

    References:
        Schroff, Kalenichenko, Philbin: FaceNet, 2015, section 3.2; the rule for a pair without a semi-hard negative is
        that of `tfa.losses.triplet_semihard_loss` in TensorFlow Addons.

    Example:
        >>> loss = batch_semi_hard_triplet_loss([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], margin=0.5)
        >>> round(float(loss), 3)  # of 4 pairs (3, 7) costs: no negative is farther, the farthest is 0: 4 - 3 + 0.5
        0.375
    """
    return mean(*batch_semi_hard_sums(labels, embeddings, margin, distance or _euclidean(squared))["loss"])


def batch_random_semi_hard_triplet_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    margin: float,
    seed: tf.Tensor,
    squared: bool = False,
    *,
    distance: str | None = None,
) -> tf.Tensor:
    """Computes the mean loss over the (anchor, positive) pairs, each with a random semi-hard negative.

    Semi-hard are the negatives with d(a, p) < d(a, n) < d(a, p) + margin. A pair that has none does not count. The seed
    is an integer tensor of shape (2,), for example (seed, global step): the same one draws the same negatives, but
    others in functions with `jit_compile=True`. All else is as for `batch_all_triplet_loss`.

    Returns:
        The loss, a scalar; 0 when no pair has a semi-hard negative.

    References:
        Schroff, Kalenichenko, Philbin: FaceNet, 2015, section 3.2.

    Example:
        >>> points = [[0.0], [1.0], [3.0], [7.0]]
        >>> loss = batch_random_semi_hard_triplet_loss([0, 0, 1, 1], points, margin=1.5, seed=[230, 0])
        >>> round(float(loss), 3)  # the pair (1, 0) alone has a semi-hard negative, and one only, at 3: 1 - 2 + 1.5
        0.5
    """
    sums = batch_random_semi_hard_sums(labels, embeddings, margin, distance or _euclidean(squared), seed)
    return mean(*sums["loss"])


def contrastive_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool = False, *, distance: str | None = None
) -> tf.Tensor:
    """Computes the mean contrastive loss over all pairs of the batch.

    A pair of one class costs d^2 / 2, a pair of two classes max(margin - d, 0)^2 / 2: the margin says how far apart two
    classes have to be, in units of the distance. All else is as for `batch_all_triplet_loss`.

    Returns:
        The loss, a scalar; 0 for a batch without two images.

    References:
        Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, 2006, eq. 4.

    Example:
        >>> loss = contrastive_loss([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], margin=5.0)
        >>> round(float(loss), 3)  # of 6 pairs; same: 1 / 2 + 16 / 2, different: (5 - 3)^2 / 2 + (5 - 2)^2 / 2
        2.5
    """
    return mean(*contrastive_sums(labels, embeddings, margin, distance or _euclidean(squared))["loss"])


def mean(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns total / count, and 0 for an empty sum; a total that is NaN stays NaN.

    Example:
        >>> float(mean(tf.constant(6.0), tf.constant(4.0))), float(mean(tf.constant(0.0), tf.constant(0.0)))
        (1.5, 0.0)
    """
    return total / tf.maximum(count, 1.0)


# (labels (A,), embeddings (A, D), margin, distance, seed (2,) = None, candidates = None) -> Sums
SumsOf = Callable[..., Sums]
# (batch, margin, seed) -> (total, count), two scalars
_Loss = Callable[[_Batch, Any, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]

# Pairs whose sums are computed at once, 2 GB or so, and pairs of a block where there are more.
PAIRS_AT_ONCE, PAIRS_OF_A_BLOCK = 2**26, 2**25


def _sums_of(loss: _Loss) -> SumsOf:
    """Returns the loss as a function of labels and embeddings, with what a person wants to see beside it."""

    @tf.autograph.experimental.do_not_convert  # in whose functions it may be called: rewriting this takes seconds
    def sums(
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        margin: float | str,
        distance: str,
        seed: tf.Tensor | None = None,
        candidates: Candidates | None = None,
    ) -> Sums:
        def at_once(labels: tf.Tensor, embeddings: tf.Tensor, candidates: Candidates | None) -> Sums:
            batch = _sort_out(labels, embeddings, distance, candidates)
            return _with_statistics(batch, margin, *loss(batch, margin, seed))

        return in_blocks(at_once, labels, embeddings, candidates)

    sums.__name__, sums.__doc__ = loss.__name__, loss.__doc__
    return sums


def in_blocks(
    at_once: Callable[[tf.Tensor, tf.Tensor, Candidates | None], Sums],
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    candidates: Candidates | None,
) -> Sums:
    """Computes sums over anchors, in bounded memory.

    Where there are more pairs than fit into memory, one block of anchors comes after the other, and only "loss" has a
    gradient. That needs sizes that are known when a function is traced, of candidates at least how many there are at
    most, and is not done by XLA.

    Args:
        at_once: From labels and embeddings, tensors of shapes (A,) and (A, D), and candidates to the sums of these
            anchors.
        labels: (A,), the class of each image.
        embeddings: (A, D).
        candidates: Where anchors look for their partners; None for among themselves.
    """
    labels, embeddings = checked(labels, embeddings)
    vectors = [embeddings] if candidates is None else [embeddings, _matrix(candidates.embeddings)]
    num_anchors, num_candidates = (vector.shape[:1].num_elements() or 0 for vector in (vectors[0], vectors[-1]))
    num_candidates = num_candidates or (candidates.most if candidates else 0)
    if _inside_xla() or num_anchors * num_candidates <= PAIRS_AT_ONCE:
        return at_once(labels, embeddings, candidates)
    others = candidates or Candidates(labels, embeddings, tf.range(num_anchors))

    @tf.function(autograph=False)
    def of_block(start: tf.Tensor, size: int, *vectors: tf.Tensor) -> tuple[Sums, list[tf.Tensor]]:
        of_these, places = (tf.slice(whole, [start], [size]) for whole in (labels, others.places))
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            among = Candidates(others.labels, vectors[-1], places, others.share * (size / num_anchors))
            found = at_once(of_these, tf.slice(vectors[0], [start, 0], [size, -1]), among)
        return found, [tf.convert_to_tensor(pull) for pull in tape.gradient(found["loss"][0], vectors)]

    # As many blocks as are needed, of one size: only the last one may be smaller, and is compiled by itself.
    size = -(-num_anchors // -(-num_anchors * num_candidates // PAIRS_OF_A_BLOCK))
    so_far: Any = None
    for start in range(0, num_anchors, size):
        with tf.control_dependencies(tf.nest.flatten(so_far or [])):
            part = of_block(tf.constant(start), min(size, num_anchors - start), *map(tf.stop_gradient, vectors))
            so_far = tf.nest.map_structure(tf.add, so_far, part) if so_far else part
    found, gradients = so_far
    total, count = found["loss"]
    return {**found, "loss": (with_gradient(total, vectors, gradients), count)}


def with_gradient(total: tf.Tensor, vectors: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns a scalar as it is, with what somebody has found to be its gradients with respect to some vectors."""

    @tf.custom_gradient
    def identity(*_: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        return tf.identity(total), lambda upstream: [upstream * gradient for gradient in gradients]

    return identity(*vectors)


@_sums_of
def batch_all_sums(batch: _Batch, margin: float, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `batch_all_triplet_loss`.

    Example:
        >>> sums = batch_all_sums([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], 0.5, "euclidean")
        >>> [round(float(part), 3) for part in sums["loss"]]  # 1.5 + 2.5 of 2 triplets, as there
        [4.0, 2.0]
        >>> round(float(mean(*sums["mean_positive_dist"])), 3)  # 1 and 4, from both ends
        2.5
    """
    # With t = d(a, p) + margin, a triplet is active exactly if d(a, n) < t. Let the positive p have r(a, p) active
    # negatives and the negative n have c(a, n) active positives. The sum over the active triplets is then
    #
    #     sum of t - d(a, n)  =  sum over (a, p) of r t  -  sum over (a, n) of c d(a, n)
    #
    # and these counts are its gradient, too: +r for d(a, p) and -c for d(a, n).
    thresholds = batch.positives + margin  # (A, K)
    ranks = _ranks(thresholds, batch.negatives, side="right")  # (A, C)
    c = _num_above(batch, ranks)  # (A, C)
    r = _num_below(ranks, tf.shape(thresholds)[1])  # (A, K)
    total = _dot(r, tf.where(batch.is_positive, thresholds, 0.0)) - _dot(c, batch.distances)
    return total, _total(c)


@_sums_of
def batch_hard_sums(batch: _Batch, margin: float | str, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `batch_hard_triplet_loss`.

    Example:
        >>> sums = batch_hard_sums([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], 0.5, "euclidean")
        >>> [round(float(part), 3) for part in sums["loss"]]  # of four anchors, that at 3 alone: 4 - 2 + 0.5
        [2.5, 4.0]
    """
    # Which images are the hardest is found among all distances. The loss is then made of these pairs alone, so that
    # its gradient does not pass an A x C matrix. An anchor is its own positive only where none is farther.
    hardest_positive = tf.argmax(tf.where(tf.logical_not(batch.is_negative), batch.distances, -1.0), axis=1)  # (A,)
    hardest_negative = tf.argmin(batch.negatives, axis=1)  # (A,)
    to_positive, to_negative = (
        _distance(batch.embeddings, tf.gather(batch.candidates.embeddings, which), batch.distance)  # (A,)
        for which in (hardest_positive, hardest_negative)
    )
    has_triplet = tf.logical_and(batch.num_positives > 0, batch.num_negatives > 0)[:, 0]  # (A,)
    losses = tf.where(has_triplet, _hinge(to_positive - to_negative, margin), 0.0)  # (A,)
    return tf.reduce_sum(losses), _count(has_triplet)


@_sums_of
def batch_semi_hard_sums(batch: _Batch, margin: float, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `batch_semi_hard_triplet_loss`.

    Example:
        >>> sums = batch_semi_hard_sums([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], 0.5, "euclidean")
        >>> [round(float(part), 3) for part in sums["loss"]]  # of 3 and 7: no negative is farther, so 4 - 3 + 0.5
        [1.5, 4.0]
    """
    # The negatives of rank 0 are nearer than every positive, or as near; those of rank k + 1 are farther than positive
    # k and not farther than the next one. So the semi-hard negative of positive k is the nearest of the first rank
    # after k that has one at all.
    num_ranks = tf.shape(batch.positives)[1] + 1
    ranks = _ranks(batch.positives, batch.negatives, side="left")  # (A, C)
    nearest = _nearest_of_rank(batch.negatives, ranks, num_ranks)  # (A, K + 1)
    # How many of the ranks up to each hold a negative: where this is one more, the next rank that holds one is found.
    ranks_so_far = tf.cumsum(tf.cast(nearest < float("inf"), nearest.dtype), axis=1)  # (A, K + 1)
    next_rank = _ranks(ranks_so_far, ranks_so_far[:, :-1] + 1.0, side="left")  # (A, K)
    semi_hard = tf.gather(nearest, tf.minimum(next_rank, num_ranks - 1), batch_dims=1)  # (A, K)
    farthest = tf.reduce_max(tf.where(batch.is_negative, batch.distances, 0.0), axis=1, keepdims=True)  # (A, 1)
    negatives = tf.where(next_rank < num_ranks, semi_hard, farthest)  # (A, K)
    return _pairs(batch, negatives, batch.is_positive, margin)


@_sums_of
def batch_random_semi_hard_sums(batch: _Batch, margin: float, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `batch_random_semi_hard_triplet_loss`.

    Example:
        >>> sums = batch_random_semi_hard_sums([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], 2.5, "euclidean", (0, 0))
        >>> [round(float(part), 3) for part in sums["loss"]]  # 0.5 + 1.5 + 0.5: no choice, and none for 3 and 7
        [2.5, 3.0]
    """
    # Among an anchor's sorted negatives the semi-hard ones of a positive are a run; one of it is drawn.
    order = tf.argsort(batch.negatives, axis=1)  # (A, C)
    negatives = tf.gather(batch.negatives, order, batch_dims=1)  # (A, C)
    first = _ranks(negatives, batch.positives, side="right")  # (A, K)
    end = _ranks(negatives, batch.positives + margin, side="left")  # (A, K)
    # Drawn for the whole batch, from which each anchor takes what belongs to its place.
    num_anchors, num_candidates = tf.unstack(tf.shape(batch.negatives))
    places = tf.where(batch.candidates.places < 0, tf.range(num_anchors), batch.candidates.places)  # (A,)
    num_places = num_candidates if _inside_xla() else tf.maximum(tf.reduce_max(places) + 1, 0)
    draw = tf.random.stateless_uniform([num_places, tf.shape(first)[1]], seed, alg="philox")  # (places, K) in [0, 1)
    draw = tf.gather(draw, places)  # (A, K)
    length = end - first
    drawn = first + tf.minimum(tf.cast(draw * tf.cast(length, tf.float32), tf.int32), length - 1)
    chosen = tf.gather(order, tf.maximum(drawn, 0), batch_dims=1)  # (A, K)
    negatives = tf.gather(batch.distances, chosen, batch_dims=1)  # (A, K)
    return _pairs(batch, negatives, tf.logical_and(batch.is_positive, length > 0), margin)


@_sums_of
def contrastive_sums(batch: _Batch, margin: float, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `contrastive_loss`.

    Example:
        >>> sums = contrastive_sums([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]], 2.5, "euclidean")
        >>> [round(float(part), 3) for part in sums["loss"]]  # (1 + 16 + 0.25) / 2, of six pairs
        [8.625, 6.0]
    """
    attraction = tf.square(batch.distances) / 2.0  # (A, C)
    repulsion = tf.square(tf.maximum(margin - batch.distances, 0.0)) / 2.0  # (A, C)
    # Both orders of a pair are in the sum, and each image with itself, which costs nothing.
    total = tf.reduce_sum(tf.where(batch.is_negative, repulsion, attraction)) / 2.0
    return total, _total(batch.num_positives + batch.num_negatives) / 2.0


def _pairs(batch: _Batch, negatives: tf.Tensor, counts: tf.Tensor, margin: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the losses of (anchor, positive) pairs that have a negative each: all of shape (A, K)."""
    counts = tf.logical_and(counts, batch.num_negatives > 0)  # (A, K)
    # Padding is taken out before anything is computed of it: a gradient passes both branches of `where`.
    difference = tf.where(counts, batch.positives, 0.0) - tf.where(counts, negatives, 0.0)  # (A, K)
    losses = tf.where(counts, _hinge(difference, margin), 0.0)  # (A, K)
    return tf.reduce_sum(losses), _count(counts)


def _nearest_of_rank(values: tf.Tensor, ranks: tf.Tensor, num_ranks: tf.Tensor) -> tf.Tensor:
    """Returns the smallest value of each rank in each row, (A, num_ranks); +inf where there is none."""
    bucket, num_buckets = _buckets(ranks, num_ranks)
    smallest = tf.math.unsorted_segment_min(tf.reshape(values, [-1]), bucket, num_buckets)
    smallest = tf.where(smallest < values.dtype.max, smallest, float("inf"))  # the largest number stands for none
    return tf.reshape(smallest, [-1, num_ranks])


def _with_statistics(batch: _Batch, margin: float | str, total: tf.Tensor, count: tf.Tensor) -> Sums:
    """Returns the loss as (total, count), and what a person wants to see of the batch beside it."""
    margin = 0.0 if isinstance(margin, str) else margin
    share, num_anchors = tf.constant(batch.candidates.share, tf.float64), tf.cast(batch.num_anchors, tf.float64)
    has_positive, has_negative = batch.num_positives > 0, batch.num_negatives > 0  # (A, 1)
    num_valid = tf.reduce_sum(tf.cast(batch.num_positives, tf.float64) * tf.cast(batch.num_negatives, tf.float64))
    num_active = _total(_num_above(batch, _ranks(batch.positives + margin, batch.negatives, side="right")))
    num_hard = _total(_num_above(batch, _ranks(batch.positives, batch.negatives, side="right")))
    positives = tf.where(batch.is_positive, batch.positives, 0.0)  # (A, K)
    hardest_positive = tf.reduce_max(positives, axis=1, keepdims=True)  # (A, 1)
    hardest_negative = tf.where(has_negative, tf.reduce_min(batch.negatives, axis=1, keepdims=True), 0.0)  # (A, 1)
    negatives = tf.where(batch.is_negative, batch.distances, 0.0)  # (A, C)
    sums = {
        "loss": (tf.where(batch.is_finite, tf.cast(total, tf.float64), float("nan")), count),
        "fraction_positive_triplets": (num_active, num_valid),
        "fraction_hard_triplets": (num_hard, num_valid),
        "fraction_semi_hard_triplets": (num_active - num_hard, num_valid),
        "fraction_easy_triplets": (num_valid - num_active, num_valid),
        "mean_positive_dist": (tf.reduce_sum(positives), _count(batch.is_positive)),
        "mean_negative_dist": (tf.reduce_sum(negatives), _count(batch.is_negative)),
        "hardest_positive_dist": (tf.reduce_sum(hardest_positive), _count(has_positive)),
        "hardest_negative_dist": (tf.reduce_sum(hardest_negative), _count(has_negative)),
        "anchors_without_positive": (num_anchors - _count(has_positive), share),
        "anchors_without_negative": (num_anchors - _count(has_negative), share),
    }
    dtype = batch.distances.dtype
    return {name: (tf.cast(total, dtype), tf.cast(count, dtype)) for name, (total, count) in sums.items()}


def _dot(counts: tf.Tensor, distances: tf.Tensor) -> tf.Tensor:
    """Sums counts times distances, both (A, N), into a float64 scalar."""
    products = tf.cast(counts, distances.dtype) * distances  # (A, N)
    return tf.reduce_sum(tf.cast(tf.reduce_sum(products, axis=1), tf.float64))


def _total(counts: tf.Tensor) -> tf.Tensor:
    """Sums int32 counts (A, N), each up to N: float32 cannot add 1 to 2^24, and 512 images hold more triplets."""
    if (counts.shape[1] or 2**16) > 2**15:  # of a row, there may be more than an int32 can count
        counts = tf.cast(counts, tf.int64)
    return tf.reduce_sum(tf.cast(tf.reduce_sum(counts, axis=1), tf.float64))


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.math.count_nonzero(mask), tf.float64)


# ------------------------------------------------------------------------------ 4. triplets chosen before


def triplet_loss(
    anchor: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, margin: float, distance: str = "euclidean"
) -> tf.Tensor:
    """Computes the mean loss of triplets that were chosen before.

    L(a, p, n) = max(d(a, p) - d(a, n) + margin, 0). With several negatives for each pair, the semi-hard one is taken:
    the nearest of those farther than the positive, and the farthest where none is.

    Args:
        anchor: Embeddings of shape (B, D).
        positive: Embeddings of shape (B, D).
        negative: Embeddings of shape (B, D), or (B, M, D) with M negatives for each pair.
        margin: How much farther than the positive the negative has to be, in units of the distance; or "soft".
        distance: "euclidean", "squared_euclidean" or "cosine".

    Returns:
        The loss, a scalar: a mean over all B triplets, easy ones too. 0 for B = 0.

    References:
        Weinberger, Saul: Distance Metric Learning for Large Margin Nearest Neighbor Classification, 2009;
        Schroff, Kalenichenko, Philbin: FaceNet, 2015.

    Example:
        >>> loss = triplet_loss(anchor=[[0.0], [0.0]], positive=[[1.0], [1.0]], negative=[[1.25], [9.0]], margin=0.5)
        >>> round(float(loss), 3)  # (1 - 1.25 + 0.5) / 2, as the second is easy
        0.125
    """
    anchor, positive, negative = _full_precision(anchor), _full_precision(positive), _full_precision(negative)
    positive_distance = _distance(anchor, positive, distance)  # (B,)
    if negative.shape.rank == 3:
        negatives = _distance(anchor[:, tf.newaxis], negative, distance)  # (B, M)
        farther = negatives > positive_distance[:, tf.newaxis]  # (B, M)
        nearest = tf.reduce_min(tf.where(farther, negatives, negatives.dtype.max), axis=1)  # (B,)
        farthest = tf.reduce_max(negatives, axis=1)  # (B,)
        negative_distance = tf.where(tf.reduce_any(farther, axis=1), nearest, farthest)  # (B,)
    else:
        negative_distance = _distance(anchor, negative, distance)  # (B,)
    losses = _hinge(positive_distance - negative_distance, margin)  # (B,)
    return mean(tf.reduce_sum(losses), tf.cast(tf.size(losses), losses.dtype))


def offline_sums(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, distance: str, seed: tf.Tensor | None = None
) -> Sums:
    """Returns the sums of `triplet_loss`, of a batch that is triplets, one after the other.

    Example:
        >>> total, count = offline_sums([0, 0, 1], [[0.0], [1.0], [1.25]], 0.5, "euclidean")["loss"]
        >>> round(float(total), 3), float(count)  # anchor, positive, negative: 1 - 1.25 + 0.5
        (0.25, 1.0)
    """
    _, embeddings = checked(labels, embeddings)
    anchor, positive, negative = tf.unstack(tf.reshape(embeddings, [-1, 3, tf.shape(embeddings)[1]]), axis=1)
    positives, negatives = _distance(anchor, positive, distance), _distance(anchor, negative, distance)  # (B / 3,)
    losses = _hinge(positives - negatives, margin)  # (B / 3,)
    is_hard = negatives < positives
    is_semi_hard = tf.logical_and(losses > 0.0, tf.logical_not(is_hard))
    none = losses[:0]
    terms = {
        "loss": losses,
        "fraction_positive_triplets": losses > 0.0,
        "fraction_hard_triplets": is_hard,
        "fraction_semi_hard_triplets": is_semi_hard,
        "fraction_easy_triplets": losses <= 0.0,
        "mean_positive_dist": positives,
        "mean_negative_dist": negatives,
        "hardest_positive_dist": positives,  # the only one that the anchor has
        "hardest_negative_dist": negatives,
        "anchors_without_positive": none,
        "anchors_without_negative": none,
    }
    dtype = losses.dtype
    return {name: (tf.reduce_sum(tf.cast(term, dtype)), tf.cast(tf.size(term), dtype)) for name, term in terms.items()}


def _distance(a: tf.Tensor, b: tf.Tensor, distance: str) -> tf.Tensor:
    """Computes the distances between corresponding vectors: (..., D) and (..., D) -> (...)."""
    a, b = _full_precision(a), _full_precision(b)
    if distance == "cosine":
        return 1.0 - tf.reduce_sum(unit_length(a) * unit_length(b), axis=-1)
    return _root(tf.reduce_sum(tf.square(a - b), axis=-1), distance)


def _hinge(difference: tf.Tensor, margin: float | str) -> tf.Tensor:
    """Returns max(difference + margin, 0), or its soft version."""
    if isinstance(margin, str):
        if margin != "soft":
            raise ValueError(f'Expected margin to be a number or "soft". Received: {margin!r}')
        return tf.nn.softplus(difference)
    return tf.maximum(difference + margin, 0.0)


def _root(squared: tf.Tensor, distance: str) -> tf.Tensor:
    """Takes the square root if the distance is not a squared one."""
    if distance == "squared_euclidean":
        return squared
    if distance != "euclidean":
        raise ValueError(f"Expected distance to be one of {', '.join(DISTANCES)}. Received: {distance!r}")
    return _sqrt(squared)


@tf.custom_gradient
def _sqrt(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Takes the square root, whose gradient at 0 is 0 here."""
    root = tf.sqrt(x)
    return root, lambda upstream: tf.math.divide_no_nan(upstream, 2.0 * root)


def unit_length(vectors: tf.Tensor) -> tf.Tensor:
    """Scales vectors (..., D) to length 1; those of length 0 stay, and have gradient 0.

    By the largest number first: squares can overflow.

    Example:
        >>> unit_length(tf.constant([3.0, 4.0])).numpy().round(3)
        array([0.6, 0.8], dtype=float32)
    """
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(vectors), axis=-1, keepdims=True))
    nonzero = tf.not_equal(largest, 0.0)
    vectors = tf.where(nonzero, vectors / tf.where(nonzero, largest, 1.0), 1.0)
    return tf.where(nonzero, tf.math.l2_normalize(vectors, axis=-1), 0.0)


def _full_precision(embeddings: tf.Tensor) -> tf.Tensor:
    """Returns the embeddings as a tensor; what is neither float32 nor float64 is computed in float32."""
    embeddings = tf.convert_to_tensor(embeddings)
    return embeddings if embeddings.dtype in (tf.float32, tf.float64) else tf.cast(embeddings, tf.float32)


def checked(labels: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns labels (B,) and embeddings (B, D) as tensors, having found as many of the one as of the other."""
    labels, embeddings = _vector(labels), _matrix(embeddings)
    if not labels.shape.is_compatible_with(embeddings.shape[:1]):
        raise ValueError(f"Expected a label for each embedding. Received: shapes {labels.shape} and {embeddings.shape}")
    if labels.shape.is_fully_defined() and embeddings.shape[:1].is_fully_defined():
        return labels, embeddings
    size = tf.shape(embeddings)[:1]  # (1,)
    check = tf.debugging.assert_equal(tf.shape(labels), size, message="Expected a label for each embedding.")
    with tf.control_dependencies([check]):
        return tf.reshape(labels, size), embeddings  # XLA drops the check; there the reshape fails instead


def _matrix(embeddings: tf.Tensor) -> tf.Tensor:
    embeddings = _full_precision(embeddings)
    if embeddings.shape.rank not in (2, None):
        raise ValueError(f"Expected embeddings of shape (B, D). Received: shape {embeddings.shape}")
    return embeddings


def _vector(labels: tf.Tensor) -> tf.Tensor:
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank not in (1, None):
        raise ValueError(
            "Expected labels of shape (B,), the class of each image: squeeze a column, take the argmax of one-hot "
            f"rows. Received: shape {labels.shape}"
        )
    return tf.cast(labels, tf.int32) if labels.dtype == tf.bool else labels


def _euclidean(squared: bool) -> str:
    return "squared_euclidean" if squared else "euclidean"
