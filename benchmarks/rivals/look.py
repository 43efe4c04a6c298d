"""Prints the nearest-neighbour accuracy of every checkpoint of a run, with the seconds of training until there."""

import json
import sys
from pathlib import Path

from model.common import devices
from model.experiment import open_experiment
from model.scoring.classification import knn_correct
from model.scoring.labelled import LabelledEmbeddings


def main() -> None:
    """Prints a line for each checkpoint."""
    experiment = open_experiment(Path(sys.argv[1]), None)
    devices.start_tensorflow()
    from model.runner import Runner

    trained = Runner(experiment).trained("newest")
    splits = experiment.partition.data.test, experiment.partition.train
    for checkpoint in trained.history():
        test, train = (LabelledEmbeddings(trained.embed(of.images, checkpoint), of.labels) for of in splits)
        accuracy = float(knn_correct(test, train).mean())
        found = {"step": checkpoint.step, "seconds": checkpoint.state.timed_seconds, "accuracy": accuracy}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
