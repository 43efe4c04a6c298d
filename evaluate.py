"""Scores the newest checkpoint of the experiment in --model_dir on the test images."""

import argparse

from model import cli
from model.experiment import open_experiment


def main(options: argparse.Namespace) -> None:
    """Evaluates and reports."""
    experiment = open_experiment(options.model_dir, options.data_dir)
    scores = experiment.evaluate()
    experiment.report(scores)


if __name__ == "__main__":
    cli.run(main, __doc__)
