"""Batch normalization in one operation, the same on one device and on several."""

import keras
import tensorflow as tf

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
        """Normalizes images (B, H, W, C), of the float type that the layer computes in.

        A layer that is not trainable takes its moving statistics in training, too, as that of Keras does.
        """
        training = bool(training) and self.trainable
        if training and replicas.count() > 1:
            outputs, batch_mean, batch_variance = self._normalize_together(inputs)
        else:
            outputs, batch_mean, batch_variance = self._normalize(inputs, training)
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
