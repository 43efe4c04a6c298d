"""What the embeddings of new images say, by their nearest gallery images or by their distance, and how it is shown."""

import dataclasses
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.common.commands import command
from model.common.errors import UserError
from model.common.text import class_name, printable
from model.new_images.convert import Converted
from model.new_images.refusal import Refusal
from model.scoring.classification import majority_vote, nearest_of
from model.scoring.record import RATES, UNSEEN, Record

_WIDTH = 100
_HEADER = ("image", "predicted", "votes")
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class NewImages:
    """New images: how they were converted, without their pixels, and their embeddings, (N, D) float32."""

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


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images in which others are looked up.

    Attributes:
        embeddings: (G, D) float32, G at least 1.
        labels: (G,) integers, indices into `class_names`.
        class_names: Of all classes.
        path: Where it comes from; None of the training images.
        files: Of each image; empty for the training images.
        places: (G,) integers, of each among all training images; None where it is its place here.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    path: Path | None = None
    files: Sequence[Path] = ()
    places: np.ndarray | None = None

    def without(self, labels: Collection[int]) -> "Gallery":
        """Returns training images without those of some classes."""
        if not labels:
            return self
        places = np.flatnonzero(~np.isin(self.labels, list(labels)))
        return dataclasses.replace(self, embeddings=self.embeddings[places], labels=self.labels[places], places=places)


@dataclass(frozen=True)
class Neighbor:
    """A gallery image.

    Attributes:
        index: Its place in the gallery, or among all training images.
        label: The name of its class.
        distance: Its euclidean distance.
        file: Its file; None of a training image.
    """

    index: int
    label: str
    distance: float
    file: Path | None = None

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints."""
        said = {"index": self.index, "label": self.label, "distance": self.distance}
        return said if self.file is None else {**said, "file": str(self.file)}


@dataclass(frozen=True)
class Prediction:
    """What an image shows.

    Attributes:
        label: The class that most of its neighbours have; of several, that of the nearest. Where images may be unknown,
            that of the nearest, or None if that is too far.
        votes: How many neighbours have it; 0 of an unknown image.
        neighbors: The nearest gallery images, the nearest first.
    """

    label: str | None
    votes: int
    neighbors: Sequence[Neighbor]


@dataclass(frozen=True)
class Predictions:
    """What new images show.

    Attributes:
        images: The images.
        predictions: One for each.
        gallery: Where they were looked up.
        refusal: What makes an image unknown, or why every image gets a name.
    """

    images: NewImages
    predictions: Sequence[Prediction]
    gallery: Gallery
    refusal: Refusal | str

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints, but for the experiment."""
        gallery = {} if self.gallery.path is None else {"gallery": str(self.gallery.path)}
        return {
            **gallery,
            "refusal": None if isinstance(self.refusal, str) else self.refusal.as_json(),
            "why_no_refusal": self.refusal if isinstance(self.refusal, str) else None,
            "images": [
                {
                    **image,
                    "predicted": prediction.label,
                    "votes": prediction.votes,
                    "neighbors": [neighbor.as_json() for neighbor in prediction.neighbors],
                }
                for image, prediction in zip(self.images.as_json(), self.predictions, strict=True)
            ],
        }

    def as_text(self) -> str:
        """Returns a table of at most 100 columns, and below it what was done to the images."""
        rows = [(_end_of(file), *_told(seen)) for file, seen in zip(self.images.files, self.predictions, strict=True)]
        widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
        neighbors = [
            [f"{class_name(neighbor.label, 20)} {neighbor.distance:.2f}" for neighbor in seen.neighbors]
            for seen in self.predictions
        ]
        of = "training" if self.gallery.path is None else "gallery"
        lines = []
        for row, last in zip([_HEADER, *rows], [[f"nearest {of} images (euclidean)"], *neighbors], strict=True):
            start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=True))
            lines.append(start + _as_many_as_fit(last, _WIDTH - len(start)))
        if isinstance(self.refusal, str):
            told = [f"Every image gets a name, also of a stranger: {self.refusal}"]
        else:
            told = self.refusal.as_lines()
            if _UNKNOWN in self.gallery.class_names:
                told.append(f'A class of the gallery is called "{_UNKNOWN}": its images have votes.')
        return "\n".join([*lines, "", *_wrapped(told), "", *self.images.conversions_as_text()])


def _told(seen: Prediction) -> tuple[str, str]:
    if seen.label is None:
        return _UNKNOWN, "-"
    return class_name(seen.label, 20), f"{seen.votes}/{len(seen.neighbors)}"


def classify(images: NewImages, gallery: Gallery, k: int, refusal: Refusal | str) -> Predictions:
    """Classifies images by their k nearest gallery images, or by the nearest where some may be unknown.

    Args:
        images: What to classify.
        gallery: Where to look them up.
        k: At least 1; all gallery images vote where there are not so many.
        refusal: What makes an image unknown: then the k nearest are shown, and the nearest decides. Or in words why
            none is: then the k nearest vote.

    Example:
        >>> gallery = Gallery(np.array([[0.0], [1.0], [3.0]]), np.array([0, 1, 1]), class_names=["ant", "bee"])
        >>> images = NewImages([Path("new.png")], converted=[], embeddings=np.array([[0.4]]))
        >>> [prediction] = classify(images, gallery, k=3, refusal="every image gets a name").predictions
        >>> prediction.label, prediction.votes, prediction.neighbors[0].label
        ('bee', 2, 'ant')
    """
    limit = math.inf if isinstance(refusal, str) else refusal.threshold.distance
    nearest = nearest_of(images.embeddings, gallery.embeddings, k)  # (N, k)
    distances = np.linalg.norm(images.embeddings[:, np.newaxis] - gallery.embeddings[nearest], axis=2)  # (N, k)
    labels = gallery.labels[nearest]  # (N, k)
    predicted = majority_vote(labels if isinstance(refusal, str) else labels[:, :1])  # (N,)
    votes = (labels == predicted[:, np.newaxis]).sum(axis=1)  # (N,)
    is_known = distances[:, 0] <= limit  # (N,)
    predictions = []
    for indices, lengths, label, count, known in zip(nearest, distances, predicted, votes, is_known, strict=True):
        neighbors = [
            Neighbor(
                index if gallery.places is None else int(gallery.places[index]),
                gallery.class_names[gallery.labels[index]],
                distance,
                gallery.files[index] if gallery.files else None,
            )
            for index, distance in zip(indices.tolist(), lengths.tolist(), strict=True)
        ]
        name = gallery.class_names[label]
        predictions.append(Prediction(name, int(count), neighbors) if known else Prediction(None, 0, neighbors))
    return Predictions(images, predictions, gallery, refusal)


# ------------------------------------------------------------------------------------------- whether two show the same


@dataclass(frozen=True)
class Calibration:
    """The distance up to which two images are called the same, and how often that is wrong.

    Attributes:
        model_dir: Folder of the experiment.
        checkpoint: Name of the folder of the checkpoint that was evaluated.
        digest: Of its tensors, as `Checkpoint.digest` gives it.
        rates: "verification_threshold", "false_accept_rate" and "false_reject_rate" for the test images; where classes
            were kept out of training, also "unseen/...", for these alone and at a threshold of their own, which is then
            the one that decides: two new images are of classes that nobody has learned from.
        data_dir: Folder with the data, where somebody has named it.
    """

    model_dir: Path
    checkpoint: str
    digest: str
    rates: Mapping[str, float]
    data_dir: Path | None = None

    @property
    def group(self) -> str:
        """The prefix of the rates that decide: those of classes never trained on, where there are some."""
        return UNSEEN if f"{UNSEEN}verification_threshold" in self.rates else ""

    @property
    def threshold(self) -> float:
        """The distance up to which two images are called the same."""
        return self.rates[f"{self.group}verification_threshold"]

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
    if record is None or not record.metrics.keys() >= set(RATES):
        raise UserError(f"{path}: no calibrated threshold there; run: {_evaluate(model_dir, data_dir)}")
    rates = {name: record.metrics[name] for name in RATES}
    if math.isnan(sum(rates.values())):
        raise UserError(
            f"{path}: no calibrated threshold, because the test images have too few pairs of one class; add images"
        )
    if record.calibrated_group == UNSEEN:
        rates |= {f"{UNSEEN}{name}": record.metrics[f"{UNSEEN}{name}"] for name in RATES}
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
        return self.distance <= self.calibration.threshold

    def as_json(self) -> dict[str, object]:
        """Returns what `--json` prints, but for the experiment."""
        calibration = self.calibration
        said = {
            "distance": self.distance,
            "same": self.is_same,
            "threshold": calibration.threshold,
            "threshold_of": "unseen" if calibration.group else "test",
            **calibration.rates,
        }
        return {**said, "images": self.images.as_json()}

    def as_text(self) -> str:
        """Returns what the distance says, and below it what was done to the images."""
        rates, group, threshold = self.calibration.rates, self.calibration.group, self.calibration.threshold
        first, second = (_end_of(file) for file in self.images.files)
        judged = "classes never trained on" if group else "test images"
        lines = [
            f"{'same' if self.is_same else 'different'}: {first} and {second}",
            f"  distance {self.distance:.4f} (euclidean), the same up to {threshold:.4f}, the threshold of {judged}",
            f"  {_errors(rates, group)}: {judged}, images that did not choose this threshold",
        ]
        if group:
            of_all = rates["verification_threshold"]
            lines.append(f"  {_errors(rates, '')}: all test images, at their own threshold {of_all:.4f}")
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
