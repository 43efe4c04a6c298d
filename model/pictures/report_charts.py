"""The charts of the report: curves of the training, ROC and DET curve, distances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from model.pictures import charts, plots
from model.pictures.charts import Axis, Line, Mark
from model.pictures.view import View

Curves = Mapping[str, Sequence[tuple[int, float]]]

# Charts of the training batches beside that of the loss: the title, and by metric, what the legend says.
_TRAINING: Mapping[str, Mapping[str, str]] = {
    "Share of the triplets of a batch that have a loss": {"fraction_positive_triplets": "triplets with a loss"},
    "Distances in a batch, from an anchor": {
        "hardest_positive_dist": "to its farthest positive",
        "hardest_negative_dist": "to its nearest negative",
    },
}
_VALIDATION = ("knn_accuracy", "recall_at_1", "map_at_r")

# The metrics that are drawn: of training batches, and of the validation images.
OF_TRAINING = ("loss", *(name for names in _TRAINING.values() for name in names))
OF_VALIDATION = ("loss", *_VALIDATION)

# Points of a curve, and bins of a histogram.
_POINTS, _BINS = 300, 60

_RATES = ("verification_threshold", "false_accept_rate", "false_reject_rate")

# Rates that a DET curve is drawn between.
_LOWEST_RATE, _HIGHEST_RATE = 1e-4, 0.95


def training(of_batches: Curves, of_validation: Curves, step: int, best_step: int) -> list[Markup]:
    """Draws what was measured during training; nothing where the event files are gone.

    Args:
        of_batches: By metric of `OF_TRAINING`, the values at some steps.
        of_validation: The same for `OF_VALIDATION`.
        step: That of the checkpoint.
        best_step: That of the checkpoint that the validation images chose; 0 where they did not.
    """
    steps, here = Axis("step", low=0, is_rounded=False), [Mark("this checkpoint", step)]
    losses = {"training batches": of_batches.get("loss"), "validation images": of_validation.get("loss")}
    drawn = [_curves("Loss", losses, steps, Axis("loss", low=0), here)]
    for title, names in _TRAINING.items():
        found = {said: of_batches.get(name) for name, said in names.items()}
        drawn.append(_curves(title, found, steps, Axis(""), here))
    chosen = [Mark("the best", best_step)] if best_step else []
    found = {name: of_validation.get(name) for name in _VALIDATION}
    drawn.append(_curves("Scores of the validation images", found, steps, Axis("", high=1), chosen))
    return [chart for chart in drawn if chart]


def _curves(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]] | None], x: Axis, y: Axis, marks: Sequence[Mark]
) -> Markup:
    lines = []
    for name, curve in curves.items():
        if curve:
            some = np.unique(np.linspace(0, len(curve) - 1, _POINTS).round().astype(int))
            lines.append(Line(name, [curve[i][0] for i in some], [curve[i][1] for i in some]))
    last = max((line.x[-1] for line in lines), default=0)
    return charts.draw(title, lines, x, y, [mark for mark in marks if mark.x < last]) if lines else Markup("")


def verification(view: View, scores: Mapping[str, float], group: str | None) -> dict[str, Any] | None:
    """Draws ROC and DET curve of the pairs of images shown, with the threshold that was calibrated; None without pairs.

    Args:
        view: What is shown.
        scores: Of the test images, by name.
        group: What stands before the names of the threshold and of the rates at it, as `Record.calibrated_group` says,
            "unseen/" for those of unseen classes; None if there are none.
    """
    labels, unseen = np.unique(view.shown.labels), view.unseen_shown
    everything = view.roc_curve()
    found = {"unseen classes" if len(unseen) == len(labels) else "all classes": everything}
    if 1 < len(unseen) < len(labels):
        found["unseen classes"] = view.roc_curve(unseen)
    curves = {f"{name}, equal error rate {curve.eer:.4f}": curve for name, curve in found.items() if curve is not None}
    if everything is None:
        return None
    marks, said = [], None
    if group is not None:
        threshold, far, frr = (scores[group + name] for name in _RATES)
        of = "the test images of unseen classes" if group else "the test images"
        said = {"threshold": f"{threshold:.4f}", "of": of, "far": f"{far:.2%}", "frr": f"{frr:.2%}"}
        judged = found.get("unseen classes") if group else everything
        of_which = ", unseen" if len(curves) > 1 and group else ""
        if judged is not None:
            x, y = (float(np.interp(threshold, judged.thresholds, rate)) for rate in (judged.far, judged.tar))
            marks.append((f"threshold {threshold:.3f}{of_which}", x, y))
    roc = charts.draw(
        "ROC curve",
        [
            *(Line(name, curve.far.tolist(), curve.tar.tolist()) for name, curve in curves.items()),
            Line("by chance", [0, 1], [0, 1]),
        ],
        Axis("different pairs that are accepted (FAR)", 0, 1),
        Axis("same pairs that are accepted (TAR)", 0, 1),
        [Mark(name, x, y) for name, x, y in marks],
    )
    low, high = _LOWEST_RATE, _HIGHEST_RATE
    lines = [
        Line(name, np.maximum(curve.far, low).tolist(), np.maximum(1 - curve.tar, low).tolist())
        for name, curve in curves.items()
    ]
    det = charts.draw(
        "DET curve",
        [*lines, Line("both errors equal", [low, high], [low, high])],
        Axis("different pairs that are accepted (FAR)", low, high, is_probit=True),
        Axis("same pairs that are refused (FRR)", low, high, is_probit=True),
        [Mark(name, min(max(x, low), high), min(max(1 - y, low), high)) for name, x, y in marks],
    )
    return {"charts": [roc, det], "judged": said}


def distances(view: View) -> list[Markup]:
    """Draws how far apart images of one class and of two are, and how safe each image is."""
    drawn = []
    density = Axis("density", low=0, has_numbers=False)
    embeddings = view.shown.embeddings
    lengths = [np.linalg.norm(embeddings[a] - embeddings[b], axis=1) for a, b in plots.some_pairs(view.shown.labels)]
    bins = np.linspace(0, max(*(length.max(initial=0) for length in lengths), 1e-6), _BINS + 1)
    names = ("the same class", "different classes")
    found = [charts.histogram(name, length, bins) for name, length in zip(names, lengths, strict=True) if len(length)]
    if found:
        kind = "" if len(found) == 2 else f" of {found[0].name}"
        drawn.append(
            charts.draw(
                f"Pairs of {'queries' if view.are_queries else 'images'}{kind}",
                found,
                Axis("distance of two images", low=0),
                density,
            )
        )
    safety = view.safety[np.isfinite(view.safety)]
    if len(safety):
        low, high = min(0.0, float(safety.min())), max(0.0, float(safety.max()))
        line = charts.histogram("images", safety, np.linspace(low, max(high, low + 1e-6), _BINS + 1))
        marks = [Mark("mistakes are left of 0", 0.0)]
        if isinstance(view.margin, float | int) and view.margin < high:
            marks.append(Mark(f"margin {view.margin:g}", view.margin))
        axis = Axis("safety: nearest of another class, minus its own", is_rounded=False)
        drawn.append(charts.draw("How safe each image is", [line], axis, density, marks))
    return drawn
