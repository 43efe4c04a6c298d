"""Who is measured among whom: every group by itself, with other libraries' numbers as the truth."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from model import scoring
from model.common.commands import ROOT
from model.params import Params
from model.scoring import protocol, verification
from model.scoring.labelled import LabelledEmbeddings
from model.tests.scoring.points import labelled


@pytest.fixture(scope="module")
def measured():
    """Six overlapping classes of points in a plane, the last two of which were not trained on."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(6, 2)) * 2
    labels, gallery_labels = generator.integers(0, 6, 300), generator.integers(0, 6, 500)
    points, gallery = (
        (centers[some] + generator.normal(size=(len(some), 2))).astype(np.float32) for some in (labels, gallery_labels)
    )
    groups = {"seen": (0, 1, 2), "unseen": (4, 5)}  # and class 3 only validated
    images, gallery = labelled(points, labels), labelled(gallery, gallery_labels)
    return images, gallery, protocol.score(images, gallery, 1, groups)


GROUPS = {"": (0, 6), "seen/": (0, 3), "unseen/": (4, 6)}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_scored_among_its_own_classes(measured, group):
    images, gallery, scores = measured
    low, high = GROUPS[group]
    asked, kept = ((low <= some) & (some < high) for some in (images.labels, gallery.labels))
    points, labels = images.embeddings[asked], images.labels[asked]
    gallery, gallery_labels = gallery.embeddings[kept], gallery.labels[kept]
    assert (scores[f"{group}knn_images"], scores[f"{group}knn_gallery_images"]) == (len(labels), len(gallery))
    right = KNeighborsClassifier(1).fit(gallery, gallery_labels).predict(points) == labels
    assert scores[f"{group}knn_accuracy"] == right.mean()
    spread = 1.96 * right.std() / np.sqrt(len(right))  # of a mean, by the normal approximation
    for end, sign in (("low", -1), ("high", 1)):
        assert scores[f"{group}knn_accuracy_{end}95"] == pytest.approx(
            right.mean() + sign * spread, abs=1.5 / len(right)
        )
    if group == "unseen/":  # nobody has learned from their training images
        points, labels = np.concatenate([points, gallery]), np.concatenate([labels, gallery_labels])
    assert scores[f"{group}num_images"] == len(labels)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert scores[f"{group}recall_at_1"] == np.mean(labels[distances.argmin(axis=1)] == labels)
    pairs = np.triu_indices(len(labels), 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    assert scores[f"{group}roc_auc"] == pytest.approx(roc_auc_score(same, -distances[pairs]), abs=1e-5)


def test_images_of_classes_without_training_images_are_left_out_and_counted(measured):
    """As if class 5 had been tested only; then, as if no class were in both."""
    images, gallery, scores = measured
    known = protocol.score(images, gallery.of_classes(range(5)), 1)
    assert known["knn_images_left_out"] == np.count_nonzero(images.labels == 5)
    of_these = protocol.score(images.of_classes(range(5)), gallery.of_classes(range(5)), 1)
    assert known["knn_accuracy"] == of_these["knn_accuracy"] > 0.5
    assert known["recall_at_1"] == scores["recall_at_1"]  # among all test images, as ever
    watched = protocol.watch(images, gallery.of_classes(range(5)))
    assert all(watched[name] == known[name] for name in ("knn_accuracy", "knn_images_left_out"))

    learned = gallery.of_classes((0, 1, 2))
    new = images.of_classes((4, 5))
    disjoint = protocol.score(new, learned, 1, {"seen": (0, 1, 2), "unseen": (4, 5)})
    assert (disjoint["knn_images"], disjoint["knn_images_left_out"]) == (0, len(new))
    assert np.isnan([disjoint[name] for name in ("knn_accuracy", "knn_accuracy_low95", "unseen/knn_accuracy")]).all()
    assert np.isnan(protocol.watch(new, learned)["knn_accuracy"])
    assert disjoint["seen/num_images"] == 0
    for name in ("recall_at_1", "map_at_r", "eer"):
        assert disjoint[f"unseen/{name}"] == disjoint[name] and 0 < disjoint[name] < 1


def test_every_headline_is_there_with_its_interval(measured):
    scores = measured[-1]
    for group in GROUPS:
        for name in protocol.HEADLINES:
            low, value, high = (scores[f"{group}{name}{end}"] for end in ("_low95", "", "_high95"))
            assert low <= value <= high


def test_what_is_watched_is_what_is_scored_in_the_end(measured):
    *data, scores = measured
    watched = protocol.watch(*data)
    assert set(watched) >= set(Params.model_json_schema()["properties"]["early_stopping_metric"]["enum"])
    assert all(scores[name] == value for name, value in watched.items())


def test_queries_are_classified_by_a_gallery_that_is_among_the_images(measured):
    images, *_ = measured
    is_query = np.arange(len(images)) % 3 == 0
    asked = LabelledEmbeddings(images.embeddings, images.labels, is_query, ~is_query)
    watched = protocol.watch(asked, images.at(np.flatnonzero(~is_query)))
    assert watched["knn_accuracy"] == watched["recall_at_1"]  # and not 1, as if images found themselves
    assert watched["knn_images_left_out"] == 0 and 0.3 < watched["knn_accuracy"] < 0.95


def test_without_unseen_classes_there_is_one_group(measured):
    *data, scores = measured
    alone = protocol.score(*data, 1)
    assert not any("/" in name for name in alone)
    assert alone == {name: value for name, value in scores.items() if "/" not in name}


def test_a_group_of_all_images_is_measured_once(measured, monkeypatch):
    images, gallery, *_ = measured
    classes = np.unique(images.labels).tolist()
    others = labelled(gallery.embeddings, gallery.labels + 100)  # nobody learned from a class of the images
    calls, measure = [], verification.measure
    monkeypatch.setattr(verification, "measure", lambda *arguments: calls.append(0) or measure(*arguments))
    scores = protocol.score(images, others, 1, {"unseen": classes})
    assert len(calls) == 1
    whole = {name: value for name, value in scores.items() if "/" not in name and not name.startswith("knn")}
    assert {name: scores[f"unseen/{name}"] for name in whole} == whole


def test_a_group_without_images_has_no_scores():
    points = np.eye(4, dtype=np.float32)
    images = labelled(points, [0, 0, 1, 1])
    scores = protocol.score(images, images, 0, {"unseen": (7, 8)})
    assert scores["unseen/num_images"] == 0
    assert np.isnan(scores["unseen/knn_accuracy"]) and np.isnan(scores["unseen/eer"])


def test_the_room_does_without_tensorflow():
    modules = [f"model.scoring.{module.name}" for module in pkgutil.iter_modules(scoring.__path__)]
    code = f"import sys, {', '.join(modules)}; print({{'tensorflow', 'keras'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(modules) > 5 and result.stdout.strip() == "set()"
