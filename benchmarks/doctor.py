"""Does the doctor tell collapsed runs from healthy ones?

    python -m benchmarks.doctor

trains 20 experiments that collapse and 20 that do not on 10,000 images of MNIST, 600 steps each, and lists what the
doctor said in each. Whether a run has collapsed is judged without it, by 2,000 test images: their loss is within 1 % of
what it is when all images have the same embedding, and for fewer than half of them the nearest training image is of
their class.
"""

import argparse
import dataclasses
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

from model.common import devices
from model.data import datasets
from model.data.dataset import Dataset, Split

STEPS = 600
SEEDS = (1, 2, 3, 4, 5)
COLLAPSING: dict[str, dict[str, Any]] = {
    "batch hard, learning rate 1e-2": {"triplet_strategy": "batch_hard", "learning_rate": 1e-2},
    "batch hard, learning rate 3e-3": {"triplet_strategy": "batch_hard", "learning_rate": 3e-3},
    "soft margin, learning rate 1e-2": {"triplet_strategy": "batch_hard", "margin": "soft", "learning_rate": 1e-2},
    "batch hard, squared distance, learning rate 1e-2": {
        "triplet_strategy": "batch_hard", "distance": "squared_euclidean", "learning_rate": 1e-2,
    },
}  # fmt: skip
HEALTHY: dict[str, dict[str, Any]] = {
    "batch all": {},
    "batch hard, learning rate 1e-4": {"triplet_strategy": "batch_hard", "learning_rate": 1e-4},
    "soft margin, learning rate 1e-4": {"triplet_strategy": "batch_hard", "margin": "soft", "learning_rate": 1e-4},
    "batch semi-hard, cosine distance": {"triplet_strategy": "batch_semi_hard", "distance": "cosine"},
}


class Warnings(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a warning."""
        self.messages.append(record.getMessage())


def main() -> None:
    """Trains, and prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data/mnist"))
    options = parser.parse_args()
    print(f"{devices.start_tensorflow()}\n", flush=True)

    data = datasets.load("mnist", options.data_dir)
    data = dataclasses.replace(data, train=_first(data.train, 10_000), test=_first(data.test, 2_000))
    warnings = Warnings()
    log = logging.getLogger("model")
    log.addHandler(warnings)
    log.propagate = False
    for title, experiments in (("collapsing", COLLAPSING), ("healthy", HEALTHY)):
        print(f"{title:<50}seed  1-NN    loss  collapsed  the doctor")
        spoke = collapsed = 0
        for name, changes in experiments.items():
            for seed in SEEDS:
                warnings.messages.clear()
                accuracy, loss, has_collapsed = _run(data, {**changes, "seed": seed})
                said = "; ".join(":".join(message.split(":")[:2]) for message in warnings.messages)
                print(f"{name:<50}{seed:4}  {accuracy:.4f}  {loss:.4f}  {has_collapsed!s:<9}  {said}", flush=True)
                spoke += bool(warnings.messages)
                collapsed += has_collapsed
        print(f"{collapsed} of 20 have collapsed, the doctor spoke in {spoke}\n", flush=True)


def _first(split: Split, size: int) -> datasets.Split:
    return Split(split.images[:size], split.labels[:size])


def _run(data: Dataset, changes: dict[str, Any]) -> tuple[float, float, bool]:
    """Trains; returns 1-NN accuracy and loss of the test images, and whether the run has collapsed."""
    from model.data.input_fn import eval_input_fn, train_input_fn
    from model.data.partition import divide
    from model.params import Params
    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn

    params = Params(num_channels=16, save_summary_steps=20, **changes)
    config = RunConfig(params.save_summary_steps, STEPS, 1)
    with tempfile.TemporaryDirectory() as folder:
        estimator = Estimator(model_fn, folder, params, config)
        estimator.train(lambda: train_input_fn(divide(data, params), params), STEPS)
        scores = estimator.evaluate(lambda: eval_input_fn(divide(data, params), params))
    of_equals = params.margin if isinstance(params.margin, float) else math.log(2)
    is_stuck = abs(scores["loss"] - of_equals) < 0.01 * of_equals
    return scores["knn_accuracy"], scores["loss"], is_stuck and scores["knn_accuracy"] < 0.5


if __name__ == "__main__":
    main()
