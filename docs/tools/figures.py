"""Draws the pictures of the tutorial.

    python -m docs.tools.figures                # into docs/images

The eight points are those of the code in docs/triplet-loss.md: what a picture shows is what the code there prints.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from model.pictures.plots import class_color

IMAGES = Path(__file__).parents[1] / "images"

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
EMBEDDINGS = np.array(
    [[0.0, 0.0], [0.6, 0.0], [-0.3, 0.9], [0.5, -0.6], [1.2, -0.7], [1.5, 0.3], [-0.9, -0.1], [-1.4, 0.5]], np.float32
)
MARGIN = 0.5

# Two colours that all kinds of colour vision tell apart; every mark has its word beside it.
_NEAR, _FAR, _INK, _PALE = "#3f90da", "#bd1f01", "#333333", "#d8d8d8"
_MARKS = "os^"


def triplet_regions() -> Figure:
    """Draws where a negative is hard, semi-hard or easy, seen from an anchor and one of its positives."""
    figure, axes = _plane((7.2, 4.3))
    to_positive, margin = 1.0, 0.7
    for radius, color, name, height in (
        (2.35, "#f4f6f8", "easy", -2.02),
        (to_positive + margin, "#f7ddb0", "semi-hard", -1.36),
        (to_positive, "#efb6aa", "hard", -0.62),
    ):
        axes.add_patch(Circle((0, 0), radius, facecolor=color, edgecolor=_INK, linewidth=0 if radius > 2 else 1))
        axes.text(0, height, name, ha="center", va="center", fontsize=10, weight="bold", color=_INK, zorder=5)
    anchor, positive = (0.0, 0.0), (-0.94, 0.34)
    _dot(axes, anchor, _NEAR, "o", "a", (0, -0.2))
    _dot(axes, positive, _NEAR, "o", "p", (-0.05, 0.22))
    _arrow(axes, positive, anchor, _NEAR)
    for x, y in ((0.42, 0.45), (0.82, 0.95), (1.35, 1.5)):
        _dot(axes, (x, y), _FAR, "s", "n", (-0.17, 0.13))
        if x < 1:
            _arrow(axes, (x, y), (1.75 * x, 1.75 * y) if x < 0.5 else (1.4 * x, 1.4 * y), _FAR)
    _measure(axes, (0, 0), 0, to_positive, "d(a, p)")
    _measure(axes, (0, 0), to_positive, to_positive + margin, "margin")
    lines = (
        "a  the anchor",
        "p  a positive, of the same class:\n    it is pulled nearer",
        "n  negatives, of other classes:\n    pushed out of the outer circle",
        "hard: n is nearer than p,\n    the loss is above the margin",
        "semi-hard: farther, but by less than\n    the margin, so the loss is below it",
        "easy: farther by the margin, no loss",
    )
    for place, line in enumerate(lines):
        axes.text(2.6, 1.9 - 0.72 * place, line, va="top", fontsize=9.5)
    axes.set(xlim=(-2.4, 5.3), ylim=(-2.4, 2.4))
    return figure


def batch() -> Figure:
    """Draws the batch of the tutorial, all of its distances, and which of these are of positives and negatives."""
    figure = Figure(figsize=(10.4, 3.7), layout="constrained")
    plane, matrix, masks = figure.subplots(1, 3)
    plane.set(aspect="equal", xlim=(-1.75, 1.85), ylim=(-1.15, 1.35), xticks=[], yticks=[])
    plane.set_title("8 embeddings of 3 classes", fontsize=10)
    for index, (label, (x, y)) in enumerate(zip(LABELS, EMBEDDINGS, strict=True)):
        plane.scatter(x, y, s=200, color=class_color(label), marker=_MARKS[label])
        plane.text(x, y + 0.22, str(index), ha="center", va="center", fontsize=9)
    plane.text(0, -1.05, "circle: class 0, square: class 1, triangle: class 2", ha="center", fontsize=8)

    distances = _distances()
    matrix.imshow(distances, cmap="Greys", vmin=0, vmax=4.5)
    masks.imshow(np.ones_like(distances), cmap="Greys", vmin=0, vmax=10)
    for a in range(len(LABELS)):
        for b in range(len(LABELS)):
            matrix.text(b, a, f"{distances[a, b]:.1f}", ha="center", va="center", fontsize=8)
            if a != b:
                same = LABELS[a] == LABELS[b]
                masks.text(
                    b,
                    a,
                    "p" if same else "n",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=_NEAR if same else _FAR,
                    weight="bold" if same else "normal",
                )
    matrix.set_title("distances (B, B)", fontsize=10)
    masks.set_title("masks: positives and negatives of each anchor", fontsize=10)
    for axes in (matrix, masks):
        axes.set(xticks=range(len(LABELS)), yticks=range(len(LABELS)), ylabel="anchor")
        axes.tick_params(length=0, labelsize=8)
    return figure


def strategies() -> Figure:
    """Draws the losses of all triplets of anchor 0, and which of them three strategies take."""
    to_positives, to_negatives, positives, negatives = _of_anchor_0()
    losses = to_positives[:, np.newaxis] - to_negatives + MARGIN  # (K, N)
    farther = to_negatives > to_positives[:, np.newaxis]
    nearest_farther = np.where(farther, to_negatives, np.inf).argmin(axis=1)
    hardest = int(to_positives.argmax()), int(to_negatives.argmin())
    taken = {
        "batch all: every positive loss": losses > 0,
        "batch hard: farthest p, nearest n": _only(losses.shape, [hardest]),
        "semi-hard: per p, the nearest n farther": _only(losses.shape, list(enumerate(nearest_farther))),
    }
    figure = Figure(figsize=(10.4, 2.2), layout="constrained")
    for axes, (title, mask) in zip(figure.subplots(1, 3), taken.items(), strict=True):
        axes.imshow(np.where(mask, 1.0, 0.0), cmap="Blues", vmin=0, vmax=2.2, aspect="auto")
        for k, row in enumerate(losses):
            for n, loss in enumerate(row):
                text = f"{loss:.2f}" if loss > 0 else "0"
                axes.text(n, k, text, ha="center", va="center", fontsize=9, weight="bold" if mask[k, n] else "normal")
                if mask[k, n]:
                    axes.add_patch(Rectangle((n - 0.47, k - 0.45), 0.94, 0.9, fill=False, linewidth=1.6))
        axes.set(xticks=range(len(negatives)), xticklabels=[f"n={n}" for n in negatives])
        axes.set(yticks=range(len(positives)), yticklabels=[f"p={p}" for p in positives])
        axes.tick_params(length=0, labelsize=8)
        axes.set_title(title, fontsize=9.5)
    return figure


def ranks() -> Figure:
    """Draws the negatives of anchor 0 on the line of distances, between what its positives ask for."""
    to_positives, to_negatives, positives, negatives = _of_anchor_0()
    thresholds = np.sort(to_positives) + MARGIN
    found = np.searchsorted(thresholds, to_negatives, side="right")
    figure = Figure(figsize=(8.2, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=_INK, linewidth=1)
    for rank, (threshold, positive) in enumerate(
        zip(thresholds, np.array(positives)[to_positives.argsort()], strict=True)
    ):
        axes.plot([threshold] * 2, [-0.55, 0.62], color=_NEAR, linewidth=2)
        axes.text(
            threshold, 0.82, f"d(a, {positive}) + margin\n= {threshold:.2f}", ha="center", fontsize=8.5, color=_NEAR
        )
        axes.text(threshold, -0.78, f"threshold {rank}", ha="center", fontsize=8, color=_NEAR)
    for distance, rank, negative in zip(to_negatives, found, negatives, strict=True):
        active = len(thresholds) - rank
        axes.scatter(distance, 0, s=120, marker="s", color=_FAR if active else _PALE, edgecolors=_INK, zorder=3)
        axes.text(distance, 0.2, f"n={negative}", ha="center", fontsize=8.5)
        axes.text(distance, -0.36, f"{active}", ha="center", fontsize=9, weight="bold")
    axes.text(0.63, -0.36, "losses:", ha="center", fontsize=8.5)
    axes.text(0.63, 0.2, "negative:", ha="center", fontsize=8.5)
    axes.set(xlim=(0.55, 1.65), ylim=(-0.95, 1.35), yticks=[], xlabel="distance from anchor 0")
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    return figure


def collapse() -> Figure:
    """Draws the losses of a batch that knows little of its classes, while all of it shrinks towards one point."""
    import tensorflow as tf

    from model import triplet_loss

    labels = np.repeat(np.arange(8), 8)
    generator = np.random.default_rng(0)
    centers = 0.35 * generator.standard_normal((8, 16))
    points = (centers[labels] + generator.standard_normal((64, 16))).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    scales = np.linspace(0, 1, 81, dtype=np.float32)
    losses: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "batch hard": lambda x: triplet_loss.batch_hard_triplet_loss(labels, x, MARGIN),
        "batch all": lambda x: triplet_loss.batch_all_triplet_loss(labels, x, MARGIN)[0],
        "semi-hard": lambda x: triplet_loss.batch_semi_hard_triplet_loss(labels, x, MARGIN),
    }
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for (name, loss), style in zip(losses.items(), ("-", "--", ":"), strict=True):
        values = [float(loss(tf.constant(scale * points))) for scale in scales]
        axes.plot(scales, values, style, color=_FAR if name == "batch hard" else _NEAR, linewidth=2)
        axes.annotate(name, (1.01, values[-1] - 0.01), va="center", fontsize=9)
    axes.axhline(MARGIN, color=_INK, linewidth=0.8)
    axes.annotate(f"the margin, {MARGIN}", (1.01, MARGIN + 0.03), va="center", fontsize=9)
    axes.set(xlim=(0, 1.22), xlabel="length of all embeddings: 0 is the collapse", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "triplet-regions": triplet_regions,
    "tutorial-batch": batch,
    "tutorial-strategies": strategies,
    "tutorial-ranks": ranks,
    "tutorial-collapse": collapse,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=IMAGES, help="where to write (%(default)s)")
    options = parser.parse_args(arguments)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    # The same bytes each time: names that matplotlib draws at random, and the date, would change them.
    with matplotlib.rc_context({"svg.hashsalt": "triplet", "svg.fonttype": "path"}):
        for name, draw in FIGURES.items():
            path = options.output_dir / f"{name}.svg"
            draw().savefig(path, metadata={"Date": None})
            print(f"Wrote {path}")


def _distances() -> np.ndarray:
    """Returns the distances of the batch of the tutorial, (B, B)."""
    return np.linalg.norm(EMBEDDINGS[:, np.newaxis] - EMBEDDINGS[np.newaxis, :], axis=-1)


def _of_anchor_0() -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Returns the distances of anchor 0 to its positives and to its negatives, and which images these are."""
    positives = [index for index in range(1, len(LABELS)) if LABELS[index] == LABELS[0]]
    negatives = [index for index in range(1, len(LABELS)) if LABELS[index] != LABELS[0]]
    distances = _distances()[0]
    return distances[positives], distances[negatives], positives, negatives


def _only(shape: tuple[int, ...], cells: Sequence[tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for cell in cells:
        mask[cell] = True
    return mask


def _plane(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure, axes


def _dot(axes: Axes, place: tuple[float, float], color: str, mark: str, name: str, offset: tuple[float, float]) -> None:
    axes.scatter(*place, s=70, color=color, marker=mark, zorder=6, edgecolors="white", linewidths=0.8)
    axes.text(place[0] + offset[0], place[1] + offset[1], name, fontsize=9, ha="center", va="center", zorder=6)


def _arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float], color: str) -> None:
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": color, "shrinkA": 6, "shrinkB": 6}, zorder=4)


def _measure(axes: Axes, origin: tuple[float, float], low: float, high: float, name: str) -> None:
    """Draws a length to the right of a point, with its name above."""
    y = origin[1]
    axes.annotate(
        "",
        (origin[0] + high, y),
        (origin[0] + low, y),
        arrowprops={"arrowstyle": "<->", "color": _INK, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(origin[0] + (low + high) / 2, y + 0.1, name, ha="center", fontsize=9, color=_INK)


if __name__ == "__main__":
    main()
