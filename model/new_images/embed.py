"""The embeddings of new images, and those of the training images, which are kept from one command to the next."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.common.errors import UserError
from model.common.files import read_bytes
from model.new_images import convert
from model.new_images.answers import NewImages
from model.new_images.training_images import TrainingImages, keep, path_in
from model.runner import Trained

_log = logging.getLogger(__name__)


def embed_files(trained: Trained, files: Sequence[Path], training_images: TrainingImages) -> NewImages:
    """Converts image files to what the training images are, and embeds them.

    Args:
        trained: What embeds them.
        files: Image files, at least one.
        training_images: What they are made like.

    Raises:
        UserError: A file cannot be decoded, or the checkpoint cannot be used.
    """
    shape, framing = training_images.summary.image_shape, training_images.framing
    converted = [
        convert.read(file, shape, framing, trained.params.image_bits, trained.params.image_fit) for file in files
    ]
    for file, image in zip(files, converted, strict=True):
        if image.is_blank:
            _log.warning("%s: shows nothing but background; its embedding means nothing.", file)
    return NewImages(files, converted, trained.embed(np.stack([image.image for image in converted])))


def embed_gallery(trained: Trained) -> np.ndarray:
    """Returns the embeddings of all training images, from `model_dir/eval/gallery.npz` if they are there.

    Args:
        trained: What embeds them.

    Returns:
        (G, D) float32, in the order of `Dataset.train`.

    Raises:
        UserError: The checkpoint cannot be used, or the images are not those that the experiment was opened with. If
            the file cannot be read or written, it only takes longer.
    """
    summary, path = trained.experiment.summary, trained.experiment.model_dir / "eval" / "gallery.npz"
    key = _key(trained)
    kept = _read(path, key, (len(summary.train_labels), trained.params.embedding_size))
    if kept is not None:
        return kept
    data = trained.experiment.data
    if data.train_sha256 != summary.train_sha256:
        raise UserError(
            f"{path_in(trained.experiment.model_dir)}: tells of other training images than there are now; delete it, "
            "and run the same command again"
        )
    images = data.train.images
    _log.info("Embedding the %d training images; %s keeps the result.", len(images), path)
    embeddings = trained.embed(images)
    keep(path, {"key": np.array(key), "embeddings": embeddings})
    return embeddings


def _key(trained: Trained) -> str:
    """Returns a digest of all that the embeddings are made from, so that no others are taken for them."""
    parts = (trained.checkpoint.digest, trained.precision, trained.experiment.summary.train_sha256)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _read(path: Path, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    """Returns the embeddings in a file; None if there are none, if they are damaged, of another key or shape."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as kept:
            embeddings = kept["embeddings"] if kept["key"] == key else None
    except Exception:  # on damaged bytes NumPy and its ZIP reader raise nearly anything
        return None
    fits = embeddings is not None and embeddings.shape == shape and embeddings.dtype == np.float32
    return embeddings if fits else None
