"""The losses as Keras classes, for `model.compile(loss=BatchAllTripletLoss(margin=0.5))`.

Labels are of shape (B,), the class of each image, and the output of the model is the embeddings (B, D). A model
compiled with one of these can be saved and loaded.
"""

from typing import Any

import keras
import tensorflow as tf

from model import triplet_loss

_register = keras.saving.register_keras_serializable(package="triplet_loss")


class _MinedLoss(keras.losses.Loss):
    """A loss that chooses pairs or triplets inside the batch.

    Args:
        margin: How much farther than the positive the negative has to be, in units of the distance.
        distance: "euclidean", "squared_euclidean" or "cosine".
        **options: `name`, `reduction` and `dtype` of `keras.losses.Loss`; the loss is one number for the batch, so
            the last two have nothing to do.
    """

    def __init__(self, margin: float | str = 0.5, distance: str = "euclidean", **options: Any) -> None:
        super().__init__(**options)
        self.margin: Any = margin  # only batch hard has a soft one
        self.distance = distance

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        # The base class would turn the labels into float32, where classes beyond 2^24 become one.
        if sample_weight is not None:
            raise ValueError(f"Expected no sample weights: no term belongs to one image. Received: {sample_weight}")
        return self.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "margin": self.margin, "distance": self.distance}


@_register
class BatchAllTripletLoss(_MinedLoss):
    """`triplet_loss.batch_all_triplet_loss`."""

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        loss, _ = triplet_loss.batch_all_triplet_loss(y_true, y_pred, self.margin, distance=self.distance)
        return loss


@_register
class BatchHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_hard_triplet_loss`; the margin may be "soft"."""

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        return triplet_loss.batch_hard_triplet_loss(y_true, y_pred, self.margin, distance=self.distance)


@_register
class BatchSemiHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_semi_hard_triplet_loss`."""

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        return triplet_loss.batch_semi_hard_triplet_loss(y_true, y_pred, self.margin, distance=self.distance)


@_register
class BatchRandomSemiHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_random_semi_hard_triplet_loss`.

    Args:
        margin: As for the others.
        distance: As for the others.
        seed: Decides, with the number of batches seen so far, which negatives are drawn.
        **options: As for the others.
    """

    def __init__(self, margin: float = 0.5, distance: str = "euclidean", seed: int = 230, **options: Any) -> None:
        super().__init__(margin, distance, **options)
        self.seed = seed
        self._generator = keras.random.SeedGenerator(seed)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        seed = tf.cast(self._generator.next(), tf.int64)
        return triplet_loss.batch_random_semi_hard_triplet_loss(
            y_true, y_pred, self.margin, seed, distance=self.distance
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "seed": self.seed}


@_register
class ContrastiveLoss(_MinedLoss):
    """`triplet_loss.contrastive_loss`."""

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        return triplet_loss.contrastive_loss(y_true, y_pred, self.margin, distance=self.distance)
