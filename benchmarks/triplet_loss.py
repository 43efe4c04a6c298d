"""Time and memory of every loss, value and gradient, beside what others do.

`python -m benchmarks.triplet_loss` takes batches of 64 to 8,192 random embeddings (D = 64, 10 classes) and measures
each strategy, the same loss over the B x B x B tensor ("naive"), semi-hard mining over B^2 x B tiles as TensorFlow
Addons did it ("tiled"), and pytorch-metric-learning where it is installed (`pip install -r requirements-bench.txt`).
`--losses circle "pml CircleLoss"` takes some of them.

At each size all take turns of two calls; the time is the median of the second ones. Memory is the highest that a new
process reaches during its first call at that size, above what it had after a call at a small one (Linux); what XLA
needs to compile is in it. The last rows say how many times faster the losses are than the others, and give the exponent
of B with which the time grows from 512 on.
"""

import argparse
import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.common import devices
from model.strategies import STRATEGIES, Strategy

_SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
_LARGEST = {  # 4 GB and 10 s there, or what fits into 24 GB
    "naive batch_all": 512,
    "tiled semi_hard": 512,
    "pml TripletMarginLoss": 1024,
    "pml MultiSimilarityLoss": 4096,
    "pml CircleLoss": 4096,
}
_COMPARED = (
    ("batch_all", "naive batch_all"),
    ("batch_all", "pml TripletMarginLoss"),
    ("batch_semi_hard", "tiled semi_hard"),
    ("multi_similarity", "pml MultiSimilarityLoss"),
    ("supervised_contrastive", "pml SupConLoss"),
    ("lifted_structured", "pml GeneralizedLifted"),
    ("circle", "pml CircleLoss"),
    ("proxy_anchor", "pml ProxyAnchorLoss"),
    ("arcface", "pml ArcFaceLoss"),
)
_MARGIN = 0.5
_NUM_CLASSES, _DIMENSION = 10, 64

Step = Callable[[], None]  # computes value and gradient, and waits for them


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--losses", nargs="+", metavar="LOSS", help="some of those in the table, all by default")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)  # what a new process is asked for
    options = parser.parse_args()
    device = devices.start_tensorflow()
    if options.memory_of:
        print(_peak_memory(options.memory_of, options.sizes[0]))
        return
    print(device)
    print(f"\n{'B':>6}  {'loss':<24}{'ms':>12}{'MB':>10}")
    times: dict[str, dict[int, float]] = {}
    memory: dict[str, dict[int, float]] = {}
    for size in options.sizes:
        named = options.losses or _contenders()
        makers = {name: _contenders()[name] for name in named if size <= _LARGEST.get(name, size)}
        steps = {name: make(*_batch(size)) for name, make in makers.items()}
        for step in steps.values():
            step()  # compiles
        turns = [{name: _seconds(step) for name, step in steps.items()} for _ in range(options.turns)]
        for name in steps:
            times.setdefault(name, {})[size] = statistics.median(turn[name] for turn in turns)
            arguments = ["--memory_of", name, "--sizes", str(size)]
            command = [sys.executable, "-m", "benchmarks.triplet_loss", *arguments]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            memory.setdefault(name, {})[size] = float(output)
            print(
                f"{size:>6}  {name:<24}{1e3 * times[name][size]:>12,.1f}{memory[name][size] / 1e6:>10,.0f}", flush=True
            )
    for name, other in _COMPARED:
        for size in times.get(other, {}) if name in times else ():
            faster, smaller = (of[other][size] / of[name][size] for of in (times, memory))
            print(f"{name} at B = {size}: {faster:,.1f} times faster than {other}, with 1/{smaller:,.1f} of its memory")
    for name, seconds in times.items():
        large = {math.log(size): math.log(value) for size, value in seconds.items() if size >= 512}
        if len(large) > 2:
            exponent = statistics.linear_regression(list(large), list(large.values())).slope
            print(f"{name:<32}grows as B^{exponent:.2f}")


def _batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, _NUM_CLASSES, size), rng.normal(size=(size, _DIMENSION)).astype(np.float32)


def _contenders() -> dict[str, Callable[[np.ndarray, np.ndarray], Step]]:
    contenders: dict[str, Callable[[np.ndarray, np.ndarray], Step]]
    contenders = {
        name: functools.partial(_tensorflow_step, _with_strategy(strategy))
        for name, strategy in STRATEGIES.items()
        if not strategy.mines
    }
    contenders["naive batch_all"] = functools.partial(_tensorflow_step, _naive_batch_all)
    contenders["tiled semi_hard"] = functools.partial(_tensorflow_step, _tiled_semi_hard)
    try:
        import pytorch_metric_learning  # noqa: F401
    except ImportError:
        return contenders
    return contenders | {f"pml {name}": functools.partial(_pytorch_step, name) for name in _PYTORCH}


def _with_strategy(strategy: Strategy):  # type: ignore[no-untyped-def]
    import tensorflow as tf

    from model import triplet_loss
    from model.training.batch_loss import loss_with_class_vectors
    from model.training.class_vectors import ClassVectors

    vectors = ClassVectors(np.arange(_NUM_CLASSES), _DIMENSION, seed=0) if strategy.learns_class_vectors else None

    def loss(labels, embeddings):  # type: ignore[no-untyped-def]
        seed = tf.constant([230, 0], tf.int64)
        if vectors is not None:
            batch = strategy, labels, embeddings, vectors
            return loss_with_class_vectors(*batch, strategy.margin, seed, strategy.loss_parameters)[0]
        parameters = strategy.margin, strategy.distance, seed
        sums = strategy.load()(labels, embeddings, *parameters, **strategy.loss_parameters)
        return triplet_loss.mean(*sums["loss"])

    return loss


def _naive_batch_all(labels, embeddings):  # type: ignore[no-untyped-def]
    """Batch all as its definition says it."""
    import tensorflow as tf

    from model.triplet_loss import _get_triplet_mask, pairwise_distances

    distances = pairwise_distances(embeddings)
    losses = distances[:, :, tf.newaxis] - distances[:, tf.newaxis, :] + _MARGIN
    losses = tf.maximum(tf.where(_get_triplet_mask(labels), losses, 0.0), 0.0)
    return tf.reduce_sum(losses) / tf.cast(tf.math.count_nonzero(losses), tf.float32)


def _tiled_semi_hard(labels, embeddings):  # type: ignore[no-untyped-def]
    """Semi-hard mining with a row of B candidates for each of the B^2 pairs."""
    import tensorflow as tf

    from model.triplet_loss import (
        _get_anchor_negative_triplet_mask,
        _get_anchor_positive_triplet_mask,
        pairwise_distances,
    )

    distances = pairwise_distances(embeddings)
    size = tf.shape(distances)[0]
    candidates = tf.reshape(tf.tile(distances[:, tf.newaxis], [1, size, 1]), [-1, size])  # (B^2, B)
    negative = _get_anchor_negative_triplet_mask(labels)
    tiled = tf.reshape(tf.tile(negative[:, tf.newaxis], [1, size, 1]), [-1, size])  # (B^2, B)
    farther = tf.logical_and(tiled, candidates > tf.reshape(distances, [-1, 1]))
    nearest = tf.reshape(tf.reduce_min(tf.where(farther, candidates, candidates.dtype.max), axis=1), [size, size])
    exists = tf.reshape(tf.reduce_any(farther, axis=1), [size, size])
    farthest = tf.reduce_max(tf.where(negative, distances, 0.0), axis=1, keepdims=True)
    losses = tf.maximum(distances - tf.where(exists, nearest, farthest) + _MARGIN, 0.0)
    positive = _get_anchor_positive_triplet_mask(labels)
    return tf.reduce_sum(tf.where(positive, losses, 0.0)) / tf.cast(tf.math.count_nonzero(positive), tf.float32)


def _tensorflow_step(loss, labels: np.ndarray, embeddings: np.ndarray) -> Step:  # type: ignore[no-untyped-def]
    import tensorflow as tf

    labels, variable = tf.constant(labels), tf.Variable(embeddings)

    @tf.function
    def value_and_gradient():  # type: ignore[no-untyped-def]
        with tf.GradientTape() as tape:
            value = loss(labels, variable)
        return value, tape.gradient(value, variable)

    def step() -> None:
        for result in value_and_gradient():
            result.numpy()

    return step


def _triplet_margin_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import distances, losses

    return losses.TripletMarginLoss(margin=_MARGIN, distance=distances.LpDistance(normalize_embeddings=False))


def _multi_similarity_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import losses, miners

    loss, miner = losses.MultiSimilarityLoss(2, 50, 1.0), miners.MultiSimilarityMiner(0.1)
    return lambda points, classes: loss(points, classes, miner(points, classes))


def _supervised_contrastive_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import losses

    return losses.SupConLoss(0.1)


def _lifted_structured_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import distances, losses

    return losses.GeneralizedLiftedStructureLoss(1, distance=distances.LpDistance(normalize_embeddings=False))


def _circle_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import losses

    return losses.CircleLoss(0.4, 80)


def _proxy_anchor_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import losses

    return losses.ProxyAnchorLoss(_NUM_CLASSES, _DIMENSION)


def _arcface_loss():  # type: ignore[no-untyped-def]
    from pytorch_metric_learning import losses

    return losses.ArcFaceLoss(_NUM_CLASSES, _DIMENSION)


_PYTORCH: dict[str, Callable[[], Callable]] = {
    "TripletMarginLoss": _triplet_margin_loss,
    "MultiSimilarityLoss": _multi_similarity_loss,
    "SupConLoss": _supervised_contrastive_loss,
    "GeneralizedLifted": _lifted_structured_loss,
    "CircleLoss": _circle_loss,
    "ProxyAnchorLoss": _proxy_anchor_loss,
    "ArcFaceLoss": _arcface_loss,
}


def _pytorch_step(name: str, labels: np.ndarray, embeddings: np.ndarray) -> Step:
    import torch

    loss, classes = _PYTORCH[name](), torch.tensor(labels)

    def step() -> None:
        points = torch.tensor(embeddings, requires_grad=True)
        loss(points, classes).backward()

    return step


def _seconds(step: Step) -> float:
    step()  # not timed: it asks the system for the memory that the contender before it has given back
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _peak_memory(name: str, size: int) -> float:
    """Returns the bytes that the first call takes at its worst, in a process that has done nothing else."""
    _contenders()[name](*_batch(32))()
    step = _contenders()[name](*_batch(size))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    step()
    return max(0.0, _status("VmHWM") - before)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
