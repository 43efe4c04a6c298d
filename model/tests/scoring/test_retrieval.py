"""Rankings against plain loops, and by hand."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.scoring import neighbors, retrieval
from model.tests import oracles
from model.tests.scoring.points import labelled, some, whole_numbers

MEANS = {
    "recall_at_1": "recall_at_1",
    "recall_at_5": "recall_at_5",
    "recall_at_10": "recall_at_10",
    "precision_at_1": "recall_at_1",
    "r_precision": "r_precision",
    "map_at_r": "map_at_r",
    "mrr": "reciprocal_rank",
}


def slow_retrieval(queries, gallery=None):
    """Query by query, as the definitions say; whole numbers have exact distances."""
    among = queries if gallery is None else gallery
    result = {}
    for q, query in enumerate(queries.embeddings):
        ranking = sorted(
            (oracles.distance(query, image, "squared_euclidean"), among.labels[g] == queries.labels[q])
            for g, image in enumerate(among.embeddings)
            if gallery is not None or g != q
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


def check_retrieval(queries, gallery=None):
    found, expected = retrieval.measure(queries, gallery), slow_retrieval(queries, gallery)
    assert found.queries.dtype == np.int64
    assert found.queries.tolist() == list(expected)
    assert found.left_out == len(queries) - len(expected)
    for name in set(MEANS.values()):
        values = getattr(found, name)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, [of[name] for of in expected.values()], rtol=1e-12, err_msg=name)
    for name, attribute in MEANS.items():
        mean = np.mean([of[attribute] for of in expected.values()]) if expected else np.nan
        np.testing.assert_allclose(found.means()[name], mean, rtol=1e-12)


def test_retrieval_by_hand():
    """On a line: 0 and 1 of class A, 2.5 and 5.5 of B, 9 of C alone, 10 of A again."""
    found = retrieval.measure(labelled([[0.0], [1.0], [2.5], [5.5], [9.0], [10.0]], [0, 0, 1, 1, 2, 0]))
    assert found.queries.tolist() == [0, 1, 2, 3, 5] and found.left_out == 1
    # 0: A B B C A; 1: A B B C A; 2.5: A A B; 5.5: B, then C at 3.5; 10: C B B A A
    assert found.recall_at_1.tolist() == [1, 1, 0, 1, 0]
    assert found.recall_at_5.tolist() == found.recall_at_10.tolist() == [1, 1, 1, 1, 1]
    assert found.r_precision.tolist() == [1 / 2, 1 / 2, 0, 1, 0]
    assert found.map_at_r.tolist() == [1 / 2, 1 / 2, 0, 1, 0]
    np.testing.assert_allclose(found.reciprocal_rank, [1, 1, 1 / 3, 1, 1 / 4])


def test_map_at_r_by_hand():
    """R = 3 and the ranking is right, wrong, right, right: (1/1 + 2/3) / 3; what comes fourth does not count."""
    found = retrieval.measure(labelled([[0.0]], [7]), labelled([[1.0], [2.0], [3.0], [4.0]], [7, 0, 7, 7]))
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
    check_retrieval(labelled(points, labels))
    check_retrieval(labelled(points[:30], labels[:30]), labelled(points[30:], labels[30:]))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 12])
def test_retrieval_in_a_small_gallery(size):
    points = np.random.default_rng(size).integers(0, 3, size=(size, 1))
    check_retrieval(labelled(points, np.arange(size) % 2))


@pytest.mark.parametrize("labels", [[5, 5, 6], [0, 3, 9], [9, 9, 9], [-1, 4, 7]])
def test_labels_that_the_gallery_lacks(labels):
    check_retrieval(labelled([[0.0], [1.0], [2.0]], labels), labelled([[0.0], [3.0], [1.0], [1.0]], [3, 5, 7, 5]))


def test_ties_count_against_the_query():
    """A network that maps all images to one point finds its own class last, wherever the images stand."""
    found = retrieval.measure(labelled(np.full((40, 3), 0.1), np.arange(40) % 4))
    assert not found.recall_at_10.any() and not found.map_at_r.any()
    np.testing.assert_allclose(found.reciprocal_rank, 1 / 31)  # 30 images of other classes come first
    assert found.means()["recall_at_1"] == 0


def test_a_duplicate_counts_and_an_image_is_not_its_own_neighbour():
    found = retrieval.measure(labelled([[0.0], [0.0], [1.0], [5.0]], [0, 0, 1, 1]))
    assert found.recall_at_1.tolist() == [1, 1, 0, 1]
    assert found.r_precision.tolist() == [1, 1, 0, 1]
    assert found.means()["recall_at_1"] == 3 / 4


def test_retrieval_with_perfect_clusters_and_by_chance():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 5
    perfect = 100.0 * labels[:, np.newaxis] + rng.normal(size=(2000, 1))
    assert set(retrieval.measure(labelled(perfect, labels)).means().values()) == {1.0}
    chance = retrieval.measure(labelled(rng.normal(size=(2000, 3)), labels)).means()
    assert chance["recall_at_1"] == pytest.approx(0.2, abs=0.03)
    assert chance["recall_at_5"] == pytest.approx(1 - 0.8**5, abs=0.03)
    assert chance["r_precision"] == pytest.approx(0.2, abs=0.01)
    assert chance["map_at_r"] == pytest.approx(0.04, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(whole_numbers, st.randoms(use_true_random=False))
def test_retrieval_does_not_depend_on_order_place_or_scale(rows, random):
    points, labels = np.array(rows, np.float64)[:, :2], np.array(rows)[:, 2]
    expected = retrieval.measure(labelled(points, labels))
    order = random.sample(range(len(rows)), len(rows))
    shuffled = retrieval.measure(labelled(points[order], labels[order]))
    moved = retrieval.measure(labelled(points @ [[0, -1], [1, 0]] * 3 + [1e6, -7], labels))
    for name in {*MEANS.values(), "queries"}:
        np.testing.assert_array_equal(getattr(moved, name), getattr(expected, name))
    back = [order.index(query) for query in expected.queries]
    for name in MEANS.values():
        whole = dict(zip(shuffled.queries.tolist(), getattr(shuffled, name), strict=True))
        np.testing.assert_array_equal([whole[query] for query in back], getattr(expected, name))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_of_numbers(dtype):
    points, labels = np.round(some().embeddings * 4), some().labels
    expected = retrieval.measure(labelled(points, labels)).means()
    other = retrieval.LabelledEmbeddings(points.astype(dtype), labels.astype(np.int32))
    assert retrieval.measure(other).means() == expected
    assert {type(value) for value in expected.values()} == {float}


def test_nothing_to_ask():
    nothing, gallery = labelled(np.zeros((0, 2)), []), labelled(np.ones((3, 2)), [0, 0, 0])
    for found in (retrieval.measure(nothing), retrieval.measure(nothing, gallery)):
        assert found.left_out == 0 and np.isnan(list(found.means().values())).all()
    for found in (
        retrieval.measure(gallery, nothing),
        retrieval.measure(labelled(np.ones((3, 2)), [0, 1, 2])),
    ):
        assert found.left_out == 3 and np.isnan(list(found.means().values())).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["queries", "gallery"])
def test_embeddings_that_are_not_finite(bad, where):
    fine, broken = labelled([[0.0], [2.0]], [0, 0]), labelled([[0.0], [bad]], [0, 0])
    with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
        retrieval.measure(*((broken, fine) if where == "queries" else (fine, broken)))
