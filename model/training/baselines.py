"""What a number is to be compared with: embeddings that cost no training, under the same protocol."""

import functools
import logging
import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from model.common.images import Images
from model.data.input_fn import EvalInput
from model.params import Params
from model.training.evaluation import predict, score_embeddings
from model.training.learner import Learner
from model.training.model_fn import model_fn
from model.training.steps import compile_predict_step

_log = logging.getLogger(__name__)

# What the pixels of a set of images may take, as float32; larger images are reduced.
_MOST_BYTES = 2 * 10**8
_IMAGES_AT_A_TIME = 1024


def score_baselines(
    data: EvalInput, learned_from: Images, params: Params, network: keras.Model | None
) -> dict[str, dict[str, float]]:
    """Scores raw pixels, principal components and the network as it is before training.

    Args:
        data: The images to score, and the gallery.
        learned_from: uint8 images of shape (N, H, W, C) that principal components may look at: those that the network
            was trained on.
        params: The experiment. There are as many principal components as the embedding has dimensions, if the images
            have so many.
        network: The network as it is before training, with the weights that it begins with; None if nobody has it.

    Returns:
        For "raw_pixels", "pca" and, if it is there, "untrained", what `protocol.score` returns.
    """
    from sklearn.decomposition import PCA  # takes a second, which nobody should wait for who scores no baselines

    number = max(len(images) for images in (data.images, data.gallery_images, learned_from))
    flat = as_pixels(data.images.shape[1:], number)
    pixels, learned_pixels = flat(data.images), flat(learned_from)
    dimensions = min(params.embedding_size, pixels.shape[1], len(learned_pixels))
    components = PCA(dimensions, random_state=params.seed).fit(learned_pixels)
    gallery_pixels = None
    if data.needs_gallery:
        gallery_pixels = learned_pixels if learned_from is data.gallery_images else flat(data.gallery_images)
    embedded = {
        "raw_pixels": (pixels, gallery_pixels),
        "pca": (
            components.transform(pixels), None if gallery_pixels is None else components.transform(gallery_pixels)
        ),
    }  # fmt: skip
    if network is not None:
        embed = as_untrained(params, network)
        embedded["untrained"] = embed(data.images), embed(data.gallery_images) if data.needs_gallery else None
    return {name: score_embeddings(data, embeddings, gallery) for name, (embeddings, gallery) in embedded.items()}


def as_pixels(shape: tuple[int, int, int], number: int) -> Callable[[Images], np.ndarray]:
    """Returns what makes embeddings of the pixels of images, float32 in [0, 1].

    Args:
        shape: Height, width and channels of the images.
        number: How many there are; where the pixels of so many take too much memory, they are reduced first.
    """
    return functools.partial(_flat, side=_side(shape, number))


def as_untrained(params: Params, network: keras.Model) -> Callable[[Images], np.ndarray]:
    """Returns what embeds images by a network as it is before training, (N, D) float32."""
    predict_step = compile_predict_step(model_fn, Learner(params, network))
    return lambda images: predict(predict_step, images, "embedding, untrained")["embeddings"]


def _side(shape: tuple[int, int, int], number: int) -> int:
    """Returns the side in pixels to which so many images of a shape have to be reduced."""
    height, width, channels = shape
    most = math.isqrt(_MOST_BYTES // (4 * number * channels))
    side = max(height, width)
    if height * width > most**2:
        side = max(1, min(side, most))
        _log.info("Raw pixels and PCA: of the images reduced to %d pixels a side.", side)
    return side


def _flat(images: Images, side: int) -> np.ndarray:
    """Returns the pixels of each image as one row, float32 in [0, 1]; larger images are reduced first."""
    rows = []
    for start in range(0, len(images), _IMAGES_AT_A_TIME):
        some = images[start : start + _IMAGES_AT_A_TIME]
        if max(some.shape[1:3]) > side:
            some = tf.image.resize(some, (side, side), "area").numpy()
        rows.append(some.reshape(len(some), -1).astype(np.float32) / 255)
    return np.concatenate(rows)
