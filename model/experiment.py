"""An experiment folder, opened: from `params.json` to an estimator and its data, and from scores to `metrics.json`."""

import json
import logging
import math
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model import cli, datasets, hardware
from model.datasets import Dataset
from model.errors import UserError
from model.files import write_whole
from model.params import Params

if TYPE_CHECKING:
    from model.estimator import Estimator
    from model.input_fn import TrainInput

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """The parameters of an experiment, its data, and the estimator that lives in its folder."""

    model_dir: Path
    params: Params
    data: Dataset
    train_input: "TrainInput"
    estimator: "Estimator"

    def evaluate(self) -> dict[str, float]:
        """Scores the newest checkpoint on the test images."""
        from model.input_fn import eval_input_fn

        return self.estimator.evaluate(lambda: eval_input_fn(self.data, self.params))

    def train_and_evaluate(self) -> dict[str, float]:
        """Trains to the end, or finds that this is done, and returns the scores of the end."""
        from model.estimator import EvalSpec, TrainSpec, train_and_evaluate
        from model.input_fn import eval_input_fn

        params, train_input = self.params, self.train_input
        scores = train_and_evaluate(
            self.estimator,
            TrainSpec(lambda: train_input, train_input.steps_in(params.num_epochs)),
            EvalSpec(
                lambda: eval_input_fn(self.data, params),
                every_steps=train_input.steps_per_epoch * params.evaluate_every_epochs,
                metric=params.early_stopping_metric,
                patience=params.early_stopping_patience,
            ),
        )
        if scores is None:
            _log.info("Training is complete: %s.", self.estimator.latest_checkpoint())
            scores = self.evaluate()
        return scores

    def report(self, scores: Mapping[str, float]) -> None:
        """Writes the scores to `metrics.json`, prints them, and says what to do next."""
        written = {name: score if math.isfinite(score) else None for name, score in scores.items()}
        write_whole(self.model_dir / "metrics.json", json.dumps({"metrics": written}, indent=2) + "\n")
        print(f"\n{self.data.name}, {len(self.data.test.images):,} test images, step {scores['global_step']:,.0f}")
        for name, score in scores.items():
            if name != "global_step":
                print(f"  {name:<28}{score:>10.4f}")
        print(f"\nPictures: {shlex.join(['python', 'visualize_embeddings.py', '--model_dir', str(self.model_dir)])}")
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
    params = Params.from_json(model_dir / "params.json")
    device = hardware.start_tensorflow()
    data = datasets.load(params.dataset, data_dir, params.image_size)

    from model.estimator import Estimator, RunConfig
    from model.input_fn import train_input_fn
    from model.model_fn import model_fn

    try:
        train_input = train_input_fn(data, params)
    except UserError as error:
        raise UserError(f"{model_dir / 'params.json'}: {error}") from None
    cli.start_log(model_dir)
    _log.info(device)
    precision = hardware.choose_precision(params.precision)
    if precision != params.precision:
        _log.info("Precision: %s.", precision)
    height, width, channels = data.train.images.shape[1:]
    _log.info(
        "%s: %d training and %d test images of %dx%dx%d, %d classes.",
        data.name, len(data.train.images), len(data.test.images), height, width, channels, len(data.class_names),
    )  # fmt: skip
    for line in params.without_effect():
        _log.info("%s/params.json: %s.", model_dir, line)
    if params.early_stopping_patience is not None:
        _log.info(
            "Early stopping watches %s of the test images: what it stops at looks slightly better than it is.",
            params.early_stopping_metric,
        )
    config = RunConfig(
        save_summary_steps=params.save_summary_steps,
        save_checkpoints_steps=params.save_checkpoints_steps,
        keep_checkpoint_max=params.keep_checkpoint_max,
        precision=precision,
    )
    return Experiment(model_dir, params, data, train_input, Estimator(model_fn, model_dir, params, config))


def tensorboard_command(logdir: Path) -> str:
    """Returns how TensorBoard is called: by its name, or by its path if its environment is not activated."""
    program = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
    return shlex.join([program, "--logdir", str(logdir)])
