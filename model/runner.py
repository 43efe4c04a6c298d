"""An experiment at work: `Runner` trains it, `Trained` is one of its checkpoints, which scores and embeds."""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from model.common import devices, kept
from model.common.commands import command, tensorboard_command
from model.common.errors import UserError, explain, is_read_only, one_line_errors
from model.common.files import Place
from model.common.images import Images, Kind
from model.common.peers import Peers
from model.common.text import printable
from model.common.versions import Provenance, code_version, library_versions, source_sha256
from model.data.dataset import Split
from model.experiment import Experiment, open_experiment
from model.params import Params
from model.scoring.record import Measurement, Record
from model.studies import hparams_tab
from model.training import checkpoints
from model.training.baselines import as_pixels, as_untrained, score_baselines
from model.training.checkpoints import Checkpoint
from model.training.estimator import (
    Estimator,
    EvalSpec,
    RunConfig,
    TrainSpec,
    train_and_evaluate,
)
from model.training.model_fn import model_fn

_log = logging.getLogger(__name__)

_FILES_OF_SCORES = {"test": "metrics.json", "validation": "validation.json"}
_PIXELS, _UNTRAINED = "raw_pixels", "untrained"


class Runner:
    """Trains an experiment, and opens its checkpoints.

    Args:
        experiment: What to train, under the parameters that its `params.json` has now.
        strategy: What spreads a training step over devices; None takes the default one.
        peers: The processes that train together; None for this one alone.
    """

    def __init__(
        self, experiment: Experiment, strategy: tf.distribute.Strategy | None = None, peers: Peers | None = None
    ) -> None:
        self.experiment = experiment
        self._peers = peers or Peers.alone()
        self._estimator = _make_estimator(experiment, experiment.params, strategy, self._peers)

    @functools.cached_property
    def _train_spec(self) -> TrainSpec:
        data = self.experiment.train_input
        return TrainSpec(lambda: data, data.steps_in(self.experiment.params.num_epochs))

    @functools.cached_property
    def _eval_spec(self) -> EvalSpec | None:
        experiment, params = self.experiment, self.experiment.params
        if experiment.partition.validation is None:
            return None
        return EvalSpec(
            lambda: experiment.images_to_score("validation", params),
            every_steps=experiment.train_input.steps_per_epoch * params.evaluate_every_epochs,
            metric=params.early_stopping_metric,
            patience=params.early_stopping_patience,
            name="validation",
        )

    def check(self) -> Iterator[str]:
        """Yields lines on what training will meet: batches that cannot teach, memory, time."""
        with one_line_errors(self.experiment.model_dir):
            yield from self._estimator.foresee(self.experiment.train_input, self._train_spec.max_steps)

    def train(self) -> None:
        """Trains to the end, or finds that this is done; the validation images, if there are any, are watched."""
        if self._is_complete():
            if not self._peers.is_chief:
                return
            newest = self._estimator.checkpoint("newest")
            newest.check_network(self.experiment.params)
            newest.check_data(self.experiment.data.train_sha256)
            _log.info("Training is complete: %s.", newest.path)
            return
        self._check_trainable()
        if self._eval_spec:
            train_and_evaluate(self._estimator, self._train_spec, self._eval_spec)
        else:
            self._estimator.train(self._train_spec.input_fn, self._train_spec.max_steps)

    def _check_trainable(self) -> None:
        self._estimator.check_trainable(self.experiment.train_input, self._train_spec.max_steps)

    def _is_complete(self) -> bool:
        """Returns whether there is nothing left to train, as the chief finds."""
        if not self._peers.is_chief:
            return bool(self._peers.share(b""))
        complete = self._estimator.is_complete(self._train_spec.max_steps, self._eval_spec)
        return bool(self._peers.share(b"yes" if complete else b""))

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Tells TensorBoard's HParams tab that the experiment runs, while the block does, and then how that ended."""
        model_dir, params = self.experiment.model_dir, self.experiment.params
        complete = self._is_complete()
        if not self._peers.is_chief:
            yield
            return
        if complete:  # then params.json may say by now what nothing was trained with
            params = self._estimator.checkpoint("newest").params
        else:
            self._check_trainable()  # before there is a row of a run that never began
        with one_line_errors(model_dir), hparams_tab.session(model_dir, params):
            yield

    def trained(self, choice: str | None = None) -> "Trained":
        """Opens a checkpoint.

        Args:
            choice: "newest", "best" (the one that the validation images chose) or a folder; None takes the best where
                there are validation images, else the newest.

        Raises:
            UserError: It is not there, cannot be read, or is of another network than that of `params.json`.
        """
        return Trained(self.experiment, self._estimator.checkpoint(choice))

    def trained_beside(self, model_dir: Path, images: Kind = "auto") -> "Trained":
        """Opens what another experiment has learned from images of the same folder of data.

        Args:
            model_dir: Its folder.
            images: Where its images are to lie.

        Raises:
            UserError: As `trained`, or its training images have changed since.
        """
        trained = Runner(open_experiment(model_dir, self.experiment.data_dir, images=images)).trained()
        trained.checkpoint.check_data(trained.experiment.summary.train_sha256)
        return trained


class Trained:
    """A checkpoint of an experiment, under the parameters that it was trained with.

    Args:
        experiment: Whose `params.json` may say something else by now; then this is logged.
        checkpoint: What was trained.

    Raises:
        UserError: `params.json` describes another network, or other data; training images that have changed since are
            only told.
    """

    def __init__(self, experiment: Experiment, checkpoint: Checkpoint) -> None:
        self.experiment = experiment
        self.checkpoint = checkpoint
        # How it is scored is no part of what was trained.
        self.params = checkpoint.params.model_copy(update={"exclude_same_group": experiment.params.exclude_same_group})
        self._place = Place(experiment.model_dir, experiment.model_dir)
        self._unwritten: set[str] = set()
        checkpoint.check_network(experiment.params)
        self._estimator = _make_estimator(experiment, self.params)
        changes = experiment.params.changes_from(self.params).items()
        if changes:
            said = ", ".join(f"{key} {json.dumps(now)} (not {json.dumps(before)})" for key, (before, now) in changes)
            _log.warning(
                "%s/params.json has changed since %s was trained: %s. What follows is of what was trained.",
                experiment.model_dir, checkpoint.path.name, said,
            )  # fmt: skip
        try:
            checkpoint.check_data(experiment.summary.train_sha256)
        except UserError as error:
            _log.warning("%s.", error)

    def embed(self, images: Images, checkpoint: Checkpoint | None = None) -> np.ndarray:
        """Embeds images.

        Args:
            images: (N, H, W, C) uint8, as the network was trained on, N at least 1.
            checkpoint: Another one of the same network; None takes this one.

        Returns:
            (N, D) float32.
        """
        return self._estimator.predict(lambda: images, checkpoint or self.checkpoint)["embeddings"]

    def embed_gallery(self, quietly: bool = False) -> np.ndarray:
        """Returns the embeddings of all training images, from `model_dir/eval/gallery.npz` if they are there.

        Args:
            quietly: Whether nothing is logged where it takes its time.

        Returns:
            (G, D) float32, in the order of `Dataset.train`.

        Raises:
            UserError: The images are not those that the experiment was opened with. If the file cannot be read or
                written, it only takes longer.
        """
        experiment, summary = self.experiment, self.experiment.summary
        path, key = kept.path_in(experiment.model_dir, "gallery"), self.key_of(summary.train_sha256)
        known = kept.read_embeddings(path, key, self.params.embedding_size, len(summary.train_labels))
        if known is not None:
            return known["embeddings"]
        if experiment.data.train_sha256 != summary.train_sha256:
            raise UserError(
                f"{kept.path_in(experiment.model_dir, 'training_images')}: tells of other training images than there "
                "are now; delete it, and run the same command again"
            )
        images = experiment.data.train.images
        if not quietly:
            _log.info("Embedding the %d training images; %s keeps the result.", len(images), path)
        embeddings = self.embed(images)
        kept.write(path, {"key": np.array(key), "embeddings": embeddings})
        return embeddings

    def key_of(self, *images: str) -> str:
        """Returns a digest of all that embeddings are made from, so that no others are taken for them.

        Args:
            images: What tells the images apart from others.
        """
        made_by = source_sha256(), *library_versions().values()
        made_with = self.checkpoint.digest, self.precision, *made_by, *images
        return hashlib.sha256(" ".join(made_with).encode()).hexdigest()

    @property
    def learned(self) -> Split:
        """The images that it has learned from."""
        return self.experiment.partition.train

    @property
    def scores(self) -> Record | None:
        """The last evaluation of the test images; None if it was of another checkpoint, which may have come as far."""
        record = Record.read(self.experiment.model_dir / _FILES_OF_SCORES["test"])
        return record if record is not None and record.digest == self.checkpoint.digest else None

    @property
    def is_of_this_run(self) -> bool:
        """Whether the checkpoint is one of the experiment's own, and not one of another folder."""
        own = checkpoints.list_checkpoints(self.experiment.model_dir)
        return self.checkpoint.path.resolve() in [path.resolve() for path in own]

    def history(self) -> Iterator[Checkpoint]:
        """Yields all checkpoints of the run, the oldest first.

        Raises:
            UserError: One cannot be read.
        """
        for path in checkpoints.list_checkpoints(self.experiment.model_dir):
            checkpoint = checkpoints.load_unless_deleted(path)
            if checkpoint is not None:
                yield checkpoint

    @property
    def precision(self) -> str:
        """The arithmetic of the convolutions."""
        return self._estimator.config.precision

    def in_float32(self) -> "Trained":
        """Returns the same checkpoint at work in float32, whatever the precision of its convolutions."""
        other = copy.copy(self)
        other._estimator = _make_estimator(self.experiment, self.params.model_copy(update={"precision": "float32"}))
        return other

    def serving_network(self) -> keras.Model:
        """Returns the network as other programs run it, as `Estimator.serving_network` does."""
        return self._estimator.serving_network(self.experiment.summary.image_shape, self.checkpoint)

    def export_saved_model(self, export_dir_base: Path) -> Path:
        """Writes a SavedModel, as `Estimator.export_saved_model` does, and returns its folder."""
        shape = self.experiment.summary.image_shape
        return self._estimator.export_saved_model(export_dir_base, shape, self.checkpoint)

    def evaluate(self, baselines: bool = False) -> Record:
        """Scores the test images and writes `metrics.json`.

        Args:
            baselines: Whether to score raw pixels, their principal components and the untrained network as well.

        Raises:
            UserError: The file cannot be written; the scores have been printed then. In a folder that nobody may write
                to, that is only told.
        """
        experiment, params = self.experiment, self.params
        record = self.score("test")
        self.keep(record, "test")
        if baselines:  # which may need more memory than there is
            data = experiment.images_to_score("test", params)
            with one_line_errors(experiment.model_dir):
                scored = score_baselines(data, experiment.train_input.images, params, self._untrained())
            record = dataclasses.replace(record, baselines=scored)
            self.keep(record, "test")
        return record

    def report(self, record: Record, images: str = "test") -> str:
        """Returns the first of the scores as text, and what to do next.

        Args:
            record: As `evaluate` or `validate` return it.
            images: "test" or "validation", which were scored.
        """
        model_dir = self.experiment.model_dir
        pictures = command("visualize_embeddings.py", model_dir, data_dir=self.experiment.data_dir)
        return "\n".join(
            [
                self._report(record, f"{images} images", record.table, _FILES_OF_SCORES[images]),
                f"Pictures: {printable(pictures)}",
                f"Curves:   {printable(tensorboard_command(model_dir.parent))}",
            ]
        )

    def _report(self, record: Record, scored: str, table: str, file: str) -> str:
        """Returns what was scored, by which checkpoint, the table, and where all of it is."""
        chosen = ""
        if record.is_best:
            chosen = f", the best by {printable(str(record.validation['metric']), 60)} of the validation images"
        where = printable(str(self.experiment.model_dir / file))
        return "\n".join(
            [
                f"\n{self.experiment.data.name}, {scored}, step {record.metrics['global_step']:,.0f}{chosen}",
                table,
                "" if file in self._unwritten else f"\nAll metrics: {where}",
            ]
        )

    def measure(self, measurement: Measurement, baselines: bool = False) -> str:
        """Measures what is beside the usual evaluation, and writes it into `eval/`, where it disturbs no other scores.

        Args:
            measurement: What to measure.
            baselines: Whether to measure raw pixels and the untrained network as well.

        Returns:
            The first of the scores as text, and where all of them are.

        Raises:
            UserError: As `evaluate`, or an image cannot be read.
        """
        for note in measurement.notes:
            _log.info("%s.", note)
        embed: dict[str, Callable[[Images], np.ndarray]] = {"network": self.embed}
        if baselines or measurement.with_pixels:
            embed[_PIXELS] = as_pixels(self.experiment.summary.image_shape, measurement.num_images)
        if baselines and (untrained := self._untrained()) is not None:
            embed[_UNTRAINED] = as_untrained(self.params, untrained)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in embed}
        with one_line_errors(self.experiment.model_dir):
            for images in measurement.blocks():
                for name, part in parts.items():
                    part.append(embed[name](images))
        scores = {name: measurement.measure(np.concatenate(part)) for name, part in parts.items()}
        metrics = {"global_step": float(self.checkpoint.step), **scores.pop("network")}
        record = dataclasses.replace(self._record(metrics), baselines=scores, about=measurement.about)
        file, table = f"eval/{measurement.name}.json", measurement.tabulate(metrics, scores)
        self._write(record, file, table)
        return self._report(record, measurement.title, table, file)

    def _untrained(self) -> keras.Model | None:
        return self._estimator.untrained_network(self.experiment.summary.image_shape)

    def validate(self) -> Record:
        """Scores the validation images and writes `validation.json`, as `evaluate` does with the test images."""
        record = self.score("validation")
        self.keep(record, "validation")
        return record

    def keep(self, record: Record, images: str) -> None:
        """Writes scores into the folder of the experiment; prints them before it tells that there is no room.

        Args:
            record: As `score` returns it.
            images: "test" or "validation", which were scored.

        Raises:
            UserError: As `evaluate`.
        """
        self._write(record, _FILES_OF_SCORES[images], record.table)

    def _write(self, record: Record, name: str, table: str) -> None:
        path = self.experiment.model_dir / name
        self._place.check()
        try:
            if path.parent != self.experiment.model_dir:
                path.parent.mkdir(exist_ok=True)
            record.write(path)
        except OSError as error:
            if is_read_only(error):
                _log.warning("%s: cannot be written (%s); these scores are not kept.", path, error.strerror)
                self._unwritten.add(name)
                return
            print(table, flush=True)
            raise UserError(explain(error, path)) from None

    def score(self, images: str) -> Record:
        """Scores the "test" or the "validation" images, and adds the scores to the curves."""
        name = "eval" if images == "test" else "validation"
        scores = self._estimator.evaluate(
            lambda: self.experiment.images_to_score(images, self.params),
            self.checkpoint,
            name,
            # Of validation images another part of the training images is the gallery.
            functools.partial(self.embed_gallery, quietly=True) if images == "test" else None,
        )
        return self._record(scores)

    def _record(self, scores: Mapping[str, float]) -> Record:
        """Returns scores of this checkpoint with what they come from."""
        state = self.checkpoint.state
        validation: dict[str, str | float] = {}
        if state.best_step:
            validation = {
                "metric": state.watched_metric,
                "best_value": state.best_value,
                "best_step": state.best_step,
            }
        return Record(
            self.checkpoint.path.name,
            self.checkpoint.digest,
            scores,
            validation,
            params=self.params.differences(),
            params_history=state.changes,
            provenance=self._provenance(),
        )

    def _provenance(self) -> Provenance:
        """Returns what the scores come from."""
        state, data = self.checkpoint.state, self.experiment.data
        seconds, images_per_step = state.train_seconds, self.params.images_per_step
        return Provenance(
            trained_by=state.code_version,
            evaluated_by=code_version(),
            versions=library_versions(),
            hardware=devices.describe(),
            data_sha256=data.sha256,
            train_seconds=round(seconds, 1) if seconds else None,
            images_per_second=round(state.global_step * images_per_step / seconds, 1) if seconds else None,
        )


def _make_estimator(
    experiment: Experiment,
    params: Params,
    strategy: tf.distribute.Strategy | None = None,
    peers: Peers | None = None,
) -> Estimator:
    config = RunConfig(
        save_summary_steps=params.save_summary_steps,
        save_checkpoints_steps=params.save_checkpoints_steps,
        keep_checkpoint_max=params.keep_checkpoint_max,
        precision=devices.choose_precision(params.precision),
        train_distribute=strategy,
        peers=peers or Peers.alone(),
        data_dir=experiment.data_dir,
    )
    return Estimator(model_fn, experiment.model_dir, params, config)
