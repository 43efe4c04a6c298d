"""Clusters that are perfect, by chance, and not there; the silhouette against plain loops."""

import numpy as np
import pytest

from model.scoring import clustering
from model.tests import oracles
from model.tests.scoring.points import clusters, labelled, some


def test_clustering_that_is_perfect_and_by_chance():
    labels = np.arange(300) % 3 * 5
    rng = np.random.default_rng(0)
    points = labels[:, np.newaxis] * 100 + rng.normal(size=(300, 2))
    perfect = clustering.measure(labelled(points, labels), 2**64 - 1)
    assert perfect["nmi"] == pytest.approx(1) and perfect["ami"] == pytest.approx(1) and perfect["silhouette"] > 0.9
    chance = clustering.measure(labelled(rng.normal(size=(300, 2)), labels), 0)
    assert abs(chance["ami"]) < 0.03 and abs(chance["silhouette"]) < 0.05
    assert {type(value) for value in chance.values()} == {float}


def test_silhouette_is_that_of_plain_loops():
    points, labels = some().embeddings[:30], some().labels[:30]
    labels[7] = 9  # alone in its class: 0
    values = []
    for i in range(30):
        to = {
            label: [oracles.distance(points[i], points[j]) for j in range(30) if j != i and labels[j] == label]
            for label in set(labels.tolist())
        }
        own = to.pop(int(labels[i]))
        a, b = (np.mean(own) if own else np.nan), min(np.mean(lengths) for lengths in to.values() if lengths)
        values.append((b - a) / max(a, b) if own else 0.0)
    silhouette = clustering.measure(labelled(points, labels), 0)["silhouette"]
    assert silhouette == pytest.approx(np.mean(values), abs=1e-6)


def test_clustering_of_a_sample(monkeypatch):
    images = clusters(400, 0.3)
    whole = clustering.measure(images, 1)
    monkeypatch.setattr(clustering, "_MAX_CLUSTERED", 200)
    part = clustering.measure(images, 1)
    assert part != whole and part == clustering.measure(images, 1)
    assert part["silhouette"] == pytest.approx(whole["silhouette"], abs=0.1)


def test_of_very_many_classes_some_are_measured_with_their_partners(monkeypatch):
    """300 classes of 4 images, which no clustering can tell: with one image of each, NMI would be near 1."""
    monkeypatch.setattr(clustering, "_MAX_CLUSTERED", 400)
    labels = np.repeat(np.arange(300), 4)
    images = labelled(np.random.default_rng(0).normal(size=(1200, 8)), labels)
    a_hundred_classes = labelled(images.embeddings[:400], labels[:400])
    expected = clustering.measure(a_hundred_classes, 1)["nmi"]
    assert clustering.measure(images, 1)["nmi"] == pytest.approx(expected, abs=0.03) and expected < 0.8


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
    scores = clustering.measure(labelled(points, labels), 0)
    assert list(scores) == ["nmi", "ami", "silhouette"]
    assert np.isnan(list(scores.values())).all()


def test_fewer_places_than_classes():
    scores = clustering.measure(labelled(np.arange(12.0)[:, np.newaxis] // 6, np.arange(12) % 4), 0)
    assert np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite(bad):
    with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
        clustering.measure(labelled([[0.0], [bad], [1.0], [2.0]], [0, 0, 1, 1]), 0)
