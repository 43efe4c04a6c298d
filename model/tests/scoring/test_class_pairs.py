"""How well two classes are told apart, against plain loops over their pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.scoring import class_pairs, neighbors, verification
from model.tests import oracles
from model.tests.scoring.points import clusters, labelled, whole_numbers


@pytest.fixture(params=[1, 300, 100_000])
def pairs_at_a_time(request, monkeypatch):
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", request.param)


def oracle(queries, query_labels, gallery, gallery_labels, is_pair):
    """By the labels of two classes, ascending: the AUC of same pairs against different ones, each with each."""
    common = sorted(set(map(int, query_labels)) & set(map(int, gallery_labels)))
    found = {}
    for a in common:
        for b in common:
            same, different = [], []
            for i, p in enumerate(query_labels):
                for j, q in enumerate(gallery_labels):
                    if a < b and p in (a, b) and q in (a, b) and is_pair(i, j):
                        (same if p == q else different).append(oracles.distance(queries[i], gallery[j]))
            if same and different:
                wins = sum((s < d) + (s == d) / 2 for s in same for d in different)
                found[a, b] = wins / (len(same) * len(different))
    return found


def among_themselves(points, labels):
    return class_pairs.measure(points, labels, points, labels, ignore=np.arange(len(labels)))


def as_mapping(measured):
    assert measured.roc_auc.shape == (len(measured.classes),) * 2
    np.testing.assert_array_equal(measured.roc_auc, measured.roc_auc.T)
    assert np.isnan(np.diag(measured.roc_auc)).all()
    ordered = measured.worst(10**6)
    values = [value for _, _, value in ordered]
    assert values == sorted(values) and measured.worst(2) == ordered[:2]
    return {(a, b): value for a, b, value in ordered}


def test_a_case_by_hand():
    """On a line: 0 and 1 are of one class, 2 and 9 of another. Same pairs: 1, 7. Different pairs: 1, 2, 8, 9."""
    points, labels = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([4, 4, 7, 7])
    assert as_mapping(among_themselves(points, labels)) == {(4, 7): (0.5 + 1 + 1 + 1 + 0 + 0 + 1 + 1) / 8}


@settings(max_examples=60, deadline=None)
@given(whole_numbers)
def test_ties_duplicates_and_single_images(rows):
    """Whole numbers whose squared distances are small enough to have a cell each."""
    points, labels = np.array([row[:2] for row in rows], np.float64) / 2, np.array([row[2] for row in rows])
    expected = oracle(points, labels, points, labels, lambda i, j: i < j)
    assert as_mapping(among_themselves(points, labels)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_points(pairs_at_a_time, dtype):
    images = clusters(60, 0.8)
    points = images.embeddings.astype(dtype)
    expected = oracle(points, images.labels, points, images.labels, lambda i, j: i < j)
    measured = as_mapping(among_themselves(points, images.labels))
    assert len(expected) == 10 and measured == pytest.approx(expected, abs=1e-3)
    assert max(measured.values()) - min(measured.values()) > 0.1


def test_queries_in_a_gallery_with_groups(pairs_at_a_time):
    """Labels are not in order, some classes are on one side only, and some queries are in the gallery."""
    rng = np.random.default_rng(5)
    queries, gallery = rng.integers(-3, 4, (25, 2)).astype(float), rng.integers(-3, 4, (40, 2)).astype(float)
    query_labels, gallery_labels = rng.choice([9, 2, 5, 7], 25), rng.choice([5, 8, 2, 7], 40)
    ignore = np.where(rng.random(25) < 0.4, rng.integers(0, 40, 25), -1)
    groups = rng.integers(-1, 3, 25), rng.integers(-1, 3, 40)

    def is_pair(i, j):
        return j != ignore[i] and (groups[0][i] < 0 or groups[0][i] != groups[1][j])

    measured = class_pairs.measure(queries, query_labels, gallery, gallery_labels, ignore, groups)
    assert measured.classes.tolist() == [2, 5, 7]
    expected = oracle(queries, query_labels, gallery, gallery_labels, is_pair)
    assert len(expected) == 3 and as_mapping(measured) == pytest.approx(expected, abs=1e-12)


def test_it_is_the_roc_auc_of_the_scores_for_two_classes_alone():
    images = clusters(120, 0.9, seed=4)
    for (a, b), value in as_mapping(among_themselves(images.embeddings, images.labels)).items():
        assert value == pytest.approx(verification.measure(images.of_classes([a, b]), 0).roc_auc, abs=5e-4)


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e4)])
def test_scale_and_place_mean_nothing(scale, offset):
    images = clusters(60, 0.8)
    expected = among_themselves(images.embeddings, images.labels).roc_auc
    measured = among_themselves(images.embeddings * scale + offset, images.labels).roc_auc
    np.testing.assert_allclose(measured, expected, atol=1e-3)


def test_a_class_far_away_does_not_blur_the_others():
    images = clusters(60, 0.8)
    expected = among_themselves(images.embeddings, images.labels).roc_auc
    far = labelled(np.full((4, 4), 1e4) + np.arange(4)[:, np.newaxis], [9] * 4)
    both = images.and_those_of(far)
    measured = among_themselves(both.embeddings, both.labels)
    np.testing.assert_allclose(measured.roc_auc[:5, :5], expected, atol=1e-3)
    np.testing.assert_array_equal(measured.roc_auc[:5, 5], 1.0)


def test_embeddings_in_one_place_tell_nothing_apart():
    measured = among_themselves(np.full((9, 3), 0.1, np.float32), np.arange(9) % 3)
    assert as_mapping(measured) == {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}


def test_what_has_no_number():
    """Two classes of an image each have no same pair; each has one with a class of two images."""
    measured = among_themselves(np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([1, 2, 3, 3]))
    assert as_mapping(measured) == {(1, 3): 1.0, (2, 3): 1.0}
    assert measured.lowest.tolist() == [1.0, 1.0, 1.0]
    single = among_themselves(np.array([[0.0], [1.0]]), np.array([1, 2]))
    assert np.isnan(single.lowest).all() and single.worst(1) == []
    one = among_themselves(np.array([[0.0], [1.0]]), np.array([1, 1]))
    assert one.classes.tolist() == [1] and np.isnan(one.lowest).all() and one.worst(1) == []


@pytest.mark.parametrize("labels", [(np.array([1, 1]), np.array([2, 2])), (np.zeros(0, int), np.array([2, 2]))])
def test_no_class_on_both_sides(labels):
    measured = class_pairs.measure(np.ones((len(labels[0]), 2)), labels[0], np.ones((2, 2)), labels[1])
    assert len(measured.classes) == 0 and len(measured.lowest) == 0 and measured.worst(3) == []


@given(st.permutations(range(20)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_images_means_nothing(order):
    images = clusters(20, 0.8, num_classes=3)
    expected = among_themselves(images.embeddings, images.labels).roc_auc
    measured = among_themselves(images.embeddings[order], images.labels[order]).roc_auc
    np.testing.assert_allclose(measured, expected, atol=1e-3)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        among_themselves(np.array([[0.0], [np.nan]]), np.array([1, 1]))
