"""What a view knows of its images, and names that can be shown."""

import dataclasses
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from model.pictures.view import Embedded, printable
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("größe 大きさ 🙂", "größe 大きさ 🙂"),
        ("  two\t\twords\n", "two words"),
        ("nul\0bell\a", "nul bell"),
        ("\u202eevil\u200b", "evil"),
        ("\x1b[31mred", "[31mred"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_a_name_is_one_line_that_can_be_seen(name, expected):
    assert printable(name) == expected


def test_of_a_path_the_end_is_kept():
    apples = [printable(f"Fruit/Apple/{kind}", 14) for kind in ("Granny-Smith", "Golden-Delicious")]
    assert apples == ["…/Granny-Smith", "…den-Delicious"]
    assert printable("a/b", 3) == "a/b"


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


@pytest.mark.parametrize(("length", "expected"), [(6, "abcdef"), (5, "abcd…"), (1, "…")])
def test_a_long_name_is_cut_where_one_sees_it(length, expected):
    assert printable("abcdef", length) == expected
    assert printable("x" * 1000) == "x" * 59 + "…"


@hypothesis.given(st.text(st.characters(codec=None), max_size=100))
@hypothesis.settings(deadline=None)
def test_whatever_the_name(name):
    shown = printable(name)
    assert len(shown) <= 60 and shown == printable(shown) and "  " not in shown
    shown.encode()  # there is no half of a character
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in shown)
