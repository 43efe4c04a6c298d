"""Verification of pairs against scikit-learn, by hand, and a bootstrap that spares nothing."""

import ml_dtypes
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from model.scoring import intervals, neighbors, verification
from model.tests import oracles
from model.tests.scoring.points import clusters, labelled, pairs, some, whole_numbers

CALIBRATED = {"verification_threshold", "verification_accuracy", "false_accept_rate", "false_reject_rate"}


def rates(lengths, is_same, threshold):
    """FAR and TAR."""
    return np.mean(lengths[~is_same] <= threshold), np.mean(lengths[is_same] <= threshold)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "num_images", "pairs_at_a_time"),
    [("whole", 55, 1), ("real", 160, 10_000), ("whole", 160, 10**7)],  # one image at a time, some, all
)
def test_verification_is_that_of_scikit_learn(monkeypatch, kind, num_images, pairs_at_a_time):
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    images = clusters(num_images, 0.8)
    if kind == "whole":
        images = labelled(np.round(images.embeddings * 2), images.labels)  # many ties
    lengths, is_same = pairs(images)
    scores = verification.measure(images, 0).scores()
    assert scores["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(is_same, -lengths), abs=1e-6)
    far, tar, thresholds = sklearn.metrics.roc_curve(is_same, -lengths, drop_intermediate=False)
    after = np.flatnonzero(far + tar >= 1)[0]
    below, above = 1 - far[after - 1] - tar[after - 1], far[after] + tar[after] - 1
    eer = (far[after - 1] * above + far[after] * below) / (above + below)
    assert scores["eer"] == pytest.approx(eer, abs=1e-6)
    nearest = np.abs(far + tar - 1).argmin()
    assert rates(lengths, is_same, scores["eer_threshold"]) == pytest.approx((far[nearest], tar[nearest]))
    for power in (1, 2, 3):
        last = np.flatnonzero(far <= 10.0**-power)[-1]
        threshold = scores[f"threshold_at_far_1e-{power}"]
        assert rates(lengths, is_same, threshold) == pytest.approx((far[last], tar[last]))
        assert scores[f"tar_at_far_1e-{power}"] == pytest.approx(tar[last])
        following = np.append(-thresholds, np.inf)[last + 1]
        assert max(0, -thresholds[last]) < threshold < following  # between two distances, in the middle
        assert threshold == pytest.approx((-thresholds[last] + following) / 2, abs=1e-4)
    assert np.isfinite(scores["tar_at_far_1e-4"]) == (sum(~is_same) >= 10**4) == (num_images == 160)


def test_verification_by_hand():
    """On a line: 0 and 1 are A, 3 and 7 are B. Same: 1, 4; different: 2, 3, 6, 7."""
    found = verification.measure(labelled([[0.0], [1.0], [3.0], [7.0]], [0, 0, 1, 1]), 0)
    assert found.roc_auc == 6 / 8
    # Thresholds accept: 1 same; then 2 and 3, different (FAR 1/2, FRR 1/2).
    assert found.eer == 0.5
    assert found.eer_threshold == pytest.approx(3.5, abs=1e-4)
    assert np.isnan([*found.tar_at_far, *found.threshold_at_far]).all()  # 4 different pairs


def test_the_roc_curve_by_hand():
    """The same images: 1 is accepted first, then 2 and 3, different, then 4, then 6 and 7."""
    found = verification.roc_curve(labelled([[0.0], [1.0], [3.0], [7.0]], [0, 0, 1, 1]))
    assert found.far.tolist() == [0, 0, 0.25, 0.5, 0.5, 0.75, 1]
    assert found.tar.tolist() == [0, 0.5, 0.5, 0.5, 1, 1, 1]
    assert found.thresholds[1:-1] == pytest.approx([1.5, 2.5, 3.5, 5, 6.5], abs=1e-4)
    assert found.eer == 0.5
    assert verification.roc_curve(labelled([[0.0], [1.0]], [0, 1])) is None


def test_a_roc_curve_to_draw_has_few_points_of_that_of_scikit_learn():
    images = clusters(160, 0.8)
    lengths, is_same = pairs(images)
    found = verification.roc_curve(images, points=50)
    assert len(found.thresholds) <= 60 and (found.far[0], found.tar[-1]) == (0, 1)
    for threshold, far, tar in zip(found.thresholds, found.far, found.tar, strict=True):
        assert rates(lengths, is_same, threshold) == pytest.approx((far, tar))
    assert found.eer == verification.measure(images, 0).eer


def test_the_names_of_the_scores():
    """They are in the metrics.json of everybody."""
    fars = ("1e-1", "1e-2", "1e-3", "1e-4")
    found = verification.measure(clusters(200, 1.0), 0)
    scores = found.scores()
    assert scores.keys() == {
        "roc_auc", "roc_auc_low95", "roc_auc_high95", "eer", "eer_low95", "eer_high95", "eer_threshold",
        *(f"{name}_at_far_{far}" for name in ("tar", "threshold") for far in fars), *CALIBRATED,
    }  # fmt: skip
    assert {type(score) for score in scores.values()} == {float} and np.isfinite(list(scores.values())).all()
    for name, values in (("tar", found.tar_at_far), ("threshold", found.threshold_at_far)):
        assert [scores[f"{name}_at_far_{far}"] for far in fars] == list(values) == sorted(set(values), reverse=True)


def test_thresholds_lie_between_points_of_the_grid():
    """Used are 0, 1 and 4: two neighbours, then a gap. Each threshold accepts what is below it, and no more."""
    thresholds, accepted = verification._roc(np.array([[3, 0, 0, 0, 2, 0], [0, 1, 0, 0, 4, 0]]))
    assert thresholds.tolist() == [-0.5, 0.5, 2.5, 4.5]
    assert accepted.tolist() == [[0, 3, 3, 5], [0, 0, 1, 5]]


def test_as_many_different_pairs_as_a_rate_needs():
    images = labelled([[0.0], [1.0], [10.0], [11.0], [12.0], [13.0], [14.0]], [0, 0, 1, 1, 1, 1, 1])
    found = verification.measure(images, 0)
    assert found.tar_at_far[0] == 1 and np.isnan(found.tar_at_far[1:]).all()  # of 10 different pairs
    assert found.threshold_at_far[0] == pytest.approx((9 + 10) / 2, abs=1e-4)  # one of them may be accepted
    assert found.roc_auc == 1 and found.eer == 0
    assert found.eer_threshold == pytest.approx((4 + 9) / 2, abs=1e-4)


def test_halves_divide_every_class():
    for seed in range(5):
        classes = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 100, 2]).astype(np.int32)[::-1]
        is_second = verification._second_half(classes, seed)
        for label in range(7):
            first, second = (np.sum(classes[is_second == half] == label) for half in (False, True))
            assert abs(first - second) <= 2
            assert max(first, second) >= min(np.sum(classes == label), 2)  # classes of two stay pairs
    assert (verification._second_half(classes, 1) != verification._second_half(classes, 2)).any()


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_a_seed_draws_the_same_halves_in_every_version(seed):
    classes = np.random.default_rng(1).integers(0, 4, 50).astype(np.int32)
    shuffled = np.argsort(oracles.drawn(seed, 0, 5, 0, 50), kind="stable").tolist()
    is_second = np.empty(50, bool)
    for label in range(4):
        for place, image in enumerate(image for image in shuffled if classes[image] == label):
            is_second[image] = (place % 4 >= 2) != (label % 2 == 1)  # two and two; every other class the other way
    np.testing.assert_array_equal(verification._second_half(classes, seed), is_second)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_threshold_of_one_half_is_judged_by_the_other(seed):
    images = clusters(120, 0.7)
    found = verification.measure(images, seed)
    is_second = verification._second_half(np.unique(images.labels, return_inverse=True)[1], seed)
    first, second = (labelled(images.embeddings[half], images.labels[half]) for half in (~is_second, is_second))
    lengths, is_same = pairs(first)
    ends = np.append(np.sort(lengths), np.inf)
    balanced = [tar - far for far, tar in (rates(lengths, is_same, end) for end in ends)]
    best = int(np.argmax(balanced))
    assert found.verification_threshold == pytest.approx((ends[best] + ends[best + 1]) / 2, abs=1e-4)
    far, tar = rates(*pairs(second), found.verification_threshold)
    assert found.false_accept_rate == pytest.approx(far)
    assert found.false_reject_rate == pytest.approx(1 - tar)
    assert found.verification_accuracy == pytest.approx((tar + 1 - far) / 2)


def test_halves_that_lack_pairs_calibrate_nothing():
    """Of two classes of two images, each half holds one class: no different pair to choose or judge a threshold by."""
    found = verification.measure(labelled([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1]), 0)
    assert found.roc_auc == 1
    assert np.isnan([found.scores()[name] for name in CALIBRATED]).all()


def test_verification_with_perfect_clusters_by_chance_and_in_one_point():
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 3
    perfect = verification.measure(labelled(labels[:, np.newaxis] * 100 + rng.random((900, 1)), labels), 0)
    assert perfect.roc_auc == perfect.roc_auc_low95 == perfect.roc_auc_high95 == perfect.verification_accuracy == 1
    assert perfect.tar_at_far == (1, 1, 1, 1)
    assert perfect.eer == perfect.eer_low95 == perfect.eer_high95 == 0
    assert perfect.false_accept_rate == perfect.false_reject_rate == 0
    chance = verification.measure(labelled(rng.normal(size=(900, 3)), labels), 0)
    for score in (chance.roc_auc, chance.eer, chance.verification_accuracy):
        assert score == pytest.approx(0.5, abs=0.02)
    collapsed = verification.measure(labelled(np.full((900, 3), 0.1), labels), 0)
    assert collapsed.roc_auc == collapsed.eer == collapsed.verification_accuracy == 0.5
    assert collapsed.tar_at_far[0] == 0 and collapsed.threshold_at_far[0] < 0  # accepts nothing


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(whole_numbers, st.randoms(use_true_random=False))
def test_verification_does_not_depend_on_order_place_or_scale(rows, random):
    points, labels = np.array(rows, np.float64)[:, :2], np.array(rows)[:, 2]
    expected = verification.measure(labelled(points, labels), 0).scores()
    order = random.sample(range(len(rows)), len(rows))
    shuffled = verification.measure(labelled(points[order], labels[order]), 0).scores()
    moved = labelled(points @ [[0, -1], [1, 0]] * 4 + [1e6, -7], labels * 1000 - 3)
    moved = verification.measure(moved, 0).scores()
    for name, score in expected.items():
        scale = 4 if "threshold" in name else 1
        np.testing.assert_allclose(moved[name], score * scale, atol=1e-4, err_msg=name)
        if name not in CALIBRATED and "95" not in name:  # other images, other halves and samples
            np.testing.assert_allclose(shuffled[name], score, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("labels", ["one class", "each its own"])
def test_verification_that_is_not_defined(count, labels):
    labels = np.zeros(count, int) if labels == "one class" else np.arange(count)
    found = verification.measure(labelled(np.arange(2.0 * count).reshape(count, 2), labels), 0)
    assert np.isnan(list(found.scores().values())).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_of_numbers(dtype):
    points, labels = np.round(some().embeddings * 4), some().labels
    other = verification.LabelledEmbeddings(points.astype(dtype), labels.astype(np.uint8))
    assert verification.measure(other, 0).scores() == pytest.approx(
        verification.measure(labelled(points, labels), 0).scores(), rel=0, abs=0, nan_ok=True
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite(bad):
    with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
        verification.measure(labelled([[0.0], [bad], [1.0], [2.0]], [0, 0, 1, 1]), 0)


def test_the_roc_curve_of_more_pairs_than_an_int64_can_multiply():
    """Of 100,000 images of two classes, all told apart but one pair in a thousand of each kind."""
    count = 2_500_000_000
    accepted = np.array([[0, count - count // 1000, count, count], [0, 0, count // 1000, count]])
    auc, eer = verification.auc_and_eer(accepted)
    assert auc == pytest.approx(1 - 1e-6 / 2)  # wrong only where both are of the thousandth, and tie there
    assert eer == pytest.approx(0.001 / 2)  # halfway up the diagonal between the second and the third point


# --- intervals


def slow_auc_and_eer(is_same, weights):
    """Of pairs in the order of their distances."""
    same, different = (np.cumsum(weights * kind) for kind in (is_same, ~is_same))
    tar, far = np.append(0, same) / same[-1], np.append(0, different) / different[-1]
    auc = np.sum(np.diff(far) * (tar[1:] + tar[:-1]) / 2)
    return auc, far[np.flatnonzero(far + tar >= 1)[0]]


@pytest.mark.parametrize("spread", [0.25, 0.35, 1.0])
@pytest.mark.slow
def test_intervals_are_those_of_the_whole_bootstrap(spread):
    """Every pair weighs w_i w_j, without expansion, histogram or coarse bins."""
    images = clusters(250, spread)
    points, labels = images.embeddings, images.labels
    first, second = np.tril_indices(250, -1)
    order = np.argsort(np.linalg.norm(points[first] - points[second], axis=1))
    first, second = first[order], second[order]
    is_same = labels[first] == labels[second]
    rng = np.random.default_rng(1)
    replicates = []
    for _ in range(600):
        w = rng.multinomial(250, np.full(250, 1 / 250)).astype(np.float64)
        replicates.append(slow_auc_and_eer(is_same, w[first] * w[second]))
    expected = np.percentile(replicates, [2.5, 97.5], axis=0).T
    scores = verification.measure(images, 0).scores()
    for name, (low, high) in zip(("roc_auc", "eer"), expected, strict=True):
        found_low, found_high = scores[f"{name}_low95"], scores[f"{name}_high95"]
        assert found_high - found_low == pytest.approx(high - low, rel=0.15)
        assert found_low < scores[name] < found_high
        assert (found_low + found_high) / 2 == pytest.approx((low + high) / 2, abs=0.15 * (high - low))


@pytest.mark.proof
def test_intervals_cover_the_truth(monkeypatch):
    monkeypatch.setattr(intervals, "REPLICATES", 200)
    truth = verification.measure(clusters(1000, 1.0, seed=1000), 0).scores()
    covered = {"roc_auc": 0, "eer": 0}
    for seed in range(100):
        scores = verification.measure(clusters(100, 1.0, seed=seed), 0).scores()
        for name in covered:
            covered[name] += scores[f"{name}_low95"] <= truth[name] <= scores[f"{name}_high95"]
    assert all(count >= 0.9 * 100 for count in covered.values())
