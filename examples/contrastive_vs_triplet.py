"""Contrastive and triplet loss side by side: points on a plane that follow nothing but the gradient of the loss.

There is no network and there are no images. Random points of a few classes, all around the same place, are moved by
plain gradient descent, once on each loss, from the same start and with the same learning rate:

- The contrastive loss of a pair of one class is d^2 / 2. It is 0 only where the distance is 0, so it pulls until every
  class is one point. A pair of two classes costs max(margin - d, 0)^2 / 2, which pushes until they are apart by the
  margin.
- The triplet loss max(d(a, p) - d(a, n) + margin, 0) compares two distances. It is 0 as soon as every negative is
  farther from the anchor than every positive by the margin. Then everything stops, and a class keeps the extent that it
  has: the larger the margin, the smaller that is.

    python examples/contrastive_vs_triplet.py

writes `contrastive_vs_triplet.gif`, the same as .mp4 where ffmpeg is installed, and a still as .png.

References:
    Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping, 2006;
    Schroff, Kalenichenko, Philbin: FaceNet: A Unified Embedding for Face Recognition and Clustering, 2015
    (there with squared distances).
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import tqdm
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, when this file is run as a script

from model.common import devices
from model.pictures.plots import class_color

if TYPE_CHECKING:
    import tensorflow as tf

_NAME = "contrastive_vs_triplet"
_MARKERS = "o^sDvP*X"

# Times points and classes: a mean over all pairs divides what moves one point by the number of points, and only one
# pair in num_classes pulls.
_LEARNING_RATE = 0.015

_FRAMES = 100
_FRAMES_PER_SECOND = 20
_FRAMES_AT_START, _FRAMES_AT_END = 8, 30
_WRITERS = {".gif": animation.PillowWriter, ".mp4": animation.FFMpegWriter}

# The moments of the still, as parts of the way.
_MOMENTS = (0.0, 0.1, 0.2, 1.0)


@dataclass(frozen=True)
class Descent:
    """How points moved.

    Attributes:
        labels: The class of each point, (B,) int32.
        points: Where they were before the first step and after each, (steps + 1, B, 2) float32.
        losses: Their loss there, (steps + 1,) float32.
    """

    labels: np.ndarray
    points: np.ndarray
    losses: np.ndarray

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return len(self.points) - 1

    def mean_distances(self, step: int) -> tuple[float, float]:
        """Returns the mean distance of two points of one class, and of two classes, after a step."""
        points = self.points[step]
        distances = np.linalg.norm(points[:, np.newaxis] - points[np.newaxis, :], axis=-1)  # (B, B)
        same_class = self.labels[:, np.newaxis] == self.labels[np.newaxis, :]  # (B, B)
        different_points = ~np.eye(len(points), dtype=bool)  # (B, B)
        return float(distances[same_class & different_points].mean()), float(distances[~same_class].mean())


def contrastive(labels: "tf.Tensor", points: "tf.Tensor", margin: float) -> "tf.Tensor":
    """Returns the mean loss of all pairs."""
    from model.triplet_loss import contrastive_loss

    return contrastive_loss(labels, points, margin)


def triplet(labels: "tf.Tensor", points: "tf.Tensor", margin: float) -> "tf.Tensor":
    """Returns the mean loss of all triplets, those of loss 0 among them.

    Batch all is the mean of those whose loss is positive. Here, where a step moves the points themselves, that would
    throw the last few of them far away.
    """
    from model.triplet_loss import batch_all_triplet_loss

    loss, fraction_positive = batch_all_triplet_loss(labels, points, margin)
    return loss * fraction_positive


def random_points(num_classes: int, points_per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (B,) int32, and points (B, 2) float32 from one normal distribution for all classes."""
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), points_per_class)
    return labels, np.random.default_rng(seed).standard_normal((len(labels), 2), np.float32)


def descend(
    loss_fn: Callable[["tf.Tensor", "tf.Tensor", float], "tf.Tensor"],
    labels: np.ndarray,
    start: np.ndarray,
    margin: float,
    steps: int,
) -> Descent:
    """Moves points by plain gradient descent on a loss.

    Args:
        loss_fn: Takes labels, points and margin.
        labels: (B,) int32.
        start: Where the points are before the first step, (B, 2) float32.
        margin: Of the loss, in units of the distance.
        steps: How many steps.
    """
    import tensorflow as tf

    points = tf.Variable(start)
    learning_rate = _LEARNING_RATE * len(labels) * len(np.unique(labels))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_fn(labels, points, margin)
        points.assign_sub(learning_rate * tape.gradient(loss, points))
        return loss

    path, losses = [start], []
    for _ in range(steps):
        losses.append(step())
        path.append(points.numpy())
    losses.append(loss_fn(labels, points, margin))
    return Descent(labels, np.stack(path), np.stack(losses))


class _Panel:
    """Draws the points at one moment, the margin as a scale bar, and the numbers below."""

    def __init__(self, axes: Axes, descent: Descent, margin: float, limit: float) -> None:
        self._axes, self._descent = axes, descent
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
        self._dots = [
            axes.scatter([], [], s=20, marker=marker, color=class_color(label), edgecolors="white", linewidths=0.4)
            for label, marker in zip(np.unique(descent.labels), _MARKERS, strict=False)
        ]
        left, height = -0.94 * limit, -0.92 * limit
        axes.plot([left, left + margin], [height, height], color="black", linewidth=1.5, marker="|", markersize=6)
        axes.text(left, height + 0.05 * limit, f"margin {margin:g}", fontsize=8)

    def show(self, step: int) -> None:
        """Draws the moment after a step."""
        for label, dots in enumerate(self._dots):
            dots.set_offsets(self._descent.points[step, self._descent.labels == label])
        within, between = self._descent.mean_distances(step)
        self._axes.set_xlabel(
            f"step {step}: loss {self._descent.losses[step]:.4f}\n"
            f"mean distance {within:.2f} within a class,\n{between:.2f} between classes",
            fontsize=9,
        )


def draw_still(descents: Mapping[str, Descent], margin: float) -> Figure:
    """Draws each descent as a row: start, two moments between, end."""
    steps = next(iter(descents.values())).steps
    figure = Figure(figsize=(11, 6.7), layout="constrained")
    limit = _limit(descents)
    for row, (name, descent) in zip(figure.subplots(2, 4), descents.items(), strict=True):
        row[0].set_ylabel(name, fontsize=12)
        for axes, part in zip(row, _MOMENTS, strict=True):
            _Panel(axes, descent, margin, limit).show(round(part * steps))
    return figure


def write_animation(descents: Mapping[str, Descent], margin: float, paths: Sequence[Path]) -> None:
    """Draws the descents side by side, moving, into .gif and .mp4 files."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    limit = _limit(descents)
    panels = []
    for axes, (name, descent) in zip(figure.subplots(1, 2), descents.items(), strict=True):
        axes.set_title(name, fontsize=12)
        panels.append(_Panel(axes, descent, margin, limit))
    steps = next(iter(descents.values())).steps
    moments = np.unique(np.linspace(0, steps, _FRAMES).round().astype(int)).tolist()
    moments = [0] * _FRAMES_AT_START + moments + [steps] * _FRAMES_AT_END
    for panel in panels:
        panel.show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # once is enough: nothing but dots and digits will change
    with contextlib.ExitStack() as stack:
        writers = []
        for path in paths:
            writer = _WRITERS[path.suffix](fps=_FRAMES_PER_SECOND)
            stack.enter_context(writer.saving(figure, str(path), dpi=100))
            writers.append(writer)
        for moment in tqdm.tqdm(moments, "drawing", disable=None):
            for panel in panels:
                panel.show(moment)
            for writer in writers:
                writer.grab_frame()


def main(arguments: Sequence[str] | None = None) -> None:
    """Moves the points, draws them, and says what was written."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.output_dir, prefix="tmp-") as beside:
            devices.start_tensorflow()
            labels, start = random_points(options.num_classes, options.points_per_class, options.seed)
            descents = {
                name: descend(loss_fn, labels, start, options.margin, options.steps)
                for name, loss_fn in (("contrastive loss", contrastive), ("triplet loss", triplet))
            }
            suffixes = [".gif", ".mp4"] if shutil.which("ffmpeg") else [".gif"]
            written = [Path(beside, f"{_NAME}{suffix}") for suffix in [*suffixes, ".png"]]
            write_animation(descents, options.margin, written[:-1])
            draw_still(descents, options.margin).savefig(written[-1], dpi=120)
            for path in written:
                print(f"Wrote {path.rename(options.output_dir / path.name)}")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        parser.exit(130, "Stopped.\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("examples/output"), help="where to write (%(default)s)")
    for name, in_range, default, meaning in (
        ("--num_classes", _in_range(int, 2, len(_MARKERS)), 4, "how many classes"),
        ("--points_per_class", _in_range(int, 2, 100), 30, "how many points each"),
        ("--margin", _in_range(float, 0.01, 5), 1.0, "of both losses; the points begin with standard deviation 1"),
        ("--seed", _in_range(int, 0, 2**32 - 1), 0, "of the random points"),
        ("--steps", _in_range(int, 10, 10_000), 240, "of gradient descent"),
    ):
        parser.add_argument(name, type=in_range, default=default, help=f"{meaning} (%(default)s)")
    return parser


def _in_range(number: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (value := number(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"expected {number.__name__} from {low:,} to {high:,}, received {text!r}")

    return parse


def _limit(descents: Mapping[str, Descent]) -> float:
    """Returns how far the axes have to reach for everything to be seen."""
    return 1.05 * max(float(np.abs(descent.points).max()) for descent in descents.values())


if __name__ == "__main__":
    main()
