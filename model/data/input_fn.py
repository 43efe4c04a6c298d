"""From arrays in memory to what one step consumes.

Images stay uint8 until they are on the device. A training step receives the indices of its images; it gathers
them, scales them to [0, 1] and, if asked, augments them: `prepare_images`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from model.data import sampling
from model.data.datasets import Dataset, Split
from model.common.errors import UserError
from model.params import Params
from model.data.partition import divide

# Limits of the random affine augmentation, each drawn uniformly from [-limit, limit].
_MAX_ROTATION = 10 / 180 * math.pi  # radians
_MAX_SHEAR = 0.1  # tangent of the angle
_MAX_ZOOM = 0.1  # relative to the size
_MAX_SHIFT = 0.08  # relative to the size

# Numbers the seed's random streams that are not the order of training.
_EVALUATION_STREAM = (0, 2)


@dataclass(frozen=True)
class TrainInput:
    """The training images and the order in which they come."""

    images: np.ndarray  # (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int32
    batches: sampling.BatchPolicy  # step -> (batch_size,) int32, or pairs to mine for: (batch_size, 2)
    batch_size: int
    steps_per_mining: int | None = None  # steps for which triplets are mined offline at a time

    @property
    def images_per_step(self) -> int:
        """Images that the network sees in a step: three for each triplet that is mined offline."""
        return self.batch_size if self.steps_per_mining is None else 3 * self.batch_size

    @property
    def digest(self) -> str:
        """A fingerprint of the images and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).data)
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which N images come by, as anchors if they are mined offline; not a whole number in general."""
        return len(self.images) / self.batch_size

    def steps_in(self, epochs: int) -> int:
        """Returns the number of steps of so many epochs, rounded up."""
        return -(-len(self.images) * epochs // self.batch_size)


@dataclass(frozen=True)
class EvalInput:
    """The images to score, the gallery in which their neighbours are looked for, and how the loss is batched.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        gallery_images: (G, H, W, C) uint8.
        gallery_labels: (G,) int32.
        batches: Indices, each of the N once.
        groups: By name, the labels of classes that are scored apart.
        seed: Decides what is drawn at random while scoring.
    """

    images: np.ndarray
    labels: np.ndarray
    gallery_images: np.ndarray
    gallery_labels: np.ndarray
    batches: list[np.ndarray]
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0


def train_input_fn(data: Dataset, params: Params) -> TrainInput:
    """Returns the images of a data set that are learned from, in the order that the parameters ask for.

    Raises:
        UserError: The images cannot be divided as the parameters ask, or a batch cannot be filled from them.
    """
    train = divide(data, params).train
    images, labels = train.images, train.labels
    if params.batch_size > len(images):
        raise UserError(
            f"'batch_size' must be at most the {len(images)} training images of {data.name}, "
            f"received {params.batch_size}"
        )
    if params.strategy.mines:
        return _offline_input(data.name, train, params)
    if params.num_classes_per_batch is None or params.num_images_per_class is None:
        batches = sampling.uniform_batches(labels, params.seed, params.batch_size)
    else:
        num_classes = len(np.unique(labels))
        if params.num_classes_per_batch > num_classes:
            raise UserError(
                f"'num_classes_per_batch' must be at most the {num_classes} training classes of "
                f"{data.name}, received {params.num_classes_per_batch}"
            )
        batches = sampling.class_balanced_batches(
            labels, params.seed, params.num_classes_per_batch, params.num_images_per_class
        )
    return TrainInput(images, labels, batches, params.batch_size)


def _offline_input(name: str, train: Split, params: Params) -> TrainInput:
    images, labels = train.images, train.labels
    class_sizes = np.bincount(labels)
    num_anchors = int(class_sizes[class_sizes > 1].sum())
    if np.count_nonzero(class_sizes) < 2 or params.batch_size > num_anchors:
        raise UserError(
            f"'triplet_strategy' \"{params.triplet_strategy}\" needs two training classes, and batch_size = "
            f"{params.batch_size} images with another one of their class; {name} has "
            f"{np.count_nonzero(class_sizes)} and {num_anchors}"
        )
    batches = sampling.anchor_positive_batches(labels, params.seed, params.batch_size)
    if params.mining_size is None:
        steps_per_mining = -(-num_anchors // params.batch_size)
    else:
        steps_per_mining = min(params.mining_size, num_anchors) // params.batch_size
    return TrainInput(images, labels, batches, params.batch_size, steps_per_mining)


def eval_input_fn(data: Dataset, params: Params) -> EvalInput:
    """Returns the test images of a data set, with all of its training images as the gallery."""
    partition = divide(data, params)
    groups = {}
    if partition.unseen:
        groups = {"seen": tuple(np.unique(partition.train.labels).tolist()), "unseen": partition.unseen}
    return _eval_input(data.test, data.train, params, groups)


def validation_input_fn(data: Dataset, params: Params) -> EvalInput:
    """Returns the validation images of a data set with their gallery.

    Raises:
        ValueError: The parameters set none aside.
    """
    partition = divide(data, params)
    if partition.validation is None or partition.validation_gallery is None:
        raise ValueError("Expected 'validation_size' or 'validation_classes'. Received: neither")
    return _eval_input(partition.validation, partition.validation_gallery, params, {})


def _eval_input(images: Split, gallery: Split, params: Params, groups: Mapping[str, tuple[int, ...]]) -> EvalInput:
    # The loss is computed over batches in a fixed random order: data that lie class by class would fill batches in
    # which there is no triplet.
    order = sampling.permutation(params.seed, *_EVALUATION_STREAM, size=len(images.labels))
    batches = [order[start : start + params.batch_size] for start in range(0, len(order), params.batch_size)]
    return EvalInput(images.images, images.labels, gallery.images, gallery.labels, batches, groups, params.split_seed)


def prepare_images(images: tf.Tensor) -> tf.Tensor:
    """Scales uint8 images (B, H, W, C) to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


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
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group  # each draws for its own images
    key = tf.stack([tf.cast(seed, tf.int64) + tf.cast(replica, tf.int64) * 2**32, tf.cast(step, tf.int64)])
    draw = tf.random.stateless_uniform((7, batch_size), key, -1.0, 1.0, alg="philox")
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
