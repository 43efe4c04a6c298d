"""Event files: each step once, whatever was written before."""

import contextlib
import os
import struct

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from model.tests.experiments import scalars
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


def test_curves_are_read_by_the_names_of_their_metrics(tmp_path):
    write(tmp_path, range(1, 3), 1.0)
    write(tmp_path, range(2, 4), 2.0)
    writer = event_files.open_writer(tmp_path, range(9, 10))
    with writer.as_default(step=9):
        tf.summary.scalar("loss", float("nan"))
        tf.summary.text("eer", "no number")
        tf.summary.scalar("classification/knn_accuracy", 0.5)
        tf.summary.scalar("mrr", 0.25)  # as a run of before wrote it
    writer.close()
    event_files.write_pictures(tmp_path, {}, 9)
    found = event_files.read_curves(tmp_path, ["knn_accuracy", "loss", "eer", "mrr"])
    losses = [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert list(found.items()) == [("knn_accuracy", [(9, 0.5)]), ("loss", losses), ("mrr", [(9, 0.25)])]
    assert event_files.read_curves(tmp_path / "nowhere", ["loss"]) == {}


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


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "validation").write_text("not ours")
    with pytest.raises(FileExistsError, match="validation"):
        event_files.open_writer(tmp_path / "validation", range(1, 2))


# ------------------------------------------------------------------------------------------- tags


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("loss", "loss"),
        ("embedding_mean_norm", "embedding_mean_norm"),
        ("fraction_positive_triplets", "fraction_positive_triplets"),
        ("hardest_positive_dist", "hardest_positive_dist"),
        ("hardest_negative_dist", "hardest_negative_dist"),
        ("fraction_easy_triplets", "triplets/fraction_easy_triplets"),
        ("mean_positive_dist", "distances/mean_positive_dist"),
        ("knn_accuracy", "classification/knn_accuracy"),
        ("map_at_r", "retrieval/map_at_r"),
        ("eer", "verification/eer"),
        ("ami", "clustering/ami"),
        ("learning_rate", "run/learning_rate"),
        ("num_queries", "sizes/num_queries"),
        ("unseen/map_at_r", "unseen/retrieval/map_at_r"),
        ("seen/num_images", "seen/sizes/num_images"),
        ("brier_score", "other/brier_score"),
        ("calibration/brier_score", "calibration/brier_score"),
    ],
)
def test_the_tag_of_a_metric(name, tag):
    assert event_files.tag_of(name) == tag


def test_no_metric_is_in_two_groups():
    names = [name for group in event_files.GROUPS.values() for name in group]
    assert len(names) == len(set(names))


def test_the_ends_of_intervals_are_no_curves(tmp_path):
    names = ["eer", "eer_low95", "eer_high95", "unseen/eer", "unseen/eer_low95", "unseen/eer_high95", "low95_score"]
    with contextlib.closing(event_files.open_writer(tmp_path, range(3, 4))) as writer, writer.as_default(step=3):
        event_files.write_scalars({name: float(value) for value, name in enumerate(names)})
    expected = {"verification/eer": 0.0, "unseen/verification/eer": 3.0, "other/low95_score": 6.0}
    assert scalars(tmp_path) == {(tag, 3): [value] for tag, value in expected.items()}


# ------------------------------------------------------------------------------------------- what is no event


def record(data, length=None):
    """A record as an event file frames it, with right checksums, whatever it holds and whatever length it tells."""
    header = struct.pack("<Q", len(data) if length is None else length)
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


def test_a_record_that_is_no_event_is_dropped_alone(tmp_path, caplog):
    write(tmp_path, range(1, 3))
    (path,) = tmp_path.iterdir()
    rest = path.read_bytes()
    path.write_bytes(record(b"no protobuf") + rest)
    write(tmp_path, range(3, 4))
    assert [step for step, _ in read(tmp_path)] == [1, 2, 3] and path.read_bytes() == rest
    assert caplog.messages == [f"{path}: {16 + len(b'no protobuf')} of its bytes cannot be read and are dropped."]


@pytest.mark.parametrize("length", [10**15, 2**62, 2**64 - 1])
def test_a_record_that_says_it_is_longer_than_any_memory(tmp_path, caplog, length):
    write(tmp_path, range(1, 3))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + record(b"short", length))
    write(tmp_path, range(3, 4))
    assert [step for step, _ in read(tmp_path)] == [1, 2, 3] and path.read_bytes() == whole
    assert caplog.messages == [f"{path}: 21 of its bytes cannot be read and are dropped."]


def test_a_file_of_which_nothing_can_be_read_is_not_dropped_without_a_word(tmp_path, caplog):
    path = tmp_path / "events.out.tfevents.1.somebody.1"
    path.write_bytes(b"another file, which has this name")
    write(tmp_path, range(1, 2))
    assert not path.exists() and caplog.messages == [f"{path}: 33 of its bytes cannot be read and are dropped."]


def test_a_pipe_and_a_folder_that_have_the_name_of_an_event_file(tmp_path):
    os.mkfifo(tmp_path / "events.out.tfevents.1.pipe.1")
    (tmp_path / "events.out.tfevents.1.folder.1").mkdir()
    write(tmp_path, range(1, 2))
    assert len(list(tmp_path.iterdir())) == 3
