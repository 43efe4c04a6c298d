"""Event files: each step once, whatever was written before."""

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from model.training import event_files


def write(folder, steps, value=1.0):
    writer = event_files.open_writer(folder, steps)
    with writer.as_default():
        for step in steps:
            tf.summary.scalar("loss", value, step=step)
    writer.close()


def read(folder):
    """Returns (step, value) of every event of the folder, with TensorBoard's own reader."""
    return sorted(
        (event.step, tf.make_ndarray(value.tensor).item())
        for path in folder.glob("events*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def test_what_is_going_to_be_written_again_is_taken_out(tmp_path):
    write(tmp_path, range(1, 6), 1.0)
    write(tmp_path, range(4, 8), 2.0)
    assert read(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)]


def test_a_single_step_in_the_middle(tmp_path):
    write(tmp_path, range(1, 4), 1.0)
    write(tmp_path, range(2, 3), 2.0)
    assert read(tmp_path) == [(1, 1.0), (2, 2.0), (3, 1.0)]


def test_a_file_that_holds_nothing_any_more_goes(tmp_path):
    for _ in range(5):
        write(tmp_path, range(1, 3))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_record_that_was_cut_off_by_a_kill(tmp_path, cut):
    write(tmp_path, range(1, 4), 1.0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    write(tmp_path, range(3, 5), 2.0)
    assert read(tmp_path) == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_a_file_without_a_word_to_take_out_is_not_touched(tmp_path):
    write(tmp_path, range(1, 4))
    (path,) = tmp_path.iterdir()
    before = path.stat()
    write(tmp_path, range(4, 5))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_new_folder(tmp_path):
    write(tmp_path / "new", range(1, 2))
    assert read(tmp_path / "new") == [(1, 1.0)]
