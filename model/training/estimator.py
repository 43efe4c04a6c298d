"""Train, evaluate, predict, export: the Estimator contract, with a flat loop that resumes exactly.

Whoever knew `tf.estimator` should feel at home. Three things differ: `model_fn` receives the network explicitly,
metrics are (sum, count) pairs, and the order of the data is a function of the global step, so that a run that was
killed at any moment ends with the same bits as one that was not.
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf

from model import triplet_loss
from model.common.errors import Interrupted, UserError, one_line_errors
from model.common.files import Held, Place, folder_beside, lock_experiment, write_whole
from model.common.images import Images
from model.common.peers import Peers
from model.common.signals import StopRequest, stop_requests
from model.common.versions import code_version
from model.data.input_fn import EvalInput, TrainInput, check_images
from model.params import Params
from model.training import agreement, checkpoints, event_files, preflight, pretrained, steps
from model.training.checkpoints import Checkpoint
from model.training.class_vectors import ClassVectors
from model.training.doctor import Batch, Finding
from model.training.dues import Dues
from model.training.evaluation import EvalSpec, Evaluator, Validation, predict, write_scores
from model.training.feeding import Feed, fetch_memory, replicate, send_memory
from model.training.guard import Guard
from model.training.learner import Learner
from model.training.model_fn import build_optimizer
from model.training.network import build_network
from model.training.offline_mining import Miner
from model.training.progress import TrainingProgress
from model.training.run_state import RunState
from model.training.serving import ServingNetwork

_log = logging.getLogger(__name__)

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class RunConfig:
    """How a run is carried out.

    Attributes:
        save_summary_steps: Steps between two points of the training curves.
        save_checkpoints_steps: Steps between two checkpoints.
        keep_checkpoint_max: Newest checkpoints that are kept.
        precision: "float32" or "mixed_bfloat16", the arithmetic of the convolutions.
        train_distribute: The strategy that spreads a step over devices; None takes the default one.
        data_dir: Folder with the data, where somebody has named it, for the commands that messages show.
        peers: The processes that share the steps by this strategy; the chief writes.
    """

    save_summary_steps: int = 50
    save_checkpoints_steps: int = 1000
    keep_checkpoint_max: int = 5
    precision: str = "float32"
    train_distribute: tf.distribute.Strategy | None = None
    data_dir: Path | None = None
    peers: Peers = field(default_factory=Peers.alone)


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
        self, input_fn: Callable[[], EvalInput], checkpoint: Checkpoint | None = None, name: str = "eval"
    ) -> dict[str, float]:
        """Scores a checkpoint and writes the scores to the event files of `model_dir/name`.

        Args:
            input_fn: Returns the images to score, and the gallery.
            checkpoint: Which checkpoint; None takes the newest.
            name: Folder of the event files.

        Returns:
            "global_step", every metric of `model_fn`, and those of `protocol.score`.

        Raises:
            UserError: There is no checkpoint, or it cannot be used.
        """
        data = input_fn()
        with one_line_errors(self.model_dir):
            learner = self._learner_to_use(data.images.shape[1:], checkpoint)
            place = Place(self.model_dir, self.model_dir)
            scores = Evaluator(self.model_fn, learner, data).evaluate()
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

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """What spreads a training step over devices."""
        return self.config.train_distribute or tf.distribute.get_strategy()

    def check_devices(self, data: TrainInput) -> None:
        """Makes sure that each device gets its part of a batch.

        Raises:
            UserError: The batch cannot be divided so.
        """
        devices, place = self.strategy.num_replicas_in_sync, self.model_dir / "params.json"
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
        """
        new_learner = functools.partial(self.new_learner, data, max_steps)
        yield from preflight.check(data, self.params, new_learner, self.config.precision, self.strategy)

    def _train(self, train_spec: TrainSpec, eval_spec: EvalSpec | None) -> dict[str, float] | None:
        """Trains, and evaluates in between if asked; returns the last evaluation, None if there was none.

        Of several processes, the chief does all this, and the others make its steps.
        """
        with agreement.naming_the_lost(self.config.peers):
            if self.config.peers.is_chief:
                return self._lead(train_spec, eval_spec)
            with one_line_errors(self.model_dir):
                self._follow(train_spec, eval_spec)
            return None

    def _lead(self, train_spec: TrainSpec, eval_spec: EvalSpec | None) -> dict[str, float] | None:
        """Trains, evaluates and writes."""
        self.model_dir.mkdir(parents=True, exist_ok=True)
        with lock_experiment(self.model_dir) as place, one_line_errors(self.model_dir):
            data, max_steps = train_spec.input_fn(), train_spec.max_steps
            learner = self._learner_to_train(data, max_steps)
            to_come = range(learner.state.global_step + 1, max_steps + 1)
            if not to_come or (eval_spec and eval_spec.gives_up(learner.state)):
                return None
            if learner.state.global_step:
                _log.info("Going on from step %d.", learner.state.global_step)
            if self.params.micro_batch_size and self.params.learns_batch_norm:
                _log.info(
                    "Batch normalization sees %d images at a time ('micro_batch_size'), not the whole batch.",
                    self.params.micro_batch_size,
                )
            write_whole(self.model_dir / "params.resolved.json", self.params.to_json())
            return self._loop(learner, data, to_come, eval_spec, place)

    def _follow(self, train_spec: TrainSpec, eval_spec: EvalSpec | None) -> None:
        """Makes the steps that the chief makes; writes nothing."""
        peers, data, max_steps = self.config.peers, train_spec.input_fn(), train_spec.max_steps
        learner = self._learner_to_train(data, max_steps)
        to_come = range(learner.state.global_step + 1, max_steps + 1)
        if not to_come or (eval_spec and eval_spec.gives_up(learner.state)):
            return
        with stop_requests() as stop:
            for (*_, step), result in self._steps(learner, data, to_come):
                stopped_by = self._stopped_by(stop, step)
                if step % self.config.save_summary_steps == 0:
                    result.gradient_norm.numpy()  # waits for the device, as the chief does
                if eval_spec and eval_spec.is_due(step, max_steps):
                    learner.state = agreement.state_of_chief(peers, learner.state)
                if stopped_by or (eval_spec and eval_spec.gives_up(learner.state)):
                    break
        self._end(step, max_steps, stopped_by)

    def _stopped_by(self, stop: StopRequest, step: int) -> int | None:
        """Returns the signal by which all processes stop after this step, None where they go on."""
        if stop.signal_number is not None:
            self.config.peers.ask_to_stop(stop.signal_number)
        return self.config.peers.stops_after(step)

    def _end(self, step: int, max_steps: int, stopped_by: int | None) -> None:
        """Waits until the chief has saved; raises Interrupted where the run is not at its end."""
        self.config.peers.share(b"")
        if stopped_by is not None and step < max_steps:
            raise Interrupted(f"Stopped at step {step}, which is saved; the same command goes on.", stopped_by)

    def _steps(
        self, learner: Learner, data: TrainInput, to_come: range, is_due: Callable[[int], bool] = lambda _: True
    ) -> Iterator[tuple[range, steps.TrainStepResult]]:
        """Makes steps, and yields them with the result of the last of them.

        Several in one call where images are resident and no other process waits for each step: up to one of which
        `is_due` says that there is something to do after it, and for about a quarter of a second.
        """
        strategy, peers = self.strategy, self.config.peers
        feed, frozen_steps = Feed(strategy, data.images), data.steps_in(self.params.frozen_epochs)
        compiled = functools.partial(steps.compile_train_step, self.model_fn, learner, strategy, streams=feed.streams)
        train_step = compiled()
        head_step = compiled(head_alone=True) if frozen_steps else train_step
        several = not feed.streams and peers.number == 1
        if several:
            train_step, head_step = steps.repeat(train_step), steps.repeat(head_step)
        labels = replicate(strategy, data.labels)
        batch_of = data.batches
        if data.steps_per_mining is not None:
            of_chief = functools.partial(agreement.computed_by_chief, peers)
            batch_of = Miner(self.model_fn, learner, data, of_chief).batch
        memory, pace = send_memory(strategy, learner.memory, self.params), steps.Pace()
        with contextlib.closing(feed.steps(batch_of, to_come, data.steps_per_mining)) as fed:
            for to_make, images, batches, done in fed:
                while to_make:
                    make_steps = head_step if to_make.start <= frozen_steps else train_step
                    arguments = images, labels, batches, done, memory
                    if several:
                        some = to_make[: pace.most]
                        ends = (i for i, step in enumerate(some, 1) if is_due(step) or step == frozen_steps)
                        count = next(ends, len(some))
                        result = pace.take(count, make_steps, *arguments)
                    else:
                        count, result = 1, make_steps(*arguments)
                    made, to_make = to_make[:count], to_make[count:]
                    memory = result.memory
                    learner.state = learner.state.after_step(made[-1])
                    yield made, result

    def _loop(
        self,
        learner: Learner,
        data: TrainInput,
        to_come: range,
        eval_spec: EvalSpec | None,
        place: Place,
    ) -> dict[str, float] | None:
        """Makes the steps to come: step, guard, report, evaluate, save; writes only where it holds the lock."""
        config = self.config
        guard, validation = Guard(self.params), None
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_requests())
            rates = data.steps_per_epoch, data.images_per_step
            progress = stack.enter_context(TrainingProgress(self.model_dir, *rates, to_come))
            if eval_spec:
                validation = Validation(eval_spec, self.model_fn, learner, self.model_dir, to_come, place)
                stack.callback(validation.close)

            dues = Dues(to_come, config.save_summary_steps, config.save_checkpoints_steps, validation)
            for made, result in self._steps(learner, data, to_come, dues.anything):
                step = made[-1]
                guard.note(made.start, result.broken)
                if step == to_come.start:
                    guard.begin(_batch(step, result))
                    progress.restart_clock(step)  # tracing and compiling are not what the rate is about
                stopped_by = self._stopped_by(stop, step)
                last = dues.is_last(step) or stopped_by is not None
                report_due, checkpoint_due = dues.report(step), last or dues.checkpoint(step)

                if report_due or checkpoint_due:
                    place.check()
                    self._heed(guard.breakdowns(), step, progress)  # waits for the device
                    learner.state = learner.state.after_time(*progress.lap(step))
                if report_due:
                    self._report(step, result, guard, progress)
                if validation and dues.evaluation(step):
                    validation.evaluate()
                    agreement.state_of_chief(config.peers, learner.state)
                gives_up = eval_spec is not None and eval_spec.gives_up(learner.state)
                if gives_up and not report_due:
                    self._report(step, result, guard, progress)
                if gives_up or dues.is_last(step):
                    self._heed(guard.conclude(), step, progress)
                if checkpoint_due:
                    progress.flush()
                    learner.memory = fetch_memory(self.strategy, result.memory)
                    learner.save(self.model_dir, config.keep_checkpoint_max)
                if report_due or checkpoint_due:
                    progress.restart_clock(step)
                if last or gives_up:
                    break

        self._end(step, to_come.stop - 1, stopped_by)
        return validation.scores if validation else None

    def _report(self, step: int, result: steps.TrainStepResult, guard: Guard, progress: TrainingProgress) -> None:
        """Shows where the run is, and what the doctor finds in its last batch."""
        more = {"broken_steps": guard.broken_steps} if self.params.on_nan == "skip" else {}
        batch = _batch(step, result, more)
        progress.report(batch, result.images)
        self._heed(guard.examine(batch), step, progress)

    def _heed(self, findings: Sequence[Finding], step: int, progress: TrainingProgress) -> None:
        """Tells what was found, and ends a run that cannot go on."""
        for finding in findings:
            if not finding.is_fatal:
                progress.warn(step, finding)
                continue
            progress.write(step, finding)
            saved = checkpoints.list_checkpoints(self.model_dir)
            newest = f"the last checkpoint is {saved[-1].name}" if saved else "there is no checkpoint"
            raise UserError(f"{self.model_dir}: {finding.message}. Training stopped; {newest}.")

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
        known, devices = data.train_sha256 or learner.state.train_sha256, self.strategy.num_replicas_in_sync
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
        with self.strategy.scope():
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


def _batch(step: int, result: steps.TrainStepResult, scalars: Mapping[str, float] = MappingProxyType({})) -> Batch:
    """Returns what a step tells of its batch, and these scalars; waits for the device."""
    metrics = {name: float(triplet_loss.mean(*pair)) for name, pair in result.sums.items()}
    rates = {"learning_rate": float(result.learning_rate), "gradient_norm": float(result.gradient_norm)}
    return Batch(
        step,
        {**metrics, **rates, **scalars},
        result.embeddings.numpy(),
        result.labels.numpy(),
        result.indices.numpy(),
    )
