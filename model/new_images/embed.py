"""The embeddings of new images, and those of the training images, which are kept from one command to the next."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.common.files import write_whole
from model.experiment import Experiment
from model.new_images import convert
from model.new_images.answers import NewImages
from model.training import checkpoints

_log = logging.getLogger(__name__)


def embed_files(experiment: Experiment, checkpoint: Path, files: Sequence[Path]) -> NewImages:
    """Converts image files to what the training images are, and embeds them.

    Args:
        experiment: What was trained.
        checkpoint: Folder of the checkpoint.
        files: PNG or JPEG files, at least one.

    Raises:
        UserError: A file cannot be decoded, or the checkpoint cannot be used.
    """
    training_images = experiment.data.train.images
    framing = convert.learn_framing(training_images)
    converted = [convert.read(file, training_images.shape[1:], framing) for file in files]
    for file, image in zip(files, converted, strict=True):
        if image.is_blank:
            _log.warning("%s: shows nothing but background; its embedding means nothing.", file)
    return NewImages(files, converted, _embed(experiment, checkpoint, np.stack([image.image for image in converted])))


def embed_gallery(experiment: Experiment, checkpoint: Path) -> np.ndarray:
    """Returns the embeddings of all training images, from `model_dir/eval/gallery.npz` if they are there.

    Args:
        experiment: What was trained.
        checkpoint: Folder of the checkpoint.

    Returns:
        (G, D) float32, in the order of `experiment.data.train`.

    Raises:
        UserError: The checkpoint cannot be used. If the file cannot be read or written, it only takes longer.
    """
    path = experiment.model_dir / "eval" / "gallery.npz"
    images = experiment.data.train.images
    key = _key(experiment, checkpoint)
    kept = _read(path, key)
    if kept is not None:
        return kept
    _log.info("Embedding the %d training images; %s keeps the result.", len(images), path)
    embeddings = _embed(experiment, checkpoint, images)
    content = io.BytesIO()
    np.savez(content, key=key, embeddings=embeddings)
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        _log.warning("%s: cannot be written (%s); the next time takes as long.", path, error.strerror)
    return embeddings


def _embed(experiment: Experiment, checkpoint: Path, images: np.ndarray) -> np.ndarray:
    return experiment.estimator.predict(lambda: images, checkpoint)["embeddings"]


def _key(experiment: Experiment, checkpoint: Path) -> str:
    """Returns a digest of all that the embeddings are made from, so that no others are taken for them."""
    digest = hashlib.sha256((experiment.params.to_json() + experiment.estimator.config.precision).encode())
    digest.update(checkpoints.digest(checkpoints.load(checkpoint)).encode())
    images = np.ascontiguousarray(experiment.data.train.images)
    digest.update(f"images{images.shape}".encode())
    digest.update(images.data)
    return digest.hexdigest()


def _read(path: Path, key: str) -> np.ndarray | None:
    """Returns the embeddings in a file; None if there are none, if they are damaged, or of another key."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as kept:
            return kept["embeddings"] if kept["key"] == key else None
    except Exception:  # on damaged bytes NumPy and its ZIP reader raise nearly anything
        return None
