"""TensorBoard event files in which every step stands once, however often a run was interrupted."""

import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

_log = logging.getLogger(__name__)

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
        _forget(path, steps)
    return tf.summary.create_file_writer(str(folder))


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
