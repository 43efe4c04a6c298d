"""What becomes of a batch of images on the device: scaled to [0, 1] and, in training, moved a little if asked."""

import math

import keras
import tensorflow as tf

from model.params import Params
from model.training import replicas

# Limits of the random affine augmentation, each drawn uniformly from [-limit, limit].
_MAX_ROTATION = 10 / 180 * math.pi  # radians
_MAX_SHEAR = 0.1  # tangent of the angle
_MAX_ZOOM = 0.1  # relative to the size
_MAX_SHIFT = 0.08  # relative to the size


def prepare_images(images: tf.Tensor) -> tf.Tensor:
    """Scales uint8 images (B, H, W, C) to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def augment(images: tf.Tensor, params: Params, step: tf.Tensor) -> tf.Tensor:
    """Moves images (B, H, W, C), scaled to [0, 1], as the parameters ask for: `augment_images`, or not at all."""
    if params.augmentation == "off":
        return images
    flip = params.augmentation == "affine_and_flip"
    return augment_images(images, params.seed, step, flip, params.augmentation_strength)


def augment_images(
    images: tf.Tensor, seed: int, step: tf.Tensor, flip: bool = False, strength: float = 1.0
) -> tf.Tensor:
    """Rotates, zooms, shears and shifts each image a little, by a draw that (seed, step) decides.

    Args:
        images: float32 tensor of shape (B, H, W, C).
        seed: The experiment's seed.
        step: Scalar integer tensor, the global step.
        flip: Whether to mirror half of them left to right first.
        strength: Factor of how much they are rotated, zoomed, sheared and shifted at most.

    Returns:
        Tensor of the same shape; what comes in from outside an image is 0.
    """
    # The transform maps each point of the output to the point of the input that it shows:
    #   [x_in]   [cos r  -sin r] [1 + zoom_x     shear ] [x_out - center]
    #   [y_in] = [sin r   cos r] [    0      1 + zoom_y] [y_out - center] + center + shift
    batch_size, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    # For the images of all devices, of which these are some.
    draw = tf.random.stateless_uniform((7, replicas.count() * batch_size), key, -1.0, 1.0, alg="philox")
    draw = draw[:, replicas.index() * batch_size :][:, :batch_size]  # (7, B)
    if flip:
        images = tf.where(draw[6, :, tf.newaxis, tf.newaxis, tf.newaxis] < 0, images[:, :, ::-1], images)
    draw *= strength
    rotation, shear = draw[0] * _MAX_ROTATION, draw[1] * _MAX_SHEAR
    zoom_x, zoom_y = 1.0 + draw[2] * _MAX_ZOOM, 1.0 + draw[3] * _MAX_ZOOM
    cos, sin = tf.cos(rotation), tf.sin(rotation)
    a0, a1 = cos * zoom_x, cos * shear - sin * zoom_y
    b0, b1 = sin * zoom_x, sin * shear + cos * zoom_y
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    a2 = center_x - a0 * center_x - a1 * center_y + draw[4] * _MAX_SHIFT * width
    b2 = center_y - b0 * center_x - b1 * center_y + draw[5] * _MAX_SHIFT * height
    zero = tf.zeros_like(a0)
    transform = tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)  # (B, 8)
    return keras.ops.image.affine_transform(images, transform, fill_mode="constant", fill_value=0.0)
