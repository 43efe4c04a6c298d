"""The loop of training: step, guard, report, evaluate, save; of several processes, one leads it and others follow."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import tensorflow as tf

from model import triplet_loss
from model.common.errors import Interrupted, UserError
from model.common.files import Place
from model.common.peers import Peers
from model.common.signals import StopRequest, stop_requests
from model.data.input_fn import TrainInput
from model.training import agreement, checkpoints, steps
from model.training.doctor import Batch, Finding
from model.training.dues import Dues
from model.training.evaluation import EvalSpec, Validation
from model.training.feeding import Feed, fetch_memory, replicate, send_memory
from model.training.guard import Guard
from model.training.learner import Learner
from model.training.offline_mining import Miner
from model.training.progress import TrainingProgress


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

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """What spreads a training step over devices."""
        return self.train_distribute or tf.distribute.get_strategy()


@dataclass(frozen=True)
class TrainingLoop:
    """The steps of a run that are to come.

    Attributes:
        model_fn: The `model_fn` contract.
        model_dir: Folder of the experiment.
        learner: What learns; its state is that after the step before.
        data: What it learns from.
        to_come: The global steps; none where the run has come to its end.
        eval_spec: What to evaluate on in between, if anything.
        config: How the run is carried out.
    """

    model_fn: steps.ModelFn
    model_dir: Path
    learner: Learner
    data: TrainInput
    to_come: range
    eval_spec: EvalSpec | None
    config: RunConfig

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to do: the run has come to its end, or has stopped early."""
        return not self.to_come or self._gives_up()

    @property
    def _frozen_steps(self) -> int:
        """The steps at the beginning of the run in which the last layer learns alone."""
        return self.data.steps_in(self.learner.params.frozen_epochs)

    def lead(self, place: Place) -> dict[str, float] | None:
        """Makes the steps, and does all there is to do between them.

        Args:
            place: The lock under which all is written.

        Returns:
            The last evaluation, None if there was none.

        Raises:
            UserError, Interrupted: As `Estimator.train`.
        """
        learner, data, to_come, config = self.learner, self.data, self.to_come, self.config
        guard, validation = Guard(learner.params), None
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_requests())
            rates = data.steps_per_epoch, data.images_per_step
            progress = stack.enter_context(TrainingProgress(self.model_dir, *rates, to_come))
            if self.eval_spec:
                validation = Validation(self.eval_spec, self.model_fn, learner, self.model_dir, to_come, place)
                stack.callback(validation.close)

            every = config.save_summary_steps, config.save_checkpoints_steps
            dues = Dues(to_come, *every, validation, data.steps_per_mining)
            for made, result in self._steps(dues.anything):
                step = made[-1]
                guard.note(made.start, result.broken)
                if step == to_come.start:
                    guard.begin(_batch(step, result))
                if step in (to_come.start, self._frozen_steps + 1):
                    result.gradient_norm.numpy()  # waits for the device
                    progress.restart_clock(step)  # tracing and compiling are not what the rate is about
                stopped_by = self._stopped_by(stop, step)
                last = dues.is_last(step) or stopped_by is not None
                report_due, checkpoint_due = dues.report(step), last or dues.checkpoint(step)

                if report_due or checkpoint_due or dues.mining(step):
                    place.check()
                    self._heed(guard.breakdowns(), step, progress)  # waits for the device
                if report_due or checkpoint_due:
                    learner.state = learner.state.after_time(*progress.lap(step))
                if report_due:
                    self._report(step, result, guard, progress)
                if validation and dues.evaluation(step):
                    validation.evaluate()
                    agreement.state_of_chief(config.peers, learner.state)
                gives_up = self._gives_up()
                if gives_up and not report_due:
                    self._report(step, result, guard, progress)
                if gives_up or dues.is_last(step):
                    self._heed(guard.conclude(), step, progress)
                if checkpoint_due:
                    progress.flush()
                    learner.memory = fetch_memory(config.strategy, result.memory)
                    learner.save(self.model_dir, config.keep_checkpoint_max)
                if report_due or checkpoint_due:
                    progress.restart_clock(step)
                if last or gives_up:
                    break

        self._end(step, stopped_by)
        if stop.signal_number is not None and config.peers.number == 1:  # it came while the end was evaluated and saved
            raise Interrupted(f"Stopped at step {step}, which is saved; the same command goes on.", stop.signal_number)
        return validation.scores if validation else None

    def follow(self) -> None:
        """Makes the steps that the chief makes; writes nothing.

        Raises:
            UserError, Interrupted: As `Estimator.train`.
        """
        learner, config, last_step = self.learner, self.config, self.to_come[-1]
        with stop_requests() as stop:
            for (*_, step), result in self._steps():
                stopped_by = self._stopped_by(stop, step)
                if step % config.save_summary_steps == 0:
                    result.gradient_norm.numpy()  # waits for the device, as the chief does
                if self.eval_spec and self.eval_spec.is_due(step, last_step):
                    learner.state = agreement.state_of_chief(config.peers, learner.state)
                if stopped_by or self._gives_up():
                    break
        self._end(step, stopped_by)

    def _steps(self, is_due: Callable[[int], bool] = lambda _: True) -> Iterator[tuple[range, steps.TrainStepResult]]:
        """Makes steps, and yields them with the result of the last of them.

        Several in one call where images are resident and no other process waits for each step: up to one of which
        `is_due` says that there is something to do after it, and for about a quarter of a second.
        """
        learner, data, params = self.learner, self.data, self.learner.params
        strategy, peers = self.config.strategy, self.config.peers
        feed, frozen_steps = Feed(strategy, data.images), self._frozen_steps
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
        memory, pace = send_memory(strategy, learner.memory, params), steps.Pace()
        with contextlib.closing(feed.steps(batch_of, self.to_come, data.steps_per_mining)) as fed:
            for to_make, images, batches, done in fed:
                while to_make:
                    make_steps = head_step if to_make.start <= frozen_steps else train_step
                    arguments = images, labels, batches, done, memory
                    if several:
                        some = to_make[: pace.most]
                        # The first step of the whole network is made alone, as it is compiled for it.
                        ends = (i for i, step in enumerate(some, 1) if is_due(step) or step - frozen_steps in (0, 1))
                        count = next(ends, len(some))
                        result = pace.take(count, make_steps, *arguments)
                    else:
                        count, result = 1, make_steps(*arguments)
                    made, to_make = to_make[:count], to_make[count:]
                    memory = result.memory
                    learner.state = learner.state.after_step(made[-1])
                    yield made, result

    def _gives_up(self) -> bool:
        return self.eval_spec is not None and self.eval_spec.gives_up(self.learner.state)

    def _stopped_by(self, stop: StopRequest, step: int) -> int | None:
        """Returns the signal by which all processes stop after this step, None where they go on."""
        if stop.signal_number is not None:
            self.config.peers.ask_to_stop(stop.signal_number)
        return self.config.peers.stops_after(step)

    def _end(self, step: int, stopped_by: int | None) -> None:
        """Waits until the chief has saved; raises Interrupted where the run is not at its end."""
        self.config.peers.share(b"")
        if stopped_by is not None and step < self.to_come[-1]:
            raise Interrupted(f"Stopped at step {step}, which is saved; the same command goes on.", stopped_by)

    def _report(self, step: int, result: steps.TrainStepResult, guard: Guard, progress: TrainingProgress) -> None:
        """Shows where the run is, and what the doctor finds in its last batch."""
        more = {"broken_steps": guard.broken_steps} if self.learner.params.on_nan == "skip" else {}
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
