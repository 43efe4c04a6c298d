"""Scores the newest checkpoint of the experiment in --model_dir on the test images."""

from pathlib import Path

from model import cli
from model.experiment import open_experiment


def main(model_dir: Path, data_dir: Path | None) -> None:
    """Evaluates and reports."""
    experiment = open_experiment(model_dir, data_dir)
    scores = experiment.evaluate()
    experiment.report(scores)


if __name__ == "__main__":
    cli.run(main, __doc__)
