"""Errors of one-shot runs against a loop over exact whole numbers."""

import numpy as np
import pytest

from model.scoring import one_shot
from model.scoring.one_shot import Run


def run_of(test, training, is_right):
    return Run(np.array(test), np.array(training), np.array(is_right, bool))


def error_by_loop(points, run):
    """Whole numbers, one pair at a time: a wrong answer that is as near as the best right one is an error."""
    errors = 0
    for row, test in enumerate(run.test):
        distances = [sum((a - b) ** 2 for a, b in zip(points[test], points[t], strict=True)) for t in run.training]
        right = min(d for d, ok in zip(distances, run.is_right[row], strict=True) if ok)
        errors += any(d <= right for d, ok in zip(distances, run.is_right[row], strict=True) if not ok)
    return errors / len(run.test)


def test_a_case_by_hand():
    """On a line: 0 and 10 are shown. 4 is nearer to 0, 7 to 10, and 5 is as near to both, which is an error."""
    points = np.array([[0.0], [10.0], [4.0], [7.0], [5.0]])
    runs = {"a": run_of([2, 3, 4], [0, 1], [[1, 0], [0, 1], [1, 0]]), "b": run_of([2, 3], [0, 1], [[0, 1], [0, 1]])}
    scores = one_shot.measure(points, runs, 0)
    assert (scores["error/a"], scores["error/b"], scores["error"]) == (1 / 3, 1 / 2, pytest.approx(5 / 12))
    assert (scores["num_runs"], scores["num_test_images"]) == (2, 5)
    assert scores["error_low95"] == pytest.approx(1 / 3) and scores["error_high95"] == 1 / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop_with_ties_duplicates_and_several_images_of_a_class(seed, dtype):
    random = np.random.default_rng(seed)
    points = random.integers(-2, 3, (60, 3))
    runs = {}
    for name in "abc":
        order = random.permutation(60)
        is_right = random.random((20, 12)) < 0.2
        is_right[np.arange(20), random.integers(0, 12, 20)] = True
        is_right[:, 3] &= ~is_right[:, :3].all(axis=1)
        runs[name] = run_of(order[:20], order[20:32], is_right)
    scores = one_shot.measure(points.astype(dtype), runs, seed)
    expected = {name: error_by_loop(points.tolist(), run) for name, run in runs.items()}
    assert {name: scores[f"error/{name}"] for name in runs} == pytest.approx(expected)
    assert any(0 < error < 1 for error in expected.values())
    shifted = one_shot.measure(points.astype(np.float64) + 1e6, runs, seed)
    assert shifted == scores


def test_a_collapsed_network_is_never_lucky():
    runs = {"a": run_of(range(20), range(20, 40), np.eye(20))}
    assert one_shot.measure(np.full((40, 8), 0.1, np.float32), runs, 0)["error"] == 1


def test_the_interval_is_that_of_the_mean_over_runs():
    """Of errors 0 and 1, n each, its ends are near the quantiles of the binomial distribution."""
    points = np.array([[0.0], [10.0], [1.0], [9.0]])
    right, wrong = run_of([2], [0, 1], [[1, 0]]), run_of([3], [0, 1], [[1, 0]])
    runs = {str(i): right if i % 2 else wrong for i in range(20)}
    scores = one_shot.measure(points, runs, 3)
    assert scores["error"] == 0.5  # 0.5 -+ 1.96 sqrt(0.25 / 20) = 0.28, 0.72
    assert scores["error_low95"] == pytest.approx(0.28, abs=0.06)
    assert scores["error_high95"] == pytest.approx(0.72, abs=0.06)


def test_embeddings_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        one_shot.measure(np.array([[0.0], [1.0], [np.nan]]), {"a": run_of([2], [0, 1], [[1, 0]])}, 0)
