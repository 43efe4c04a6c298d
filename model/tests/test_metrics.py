"""Retrieval against plain loops and scikit-learn."""

import numpy as np
import pytest
import sklearn.neighbors

from model import metrics
from model.tests import oracles


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 4, 60)


@pytest.mark.parametrize("pairs_at_a_time", [1, 100, 10_000])
def test_nearest_neighbors(data, monkeypatch, pairs_at_a_time):
    monkeypatch.setattr(metrics, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    points, _ = data
    queries, gallery = points[:25], points[25:]
    expected = [oracles.nearest(query, gallery) for query in queries]
    np.testing.assert_array_equal(metrics.nearest_neighbors(queries, gallery), expected)
    expected = [oracles.nearest(query, points, ignore=index) for index, query in enumerate(points)]
    np.testing.assert_array_equal(metrics.nearest_neighbors(points, points, ignore=np.arange(60)), expected)


def test_nearest_neighbors_far_from_the_origin(data):
    """A common offset a thousand times the spread costs float32 its digits, unless it is taken out first."""
    points = data[0].astype(np.float64) + 1000
    expected = [oracles.nearest(query, points, ignore=index) for index, query in enumerate(points)]
    np.testing.assert_array_equal(metrics.nearest_neighbors(points, points, ignore=np.arange(60)), expected)


def test_ties_go_to_the_first():
    gallery = np.array([[2.0], [1.0], [-1.0], [1.0]])
    assert metrics.nearest_neighbors(np.array([[0.0], [1.0]]), gallery).tolist() == [1, 1]


def test_knn_accuracy_is_that_of_scikit_learn(data):
    points, labels = data
    peer = sklearn.neighbors.KNeighborsClassifier(1).fit(points[25:], labels[25:])
    expected = peer.score(points[:25], labels[:25])
    assert 0 < expected < 1
    assert metrics.knn_accuracy(points[:25], labels[:25], points[25:], labels[25:]) == pytest.approx(expected)


def test_recall_at_1_by_hand():
    """On a line: 0 and 1 of class A are each other's nearest, 2.5 of B is nearest to A, 9 of C stands alone."""
    embeddings = np.array([[0.0], [1.0], [2.5], [5.5], [9.0]])
    labels = np.array([0, 0, 1, 1, 2])
    # 0 -> 1 right, 1 -> 0 right, 2.5 -> 1 wrong, 5.5 -> 2.5 right; 9 cannot be right and is left out.
    assert metrics.recall_at_1(embeddings, labels) == 3 / 4


def test_duplicates_are_found_and_an_image_is_never_its_own_neighbour():
    embeddings, labels = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    # All coincide: the first other image is the neighbour, 1 for image 0 and 0 for the others.
    assert metrics.recall_at_1(embeddings, labels) == 1 / 4


def test_nothing_to_ask():
    assert np.isnan(metrics.recall_at_1(np.zeros((3, 2)), np.array([0, 1, 2])))
    assert np.isnan(metrics.knn_accuracy(np.zeros((0, 2)), np.zeros(0, int), np.zeros((3, 2)), np.zeros(3, int)))


@pytest.mark.parametrize("pairs_at_a_time", [1, 100, 10_000])
def test_class_neighbors(data, monkeypatch, pairs_at_a_time):
    monkeypatch.setattr(metrics, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    points, labels = data
    labels[7] = 9  # alone in its class
    found = metrics.class_neighbors(points, labels, points, labels, ignore=np.arange(60))
    for index, (point, label) in enumerate(zip(points, labels, strict=True)):
        lengths = {i: oracles.distance(point, other) for i, other in enumerate(points) if i != index}
        same = {i: length for i, length in lengths.items() if labels[i] == label}
        other = {i: length for i, length in lengths.items() if labels[i] != label}
        assert found.nearest[index] == min(lengths, key=lengths.get)
        assert found.same[index] == (min(same, key=same.get) if same else -1)
        assert found.other[index] == min(other, key=other.get)
        assert found.same_distance[index] == pytest.approx(min(same.values(), default=np.inf), rel=1e-5)
        assert found.other_distance[index] == pytest.approx(min(other.values()), rel=1e-5)
    assert found.same[7] == -1 and np.isinf(found.same_distance[7])


def test_class_neighbors_where_there_is_one_class():
    found = metrics.class_neighbors(np.zeros((2, 3)), np.zeros(2, int), np.ones((3, 3)), np.zeros(3, int))
    assert found.other.tolist() == [-1, -1] and np.isinf(found.other_distance).all()
    assert found.same.tolist() == found.nearest.tolist() == [0, 0]
