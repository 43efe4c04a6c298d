"""Train, evaluate, predict, export: the Estimator contract, over checkpoints from which a run goes on exactly.

Whoever knew `tf.estimator` should feel at home. Three things differ: `model_fn` receives the network explicitly,
metrics are (sum, count) pairs, and the order of the data is a function of the global step, so that a run that was
killed at any moment ends with the same bits as one that was not.
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from model.common.errors import UserError, one_line_errors
from model.common.files import Held, Place, folder_beside, lock_experiment, write_whole
from model.common.images import Images
from model.common.versions import code_version
from model.data.input_fn import EvalInput, TrainInput, check_images
from model.params import Params
from model.training import agreement, checkpoints, event_files, preflight, pretrained, steps
from model.training.checkpoints import Checkpoint
from model.training.class_vectors import ClassVectors
from model.training.evaluation import EvalSpec, Evaluator, predict, write_scores
from model.training.learner import Learner
from model.training.loop import RunConfig, TrainingLoop
from model.training.model_fn import build_optimizer
from model.training.network import build_network
from model.training.run_state import RunState
from model.training.serving import ServingNetwork

_log = logging.getLogger(__name__)

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class TrainSpec:
    """What `train_and_evaluate` trains on, and the absolute global step at which it ends."""

    input_fn: Callable[[], TrainInput]
    max_steps: int


class Estimator:
    """An embedding network that lives in a folder.

    Args:
        model_fn: From a batch and the network to an `EstimatorSpec`; it is traced into the compiled steps.
        model_dir: Folder of the checkpoints and event files. Training goes on from the newest checkpoint in it.
        params: The experiment.
        config: How the run is carried out.
        network_fn: (params, image shape, precision) -> the network; its layers need names of their own. On several
            devices, batch normalization is that of the whole batch in `FusedBatchNormalization`, and in the layer of
            Keras with `synchronized=True`; layers that draw at random draw the same on each device.
        optimizer_fn: (params, max_steps) -> the optimizer.
    """

    def __init__(
        self,
        model_fn: steps.ModelFn,
        model_dir: str | Path,
        params: Params,
        config: RunConfig | None = None,
        *,
        network_fn: Callable[[Params, Shape, str], keras.Model] = build_network,
        optimizer_fn: Callable[[Params, int], keras.optimizers.Optimizer] = build_optimizer,
    ) -> None:
        self.model_fn = model_fn
        self.model_dir = Path(model_dir)
        self.params = params
        self.config = config or RunConfig()
        self.network_fn = network_fn
        self.optimizer_fn = optimizer_fn
        self._predictors: dict[Shape, tuple[Learner, Callable[..., Mapping[str, tf.Tensor]]]] = {}  # traced once
        self._seen: object = None  # the checkpoints that there were when the newest was read
        self._newest: Checkpoint | None = None

    def newest_checkpoint(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, None where there is none; read again only if any has changed.

        Raises:
            UserError: There are checkpoints and all of them are damaged.
        """
        seen = checkpoints.stamps(self.model_dir)
        if seen != self._seen:
            self._newest, self._seen = checkpoints.load_newest(self.model_dir), seen
        return self._newest

    def checkpoint(self, choice: str | None = None) -> Checkpoint:
        """Returns a checkpoint, as `checkpoints.choose` does."""
        return checkpoints.choose(self.model_dir, choice, self.newest_checkpoint, self.config.data_dir)

    def is_complete(self, max_steps: int, eval_spec: EvalSpec | None = None) -> bool:
        """Returns whether the run in the folder has come to this step, or has stopped early."""
        newest = self.newest_checkpoint()
        if newest is None:
            return False
        state = self._without_lost_best(newest.state)
        return state.global_step >= max_steps or (eval_spec is not None and eval_spec.gives_up(state))

    def train(self, input_fn: Callable[[], TrainInput], max_steps: int) -> "Estimator":
        """Trains until the global step is `max_steps`, going on from the newest checkpoint if there is one.

        Args:
            input_fn: Returns the training images and their order.
            max_steps: The absolute global step at which to stop; nothing happens if it has been reached.

        Returns:
            This estimator.

        Raises:
            UserError: The checkpoints cannot be used, or the run broke down (the loss is not a number, the disk is
                full, another process trains here, or `model_dir` was deleted or replaced). What was saved before is
                untouched.
            Interrupted: SIGINT, SIGTERM or SIGHUP came; the state has been saved.
        """
        self._train(TrainSpec(input_fn, max_steps), None)
        return self

    def evaluate(
        self,
        input_fn: Callable[[], EvalInput],
        checkpoint: Checkpoint | None = None,
        name: str = "eval",
        embed_gallery: Callable[[], np.ndarray] | None = None,
    ) -> dict[str, float]:
        """Scores a checkpoint and writes the scores to the event files of `model_dir/name`.

        Args:
            input_fn: Returns the images to score, and the gallery.
            checkpoint: Which checkpoint; None takes the newest.
            name: Folder of the event files.
            embed_gallery: Returns the embeddings of the gallery by that checkpoint, where somebody else knows them;
                None embeds it.

        Returns:
            "global_step", every metric of `model_fn`, and those of `protocol.score`.

        Raises:
            UserError: There is no checkpoint, or it cannot be used.
        """
        data = input_fn()
        with one_line_errors(self.model_dir):
            learner = self._learner_to_use(data.images.shape[1:], checkpoint)
            place = Place(self.model_dir, self.model_dir)
            scores = Evaluator(self.model_fn, learner, data, embed_gallery).evaluate()
            place.check()
        self._add_to_curves(scores, name)
        return scores

    def _add_to_curves(self, scores: Mapping[str, float], name: str) -> None:
        """Writes scores to the event files; where that cannot be, it is told, and the scores are not lost by it."""
        step = int(scores["global_step"])
        not_added = "these scores are not added to its curves"
        try:
            with lock_experiment(self.model_dir):
                writer = event_files.open_writer(self.model_dir / name, range(step, step + 1))
                with contextlib.closing(writer):
                    write_scores(writer, scores)
        except Held:
            _log.info("%s: training goes on here; %s.", self.model_dir, not_added)
        except (OSError, tf.errors.OpError):
            _log.warning("%s: cannot be written; %s.", self.model_dir, not_added)

    def predict(self, input_fn: Callable[[], Images], checkpoint: Checkpoint | None = None) -> dict[str, np.ndarray]:
        """Computes the predictions of `model_fn` for every image.

        Args:
            input_fn: Returns uint8 images of shape (N, H, W, C), N at least 1, as the network was trained on.
            checkpoint: Which checkpoint; None takes the newest.

        Returns:
            By name, arrays whose first dimension is N: "embeddings", (N, D) float32.

        Raises:
            UserError: There is no checkpoint, or it cannot be used.
            ValueError: The images are of another type or shape; nothing is converted.
        """
        images = input_fn()
        check_images(images)
        with one_line_errors(self.model_dir):
            checkpoint = checkpoint or self.checkpoint("newest")
            if images.shape[1:] not in self._predictors:
                learner = self._build_learner(images.shape[1:])
                self._predictors[images.shape[1:]] = learner, steps.compile_predict_step(self.model_fn, learner)
            learner, predict_step = self._predictors[images.shape[1:]]
            learner.restore(checkpoint)
            return predict(predict_step, images, "embedding")

    def export_saved_model(
        self, export_dir_base: str | Path, image_shape: Shape, checkpoint: Checkpoint | None = None
    ) -> Path:
        """Writes a SavedModel for serving: uint8 images (N, *image_shape) in, the predictions out.

        Its `serve` also takes float32 images, of pixels from 0 to 255 as well, and fails where one of them is no whole
        number: TensorFlow would else convert NumPy arrays of floats, NaN among them, without a word. So it does where
        they are handed to `signatures["serve"]`, before anything in the model sees them: 0.5 becomes 0, and 300 becomes
        44. There, hand it a `tf.Tensor`, whose type is checked.

        Args:
            export_dir_base: The model goes into a new folder in it, named by the time in seconds.
            image_shape: Height, width and channels of the images.
            checkpoint: Which checkpoint; None takes the newest.

        Returns:
            The folder of the SavedModel.

        Raises:
            UserError: There is no checkpoint, or it cannot be used.
        """
        learner = self._learner_to_use(image_shape, checkpoint)
        name = int(time.time())
        while (path := Path(export_dir_base) / str(name)).exists():
            name += 1
        archive = keras.export.ExportArchive()
        archive.track(learner.network)
        archive.add_endpoint("serve", steps.compile_serving_step(self.model_fn, learner))
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_beside(path.parent) as beside:
            archive.write_out(str(beside / path.name), verbose=False)
            return (beside / path.name).rename(path)

    def serving_network(self, image_shape: Shape, checkpoint: Checkpoint | None = None) -> ServingNetwork:
        """Returns the network with all that an embedding takes, for the exporters of Keras.

        Args:
            image_shape: Height, width and channels of the images.
            checkpoint: Which checkpoint; None takes the newest.

        Raises:
            UserError: There is no checkpoint, or it cannot be used.
        """
        return ServingNetwork(self.model_fn, self._learner_to_use(image_shape, checkpoint))

    def check_devices(self, data: TrainInput) -> None:
        """Makes sure that each device gets its part of a batch.

        Raises:
            UserError: The batch cannot be divided so.
        """
        devices, place = self.config.strategy.num_replicas_in_sync, self.model_dir / "params.json"
        if data.batch_size % devices:
            raise UserError(
                f"{place}: 'batch_size' must be a multiple of the {devices} devices, received {data.batch_size}; "
                "change it, or how many devices or machines there are"
            )
        part, size = data.images_per_step // devices, self.params.micro_batch_size
        if size and part % size:
            raise UserError(
                f"{place}: 'micro_batch_size' must divide the {part} images of a batch that each of the {devices} "
                f"devices gets, received {size}"
            )

    def check_trainable(self, data: TrainInput, max_steps: int) -> None:
        """Finds what keeps parameters from being trained with that a checkpoint may have all the same.

        Args:
            data: What is to be learned from.
            max_steps: As for `train`.

        Raises:
            UserError: The network does not fit these images or the memory, the warm-up is longer than the run, devices
                cannot share a batch, or the weights to begin with are not there and the run has not begun yet.
        """
        place, shape = self.model_dir / "params.json", data.images.shape[1:]
        problem = preflight.too_small(self.params, shape) or preflight.too_large(self.params, shape)
        if problem := problem or preflight.warm_up_too_long(self.params, max_steps):
            raise UserError(f"{place}: {problem}")
        self.check_devices(data)
        if self.config.peers.is_chief and self.newest_checkpoint() is None:
            pretrained.find(self.params, place)

    def foresee(self, data: TrainInput, max_steps: int) -> Iterator[str]:
        """Yields lines on what training will meet, as `preflight.check` does.

        Args:
            data: What is to be learned from.
            max_steps: As for `train`.

        Raises:
            UserError: Devices cannot share a batch.
        """
        self.check_devices(data)
        new_learner = functools.partial(self.new_learner, data, max_steps)
        yield from preflight.check(data, self.params, new_learner, self.config.precision, self.config.strategy)

    def _train(self, train_spec: TrainSpec, eval_spec: EvalSpec | None) -> dict[str, float] | None:
        """Trains, and evaluates in between if asked; returns the last evaluation, None if there was none.

        Of several processes, the chief evaluates and writes, and the others make its steps.
        """
        with agreement.naming_the_lost(self.config.peers):
            if not self.config.peers.is_chief:
                with one_line_errors(self.model_dir):
                    loop = self._loop(train_spec, eval_spec)
                    if not loop.is_over:
                        loop.follow()
                return None
            self.model_dir.mkdir(parents=True, exist_ok=True)
            with lock_experiment(self.model_dir) as place, one_line_errors(self.model_dir):
                loop = self._loop(train_spec, eval_spec)
                if loop.is_over:
                    return None
                self._announce(loop.learner.state.global_step)
                write_whole(self.model_dir / "params.resolved.json", self.params.to_json())
                return loop.lead(place)

    def _loop(self, train_spec: TrainSpec, eval_spec: EvalSpec | None) -> TrainingLoop:
        """Returns the steps that are still to come."""
        data, max_steps = train_spec.input_fn(), train_spec.max_steps
        learner = self._learner_to_train(data, max_steps)
        to_come = range(learner.state.global_step + 1, max_steps + 1)
        return TrainingLoop(self.model_fn, self.model_dir, learner, data, to_come, eval_spec, self.config)

    def _announce(self, step: int) -> None:
        if step:
            _log.info("Going on from step %d.", step)
        if self.params.micro_batch_size and self.params.learns_batch_norm:
            _log.info(
                "Batch normalization sees %d images at a time ('micro_batch_size'), not the whole batch.",
                self.params.micro_batch_size,
            )

    def _learner_to_train(self, data: TrainInput, max_steps: int) -> Learner:
        """Returns a new learner, or the one of the newest checkpoint."""
        self.check_devices(data)
        learner = self.new_learner(data, max_steps)
        if self.config.peers.is_chief:
            self._go_on(learner, data)
        agreement.begin_alike(self.config.peers, learner, checkpoints.folder(self.model_dir) / "of the chief")
        return learner

    def _go_on(self, learner: Learner, data: TrainInput) -> None:
        """Restores the newest checkpoint, or loads the weights to begin with, and what is known of the run by now."""
        newest = self.newest_checkpoint()
        if newest:
            learner.restore(newest)
            newest.check_data(data.train_sha256)
            learner.state = self._without_lost_best(learner.state)
        else:
            pretrained.load(learner.network, self.params, self.model_dir / "params.json")
        known, devices = data.train_sha256 or learner.state.train_sha256, self.config.strategy.num_replicas_in_sync
        if learner.state.devices not in (devices, 0):
            _log.info("Devices that share a batch: %d, and %d until here.", devices, learner.state.devices)
        learner.state = dataclasses.replace(
            learner.state, train_sha256=known, code_version=code_version(), devices=devices
        )

    def _without_lost_best(self, state: RunState) -> RunState:
        """Returns the state of a run for which a best checkpoint that was deleted does not count."""
        best = checkpoints.folder(self.model_dir) / checkpoints.name_of(state.best_step)
        return state if best.is_dir() else state.without_best()

    def new_learner(self, data: TrainInput, max_steps: int) -> Learner:
        """Returns a learner that has learned nothing yet.

        Args:
            data: What it is to learn from.
            max_steps: At which step the learning rate is to have come to its end.
        """
        with self.config.strategy.scope():
            learner = self._build_learner(data.images.shape[1:])
            if self.params.strategy.learns_class_vectors:
                learner.class_vectors = ClassVectors(data.labels, self.params.embedding_size, self.params.seed)
            learner.optimizer = self.optimizer_fn(self.params, max_steps)
            learner.optimizer.build([*learner.network.trainable_variables, *learner.vectors])
        return learner

    def untrained_network(self, image_shape: Shape) -> keras.Model | None:
        """Returns the network as a run begins with it; None, and a word, if the weights for it are not there any more.

        Args:
            image_shape: Height, width and channels of the images.
        """
        network = self._build_learner(image_shape).network
        try:
            pretrained.load(network, self.params, self.model_dir / "params.json")
        except UserError as error:
            _log.warning("The network before training is left out: %s", error)
            return None
        return network

    def _learner_to_use(self, image_shape: Shape, checkpoint: Checkpoint | None) -> Learner:
        """Returns the learner of a checkpoint, without an optimizer."""
        learner = self._build_learner(image_shape)
        learner.restore(checkpoint or self.checkpoint("newest"))
        return learner

    def _build_learner(self, image_shape: Shape) -> Learner:
        return Learner(self.params, self.network_fn(self.params, image_shape, self.config.precision))


def train_and_evaluate(estimator: Estimator, train_spec: TrainSpec, eval_spec: EvalSpec) -> dict[str, float] | None:
    """Trains to the end with evaluations in between, the last one at the end.

    Args:
        estimator: What to train; it goes on from its newest checkpoint.
        train_spec: What to train on, and until which step.
        eval_spec: What to evaluate on, how often, and when to give up.

    Returns:
        The metrics of the last evaluation, those of `protocol.watch`; None where training was complete before.

    Raises:
        UserError, Interrupted: As `Estimator.train`.
    """
    return estimator._train(train_spec, eval_spec)
