"""Published pairs against scikit-learn, loops, and closed forms of the variance."""

import itertools
import statistics

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score, roc_curve

from model.scoring import pairs, verification
from model.scoring.labelled import LabelledEmbeddings


def example(seed, num_pairs=400, high=9):
    """Points on a small grid, so that many pairs are equally far apart; images in several pairs; twins."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 12, 150)
    points = random.integers(0, high, (150, 2)) + 2 * (classes[:, np.newaxis] // np.array([1, 3]))
    points[10:20] = points[20:30]
    found = [pair for pair in random.integers(0, 150, (50 * num_pairs, 2)) if pair[0] != pair[1]]
    same = [pair for pair in found if classes[pair[0]] == classes[pair[1]]][: num_pairs // 2]
    different = [pair for pair in found if classes[pair[0]] != classes[pair[1]]][: num_pairs - len(same)]
    order = random.permutation(num_pairs)
    return points, np.array([*same, *different])[order], (np.arange(num_pairs) < len(same))[order]


def lengths_of(points, listed):
    return np.array([sum((int(a) - int(b)) ** 2 for a, b in zip(*points[pair], strict=True)) ** 0.5 for pair in listed])


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    points, listed, is_same = example(seed)
    lengths = lengths_of(points, listed)
    assert len(set(lengths.tolist())) < 150  # ties
    scores = pairs.measure(points.astype(np.float32), listed, is_same, pairs.deal_into_folds(is_same), 0)
    assert scores["roc_auc"] == pytest.approx(roc_auc_score(is_same, -lengths), abs=1e-12)
    far, tar, _ = roc_curve(is_same, -lengths, drop_intermediate=False)
    for power in (1, 2):
        assert scores[f"tar_at_far_1e-{power}"] == pytest.approx(tar[far <= 10.0**-power].max())
    assert np.isnan(scores["tar_at_far_1e-3"]) and np.isnan(scores["tar_at_far_1e-3_low95"])  # 200 different pairs
    fine = np.linspace(0, 1, 200_001)
    frr = 1 - np.interp(fine, far, tar)
    assert scores["eer"] == pytest.approx(fine[np.abs(frr - fine).argmin()], abs=1e-5)
    assert (scores["num_pairs"], scores["num_same_pairs"]) == (400, is_same.sum())
    assert scores["num_images"] == len(set(listed.ravel().tolist()))


def accuracies_by_loop(lengths, is_same, folds):
    """Tries every threshold between two distances of the other folds, and below and above all, the smallest first."""
    found = []
    for fold in sorted(set(folds)):
        others = [(d, s) for d, s, f in zip(lengths, is_same, folds, strict=True) if f != fold]
        known = sorted({d for d, _ in others})
        candidates = [-1.0, *((a + b) / 2 for a, b in itertools.pairwise(known)), float("inf")]
        threshold = max(candidates, key=lambda t: sum((d <= t) == s for d, s in others))  # the first of several
        mine = [(d, s) for d, s, f in zip(lengths, is_same, folds, strict=True) if f == fold]
        found.append(sum((d <= threshold) == s for d, s in mine) / len(mine))
    return found


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("seed", range(3))
def test_the_accuracy_of_folds_against_a_loop(seed):
    points, listed, is_same = example(seed, 120)
    folds = np.random.default_rng(seed).integers(0, 5, 120)
    folds[:5] = np.arange(5)
    scores = pairs.measure(points.astype(np.float32), listed, is_same, folds, 0)
    expected = accuracies_by_loop(lengths_of(points, listed).tolist(), is_same.tolist(), folds.tolist())
    assert scores["accuracy"] == pytest.approx(statistics.mean(expected))
    error = statistics.stdev(expected) / 5**0.5
    assert scores["accuracy_standard_error"] == pytest.approx(error) and error > 0
    low, high = scipy.stats.t.interval(0.95, 4, statistics.mean(expected), error)
    assert scores["accuracy_low95"] == pytest.approx(low) and scores["accuracy_high95"] == pytest.approx(min(high, 1))
    assert scores["num_folds"] == 5


def test_two_folds_by_hand():
    """Fold 0 alone would choose 2, fold 1 chooses 6: each is judged by the other's."""
    lengths = np.array([1.0, 3.0, 5.0, 7.0])
    is_same = np.array([True, False, True, False])
    found = pairs.fold_accuracies(lengths, is_same, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(found, [0.5, 0.5])
    # At 2 both of fold 1 are called different, at 6 both of fold 0 the same.


def test_pairs_without_folds_are_dealt_as_those_of_lfw():
    """Its file has ten parts, each of 300 same and then 300 different pairs."""
    is_same = np.tile(np.repeat([True, False], 300), 10)
    np.testing.assert_array_equal(pairs.deal_into_folds(is_same), np.repeat(np.arange(10), 600))


def test_few_pairs_make_fewer_folds_and_each_has_both_kinds():
    is_same = np.array([True] * 3 + [False] * 50)
    folds = pairs.deal_into_folds(is_same)
    assert set(folds[:3]) == set(folds[3:]) == {0, 1, 2}


def test_duplicates_are_at_distance_0_wherever_they_lie():
    points = np.random.default_rng(0).normal(1e4, 1, (6, 40)).astype(np.float32)
    points[3:] = points[:3]
    listed = np.array([[0, 3], [4, 1], [2, 5], [0, 1]])
    assert (pairs.pair_distances(points, listed)[:3] == 0).all()
    assert pairs.pair_distances(points, listed[:, ::-1])[3] == pairs.pair_distances(points, listed)[3] > 0


def test_distances_are_computed_in_parts(monkeypatch):
    points, listed, _ = example(0)
    whole = pairs.pair_distances(points, listed)
    monkeypatch.setattr(pairs, "_NUMBERS_AT_A_TIME", 14)
    np.testing.assert_array_equal(pairs.pair_distances(points, listed), whole)


def test_embeddings_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        pairs.pair_distances(np.array([[np.inf], [0.0]]), np.array([[0, 1]]))


def auc_error_of_independent_pairs(lengths, is_same):
    """The standard error of DeLong, DeLong and Clarke-Pearson, 1988, by loops."""
    same, different = lengths[is_same], lengths[~is_same]
    wins = np.array([[(a < b) + (a == b) / 2 for b in different] for a in same])
    variances = wins.mean(axis=1).var(ddof=1) / len(same) + wins.mean(axis=0).var(ddof=1) / len(different)
    return variances**0.5


@pytest.mark.slow
def test_the_interval_of_pairs_without_common_images_is_that_of_delong():
    random = np.random.default_rng(1)
    is_same = np.arange(600) % 2 == 0
    lengths = random.normal(np.where(is_same, 1.0, 2.0), 0.7)
    points = np.zeros((1200, 1))
    points[1::2, 0] = np.abs(lengths)
    scores = pairs.measure(points, np.arange(1200).reshape(600, 2), is_same, pairs.deal_into_folds(is_same), 0)
    half = 1.96 * auc_error_of_independent_pairs(np.abs(lengths), is_same)
    assert (scores["roc_auc_high95"] - scores["roc_auc_low95"]) / 2 == pytest.approx(half, rel=0.15)


@pytest.mark.slow
def test_the_interval_of_all_pairs_is_that_over_images():
    """As `verification` computes it by other means for all pairs of some images, which are far from independent."""
    random = np.random.default_rng(2)
    labels = np.repeat(np.arange(8), 10)
    points = random.normal(size=(8, 4))[labels] + 0.8 * random.normal(size=(80, 4))
    listed = np.array(list(itertools.combinations(range(80), 2)))
    is_same = labels[listed[:, 0]] == labels[listed[:, 1]]
    scores = pairs.measure(points, listed, is_same, pairs.deal_into_folds(is_same), 0)
    expected = verification.measure(LabelledEmbeddings(points, labels), 0)
    assert scores["roc_auc"] == pytest.approx(expected.roc_auc, abs=1e-6)
    for name in ("roc_auc", "eer"):
        width = scores[f"{name}_high95"] - scores[f"{name}_low95"]
        wide = getattr(expected, f"{name}_high95") - getattr(expected, f"{name}_low95")
        assert width == pytest.approx(wide, rel=0.2)
    independent = 2 * 1.96 * auc_error_of_independent_pairs(lengths_by_loop(points, listed), is_same)
    assert scores["roc_auc_high95"] - scores["roc_auc_low95"] > 1.5 * independent


def lengths_by_loop(points, listed):
    return np.array([np.linalg.norm(points[a] - points[b]) for a, b in listed])


@pytest.mark.usefixtures("few_resamples")
def test_two_pairs_of_each_kind_are_enough():
    points = np.array([[0.0], [1.0], [5.0], [9.0]])
    listed = np.array([[0, 1], [1, 0], [0, 2], [1, 3]])
    scores = pairs.measure(points, listed, np.array([True, True, False, False]), np.array([0, 1, 0, 1]), 0)
    assert scores["roc_auc"] == 1 and scores["eer"] == 0 and scores["accuracy"] == 1
    assert np.isnan(scores["tar_at_far_1e-1"])
