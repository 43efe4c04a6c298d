"""One-shot classification in runs, the protocol of Lake, Salakhutdinov and Tenenbaum.

A run has its own training images and test images. Each test image is said to be what the training image nearest to it
is, by euclidean distance; one of another class that is as near makes it an error. The published runs are 20, each of 20
characters of one alphabet, with one drawing to learn from and one to recognize.

References:
    Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction, 2015.
    Lake, Salakhutdinov, Tenenbaum: The Omniglot challenge: a 3-year progress report, 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.scoring.classification import nearest_is_right
from model.scoring.intervals import bootstrap_interval


@dataclass(frozen=True, eq=False)
class Run:
    """A run of one-shot classification.

    Attributes:
        test: Integer array of shape (T,), the indices of its test images, T at least 1.
        training: Integer array of shape (S,), the indices of its training images, S at least 1.
        is_right: (T, S) bool, which training images are of the class of each test image.
    """

    test: np.ndarray
    training: np.ndarray
    is_right: np.ndarray


def measure(embeddings: np.ndarray, runs: Mapping[str, Run], seed: int) -> dict[str, float]:
    """Measures the error of each run, and their mean.

    Args:
        embeddings: Array of shape (N, D), of all images.
        runs: By name, at least one.
        seed: From 0 to 2^64 - 1, decides the draws of the bootstrap.

    Returns:
        "num_runs", "num_test_images"; "error", the mean over runs, with "error_low95" and "error_high95", the 95 %
        bootstrap interval over runs; "error/NAME" of each run, the part of its test images that is misclassified.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = np.array([[0.0], [5.0], [1.0], [2.0]])  # two training images, two test images of the same classes
        >>> run = Run(test=np.array([2, 3]), training=np.array([0, 1]), is_right=np.eye(2, dtype=bool))
        >>> measure(line, {"run01": run}, seed=0)["error"]  # 2 should be nearer to 5
        0.5
    """
    errors = {
        name: float(np.mean(~nearest_is_right(embeddings[run.test], embeddings[run.training], run.is_right)))
        for name, run in runs.items()
    }
    low, high = bootstrap_interval(np.array(list(errors.values())), seed)
    return {
        "num_runs": float(len(runs)),
        "num_test_images": float(sum(len(run.test) for run in runs.values())),
        "error": float(np.mean(list(errors.values()))),
        "error_low95": low,
        "error_high95": high,
        **{f"error/{name}": error for name, error in errors.items()},
    }
