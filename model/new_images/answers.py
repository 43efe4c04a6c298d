"""What the embeddings of new images say, by their nearest training images or by their distance, and how it is shown."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.commands import command
from model.common.errors import UserError
from model.common.text import class_name, printable
from model.new_images.convert import Converted
from model.scoring.classification import majority_vote
from model.scoring.neighbors import k_nearest
from model.scoring.record import Record

_WIDTH = 100
_HEADER = ("image", "predicted", "votes", "nearest training images (euclidean)")
_RATES = ("verification_threshold", "false_accept_rate", "false_reject_rate")


@dataclass(frozen=True)
class NewImages:
    """New images, as they were converted, and their embeddings, (N, D) float32."""

    files: Sequence[Path]
    converted: Sequence[Converted]
    embeddings: np.ndarray

    def as_json(self) -> list[dict[str, object]]:
        """Returns what is known of each image before anything is asked."""
        return [
            {
                "file": str(file),
                "stored": f"{image.size[1]}x{image.size[0]} {image.kind}",
                "conversions": list(image.steps),
                "blank": image.is_blank,
                "embedding": embedding,
            }
            for file, image, embedding in zip(self.files, self.converted, self.embeddings.tolist(), strict=True)
        ]

    def conversions_as_text(self) -> list[str]:
        """Returns a line for each way of converting, with the images that went it."""
        ways: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for file, image in zip(self.files, self.converted, strict=True):
            size = f"{image.size[1]}x{image.size[0]}"
            ways.setdefault((image.kind, *image.steps), []).append((_end_of(file), size))
        lines = []
        for (kind, *steps), members in ways.items():
            names, sizes = zip(*members, strict=True)
            name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            size = f"{sizes[0]} " if len(set(sizes)) == 1 else ""
            lines.append(f"{name}: {size}{kind} -> {', '.join(steps) or 'as it is'}")
        return _wrapped(lines)


# ------------------------------------------------------------------------------------------- what an image shows


@dataclass(frozen=True)
class Neighbor:
    """A training image: its index, the name of its class, and its euclidean distance."""

    index: int
    label: str
    distance: float


@dataclass(frozen=True)
class Prediction:
    """What an image shows.

    Attributes:
        label: The class that most of its neighbours have; of several, that of the nearest.
        votes: How many neighbours have it.
        neighbors: The nearest training images, the nearest first.
    """

    label: str
    votes: int
    neighbors: Sequence[Neighbor]


@dataclass(frozen=True)
class Predictions:
    """What new images show."""

    images: NewImages
    predictions: Sequence[Prediction]

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints, but for the experiment."""
        return {
            "images": [
                {
                    **image,
                    "predicted": prediction.label,
                    "votes": prediction.votes,
                    "neighbors": [vars(neighbor) for neighbor in prediction.neighbors],
                }
                for image, prediction in zip(self.images.as_json(), self.predictions, strict=True)
            ]
        }

    def as_text(self) -> str:
        """Returns a table of at most 100 columns, and below it what was done to the images."""
        rows = [
            (_end_of(file), class_name(seen.label, 20), f"{seen.votes}/{len(seen.neighbors)}")
            for file, seen in zip(self.images.files, self.predictions, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(_HEADER[:3], *rows, strict=True)]
        neighbors = [
            [f"{class_name(neighbor.label, 20)} {neighbor.distance:.2f}" for neighbor in seen.neighbors]
            for seen in self.predictions
        ]
        lines = []
        for row, last in zip([_HEADER[:3], *rows], [[_HEADER[3]], *neighbors], strict=True):
            start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=True))
            lines.append(start + _as_many_as_fit(last, _WIDTH - len(start)))
        return "\n".join([*lines, "", *self.images.conversions_as_text()])


def classify(
    images: NewImages, gallery: np.ndarray, gallery_labels: np.ndarray, class_names: Sequence[str], k: int
) -> Predictions:
    """Classifies images by their k nearest training images.

    Args:
        images: What to classify.
        gallery: (G, D) float32, the embeddings of the training images; G at least 1.
        gallery_labels: (G,) integers, indices into `class_names`.
        class_names: Of all classes.
        k: At least 1; all training images vote where there are not so many.
    """
    nearest = k_nearest(images.embeddings, gallery, min(k, len(gallery)))  # (N, k)
    distances = np.linalg.norm(images.embeddings[:, np.newaxis] - gallery[nearest], axis=2)  # (N, k)
    labels = gallery_labels[nearest]  # (N, k)
    predicted = majority_vote(labels)  # (N,)
    votes = (labels == predicted[:, np.newaxis]).sum(axis=1)  # (N,)
    neighbors = [
        [Neighbor(index, class_names[label], distance) for index, label, distance in zip(*row, strict=True)]
        for row in zip(nearest.tolist(), labels.tolist(), distances.tolist(), strict=True)
    ]
    names = [class_names[label] for label in predicted]
    return Predictions(images, [Prediction(*seen) for seen in zip(names, votes.tolist(), neighbors, strict=True)])


# ------------------------------------------------------------------------------------------- whether two show the same


@dataclass(frozen=True)
class Calibration:
    """The distance up to which two images are called the same, and how often that is wrong.

    Attributes:
        model_dir: Folder of the experiment.
        checkpoint: Name of the folder of the checkpoint that was evaluated.
        digest: Of its tensors, as `Checkpoint.digest` gives it.
        rates: "verification_threshold", "false_accept_rate" and "false_reject_rate" for the test images; where classes
            were kept out of training, also "unseen/...", for these alone and at a threshold of their own.
        data_dir: Folder with the data, where somebody has named it.
    """

    model_dir: Path
    checkpoint: str
    digest: str
    rates: Mapping[str, float]
    data_dir: Path | None = None

    def check(self, path: Path, digest: str, choice: str | None) -> None:
        """Makes sure that it is of the checkpoint that is used.

        Args:
            path: Folder of the checkpoint.
            digest: `Checkpoint.digest` of it.
            choice: How it was chosen, by `--checkpoint`.

        Raises:
            UserError: It is of another one.
        """
        if self.digest != digest:
            other = f"another {path.name}" if path.name == self.checkpoint else self.checkpoint
            raise UserError(
                f"{self.model_dir / 'metrics.json'}: tells of {other}, not of {path}; run: "
                f"{_evaluate(self.model_dir, self.data_dir, choice)}"
            )


def read_calibration(model_dir: Path, data_dir: Path | None = None) -> Calibration:
    """Reads what the evaluation wrote into `metrics.json`.

    Args:
        model_dir: Folder of the experiment.
        data_dir: Folder with the data, where somebody has named it.

    Raises:
        UserError: It is not there, or there were too few pairs.
    """
    path = model_dir / "metrics.json"
    record = Record.read(model_dir / "metrics.json")
    if record is None or not record.metrics.keys() >= set(_RATES):
        raise UserError(f"{path}: no calibrated threshold there; run: {_evaluate(model_dir, data_dir)}")
    rates = {name: record.metrics[name] for name in _RATES}
    if math.isnan(sum(rates.values())):
        raise UserError(
            f"{path}: no calibrated threshold, because the test images have too few pairs of one class; add images"
        )
    unseen = {f"unseen/{name}": record.metrics.get(f"unseen/{name}", math.nan) for name in _RATES}
    if not math.isnan(sum(unseen.values())):
        rates |= unseen
    return Calibration(model_dir, record.checkpoint, record.digest, rates, data_dir)


def _evaluate(model_dir: Path, data_dir: Path | None, checkpoint: str | None = None) -> str:
    chosen = [] if checkpoint is None else ["--checkpoint", checkpoint]
    return command("evaluate.py", model_dir, *chosen, data_dir=data_dir)


@dataclass(frozen=True)
class Comparison:
    """Whether two images show the same, by their euclidean distance."""

    images: NewImages
    distance: float
    calibration: Calibration

    @property
    def is_same(self) -> bool:
        """Whether the distance is at most the threshold."""
        return self.distance <= self.calibration.rates["verification_threshold"]

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints, but for the experiment."""
        said = {"distance": self.distance, "same": self.is_same, **self.calibration.rates}
        return {**said, "images": self.images.as_json()}

    def as_text(self) -> str:
        """Returns what the distance says, and below it what was done to the images."""
        rates = self.calibration.rates
        first, second = (_end_of(file) for file in self.images.files)
        lines = [
            f"{'same' if self.is_same else 'different'}: {first} and {second}",
            f"  distance {self.distance:.4f} (euclidean), the same up to {rates['verification_threshold']:.4f}",
            f"  {_errors(rates, '')}: test images that did not choose this threshold",
        ]
        if "unseen/verification_threshold" in rates:
            threshold = rates["unseen/verification_threshold"]
            lines.append(
                f"  {_errors(rates, 'unseen/')}: classes never trained on, at their own threshold {threshold:.4f}"
            )
        return "\n".join([*_wrapped(lines), "", *self.images.conversions_as_text()])


def compare(images: NewImages, calibration: Calibration) -> Comparison:
    """Compares two images."""
    first, second = images.embeddings
    return Comparison(images, float(np.linalg.norm(first - second)), calibration)


def _errors(rates: Mapping[str, float], group: str) -> str:
    accepted, rejected = rates[f"{group}false_accept_rate"], rates[f"{group}false_reject_rate"]
    return f"of pairs of two classes {accepted:.2%} are called the same, of pairs of one class {rejected:.2%} different"


# ------------------------------------------------------------------------------------------- lines


def _end_of(file: Path) -> str:
    return printable(str(file), 32, keeps_start=False)


def _as_many_as_fit(cells: Sequence[str], width: int) -> str:
    while len("  ".join(cells)) > width:
        cells = [*cells[: -1 - (cells[-1] == "...")], "..."]
    return "  ".join(cells)


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="    ")]
