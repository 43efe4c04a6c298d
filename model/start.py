"""From an experiment that was opened to one that runs: starts TensorFlow and the log."""

import logging
from typing import TYPE_CHECKING

from model.common import cli, devices
from model.experiment import Experiment

if TYPE_CHECKING:
    from model.runner import Runner

_log = logging.getLogger(__name__)


def start(experiment: Experiment) -> "Runner":
    """Starts TensorFlow and the log of an experiment; nothing is written to its folder before.

    Args:
        experiment: As `open_experiment` returns it.

    Returns:
        What trains it, and opens what was trained.
    """
    device = devices.start_tensorflow()

    from model.runner import Runner  # which imports TensorFlow

    precision = devices.choose_precision(experiment.params.precision)
    cli.start_log(experiment.model_dir / "train.log")
    _log.info(device)
    if precision != experiment.params.precision:
        _log.info("Precision: %s.", precision)
    for line in experiment.describe():
        _log.info("%s", line)
    return Runner(experiment)
