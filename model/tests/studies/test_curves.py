"""Curves as TensorFlow writes them, read without it, whatever state the files are in."""

import pytest
import tensorflow as tf

from model.studies.curves import read_scalar


@pytest.fixture
def written(tmp_path):
    """Two files of two scalars, the second one of which begins with a step of the first."""
    for steps in (range(1, 4), range(3, 6)):
        writer = tf.summary.create_file_writer(str(tmp_path))
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("loss", step / 4, step=step)
                tf.summary.scalar("other", -1.0, step=step)
                tf.summary.text("words", "of another kind", step=step)
        writer.close()
    return tmp_path


def newest(folder):
    return sorted(folder.glob("events*"))[-1]


def test_a_scalar_by_step(written):
    assert read_scalar(written, "loss") == {step: step / 4 for step in range(1, 6)}
    assert read_scalar(written, "other") == dict.fromkeys(range(1, 6), -1.0)
    assert read_scalar(written, "none") == {} == read_scalar(written / "nowhere", "other")


def test_a_file_that_is_being_written(written):
    content = newest(written).read_bytes()
    found = []
    for size in range(len(content)):
        newest(written).write_bytes(content[:size])
        found.append(len(read_scalar(written, "other")))
    assert found == sorted(found) and set(found) == {3, 4, 5}


@pytest.mark.parametrize("place", [0, 5, 13, 40, 100])
def test_a_damaged_file_is_read_as_far_as_it_is_whole(written, place):
    content = bytearray(newest(written).read_bytes())
    content[place] ^= 0xFF
    newest(written).write_bytes(content)
    assert {1, 2, 3} <= read_scalar(written, "other").keys()


def test_a_file_that_is_gone_in_this_moment(written, monkeypatch):
    def gone(_):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_bytes", gone)
    assert read_scalar(written, "other") == {}
