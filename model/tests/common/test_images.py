"""Stored images are what an array of the same bytes would be."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.common import images as module
from model.common.errors import UserError
from model.common.images import StoredImages, are_blank, blank_images, blocks, quarter_turns, subset

ARRAY = np.random.default_rng(0).integers(0, 256, (23, 4, 3, 3), np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "pixels.u8"
    path.write_bytes(ARRAY.tobytes())
    return path


@pytest.fixture(scope="module")
def stored(path):
    return StoredImages(path, ARRAY.shape)


INDICES = st.one_of(
    st.integers(-23, 22),
    st.slices(23),
    st.lists(st.integers(-23, 22), max_size=30).map(lambda indices: np.array(indices, np.int32)),
    st.lists(st.booleans(), min_size=23, max_size=23).map(np.array),
)


@given(INDICES)
def test_what_is_read_is_what_an_array_gives(stored, index):
    np.testing.assert_array_equal(stored[index], ARRAY[index])
    assert stored[index].dtype == np.uint8


@given(INDICES.filter(lambda index: not isinstance(index, int)), st.data())
def test_some_of_the_images_are_images(stored, index, data):
    some, expected = stored.subset(index), ARRAY[index]
    assert (len(some), some.shape, some.nbytes, some.ndim) == (len(expected), expected.shape, expected.nbytes, 4)
    np.testing.assert_array_equal(some[:], expected)
    again = data.draw(st.slices(len(expected)))
    np.testing.assert_array_equal(some.subset(again)[:], expected[again])


def test_blocks_are_all_images_in_order(stored, monkeypatch):
    monkeypatch.setattr(module, "_BYTES_OF_A_BLOCK", 5 * ARRAY[0].size)
    parts = list(blocks(stored))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(parts), ARRAY)
    (whole,) = blocks(ARRAY)
    assert whole is ARRAY


def test_of_no_images_there_are_no_blocks(stored):
    """As where no class of the training images is new, and only those of the test are embedded."""
    assert list(blocks(ARRAY[:0])) == [] and list(blocks(stored.subset(slice(0)))) == []


SQUARES = np.random.default_rng(1).integers(0, 256, (7, 3, 3, 2), np.uint8)


@given(st.lists(st.integers(0, 27), max_size=30), st.data())
def test_stored_images_turn_as_an_array_does(tmp_path_factory, indices, data):
    path = tmp_path_factory.mktemp("squares") / "pixels.u8"
    path.write_bytes(SQUARES.tobytes())
    expected = np.concatenate([SQUARES, *(np.rot90(SQUARES, turn, (1, 2)) for turn in (1, 2, 3))])
    np.testing.assert_array_equal(quarter_turns(SQUARES), expected)
    turned = quarter_turns(StoredImages(path, SQUARES.shape))
    some = turned.subset(np.array(indices, np.int64))
    np.testing.assert_array_equal(some[:], expected[indices])
    again = data.draw(st.slices(len(indices)))
    np.testing.assert_array_equal(some.subset(again)[:], expected[indices][again])
    # Turned again, by which turns add up.
    np.testing.assert_array_equal(quarter_turns(some)[:], quarter_turns(expected[indices]))
    assert len(np.unique(turned.places)) == 28  # all are told apart


def test_those_that_are_left_keep_the_file_open(path):
    some = StoredImages(path, ARRAY.shape).subset(slice(2, 4))
    np.testing.assert_array_equal(some[:], ARRAY[2:4])


def test_what_is_not_there_cannot_be_read(stored):
    for index in (23, -24, np.array([0, 23])):
        with pytest.raises(IndexError):
            stored[index]


def test_they_never_become_an_array_by_accident(stored):
    for convert in (np.asarray, np.ascontiguousarray, np.mean):
        with pytest.raises(TypeError, match="all 23 of"):
            convert(stored)


def test_a_file_that_is_not_what_it_was(tmp_path):
    path = tmp_path / "pixels.u8"
    path.write_bytes(ARRAY.tobytes()[:-1])
    with pytest.raises(UserError, match=r"pixels\.u8: damaged, 827 bytes, expected 828; delete the folder"):
        StoredImages(path, ARRAY.shape)
    path.write_bytes(ARRAY.tobytes())
    images = StoredImages(path, ARRAY.shape)
    os.truncate(path, 40)
    assert images[0].tolist() == ARRAY[0].tolist()
    with pytest.raises(UserError, match="it ends after 40 bytes"):
        images[:2]


def test_a_disk_that_cannot_be_read(stored, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(UserError, match=r"damaged, it cannot be read \(Input/output error\)"):
        stored[3]


def test_reads_may_be_short(stored, monkeypatch):
    """As of large files and on network disks."""
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: whole(file, [views[0][:7]], offset))
    np.testing.assert_array_equal(stored[[5, 6, 1]], ARRAY[[5, 6, 1]])


def test_some_of_arrays_and_of_blank_images():
    np.testing.assert_array_equal(subset(ARRAY, np.arange(23) > 20), ARRAY[21:])
    blank = blank_images(23, 4, 3, 3)
    some = subset(blank, np.arange(23) > 20)
    assert are_blank(some) and some.shape == (2, 4, 3, 3) and not are_blank(ARRAY)
