"""An experiment folder, opened: its `params.json`, its data, and who sees what of them; without TensorFlow."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.errors import UserError, listed
from model.common.images import Kind
from model.common.text import class_name
from model.common.versions import source_sha256
from model.data import datasets
from model.data.dataset import Dataset, Split
from model.data.input_fn import (
    EvalInput,
    TrainInput,
    classes_too_small,
    eval_input_fn,
    train_input_fn,
    validation_input_fn,
)
from model.data.partition import Partition, divide
from model.params import ONLY_WITH_VALIDATION, Params


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What is known of the data of an experiment without their images, so that these need not be read.

    Attributes:
        stamp: Fingerprint of the files, the parameters and the program that it was made with.
        image_shape: Height, width and channels of an image.
        class_names: Of the labels 0, 1, ...
        train_labels: (N,) int32, of all training images.
        train_sha256: `Dataset.train_sha256`.
        unseen: `Partition.unseen`: labels of the classes that nobody learns from.
        lines: On the data, and on what is learned from.
        notes: A line for each key of `params.json` that has no effect.
    """

    stamp: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_labels: np.ndarray
    train_sha256: str
    unseen: tuple[int, ...] = ()
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """What an experiment is made of.

    Attributes:
        model_dir: Its folder.
        params: What `params.json` says now.
        summary: What is known of its data without their images.
        load: Returns `partition` and `train_input`; called when they are first asked for.
        data_dir: Folder with the data, where somebody has named it.
    """

    model_dir: Path
    params: Params
    summary: DataSummary
    load: Callable[[], tuple[Partition, TrainInput]]
    data_dir: Path | None = None

    @property
    def partition(self) -> Partition:
        """Its data, and which images are learned from, choose, or are kept from training."""
        return self._loaded[0]

    @property
    def train_input(self) -> TrainInput:
        """What is learned from, in its order."""
        return self._loaded[1]

    @property
    def data(self) -> Dataset:
        """The data set."""
        return self.partition.data

    def images_to_score(self, which: str, params: Params) -> EvalInput:
        """Returns the "test" or the "validation" images, to be scored under parameters."""
        input_fn = eval_input_fn if which == "test" else validation_input_fn
        return input_fn(self.partition, params)

    @functools.cached_property
    def _loaded(self) -> tuple[Partition, TrainInput]:
        return self.load()

    def describe(self) -> list[str]:
        """Returns lines on the data, on what is learned from, and on what has no effect."""
        return [*self.summary.lines, *(f"{self.model_dir}/params.json: {line}." for line in self.summary.notes)]


def open_experiment(
    model_dir: Path,
    data_dir: Path | None,
    known: DataSummary | None = None,
    blank: bool = False,
    images: Kind = "auto",
) -> Experiment:
    """Reads the parameters and the data of an experiment; nothing is written.

    Args:
        model_dir: Folder with the `params.json`.
        data_dir: Folder with the data; None takes `data/<dataset>`.
        known: What an earlier call found; as long as that holds, no image is read before it is asked for.
        blank: Whether blank images stand for those of the data, which nobody needs to see.
        images: Where the images are to lie: in "memory", "stored" beside the data, or "auto", by the memory there is.

    Raises:
        UserError: The parameters or the data cannot be used, each by itself or with the other.
    """
    params, notes = Params.from_json_with_notes(model_dir / "params.json")
    made_with = [source_sha256(), params.to_json(), datasets.stamp_for(params, data_dir)]
    stamp = hashlib.sha256("\n".join(made_with).encode()).hexdigest()

    def load() -> tuple[Partition, TrainInput]:
        partition = load_partition(model_dir, params, data_dir, images, blank)
        with _naming_params(model_dir):
            return partition, train_input_fn(partition, params)

    if known is not None and known.stamp == stamp:
        return Experiment(model_dir, params, known, load, data_dir)
    loaded = load()
    summary = _summarize(stamp, *loaded, params, notes, images)
    return Experiment(model_dir, params, summary, lambda: loaded, data_dir)


def load_partition(
    model_dir: Path, params: Params, data_dir: Path | None, images: Kind = "auto", blank: bool = False
) -> Partition:
    """Loads the data of an experiment and divides them.

    Args:
        model_dir: Its folder, for messages.
        params: Its parameters.
        data_dir: As for `open_experiment`, like all the others.
        images: Where the images are to lie.
        blank: Whether they are to be blank.

    Raises:
        UserError: The data cannot be used, by themselves or with the parameters.
    """
    data = datasets.load_for(params, data_dir, images, blank)
    with _naming_params(model_dir):
        return divide(data, params)


@contextlib.contextmanager
def _naming_params(model_dir: Path) -> Iterator[None]:
    """Lets errors name the file of the parameters."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{model_dir / 'params.json'}: {error}") from None


def _summarize(
    stamp: str, partition: Partition, train_input: TrainInput, params: Params, notes: Sequence[str], images: Kind
) -> DataSummary:
    data, unused = partition.data, []
    if partition.validation is None:
        unused = [key for key in ONLY_WITH_VALIDATION if key in params.model_fields_set]
    without_effect = [f"'{key}' has no effect: no images validate, see 'validation_size'" for key in unused]
    height, width, channels = data.train.images.shape[1:]
    return DataSummary(
        stamp,
        (height, width, channels),
        data.class_names,
        data.train.labels,
        data.train_sha256,
        partition.unseen,
        tuple(_describe(partition, train_input, params, images)),
        (*notes, *without_effect),
    )


def _describe(partition: Partition, learned: TrainInput, params: Params, images: Kind) -> list[str]:
    data = partition.data
    height, width, channels = data.train.images.shape[1:]
    lines = [
        f"{data.name}: {len(data.train.images)} training and {len(data.test.images)} test images of "
        f"{height}x{width}x{channels}, {len(data.class_names)} classes{_kinds_of_classes(data)}, "
        f"{datasets.where_images_lie(data, images)}.",
        *(f"{note}." for note in data.notes),
        *_describe_roles(data.test, params.exclude_same_group),
    ]
    if len(learned.labels) < len(data.train.labels):
        left_out = sorted(set(data.train.labels.tolist()) - set(learned.labels.tolist()))
        names = listed((class_name(data.class_names[label]) for label in left_out), most=6)
        without = f", none of {len(left_out)} classes: {names}" if left_out else ""
        lines.append(f"Learning from {len(learned.labels)} of the training images{without}.")
    if data.validation is not None:
        used = _use_of_validation_images(partition, params, data.validation)
        lines.append(f"Of {len(data.validation.labels)} images in the folder of validation images, {used}.")
    if warning := classes_too_small(learned.labels, params):
        lines.append(f"Warning: {warning}.")
    return lines


def _describe_roles(test: Split, exclude_same_group: bool) -> list[str]:
    """Tells which test images are looked up in which, if the data say so."""
    if test.roles is None:
        return []
    is_query, is_gallery, group = test.roles.is_query, test.roles.is_gallery, test.roles.group
    queries, gallery, both, neither = map(
        np.count_nonzero, (is_query, is_gallery, is_query & is_gallery, ~(is_query | is_gallery))
    )
    lines = []
    if both < len(test.labels):
        parts = f", {both} are both" * bool(both) + f", {neither} are neither" * bool(neither)
        lines.append(
            f"Of the test images, {queries} are queries, which are looked up in {gallery} gallery images{parts}."
        )
    if group is not None:
        use = "are left out" if exclude_same_group else 'count, without "exclude_same_group": true'
        in_one = group[group >= 0]
        lines.append(
            f"{len(in_one)} test images are in {len(np.unique(in_one))} groups: neighbours of the same group {use}."
        )
    scored = test.roles.to_score(exclude_same_group)
    if scored is not None and (left_out := scored.count_without_answer(test.labels)):
        lines.append(f"{left_out} of {queries} queries are left out: no gallery image that counts is of their class.")
    return lines


def _use_of_validation_images(partition: Partition, params: Params, images: Split) -> str:
    """Tells what becomes of the validation images that the data come with."""
    validation, gallery = partition.validation, partition.validation_gallery
    if params.validation_size is not None or params.validation_classes is not None:
        return "none is used, as params.json sets others aside to validate"
    if validation is None or gallery is None:
        return "none is used, as all their classes are held out"
    num_gallery = 0 if gallery is partition.train else len(gallery.labels)
    used = np.isin(images.labels, np.union1d(validation.labels, gallery.labels))
    parts = {
        "validate": len(validation.labels),
        "are their gallery, as nobody learns from their classes": num_gallery,
        "of them are not classified, as their gallery has none of their classes": np.count_nonzero(
            ~np.isin(validation.labels, gallery.labels) & (validation.roles is None or validation.roles.is_query)
        ),
        "are not used, as their classes are held out": np.count_nonzero(~used),
    }
    return ", ".join(f"{count} {use}" for use, count in parts.items() if count)


def _kinds_of_classes(data: Dataset) -> str:
    """Tells how many classes are not both learned from and tested."""
    learned, tested = (set(labels.tolist()) for labels in (data.train.labels, data.test.labels))
    kinds = {"only to learn from": learned - tested, "only tested": tested - learned}
    said = ", ".join(f"{len(classes)} {kind}" for kind, classes in kinds.items() if classes)
    return f" ({said})" if said else ""
