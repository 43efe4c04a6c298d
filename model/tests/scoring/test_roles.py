"""Queries, a gallery and groups: against loops over all pairs, and as if there were none where all are both."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.listing import Roles
from model.scoring import intervals, neighbors, protocol, retrieval, verification
from model.scoring.labelled import LabelledEmbeddings
from model.tests.scoring.points import clusters

# A point of two whole coordinates, whose distances are exact; its class, group, and whether it is query and gallery.
rows = st.lists(
    st.tuples(
        st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 3), st.integers(-1, 2), st.booleans(), st.booleans()
    ),
    min_size=1,
    max_size=22,
)


def images_of(drawn):
    x, y, labels, group, is_query, is_gallery = (np.array(column) for column in zip(*drawn, strict=True))
    points = np.column_stack([x, y]).astype(np.float32)
    return LabelledEmbeddings(points, labels, is_query.astype(bool), is_gallery.astype(bool), group)


def some(num_images=150, seed=0):
    """Real numbers, half of them queries and half of them gallery, in groups of which one is of no image."""
    rng = np.random.default_rng(seed)
    images = clusters(num_images, 0.8, seed)
    facts = rng.random((2, num_images)) < 0.5, rng.integers(-1, 6, num_images)
    return LabelledEmbeddings(images.embeddings, images.labels, *facts[0], facts[1])


def neighbours(images, query):
    """(squared distance, is of the class) of each image that may be found, in no order."""
    for other in range(len(images)):
        same_group = images.group[query] >= 0 and images.group[query] == images.group[other]
        if images.is_gallery[other] and other != query and not same_group:
            difference = [
                float(a) - float(b) for a, b in zip(images.embeddings[query], images.embeddings[other], strict=True)
            ]
            yield math.fsum(d * d for d in difference), bool(images.labels[query] == images.labels[other]), other


def slow_retrieval(images):
    """By query: the measures as they are defined, with ties against the query."""
    result = {}
    for query in range(len(images)):
        ranking = [is_same for _, is_same, _ in sorted(neighbours(images, query), key=lambda found: found[:2])]
        total = sum(ranking)
        if images.is_query[query] and total:
            result[query] = (
                *(float(any(ranking[:k])) for k in (1, 5, 10)),
                sum(ranking[:total]) / total,
                sum(sum(ranking[: i + 1]) / (i + 1) for i in range(total) if ranking[i]) / total,
                1 / (ranking.index(True) + 1),
            )
    return result


def slow_pairs(images):
    """Distances and kinds of all pairs {i, j} of which one may find the other, by (i, j)."""
    pairs = {}
    for query in np.flatnonzero(images.is_query).tolist():
        for square, is_same, other in neighbours(images, query):
            pairs[min(query, other), max(query, other)] = math.sqrt(square), is_same
    return pairs


@pytest.fixture(params=[1, 40, 10**7], ids=lambda pairs: f"{pairs} pairs at a time")
def pairs_at_a_time(request, monkeypatch):
    monkeypatch.setattr(neighbors, "_PAIRS_AT_A_TIME", request.param)


def check_retrieval(images):
    found, expected = retrieval.measure(images), slow_retrieval(images)
    assert found.queries.tolist() == list(expected)
    assert found.left_out == int(images.is_query.sum()) - len(expected)
    ours = [
        found.recall_at_1,
        found.recall_at_5,
        found.recall_at_10,
        found.r_precision,
        found.map_at_r,
        found.reciprocal_rank,
    ]
    np.testing.assert_allclose(np.transpose(ours), np.reshape(list(expected.values()), (-1, 6)), rtol=1e-12)
    roles = Roles(images.is_query, images.is_gallery, images.group)
    assert roles.count_without_answer(images.labels) == found.left_out


@settings(deadline=None, max_examples=150)
@given(rows)
def test_retrieval_is_that_of_plain_loops(drawn):
    check_retrieval(images_of(drawn))


def test_retrieval_in_parts(pairs_at_a_time):
    check_retrieval(some())


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(rows)
def test_pairs_are_those_of_plain_loops(drawn):
    images = images_of(drawn)
    pairs = slow_pairs(images)
    lengths, is_same = (
        np.array([length for length, _ in pairs.values()]),
        np.array([same for _, same in pairs.values()]),
    )
    scores = verification.measure(images, 0)
    if len(set(is_same.tolist())) < 2:
        assert np.isnan([scores.roc_auc, scores.eer, scores.verification_accuracy]).all()
    else:
        assert scores.roc_auc == pytest.approx(sklearn.metrics.roc_auc_score(is_same, -lengths), abs=1e-6)
        accepted = lengths <= scores.eer_threshold
        excess = abs(np.mean(accepted[~is_same]) + np.mean(accepted[is_same]) - 1)
        assert (
            excess
            <= min(abs(np.mean(lengths[~is_same] <= at) + np.mean(lengths[is_same] <= at) - 1) for at in (-1, *lengths))
            + 1e-9
        )


def test_verification_in_parts(pairs_at_a_time):
    images = some(70)
    pairs = slow_pairs(images).values()
    lengths, is_same = (np.array(values) for values in zip(*pairs, strict=True))
    found = verification.measure(images, 0)
    assert found.roc_auc == pytest.approx(sklearn.metrics.roc_auc_score(is_same, -lengths), abs=1e-6)
    at = found.threshold_at_far[1]
    assert found.tar_at_far[1] == np.mean(lengths[is_same] <= at) and np.mean(lengths[~is_same] <= at) <= 0.01


def test_the_calibrated_threshold_judges_pairs_inside_the_other_half(pairs_at_a_time):
    images = some(90)
    used = np.flatnonzero(images.is_query | images.is_gallery)
    _, classes = np.unique(images.labels[used], return_inverse=True)
    is_second = dict(zip(used.tolist(), verification._second_half(classes, 5).tolist(), strict=True))
    halves = {True: [], False: []}
    for (i, j), pair in slow_pairs(images).items():
        if is_second[i] == is_second[j]:
            halves[is_second[i]].append(pair)

    def rates(half, threshold):
        far, tar = ([length <= threshold for length, same in halves[half] if same == kind] for kind in (False, True))
        return np.mean(far), np.mean(tar)

    found = verification.measure(images, 5)
    far, tar = rates(True, found.verification_threshold)
    assert (found.false_accept_rate, found.false_reject_rate) == pytest.approx((far, 1 - tar))
    far, tar = rates(False, found.verification_threshold)
    best = max(np.subtract(*reversed(rates(False, length + 1e-9))) for length, _ in halves[False])
    assert tar - far == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("num_queries", [0.5, 0.1])
def test_the_bootstrap_counts_each_pair_as_often_as_its_images(monkeypatch, num_queries):
    """In a sample that holds image i w_i times, pair (i, j) weighs w_i + w_j - 1; summed over distances."""
    rng = np.random.default_rng(1)
    images = some(60)
    images = LabelledEmbeddings(
        images.embeddings, images.labels, rng.random(60) < num_queries, images.is_gallery, images.group
    )
    images = images.at(np.flatnonzero(images.is_query | images.is_gallery))
    weights = rng.integers(0, 4, (7, len(images))).astype(np.uint8)
    monkeypatch.setattr(intervals, "resample_counts", lambda *_: weights)
    _, classes = np.unique(images.labels, return_inverse=True)
    classes = classes.astype(np.int32)
    _, all_pairs, unit = verification._pair_histograms(images, classes, np.zeros(len(images), bool))
    found = verification._bootstrap_histograms(images, classes, all_pairs, unit, 0).sum(axis=2)
    for row, weight in zip(found, weights.astype(int), strict=True):
        expected = [0, 0]
        for (i, j), (_, is_same) in slow_pairs(images).items():
            expected[not is_same] += weight[i] + weight[j] - 1
        assert row.tolist() == expected


def test_the_bootstrap_measures_queries_and_gallery_in_one_unit(monkeypatch):
    """From the mean of the gallery, 1.78, no row is farther than 2; from the query, which is the gallery of the gallery
    images, one is 2.3 away, so that they would be measured in a unit of 4.
    """
    points = np.array([[0.0], [1.5], [1.6], [1.7], [2.3]])
    is_query = np.arange(5) == 0
    images = LabelledEmbeddings(points, np.array([0, 0, 1, 0, 1]), is_query, ~is_query)
    monkeypatch.setattr(intervals, "resample_counts", lambda *_: np.ones((1, 5), np.uint8))
    classes = images.labels.astype(np.int32)
    _, all_pairs, unit = verification._pair_histograms(images, classes, np.zeros(5, bool))
    ((same, different),) = verification._bootstrap_histograms(images, classes, all_pairs, unit, 0)
    # The pairs are 1.5 and 1.7 (same) and 1.6 and 2.3 apart, all different enough for bins of their own.
    assert same[same != 0].tolist() == different[different != 0].tolist() == [1, 1]
    order = np.concatenate([np.flatnonzero(same), np.flatnonzero(different)])
    assert np.argsort(order).tolist() == [0, 2, 1, 3]


def test_where_all_are_both_every_number_is_the_same():
    images = clusters(120, 0.9)
    everything = np.ones(120, bool)
    for facts in (
        (everything, everything, None),
        (everything, everything, np.full(120, -1)),
        (None, None, np.arange(120)),
    ):
        with_roles = LabelledEmbeddings(images.embeddings, images.labels, *facts)
        assert retrieval.measure(with_roles).means() == retrieval.measure(images).means()
        ours, theirs = (verification.measure(some, 3).scores() for some in (with_roles, images))
        assert ours == pytest.approx(theirs, rel=0, abs=1e-12, nan_ok=True)


def test_queries_apart_from_the_gallery_are_as_two_sets():
    images = some(100)
    apart = LabelledEmbeddings(images.embeddings, images.labels, images.is_query, ~images.is_query)
    plain = LabelledEmbeddings(images.embeddings, images.labels)
    queries, gallery = (plain.at(np.flatnonzero(some)) for some in (images.is_query, ~images.is_query))
    assert retrieval.measure(apart).means() == pytest.approx(retrieval.measure(queries, gallery).means(), rel=1e-12)


@pytest.mark.parametrize("what", ["one group", "no query", "no gallery", "only itself"])
def test_where_everything_is_left_out(what):
    nothing, everything = np.zeros(6, bool), np.ones(6, bool)
    facts = {
        "one group": (everything, everything, np.zeros(6, int)),
        "no query": (nothing, everything, None),
        "no gallery": (everything, nothing, None),
        "only itself": (np.arange(6) == 2, np.arange(6) == 2, None),
    }[what]
    images = LabelledEmbeddings(np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 1]), *facts)
    found = retrieval.measure(images)
    assert found.left_out == facts[0].sum() and not len(found.queries)
    assert np.isnan([*found.means().values(), *verification.measure(images, 0).scores().values()]).all()


def test_class_neighbors_leave_groups_out(pairs_at_a_time):
    images = some()
    queries, gallery = images.queries, images.gallery
    places = np.array([gallery.tolist().index(q) if q in gallery else -1 for q in queries])
    found = neighbors.class_neighbors(
        images.embeddings[queries], images.labels[queries], images.embeddings[gallery], images.labels[gallery],
        places, (images.group[queries], images.group[gallery]),
    )  # fmt: skip
    for row, query in enumerate(queries.tolist()):
        expected = list(neighbours(images, query))
        for kind, ours in ((True, found.same[row]), (False, found.other[row])):
            nearest = min(((square, other) for square, is_same, other in expected if is_same == kind), default=None)
            assert (ours < 0) == (nearest is None) and (nearest is None or gallery[ours] == nearest[1])
        assert (found.nearest[row] < 0) == (not expected)


@pytest.mark.usefixtures("few_resamples")
def test_the_protocol_heeds_roles():
    images, gallery = some(140, seed=4), clusters(90, 0.8, seed=5)
    groups = {"seen": (0, 1, 2), "unseen": (3, 4)}
    scores = protocol.score(images, gallery, 1, groups)
    plain = protocol.score(LabelledEmbeddings(images.embeddings, images.labels), gallery, 1, groups)
    for prefix in ("", "seen/"):
        for name in ("knn_accuracy", "knn_images", "nmi", "silhouette", "num_images"):
            assert scores[prefix + name] == plain[prefix + name]
    assert not any(name.endswith(("num_queries", "num_gallery_images")) for name in plain)
    for prefix, some_images in (("", images), *((f"{name}/", images.of_classes(of)) for name, of in groups.items())):
        assert scores[f"{prefix}num_queries"] == some_images.is_query.sum()
        assert scores[f"{prefix}num_gallery_images"] == some_images.is_gallery.sum()
        assert scores[f"{prefix}queries_left_out"] == some_images.is_query.sum() - len(slow_retrieval(some_images))
        firsts = [values[0] for values in slow_retrieval(some_images).values()]
        assert scores[f"{prefix}recall_at_1"] == pytest.approx(np.mean(firsts), rel=1e-12)
    watched = protocol.watch(images, gallery)
    assert watched["map_at_r"] == scores["map_at_r"] != plain["map_at_r"]
