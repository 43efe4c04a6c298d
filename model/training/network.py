"""The convolutional network that turns an image into an embedding."""

from dataclasses import dataclass

import keras
import tensorflow as tf

from model.params import Params
from model.training import replicas


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization of images in one operation, which Keras 3 spreads over many.

    On a CPU a step of a deep network in bfloat16 takes half the time or less (docs/LOG.md). The moving variance is the
    unbiased estimate, as TensorFlow's operation gives it; otherwise as the layer of Keras. On several devices, the mean
    and the variance are those of the images of all.

    References:
        Ioffe, Szegedy: Batch Normalization, 2015.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        """Normalizes images (B, H, W, C), of the float type that the layer computes in."""
        if training and replicas.count() > 1:
            outputs, batch_mean, batch_variance = self._normalize_together(inputs)
        else:
            outputs, batch_mean, batch_variance = self._normalize(inputs, bool(training))
        if training:
            for moving, of_batch in ((self.moving_mean, batch_mean), (self.moving_variance, batch_variance)):
                moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return outputs

    def _normalize(self, inputs: tf.Tensor, by_batch: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the normalized images, and the mean and variance of the batch."""
        mean, variance = (tf.zeros([0]), tf.zeros([0])) if by_batch else (self.moving_mean, self.moving_variance)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(mean),
            variance=tf.convert_to_tensor(variance),
            epsilon=self.epsilon,
            is_training=by_batch,
        )
        return outputs, mean, variance

    def _normalize_together(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Does the same for the images of all devices, which tell each other two numbers a channel."""
        images = tf.cast(inputs, self.variable_dtype)  # (B / R, H, W, C)
        of_part = tf.stack(tf.nn.moments(images, axes=[0, 1, 2]))[tf.newaxis]  # (1, 2, C)
        means, variances = tf.unstack(replicas.gather(of_part), axis=1)  # (R, C)
        mean = tf.reduce_mean(means, axis=0)  # (C,)
        variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)  # (C,)
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        outputs = tf.cast((images - mean) * scale + self.beta, inputs.dtype)
        size = tf.cast(replicas.count() * tf.size(images[..., 0]), variance.dtype)
        return outputs, mean, variance * size / tf.maximum(size - 1.0, 1.0)


@dataclass(frozen=True)
class Size:
    """How large a network is that nobody has built yet.

    Attributes:
        weights: Numbers that are learned.
        weights_of_embedding: Those of them that are in the last layer.
        outputs: Numbers that all layers together put out for an image.
    """

    weights: int
    weights_of_embedding: int
    outputs: int


def size_of_network(params: Params, image_shape: tuple[int, int, int]) -> Size:
    """Returns how large the network of `build_network` would be.

    Args:
        params: The experiment.
        image_shape: Height, width and channels of an image.
    """
    height, width, channels = image_shape
    weights, outputs = 0, height * width * channels
    for block in range(params.num_blocks):
        of_block = params.num_channels * 2**block
        for _ in range(params.convolutions_per_block):
            weights += (9 * channels + 1 + 2 * params.use_batch_norm) * of_block
            outputs += (2 + params.use_batch_norm) * height * width * of_block  # convolution, normalization, ReLU
            channels = of_block
        height, width = -(-height // 2), -(-width // 2)
        outputs += height * width * channels
    features = height * width * channels
    of_embedding = (features + 1) * params.embedding_size
    outputs += features + params.embedding_size * (1 + params.has_unit_length)
    return Size(weights + of_embedding, of_embedding, outputs)


def build_network(params: Params, image_shape: tuple[int, int, int], precision: str = "float32") -> keras.Model:
    """Builds the embedding network.

    `num_blocks` blocks, each of `convolutions_per_block` times 3x3 convolution, optional batch normalization and ReLU,
    then 2x2 max pooling; `num_channels` channels in the first block and twice as many in each further one. A dense
    layer to `embedding_size` follows, scaled to length 1 with `normalize_embeddings` or the cosine distance, so that
    euclidean neighbours are those of the cosine. Pooling keeps the last row and
    column of odd sizes, so images of any size fit.

    Args:
        params: The experiment; its seed decides the initial weights.
        image_shape: Height, width and channels of an image.
        precision: "float32" or "mixed_bfloat16", the arithmetic of the convolutions. Weights are float32 either
            way, and so is the dense layer, whose output is measured.

    Returns:
        A model from float32 images of shape (B, *image_shape) in [0, 1] to float32 embeddings of shape
        (B, embedding_size).
    """
    layers = [keras.Input(image_shape, name="images")]
    for block in range(1, params.num_blocks + 1):
        channels = params.num_channels * 2 ** (block - 1)
        for convolution in range(1, params.convolutions_per_block + 1):
            number = f"_{convolution}" if convolution > 1 else ""
            initializer = keras.initializers.GlorotUniform(seed=params.seed + block + 100 * (convolution - 1))
            layers.append(
                keras.layers.Conv2D(
                    channels,
                    3,
                    padding="same",
                    kernel_initializer=initializer,
                    dtype=precision,
                    name=f"block_{block}_conv{number}",
                )
            )
            if params.use_batch_norm:
                layers.append(
                    FusedBatchNormalization(
                        momentum=params.bn_momentum, dtype=precision, name=f"block_{block}_norm{number}"
                    )
                )
            layers.append(keras.layers.ReLU(dtype=precision, name=f"block_{block}_relu{number}"))
        layers.append(keras.layers.MaxPool2D(2, padding="same", dtype=precision, name=f"block_{block}_pool"))
    initializer = keras.initializers.GlorotUniform(seed=params.seed)
    layers.append(keras.layers.Flatten(dtype=precision, name="flatten"))
    layers.append(
        keras.layers.Dense(params.embedding_size, kernel_initializer=initializer, dtype="float32", name="embedding")
    )
    if params.has_unit_length:
        layers.append(keras.layers.UnitNormalization(dtype="float32", name="unit_length"))
    return keras.Sequential(layers, name="network")
