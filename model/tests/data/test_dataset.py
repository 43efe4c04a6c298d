"""Classes that are turned: which images they have, in which order, and what they are called."""

import numpy as np
import pytest

from model.common.errors import UserError
from model.common.images import are_blank, blank_images
from model.data.dataset import Dataset, Split, rotate_classes
from model.data.datasets import load, load_for, where_images_lie
from model.data.listing import Roles
from model.data.partition import divide
from model.params import Params
from model.tests.images import save

RANDOM = np.random.default_rng(0)
TURNS = ("", "_rot090", "_rot180", "_rot270")


def split(labels, size=3):
    return Split(RANDOM.integers(0, 256, (len(labels), size, size, 2), np.uint8), np.array(labels, np.int32))


def dataset(**changes):
    parts = {
        "train": split([0, 2, 0, 2]),
        "test": split([1, 2]),
        "validation": split([0]),
        "class_names": ("a", "b/x", "c"),
    }
    return Dataset("mine", **{**parts, **changes})


def turned(image, quarters):
    """Pixel by pixel: a quarter against the clock brings what is on the right to the top."""
    for _ in range(quarters):
        size = len(image)
        image = np.array([[image[row, size - 1 - column] for row in range(size)] for column in range(size)])
    return image


def as_set(data, part):
    images = getattr(data, part)
    names = [data.class_names[label] for label in images.labels]
    return sorted((name, image.tobytes()) for name, image in zip(names, images.images, strict=True))


def expected(data, part):
    images = getattr(data, part)
    return sorted(
        (
            data.class_names[label] + ("" if quarters == 0 else f"_rot{90 * quarters:03}"),
            turned(image, quarters).tobytes(),
        )
        for label, image in zip(images.labels, images.images, strict=True)
        for quarters in range(4)
    )


@pytest.mark.parametrize("which", ["train", "all"])
def test_every_class_that_is_turned_is_four(which):
    data = dataset()
    rotated = rotate_classes(data, which)
    rotated_parts = ["train"] if which == "train" else ["train", "test", "validation"]
    for part in ("train", "test", "validation"):
        wanted = expected(data, part) if part in rotated_parts else as_set(data, part)
        assert as_set(rotated, part) == wanted
        labels = getattr(rotated, part).labels
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels[: len(getattr(data, part).labels)], getattr(data, part).labels)
    assert rotated.class_names[:3] == data.class_names  # their labels stay
    names = rotated.class_names
    assert len(set(names)) == len(names) == 3 + 3 * (2 if which == "train" else 3)
    parts = [getattr(rotated, part).labels for part in ("train", "test", "validation")]
    assert set(np.concatenate(parts).tolist()) == set(range(len(names)))  # no class without images
    assert rotated.sha256 != data.sha256
    assert rotate_classes(dataset(validation=None), which).validation is None


def test_blank_images_stay_blank():
    blank = Split(blank_images(5, 4, 4, 1), np.array([0, 0, 1, 1, 2]))
    rotated = rotate_classes(dataset(train=blank), "train")
    assert are_blank(rotated.train.images) and rotated.train.images.shape == (20, 4, 4, 1)
    assert np.bincount(rotated.train.labels).max() == 2


def test_roles_go_along():
    roles = Roles(np.array([True, False, True]), np.array([False, True, True]), np.array([7, 8, -1], np.int32))
    test = Split(RANDOM.integers(0, 256, (3, 3, 3, 1), np.uint8), np.array([0, 1, 1]), roles)
    rotated = rotate_classes(dataset(test=test), "all").test
    for quarters in range(4):
        part = slice(3 * quarters, 3 * quarters + 3)
        np.testing.assert_array_equal(rotated.roles.is_query[part], roles.is_query)
        np.testing.assert_array_equal(rotated.roles.is_gallery[part], roles.is_gallery)
        np.testing.assert_array_equal(rotated.roles.group[part], roles.group)


def test_images_that_are_not_square():
    wide = Split(np.zeros((2, 3, 5, 1), np.uint8), np.array([0, 1]))
    with pytest.raises(UserError, match=r"'rotated_classes' needs .* those of mine are 3x5; set image_size"):
        rotate_classes(dataset(train=wide), "train")


@pytest.fixture
def drawings(tmp_path):
    for part in ("train", "test"):
        for label in ("Greek/alpha", "Greek/beta", "Latin/a"):
            for i in range(3):
                save(tmp_path / part / label / f"{i}.png", RANDOM.integers(0, 256, (6, 6), np.uint8))
    return tmp_path


@pytest.mark.parametrize("which", ["train", "all"])
def test_stored_images_are_turned_as_those_in_memory_are(drawings, which):
    in_memory, stored = (load("mine", drawings, kind=kind, rotated=which) for kind in ("memory", "stored"))
    assert where_images_lie(stored, "auto").split()[0] == where_images_lie(in_memory, "auto").split()[0]
    assert stored.class_names == in_memory.class_names
    assert stored.sha256 == in_memory.sha256 and stored.train_sha256 == in_memory.train_sha256
    assert load("mine", drawings, kind="stored").sha256 != stored.sha256  # which is kept beside the images
    for part in ("train", "test"):
        one, other = getattr(stored, part), getattr(in_memory, part)
        np.testing.assert_array_equal(one.labels, other.labels)
        some = RANDOM.permutation(len(other.labels))[:7]
        np.testing.assert_array_equal(one.images[some], other.images[some])
        np.testing.assert_array_equal(one.images.subset(some)[:], other.images[some])
        assert [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]


def test_an_experiment_with_turned_classes(drawings):
    params = Params(dataset="mine", rotated_classes="train", holdout_classes=["Latin/*"])
    partition = divide(load_for(params, drawings), params)
    names = np.array(partition.data.class_names)
    assert set(names[partition.train.labels]) == {f"Greek/{name}{turn}" for name in ("alpha", "beta") for turn in TURNS}
    assert set(names[np.array(partition.unseen)]) == {f"Latin/a{turn}" for turn in TURNS}
