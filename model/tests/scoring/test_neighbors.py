"""The search for neighbours against plain loops."""

import ml_dtypes
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from model.scoring import neighbors
from model.tests import oracles


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 4, 60)


@pytest.fixture(params=[1, 300, 100_000])
def pairs_at_a_time(request, monkeypatch):
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_visit_distances(data, pairs_at_a_time, dtype):
    points, _ = data
    found = np.full((60, 60), -1.0)

    def visit(chunk, distances):
        assert distances.dtype == dtype
        found[chunk] = distances

    unit = neighbors.visit_distances(visit, points, points, ignore=np.arange(60)[::-1], dtype=dtype)
    assert np.isinf(found[np.arange(60), np.arange(60)[::-1]]).all()
    assert unit == 2.0 ** round(np.log2(unit))
    expected = oracles.pairwise_distances(points, "squared_euclidean") / unit**2
    finite = np.isfinite(found)
    assert finite.sum() == 60 * 59 and found.min() == 0 and found[finite].max() < 4
    np.testing.assert_allclose(found[finite], expected[finite], atol=1e-6 if dtype == np.float32 else 1e-14)


def test_an_error_in_a_visit_is_raised(data):
    def visit(chunk, distances):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        neighbors.visit_distances(visit, data[0], data[0])


def test_the_nearest(data, pairs_at_a_time):
    points, _ = data
    queries, gallery = points[:25], points[25:]
    expected = [[oracles.nearest(query, gallery)] for query in queries]
    np.testing.assert_array_equal(neighbors.k_nearest(queries, gallery, 1), expected)
    expected = [[oracles.nearest(query, points, ignore=index)] for index, query in enumerate(points)]
    np.testing.assert_array_equal(neighbors.k_nearest(points, points, 1, ignore=np.arange(60)), expected)


@pytest.mark.parametrize("offset", [1e3, 1e6, -1e9])
def test_far_from_the_origin(data, offset):
    """A common offset costs float32 its digits, unless it is taken out first."""
    points = data[0].astype(np.float64) + offset
    expected = [[oracles.nearest(query, points, ignore=index)] for index, query in enumerate(points)]
    np.testing.assert_array_equal(neighbors.k_nearest(points, points, 1, ignore=np.arange(60)), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_any_scale(data, scale):
    """Squares that float32 cannot hold do no harm."""
    expected = neighbors.k_nearest(data[0], data[0], 7)
    np.testing.assert_array_equal(
        neighbors.k_nearest(data[0] * np.float64(scale), data[0] * np.float64(scale), 7), expected
    )


@pytest.mark.parametrize("k", [1, 2, 40])
def test_k_nearest_of_many_ties(pairs_at_a_time, k):
    """Whole numbers, whose distances float32 holds exactly, though their mean is not whole."""
    points = np.random.default_rng(k).integers(-2, 3, size=(41, 2)).astype(np.float32)
    found = neighbors.k_nearest(points, points, k, ignore=np.arange(41))
    assert found.dtype == np.int64
    for index, point in enumerate(points):
        others = [i for i in range(41) if i != index]
        nearest = sorted(others, key=lambda i: (oracles.distance(point, points[i], "squared_euclidean"), i))
        assert found[index].tolist() == nearest[:k]


@pytest.mark.parametrize("size", [3, 256, 257, 1500])
def test_k_nearest_of_rows_longer_than_a_block(size):
    """Sorted by hand, whole rows: few different numbers, so that most blocks have the same lowest one."""
    gallery = np.random.default_rng(size).integers(-9, 10, size=(size, 1)).astype(np.float32)
    queries = np.arange(-12.0, 13.0)[:, np.newaxis]
    expected = [sorted(range(size), key=lambda i, q=query: (abs(gallery[i, 0] - q), i))[:9] for query in queries[:, 0]]
    np.testing.assert_array_equal(neighbors.k_nearest(queries, gallery, min(9, size)), expected)


def test_matrix_products_have_their_threads_again(monkeypatch):
    """Of several chunks each is multiplied by one thread; afterwards, also of a visitor that fails, it is as before."""
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", 300)
    libraries, seen = ThreadpoolController().select(user_api="blas"), []

    def fail(chunk, distances):
        seen.append(threads())
        raise RuntimeError

    def threads():
        return {library["num_threads"] for library in libraries.info()}

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        with pytest.raises(RuntimeError):
            neighbors.visit_distances(fail, np.zeros((60, 2)), np.zeros((60, 2)))
        assert threads() == {2}
    assert seen[0] == {1}


def test_ties_go_to_the_first():
    gallery = np.array([[2.0], [1.0], [-1.0], [1.0]])
    assert neighbors.k_nearest(np.array([[0.0], [1.0]]), gallery, 1).tolist() == [[1], [1]]
    assert neighbors.k_nearest(np.array([[0.0]]), gallery, 4).tolist() == [[1, 2, 3, 0]]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3, -1e20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_equal_rows_are_equally_near(value, dtype):
    points = np.full((1001, 7), value, dtype)
    assert neighbors.k_nearest(points[:2], points, 3).tolist() == [[0, 1, 2]] * 2
    unit = neighbors.visit_distances(lambda _, distances: np.testing.assert_array_equal(distances, 0), points, points)
    assert unit == 1


@pytest.mark.parametrize("k", [0, 4])
def test_k_that_there_is_not(k):
    with pytest.raises(ValueError, match=rf"^Expected k from 1 to the 3 gallery rows .* Received: {k}\.$"):
        neighbors.k_nearest(np.zeros((2, 1)), np.zeros((4, 1)), k, ignore=np.arange(2))


def test_empty():
    assert neighbors.k_nearest(np.zeros((0, 3)), np.zeros((4, 3)), 2).shape == (0, 2)
    with pytest.raises(ValueError, match="Expected k from 1 to the 0 gallery rows"):
        neighbors.k_nearest(np.zeros((2, 3)), np.zeros((0, 3)), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("where", ["queries", "gallery"])
def test_embeddings_that_are_not_finite(bad, where):
    rows = {"queries": np.zeros((2, 3)), "gallery": np.ones((4, 3))}
    rows[where][1, 1] = bad
    with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
        neighbors.k_nearest(**rows, k=1)


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"Expected embeddings of shape \(N, D\)\. Received: \(2, 3\) and \(4, 2\)"):
        neighbors.k_nearest(np.zeros((2, 3)), np.zeros((4, 2)), 1)


def test_class_neighbors(data, pairs_at_a_time):
    points, labels = data
    labels[7] = 9  # alone in its class
    found = neighbors.class_neighbors(points, labels, points, labels, ignore=np.arange(60))
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
    assert found.same_distance.dtype == found.other_distance.dtype == np.float32


def test_class_neighbors_where_there_is_one_class():
    found = neighbors.class_neighbors(np.zeros((2, 3)), np.zeros(2, int), np.ones((3, 3)), np.zeros(3, int))
    assert found.other.tolist() == [-1, -1] and np.isinf(found.other_distance).all()
    assert found.same.tolist() == found.nearest.tolist() == [0, 0]


def test_class_neighbors_in_a_gallery_of_nothing_but_the_query():
    points, labels = np.ones((1, 3)), np.array([5])
    found = neighbors.class_neighbors(points, labels, points, labels, ignore=np.array([0]))
    assert found.nearest.tolist() == found.same.tolist() == found.other.tolist() == [-1]
    assert np.isinf(found.same_distance).all() and np.isinf(found.other_distance).all()
