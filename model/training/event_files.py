"""TensorBoard event files in which every step stands once, however often a run was interrupted."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
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
        folder: Where the event files are, or will be; it is in a folder that is there.
        steps: The global steps that are going to be written.

    Returns:
        A writer to be used with `tf.summary`.

    Raises:
        FileExistsError: There is a file in the place of the folder, whose name TensorFlow would not tell.
        FileNotFoundError: The folder that it would be in was taken away, which TensorFlow would make anew.
    """
    folder.mkdir(exist_ok=True)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        if path.is_file() and not path.name.endswith((_PICTURES, _HPARAMS)):
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
    """Takes the events of these steps, and whatever is no event, out of an event file."""
    events = list(_readable_events(path))
    kept = [(record, event) for record, event in events if event.HasField("file_version") or event.step not in steps]
    unreadable = path.stat().st_size - sum(len(record) + _FRAMING for record, _ in events)
    if unreadable:
        _log.warning("%s: %d of its bytes cannot be read and are dropped.", path, unreadable)
    if all(event.HasField("file_version") for _, event in kept):
        path.unlink()
        return
    if len(kept) == len(events) and not unreadable:
        return
    with folder_beside(path.parent) as beside:
        rewritten = beside / "rewritten"  # TensorBoard would read a name with "tfevents" in it
        with tf.io.TFRecordWriter(str(rewritten)) as writer:
            for record, _ in kept:
                writer.write(record)
        rewritten.replace(path)


def _readable_events(path: Path) -> Iterator[tuple[bytes, Event]]:
    """Yields the records of a file that are events, as bytes and as what they say, up to one that is damaged."""
    records = tf.data.TFRecordDataset(str(path)).take(_count_records(path)).as_numpy_iterator()
    with contextlib.suppress(tf.errors.DataLossError):  # such as what was being written when the process was killed
        for record in records:
            try:
                event = Event.FromString(record)
            except DecodeError:
                continue
            yield record, event


def _count_records(path: Path) -> int:
    """Returns how many records end inside a file. TensorFlow makes room for one of any length, or aborts."""
    size, end, count = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while len(length := file.read(8)) == 8:
            end += int.from_bytes(length, "little") + _FRAMING
            if end > size:
                break
            file.seek(end)
            count += 1
    return count
