"""Embeds what is to be scored, and scores it: the metrics of `model_fn` and those of the protocol."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tqdm

from model.common.errors import UserError
from model.data.input_fn import EvalInput
from model.scoring import protocol
from model.training import steps
from model.training.learner import Learner

# Images embedded at a time, and their pixels, which decide how much memory the network needs.
_MAX_IMAGES, _MAX_PIXELS = 1024, 2**20


class Evaluator:
    """Evaluates a learner whenever it is asked.

    Args:
        model_fn: The `model_fn` contract.
        learner: What to score, as it is at the time of each evaluation.
        data: The images to score, and the gallery.
    """

    def __init__(self, model_fn: steps.ModelFn, learner: Learner, data: EvalInput) -> None:
        self._learner = learner
        self._data = data
        self._eval_step = steps.compile_eval_step(model_fn, learner)
        self._predict_step = steps.compile_predict_step(model_fn, learner)

    def evaluate(self, thorough: bool = True) -> dict[str, float]:
        """Scores the learner as it is.

        Args:
            thorough: Whether to measure all of the protocol, else what can be watched during training.

        Returns:
            "global_step", the metrics of `model_fn` over all images, and those of `protocol.score`.
        """
        data = self._data
        parts: list[np.ndarray] = []
        totals: dict[str, np.ndarray] = {}
        for batch in tqdm.tqdm(data.batches, "evaluating", disable=None, leave=False):
            predictions, sums = self._eval_step(data.images[batch], data.labels[batch])
            for name, pair in sums.items():
                totals[name] = totals.get(name, 0.0) + np.array(pair, np.float64)
            parts.append(predictions["embeddings"].numpy())
        embeddings = np.concatenate(parts)[np.argsort(np.concatenate(data.batches))]  # in the order of the images
        _check_finite(embeddings)
        gallery = predict(self._predict_step, data.gallery_images, "embedding the gallery")["embeddings"]
        scores = {name: float(total / max(count, 1.0)) for name, (total, count) in totals.items()}
        if thorough:
            measured = protocol.score(embeddings, data.labels, gallery, data.gallery_labels, data.seed, data.groups)
        else:
            measured = protocol.watch(embeddings, data.labels, gallery, data.gallery_labels)
        return {"global_step": self._learner.state.global_step, **scores, **measured}


def write_scores(writer: tf.summary.SummaryWriter, scores: Mapping[str, float]) -> None:
    """Writes what `Evaluator.evaluate` returned to an event file, at its global step."""
    with writer.as_default(step=scores["global_step"]):
        for name in scores.keys() - {"global_step"}:
            tf.summary.scalar(name, scores[name])
    writer.flush()


def predict(
    predict_step: Callable[[np.ndarray], Mapping[str, tf.Tensor]], images: np.ndarray, description: str
) -> dict[str, np.ndarray]:
    """Returns the predictions for all images, by name.

    Args:
        predict_step: As `compile_predict_step` makes it.
        images: uint8 array of shape (N, H, W, C), N at least 1.
        description: What the progress bar says.

    Raises:
        UserError: An embedding is not finite.
    """
    if not len(images):
        raise ValueError(f"Expected at least one image. Received: shape {images.shape}")
    size = max(1, min(_MAX_IMAGES, _MAX_PIXELS // (images.shape[1] * images.shape[2])))
    starts = range(0, len(images), size)
    parts = [
        predict_step(images[start : start + size])
        for start in tqdm.tqdm(starts, description, disable=None, leave=False)
    ]
    predictions = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _check_finite(predictions["embeddings"])
    return predictions


def _check_finite(embeddings: np.ndarray) -> None:
    if not np.isfinite(embeddings).all():
        raise UserError(
            "an embedding is NaN or infinite, though the weights are finite; train with a lower learning_rate, or "
            "choose another checkpoint with --checkpoint"
        )
