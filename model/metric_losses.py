"""What came after the triplet loss: losses of all pairs of a batch, in which hard pairs weigh more than easy ones.

A triplet loss looks at one positive and one negative at a time. These look at all positives and all negatives of an
anchor at once, and the sum of their exponentials, of which the logarithm is taken, makes the hardest of them count
most: log(e^x + e^y + ...) is a smooth maximum. Three of them are made of cosine similarities,

    s(a, b) = <a, b> / (||a|| ||b||) = 1 - d(a, b)

so their distance d is "cosine". P(a) are an anchor's positives, the other images of its class, N(a) its negatives, the
images of other classes. All take O(B^2) memory, and their exponentials cannot overflow.

Each loss comes as a number, `circle_loss`, with the parameters of its paper for defaults, and as the sums that it is
made of, `circle_sums`, which take what all of `triplet_loss.py` take: anchors may look among other `Candidates` than
each other, and sums over anchors add up.

Two more compare images with a vector of each class instead of each other, which is learned with the network: by
`train.py`, by the layer `losses.ClassSimilarities` in a Keras model, or by whoever calls them.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from . import triplet_loss
from .triplet_loss import Candidates, Sums, SumsOf

# ------------------------------------------------------------------------------ 1. pairs


class _Pairs(NamedTuple):
    """What the A anchors of a batch see of their C candidates."""

    distances: tf.Tensor  # (A, C)
    is_positive: tf.Tensor  # (A, C)
    is_negative: tf.Tensor  # (A, C)
    has_positive: tf.Tensor  # (A,)
    has_negative: tf.Tensor  # (A,)
    is_finite: tf.Tensor  # () false with NaN among the labels, or NaN or infinity elsewhere

    @property
    def similarities(self) -> tf.Tensor:
        """The cosine similarities, where the distance is the cosine distance: (A, C)."""
        return 1.0 - self.distances

    @property
    def has_both(self) -> tf.Tensor:
        """Which anchors have a positive and a negative: (A,)."""
        return tf.logical_and(self.has_positive, self.has_negative)


def _look(labels: tf.Tensor, embeddings: tf.Tensor, distance: str, candidates: Candidates | None) -> _Pairs:
    """Computes the distances of labels (A,) and embeddings (A, D) to their candidates."""
    # Among themselves, the gradient takes one matrix product less.
    others = None if candidates is None else candidates.embeddings
    distances = triplet_loss.pairwise_distances(embeddings, distance, others)  # (A, C)
    size = tf.shape(distances)[1]
    among = candidates or Candidates(labels, embeddings, tf.range(size))
    is_self = tf.equal(among.places[:, tf.newaxis], tf.range(size))  # (A, C)
    same_class = tf.equal(labels[:, tf.newaxis], among.labels[tf.newaxis, :])  # (A, C)
    is_positive = tf.logical_and(same_class, tf.logical_not(is_self))  # (A, C)
    is_negative = tf.logical_not(same_class)  # (A, C)
    is_finite = tf.reduce_all(tf.math.is_finite(distances)) & tf.reduce_all(tf.math.is_finite(among.embeddings))
    if labels.dtype.is_floating:
        is_finite &= tf.reduce_all(tf.equal(among.labels, among.labels))  # NaN is not equal to itself
    return _Pairs(
        distances,
        is_positive,
        is_negative,
        has_positive=tf.reduce_any(is_positive, axis=1),
        has_negative=tf.reduce_any(is_negative, axis=1),
        is_finite=is_finite,
    )


def _log_sum_exp(exponents: tf.Tensor, mask: tf.Tensor, axis: int = 1) -> tf.Tensor:
    """Computes the logarithm of the sum of e^x over what the mask takes of each row: (A, C) -> (A,).

    Where it takes nothing, the smallest number there is, which has no gradient.
    """
    return tf.reduce_logsumexp(tf.where(mask, exponents, exponents.dtype.min), axis)


# (pairs, margin, parameters of its own) -> the loss of each anchor, (A,), and whether it counts, (A,)
_Losses = Callable[..., tuple[tf.Tensor, tf.Tensor]]


def _sums_of(losses_of: _Losses, *, of_similarities: bool = True) -> SumsOf:
    """Returns the losses of anchors as a function of labels and embeddings, with what is to be seen beside them."""

    @tf.autograph.experimental.do_not_convert  # in whose functions it may be called: rewriting this takes seconds
    def sums(
        labels: tf.Tensor,
        embeddings: tf.Tensor,
        margin: float | None,
        distance: str,
        seed: tf.Tensor | None = None,
        candidates: Candidates | None = None,
        **parameters: float,
    ) -> Sums:
        if of_similarities and distance != "cosine":
            raise ValueError(f'Expected distance "cosine", as the loss is one of similarities. Received: {distance!r}')

        def at_once(labels: tf.Tensor, embeddings: tf.Tensor, candidates: Candidates | None) -> Sums:
            pairs = _look(labels, embeddings, distance, candidates)
            share = 1.0 if candidates is None else candidates.share
            return _with_statistics(pairs, share, *losses_of(pairs, margin, **parameters))

        return triplet_loss.in_blocks(at_once, labels, embeddings, candidates)

    sums.__name__, sums.__doc__ = losses_of.__name__, losses_of.__doc__
    return sums


def _with_statistics(pairs: _Pairs, share: float, losses: tf.Tensor, counts: tf.Tensor) -> Sums:
    """Returns the loss of the anchors that count, and how far apart pairs are, under the names of the triplet losses.

    Which of their triplets are hard is left out: these losses have none.
    """
    positives = tf.where(pairs.is_positive, pairs.distances, 0.0)  # (A, C)
    negatives = tf.where(pairs.is_negative, pairs.distances, 0.0)  # (A, C)
    nearest = tf.reduce_min(tf.where(pairs.is_negative, pairs.distances, float("inf")), axis=1)  # (A,)
    hardest_positive = tf.reduce_max(positives, axis=1)  # (A,)
    hardest_negative = tf.where(pairs.has_negative, nearest, 0.0)  # (A,)
    total = tf.cast(tf.reduce_sum(tf.where(counts, losses, 0.0)), tf.float64)
    num_anchors, share = tf.cast(tf.size(losses), tf.float64), tf.constant(share, tf.float64)
    sums = {
        "loss": (tf.where(pairs.is_finite, total, float("nan")), _count(counts)),
        "mean_positive_dist": (tf.reduce_sum(positives), _count(pairs.is_positive)),
        "mean_negative_dist": (tf.reduce_sum(negatives), _count(pairs.is_negative)),
        "hardest_positive_dist": (tf.reduce_sum(hardest_positive), _count(pairs.has_positive)),
        "hardest_negative_dist": (tf.reduce_sum(hardest_negative), _count(pairs.has_negative)),
        "anchors_without_positive": (num_anchors - _count(pairs.has_positive), share),
        "anchors_without_negative": (num_anchors - _count(pairs.has_negative), share),
    }
    dtype = pairs.distances.dtype
    return {name: (tf.cast(total, dtype), tf.cast(count, dtype)) for name, (total, count) in sums.items()}


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.math.count_nonzero(mask), tf.float64)


# ------------------------------------------------------------------------------ 2. the losses


def multi_similarity_loss(
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    margin: float = 0.1,
    scale_positive: float = 2.0,
    scale_negative: float = 50.0,
    similarity_threshold: float = 1.0,
) -> tf.Tensor:
    """Computes the multi-similarity loss, of pairs that are hard beside the other pairs of their anchor.

    L(a) = 1/alpha log(1 + sum over p of e^(-alpha (s(a, p) - lambda)))
         + 1/beta log(1 + sum over n of e^(beta (s(a, n) - lambda)))

    over the negatives that are more similar than the least similar positive less the margin, s(a, n) > min s(a, P) -
    epsilon, and the positives that are less similar than the most similar negative and the margin, s(a, p) < max s(a,
    N) + epsilon. Which these are has no gradient.

    Args:
        labels: Tensor of shape (B,), the class of each image.
        embeddings: Tensor of shape (B, D), of any length: they are compared by their directions.
        margin: epsilon, as a cosine similarity; at least 0.
        scale_positive: alpha, above 0: the higher, the more the hardest positive counts.
        scale_negative: beta, above 0: the same for negatives.
        similarity_threshold: lambda, in [-1, 1]: the similarity at which both kinds of pairs begin to cost.

    Returns:
        The loss, a scalar: the mean over the anchors that have a positive and a negative, also those whose pairs are
        all easy, which cost 0. 0 when no anchor has both. NaN or infinite embeddings and NaN labels give a NaN loss.

    Raises:
        ValueError: Labels are not of shape (B,), or embeddings not of shape (B, D).
        tf.errors.InvalidArgumentError: The same, where a shape is known only when the function runs.

    References:
        Wang, Han, Huang, Dong, Scott: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, 2019,
        eq. 11, 12 and 15, where the mean is over all images. The defaults are those of its experiments; its code has
        lambda 0.5 and beta 40.

    Example:
        >>> right, up = [1.0, 0.0], [0.0, 1.0]  # at a right angle: similarity 0
        >>> round(float(multi_similarity_loss([0, 0, 1, 1], [right, right, up, up])), 3)
        0.0
        >>> mixed = multi_similarity_loss([0, 0, 1, 1], [right, up, right, up])
        >>> round(float(mixed), 3)  # ln(1 + e^2) / 2 + ln(1 + 1) / 50
        1.077
    """
    sums = multi_similarity_sums(
        labels,
        embeddings,
        margin,
        "cosine",
        scale_positive=scale_positive,
        scale_negative=scale_negative,
        similarity_threshold=similarity_threshold,
    )
    return triplet_loss.mean(*sums["loss"])


def supervised_contrastive_loss(labels: tf.Tensor, embeddings: tf.Tensor, temperature: float = 0.1) -> tf.Tensor:
    """Computes the supervised contrastive loss: which of all others is of the anchor's class?

    L(a) = -1/|P(a)| sum over p of log(e^(s(a, p) / temperature) / sum over all others o of e^(s(a, o) / temperature))

    With two images of each class, it is NT-Xent, the loss of SimCLR. All else is as for `multi_similarity_loss`.

    Args:
        labels: As there.
        embeddings: As there.
        temperature: Above 0: the lower, the more the hardest pairs count.

    Returns:
        The loss, a scalar: the mean over the anchors that have a positive. 0 when none has.

    References:
        Khosla, Teterwak, Wang et al.: Supervised Contrastive Learning, 2020, eq. 2 (L_out), where it is a sum;
        Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations, 2020,
        eq. 1.

    Example:
        >>> right, up = [1.0, 0.0], [0.0, 1.0]
        >>> round(float(supervised_contrastive_loss([0, 0, 1, 1], [right, right, up, up])), 3)
        0.0
        >>> round(float(supervised_contrastive_loss([0, 0, 1, 1], [right] * 4)), 3)  # one of three that are equal: ln 3
        1.099
    """
    sums = supervised_contrastive_sums(labels, embeddings, None, "cosine", temperature=temperature)
    return triplet_loss.mean(*sums["loss"])


def lifted_structured_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, margin: float = 1.0, distance: str = "euclidean"
) -> tf.Tensor:
    """Computes the lifted structured loss as generalized to any number of positives.

    L(a) = max(log(sum over p of e^d(a, p)) + log(sum over n of e^(margin - d(a, n))), 0)

    a smooth version of batch hard. All else is as for `multi_similarity_loss`.

    Args:
        labels: As there.
        embeddings: As there; their length counts where the distance is not "cosine".
        margin: How much farther than the positives the negatives have to be, in units of the distance; at least 0.
        distance: "euclidean", "squared_euclidean" or "cosine".

    Returns:
        The loss, a scalar: the mean over the anchors that have a positive and a negative. 0 when none has.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 8, where it is a
        sum; Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, 2016, eq. 4,
        whose margin of 1 is the default.

    Example:
        >>> loss = lifted_structured_loss([0, 0, 1], [[0.0], [1.0], [3.0]], margin=1.5)
        >>> round(float(loss), 3)  # with one of each kind, triplets: (max(1 - 3 + 1.5, 0) + (1 - 2 + 1.5)) / 2
        0.25
    """
    return triplet_loss.mean(*lifted_structured_sums(labels, embeddings, margin, distance)["loss"])


def circle_loss(labels: tf.Tensor, embeddings: tf.Tensor, margin: float = 0.4, scale: float = 80.0) -> tf.Tensor:
    """Computes the circle loss, in which a pair weighs the more, the farther it is from where it should be.

    L(a) = log(1 + sum over n of e^(scale w(n) (s(a, n) - m)) sum over p of e^(-scale w(p) (s(a, p) - (1 - m))))

    with the margin m and the weights w(n) = max(s(a, n) + m, 0) and w(p) = max(1 + m - s(a, p), 0), which have no
    gradient. All else is as for `multi_similarity_loss`.

    Args:
        labels: As there.
        embeddings: As there.
        margin: m: the similarity of positives should be above 1 - m, that of negatives below m; in [0, 1).
        scale: gamma, above 0: the higher, the more the hardest pairs count.

    Returns:
        The loss, a scalar: the mean over the anchors that have a positive and a negative. 0 when none has.

    References:
        Sun, Cheng, Zhang et al.: Circle Loss: A Unified Perspective of Pair Similarity Optimization, 2020, eq. 5 and 6
        with O_p = 1 + m, O_n = -m, Delta_p = 1 - m and Delta_n = m. The defaults are those of its experiments on image
        retrieval; for faces it has m = 0.25 and gamma = 256.

    Example:
        >>> loss = circle_loss([0, 0, 1], [[1.0, 0.0]] * 3, margin=0.4, scale=80.0)
        >>> round(float(loss), 3)  # all similarities are 1: nearly x = 80 (1.4 * 0.6 - 0.4 * 0.4)
        54.4
    """
    return triplet_loss.mean(*circle_sums(labels, embeddings, margin, "cosine", scale=scale)["loss"])


@_sums_of
def multi_similarity_sums(
    pairs: _Pairs, margin: float, scale_positive: float, scale_negative: float, similarity_threshold: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `multi_similarity_loss`.

    Example:
        >>> own = {"scale_positive": 2.0, "scale_negative": 50.0, "similarity_threshold": 1.0}
        >>> sums = multi_similarity_sums([0, 0, 1], [[1.0, 0.0]] * 3, 0.1, "cosine", **own)
        >>> [round(float(part), 3) for part in sums["loss"]]  # of two anchors, each log 2 / 2 + log 2 / 50
        [0.721, 2.0]
    """
    s = pairs.similarities  # (A, C)
    least_positive = tf.reduce_min(tf.where(pairs.is_positive, s, float("inf")), axis=1, keepdims=True)  # (A, 1)
    most_negative = tf.reduce_max(tf.where(pairs.is_negative, s, -float("inf")), axis=1, keepdims=True)  # (A, 1)
    positives = tf.logical_and(pairs.is_positive, s < most_negative + margin)  # (A, C)
    negatives = tf.logical_and(pairs.is_negative, s > least_positive - margin)  # (A, C)
    above = s - similarity_threshold  # (A, C)
    # log(1 + e^x) is the softplus of x.
    attraction = tf.nn.softplus(_log_sum_exp(-scale_positive * above, positives)) / scale_positive  # (A,)
    repulsion = tf.nn.softplus(_log_sum_exp(scale_negative * above, negatives)) / scale_negative  # (A,)
    return attraction + repulsion, pairs.has_both


@_sums_of
def supervised_contrastive_sums(pairs: _Pairs, margin: None, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `supervised_contrastive_loss`.

    Example:
        >>> sums = supervised_contrastive_sums([0, 0, 1], [[1.0, 0.0]] * 3, None, "cosine", temperature=0.1)
        >>> [round(float(part), 3) for part in sums["loss"]]  # of two anchors, log 2 each: one of two is the positive
        [1.386, 2.0]
    """
    logits = pairs.similarities / temperature  # (A, C)
    of_others = _log_sum_exp(logits, tf.logical_or(pairs.is_positive, pairs.is_negative))  # (A,)
    num_positives = tf.math.count_nonzero(pairs.is_positive, axis=1, dtype=logits.dtype)  # (A,)
    of_positives = tf.reduce_sum(tf.where(pairs.is_positive, logits, 0.0), axis=1)  # (A,)
    return of_others - of_positives / tf.maximum(num_positives, 1.0), pairs.has_positive


@functools.partial(_sums_of, of_similarities=False)
def lifted_structured_sums(pairs: _Pairs, margin: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `lifted_structured_loss`.

    Example:
        >>> sums = lifted_structured_sums([0, 0, 1], [[1.0, 0.0]] * 3, 1.0, "euclidean")
        >>> [round(float(part), 3) for part in sums["loss"]]  # of two anchors, the margin each
        [2.0, 2.0]
    """
    farthest_positive = _log_sum_exp(pairs.distances, pairs.is_positive)  # (A,)
    nearest_negative = -_log_sum_exp(-pairs.distances, pairs.is_negative)  # (A,)
    return tf.maximum(farthest_positive - nearest_negative + margin, 0.0), pairs.has_both


@_sums_of
def circle_sums(pairs: _Pairs, margin: float, scale: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sums of `circle_loss`.

    Example:
        >>> sums = circle_sums([0, 0, 1], [[1.0, 0.0]] * 3, 0.4, "cosine", scale=80.0)
        >>> [round(float(part), 3) for part in sums["loss"]]  # two anchors have a positive and a negative
        [108.8, 2.0]
    """
    s = pairs.similarities  # (A, C)
    fixed = tf.stop_gradient(s)  # (A, C)
    of_positives = -scale * tf.maximum(1.0 + margin - fixed, 0.0) * (s - (1.0 - margin))  # (A, C)
    of_negatives = scale * tf.maximum(fixed + margin, 0.0) * (s - margin)  # (A, C)
    exponent = _log_sum_exp(of_positives, pairs.is_positive) + _log_sum_exp(of_negatives, pairs.is_negative)  # (A,)
    return tf.nn.softplus(exponent), pairs.has_both


# ------------------------------------------------------------------------------ 3. losses with class vectors


def proxy_anchor_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, class_vectors: tf.Tensor, margin: float = 0.1, scale: float = 32.0
) -> tf.Tensor:
    """Computes the proxy anchor loss: each class vector is an anchor, and the images are its positives and negatives.

    L = mean over c with images of log(1 + sum over its x of e^(-scale (s(x, c) - margin)))
      + mean over all c of log(1 + sum over other x of e^(scale (s(x, c) + margin)))

    Args:
        labels: Tensor of shape (B,), for each image the number of the row of its class.
        embeddings: Tensor of shape (B, D).
        class_vectors: Tensor of shape (C, D), C at least 1, of the same dtype, with a gradient like the embeddings.
        margin: delta, as a cosine similarity; at least 0.
        scale: alpha, above 0: the higher, the more the hardest images count.

    Returns:
        The loss, a scalar; 0 for an empty batch. NaN or infinity anywhere, and a label that is no row, give NaN.

    Raises:
        ValueError: Labels are not of shape (B,), or embeddings or class vectors are no matrix.

    References:
        Kim, Kim, Cho, Kwak: Proxy Anchor Loss for Deep Metric Learning, 2020, eq. 4, and section 4.1 for the defaults.

    Example:
        >>> right, left = [1.0, 0.0], [-1.0, 0.0]
        >>> round(float(proxy_anchor_loss([0, 1], [right, left], class_vectors=[right, left])), 3)
        0.0
        >>> round(float(proxy_anchor_loss([0, 1], [left, right], class_vectors=[right, left])), 3)  # 2 * 32 (1 + 0.1)
        70.4
    """
    return proxy_anchor_of_similarities(labels, class_similarities(embeddings, class_vectors), margin, scale)


def arcface_loss(
    labels: tf.Tensor, embeddings: tf.Tensor, class_vectors: tf.Tensor, margin: float = 0.5, scale: float = 64.0
) -> tf.Tensor:
    """Computes the ArcFace loss: a softmax over classes, in which the angle to the own class is the margin larger.

    L(x) = -log(e^(scale cos(t_y + margin)) / (e^(scale cos(t_y + margin)) + sum over other c of e^(scale cos t_c)))

    of the angles t_c between an image and the class vectors, y being its class. Beyond pi - margin, where the cosine of
    t_y + margin would rise again, it goes on as cos t_y - margin sin(margin). All else is as for `proxy_anchor_loss`.

    Args:
        labels: As there.
        embeddings: As there.
        class_vectors: As there.
        margin: m, an angle in radians, in [0, pi / 2].
        scale: s, above 0.

    Returns:
        The loss, a scalar: the mean over the images. 0 for an empty batch.

    References:
        Deng, Guo, Xue, Zafeiriou: ArcFace: Additive Angular Margin Loss for Deep Face Recognition, 2019, eq. 3; what
        comes beyond pi - margin is that of its code.

    Example:
        >>> up, right, left = [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]
        >>> loss = arcface_loss([0], [up], class_vectors=[right, left], margin=math.pi / 6)
        >>> round(float(loss), 3)  # 90 degrees to both classes, 120 with the margin: 64 (cos 90 - cos 120)
        32.0
    """
    return arcface_of_similarities(labels, class_similarities(embeddings, class_vectors), margin, scale)


def class_similarities(embeddings: tf.Tensor, class_vectors: tf.Tensor) -> tf.Tensor:
    """Computes the cosine similarities of images to class vectors: (B, D) and (C, D) -> (B, C).

    Example:
        >>> class_similarities([[3.0, 4.0]], class_vectors=[[1.0, 0.0], [0.0, 1.0]]).numpy().round(3)
        array([[0.6, 0.8]], dtype=float32)
    """
    return 1.0 - triplet_loss.pairwise_distances(embeddings, "cosine", class_vectors)


def proxy_anchor_of_similarities(labels: tf.Tensor, similarities: tf.Tensor, margin: float, scale: float) -> tf.Tensor:
    """Computes `proxy_anchor_loss` from labels (B,) and `class_similarities` (B, C).

    Example:
        >>> loss = proxy_anchor_of_similarities([0, 1], [[1.0, 0.0], [0.0, 1.0]], margin=0.0, scale=1.0)
        >>> round(float(loss), 3)  # log(1 + 1/e) to the own vectors, and log 2 from the others
        1.006
    """
    s, is_own, is_finite = _check_similarities(labels, similarities)  # (B, C), (B, C), ()
    attraction = tf.nn.softplus(_log_sum_exp(-scale * (s - margin), is_own, axis=0))  # (C,)
    repulsion = tf.nn.softplus(_log_sum_exp(scale * (s + margin), ~is_own, axis=0))  # (C,)
    num_with_images = tf.math.count_nonzero(tf.reduce_any(is_own, axis=0), dtype=s.dtype)
    loss = triplet_loss.mean(tf.reduce_sum(attraction), num_with_images) + tf.reduce_mean(repulsion)
    return tf.where(is_finite, loss, float("nan"))


def arcface_of_similarities(labels: tf.Tensor, similarities: tf.Tensor, margin: float, scale: float) -> tf.Tensor:
    """Computes `arcface_loss` from labels (B,) and `class_similarities` (B, C).

    Example:
        >>> loss = arcface_of_similarities([0, 1], [[1.0, 0.0], [0.0, 1.0]], margin=0.0, scale=1.0)
        >>> round(float(loss), 3)  # log(e + 1) - 1: without a margin, the cross entropy
        0.313
    """
    cosines, is_own, is_finite = _check_similarities(labels, similarities)  # (B, C), (B, C), ()
    own = tf.reduce_sum(tf.where(is_own, cosines, 0.0), axis=1)  # (B,)
    # Where the sine is 0 its root has no gradient; the cosine, which the similarity is there, has none either.
    square = 1.0 - tf.square(own)  # (B,)
    sine = tf.where(square > 0.0, tf.sqrt(tf.where(square > 0.0, square, 1.0)), 0.0)  # (B,)
    moved = own * math.cos(margin) - sine * math.sin(margin)  # (B,)
    moved = tf.where(own > -math.cos(margin), moved, own - margin * math.sin(margin))  # (B,)
    logits = scale * tf.where(is_own, moved[:, tf.newaxis], cosines)  # (B, C)
    losses = tf.reduce_logsumexp(logits, axis=1) - scale * moved  # (B,)
    loss = triplet_loss.mean(tf.reduce_sum(losses), tf.cast(tf.size(losses), losses.dtype))
    return tf.where(is_finite, loss, float("nan"))


def _check_similarities(labels: tf.Tensor, similarities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns similarities to classes (B, C), which are to the own class, (B, C), and whether all can be used."""
    labels, similarities = triplet_loss.checked(labels, similarities)
    # A type that holds every row: not 8 bits, and 16 of a floating number hold whole ones up to 256 or 2,048.
    labels = tf.cast(labels, tf.float64 if labels.dtype.is_floating else tf.int64)
    rows = tf.cast(tf.range(tf.shape(similarities)[1]), labels.dtype)  # (C,)
    is_own = tf.equal(labels[:, tf.newaxis], rows)  # (B, C)
    is_finite = tf.reduce_all(tf.math.is_finite(similarities)) & tf.reduce_all(tf.reduce_any(is_own, axis=1))
    return similarities, is_own, is_finite
