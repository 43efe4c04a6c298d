"""Offline mining: triplets that are chosen among many training images, before the steps that learn from them.

This is what was done before triplets were mined inside each batch, as `model/triplet_loss.py` does. Training goes in
rounds of `steps_per_mining` steps. Before a round, the network as it is embeds the anchors of the round and a random
positive for each of them, and each pair receives a negative among all of these images. Then the network trains on these
triplets, although it soon is another one: that is the price of mining offline.

References:
    Schroff, Kalenichenko, Philbin: FaceNet, 2015, section 3.2: "generate triplets offline every n steps, using the
    most recent network checkpoint and computing the argmin and argmax on a subset of the data".
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tqdm

from model import triplet_loss
from model.common.images import subset
from model.data.input_fn import TrainInput
from model.training import steps
from model.training.evaluation import predict
from model.training.learner import Learner, MinedRound

# Distances are computed for this many pairs at a time (32 MiB of float32), however many images there are.
_PAIRS_AT_A_TIME = 2**23


class Miner:
    """Completes batches of (anchor, positive) pairs to batches of triplets.

    Args:
        model_fn: The `model_fn` contract.
        learner: What embeds the images, as it is when a round begins. It keeps the triplets of the round, so that a
            checkpoint holds them: the weights that found them are gone by then.
        data: The training images, whose batches are pairs.
        share: Returns the triplets that a function finds, the same in all processes of the run.
    """

    def __init__(
        self,
        model_fn: steps.ModelFn,
        learner: Learner,
        data: TrainInput,
        share: Callable[[Callable[[], np.ndarray]], np.ndarray] = lambda find: find(),
    ) -> None:
        if data.steps_per_mining is None:
            raise ValueError("Expected a training input of pairs, with `steps_per_mining`. Received: None")
        self._steps_per_round = data.steps_per_mining
        self._learner = learner
        self._data = data
        self._share = share
        self._predict_step = steps.compile_predict_step(model_fn, learner)

    def batch(self, step: int) -> np.ndarray:
        """Returns the images of a step, after mining if the step is the first of its round.

        Args:
            step: The global step before it, from 0.

        Returns:
            int32 indices of shape (3 * B,): an anchor, its positive, its negative, the next anchor, ...
        """
        round_, place = divmod(step, self._steps_per_round)
        mined = self._learner.mined
        if mined is None or mined.number != round_:
            batches = self._share(lambda: self._mine(round_)).reshape(self._steps_per_round, 3 * self._data.batch_size)
            mined = self._learner.mined = MinedRound(round_, batches)
        return mined.batches[place]

    def _mine(self, round_: int) -> np.ndarray:
        """Returns the triplets of a round, (A, 3) int32."""
        data, params = self._data, self._learner.params
        first = round_ * self._steps_per_round
        pairs = np.concatenate([data.batches(step) for step in range(first, first + self._steps_per_round)])  # (A, 2)
        pool = np.unique(pairs)  # (P,)
        if len(np.unique(data.labels[pool])) == 1:  # no negatives in there
            pool = np.arange(len(data.labels))
        images = subset(data.images, pool)
        embeddings = predict(self._predict_step, images, "embedding, to mine")["embeddings"]  # (P, D)
        anchors, positives = np.searchsorted(pool, pairs).T.astype(np.int32)  # (A,)
        negatives = choose_negatives(
            embeddings,
            data.labels[pool],
            anchors,
            positives,
            params.distance,
            semi_hard=params.strategy.mines == "semi_hard",
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
        labels: int32 array of shape (P,), of at least two classes.
        anchors: int32 array of shape (A,), indices into the embeddings.
        positives: int32 array of shape (A,).
        distance: "euclidean", "squared_euclidean" or "cosine".
        semi_hard: Whether to take the nearest of the negatives that are farther than the positive, and the farthest
            negative where none is; otherwise the nearest negative.

    Returns:
        int64 array of shape (A,), indices into the embeddings; the first one of those equally far.
    """
    if distance == "cosine":
        embeddings = triplet_loss.unit_length(embeddings).numpy()
        square_norm = np.zeros(len(embeddings), np.float32)
    else:
        # Distances do not change when all move together, and small numbers have less to lose by rounding.
        embeddings = embeddings - embeddings.mean(axis=0)
        square_norm = np.sum(embeddings**2, axis=1)  # (P,)
    rows = max(1, _PAIRS_AT_A_TIME // len(embeddings))
    chosen = []
    for start in tqdm.tqdm(range(0, len(anchors), rows), "mining", disable=None, leave=False):
        here = slice(start, start + rows)
        chosen.append(
            _choose(embeddings, square_norm, labels, anchors[here], positives[here], tf.constant(semi_hard)).numpy()
        )
    return np.concatenate(chosen)


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float32),
        tf.TensorSpec((None,), tf.float32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((), tf.bool),
    ],
    autograph=False,
)
def _choose(
    pool: tf.Tensor,
    square_norm: tf.Tensor,
    labels: tf.Tensor,
    anchors: tf.Tensor,
    positives: tf.Tensor,
    semi_hard: tf.Tensor,
) -> tf.Tensor:
    """Does what `choose_negatives` says, for some anchors at a time: (P, D), (P,), (P,), (A,), (A,), () -> (A,)."""
    # ||n||^2 - 2 <a, n> is the squared distance but for ||a||^2, which is the same for all; without the norms it is in
    # the order of the cosine distances. The positive's is one of these numbers: ties are ties.
    distances = square_norm - 2.0 * tf.matmul(tf.gather(pool, anchors), pool, transpose_b=True)  # (A, P)
    to_positive = tf.gather(distances, positives, batch_dims=1)[:, tf.newaxis]  # (A, 1)
    is_negative = tf.gather(labels, anchors)[:, tf.newaxis] != labels  # (A, P)
    is_farther = tf.logical_and(is_negative, tf.logical_or(distances > to_positive, tf.logical_not(semi_hard)))
    nearest = tf.argmin(tf.where(is_farther, distances, float("inf")), axis=1)  # (A,)
    farthest = tf.argmax(tf.where(is_negative, distances, float("-inf")), axis=1)  # (A,)
    return tf.where(tf.reduce_any(is_farther, axis=1), nearest, farthest)
