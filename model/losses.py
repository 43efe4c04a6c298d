"""The losses as Keras classes, for `model.compile(loss=BatchAllTripletLoss(margin=0.5))`.

Labels are of shape (B,), the class of each image, and the output of the model is the embeddings (B, D). A model
compiled with one of these can be saved and loaded: importing this file registers them with Keras, after which
`keras.models.load_model` needs no `custom_objects`. To use them elsewhere, copy this file with `metric_losses.py` and
`triplet_loss.py` into one package.

Losses with class vectors take similarities to these: their model ends in a layer that has the vectors. What embeds
images is the model up to it.

    classifier = keras.Sequential([network, losses.ClassSimilarities(num_classes=10)])
    classifier.compile("adam", losses.ArcFaceLoss())  # classifier.fit, and then network(images)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from . import metric_losses, triplet_loss  # relative: people copy these three files into packages of theirs

_register = keras.saving.register_keras_serializable(package="triplet_loss")


class _BatchLoss(keras.losses.Loss):
    """A loss of pairs or triplets inside the batch: one number for all of it, whatever the reduction."""

    def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        # The base class would turn the labels into float32, where classes beyond 2^24 become one.
        if sample_weight is not None:
            raise ValueError(f"Expected no sample weights: no term belongs to one image. Received: {sample_weight}")
        return self.call(y_true, y_pred)


class _MinedLoss(_BatchLoss):
    """A loss that chooses pairs or triplets inside the batch.

    Args:
        margin: How much farther than the positive the negative has to be, in units of the distance.
        distance: "euclidean", "squared_euclidean" or "cosine".
        name: What Keras calls the loss.
        reduction: As for `keras.losses.Loss`. It has nothing to do: the loss is one number for the batch.
        dtype: As for `keras.losses.Loss`, without an effect: half precision is computed in float32.
    """

    sums: ClassVar[Callable[..., triplet_loss.Sums]]  # the loss, as the sums of `model.triplet_loss`

    def __init__(
        self,
        margin: float | str = 0.5,
        distance: str = "euclidean",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.margin = margin
        self.distance = distance

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        return triplet_loss.mean(*self.sums(y_true, y_pred, self.margin, self.distance, self._seed())["loss"])

    def _seed(self) -> tf.Tensor | None:
        """Returns what decides the random draws of this batch, for a loss that draws."""
        return None

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "margin": self.margin, "distance": self.distance}


@_register
class BatchAllTripletLoss(_MinedLoss):
    """`triplet_loss.batch_all_triplet_loss`.

    Example:
        >>> loss = BatchAllTripletLoss(margin=0.5)([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]])
        >>> round(float(loss), 3)
        2.0
    """

    sums = staticmethod(triplet_loss.batch_all_sums)


@_register
class BatchHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_hard_triplet_loss`; the margin may be "soft".

    Example:
        >>> loss = BatchHardTripletLoss(margin=0.5)([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]])
        >>> round(float(loss), 3)
        0.625
    """

    sums = staticmethod(triplet_loss.batch_hard_sums)


@_register
class BatchSemiHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_semi_hard_triplet_loss`.

    Example:
        >>> loss = BatchSemiHardTripletLoss(margin=0.5)([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]])
        >>> round(float(loss), 3)
        0.375
    """

    sums = staticmethod(triplet_loss.batch_semi_hard_sums)


@_register
class BatchRandomSemiHardTripletLoss(_MinedLoss):
    """`triplet_loss.batch_random_semi_hard_triplet_loss`.

    Args:
        margin: As for the others.
        distance: As for the others.
        seed: Decides, with the number of batches seen so far, which negatives are drawn.
        name: As for the others.
        reduction: As for the others.
        dtype: As for the others.

    Example:
        >>> loss = BatchRandomSemiHardTripletLoss(margin=1.5)([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]])
        >>> round(float(loss), 3)
        0.5
    """

    sums = staticmethod(triplet_loss.batch_random_semi_hard_sums)

    def __init__(
        self,
        margin: float = 0.5,
        distance: str = "euclidean",
        seed: int = 230,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__(margin, distance, name, reduction, dtype)
        self.seed = seed
        self._generator = keras.random.SeedGenerator(seed)

    def _seed(self) -> tf.Tensor:
        return tf.cast(self._generator.next(), tf.int64)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "seed": self.seed}


@_register
class ContrastiveLoss(_MinedLoss):
    """`triplet_loss.contrastive_loss`.

    Example:
        >>> loss = ContrastiveLoss(margin=5.0)([0, 0, 1, 1], [[0.0], [1.0], [3.0], [7.0]])
        >>> round(float(loss), 3)
        2.5
    """

    sums = staticmethod(triplet_loss.contrastive_sums)


class _PairLoss(_BatchLoss):
    """A loss of `model.metric_losses`, called with its own parameters by name."""

    loss: ClassVar[Callable[..., tf.Tensor]]

    def __init__(
        self,
        parameters: Mapping[str, float | str],
        name: str | None,
        reduction: str | None,
        dtype: str | keras.DTypePolicy | None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self._parameters = dict(parameters)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the loss of the batch, a scalar."""
        return self.loss(y_true, y_pred, **self._parameters)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), **self._parameters}


@_register
class MultiSimilarityLoss(_PairLoss):
    """`metric_losses.multi_similarity_loss`, where the parameters are explained.

    Example:
        >>> loss = MultiSimilarityLoss()([0, 0, 1, 1], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(float(loss), 3)
        1.077
    """

    loss = staticmethod(metric_losses.multi_similarity_loss)

    def __init__(
        self,
        margin: float = 0.1,
        scale_positive: float = 2.0,
        scale_negative: float = 50.0,
        similarity_threshold: float = 1.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        parameters = {
            "margin": margin,
            "scale_positive": scale_positive,
            "scale_negative": scale_negative,
            "similarity_threshold": similarity_threshold,
        }
        super().__init__(parameters, name, reduction, dtype)


@_register
class SupervisedContrastiveLoss(_PairLoss):
    """`metric_losses.supervised_contrastive_loss`, where the temperature is explained.

    Example:
        >>> loss = SupervisedContrastiveLoss()([0, 0, 1, 1], [[1.0, 0.0]] * 4)
        >>> round(float(loss), 3)  # ln 3
        1.099
    """

    loss = staticmethod(metric_losses.supervised_contrastive_loss)

    def __init__(
        self,
        temperature: float = 0.1,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__({"temperature": temperature}, name, reduction, dtype)


@_register
class LiftedStructuredLoss(_PairLoss):
    """`metric_losses.lifted_structured_loss`, where the parameters are explained.

    Example:
        >>> loss = LiftedStructuredLoss(margin=1.5)([0, 0, 1], [[0.0], [1.0], [3.0]])
        >>> round(float(loss), 3)
        0.25
    """

    loss = staticmethod(metric_losses.lifted_structured_loss)

    def __init__(
        self,
        margin: float = 1.0,
        distance: str = "euclidean",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__({"margin": margin, "distance": distance}, name, reduction, dtype)


@_register
class CircleLoss(_PairLoss):
    """`metric_losses.circle_loss`, where the parameters are explained.

    Example:
        >>> loss = CircleLoss()([0, 0, 1], [[1.0, 0.0]] * 3)
        >>> round(float(loss), 3)
        54.4
    """

    loss = staticmethod(metric_losses.circle_loss)

    def __init__(
        self,
        margin: float = 0.4,
        scale: float = 80.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__({"margin": margin, "scale": scale}, name, reduction, dtype)


@_register
class ProxyAnchorLoss(_PairLoss):
    """`metric_losses.proxy_anchor_loss`, where the parameters are explained, of the outputs of `ClassSimilarities`.

    Example:
        >>> loss = ProxyAnchorLoss()([0, 1], [[-1.0, 1.0], [1.0, -1.0]])  # as far from their own class as can be
        >>> round(float(loss), 3)
        70.4
    """

    loss = staticmethod(metric_losses.proxy_anchor_of_similarities)

    def __init__(
        self,
        margin: float = 0.1,
        scale: float = 32.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__({"margin": margin, "scale": scale}, name, reduction, dtype)


@_register
class ArcFaceLoss(_PairLoss):
    """`metric_losses.arcface_loss`, where the parameters are explained, of the outputs of `ClassSimilarities`.

    Example:
        >>> loss = ArcFaceLoss(margin=math.pi / 6)([0], [[0.0, 0.0]])  # at a right angle to both classes
        >>> round(float(loss), 3)
        32.0
    """

    loss = staticmethod(metric_losses.arcface_of_similarities)

    def __init__(
        self,
        margin: float = 0.5,
        scale: float = 64.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> None:
        super().__init__({"margin": margin, "scale": scale}, name, reduction, dtype)


@_register
class ClassSimilarities(keras.layers.Layer):
    """A layer with a vector for each class, which is learned: embeddings (B, D) -> cosine similarities (B, C), float32.

    Labels are the rows of the vectors, from 0 to C - 1.

    Args:
        num_classes: C.
        seed: Decides the vectors to begin with; None makes others each time.
        options: `name`, `trainable` and `dtype`, as for `keras.layers.Layer`; the last without an effect.

    Example:
        >>> similarities = ClassSimilarities(num_classes=10)(tf.ones([32, 8]))
        >>> similarities.shape.as_list()
        [32, 10]
    """

    def __init__(self, num_classes: int, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options, autocast=False)
        self.num_classes = num_classes
        self.seed = seed

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Makes the vectors, of about length 1 in random directions."""
        initializer = keras.initializers.RandomNormal(stddev=1 / math.sqrt(input_shape[-1]), seed=self.seed)
        shape = (self.num_classes, input_shape[-1])
        self.class_vectors = self.add_weight(
            name="class_vectors", shape=shape, initializer=initializer, dtype="float32"
        )

    def call(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns the similarities, (B, C)."""
        return metric_losses.class_similarities(
            tf.cast(embeddings, tf.float32), tf.convert_to_tensor(self.class_vectors)
        )

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "num_classes": self.num_classes, "seed": self.seed}
