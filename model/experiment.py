"""An experiment folder, opened: its `params.json`, its data, and who sees what of them; without TensorFlow."""

from dataclasses import dataclass, field
from pathlib import Path

from model.common.errors import UserError, listed
from model.common.text import printable
from model.data import datasets
from model.data.datasets import Dataset
from model.data.input_fn import TrainInput, classes_too_small, train_input_fn
from model.data.partition import Partition, divide
from model.params import ONLY_WITH_VALIDATION, Params


@dataclass(frozen=True)
class Experiment:
    """What an experiment is made of.

    Attributes:
        model_dir: Its folder.
        params: What `params.json` says now.
        partition: Its data, and which images are learned from, choose, or are kept from training.
        train_input: What is learned from, in its order.
        notes: A line for each key of `params.json` that has no effect.
        data_dir: Folder with the data, where somebody has named it.
    """

    model_dir: Path
    params: Params
    partition: Partition
    train_input: TrainInput
    notes: list[str] = field(default_factory=list)
    data_dir: Path | None = None

    @property
    def data(self) -> Dataset:
        """The data set."""
        return self.partition.data

    def describe(self) -> list[str]:
        """Returns lines on the data, on what is learned from, and on what has no effect."""
        data, learned = self.data, self.train_input
        height, width, channels = data.train.images.shape[1:]
        lines = [
            f"{data.name}: {len(data.train.images)} training and {len(data.test.images)} test images of "
            f"{height}x{width}x{channels}, {len(data.class_names)} classes{self._kinds_of_classes()}.",
            *(f"{note}." for note in data.notes),
        ]
        if len(learned.labels) < len(data.train.labels):
            left_out = sorted(set(data.train.labels.tolist()) - set(learned.labels.tolist()))
            names = listed((printable(data.class_names[label], 60) for label in left_out), most=6)
            without = f", none of {len(left_out)} classes: {names}" if left_out else ""
            lines.append(f"Learning from {len(learned.labels)} of the training images{without}.")
        if data.validation is not None:
            used = self.params.validation_size is None and self.params.validation_classes is None
            what = "validate" if used else "are not used, as params.json sets others aside to validate"
            lines.append(f"{len(data.validation.labels)} images of the folder of validation images {what}.")
        if warning := classes_too_small(learned.labels, self.params):
            lines.append(f"Warning: {warning}.")
        return lines + [f"{self.model_dir}/params.json: {line}." for line in self.notes]

    def _kinds_of_classes(self) -> str:
        """Tells how many classes are not both learned from and tested."""
        learned, tested = (set(labels.tolist()) for labels in (self.data.train.labels, self.data.test.labels))
        kinds = {"only to learn from": learned - tested, "only tested": tested - learned}
        said = ", ".join(f"{len(classes)} {kind}" for kind, classes in kinds.items() if classes)
        return f" ({said})" if said else ""


def open_experiment(model_dir: Path, data_dir: Path | None) -> Experiment:
    """Reads the parameters and the data of an experiment; nothing is written.

    Args:
        model_dir: Folder with the `params.json`.
        data_dir: Folder with the data; None takes `data/<dataset>`.

    Raises:
        UserError: The parameters or the data cannot be used, each by itself or with the other.
    """
    params, notes = Params.from_json_with_notes(model_dir / "params.json")
    data = datasets.load_for(params, data_dir)
    try:
        partition = divide(data, params)
        if partition.validation is None:
            unused = [key for key in ONLY_WITH_VALIDATION if key in params.model_fields_set]
            notes += [f"'{key}' has no effect: no images validate, see 'validation_size'" for key in unused]
        return Experiment(model_dir, params, partition, train_input_fn(partition, params), notes, data_dir)
    except UserError as error:
        raise UserError(f"{model_dir / 'params.json'}: {error}") from None
