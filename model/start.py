"""From a folder to an experiment that runs: opens it, and starts TensorFlow and the log."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from model.common import cli, devices
from model.common.signals import ending_at_once
from model.experiment import DataSummary, open_experiment

if TYPE_CHECKING:
    from model.runner import Runner

_log = logging.getLogger(__name__)


def start(
    model_dir: Path,
    data_dir: Path | None = None,
    known: DataSummary | None = None,
    *,
    devices_to_train: int | None = 1,
    blank: bool = False,
) -> "Runner":
    """Opens an experiment, and starts TensorFlow and its log. Nothing is written before it was found good.

    Args:
        model_dir: Folder with the `params.json`.
        data_dir: Folder with the data; None takes `data/<dataset>`.
        known: As for `open_experiment`.
        devices_to_train: How many devices share a training step; None takes all GPUs, or one CPU.
        blank: As for `open_experiment`; all that is then left to do is `Runner.check`.

    Returns:
        What trains the experiment, and opens what was trained.

    Raises:
        UserError: The parameters or the data cannot be used, each by itself or with the other.
    """
    experiment = open_experiment(model_dir, data_dir, known, blank)
    device = devices.start_tensorflow()
    strategy = devices.share_among(devices_to_train)
    with ending_at_once():
        from model.runner import Runner  # which imports TensorFlow

    precision = devices.choose_precision(experiment.params.precision)
    cli.start_log(model_dir / "train.log")
    _log.info(device)
    if strategy.num_replicas_in_sync > 1:
        _log.info("%d devices share each batch.", strategy.num_replicas_in_sync)
    if precision != experiment.params.precision:
        _log.info("Precision: %s.", precision)
    for line in experiment.describe():
        _log.info("%s", line)
    return Runner(experiment, strategy)
