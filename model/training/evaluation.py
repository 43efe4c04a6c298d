"""Embeds what is to be scored, and scores it: the metrics of `model_fn` and those of the protocol.

`Validation` does so while a run trains; `EvalSpec.gives_up` says when it stops early.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm

from model.common.errors import UserError
from model.common.files import Place
from model.common.images import Images
from model.data.input_fn import EvalInput, check_images
from model.scoring import protocol
from model.scoring.evaluations import Evaluations
from model.scoring.labelled import LabelledEmbeddings
from model.training import event_files, steps
from model.training.learner import Learner
from model.training.run_state import RunState
from model.training.steps import ModelFn

_log = logging.getLogger(__name__)

# Images embedded at a time, and their pixels, which decide how much memory the network needs.
_MAX_IMAGES, _MAX_PIXELS = 1024, 2**20


@dataclass(frozen=True)
class EvalSpec:
    """What `train_and_evaluate` evaluates on, how often, and when it gives up.

    Attributes:
        input_fn: Returns the images to score.
        every_steps: Steps between two evaluations, which need not be a whole number; the last one is at the end.
        metric: The metric by which `RunState.after_evaluation` says which checkpoint is the best; that one is kept.
        patience: Evaluations in a row without a new best after which training stops; None never stops it.
        name: Folder of the event files.
    """

    input_fn: Callable[[], EvalInput]
    every_steps: float
    metric: str = "knn_accuracy"
    patience: int | None = None
    name: str = "eval"

    def is_due(self, step: int, last_step: int) -> bool:
        """Returns whether there is an evaluation after this step of a run that ends with the last one."""
        return step == last_step or step % self.every_steps < 1

    def gives_up(self, state: RunState) -> bool:
        """Returns whether a run in this state is to stop early."""
        return (
            self.patience is not None
            and state.watched_metric == self.metric
            and state.evaluations_without_best >= self.patience
        )


class Evaluator:
    """Evaluates a learner whenever it is asked.

    Args:
        model_fn: The `model_fn` contract.
        learner: What to score, as it is at the time of each evaluation.
        data: The images to score, and the gallery.
        embed_gallery: Returns the embeddings of the gallery, where somebody else knows them; None embeds it.
    """

    def __init__(
        self,
        model_fn: ModelFn,
        learner: Learner,
        data: EvalInput,
        embed_gallery: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self._learner = learner
        self._data = data
        self._eval_step = steps.compile_eval_step(model_fn, learner)
        self._embed_gallery = embed_gallery or functools.partial(
            _embed, steps.compile_predict_step(model_fn, learner), data.gallery_images
        )

    @property
    def num_queries(self) -> int:
        """How many of the images look for others, over which metrics are means."""
        roles = self._data.roles
        return len(self._data.labels) if roles is None else int(np.count_nonzero(roles.is_query))

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
        gallery = self._embed_gallery() if data.needs_gallery else None
        scores = {name: float(total / max(count, 1.0)) for name, (total, count) in totals.items()}
        measured = score_embeddings(data, embeddings, gallery, thorough)
        return {"global_step": self._learner.state.global_step, **scores, **measured}


class Validation:
    """The evaluations of a run while it trains: measured, written, and remembered by its state.

    Args:
        spec: What to evaluate on, and when.
        model_fn: The `model_fn` contract.
        learner: What is trained.
        model_dir: Folder of the experiment.
        steps: The global steps that are going to be made.
        place: The lock under which the run writes.
    """

    def __init__(
        self, spec: EvalSpec, model_fn: ModelFn, learner: Learner, model_dir: Path, steps: range, place: Place
    ) -> None:
        self._spec, self._learner, self._model_dir, self._place = spec, learner, model_dir, place
        self._last_step = steps.stop - 1
        self._evaluator = Evaluator(model_fn, learner, spec.input_fn())
        self._writer = event_files.open_writer(model_dir / spec.name, steps)
        self._kept = Evaluations.read(model_dir / spec.name / "evaluations.json")
        self._kept.forget_after(steps.start - 1)  # lost with the process that wrote them
        self.scores: dict[str, float] | None = None  # of the last evaluation

    def is_due(self, step: int) -> bool:
        """Returns whether there is an evaluation after this step."""
        return self._spec.is_due(step, self._last_step)

    def evaluate(self) -> None:
        """Evaluates the learner as it is.

        Raises:
            UserError: The metric that chooses the best checkpoint is not defined for these images, or the folder is not
                the one that was locked any more.
        """
        self.scores = self._evaluator.evaluate(thorough=False)
        self._place.check()
        write_scores(self._writer, self.scores)
        self._kept.append(self.scores)
        value = self.scores[self._spec.metric]
        if math.isnan(value):
            raise UserError(
                f"{self._model_dir}: {self._spec.metric} is not defined for the images of '{self._spec.name}', so it "
                "cannot choose the best checkpoint; take more of them, or another early_stopping_metric in params.json"
            )
        state = self._learner.state.after_evaluation(self._spec.metric, value, self._evaluator.num_queries)
        self._learner.state = state
        if self._spec.gives_up(state):
            _log.info(
                "Stopped early at step %d: for %d evaluations %s was not above %.4f; the best checkpoint is that of "
                "step %d.",
                state.global_step, state.evaluations_without_best, state.watched_metric, state.best_value,
                state.best_step,
            )  # fmt: skip

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


def score_embeddings(
    data: EvalInput, embeddings: np.ndarray, gallery_embeddings: np.ndarray | None, thorough: bool = True
) -> dict[str, float]:
    """Measures the embeddings of the images to score, whatever has made them.

    Args:
        data: The images to score, and the gallery.
        embeddings: Array of shape (N, D), of the images to score.
        gallery_embeddings: Array of shape (G, D), of the gallery; None, where the data do not need it, measures as if
            there were none.
        thorough: As for `Evaluator.evaluate`.

    Returns:
        What `protocol.score` returns, or `protocol.watch`.
    """
    roles = data.roles
    images = (
        LabelledEmbeddings(embeddings, data.labels)
        if roles is None
        else LabelledEmbeddings(embeddings, data.labels, roles.is_query, roles.is_gallery, roles.group)
    )
    gallery = (
        LabelledEmbeddings(embeddings[:0], data.labels[:0])
        if gallery_embeddings is None
        else LabelledEmbeddings(gallery_embeddings, data.gallery_labels)
    )
    return protocol.score(images, gallery, data.seed, data.groups) if thorough else protocol.watch(images, gallery)


def write_scores(writer: tf.summary.SummaryWriter, scores: Mapping[str, float]) -> None:
    """Writes what `Evaluator.evaluate` returned to an event file, at its global step."""
    with writer.as_default(step=scores["global_step"]):
        event_files.write_scalars({name: score for name, score in scores.items() if name != "global_step"})
    writer.flush()


def predict(
    predict_step: Callable[[np.ndarray], Mapping[str, tf.Tensor]], images: Images, description: str
) -> dict[str, np.ndarray]:
    """Returns the predictions for all images, by name.

    Args:
        predict_step: As `compile_predict_step` makes it.
        images: uint8, of shape (N, H, W, C), N at least 1.
        description: What the progress bar says.

    Raises:
        UserError: An embedding is not finite.
        ValueError: The images are of another type or shape.
    """
    check_images(images)
    size = max(1, min(_MAX_IMAGES, _MAX_PIXELS // (images.shape[1] * images.shape[2])))
    starts = range(0, len(images), size)
    parts = [
        predict_step(images[start : start + size])
        for start in tqdm.tqdm(starts, description, disable=None, leave=False)
    ]
    predictions = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _check_finite(predictions["embeddings"])
    return predictions


def _embed(predict_step: Callable[[np.ndarray], Mapping[str, tf.Tensor]], gallery: Images) -> np.ndarray:
    return predict(predict_step, gallery, "embedding the gallery")["embeddings"]


def _check_finite(embeddings: np.ndarray) -> None:
    if not np.isfinite(embeddings).all():
        raise UserError(
            "an embedding is NaN or infinite, though the weights are finite; train with a lower learning_rate, or "
            "choose another checkpoint with --checkpoint"
        )
