"""TensorBoard event files in which every step stands once, however often a run was interrupted."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

_log = logging.getLogger(__name__)

# How the name of an event file ends that holds pictures of one step and no curves.
_OF_PICTURES = ".pictures"

_FRAMING = 16  # bytes of length and checksums that a file adds to each record


def open_writer(folder: Path, steps: range) -> tf.summary.SummaryWriter:
    """Continues the event files of a folder.

    What the folder already tells of the steps that are going to be written is taken out first: they were lost with
    the process that wrote them, or are scored again.

    Args:
        folder: Where the event files are, or will be.
        steps: The global steps that are going to be written.

    Returns:
        A writer to be used with `tf.summary`.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        if not path.name.endswith(_OF_PICTURES):
            _forget(path, steps)
    return tf.summary.create_file_writer(str(folder))


def write_pictures(folder: Path, pictures: Mapping[str, bytes], step: int) -> None:
    """Writes PNG files as images that TensorBoard shows, in an event file of their own that replaces the last one.

    Args:
        folder: Where the event files are, or will be.
        pictures: PNG files by name.
        step: The global step that they show.
    """
    old = list(folder.glob(f"events.out.tfevents.*{_OF_PICTURES}"))
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=_OF_PICTURES)
    with contextlib.closing(writer), writer.as_default(step=step):
        for name, png in pictures.items():
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])
    for path in old:
        path.unlink()


def read_scalar(folder: Path, name: str) -> dict[int, float]:
    """Returns the values of a scalar by global step, in the order in which they were written."""
    return {
        event.step: float(tf.make_ndarray(value.tensor))
        for path in sorted(folder.glob("events.out.tfevents.*"))
        for event in _readable_events(path)
        for value in event.summary.value
        if value.tag == name
    }


def _forget(path: Path, steps: range) -> None:
    """Takes the events of these steps, and a last one that was cut off, out of an event file."""
    events = list(_readable_events(path))
    kept = [event for event in events if event.HasField("file_version") or event.step not in steps]
    if all(event.HasField("file_version") for event in kept):
        path.unlink()
        return
    unreadable = path.stat().st_size - sum(event.ByteSize() + _FRAMING for event in events)
    if len(kept) == len(events) and not unreadable:
        return
    if unreadable:
        _log.warning("%s: its last %d bytes cannot be read and are dropped.", path, unreadable)
    beside = path.with_name("tmp-rewritten")  # TensorBoard would read a name with "tfevents" in it
    with tf.io.TFRecordWriter(str(beside)) as writer:
        for event in kept:
            writer.write(event.SerializeToString())
    beside.replace(path)


def _readable_events(path: Path) -> Iterator[Event]:
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield Event.FromString(record)
    except tf.errors.DataLossError:  # the record that was being written when the process was killed
        return
