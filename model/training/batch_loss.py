"""The loss of a whole batch, wherever its images lie: on one device or on several, with batches gone by beside it.

Each device has its own anchors, which look for positives and negatives among the images of all. So the loss and its
gradient are those of one device that has the whole batch, but for rounding: an image is pulled by the anchors of every
device, and counts of triplets are of all of them. A device computes (B / R) x B pairs, not B x B.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import tensorflow as tf

from model.strategies import STRATEGIES, Strategy
from model.training import replicas
from model.training.class_vectors import ClassVectors
from model.triplet_loss import Candidates, Sums, mean, with_gradient


class Memory(NamedTuple):
    """Embeddings of the last batches, the oldest first, as candidates beside the batch; the last `filled` are there.

    References:
        Wang, Zhang, Huang, Scott: Cross-Batch Memory for Embedding Learning, 2020.
    """

    labels: tf.Tensor  # (M,) int32
    embeddings: tf.Tensor  # (M, D) float32
    filled: tf.Tensor  # () int32

    def from_step(self, start: int, step: tf.Tensor) -> "Memory":
        """Returns the memory, empty before this many steps were made."""
        return self._replace(filled=tf.where(step >= start, self.filled, 0))

    def after(self, labels: tf.Tensor, embeddings: tf.Tensor) -> "Memory":
        """Returns the memory after a batch, (B,) and (B, D), which takes the place of the oldest if it is finite."""
        size = self.labels.shape[0]
        after = Memory(
            tf.concat([self.labels, labels], axis=0)[-size:],
            tf.concat([self.embeddings, embeddings], axis=0)[-size:],
            tf.minimum(self.filled + tf.shape(labels)[0], size),
        )
        is_finite = tf.reduce_all(tf.math.is_finite(embeddings))
        return Memory(*(tf.where(is_finite, new, old) for new, old in zip(after, self, strict=True)))


def loss_of_batch(
    strategy: Strategy,
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    margin: float | str | None,
    distance: str,
    seed: tf.Tensor,
    memory: Memory | None = None,
    loss_parameters: Mapping[str, float] = MappingProxyType({}),
) -> tuple[tf.Tensor, Sums]:
    """Computes the mean loss of the whole batch from the part of it that is here.

    Args:
        strategy: Which loss.
        labels: (B / R,), R the number of devices.
        embeddings: (B / R, D).
        margin: As for the loss.
        distance: As for the loss.
        seed: (2,), the same on all devices.
        memory: More candidates.
        loss_parameters: What the loss has of its own, all that the strategy names.

    Returns:
        The loss of the whole batch, the same on all devices. The mean of their gradients with respect to the weights is
        the gradient of the loss. And the sums over the anchors that are here.
    """
    devices, loss_of = replicas.count(), functools.partial(strategy.load(), **loss_parameters)
    if devices == 1 and memory is None:
        sums = loss_of(labels, embeddings, margin, distance, seed)
        return mean(*sums["loss"]), sums
    size = embeddings.shape[0]
    # Triplets that were mined before lie on one device each; online, partners are looked for on all of them.
    everyone = tf.stop_gradient(embeddings)
    with tf.GradientTape() as tape:
        if strategy.mines:
            tape.watch(everyone)
            sums = loss_of(labels, everyone, margin, distance, seed)
        else:
            everyone, classes = replicas.gather(everyone), replicas.gather(labels)  # (B, D), (B,)
            tape.watch(everyone)
            places = replicas.index() * size + tf.range(size)  # (B / R,)
            candidates = Candidates(classes, everyone, places, 1.0 / devices)
            if memory is not None:
                candidates = _with_memory(candidates, memory)
            sums = loss_of(labels, replicas.slice_of(everyone, size), margin, distance, seed, candidates)
        total, count = sums["loss"]
    gradient = tf.convert_to_tensor(tape.gradient(total, everyone))
    total, count = replicas.total([total, count])
    if not strategy.mines:
        gradient = replicas.slice_of(replicas.total(gradient), size)  # what the anchors of all do to the images here
    loss = with_gradient(mean(total, count), [embeddings], [devices * mean(gradient, count)])
    return loss, sums


def loss_with_class_vectors(
    strategy: Strategy,
    labels: tf.Tensor,
    embeddings: tf.Tensor,
    class_vectors: ClassVectors | None,
    margin: float | str | None,
    seed: tf.Tensor,
    loss_parameters: Mapping[str, float],
) -> tuple[tf.Tensor, Sums]:
    """Computes the loss of the whole batch, which compares images with class vectors, from the part that is here.

    Such a loss need not be a sum over images. So each device computes that of all images, which is little: B x C
    similarities.

    Args:
        strategy: Which loss; it learns class vectors.
        labels: (B / R,), R the number of devices.
        embeddings: (B / R, D).
        class_vectors: Those of all labels.
        margin: As for the loss.
        seed: As for `loss_of_batch`.
        loss_parameters: What the loss has of its own.

    Returns:
        As from `loss_of_batch`, the gradient with respect to the class vectors included. Beside the loss there are the
        sums of the strategy that it is scored as, of the images among each other.

    Raises:
        ValueError: There are no class vectors, or the strategy learns none.
    """
    if class_vectors is None or strategy.scored_as is None:
        raise ValueError(f"Expected a loss that learns class vectors, and these. Received: {strategy}, {class_vectors}")
    devices, size = replicas.count(), embeddings.shape[0]
    fixed = tf.stop_gradient(embeddings)
    rows, everyone = class_vectors.rows_of(replicas.gather(labels)), replicas.gather(fixed)  # (B,), (B, D)
    vectors = tf.cast(tf.convert_to_tensor(class_vectors.variable), embeddings.dtype)  # (C, D)
    inputs = [everyone, tf.stop_gradient(vectors)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value: Any = strategy.load()(rows, *inputs, margin, **loss_parameters)
    of_images, of_vectors = tape.gradient(value, inputs)  # (B, D), (C, D)
    pulls = [devices * replicas.slice_of(of_images, size), of_vectors]
    loss = with_gradient(tf.stop_gradient(value), [embeddings, vectors], pulls)
    scored = STRATEGIES[strategy.scored_as]
    _, sums = loss_of_batch(
        scored, labels, fixed, scored.margin, scored.distance, seed, loss_parameters=scored.loss_parameters
    )
    return loss, {**sums, "loss": (value / devices, tf.constant(1.0 / devices, value.dtype))}


def _with_memory(batch: Candidates, memory: Memory) -> Candidates:
    size = memory.labels.shape[0]
    first = size - memory.filled
    return batch._replace(
        labels=tf.concat([batch.labels, memory.labels[first:]], axis=0),
        embeddings=tf.concat([batch.embeddings, memory.embeddings[first:]], axis=0),
        most=batch.labels.shape[0] + size,
    )
