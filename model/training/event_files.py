"""TensorBoard event files in which every step stands once, however often a run was interrupted."""

import contextlib
import logging
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image import metadata as image_metadata

from model.common.files import folder_beside

_log = logging.getLogger(__name__)

# How the names of event files end that hold no curves, but what is written anew as a whole.
_PICTURES, _HPARAMS = ".pictures", ".hparams"

# The group of charts that each metric is in. TensorBoard lists groups, and the charts of each, by the alphabet, and
# opens the first two groups. What is in none goes into `_OTHER`.
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    # Known by these names for long; they stand alone.
    "": (
        "loss", "embedding_mean_norm", "fraction_positive_triplets", "hardest_positive_dist", "hardest_negative_dist",
    ),
    "classification": ("knn_accuracy", "knn_accuracy_k5"),
    "clustering": ("nmi", "ami", "silhouette"),
    "distances": ("mean_positive_dist", "mean_negative_dist"),
    "retrieval": (
        "recall_at_1", "recall_at_5", "recall_at_10", "precision_at_1", "r_precision", "map_at_r", "mrr",
    ),
    "run": ("learning_rate", "gradient_norm", "images_per_second", "steps_per_second", "broken_steps"),
    "sizes": (
        "num_images", "num_queries", "num_gallery_images", "queries_left_out",
        "knn_images", "knn_images_left_out", "knn_gallery_images",
    ),
    "triplets": (
        "fraction_hard_triplets", "fraction_semi_hard_triplets", "fraction_easy_triplets",
        "anchors_without_positive", "anchors_without_negative",
    ),
    "verification": (
        "roc_auc", "eer", "eer_threshold",
        "verification_threshold", "verification_accuracy", "false_accept_rate", "false_reject_rate",
        "tar_at_far_1e-1", "tar_at_far_1e-2", "tar_at_far_1e-3", "tar_at_far_1e-4",
        "threshold_at_far_1e-1", "threshold_at_far_1e-2", "threshold_at_far_1e-3", "threshold_at_far_1e-4",
    ),
})  # fmt: skip
_OTHER = "other"

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}

# How the names of the ends of 95 % intervals end, which are no curves.
_ENDS_OF_INTERVALS = ("_low95", "_high95")

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


def tag_of(name: str) -> str:
    """Returns the tag under which TensorBoard shows a metric.

    "recall_at_1" is "retrieval/recall_at_1" and "unseen/recall_at_1" is "unseen/retrieval/recall_at_1"; "loss" stays. A
    name that `GROUPS` does not have goes into "other/", unless it says a group itself: "mine/score" stays.
    """
    classes, _, metric = name.rpartition("/")
    group = _GROUP_OF.get(metric, "" if classes else _OTHER)
    return "/".join(part for part in (classes, group, metric) if part)


def write_scalars(scalars: Mapping[str, float]) -> None:
    """Writes metrics to the default writer, at its step, each under its tag; the ends of intervals are left out."""
    for name, value in scalars.items():
        if not name.endswith(_ENDS_OF_INTERVALS):
            tf.summary.scalar(tag_of(name), value)


def write_images(images: Mapping[str, tf.Tensor]) -> None:
    """Writes images by name, (n, H, W, C) each, to the default writer, at its step."""
    for name, image in images.items():
        tf.summary.image(f"images/{name}", image)


def write_pictures(folder: Path, pictures: Mapping[str, bytes], step: int) -> None:
    """Writes PNG files as images that TensorBoard shows, in place of the last ones.

    Args:
        folder: Where the event files are, or will be.
        pictures: PNG files by name.
        step: The global step that they show.
    """
    with _replace(folder, _PICTURES) as writer, writer.as_default(step=step):
        for name, png in pictures.items():
            # What `tf.summary.image` writes, which would draw the picture anew: width and height as text, and the file.
            size = [str(side) for side in struct.unpack(">II", png[16:24])]
            about = image_metadata.create_summary_metadata(display_name=None, description=None)
            tf.summary.write(f"images/{name}", tf.constant([*size, png]), metadata=about)


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


def read_curves(folder: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Reads the curves of a run.

    Args:
        folder: Where its event files are; nothing is in one that is not there.
        names: Of metrics.

    Returns:
        By name, in this order, the steps, ascending, with a finite value each, under its tag or, as runs of before
        have it, under the bare name; a metric that was not written is left out.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    name_of = {tag: name for name in names for tag in (tag_of(name), name)}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        if path.is_file() and not path.name.endswith((_PICTURES, _HPARAMS)):
            for _, event in _readable_events(path):
                for value in event.summary.value:
                    if value.tag in name_of and value.tensor.dtype == tf.float32.as_datatype_enum:
                        found[name_of[value.tag]][event.step] = float(tf.make_ndarray(value.tensor))
    curves = {name: sorted((step, y) for step, y in steps.items() if math.isfinite(y)) for name, steps in found.items()}
    return {name: curve for name, curve in curves.items() if curve}


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
