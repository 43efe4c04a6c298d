"""A vector for each class that is learned from, with which some losses compare embeddings instead of each other.

They belong to what learns: the optimizer changes them, and checkpoints keep them. What embeds images does without.
"""

import math

import keras
import numpy as np
import tensorflow as tf

# The name of the vectors, by which the optimizer knows them.
NAME_OF_VECTORS = "class_vectors"


class ClassVectors:
    """The vectors of the classes that are learned from, of no length in particular: losses scale them to 1.

    Args:
        labels: (N,) integers, of the images that are learned from.
        size: D, the dimension of the embeddings.
        seed: Decides the vectors to begin with, of about length 1 in random directions.

    Attributes:
        labels: (T,) int32, the label of each vector, ascending.
        variable: (T, D) float32.
    """

    def __init__(self, labels: np.ndarray, size: int, seed: int) -> None:
        self.labels = np.unique(labels).astype(np.int32)
        initializer = keras.initializers.RandomNormal(stddev=1 / math.sqrt(size), seed=seed)
        self.variable = keras.Variable(initializer, (len(self.labels), size), "float32", name=NAME_OF_VECTORS)

    def rows_of(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns which vector is that of each label: (B,) integers -> (B,) int32, -1 for a label that has none."""
        labels = tf.cast(labels, tf.int32)
        rows = tf.searchsorted(self.labels, labels)
        has_vector = tf.gather(self.labels, tf.minimum(rows, len(self.labels) - 1)) == labels
        return tf.where(has_vector, rows, -1)
