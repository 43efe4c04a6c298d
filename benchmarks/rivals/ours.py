"""This project as a contender: `Estimator.train`, the loop of train.py with its curves, progress and checkpoints."""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rivals import serving
from benchmarks.rivals.cases import Case
from model.common import devices
from model.data import datasets
from model.data.input_fn import train_input_fn
from model.data.partition import divide

_NEVER = 10**9


def main() -> None:
    """Serves blocks of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--block", type=int, required=True, help="steps, a multiple of 64")
    options = parser.parse_args()
    devices.start_tensorflow()
    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn

    params = Case(options.experiment, options.batch_size).params(precision=options.precision)
    train_input = train_input_fn(divide(datasets.load(params.dataset), params), params)
    started: float | None = None

    def batches(step: int) -> np.ndarray:
        # Asked for the first batch of a block, the Estimator has made all steps before it.
        nonlocal started
        if step % options.block == 0:
            if started is not None:
                serving.tell(time.perf_counter() - started)
            if not sys.stdin.readline():
                raise SystemExit
            started = time.perf_counter()
        return train_input.batches(step)

    with tempfile.TemporaryDirectory() as folder:
        precision = devices.choose_precision(params.precision)
        config = RunConfig(params.save_summary_steps, params.save_checkpoints_steps, precision=precision)
        timed = dataclasses.replace(train_input, batches=batches)
        Estimator(model_fn, Path(folder), params, config).train(lambda: timed, _NEVER)


if __name__ == "__main__":
    main()
