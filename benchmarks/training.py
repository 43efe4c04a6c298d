"""How much of the machine the training loop leaves to the training: images/s of both, and their ratio.

`python -m benchmarks.training` trains the base model on MNIST in two ways, in turn and in one process: by
`Estimator.train`, the loop of train.py with its curves, progress lines and checkpoints, and by a bare loop that does
nothing but call the same compiled step on the same batches. Compilation is not counted, the last checkpoint is.
Machines have other things to do: what counts is the median over the rounds, and that of the ratios.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from model import datasets, hardware
from model.params import Params

_WARM_UP = 50  # steps


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--steps", type=int, default=2000, help="of each loop in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(hardware.start_tensorflow())
    data = datasets.load(options.dataset)
    print(f"{options.dataset}, {options.rounds} rounds of {options.steps} steps, images/s, medians:\n")
    print(f"{'precision':<24}{'train.py':>10}{'bare loop':>12}{'ratio':>8}   ratio of each round")
    for asked in ("float32", "auto"):
        params = Params(dataset=options.dataset, precision=asked)
        rounds = [
            (_estimator(data, params, options.steps), _bare_loop(data, params, options.steps))
            for _ in range(options.rounds)
        ]
        ours, bare = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        ratios = [mine / other for mine, other in rounds]
        name = asked if asked == "float32" else f"auto = {hardware.choose_precision(asked)}"
        each = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{name:<24}{ours:>10,.0f}{bare:>12,.0f}{statistics.median(ratios):>8.3f}   {each}", flush=True)


def _estimator(data: datasets.Dataset, params: Params, steps: int) -> float:
    """Returns the images/s of the Estimator's loop."""
    from model.estimator import Estimator, RunConfig
    from model.input_fn import train_input_fn
    from model.model_fn import model_fn

    train_input = train_input_fn(data, params)
    started = 0.0

    def batches(step: int):  # type: ignore[no-untyped-def]
        nonlocal started
        if step == _WARM_UP:
            started = time.perf_counter()
        return train_input.batches(step)

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(precision=hardware.choose_precision(params.precision))
        estimator = Estimator(model_fn, Path(folder), params, config)
        estimator.train(lambda: dataclasses.replace(train_input, batches=batches), steps)
        return (steps - _WARM_UP) * params.batch_size / (time.perf_counter() - started)


def _bare_loop(data: datasets.Dataset, params: Params, steps: int) -> float:
    """Returns the images/s of the compiled step alone."""
    import tensorflow as tf

    from model.input_fn import train_input_fn
    from model.learner import Learner
    from model.model_fn import build_optimizer, model_fn
    from model.network import build_network
    from model.steps import compile_train_step

    train_input = train_input_fn(data, params)
    network = build_network(params, train_input.images.shape[1:], hardware.choose_precision(params.precision))
    optimizer = build_optimizer(params, steps)
    optimizer.build(network.trainable_variables)
    step = compile_train_step(model_fn, Learner(params, network, optimizer), tf.distribute.get_strategy())
    images, labels = tf.constant(train_input.images), tf.constant(train_input.labels)
    batches = [tf.constant(train_input.batches(number)) for number in range(steps)]
    numbers = [tf.constant(number, tf.int64) for number in range(1, steps + 1)]
    for number in range(_WARM_UP):
        result = step(images, labels, batches[number], numbers[number])
    result.learning_rate.numpy()
    started = time.perf_counter()
    for number in range(_WARM_UP, steps):
        result = step(images, labels, batches[number], numbers[number])
    float(result.sums["loss"][0])  # waits for the device
    return (steps - _WARM_UP) * params.batch_size / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
