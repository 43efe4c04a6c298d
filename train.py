"""Trains and evaluates the experiment in --model_dir, going on where it was if it was trained before."""

from pathlib import Path

from model import cli
from model.experiment import open_experiment


def main(model_dir: Path, data_dir: Path | None) -> None:
    """Trains to the end, evaluates, and reports."""
    experiment = open_experiment(model_dir, data_dir)
    scores = experiment.train_and_evaluate()
    experiment.report(scores)


if __name__ == "__main__":
    cli.run(main, __doc__)
