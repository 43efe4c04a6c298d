"""Time and memory of the search behind the scores, beside pytorch-metric-learning's AccuracyCalculator.

`python -m benchmarks.metrics` (with `pip install -r requirements-bench.txt`) measures precision@1 and MAP@R of 10,000
images among themselves, precision@1 of 10,000 against 60,000, and, ours alone, MAP@R of these. The images are random
points around 10 centers in 64 dimensions. The peer ranks the whole gallery unless it is told how many neighbours the
scores need; "fewest" tells it. Each measurement is a process of its own, and all take turns. Time is that of the
computation, without imports and data; memory is the most that the whole process has held (Linux). "product" is the
matrix product in float32 that an exact search rests on, the least that it can take.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from model.scoring import retrieval
from model.scoring.classification import knn_correct
from model.scoring.labelled import LabelledEmbeddings

_OURS, _PEER, _FEWEST, _PRODUCT = "ours", "peer", "peer, fewest", "product"
# name -> size of the gallery, 0 for the queries themselves, and what is asked
_TASKS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "10,000 among themselves": (0, ("precision_at_1", "map_at_r")),
    "10,000 against 60,000": (60_000, ("precision_at_1",)),
    "10,000 against 60,000, MAP@R": (60_000, ("precision_at_1", "map_at_r")),
}
_ALONE = "10,000 against 60,000, MAP@R"


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # what a new process is asked for
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(*options.measure)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"\n{'':<32}{'':<16}{'s':>8}{'MB':>8}")
    for task in _TASKS:
        contenders = (_OURS, _PRODUCT) if task == _ALONE else (_OURS, _PEER, _FEWEST, _PRODUCT)
        turns = [{name: _in_a_new_process(task, name) for name in contenders} for _ in range(options.turns)]
        seconds = {name: statistics.median(turn[name]["seconds"] for turn in turns) for name in contenders}
        memory = {name: statistics.median(turn[name]["bytes"] for turn in turns) for name in contenders}
        for name in contenders:
            values = {key: value for key, value in turns[0][name].items() if key not in ("seconds", "bytes")}
            shown = "  ".join(f"{key} {value:.6f}" for key, value in values.items())
            print(f"{task:<32}{name:<16}{seconds[name]:>8.2f}{memory[name] / 1e6:>8,.0f}  {shown}", flush=True)
        for name in contenders[1:]:
            ratios = (
                f"{seconds[name] / seconds[_OURS]:.2f} of our time, {memory[name] / memory[_OURS]:.1f} of our memory"
            )
            print(f"  {name}: {ratios}")


def _in_a_new_process(task: str, name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.metrics", "--measure", task, name]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def _measure(task: str, name: str) -> dict[str, float]:
    """Returns the scores, and under "seconds" and "bytes" what they took."""
    gallery_size, asked = _TASKS[task]
    queries = _points(10_000, seed=0)
    gallery = _points(gallery_size, seed=1) if gallery_size else None
    if name in (_PEER, _FEWEST):
        compute = _peer(queries, gallery, asked, is_told=name == _FEWEST)
    else:
        compute = (_ours if name == _OURS else _product)(queries, gallery, asked)
    started = time.perf_counter()
    scores = compute()
    seconds = time.perf_counter() - started
    return {**scores, "seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def _points(count: int, seed: int) -> LabelledEmbeddings:
    centers = np.random.default_rng(2).normal(size=(10, 64))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    embeddings = (0.35 * centers[labels] + rng.normal(size=(count, 64))).astype(np.float32)
    return LabelledEmbeddings(embeddings, labels)


def _ours(
    queries: LabelledEmbeddings, gallery: LabelledEmbeddings | None, asked: tuple[str, ...]
) -> Callable[[], dict[str, float]]:
    def compute() -> dict[str, float]:
        if gallery is not None and asked == ("precision_at_1",):
            return {"precision_at_1": float(knn_correct(queries, gallery).mean())}
        means = retrieval.measure(queries, gallery).means()
        return {name: value for name, value in means.items() if name in asked}

    return compute


def _peer(
    queries: LabelledEmbeddings, gallery: LabelledEmbeddings | None, asked: tuple[str, ...], is_told: bool
) -> Callable[[], dict[str, float]]:
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = {"precision_at_1": "precision_at_1", "map_at_r": "mean_average_precision_at_r"}
    fewest = "max_bin_count" if "map_at_r" in asked else 1
    calculator = AccuracyCalculator(
        tuple(names[name] for name in asked), k=fewest if is_told else None, device=torch.device("cpu")
    )
    both = [queries] if gallery is None else [queries, gallery]
    tensors = [torch.tensor(array) for images in both for array in (images.embeddings, images.labels)]

    def compute() -> dict[str, float]:
        scores = calculator.get_accuracy(*tensors)
        return {name: scores[names[name]] for name in asked}

    return compute


def _product(
    queries: LabelledEmbeddings, gallery: LabelledEmbeddings | None, asked: tuple[str, ...]
) -> Callable[[], dict[str, float]]:
    points, others = queries.embeddings, (queries if gallery is None else gallery).embeddings
    memory = np.empty((250, len(others)), np.float32)

    def compute() -> dict[str, float]:
        for start in range(0, len(points), len(memory)):
            np.matmul(points[start : start + len(memory)], others.T, out=memory)
        return {}

    return compute


if __name__ == "__main__":
    main()
