"""What a view knows of its images."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from model.data.dataset import Dataset, Split
from model.data.listing import Roles
from model.data.partition import divide
from model.params import Params
from model.pictures import view as view_module
from model.pictures import visualize
from model.pictures.view import Embedded
from model.scoring.neighbors import class_neighbors
from model.tests.views import view


def test_an_image_is_what_its_nearest_training_image_is():
    mixed = view(spread=4.0)
    nearest = [
        min(range(90), key=lambda j: float(np.sum((mixed.gallery.embeddings[j] - embedding) ** 2)))
        for embedding in mixed.shown.embeddings
    ]
    expected = [int(mixed.gallery.labels[j]) for j in nearest]
    assert mixed.predicted.tolist() == expected
    right = [label == int(own) for label, own in zip(expected, mixed.shown.labels, strict=True)]
    assert mixed.is_right.tolist() == right and 0 < sum(right) < len(right)


def test_a_training_image_is_not_its_own_neighbor():
    some = view(in_gallery=True, spread=0.0)  # all of a class in one place
    assert some.is_right.all() and (some.neighbors.nearest != np.arange(60)).all()


def test_the_title():
    assert view().title == "some images, step 7"


def test_what_has_no_other_image_of_its_class_is_no_mistake():
    """As where only three of the four classes were trained on."""
    some = view(spread=4.0)
    kept = some.gallery.labels != 3
    gallery = Embedded(some.gallery.images[kept], some.gallery.labels[kept], some.gallery.embeddings[kept])
    shown = some.shown
    neighbors = class_neighbors(shown.embeddings, shown.labels, gallery.embeddings, gallery.labels)
    some = dataclasses.replace(some, gallery=gallery, neighbors=neighbors)
    assert some.has_answer.tolist() == (shown.labels != 3).tolist()
    assert some.is_wrong.tolist() == [
        right != label and label != 3 for right, label in zip(some.predicted, shown.labels, strict=True)
    ]
    assert 0 < some.is_wrong.sum() < some.has_answer.sum()
    assert not some.is_right[shown.labels == 3].any()


def test_what_may_be_found_is_what_class_neighbors_search():
    """Of queries, some in the gallery, in groups: the nearest of what may be found is the nearest neighbour."""
    some = view(spread=4.0)
    shown, gallery = some.shown, some.gallery
    own = np.where(np.arange(60) % 3 == 0, np.arange(60), -1)
    groups = np.arange(60) % 5 - 1, np.arange(90) % 7 - 1
    neighbors = class_neighbors(shown.embeddings, shown.labels, gallery.embeddings, gallery.labels, own, groups)
    some = dataclasses.replace(some, neighbors=neighbors, in_gallery=own, groups=groups)
    for index in range(60):
        found = some.may_be_found(index)
        expected = [
            j for j in range(90) if j != own[index] and (groups[0][index] < 0 or groups[0][index] != groups[1][j])
        ]
        assert np.flatnonzero(found).tolist() == expected
        lengths = np.linalg.norm(gallery.embeddings - shown.embeddings[index], axis=1)
        assert neighbors.nearest[index] == min(expected, key=lambda j: lengths[j])


def test_where_nothing_may_be_found_nothing_is_right():
    some = view(num_images=4)
    one_group = np.zeros(4, int), np.zeros(90, int)
    shown, gallery = some.shown, some.gallery
    neighbors = class_neighbors(shown.embeddings, shown.labels, gallery.embeddings, gallery.labels, groups=one_group)
    some = dataclasses.replace(some, neighbors=neighbors, groups=one_group)
    assert not (some.is_right | some.is_wrong | some.has_answer).any()
    assert not any(some.may_be_found(index).any() for index in range(4))


def pixels(images):
    """An embedding that is the first two pixels."""
    return images[:, 0, :2, 0].astype(np.float32)


@pytest.mark.parametrize(("exclude", "nearest"), [(False, 1), (True, 2)])
def test_queries_are_shown_with_images_of_their_gallery(exclude, nearest):
    """On a line: 0 is a query, 1, 2 and 9 are gallery images, 3 and 8 both; 0 and 1 share a group."""
    places = np.array([0, 1, 2, 3, 8, 9])
    images = np.zeros((6, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = places
    is_query, is_gallery = np.array([1, 0, 0, 1, 1, 0], bool), np.array([0, 1, 1, 1, 1, 1], bool)
    roles = Roles(is_query, is_gallery, np.array([4, 4, -1, -1, 5, -1], np.int32))
    test = Split(images, np.array([0, 0, 0, 1, 1, 1], np.int32), roles)
    data = Dataset("line", Split(images, test.labels), test, ("a", "b"))
    params = Params(dataset="line", embedding_size=2, exclude_same_group=exclude)
    experiment = SimpleNamespace(data=data, partition=divide(data, params))
    trained = SimpleNamespace(
        experiment=experiment,
        params=params,
        checkpoint=SimpleNamespace(step=7),
        embed=pixels,
        embed_gallery=lambda: pixels(data.train.images),
    )
    seen = visualize._look(trained, "test", 100, use_tsne=False)
    assert seen.subject == "line, 3 queries" and seen.one_of_gallery == "gallery image"
    assert seen.indices.tolist() == [0, 3, 4]
    assert seen.gallery.embeddings[seen.neighbors.nearest, 0].tolist() == [nearest, 2, 9]
    assert seen.is_right.tolist() == [True, False, True]
    assert visualize._scores(seen) == {"recall_at_1": pytest.approx(2 / 3)}
    assert seen.shown.files is None
    files = np.array([f"{i}.png" for i in range(6)], object)
    named = {"train": dataclasses.replace(data.train, names=files), "test": dataclasses.replace(test, names=files)}
    experiment.data = dataclasses.replace(data, **named, has_files=True)
    of_files = visualize._look(trained, "test", 100, use_tsne=False)
    assert of_files.shown.files.tolist() == ["0.png", "3.png", "4.png"]
    assert of_files.gallery.files.tolist() == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    trained_images = visualize._look(trained, "train", 100, use_tsne=False)
    assert not trained_images.are_queries and trained_images.one_of_gallery == "other training image"


def test_the_surest_mistakes_come_first_and_pairs_of_classes_with_the_most():
    """On a line: class 0 at 0, 1 and 2, class 1 at 9; five images of class 0 near 9, one of class 1 near 0."""
    places = np.array([[9.0], [8.5], [8.0], [0.5], [7.0], [1.0]], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1], np.int32)
    gallery = Embedded(
        np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 0, 1], np.int32), np.float32([[0], [1], [2], [9]])
    )
    neighbors = class_neighbors(places, labels, gallery.embeddings, gallery.labels)
    shown = Embedded(np.zeros((6, 2, 2, 1), np.uint8), labels, places)
    some = dataclasses.replace(view(), shown=shown, gallery=gallery, neighbors=neighbors)
    assert some.surest_mistakes.tolist() == [5, 0, 1, 2, 4]  # by -8, -7, -6, -5, -3
    assert some.confusions == [(0, 1, 4), (1, 0, 1)]
    nearest, lengths = some.nearest_in_gallery(3, 3)
    assert nearest.tolist() == [0, 1, 2] and lengths.tolist() == [0.5, 0.5, 1.5]


def test_pairs_of_queries_and_gallery_count_once_and_not_an_image_with_itself():
    """On a line: 0 is a query, 1 both, 5 and 6 gallery images; 0 and 5 are of class a, 1 and 6 of b."""
    shown = Embedded(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1], np.int32), np.float32([[0], [1]]))
    gallery = Embedded(np.zeros((3, 2, 2, 1), np.uint8), np.array([1, 0, 1], np.int32), np.float32([[1], [5], [6]]))
    some = dataclasses.replace(
        view(), shown=shown, gallery=gallery, are_queries=True, in_gallery=np.array([-1, 0]), groups=None
    )
    curve = some.roc_curve()
    # Same pairs: 0-5, 1-6, both 5 apart; different: 0-1, 1-5 and 0-6, which are 1, 4 and 6 apart.
    assert curve.far.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert curve.tar.tolist() == [0, 0, 0, 1, 1]


def auc(same, different):
    """How often a same pair is nearer, of all there are of both kinds."""
    return sum((s < d) + (s == d) / 2 for s in same for d in different) / (len(same) * len(different))


def test_queries_are_told_apart_in_their_gallery_and_not_from_their_group():
    some = view(num_classes=3, spread=4.0, num_groups=5)
    some = dataclasses.replace(some, are_queries=True, unseen=(0, 2))
    shown, gallery = some.shown, some.gallery
    lengths = {(0, 0): [], (0, 2): [], (2, 0): [], (2, 2): []}
    for i, query in enumerate(shown.embeddings):
        for j, row in enumerate(gallery.embeddings):
            kind = int(shown.labels[i]), int(gallery.labels[j])
            if kind in lengths and i % 5 != j % 5:
                lengths[kind].append(float(np.linalg.norm(query.astype(np.float64) - row)))
    expected = auc(lengths[0, 0] + lengths[2, 2], lengths[0, 2] + lengths[2, 0])
    ((first, second, value),) = some.told_apart.worst(5)
    assert (first, second) == (0, 2) and value == pytest.approx(expected, abs=2e-3) and 0.5 < value < 0.99


def test_images_that_are_no_queries_are_told_apart_among_themselves():
    some = dataclasses.replace(view(num_classes=3, spread=4.0), unseen=(1, 2))
    points, labels = some.shown.embeddings.astype(np.float64), some.shown.labels
    same, different = [], []
    for i in range(60):
        for j in range(i):
            if labels[i] > 0 and labels[j] > 0:
                (same if labels[i] == labels[j] else different).append(float(np.linalg.norm(points[i] - points[j])))
    assert some.told_apart.classes.tolist() == [1, 2]
    assert some.told_apart.lowest == pytest.approx([auc(same, different)] * 2, abs=2e-3)


def test_of_too_many_unseen_classes_some_are_told_apart(monkeypatch):
    monkeypatch.setattr(view_module, "_COMPARED_CLASSES", 3)
    assert view(num_classes=9).told_apart.classes.tolist() == [0, 4, 8]


def test_without_unseen_classes_there_is_nothing_to_tell_apart():
    assert dataclasses.replace(view(), unseen=()).told_apart.worst(3) == []


def test_the_nearest_others_are_those_that_scikit_learn_finds():
    shown = view(num_images=50).shown
    nearest, lengths = shown.nearest_others(8)
    expected_lengths, expected = NearestNeighbors(n_neighbors=8, algorithm="brute").fit(shown.embeddings).kneighbors()
    np.testing.assert_array_equal(nearest, expected)
    np.testing.assert_allclose(lengths, expected_lengths, rtol=1e-5)
