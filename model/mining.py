"""Offline mining: triplets that are chosen among many training images, before the steps that learn from them.

This is what was done before triplets were mined inside each batch. Training goes in rounds of `steps_per_mining`
steps. Before a round, the network as it is embeds the anchors of the round and a random positive for each of them,
and each pair receives a negative among all of these images. Then the network trains on these triplets, although it
soon is another one: that is the price of mining offline.

References:
    Schroff, Kalenichenko, Philbin: FaceNet, 2015, section 3.2: "generate triplets offline every n steps, using the
    most recent network checkpoint and computing the argmin and argmax on a subset of the data".
"""

import numpy as np
import tensorflow as tf
import tqdm

from model import steps
from model.evaluation import predict
from model.input_fn import TrainInput
from model.learner import Learner, MinedRound

# Distances are computed for this many pairs at a time (32 MiB of float32), however many images there are.
_PAIRS_AT_A_TIME = 2**23


class Miner:
    """Completes batches of (anchor, positive) pairs to batches of triplets.

    Args:
        model_fn: The `model_fn` contract.
        learner: What embeds the images, as it is when a round begins. It keeps the triplets of the round, so that a
            checkpoint holds them: the weights that found them are gone by then.
        data: The training images, whose batches are pairs.
    """

    def __init__(self, model_fn: steps.ModelFn, learner: Learner, data: TrainInput) -> None:
        if data.steps_per_mining is None:
            raise ValueError("Expected a training input of pairs, with `steps_per_mining`. Received: None")
        self._steps_per_round = data.steps_per_mining
        self._learner = learner
        self._data = data
        self._predict_step = steps.compile_predict_step(model_fn, learner)

    def batch(self, step: int) -> np.ndarray:
        """Returns the images of a step, after mining if the step is the first of its round.

        Args:
            step: The global step before it, from 0.

        Returns:
            int32 indices of shape (3 * B,): an anchor, its positive, its negative, the next anchor, ...
        """
        round_, place = divmod(step, self._steps_per_round)
        shape = self._steps_per_round, 3 * self._data.batch_size
        mined = self._learner.mined
        if mined is None or mined.number != round_ or mined.batches.shape != shape:
            mined = self._learner.mined = MinedRound(round_, self._mine(round_).reshape(shape))
        return mined.batches[place]

    def _mine(self, round_: int) -> np.ndarray:
        """Returns the triplets of a round, (A, 3) int32."""
        data, params = self._data, self._learner.params
        first = round_ * self._steps_per_round
        pairs = np.concatenate([data.batches(step) for step in range(first, first + self._steps_per_round)])  # (A, 2)
        pool = np.unique(pairs)  # (P,)
        if len(np.unique(data.labels[pool])) == 1:  # no negatives in there
            pool = np.arange(len(data.labels))
        embeddings = predict(self._predict_step, data.images[pool], "embedding, to mine")["embeddings"]  # (P, D)
        anchors, positives = np.searchsorted(pool, pairs).T  # (A,)
        semi_hard = params.triplet_strategy == "offline_semi_hard"
        negatives = choose_negatives(
            embeddings, data.labels[pool], anchors, positives, params.distance_name, semi_hard=semi_hard
        )
        return np.column_stack([pairs, pool[negatives]]).astype(np.int32)


def choose_negatives(
    embeddings: np.ndarray,
    labels: np.ndarray,
    anchors: np.ndarray,
    positives: np.ndarray,
    distance: str,
    *,
    semi_hard: bool,
) -> np.ndarray:
    """Chooses a negative for each (anchor, positive) pair.

    Args:
        embeddings: float32 array of shape (P, D).
        labels: Integer array of shape (P,), of at least two classes.
        anchors: Integer array of shape (A,), indices into the embeddings.
        positives: Integer array of shape (A,).
        distance: "euclidean", "squared_euclidean" or "cosine".
        semi_hard: Whether to take the nearest of the negatives that are farther than the positive, and the farthest
            negative where none is; otherwise the nearest negative.

    Returns:
        int64 array of shape (A,), indices into the embeddings; the first one of those equally far.
    """
    if distance == "cosine":
        embeddings = tf.math.l2_normalize(embeddings, axis=1).numpy()
    # Distances do not change when all move together, and small numbers have less to lose by rounding. All three kinds
    # of distances have one order, that of the squared ones.
    embeddings = embeddings - embeddings.mean(axis=0)
    rows = max(1, _PAIRS_AT_A_TIME // len(embeddings))
    chosen = []
    for start in tqdm.tqdm(range(0, len(anchors), rows), "mining", disable=None, leave=False):
        here = slice(start, start + rows)
        queries = embeddings[anchors[here]]  # (rows, D)
        to_positive = np.sum((queries - embeddings[positives[here]]) ** 2, axis=1)  # (rows,)
        bound = to_positive if semi_hard else np.full_like(to_positive, -np.inf)
        chosen.append(_nearest_beyond(queries, labels[anchors[here]], bound, embeddings, labels).numpy())
    return np.concatenate(chosen)


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.float32),
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]
)
def _nearest_beyond(
    anchors: tf.Tensor, anchor_labels: tf.Tensor, bound: tf.Tensor, pool: tf.Tensor, pool_labels: tf.Tensor
) -> tf.Tensor:
    """Finds the nearest negative farther than a bound, the farthest where none is: (A, D), ..., (P, D) -> (A,)."""
    square_norm_a, square_norm_p = (tf.reduce_sum(tf.square(x), axis=1) for x in (anchors, pool))
    distances = square_norm_a[:, tf.newaxis] - 2.0 * tf.matmul(anchors, pool, transpose_b=True) + square_norm_p
    is_negative = anchor_labels[:, tf.newaxis] != pool_labels[tf.newaxis, :]  # (A, P)
    is_beyond = tf.logical_and(is_negative, distances > bound[:, tf.newaxis])  # (A, P)
    nearest = tf.argmin(tf.where(is_beyond, distances, float("inf")), axis=1)  # (A,)
    farthest = tf.argmax(tf.where(is_negative, distances, float("-inf")), axis=1)  # (A,)
    return tf.where(tf.reduce_any(is_beyond, axis=1), nearest, farthest)
