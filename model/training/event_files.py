"""TensorBoard event files in which every step stands once, however often a run was interrupted."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from model.common.files import folder_beside

_log = logging.getLogger(__name__)

# How the names of event files end that hold no curves, but what is written anew as a whole.
_PICTURES, _HPARAMS = ".pictures", ".hparams"

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
        if not path.name.endswith((_PICTURES, _HPARAMS)):
            _forget(path, steps)
    return tf.summary.create_file_writer(str(folder))


def write_pictures(folder: Path, pictures: Mapping[str, bytes], step: int) -> None:
    """Writes PNG files as images that TensorBoard shows, in place of the last ones.

    Args:
        folder: Where the event files are, or will be.
        pictures: PNG files by name.
        step: The global step that they show.
    """
    with _replace(folder, _PICTURES) as writer, writer.as_default(step=step):
        for name, png in pictures.items():
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])


def write_hparams(folder: Path, summaries: Sequence[Summary], text: str) -> None:
    """Writes what the tabs HParams and Text show of a run, in place of what they showed.

    Args:
        folder: Where the event files are, or will be.
        summaries: Of the plugin.
        text: Markdown.
    """
    with _replace(folder, _HPARAMS) as writer, writer.as_default(step=0):
        for summary in summaries:
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())
        tf.summary.text("params", text)


def pictures_in(folder: Path) -> list[Path]:
    """Returns the event files that `write_pictures` wrote into a folder."""
    return list(folder.glob(f"events.out.tfevents.*{_PICTURES}"))


@contextlib.contextmanager
def _replace(folder: Path, ending: str) -> Iterator[tf.summary.SummaryWriter]:
    """Opens an event file whose name has this ending; the ones that had it before are deleted afterwards."""
    old = list(folder.glob(f"events.out.tfevents.*{ending}"))
    with contextlib.closing(tf.summary.create_file_writer(str(folder), filename_suffix=ending)) as writer:
        yield writer
    for path in old:
        path.unlink()


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
    with folder_beside(path.parent) as beside:
        rewritten = beside / "rewritten"  # TensorBoard would read a name with "tfevents" in it
        with tf.io.TFRecordWriter(str(rewritten)) as writer:
            for event in kept:
                writer.write(event.SerializeToString())
        rewritten.replace(path)


def _readable_events(path: Path) -> Iterator[Event]:
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield Event.FromString(record)
    except tf.errors.DataLossError:  # the record that was being written when the process was killed
        return
