"""Who sees what: nothing is in two parts, nothing is lost, and the draw is that of split_seed alone."""

import dataclasses

import numpy as np
import pytest

from model.common.errors import UserError
from model.common.images import blank_images
from model.data.dataset import Dataset, Split
from model.data.listing import Roles
from model.data.partition import divide
from model.params import Params
from model.tests import oracles

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")
SIZES = (40, 10, 30, 20, 100, 50)


def dataset(num_classes=5):
    """200 training images in 5 classes of different sizes, or 250 in 6, each with its number as its pixels."""
    labels = np.repeat(np.arange(num_classes), SIZES[:num_classes])
    labels = np.random.default_rng(0).permutation(labels).astype(np.int32)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    test = Split(images[:5], np.arange(5, dtype=np.int32))
    return Dataset("animals", Split(images, labels), test, NAMES[:num_classes])


def numbers(split):
    return set(split.images.ravel().tolist())


def test_nothing_is_set_aside_unless_asked_for():
    data = dataset()
    partition = divide(data, Params())
    assert partition.train is data.train
    assert (partition.validation, partition.validation_gallery, partition.unseen) == (None, None, ())


@pytest.mark.parametrize("size", [40, 0.2])
def test_the_validation_images_are_a_stratified_sample(size):
    data = dataset()
    partition = divide(data, Params(validation_size=size))
    np.testing.assert_array_equal(np.bincount(partition.validation.labels), np.array(SIZES[:5]) // 5)
    assert partition.validation_gallery is partition.train
    assert numbers(partition.validation) | numbers(partition.train) == set(range(200))
    assert not numbers(partition.validation) & numbers(partition.train)
    for part in (partition.validation, partition.train):
        np.testing.assert_array_equal(data.train.labels[part.images.ravel()], part.labels)


@pytest.mark.parametrize("changes", [{}, {"validation_size": 40}, {"validation_classes": 2, "holdout_classes": 2}])
def test_blank_images_are_divided_as_any_others(changes):
    """250 of 100 million pixels each, 75 GB if they took any memory."""
    data = dataset(6)
    splits = [Split(blank_images(len(s.labels), 10**4, 10**4, 3), s.labels) for s in (data.train, data.test)]
    blank, seen = (divide(d, Params(**changes)) for d in (Dataset("animals", *splits, NAMES), data))
    for part in ("train", "validation", "validation_gallery"):
        ours, theirs = vars(blank)[part], vars(seen)[part]
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            assert ours.images.shape == (len(theirs.labels), 10**4, 10**4, 3)
    assert blank.unseen == seen.unseen


def test_split_seed_decides_and_seed_does_not():
    data = dataset()

    def drawn(**params):
        partition = divide(data, Params(validation_size=40, holdout_classes=2, **params))
        return numbers(partition.validation), partition.unseen

    assert drawn() == drawn(seed=1)
    assert len({tuple(sorted(drawn(split_seed=seed)[0])) for seed in range(5)}) == 5
    assert len({drawn(split_seed=seed)[1] for seed in range(20)}) > 5


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_a_split_seed_chooses_the_same_classes_in_every_version(seed):
    partition = divide(dataset(6), Params(holdout_classes=2, validation_classes=2, split_seed=seed))
    unseen = np.argsort(oracles.drawn(seed, 0, 7, 0, 6))[:2]
    left = np.setdiff1d(np.arange(6), unseen)
    validation = left[np.argsort(oracles.drawn(seed, 1, 7, 0, 4))[:2]]
    assert set(partition.unseen) == set(unseen.tolist())
    assert set(partition.validation.labels) == set(validation.tolist())


@pytest.mark.parametrize("asked", [["bee", "dog"], [3, 1], ["dog", 1, "bee"]])
def test_unseen_classes_are_neither_learned_from_nor_validated(asked):
    partition = divide(dataset(), Params(holdout_classes=asked, validation_size=0.1))
    assert partition.unseen == (1, 3)
    assert set(partition.train.labels) == set(partition.validation.labels) == {0, 2, 4}
    assert len(partition.train.labels) + len(partition.validation.labels) == 170


TREE = ("Fruit/Apple/Pink", "Fruit/Apple/Royal", "Fruit/Pear", "Milk/Oat", "Milk/Soy", "[x]*")


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (["Fruit/Apple/*"], [0, 1]),
        (["Fruit/*"], [0, 1, 2]),  # however deep
        (["*/*/*", 5, "Milk/Soy"], [0, 1, 4, 5]),
        (["*a*"], [1, 2, 3]),
        (["[FM]*/?[ae]*"], [2, 3]),
        (["Milk/[!O]*", "[x]*"], [4, 5]),  # the name of a class is no pattern
    ],
)
def test_patterns_name_classes(asked, labels):
    data = dataclasses.replace(dataset(6), class_names=TREE)
    assert divide(data, Params(holdout_classes=asked)).unseen == tuple(labels)


def test_a_pattern_takes_what_others_left():
    data = dataclasses.replace(dataset(6), class_names=TREE)
    partition = divide(data, Params(holdout_classes=["Fruit/Apple/*"], validation_classes=["Fruit/*", 3]))
    assert partition.unseen == (0, 1) and set(partition.validation.labels) == {2, 3}
    for asked, near in (("Fruit/Aple/*", "Fruit/Apple/\\*"), ("Fruit/Apple/Pinc", "Fruit/Apple/Pink")):
        with pytest.raises(UserError, match=f"'holdout_classes' .*near it are {near}.*received '"):
            divide(data, Params(holdout_classes=[asked]))
    with pytest.raises(UserError, match=r"received 'fruit/\*'"):  # small and large letters are told apart
        divide(data, Params(holdout_classes=["fruit/*"]))


def test_classes_drawn_for_validation_are_not_those_held_out():
    for seed in range(10):
        partition = divide(dataset(6), Params(holdout_classes=2, validation_classes=2, split_seed=seed))
        validated = set(partition.validation.labels)
        assert len(validated) == 2 and validated == set(partition.validation_gallery.labels)
        assert not validated & set(partition.unseen) and len(set(partition.train.labels)) == 2
        assert not numbers(partition.validation) & numbers(partition.validation_gallery)
        assert abs(len(partition.validation.labels) - len(partition.validation_gallery.labels)) <= 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"holdout_classes": ["ant", "gnu"]}, "'holdout_classes' must name .*ant, bee, cat, dog, eel.*received 'gnu'"),
        ({"holdout_classes": ["c*"]}, r"'holdout_classes' must name at least 2 classes.*received \['c\*'\]"),
        ({"holdout_classes": ["ant", "x*"]}, r"'holdout_classes' must name .*\(ant, bee.*received 'x\*'"),
        ({"holdout_classes": ["ant", "catt"]}, r"\(near it are cat\), received 'catt'"),
        (
            {"holdout_classes": ["[ab]*"], "validation_classes": ["bee", "cat"]},
            r"'validation_classes' .*received 'bee'",
        ),
        ({"holdout_classes": [0, 5]}, "'holdout_classes' .* received 5"),
        ({"holdout_classes": [0, "ant"]}, r"'holdout_classes' must name at least 2 classes.*received \[0, 'ant'\]"),
        ({"holdout_classes": [0, 1], "validation_classes": [3, 0]}, r"'validation_classes' .*\(cat, .* received 0"),
        ({"holdout_classes": [0, 1, 2, 3]}, "'holdout_classes' .*at least 2 classes to learn from, 1 of the 5"),
        ({"holdout_classes": 7, "validation_size": 3}, "'holdout_classes' .*to learn from, 0 of the 5"),
        ({"holdout_classes": 2, "validation_classes": 2}, "'validation_classes' .*at least 2 classes to learn from"),
        ({"validation_size": 200}, "'validation_size' .* received 200, which is 200 of 200 training images of animals"),
        ({"validation_size": 0.001}, "'validation_size' .* received 0.001, which is 0 of 200"),
    ],
)
def test_what_cannot_be_set_aside_is_one_line(params, message):
    with pytest.raises(UserError, match=message) as caught:
        divide(dataset(), Params(**params))
    assert "\n" not in str(caught.value)


def test_classes_of_test_images_alone_are_unseen():
    data = dataset()
    test = Split(data.train.images[:6], np.array([0, 0, 5, 6, 6, 7], np.int32))
    names = (*NAMES, "gnu", "hen")
    validation = Split(data.train.images[:4], np.array([1, 1, 6, 6], np.int32))
    both = dataclasses.replace(data, test=test, class_names=names)
    assert divide(both, Params()).unseen == (5, 6, 7)
    assert divide(both, Params(holdout_classes=["ant", "bee"])).unseen == (0, 1, 5, 6, 7)
    watched = dataclasses.replace(both, validation=validation)
    assert divide(watched, Params()).unseen == (5, 6, 7)  # class 6 chooses, but nobody learns from it
    assert divide(watched, Params(validation_size=40)).unseen == (5, 6, 7)


def test_a_folder_of_validation_images_validates():
    data = dataset()
    validation = Split(np.arange(6, dtype=np.uint8).reshape(-1, 1, 1, 1), np.array([0, 0, 1, 1, 2, 2], np.int32))
    data = dataclasses.replace(data, validation=validation)
    partition = divide(data, Params(holdout_classes=["cat", "eel"]))
    assert partition.validation.labels.tolist() == [0, 0, 1, 1]
    assert partition.validation_gallery is partition.train
    assert divide(data, Params(holdout_classes=["ant", "bee", "cat"])).validation is None
    asked = divide(data, Params(validation_size=40))
    assert len(asked.validation.labels) == 40 and not set(asked.train.labels) - set(range(5))


def test_validation_images_of_other_classes_have_a_gallery_of_their_own():
    data = dataset()
    validation = Split(np.arange(6, dtype=np.uint8).reshape(-1, 1, 1, 1), np.array([5, 5, 6, 6, 7, 7], np.int32))
    partition = divide(dataclasses.replace(data, validation=validation, class_names=(*NAMES, "gnu", "hen")), Params())
    assert sorted(partition.validation.labels) == sorted(partition.validation_gallery.labels) == [5, 6, 7]
    assert not numbers(partition.validation) & numbers(partition.validation_gallery)
    assert partition.train is data.train


@pytest.mark.parametrize("num_queries", [12, 24])
def test_validation_images_with_roles_keep_all_queries_and_all_of_the_gallery(num_queries):
    labels = np.repeat(np.arange(5, 17), 4).astype(np.int32)  # classes that nobody learns from
    is_query = np.tile([True, num_queries == 24, False, False], 12)
    roles = Roles(is_query, is_gallery=np.tile([False, True, True, True], 12))
    validation = Split(np.arange(48, dtype=np.uint8).reshape(-1, 1, 1, 1), labels, roles)
    data = dataclasses.replace(dataset(), validation=validation, class_names=tuple(f"{i:02}" for i in range(17)))
    partition = divide(data, Params())
    assert partition.validation.labels.tolist() == labels.tolist()
    assert partition.validation.roles.is_query.sum() == num_queries
    gallery = partition.validation_gallery  # in which no query finds itself
    assert numbers(gallery) == set(np.flatnonzero(~is_query).tolist())


def test_validation_images_that_all_look_for_others_are_halved():
    labels = np.repeat([5, 6], 4).astype(np.int32)
    roles = Roles(np.ones(8, bool), np.ones(8, bool), np.arange(8, dtype=np.int32) // 2)
    validation = Split(np.arange(8, dtype=np.uint8).reshape(-1, 1, 1, 1), labels, roles)
    partition = divide(dataclasses.replace(dataset(), validation=validation, class_names=(*NAMES, "gnu")), Params())
    assert len(partition.validation.labels) == len(partition.validation_gallery.labels) == 4
    assert not numbers(partition.validation) & numbers(partition.validation_gallery)


@pytest.mark.parametrize(("of_known_classes", "has_own_gallery"), [(1, True), (3, False), (6, False)])
def test_a_gallery_is_one_in_which_most_validation_images_can_be_classified(of_known_classes, has_own_gallery):
    labels = np.array([0] * of_known_classes + [5] * (6 - of_known_classes), np.int32)
    validation = Split(np.arange(6, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    partition = divide(dataclasses.replace(dataset(), validation=validation, class_names=(*NAMES, "gnu")), Params())
    assert (partition.validation_gallery is not partition.train) == has_own_gallery
    assert len(partition.validation.labels) == (3 if has_own_gallery else 6)


def test_early_stopping_needs_images_to_watch():
    with pytest.raises(UserError, match="'early_stopping_patience' needs images to watch"):
        divide(dataset(), Params(early_stopping_patience=2))
    assert divide(dataset(), Params(early_stopping_patience=2, validation_size=0.5)).validation is not None
