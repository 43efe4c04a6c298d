"""How many digits of the losses are left when all embeddings lie far from the origin.

    python -m benchmarks.offsets
    python -m benchmarks.offsets --root ../an_older_checkout

Adding the same vector to all embeddings changes no distance, so that loss and gradient have to stay what they are. A
batch of 64 embeddings with a spread of 1 is computed in float64 at the origin, and in float32 there and at offsets of
100, 1,000 and 10,000. Printed are the relative errors of the loss and of its gradient.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

OFFSETS = (0, 100, 1_000, 10_000)


def main() -> None:
    """Computes and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="the checkout whose losses are computed, this one if not given")
    options = parser.parse_args()
    if options.root is not None:
        sys.path.insert(0, str(options.root.resolve()))

    from model.common import devices

    devices.start_tensorflow()

    from model.strategies import STRATEGIES

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 8)
    embeddings = rng.normal(size=(64, 16)) + 0.7 * rng.normal(size=(8, 16))[labels]
    embeddings = np.round(embeddings * 2**10) / 2**10  # numbers that float32 holds even beside 10,000
    print(f"{'':<20}{'':<24}" + "".join(f"{f'at {offset:,}':>20}" for offset in OFFSETS))
    for distance in ("euclidean", "squared_euclidean"):
        for name, strategy in STRATEGIES.items():
            if strategy.mines or strategy.of_similarities:  # an offset changes directions
                continue
            loss, gradient = _compute(strategy.load(), labels, embeddings, "float64", distance)
            cells = []
            for offset in OFFSETS:
                found, found_gradient = _compute(strategy.load(), labels, embeddings + offset, "float32", distance)
                errors = abs(found - loss) / abs(loss), _norm(found_gradient - gradient) / _norm(gradient)
                cells.append("{:.1e} {:.1e}".format(*errors))
            print(f"{distance:<20}{name:<24}" + "".join(f"{cell:>20}" for cell in cells))


def _compute(loss_sums, labels, embeddings, dtype, distance):  # type: ignore[no-untyped-def]
    """Returns the loss and its gradient."""
    import tensorflow as tf

    points = tf.constant(embeddings, dtype)
    with tf.GradientTape() as tape:
        tape.watch(points)
        total, count = loss_sums(labels, points, 0.5, distance, tf.constant([1, 2], tf.int64))["loss"]
        loss = total / tf.maximum(count, 1)  # float32 may find no semi-hard negative at all
    return float(loss), tape.gradient(loss, points).numpy()


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values))


if __name__ == "__main__":
    main()
