"""From images and labels to the loss, the metrics and the predictions of one batch: the `model_fn` contract."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import keras
import tensorflow as tf

from model import triplet_loss
from model.params import Params
from model.strategies import STRATEGIES
from model.training.adam import Adam
from model.training.augmentation import test_time_views
from model.training.batch_loss import Memory, loss_of_batch, loss_with_class_vectors
from model.training.class_vectors import NAME_OF_VECTORS, ClassVectors


class ModeKeys(StrEnum):
    """What a `model_fn` is asked for."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


@dataclass(frozen=True)
class EstimatorSpec:
    """What a `model_fn` answers.

    Attributes:
        mode: The mode it was asked for.
        predictions: By name, tensors whose first dimension is the batch.
        loss: The scalar to minimize; None in mode PREDICT. On several devices, the mean of what each says.
        metrics: By name, (sum, count) of a quantity over the batch, both scalars: its value is sum / count, over
            one batch and over many. On several devices, of the part that is here. Empty in mode PREDICT. In mode TRAIN
            the loss is shown whether it is among them or not.
        images: By name, images of shape (n, H, W, C) in [0, 1] for TensorBoard.
    """

    mode: ModeKeys
    predictions: Mapping[str, tf.Tensor]
    loss: tf.Tensor | None = None
    metrics: Mapping[str, tuple[tf.Tensor, tf.Tensor]] = field(default_factory=dict)
    images: Mapping[str, tf.Tensor] = field(default_factory=dict)


def model_fn(
    features: tf.Tensor,
    labels: tf.Tensor | None,
    mode: ModeKeys,
    params: Params,
    network: keras.Model,
    step: tf.Tensor | int = 0,
    memory: Memory | None = None,
    class_vectors: ClassVectors | None = None,
) -> EstimatorSpec:
    """Embeds a batch and, unless predicting, computes the triplet loss of its embeddings.

    Args:
        features: float32 images of shape (B, H, W, C) in [0, 1].
        labels: int32 tensor of shape (B,); not used in mode PREDICT. With an offline strategy, images and labels of
            a training batch are triplets one after the other: anchor, positive, negative, anchor, ...
        mode: TRAIN (batch normalization by the batch), EVAL or PREDICT (by the moving averages).
        params: The experiment.
        network: From images to embeddings, as `build_network` makes it.
        step: Scalar, the steps made so far: with the seed it decides what is drawn at random.
        memory: Embeddings of batches gone by, among which positives and negatives are looked for as well.
        class_vectors: In mode TRAIN, with a strategy that learns them, what images are compared with.

    Returns:
        The `EstimatorSpec`; predictions are "embeddings", float32 of shape (B, D).

    References:
        Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, 2012, section
        4.1, where what a network says of an image and of its mirror image is averaged.
    """
    embeddings = network(features, training=mode == ModeKeys.TRAIN)  # (B, D)
    views = [] if mode == ModeKeys.TRAIN else test_time_views(features, params.test_time_augmentation)
    if views:
        embeddings += tf.add_n([network(view, training=False) for view in views])
        embeddings /= 1 + len(views)
        if params.has_unit_length:
            embeddings = triplet_loss.unit_length(embeddings)
    predictions = {"embeddings": embeddings}
    if mode == ModeKeys.PREDICT:
        return EstimatorSpec(mode, predictions)

    strategy, margin = params.strategy, params.margin
    of_the_loss: Mapping[str, float] = params.of_the_loss
    if strategy.scored_as and mode == ModeKeys.EVAL:
        scored = STRATEGIES[strategy.scored_as]
        if strategy.learns_class_vectors:
            margin, of_the_loss = scored.margin, scored.loss_parameters
        strategy = scored
    seed = tf.stack([tf.cast(params.seed, tf.int64), tf.cast(step, tf.int64)])
    if strategy.learns_class_vectors:
        loss, sums = loss_with_class_vectors(strategy, labels, embeddings, class_vectors, margin, seed, of_the_loss)
    else:
        loss, sums = loss_of_batch(strategy, labels, embeddings, margin, params.distance, seed, memory, of_the_loss)
    norms = tf.norm(embeddings, axis=1)  # (B,)
    metrics = {**sums, "embedding_mean_norm": (tf.reduce_sum(norms), tf.cast(tf.size(norms), norms.dtype))}
    images = {"train_image": features[:1]} if mode == ModeKeys.TRAIN else {}
    return EstimatorSpec(mode, predictions, loss, metrics, images)


def build_optimizer(params: Params, max_steps: int) -> keras.optimizers.Optimizer:
    """Builds Adam with the learning rate that the parameters ask for.

    Args:
        params: The experiment.
        max_steps: Where the cosine schedule arrives at 0.
    """
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = params.learning_rate
    if params.learning_rate_schedule == "cosine":
        learning_rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if params.warmup_steps else params.learning_rate,
            decay_steps=max(1, max_steps - params.warmup_steps),
            warmup_target=params.learning_rate if params.warmup_steps else None,
            warmup_steps=params.warmup_steps,
        )
    if factor := params.class_vector_learning_rate_factor:
        return Adam(learning_rate, {NAME_OF_VECTORS: factor})
    # Some weights may be frozen at first, and how long is for each continuation of a run to say.
    kind = keras.optimizers.Adam if params.weights is None else Adam
    return kind(learning_rate, name="adam")
