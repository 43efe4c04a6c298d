"""An experiment folder, opened: from `params.json` to an estimator and its data, and on to what was measured."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.common import cli, devices
from model.common.commands import command, tensorboard_command
from model.common.errors import UserError
from model.common.versions import Provenance, code_version, library_versions
from model.data import datasets
from model.data.datasets import Dataset
from model.params import Params
from model.scoring.record import Record
from model.scoring.scoreboard import tabulate
from model.studies.curves import read_scalar

if TYPE_CHECKING:
    from model.data.input_fn import EvalInput, TrainInput
    from model.training.estimator import Estimator
    from model.training.learner import RunState

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """The parameters of an experiment, its data, and the estimator that lives in its folder."""

    model_dir: Path
    params: Params
    data: Dataset
    train_input: "TrainInput"
    estimator: "Estimator"

    def checkpoint(self, choice: str | None = None) -> Path:
        """Returns the folder of a checkpoint.

        Args:
            choice: "newest", "best" (the one that the validation images chose) or a folder; None takes the best where
                there are validation images, else the newest.

        Raises:
            UserError: It is not there.
        """
        from model.training import checkpoints

        if choice not in (None, "newest", "best"):
            path = Path(choice)
            if path.is_dir():
                checkpoints.step_of(path)  # has to be a checkpoint's name
            return path
        newest = self.estimator.newest_checkpoint()
        if choice == "newest":
            return newest
        best_step = self.estimator.newest_state().best_step if self.params.has_validation else 0
        best = self.estimator.best_checkpoint() if best_step else None
        if best is not None:
            return best
        if choice == "best":
            raise UserError(
                f"{self.model_dir}: no best checkpoint, which training keeps once it has evaluated the images of "
                "'validation_size' or 'validation_classes' in params.json; choose --checkpoint newest"
            )
        if best_step:
            _log.warning("The best checkpoint, of step %d, is not there any more; taking the newest.", best_step)
        return newest

    def check(self) -> Iterator[str]:
        """Yields lines on what training will meet: batches that cannot teach, memory, time."""
        from model.training import preflight
        from model.training.estimator import one_line_errors

        with one_line_errors(self.model_dir):
            yield from preflight.check(self.train_input, self.params, self.estimator.config.precision)

    def train(self) -> None:
        """Trains to the end, or finds that this is done; the validation images, if there are any, are watched."""
        from model.data.input_fn import validation_input_fn
        from model.training.estimator import EvalSpec, TrainSpec, train_and_evaluate

        params, train_input = self.params, self.train_input
        train_spec = TrainSpec(lambda: train_input, train_input.steps_in(params.num_epochs))
        before = self.estimator.latest_checkpoint()
        if params.has_validation:
            validation_spec = EvalSpec(
                lambda: validation_input_fn(self.data, params),
                every_steps=train_input.steps_per_epoch * params.evaluate_every_epochs,
                metric=params.early_stopping_metric,
                patience=params.early_stopping_patience,
                name="validation",
            )
            train_and_evaluate(self.estimator, train_spec, validation_spec)
        else:
            self.estimator.train(train_spec.input_fn, train_spec.max_steps)
        if before is not None and before == self.estimator.latest_checkpoint():
            _log.info("Training is complete: %s.", before)

    def evaluate(self, choice: str | None = None, baselines: bool = False) -> Record:
        """Scores a checkpoint on the test images and writes `metrics.json`.

        Args:
            choice: As for `checkpoint`.
            baselines: Whether to score raw pixels, their principal components and the untrained network as well.
        """
        from model.data.input_fn import eval_input_fn
        from model.training.baselines import score_baselines
        from model.training.estimator import one_line_errors

        data = eval_input_fn(self.data, self.params)
        record = self._score(data, choice, "eval")
        record.write(self.model_dir / "metrics.json")
        if baselines:  # which may need more memory than there is
            with one_line_errors(self.model_dir):
                scored = score_baselines(data, self.train_input.images, self.params)
            record = dataclasses.replace(record, baselines=scored)
            record.write(self.model_dir / "metrics.json")
        return record

    def validate(self) -> Record:
        """Scores the checkpoint that the validation images chose on these images and writes `validation.json`."""
        from model.data.input_fn import validation_input_fn

        record = self._score(validation_input_fn(self.data, self.params), None, "validation")
        record.write(self.model_dir / "validation.json")
        return record

    def _score(self, data: "EvalInput", choice: str | None, name: str) -> Record:
        from model.training import checkpoints
        from model.training.learner import RunState

        path = self.checkpoint(choice)
        scores = self.estimator.evaluate(lambda: data, path, name)
        tensors = checkpoints.load(path)
        state = RunState.from_checkpoint(path, tensors)
        validation: dict[str, str | float] = {}
        if self.params.has_validation and state.best_step:
            validation = {
                "metric": state.watched_metric,
                "best_value": state.best_value,
                "best_step": state.best_step,
            }
        return Record(
            path.name,
            checkpoints.digest(tensors),
            scores,
            validation,
            params=self.params.differences(),
            provenance=self._provenance(state),
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """The block in which an experiment is trained and scored, which TensorBoard's HParams tab tells of."""
        from model.studies import hparams_tab
        from model.training.estimator import one_line_errors

        with one_line_errors(self.model_dir), hparams_tab.session(self.model_dir, self.params):
            yield

    def _provenance(self, state: "RunState") -> Provenance:
        """Returns what the scores of a checkpoint in this state come from."""
        seconds, trained = 0.0, 0
        for step, steps_per_second in read_scalar(self.model_dir, "global_step/sec").items():
            if step <= state.global_step:
                seconds += (step - trained) / steps_per_second
                trained = step
        return Provenance(
            trained_by=state.code_version,
            evaluated_by=code_version(),
            versions=library_versions(),
            hardware=devices.describe(),
            data_sha256=self.data.sha256,
            train_seconds=round(seconds, 1) if trained else None,
            images_per_second=round(trained * self.train_input.images_per_step / seconds, 1) if trained else None,
        )

    def report(self, record: Record, images: str = "test") -> None:
        """Prints the first of the scores, and says what to do next.

        Args:
            record: As `evaluate` or `validate` return it.
            images: "test" or "validation", which were scored.
        """
        chosen = f", the best by {record.validation['metric']} of the validation images" if record.is_best else ""
        print(f"\n{self.data.name}, {images} images, step {record.metrics['global_step']:,.0f}{chosen}")
        print(tabulate(record.metrics, record.baselines))
        file = "metrics.json" if images == "test" else "validation.json"
        print(f"\nAll metrics: {self.model_dir / file}")
        print(f"Pictures: {command('visualize_embeddings.py', self.model_dir)}")
        print(f"Curves:   {tensorboard_command(self.model_dir.parent)}")


def open_experiment(model_dir: Path, data_dir: Path | None) -> Experiment:
    """Reads the parameters and the data of an experiment, starts TensorFlow and the log.

    Nothing is written before parameters and data have been found good, by themselves and for each other.

    Args:
        model_dir: Folder with the `params.json`.
        data_dir: Folder with the data; None takes `data/<dataset>`.

    Raises:
        UserError: The parameters or the data cannot be used.
    """
    params, notes = Params.from_json_with_notes(model_dir / "params.json")
    device = devices.start_tensorflow()
    data = datasets.load(params.dataset, data_dir, params.image_size)

    from model.data.input_fn import train_input_fn
    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn

    try:
        train_input = train_input_fn(data, params)
    except UserError as error:
        raise UserError(f"{model_dir / 'params.json'}: {error}") from None
    cli.start_log(model_dir / "train.log")
    _log.info(device)
    precision = devices.choose_precision(params.precision)
    if precision != params.precision:
        _log.info("Precision: %s.", precision)
    height, width, channels = data.train.images.shape[1:]
    _log.info(
        "%s: %d training and %d test images of %dx%dx%d, %d classes.",
        data.name, len(data.train.images), len(data.test.images), height, width, channels, len(data.class_names),
    )  # fmt: skip
    if len(train_input.labels) < len(data.train.labels):
        left_out = set(range(len(data.class_names))) - set(train_input.labels.tolist())
        without = f", none of {', '.join(data.class_names[label] for label in sorted(left_out))}" if left_out else ""
        _log.info("Learning from %d of the training images%s.", len(train_input.labels), without)
    for line in notes:
        _log.info("%s/params.json: %s.", model_dir, line)
    config = RunConfig(
        save_summary_steps=params.save_summary_steps,
        save_checkpoints_steps=params.save_checkpoints_steps,
        keep_checkpoint_max=params.keep_checkpoint_max,
        precision=precision,
    )
    return Experiment(model_dir, params, data, train_input, Estimator(model_fn, model_dir, params, config))
