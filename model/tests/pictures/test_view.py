"""What a view knows of its images."""

import dataclasses

import numpy as np

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
