"""What a number is to be compared with: embeddings that cost no training, under the same protocol."""

import keras
import numpy as np
from sklearn.decomposition import PCA

from model.data.input_fn import EvalInput
from model.params import Params
from model.training.evaluation import predict, score_embeddings
from model.training.learner import Learner
from model.training.model_fn import model_fn
from model.training.steps import compile_predict_step


def score_baselines(
    data: EvalInput, learned_from: np.ndarray, params: Params, network: keras.Model
) -> dict[str, dict[str, float]]:
    """Scores raw pixels, principal components and the network as it is before training.

    Args:
        data: The images to score, and the gallery.
        learned_from: uint8 images of shape (N, H, W, C) that principal components may look at: those that the network
            was trained on.
        params: The experiment. There are as many principal components as the embedding has dimensions, if the images
            have so many.
        network: The network as it is before training.

    Returns:
        For "raw_pixels", "pca" and "untrained", what `protocol.score` returns.
    """
    predict_step = compile_predict_step(model_fn, Learner(params, network))
    pixels, gallery_pixels = _flat(data.images), _flat(data.gallery_images)
    dimensions = min(params.embedding_size, pixels.shape[1], len(learned_from))
    components = PCA(dimensions, random_state=params.seed).fit(_flat(learned_from))
    embedded = {
        "raw_pixels": (pixels, gallery_pixels),
        "pca": (components.transform(pixels), components.transform(gallery_pixels)),
        "untrained": tuple(
            predict(predict_step, images, "embedding, untrained")["embeddings"]
            for images in (data.images, data.gallery_images)
        ),
    }
    return {name: score_embeddings(data, embeddings, gallery) for name, (embeddings, gallery) in embedded.items()}


def _flat(images: np.ndarray) -> np.ndarray:
    """Returns the pixels of each image as one row, (N, H * W * C) float32 in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 255
