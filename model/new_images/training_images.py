"""What is known of the training images without decoding them: what a new image is made like, and what it may show.

It is kept in `model_dir/eval/training_images.npz` from one command to the next.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common import kept
from model.experiment import DataSummary, Experiment
from model.new_images.convert import Framing, learn_framing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The training images, without their pixels.

    Attributes:
        summary: Their shape, labels and names of classes.
        framing: How they lie on their background; None if they have none in common.
    """

    summary: DataSummary
    framing: Framing | None


def path_in(model_dir: Path) -> Path:
    """Returns the file in the folder of an experiment."""
    return kept.path_in(model_dir, "training_images")


def read(model_dir: Path) -> TrainingImages | None:
    """Reads what is kept; None if there is nothing, or nothing that `look_at` can have written."""
    arrays = kept.read(path_in(model_dir))
    try:
        return None if arrays is None else _unpack(arrays)
    except Exception:  # arrays of other kinds, shapes and names make it raise nearly anything
        return None


def look_at(experiment: Experiment, known: TrainingImages | None) -> TrainingImages:
    """Returns what is known already, if the experiment was opened by it, else looks at the images and keeps the result.

    Args:
        experiment: Whose training images they are.
        known: As `read` returned it.
    """
    if known is not None and known.summary is experiment.summary:
        return known
    images, path = experiment.data.train.images, path_in(experiment.model_dir)
    _log.info("Looking at the %d training images; %s keeps the result.", len(images), path)
    seen = TrainingImages(experiment.summary, learn_framing(images))
    kept.write(path, _pack(seen))
    return seen


def _pack(images: TrainingImages) -> dict[str, np.ndarray]:
    summary, framing = images.summary, images.framing
    arrays = {
        "stamp": np.array(summary.stamp),
        "image_shape": np.array(summary.image_shape),
        "class_names": np.array(summary.class_names),
        "train_labels": summary.train_labels,
        "train_sha256": np.array(summary.train_sha256),
        "unseen": np.array(summary.unseen, np.int64),
        "lines": np.array(summary.lines, np.str_),
        "notes": np.array(summary.notes, np.str_),
    }
    if framing is not None:
        peak = math.nan if framing.peak is None else framing.peak
        arrays["background"], arrays["usual"] = framing.background, framing.usual
        arrays["placing"] = np.array([framing.size, *framing.center, framing.by_mass, peak])
    return arrays


def _unpack(arrays: Mapping[str, np.ndarray]) -> TrainingImages:
    """Returns what `_pack` packed; of anything else it raises an error of some kind."""
    height, width, channels = _of(arrays["image_shape"], np.int64, 3).tolist()
    names, labels = _of(arrays["class_names"], np.str_, None), _of(arrays["train_labels"], np.int32, None)
    unseen = _of(arrays["unseen"], np.int64, None)
    used = np.concatenate([labels, unseen])
    lines, notes = (_of(arrays[name], np.str_, None).tolist() for name in ("lines", "notes"))
    if min(height, width) < 1 or channels not in (1, 3) or used.min() < 0 or used.max() >= len(names):
        raise ValueError("Expected labels of classes, and images with 1 or 3 channels.")
    summary = DataSummary(
        arrays["stamp"].item(),
        (height, width, channels),
        tuple(names.tolist()),
        labels,
        arrays["train_sha256"].item(),
        tuple(unseen.tolist()),
        tuple(lines),
        tuple(notes),
    )
    if "placing" not in arrays:
        return TrainingImages(summary, None)
    background, usual = _of(arrays["background"], np.float32, channels), _of(arrays["usual"], np.float64, 2, 5)
    size, y, x, by_mass, peak = _of(arrays["placing"], np.float64, 5).tolist()
    if not (np.isfinite(background).all() and np.isfinite(usual).all() and math.isfinite(y + x) and size > 0):
        raise ValueError("Expected numbers that tell how images lie on their background.")
    framing = Framing(background, size, (y, x), bool(by_mass), None if math.isnan(peak) else peak, usual)
    return TrainingImages(summary, framing)


def _of(array: np.ndarray, kind: type[np.generic], *shape: int | None) -> np.ndarray:
    """Returns an array that is of this kind and shape, in which None is any size."""
    sizes = zip(array.shape, shape, strict=True)
    if not np.issubdtype(array.dtype, kind) or any(size not in (came, None) for came, size in sizes):
        raise ValueError(f"Expected {kind.__name__} {shape}. Received: {array.dtype} {array.shape}")
    return array
