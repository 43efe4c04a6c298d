"""The score of a label, against cases worked by hand and a loop in float64 that shares no code with it."""

import math

import numpy as np
import pytest

from model.scoring.label_errors import judge

# On a line: two classes, 3 around 0 and 8 around 10.
GALLERY = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
LABELS = np.array([3, 3, 3, 8, 8, 8])


def one(place, label, gallery=GALLERY, labels=LABELS, k=3):
    judged = judge(np.array([[float(place)]]), np.array([label]), np.asarray(gallery), np.asarray(labels), k)
    return judged.score[0], judged.suggested[0]


def test_a_label_that_all_neighbours_have_is_right_and_one_that_none_has_is_wrong():
    assert one(1, 3) == (1.0, 3)
    assert one(1, 8) == (0.0, 3)


def test_nearer_neighbours_have_more_of_the_vote():
    """From 5: 2 is 3 away, 1 is 4, 0 and 10 are 5. So 3 neighbours have weights 1 - 3/5, 1 - 4/5 and 0, all of 3."""
    assert one(5, 3) == (1.0, 3)
    # From 6.5: 10 is 3.5 away, 2 and 11 are 4.5, 1 and 12 are 5.5. 8 has 2/5.5 + 1/5.5, 3 has 1/5.5.
    score, suggested = one(6.5, 3)
    assert (score, suggested) == (pytest.approx((1 + 1 / 4 - 3 / 4) / 2), 8)


def test_it_does_not_matter_which_of_equally_near_ones_are_counted():
    """From 0: one of 3 at 1, and three more at 2 of which two are counted, without a weight."""
    gallery = [[1.0], [2.0], [-2.0], [2.0]]
    for labels in ([3, 3, 8, 8], [3, 8, 8, 3], [3, 8, 3, 8]):
        assert one(0, 3, gallery, labels, k=2) == (1.0, 3)


def test_where_all_are_equally_near_each_has_one_vote():
    assert one(0, 3, [[1.0], [-1.0], [1.0], [-1.0]], [3, 3, 8, 8], k=2) == (1.0, 3)  # the first ones
    score, suggested = one(0, 3, np.zeros((6, 1)), [8, 3, 8, 3, 3, 8], k=3)  # two of three are of 8
    assert (score, suggested) == (pytest.approx((1 + 1 / 3 - 2 / 3) / 2), 8)


def test_an_even_vote_leaves_the_label_and_is_not_doubted():
    judged = judge(np.array([[5.0]]), np.array([3]), np.array([[4.0], [6.0], [0.0]]), np.array([3, 8, 3]), 2)
    assert (judged.score[0], judged.suggested[0], judged.is_doubted[0]) == (0.5, 3, False)


def test_of_two_other_classes_with_the_same_vote_the_nearer_one_is_suggested():
    gallery, labels = [[1.0], [-1.0], [9.0], [9.5], [20.0], [21.0]], [7, 5, 3, 3, 3, 3]
    assert one(0, 3, gallery, labels, k=2)[1] == 7
    assert one(0, 3, gallery[1::-1] + gallery[2:], [5, 7, 3, 3, 3, 3], k=2)[1] == 5


def test_of_a_small_class_as_many_vote_as_it_has_images():
    gallery = [[0.1], *([0.2 + i / 100] for i in range(20))]
    labels = [8, *[3] * 20]
    assert one(0, 8, gallery, labels, k=10) == (1.0, 8)  # its only image is the nearest
    assert one(0, 3, gallery, labels, k=10)[0] < 1  # and has a vote among ten


def test_a_label_that_the_gallery_has_not_is_not_judged():
    judged = judge(np.array([[1.0], [2.0]]), np.array([5, 3]), GALLERY, LABELS, 3)
    assert math.isnan(judged.score[0]) and judged.suggested[0] == -1 and not judged.is_doubted[0]
    assert judged.score[1] == 1 and judged.ratio[0] == np.inf


def test_the_ratio_says_how_much_farther_its_own_class_is():
    judged = judge(np.array([[4.0], [10.0], [0.0]]), np.array([8, 3, 3]), GALLERY, LABELS, 3)
    assert judged.ratio.tolist() == [3.0, np.inf, 0.0]


def slow(query, label, gallery, gallery_labels, k):
    """The formula, one image at a time."""
    k = min(k, sum(other == label for other in gallery_labels))
    if k == 0:
        return math.nan
    near = sorted((math.dist(query, row), place) for place, row in enumerate(gallery))[: k + 1]
    (radius, _) = near[k]
    weights = [1 - distance / radius if radius else 0.0 for distance, _ in near[:k]]
    weights = weights if any(weights) else [1.0] * k
    votes = dict.fromkeys([label, *gallery_labels], 0.0)
    for weight, (_, place) in zip(weights, near, strict=False):
        votes[gallery_labels[place]] += weight / sum(weights)
    own = votes.pop(label)
    return (1 + own - max(votes.values())) / 2


@pytest.mark.parametrize("k", [1, 4, 10])
def test_against_a_loop(k):
    rng = np.random.default_rng(k)
    sizes = [1, 2, 5, 40, 60]
    gallery_labels = np.repeat([2, 3, 5, 7, 11], sizes)
    gallery = rng.normal(size=(len(gallery_labels), 5)) + gallery_labels[:, np.newaxis] / 4
    gallery[50:55] = gallery[50]  # duplicates
    queries = np.concatenate([rng.normal(size=(300, 5)) + 1, gallery[48:58]])
    labels = rng.choice([2, 3, 5, 7, 11, 13], len(queries))
    judged = judge(queries.astype(np.float32), labels, gallery.astype(np.float32), gallery_labels, k)
    queries, gallery = queries.astype(np.float32).tolist(), gallery.astype(np.float32).tolist()
    expected = [slow(q, label, gallery, gallery_labels.tolist(), k) for q, label in zip(queries, labels, strict=True)]
    np.testing.assert_allclose(judged.score, expected, atol=1e-9)
    assert np.nanmin(judged.score) >= 0 and np.nanmax(judged.score) <= 1
    assert np.isnan(judged.score).any() and judged.is_doubted.any()


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_neither_the_unit_nor_the_place_of_embeddings_matters(factor):
    rng = np.random.default_rng(0)
    gallery, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    queries, given = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    first = judge(queries, given, gallery, labels, 5)
    second = judge(factor * queries + 1, given, factor * gallery + 1, labels, 5)
    np.testing.assert_allclose(first.score, second.score, atol=1e-6)


def test_one_class_alone_judges_nobody():
    with pytest.raises(ValueError, match="two classes"):
        judge(GALLERY, LABELS, GALLERY[:3], LABELS[:3])


def test_a_vote_of_one_class_alone_is_exactly_0_or_1():
    """So that these are ties, among which the ratio decides."""
    rng = np.random.default_rng(0)
    gallery = np.concatenate([rng.normal(size=(500, 3)), rng.normal(size=(500, 3)) + 50])
    queries = rng.normal(size=(500, 3))
    for label, score in ((3, 1.0), (8, 0.0)):
        judged = judge(queries, np.full(500, label), gallery, np.repeat([3, 8], 500), 10)
        assert set(judged.score.tolist()) == {score}


def test_an_outlier_that_makes_the_search_coarse_does_not_change_the_order():
    gallery, labels = np.array([[0.30], [0.29], [0.28], [1e5]]), np.array([3, 8, 8, 3])
    judged = judge(np.array([[0.0]]), np.array([8]), gallery, labels, 2)
    assert judged.nearest.tolist() == [[2, 1]]
    assert judged.score.tolist() == [1.0]
