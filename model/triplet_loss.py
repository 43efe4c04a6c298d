"""Triplet losses with online mining: the triplets are chosen inside each batch, from its own embeddings.

With an anchor a, a positive p of the same class and a negative n of another class, the loss of one triplet is

    L(a, p, n) = max(d(a, p) - d(a, n) + margin, 0)

which pulls p towards a and pushes n away until it is farther than p by the margin. A batch of B images holds up to
B^3 triplets; a strategy says which of them count. Everything here is pure TensorFlow: a function of labels and
embeddings, without state and without logging.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

# What a strategy says of a batch: for each quantity, the sum of its terms and how many terms there are, so that
# a mean over many batches is a mean over terms and not a mean of means.
Sums = dict[str, tuple[tf.Tensor, tf.Tensor]]


def _pairwise_distances(embeddings: tf.Tensor, squared: bool = False) -> tf.Tensor:
    """Computes the euclidean distance between every two embeddings.

    ||a - b||^2 = ||a||^2 - 2 <a, b> + ||b||^2

    Args:
        embeddings: Floating-point tensor of shape (B, D).
        squared: Whether to return squared distances.

    Returns:
        Tensor of shape (B, B), of the dtype of the embeddings (float16 and bfloat16 are computed in float32).
        Never negative, exactly 0 on the diagonal. Where a distance is 0 its gradient is 0, although that of the
        square root is infinite.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    if embeddings.dtype in (tf.float16, tf.bfloat16):
        embeddings = tf.cast(embeddings, tf.float32)
    dot_product = tf.matmul(embeddings, embeddings, transpose_b=True)  # (B, B)
    # The norms are the diagonal of the same product, so that d(a, a) is exactly 0.
    square_norm = tf.linalg.diag_part(dot_product)  # (B,)
    distances = square_norm[:, tf.newaxis] - 2.0 * dot_product + square_norm[tf.newaxis, :]  # (B, B)
    # Rounding can leave a small negative number where the distance is 0.
    distances = tf.maximum(distances, 0.0)
    if squared:
        return distances
    # A gradient passes both branches of `where`: the inner one keeps sqrt away from 0, the outer one puts 0 back.
    nonzero = distances != 0.0  # (B, B); not `> 0`, which would turn NaN into 0
    return tf.where(nonzero, tf.sqrt(tf.where(nonzero, distances, 1.0)), 0.0)


def _get_anchor_positive_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Returns the mask of the (anchor, positive) pairs.

    Args:
        labels: Tensor of shape (B,).

    Returns:
        Boolean tensor of shape (B, B), true at (a, p) exactly if a and p are different images of the same class.
    """
    same_class = labels[:, tf.newaxis] == labels[tf.newaxis, :]  # (B, B)
    return tf.linalg.set_diag(same_class, tf.zeros_like(labels, tf.bool))


def _get_anchor_negative_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Returns the mask of the (anchor, negative) pairs.

    Args:
        labels: Tensor of shape (B,).

    Returns:
        Boolean tensor of shape (B, B), true at (a, n) exactly if a and n are of different classes.
    """
    return labels[:, tf.newaxis] != labels[tf.newaxis, :]


def _get_triplet_mask(labels: tf.Tensor) -> tf.Tensor:
    """Returns the mask of the valid triplets.

    Args:
        labels: Tensor of shape (B,).

    Returns:
        Boolean tensor of shape (B, B, B), true at (a, p, n) exactly if a and p are different images of the same
        class and n is an image of another class.
    """
    positives = _get_anchor_positive_triplet_mask(labels)[:, :, tf.newaxis]  # (B, B, 1)
    negatives = _get_anchor_negative_triplet_mask(labels)[:, tf.newaxis, :]  # (B, 1, B)
    return tf.logical_and(positives, negatives)


def batch_all_triplet_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the mean loss over all triplets of the batch whose loss is positive.

    Triplets that already keep the margin ("easy" ones) are left out of the mean, which they would only dilute.

    Args:
        labels: Tensor of shape (B,), the class of each image.
        embeddings: Tensor of shape (B, D).
        margin: How much farther than the positive the negative has to be, in units of the distance.
        squared: Whether distances are squared.

    Returns:
        The loss and the fraction of the valid triplets whose loss is positive, in [0, 1]; scalars. Both are 0
        when the batch holds no valid triplet.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 6.
    """
    sums = _batch_all(labels, embeddings, margin, squared)
    return mean(*sums["loss"]), mean(*sums["fraction_positive_triplets"])


def batch_hard_triplet_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool = False
) -> tf.Tensor:
    """Computes the mean loss of each anchor's hardest triplet: its farthest positive and its nearest negative.

    Args:
        labels: Tensor of shape (B,), the class of each image.
        embeddings: Tensor of shape (B, D).
        margin: How much farther than the positive the negative has to be, in units of the distance.
        squared: Whether distances are squared.

    Returns:
        The loss, a scalar. An anchor without a positive or without a negative has no triplet and does not count;
        0 when no anchor has one.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 5.
    """
    return mean(*_batch_hard(labels, embeddings, margin, squared)["loss"])


def mean(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns total / count, and 0 for an empty sum; a total that is NaN stays NaN."""
    return total / tf.maximum(count, 1.0)


def _batch_all(labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool) -> Sums:
    distances = _pairwise_distances(embeddings, squared)  # (B, B)
    # L(a, p, n) = max(d(a, p) - d(a, n) + margin, 0) for all of them at once
    losses = distances[:, :, tf.newaxis] - distances[:, tf.newaxis, :] + margin  # (B, B, B)
    valid = _get_triplet_mask(labels)  # (B, B, B)
    losses = tf.maximum(tf.where(valid, losses, 0.0), 0.0)  # (B, B, B)
    num_positive = _count(losses > 0.0, distances)
    return {
        "loss": (tf.reduce_sum(losses), num_positive),
        "fraction_positive_triplets": (num_positive, _count(valid, distances)),
        **_hardest_sums(labels, distances),
    }


def _batch_hard(labels: tf.Tensor, embeddings: tf.Tensor, margin: float, squared: bool) -> Sums:
    distances = _pairwise_distances(embeddings, squared)  # (B, B)
    hardest_positive, has_positive, hardest_negative, has_negative = _hardest(labels, distances)
    has_triplet = tf.logical_and(has_positive, has_negative)  # (B,)
    losses = tf.maximum(hardest_positive - hardest_negative + margin, 0.0)  # (B,)
    losses = tf.where(has_triplet, losses, 0.0)  # (B,)
    num_triplets = _count(has_triplet, distances)
    return {
        "loss": (tf.reduce_sum(losses), num_triplets),
        "fraction_positive_triplets": (_count(losses > 0.0, distances), num_triplets),
        **_hardest_sums(labels, distances),
    }


def _hardest(labels: tf.Tensor, distances: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each anchor's largest positive distance, whether it has one, its smallest negative one, and whether.

    All of shape (B,); a distance that there is not is 0.
    """
    positives = _get_anchor_positive_triplet_mask(labels)  # (B, B)
    negatives = _get_anchor_negative_triplet_mask(labels)  # (B, B)
    has_positive = tf.reduce_any(positives, axis=1)  # (B,)
    has_negative = tf.reduce_any(negatives, axis=1)  # (B,)
    hardest_positive = tf.reduce_max(tf.where(positives, distances, 0.0), axis=1)  # (B,)
    hardest_negative = tf.reduce_min(tf.where(negatives, distances, distances.dtype.max), axis=1)  # (B,)
    return hardest_positive, has_positive, tf.where(has_negative, hardest_negative, 0.0), has_negative


def _hardest_sums(labels: tf.Tensor, distances: tf.Tensor) -> Sums:
    hardest_positive, has_positive, hardest_negative, has_negative = _hardest(labels, distances)
    return {
        "hardest_positive_dist": (tf.reduce_sum(hardest_positive), _count(has_positive, distances)),
        "hardest_negative_dist": (tf.reduce_sum(hardest_negative), _count(has_negative, distances)),
    }


def _count(mask: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    # Counted as integers: float32 cannot add 1 to 2^24, and a batch of 512 holds more triplets than that.
    return tf.cast(tf.math.count_nonzero(mask), like.dtype)


# The strategies that `triplet_strategy` can name. Each takes labels (B,), embeddings (B, D), margin and squared,
# and returns the sums of "loss", "fraction_positive_triplets", "hardest_positive_dist" and "hardest_negative_dist".
STRATEGIES: Mapping[str, Callable[[tf.Tensor, tf.Tensor, float, bool], Sums]] = {
    "batch_all": _batch_all,
    "batch_hard": _batch_hard,
}
