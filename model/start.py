"""From a folder to an experiment that runs: opens it, and starts TensorFlow and the log."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from model.common import cli, devices, machines
from model.common.images import Kind
from model.common.peers import Peers
from model.common.signals import ending_at_once
from model.common.versions import library_versions, source_sha256
from model.experiment import DataSummary, Experiment, open_experiment

if TYPE_CHECKING:
    from model.runner import Runner

_log = logging.getLogger(__name__)


def start(
    model_dir: Path,
    data_dir: Path | None = None,
    known: DataSummary | None = None,
    *,
    images: Kind = "auto",
    devices_to_train: int | None = 1,
    blank: bool = False,
    peers: Peers | None = None,
) -> "Runner":
    """Opens an experiment, and starts TensorFlow and its log. Nothing is written before it was found good.

    Args:
        model_dir: Folder with the `params.json`.
        data_dir: Folder with the data; None takes `data/<dataset>`.
        known: As for `open_experiment`.
        images: As for `open_experiment`.
        devices_to_train: How many devices share a training step; None takes all GPUs, or one CPU.
        blank: As for `open_experiment`; all that is then left to do is `Runner.check`.
        peers: The processes that train together, each with all of its devices; None for this one alone.

    Returns:
        What trains the experiment, and opens what was trained.

    Raises:
        UserError: The parameters or the data cannot be used, each by itself or with the other, or are not the same
            for all processes.
    """
    peers = peers or Peers.alone()
    experiment = open_experiment(model_dir, data_dir, known, blank, images)
    if peers.number > 1:
        machines.silence_tensorflow()
    with peers.busy():
        device = devices.start_tensorflow()
        with ending_at_once():
            from model.runner import Runner  # which imports TensorFlow

    precision = devices.choose_precision(experiment.params.precision)
    if peers.number > 1:
        peers.compare(_facts_of(experiment, precision), "give all processes the same")
        strategy = machines.share_among(peers.cluster)
    else:
        strategy = devices.share_among(devices_to_train)
    cli.start_log(model_dir / "train.log" if peers.is_chief else None)
    _log.info(device)
    if peers.number > 1:
        _log.info("This is %s.", peers.cluster.name(peers.cluster.index))
    if strategy.num_replicas_in_sync > 1:
        _log.info("%d devices share each batch.", strategy.num_replicas_in_sync)
    if precision != experiment.params.precision:
        _log.info("Precision: %s.", precision)
    for line in experiment.describe():
        _log.info("%s", line)
    return Runner(experiment, strategy, peers)


def _facts_of(experiment: Experiment, precision: str) -> dict[str, str]:
    """Returns what has to be the same for all processes, by what it is called."""
    versions = {f"the version of {name}": version for name, version in library_versions().items() if name != "python"}
    return {
        **{
            f"'{key}' in params.json": json.dumps(value)
            for key, value in json.loads(experiment.params.to_json()).items()
        },
        "the digest of the training images": experiment.summary.train_sha256,
        "the digest of this program": source_sha256(),
        **versions,
        "the number of devices": str(machines.num_devices()),
        "the precision": precision,
    }
