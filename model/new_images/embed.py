"""The embeddings of new images, and those of the training images, which are kept from one command to the next."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.common.files import write_whole
from model.new_images import convert
from model.new_images.answers import NewImages
from model.runner import Trained

_log = logging.getLogger(__name__)


def embed_files(trained: Trained, files: Sequence[Path]) -> NewImages:
    """Converts image files to what the training images are, and embeds them.

    Args:
        trained: What embeds them.
        files: Image files, at least one.

    Raises:
        UserError: A file cannot be decoded, or the checkpoint cannot be used.
    """
    training_images = trained.experiment.data.train.images
    framing = convert.learn_framing(training_images)
    converted = [convert.read(file, training_images.shape[1:], framing, trained.params.image_bits) for file in files]
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
        UserError: The checkpoint cannot be used. If the file cannot be read or written, it only takes longer.
    """
    path = trained.experiment.model_dir / "eval" / "gallery.npz"
    images = trained.experiment.data.train.images
    key = _key(trained)
    kept = _read(path, key)
    if kept is not None:
        return kept
    _log.info("Embedding the %d training images; %s keeps the result.", len(images), path)
    embeddings = trained.embed(images)
    content = io.BytesIO()
    np.savez(content, key=key, embeddings=embeddings)
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        _log.warning("%s: cannot be written (%s); the next time takes as long.", path, error.strerror)
    return embeddings


def _key(trained: Trained) -> str:
    """Returns a digest of all that the embeddings are made from, so that no others are taken for them."""
    parts = (trained.checkpoint.digest, trained.precision, trained.experiment.data.train_sha256)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _read(path: Path, key: str) -> np.ndarray | None:
    """Returns the embeddings in a file; None if there are none, if they are damaged, or of another key."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as kept:
            return kept["embeddings"] if kept["key"] == key else None
    except Exception:  # on damaged bytes NumPy and its ZIP reader raise nearly anything
        return None
