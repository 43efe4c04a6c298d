"""Trains and evaluates the experiment in --model_dir, going on where it was if it was trained before."""

from model.common import signals

signals.end_at_once(__name__)  # Ctrl-C while the rest is imported

import argparse
import os

from model.common import cli, cluster
from model.common.errors import UserError
from model.common.joining import join
from model.common.peers import Peers
from model.common.text import printable
from model.start import start


def main(options: argparse.Namespace) -> None:
    """Trains to the end, scores, and reports; together with other processes, if the environment names some."""
    processes = None if options.check else cluster.from_environment(os.environ)
    if processes is not None and options.devices is not None:
        raise UserError(
            f"--devices: expected none beside the {len(processes.addresses)} processes of the environment, which train "
            f"together, each with all of its GPUs or one CPU; received {options.devices}"
        )
    with join(processes, options.join_timeout) as peers:
        train(options, peers)


def train(options: argparse.Namespace, peers: Peers) -> None:
    """Trains to the end; the chief scores and reports."""
    runner = start(
        options.model_dir,
        options.data_dir,
        images=options.where_images_lie,
        devices_to_train=options.devices,
        blank=options.check,
        peers=peers,
    )
    if options.validate and runner.experiment.partition.validation is None:
        raise UserError(
            f"{options.model_dir / 'params.json'}: 'validation_size' or 'validation_classes' is missing, and the data "
            "have no folder val/: there is nothing to --validate on"
        )
    if options.check:
        for line in runner.check():
            print(printable(line), flush=True)
        return
    images = "validation" if options.validate else "test"
    with runner.session():
        runner.train()
        if options.no_scores or not peers.is_chief:
            return
        trained = runner.trained()
        record = trained.score(images)
    trained.keep(record, images)  # last, so that where there are scores, the run has come to its end in every respect
    print(trained.report(record, images))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument(
        "--check", action="store_true", help="say what to expect of batches, memory and time; train nothing"
    )
    parser.add_argument(
        "--devices",
        type=cli.whole_number(1),
        metavar="N",
        help="share each batch among N devices, by default all GPUs of the machine, or one CPU; without GPUs, they are "
        "logical CPUs",
    )
    parser.add_argument(
        "--join_timeout",
        type=cli.whole_number(1, 10**6),
        default=300,
        metavar="SECONDS",
        help="how long to wait for the other processes that TF_CONFIG or SLURM's srun names",
    )
    at_the_end = parser.add_mutually_exclusive_group()
    at_the_end.add_argument(
        "--validate", action="store_true", help="score the validation images at the end and leave the test images alone"
    )
    at_the_end.add_argument("--no_scores", action="store_true", help="score no images at the end; metrics.json stays")


if __name__ == "__main__":
    cli.run(main, __doc__, add_options=add_options)
