"""Which images make up batch number `step`: a pure function of (seed, step, labels).

There is no iterator and so nothing to save: a run that starts again at a step sees the batches that it would have
seen, and every worker can tell what every other one sees.
"""

import functools
from collections.abc import Callable

import numpy as np

from model.common.draws import Stream, draw, permutation

# step (0, 1, 2, ... without end) -> int32 indices of shape (batch_size,)
BatchPolicy = Callable[[int], np.ndarray]


def uniform_batches(labels: np.ndarray, seed: int, batch_size: int) -> BatchPolicy:
    """Returns batches that go through all images in a new random order each epoch.

    The epochs follow each other without a gap: a batch may hold the end of one and the start of the next, so that
    every batch is full and every image comes exactly once an epoch.

    Args:
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1.
        batch_size: Images in a batch, from 1 to N.

    Returns:
        A function from the step to int32 indices of shape (batch_size,).

    Example:
        >>> batch = uniform_batches(np.array([4, 4, 7, 7]), seed=230, batch_size=2)
        >>> np.sort([batch(0), batch(1)], axis=None).tolist()  # an epoch
        [0, 1, 2, 3]
    """
    num_images = len(labels)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return permutation(seed, Stream.TRAINING_ORDER, epoch, size=num_images)

    def batch(step: int) -> np.ndarray:
        epoch, start = divmod(step * batch_size, num_images)
        indices = order(epoch)[start : start + batch_size]
        missing = batch_size - len(indices)
        return np.concatenate([indices, order(epoch + 1)[:missing]]) if missing else indices

    return batch


def class_balanced_batches(
    labels: np.ndarray, seed: int, num_classes_per_batch: int, num_images_per_class: int
) -> BatchPolicy:
    """Returns P x K batches: P different classes, K different images of each.

    The classes are dealt in rounds: each round shuffles them and cuts the order into batches of P, so that no class
    comes twice before every other one had its turn (the C mod P left over sit out one round, other ones each time).
    Within a class its images are dealt in the same way, K at a time.

    Args:
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1.
        num_classes_per_batch: P, from 1 to the number of classes.
        num_images_per_class: K, at least 1. A class with fewer images repeats them within the batch.

    Returns:
        A function from the step to int32 indices of shape (P * K,), class by class.

    References:
        Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017, section 2.

    Example:
        >>> labels = np.array([4, 4, 4, 7, 7, 9, 9])
        >>> batch = class_balanced_batches(labels, seed=230, num_classes_per_batch=3, num_images_per_class=2)
        >>> sorted(labels[batch(0)].tolist())
        [4, 4, 7, 7, 9, 9]
    """
    num_classes = len(np.unique(labels))
    batches_per_round = num_classes // num_classes_per_batch
    images = images_of_classes(labels, seed, num_images_per_class)

    @functools.lru_cache(maxsize=2)
    def order_of_classes(round_: int) -> np.ndarray:
        return permutation(seed, Stream.TRAINING_ORDER, round_, size=num_classes)

    def batch(step: int) -> np.ndarray:
        round_, position = divmod(step, batches_per_round)
        start = position * num_classes_per_batch
        classes = order_of_classes(round_)[start : start + num_classes_per_batch]
        return np.concatenate([images(class_, round_) for class_ in classes.tolist()])

    return batch


def images_of_classes(labels: np.ndarray, seed: int, num_images_per_class: int) -> Callable[[int, int], np.ndarray]:
    """Returns what deals the images of each class, K at a time, in a new random order each time all were dealt.

    Args:
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1.
        num_images_per_class: K, at least 1. A class with fewer images repeats them.

    Returns:
        A function from a class, the number of its label among those that occur, and from its turn, 0, 1, 2, ..., to
        int32 indices of shape (K,).

    Example:
        >>> images = images_of_classes(np.array([4, 7, 4, 7]), seed=230, num_images_per_class=1)
        >>> np.sort([images(0, 0), images(0, 1)], axis=None).tolist()  # the first class, 4, in its first two turns
        [0, 2]
    """
    _, counts = np.unique(labels, return_counts=True)
    by_class = np.argsort(labels, kind="stable").astype(np.int32)
    images_of = np.split(by_class, np.cumsum(counts)[:-1])

    @functools.lru_cache(maxsize=len(images_of))
    def order_of_images(class_: int, deal: int) -> np.ndarray:
        images = images_of[class_]
        images = images[permutation(seed, Stream.IMAGES_OF_A_CLASS, deal, class_, size=len(images))]
        return np.resize(images, max(len(images), num_images_per_class))  # repeats a class that is too small

    def images(class_: int, turn: int) -> np.ndarray:
        hands_per_deal = max(len(images_of[class_]) // num_images_per_class, 1)
        deal, hand = divmod(turn, hands_per_deal)
        first = hand * num_images_per_class
        return order_of_images(class_, deal)[first : first + num_images_per_class]

    return images


def anchor_positive_batches(labels: np.ndarray, seed: int, batch_size: int) -> BatchPolicy:
    """Returns batches of pairs: the anchors go through all images as in `uniform_batches`, each with a random positive.

    Args:
        labels: Integer array of shape (N,). An image that is the only one of its class is in no pair.
        seed: From 0 to 2^64 - 1.
        batch_size: Pairs in a batch, from 1 to the number of images that have a positive.

    Returns:
        A function from the step to int32 indices of shape (batch_size, 2): anchor, positive.

    Example:
        >>> batch = anchor_positive_batches(np.array([4, 4, 7, 7, 9]), seed=230, batch_size=4)
        >>> sorted(batch(0).tolist())  # with two images of a class, the positive is the other one; 9 has none
        [[0, 1], [1, 0], [2, 3], [3, 2]]
    """
    _, class_of, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(class_of, kind="stable").astype(np.int32)
    first = np.cumsum(class_sizes) - class_sizes  # of each class, in by_class
    place = np.empty(len(labels), np.int64)  # of each image, in by_class
    place[by_class] = np.arange(len(labels))
    images = np.flatnonzero(class_sizes[class_of] > 1).astype(np.int32)
    anchors_of = uniform_batches(labels[images], seed, batch_size)

    def batch(step: int) -> np.ndarray:
        anchors = images[anchors_of(step)]
        start, size = first[class_of[anchors]], class_sizes[class_of[anchors]]
        # One of the other images of the class: 1 to size - 1 places on, in a circle.
        steps_on = 1 + draw(seed, Stream.POSITIVES, step, size=batch_size) % (size - 1).astype(np.uint64)
        positives = by_class[start + (place[anchors] - start + steps_on.astype(np.int64)) % size]
        return np.column_stack([anchors, positives])

    return batch
