"""Trains and evaluates the experiment in --model_dir, going on where it was if it was trained before."""

import argparse

from model import cli
from model.experiment import open_experiment


def main(options: argparse.Namespace) -> None:
    """Trains to the end, evaluates, and reports."""
    experiment = open_experiment(options.model_dir, options.data_dir)
    experiment.train()
    experiment.report(experiment.evaluate())


if __name__ == "__main__":
    cli.run(main, __doc__)
