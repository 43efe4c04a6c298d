"""Scores of embeddings against plain loops, scikit-learn, and a bootstrap that spares nothing."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import sklearn.metrics
import sklearn.neighbors
from hypothesis import given, settings
from hypothesis import strategies as st

from model.scoring import metrics, neighbors

MEANS = {
    "recall_at_1": "recall_at_1",
    "recall_at_5": "recall_at_5",
    "recall_at_10": "recall_at_10",
    "precision_at_1": "recall_at_1",
    "r_precision": "r_precision",
    "map_at_r": "map_at_r",
    "mrr": "reciprocal_rank",
}
CALIBRATED = {"verification_threshold", "verification_accuracy", "false_accept_rate", "false_reject_rate"}


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 4, 60)


def clusters(num_images, spread, seed=0, num_classes=5, size=4):
    """Images around the centers of their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    return np.random.default_rng(99).normal(size=(num_classes, size))[labels] + spread * rng.normal(
        size=(num_images, size)
    ), labels


def squared_distance(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def slow_retrieval(queries, query_labels, gallery, gallery_labels, ignore=None):
    """Query by query, as the definitions say; whole numbers have exact distances."""
    result = {}
    for q, query in enumerate(queries):
        ranking = sorted(
            (squared_distance(query, image), gallery_labels[g] == query_labels[q])
            for g, image in enumerate(gallery)
            if ignore is None or g != ignore[q]
        )
        relevant = [bool(is_same) for _, is_same in ranking]
        total = sum(relevant)
        if total:
            precision = [sum(relevant[: i + 1]) / (i + 1) for i in range(total)]
            result[q] = {
                **{f"recall_at_{k}": float(any(relevant[:k])) for k in (1, 5, 10)},
                "r_precision": sum(relevant[:total]) / total,
                "map_at_r": sum(p for p, rel in zip(precision, relevant, strict=False) if rel) / total,
                "reciprocal_rank": 1 / (relevant.index(True) + 1),
            }
    return result


def check_retrieval(found, expected, num_queries):
    assert found.queries.dtype == np.int64
    assert found.queries.tolist() == list(expected)
    assert found.left_out == num_queries - len(expected)
    for name in set(MEANS.values()):
        values = getattr(found, name)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, [of[name] for of in expected.values()], rtol=1e-12, err_msg=name)
    for name, attribute in MEANS.items():
        mean = np.mean([of[attribute] for of in expected.values()]) if expected else np.nan
        np.testing.assert_allclose(found.means()[name], mean, rtol=1e-12)


# --- retrieval


def test_retrieval_by_hand():
    """On a line: 0 and 1 of class A, 2.5 and 5.5 of B, 9 of C alone, 10 of A again."""
    embeddings = np.array([[0.0], [1.0], [2.5], [5.5], [9.0], [10.0]])
    found = metrics.retrieval_among(embeddings, np.array([0, 0, 1, 1, 2, 0]))
    assert found.queries.tolist() == [0, 1, 2, 3, 5] and found.left_out == 1
    # 0: A B B C A; 1: A B B C A; 2.5: A A B; 5.5: B, then C at 3.5; 10: C B B A A
    assert found.recall_at_1.tolist() == [1, 1, 0, 1, 0]
    assert found.recall_at_5.tolist() == found.recall_at_10.tolist() == [1, 1, 1, 1, 1]
    assert found.r_precision.tolist() == [1 / 2, 1 / 2, 0, 1, 0]
    assert found.map_at_r.tolist() == [1 / 2, 1 / 2, 0, 1, 0]
    np.testing.assert_allclose(found.reciprocal_rank, [1, 1, 1 / 3, 1, 1 / 4])


def test_map_at_r_by_hand():
    """R = 3 and the ranking is right, wrong, right, right: (1/1 + 2/3) / 3; what comes fourth does not count."""
    gallery = np.array([[1.0], [2.0], [3.0], [4.0]])
    found = metrics.retrieval(np.zeros((1, 1)), np.array([7]), gallery, np.array([7, 0, 7, 7]))
    assert found.map_at_r[0] == pytest.approx((1 + 2 / 3) / 3)
    assert found.r_precision[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("pairs_at_a_time", [1, 1000, 10**6])
@pytest.mark.parametrize("num_classes", [1, 2, 6, 40])
def test_retrieval_is_that_of_plain_loops(monkeypatch, pairs_at_a_time, num_classes):
    """Few places, so that there are ties and duplicates; classes of all sizes, some of one image."""
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    rng = np.random.default_rng(num_classes)
    points = rng.integers(-3, 4, size=(70, 2)).astype(np.float32)
    labels = (rng.integers(0, num_classes, 70) * rng.integers(0, 2, 70)) * 7 - 5
    expected = slow_retrieval(points, labels, points, labels, ignore=range(70))
    check_retrieval(metrics.retrieval_among(points, labels), expected, 70)
    expected = slow_retrieval(points[:30], labels[:30], points[30:], labels[30:])
    check_retrieval(metrics.retrieval(points[:30], labels[:30], points[30:], labels[30:]), expected, 30)
    ignore = rng.integers(0, 40, 30)  # of the query's class or not
    expected = slow_retrieval(points[:30], labels[:30], points[30:], labels[30:], ignore)
    check_retrieval(metrics.retrieval(points[:30], labels[:30], points[30:], labels[30:], ignore), expected, 30)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 12])
def test_retrieval_in_a_small_gallery(size):
    points = np.random.default_rng(size).integers(0, 3, size=(size, 1))
    labels = np.arange(size) % 2
    expected = slow_retrieval(points, labels, points, labels, ignore=range(size))
    check_retrieval(metrics.retrieval_among(points, labels), expected, size)


def test_ties_count_against_the_query():
    """A network that maps all images to one point finds its own class last, wherever the images stand."""
    embeddings, labels = np.full((40, 3), 0.1), np.arange(40) % 4
    found = metrics.retrieval_among(embeddings, labels)
    assert not found.recall_at_10.any() and not found.map_at_r.any()
    np.testing.assert_allclose(found.reciprocal_rank, 1 / 31)  # 30 images of other classes come first
    assert metrics.recall_at_1(embeddings, labels) == 0


def test_a_duplicate_counts_and_an_image_is_not_its_own_neighbour():
    embeddings, labels = np.array([[0.0], [0.0], [1.0], [5.0]]), np.array([0, 0, 1, 1])
    found = metrics.retrieval_among(embeddings, labels)
    assert found.recall_at_1.tolist() == [1, 1, 0, 1]
    assert found.r_precision.tolist() == [1, 1, 0, 1]
    assert metrics.recall_at_1(embeddings, labels) == 3 / 4


def test_retrieval_with_perfect_clusters_and_by_chance():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 5
    perfect = 100.0 * labels[:, np.newaxis] + rng.normal(size=(2000, 1))
    assert set(metrics.retrieval_among(perfect, labels).means().values()) == {1.0}
    chance = metrics.retrieval_among(rng.normal(size=(2000, 3)), labels).means()
    assert chance["recall_at_1"] == pytest.approx(0.2, abs=0.03)
    assert chance["recall_at_5"] == pytest.approx(1 - 0.8**5, abs=0.03)
    assert chance["r_precision"] == pytest.approx(0.2, abs=0.01)
    assert chance["map_at_r"] == pytest.approx(0.04, abs=0.01)


whole_numbers = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 2)), min_size=1, max_size=25)


@settings(max_examples=30, deadline=None)
@given(whole_numbers, st.randoms(use_true_random=False))
def test_retrieval_does_not_depend_on_order_place_or_scale(rows, random):
    points, labels = np.array(rows, np.float64)[:, :2], np.array(rows)[:, 2]
    expected = metrics.retrieval_among(points, labels)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = metrics.retrieval_among(points[order], labels[order])
    moved = metrics.retrieval_among(points @ [[0, -1], [1, 0]] * 3 + [1e6, -7], labels)
    for name in {*MEANS.values(), "queries"}:
        np.testing.assert_array_equal(getattr(moved, name), getattr(expected, name))
    back = [order.index(query) for query in expected.queries]
    for name in MEANS.values():
        whole = dict(zip(shuffled.queries.tolist(), getattr(shuffled, name), strict=True))
        np.testing.assert_array_equal([whole[query] for query in back], getattr(expected, name))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_of_numbers(data, dtype):
    points, labels = np.round(data[0] * 4), data[1]
    expected = metrics.retrieval_among(points, labels).means()
    assert metrics.retrieval_among(points.astype(dtype), labels.astype(np.int32)).means() == expected
    assert metrics.knn_accuracy(points.astype(dtype), labels, points.astype(dtype), labels, 3) == metrics.knn_accuracy(
        points, labels, points, labels, 3
    )
    expected = metrics.verification(points, labels, 0)
    np.testing.assert_equal(metrics.verification(points.astype(dtype), labels.astype(np.uint8), 0), expected)


# --- classification


@pytest.mark.parametrize("k", [1, 5])
def test_knn_is_that_of_scikit_learn(data, k):
    points, labels = data[0], data[1] % 2  # two classes and an odd k: votes are never tied
    peer = sklearn.neighbors.KNeighborsClassifier(k).fit(points[25:], labels[25:])
    predictions = metrics.knn_predictions(points[:25], points[25:], labels[25:], k)
    np.testing.assert_array_equal(predictions, peer.predict(points[:25]))
    accuracy = metrics.knn_accuracy(points[:25], labels[:25], points[25:], labels[25:], k)
    assert accuracy == pytest.approx(peer.score(points[:25], labels[:25])) and 0 < accuracy < 1


def test_majority_vote():
    votes = np.array([[3, 5, 5, 9], [3, 5, 9, 5], [9, 3, 3, 9], [4, 3, 2, 1], [-7, 8, 8, -7]])
    assert metrics.majority_vote(votes).tolist() == [5, 5, 9, 4, -7]
    assert metrics.majority_vote(votes[:, :1]).tolist() == [3, 3, 9, 4, -7]


def test_equally_near_images_vote_in_their_order():
    gallery, labels = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([4, 2, 2, 4])
    assert metrics.knn_predictions(np.zeros((1, 1)), gallery, labels).tolist() == [4]
    assert metrics.knn_predictions(np.zeros((1, 1)), gallery, labels, 3).tolist() == [2]
    assert metrics.knn_predictions(np.zeros((1, 1)), gallery, labels, 100).tolist() == [4]  # all four vote


# --- clustering


def test_clustering_that_is_perfect_and_by_chance():
    labels = np.arange(300) % 3 * 5
    rng = np.random.default_rng(0)
    perfect = metrics.clustering(labels[:, np.newaxis] * 100 + rng.normal(size=(300, 2)), labels, 2**64 - 1)
    assert perfect["nmi"] == pytest.approx(1) and perfect["ami"] == pytest.approx(1) and perfect["silhouette"] > 0.9
    chance = metrics.clustering(rng.normal(size=(300, 2)), labels, 0)
    assert abs(chance["ami"]) < 0.03 and abs(chance["silhouette"]) < 0.05


def test_silhouette_is_that_of_plain_loops(data):
    points, labels = data[0][:30], data[1][:30]
    labels[7] = 9  # alone in its class: 0
    values = []
    for i in range(30):
        to = {
            label: [squared_distance(points[i], points[j]) ** 0.5 for j in range(30) if j != i and labels[j] == label]
            for label in set(labels.tolist())
        }
        own = to.pop(int(labels[i]))
        a, b = (np.mean(own) if own else np.nan), min(np.mean(lengths) for lengths in to.values() if lengths)
        values.append((b - a) / max(a, b) if own else 0.0)
    assert metrics.clustering(points, labels, 0)["silhouette"] == pytest.approx(np.mean(values), abs=1e-6)


def test_clustering_of_a_sample(data, monkeypatch):
    points, labels = clusters(400, 0.3)
    whole = metrics.clustering(points, labels, 1)
    monkeypatch.setattr(metrics, "_MAX_CLUSTERED", 200)
    part = metrics.clustering(points, labels, 1)
    assert part != whole and part == metrics.clustering(points, labels, 1)
    assert part["silhouette"] == pytest.approx(whole["silhouette"], abs=0.1)


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        (np.random.default_rng(0).normal(size=(6, 2)), np.zeros(6, int)),
        (np.random.default_rng(0).normal(size=(6, 2)), np.arange(6)),
        (np.full((6, 2), 0.1), np.arange(6) % 2),
        *((np.zeros((count, 2)), np.zeros(count, int)) for count in (0, 1, 2)),
    ],
)
def test_clustering_that_is_not_defined(points, labels):
    assert list(metrics.clustering(points, labels, 0)) == ["nmi", "ami", "silhouette"]
    assert np.isnan(list(metrics.clustering(points, labels, 0).values())).all()


def test_fewer_places_than_classes():
    scores = metrics.clustering(np.arange(12.0)[:, np.newaxis] // 6, np.arange(12) % 4, 0)
    assert np.isfinite(list(scores.values())).all()


# --- verification


def pairs(points, labels):
    """Distances of all pairs, and whether they are the same."""
    both = [(i, j) for i in range(len(points)) for j in range(i)]
    lengths = np.array([squared_distance(points[i], points[j]) ** 0.5 for i, j in both])
    return lengths, np.array([labels[i] == labels[j] for i, j in both])


def rates(lengths, is_same, threshold):
    """FAR and TAR."""
    return np.mean(lengths[~is_same] <= threshold), np.mean(lengths[is_same] <= threshold)


@pytest.mark.parametrize("pairs_at_a_time", [200, 10_000, 10**7])
@pytest.mark.parametrize("kind", ["real", "whole"])
def test_verification_is_that_of_scikit_learn(monkeypatch, pairs_at_a_time, kind):
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    points, labels = clusters(160, 0.8)
    if kind == "whole":
        points = np.round(points * 2)  # many ties
    lengths, is_same = pairs(points, labels)
    scores = metrics.verification(points, labels, 0)
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
    assert sum(~is_same) > 10**4 and np.isfinite(scores["tar_at_far_1e-4"])


def test_verification_by_hand():
    """On a line: 0 and 1 are A, 3 and 7 are B. Same: 1, 4; different: 2, 3, 6, 7."""
    scores = metrics.verification(np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1]), 0)
    assert scores["roc_auc"] == 6 / 8
    # Thresholds accept: 1 same; then 2 and 3, different (FAR 1/2, FRR 1/2).
    assert scores["eer"] == 0.5
    assert scores["eer_threshold"] == pytest.approx(3.5, abs=1e-4)
    assert all(np.isnan(scores[f"{what}_at_far_1e-1"]) for what in ("tar", "threshold"))  # 4 different pairs


def test_thresholds_lie_between_points_of_the_grid():
    """Used are 0, 1 and 4: two neighbours, then a gap. Each threshold accepts what is below it, and no more."""
    thresholds, accepted = metrics._roc(np.array([[3, 0, 0, 0, 2, 0], [0, 1, 0, 0, 4, 0]]))
    assert thresholds.tolist() == [-0.5, 0.5, 2.5, 4.5]
    assert accepted.tolist() == [[0, 3, 3, 5], [0, 0, 1, 5]]


def test_as_many_different_pairs_as_a_rate_needs():
    points, labels = np.array([[0.0], [1.0], [10.0], [11.0], [12.0], [13.0], [14.0]]), np.array([0, 0, 1, 1, 1, 1, 1])
    scores = metrics.verification(points, labels, 0)
    assert scores["tar_at_far_1e-1"] == 1 and np.isnan(scores["tar_at_far_1e-2"])  # of 10 different pairs
    assert scores["threshold_at_far_1e-1"] == pytest.approx((9 + 10) / 2, abs=1e-4)  # one of them may be accepted
    assert scores["roc_auc"] == 1 and scores["eer"] == 0
    assert scores["eer_threshold"] == pytest.approx((4 + 9) / 2, abs=1e-4)


def test_halves_divide_every_class():
    for seed in range(5):
        classes = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 100, 2]).astype(np.int32)[::-1]
        is_second = metrics._second_half(classes, seed)
        for label in range(7):
            first, second = (np.sum(classes[is_second == half] == label) for half in (False, True))
            assert abs(first - second) <= 2
            assert max(first, second) >= min(np.sum(classes == label), 2)  # classes of two stay pairs
    assert (metrics._second_half(classes, 1) != metrics._second_half(classes, 2)).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_threshold_of_one_half_is_judged_by_the_other(seed):
    points, labels = clusters(120, 0.7)
    scores = metrics.verification(points, labels, seed)
    is_second = metrics._second_half(np.unique(labels, return_inverse=True)[1], seed)
    lengths, is_same = pairs(points[~is_second], labels[~is_second])
    ends = np.append(np.sort(lengths), np.inf)
    balanced = [tar - far for far, tar in (rates(lengths, is_same, end) for end in ends)]
    best = int(np.argmax(balanced))
    assert scores["verification_threshold"] == pytest.approx((ends[best] + ends[best + 1]) / 2, abs=1e-4)
    far, tar = rates(*pairs(points[is_second], labels[is_second]), scores["verification_threshold"])
    assert scores["false_accept_rate"] == pytest.approx(far)
    assert scores["false_reject_rate"] == pytest.approx(1 - tar)
    assert scores["verification_accuracy"] == pytest.approx((tar + 1 - far) / 2)


def test_verification_with_perfect_clusters_by_chance_and_in_one_point():
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 3
    perfect = metrics.verification(labels[:, np.newaxis] * 100 + rng.random((900, 1)), labels, 0)
    for name in ("roc_auc", "roc_auc_low95", "roc_auc_high95", "tar_at_far_1e-4", "verification_accuracy"):
        assert perfect[name] == 1
    for name in ("eer", "eer_low95", "eer_high95", "false_accept_rate", "false_reject_rate"):
        assert perfect[name] == 0
    chance = metrics.verification(rng.normal(size=(900, 3)), labels, 0)
    for name in ("roc_auc", "eer", "verification_accuracy"):
        assert chance[name] == pytest.approx(0.5, abs=0.02)
    collapsed = metrics.verification(np.full((900, 3), 0.1), labels, 0)
    assert collapsed["roc_auc"] == collapsed["eer"] == collapsed["verification_accuracy"] == 0.5
    assert collapsed["tar_at_far_1e-1"] == 0 and collapsed["threshold_at_far_1e-1"] < 0  # accepts nothing


@settings(max_examples=8, deadline=None)
@given(whole_numbers, st.randoms(use_true_random=False))
def test_verification_does_not_depend_on_order_place_or_scale(rows, random):
    points, labels = np.array(rows, np.float64)[:, :2], np.array(rows)[:, 2]
    expected = metrics.verification(points, labels, 0)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = metrics.verification(points[order], labels[order], 0)
    moved = metrics.verification(points @ [[0, -1], [1, 0]] * 4 + [1e6, -7], labels * 1000 - 3, 0)
    for name, score in expected.items():
        scale = 4 if "threshold" in name else 1
        np.testing.assert_allclose(moved[name], score * scale, atol=1e-4, err_msg=name)
        if name not in CALIBRATED and "95" not in name:  # other images, other halves and samples
            np.testing.assert_allclose(shuffled[name], score, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("labels", ["one class", "each its own"])
def test_verification_that_is_not_defined(count, labels):
    labels = np.zeros(count, int) if labels == "one class" else np.arange(count)
    scores = metrics.verification(np.arange(2.0 * count).reshape(count, 2), labels, 0)
    assert np.isnan(list(scores.values())).all() and {"roc_auc", "tar_at_far_1e-4", "eer_high95"} | CALIBRATED < set(
        scores
    )


def test_plain_numbers(data):
    everything = metrics.verification(*data, 0) | metrics.retrieval_among(*data).means() | metrics.clustering(*data, 0)
    assert {type(value) for value in everything.values()} == {float}


# --- intervals


def slow_auc_and_eer(is_same, weights):
    """Of pairs in the order of their distances."""
    same, different = (np.cumsum(weights * kind) for kind in (is_same, ~is_same))
    tar, far = np.append(0, same) / same[-1], np.append(0, different) / different[-1]
    auc = np.sum(np.diff(far) * (tar[1:] + tar[:-1]) / 2)
    return auc, far[np.flatnonzero(far + tar >= 1)[0]]


@pytest.mark.parametrize("spread", [0.25, 0.35, 1.0])
def test_intervals_are_those_of_the_whole_bootstrap(spread):
    """Every pair weighs w_i w_j, without expansion, histogram or coarse bins."""
    points, labels = clusters(250, spread)
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
    scores = metrics.verification(points, labels, 0)
    for name, (low, high) in zip(("roc_auc", "eer"), expected, strict=True):
        found_low, found_high = scores[f"{name}_low95"], scores[f"{name}_high95"]
        assert found_high - found_low == pytest.approx(high - low, rel=0.15)
        assert found_low < scores[name] < found_high
        assert (found_low + found_high) / 2 == pytest.approx((low + high) / 2, abs=0.15 * (high - low))


def test_intervals_cover_the_truth(monkeypatch):
    monkeypatch.setattr(metrics, "_REPLICATES", 200)
    truth = metrics.verification(*clusters(2000, 1.0, seed=1000), 0)
    covered = {"roc_auc": 0, "eer": 0}
    for seed in range(30):
        scores = metrics.verification(*clusters(100, 1.0, seed=seed), 0)
        for name in covered:
            covered[name] += scores[f"{name}_low95"] <= truth[name] <= scores[f"{name}_high95"]
    assert all(count >= 0.85 * 30 for count in covered.values())


def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = metrics.bootstrap_interval(values, 0)
    error = values.std() / 400**0.5
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)
    assert (low, high) == metrics.bootstrap_interval(values, 0)
    assert (low, high) != metrics.bootstrap_interval(values, 1)
    assert metrics.bootstrap_interval(values, 0, replicates=50) != (low, high)
    assert metrics.bootstrap_interval(np.ones(5), 2**64 - 1) == (1, 1)
    assert np.isnan(metrics.bootstrap_interval(np.zeros(0), 0)).all()


def test_samples_of_the_bootstrap():
    """Images are drawn with replacement, each as likely as the others, and other ones each time."""
    samples = list(metrics._resamples(5, 40, 500))
    counts = np.array([np.bincount(sample, minlength=40) for sample in samples])
    assert counts.sum(axis=1).tolist() == [40] * 500
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.2)
    assert counts.var() == pytest.approx(39 / 40, abs=0.05)
    assert all((a != b).any() for a, b in itertools.pairwise(samples))


# --- what is not as it should be


def test_nothing_to_ask():
    nothing, gallery = np.zeros((0, 2)), np.ones((3, 2))
    found = metrics.retrieval_among(gallery, np.array([0, 1, 2]))
    assert found.left_out == 3 and np.isnan(list(found.means().values())).all()
    for found in (
        metrics.retrieval_among(nothing, np.zeros(0, int)),
        metrics.retrieval(nothing, np.zeros(0, int), gallery, np.zeros(3, int)),
    ):
        assert found.left_out == 0 and np.isnan(list(found.means().values())).all()
    found = metrics.retrieval(gallery, np.zeros(3, int), nothing, np.zeros(0, int))
    assert found.left_out == 3
    assert np.isnan(metrics.recall_at_1(gallery, np.array([0, 1, 2])))
    assert np.isnan(metrics.knn_accuracy(nothing, np.zeros(0, int), gallery, np.zeros(3, int)))
    assert metrics.knn_predictions(nothing, gallery, np.zeros(3, int), 5).shape == (0,)
    with pytest.raises(ValueError, match="Expected k from 1 to the 0 gallery rows"):
        metrics.knn_accuracy(gallery, np.zeros(3, int), nothing, np.zeros(0, int))


@pytest.mark.parametrize(
    "measure",
    [
        metrics.retrieval_among,
        lambda points, labels: metrics.knn_accuracy(points, labels, points, labels),
        lambda points, labels: metrics.clustering(points, labels, 0),
        lambda points, labels: metrics.verification(points, labels, 0),
    ],
)
def test_what_cannot_be_measured(measure):
    labels = np.array([0, 0, 1, 1])
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
            measure(np.array([[0.0], [bad], [1.0], [2.0]]), labels)
    with pytest.raises(ValueError, match=r"Received: \(5, 2\) and \(4,\)\.$"):
        measure(np.zeros((5, 2)), labels)
    with pytest.raises(ValueError, match=r"Received: \(4,\) and \(4,\)\.$"):
        measure(np.zeros(4), labels)
