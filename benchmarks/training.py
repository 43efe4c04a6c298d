"""How much of the machine the training loop leaves to the training: images/s of both, and their ratio.

`python -m benchmarks.training` trains the base model on MNIST in two ways: by `Estimator.train`, the loop of train.py
with its curves, progress lines and checkpoints, and by a bare loop that does nothing but call the same compiled step
on the same kind of batches. Machines have other things to do, so the two take turns, a few seconds each, in one
process: each time the Estimator asks for the first batch of a block, the bare loop makes a block of steps. The rates
are those of all blocks together, without the first, in which everything is compiled; the spread is that of the ratio.
"""

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.common import devices
from model.data import datasets
from model.data.dataset import Dataset
from model.data.input_fn import TrainInput, train_input_fn
from model.data.partition import divide
from model.params import Params


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--block", type=int, default=256, help="steps in a turn, a multiple of 64")
    parser.add_argument("--blocks", type=int, default=16, help="turns of each loop; every fourth saves a checkpoint")
    options = parser.parse_args()
    print(devices.start_tensorflow())
    data = datasets.load(options.dataset)
    print(f"{options.dataset}, {options.blocks} turns of {options.block} steps, images/s:\n")
    print(f"{'precision':<24}{'train.py':>10}{'bare loop':>12}{'ratio':>8}   quartiles of the turns' ratios")
    for asked in ("float32", "auto"):
        params = Params(dataset=options.dataset, precision=asked, save_checkpoints_steps=4 * options.block)
        ours, bare = _take_turns(data, params, options.block, options.blocks)
        images = options.block * options.blocks * params.batch_size
        quartiles = statistics.quantiles((b / a for a, b in zip(ours, bare, strict=True)), n=4)
        name = asked if asked == "float32" else f"auto = {devices.choose_precision(asked)}"
        print(
            f"{name:<24}{images / sum(ours):>10,.0f}{images / sum(bare):>12,.0f}{sum(bare) / sum(ours):>8.3f}   "
            + " ".join(f"{quartile:.3f}" for quartile in quartiles),
            flush=True,
        )


def _take_turns(data: Dataset, params: Params, block: int, blocks: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of each block of the Estimator, and of each block of the bare loop."""
    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn

    train_input = train_input_fn(divide(data, params), params)
    precision = devices.choose_precision(params.precision)
    bare_block = bare_loop(train_input, params, precision, block)
    bare_block()
    ours: list[float] = []
    bare: list[float] = []
    started = 0.0

    def batches(step: int) -> np.ndarray:
        nonlocal started
        if step % block == 0:
            if step > block:
                ours.append(time.perf_counter() - started)
                bare.append(bare_block())
            started = time.perf_counter()
        return train_input.batches(step)

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(params.save_summary_steps, params.save_checkpoints_steps, precision=precision)
        estimator = Estimator(model_fn, Path(folder), params, config)
        timed = dataclasses.replace(train_input, batches=batches)
        estimator.train(lambda: timed, (blocks + 1) * block + 1)
    return ours, bare


def bare_loop(train_input: TrainInput, params: Params, precision: str, block: int) -> Callable[[], float]:
    """Returns a function that makes a block of steps and returns its seconds."""
    import tensorflow as tf

    from model.training.estimator import Estimator, RunConfig
    from model.training.model_fn import model_fn
    from model.training.steps import compile_train_step

    estimator = Estimator(model_fn, Path(), params, RunConfig(precision=precision))  # which writes nothing
    learner = estimator.new_learner(train_input, 1)
    step = compile_train_step(model_fn, learner, tf.distribute.get_strategy())
    images, labels = tf.constant(train_input.images), tf.constant(train_input.labels)
    batches = tf.constant(np.stack([train_input.batches(number) for number in range(block)]))

    made = itertools.count(step=block)

    def run() -> float:
        done = tf.constant(next(made), tf.int64)
        started = time.perf_counter()
        for _ in range(block):
            result = step(images, labels, batches, done)
        float(result.sums["loss"][0])  # waits for the device
        return time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
