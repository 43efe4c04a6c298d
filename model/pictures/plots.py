"""The pictures of an experiment, each a matplotlib figure of a `View`.

Nothing is told by colour alone: classes are named where they lie, right and wrong differ in words or shape as well.
The ten colours are those of Petroff (Accessible Color Sequences for Data Visualization, 2021), which people with any
kind of colour vision can tell apart; classes beyond the tenth use them again with another mark.
"""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib import colors, patheffects
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from model.common.text import class_name
from model.pictures.thumbnails import MAX_THUMBNAIL, make_thumbnails
from model.pictures.view import View, length_as_text

_COLORS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKS = "os^vDP*X"
_RIGHT, _WRONG = "#3f90da", "#bd1f01"

# How many of each a sheet shows at most.
_MISTAKES, _QUERIES, _NEIGHBORS = 30, 10, 10

# Height of a row of a sheet of images, which is as wide as its number of images.
_ROW = 1.4

# Pairs that a histogram is drawn of.
_PAIRS = 100_000

_AUC = "ROC AUC: how often two images of one class are nearer to each other than an image of each; 0.5: by chance"

# More classes than this are not named one by one in a plane, and have no numbers in a matrix.
NAMED_CLASSES = 40

# Of more classes there is no matrix: neither its names nor its cells could be seen.
_MOST_ROWS = 120

# Of so many unseen classes every two have a cell with their AUC; of more the worst pairs are shown, with some images of
# each class.
_MATRIX_CLASSES, _WORST_PAIRS, _EXAMPLES = 25, 8, 3

# Rings are drawn around mistakes where less than this part of the images are; as in report.js.
_MOST_RINGS = 0.25

# How many classes have a lower AUC than these is counted.
_LEVELS = (0.6, 0.7, 0.8, 0.9)


def class_color(label: int) -> str:
    """Returns the colour of a class."""
    return _COLORS[label % len(_COLORS)]


def draw_points(axes: Axes, points: np.ndarray, labels: np.ndarray, size: float) -> dict[int, PathCollection]:
    """Draws dots (N, 2) in the colours and marks of their classes (N,); returns what was drawn of each class."""
    drawn = {}
    for label in np.unique(labels):
        mark = _MARKS[label // len(_COLORS) % len(_MARKS)]
        x, y = points[labels == label].T
        drawn[int(label)] = axes.scatter(x, y, s=size, marker=mark, color=class_color(label), alpha=0.7, linewidths=0)
    return drawn


def _dot_size(count: int) -> float:
    """Returns the area of a dot in square points: few are drawn larger."""
    return float(np.clip(12_000 / count, 5, 30))


def scatter(view: View) -> Figure:
    """Draws every image as a dot; the name of a class stands in the middle of its dots.

    Wrong answers have rings, unless there are so many that rings would hide the dots.
    """
    figure, axes = _plane(view)
    size = _dot_size(len(view.points))
    draw_points(axes, view.points, view.shown.labels, size)
    wrong, mark = view.points[view.is_wrong], ""
    if len(wrong) < _MOST_RINGS * len(view.points):
        axes.scatter(wrong[:, 0], wrong[:, 1], s=3 * size + 12, facecolors="none", edgecolors="black", linewidths=0.5)
        mark = f"\nThin ring: its nearest {view.one_of_gallery} is of another class ({len(wrong):,})."
    _name_classes(axes, view)
    figure.text(0.5, 0.015, f"Each dot is an image, coloured by its class{_key(view)}.{mark}", ha="center")
    return figure


def thumbnails(view: View) -> Figure:
    """Draws the images themselves, as many as find a place without covering each other."""
    figure, axes = _plane(view)
    low, high = view.points.min(axis=0), view.points.max(axis=0)
    cells = 46
    places = np.minimum((view.points - low) / np.maximum(high - low, 1e-12) * cells, cells - 1e-3).astype(int)
    _, first = np.unique(places @ [1, cells], return_index=True)
    axes.scatter(view.points[:, 0], view.points[:, 1], s=0)  # gives the axes their limits
    for index in first:
        label, image = view.shown.labels[index], view.shown.images[index]
        if max(image.shape[:2]) > MAX_THUMBNAIL:  # all of them are kept until the figure is drawn
            (image,) = make_thumbnails(image[np.newaxis])
        picture = _tinted(image, class_color(label))
        zoom = 13 / max(picture.shape[:2])
        box = AnnotationBbox(OffsetImage(picture, zoom=zoom), view.points[index], frameon=False, pad=0)
        axes.add_artist(box)
    _name_classes(axes, view)
    caption = f"As many of the images as find a place, coloured by their class{_key(view)}."
    figure.text(0.5, 0.02, caption, ha="center")
    return figure


def mistakes(view: View) -> Figure:
    """Shows the images whose nearest gallery image is of another class, the surest mistakes first."""
    neighbors, labels, gallery = view.neighbors, view.shown.labels, view.gallery
    wrong = view.surest_mistakes
    shown = wrong[:_MISTAKES]
    of_all = "" if len(shown) == len(wrong) else f"{len(shown)} of "
    columns = min(4, max(1, len(shown)))
    figure, axes = _sheet(
        f"{view.title}: {of_all}{len(wrong):,} mistake{'s' * (len(wrong) != 1)}, the surest first\n"
        f"red: the nearest {view.one_of_gallery}, of another class; blue: the nearest of its own class",
        width=3.4 * columns - 0.4,
        rows=max(1, -(-len(shown) // columns)),
    )
    for place, index in enumerate(shown):
        row, column = divmod(place, columns)
        x, name = 3.4 * column, _name(view, labels[index])
        nearest, same = neighbors.nearest[index], neighbors.same[index]
        _put(axes, x, row, view.shown.images[index], name, "")
        distance = f"distance {length_as_text(neighbors.other_distance[index])}"
        _put(axes, x + 1, row, gallery.images[nearest], _name(view, gallery.labels[nearest]), distance, _WRONG)
        distance = f"distance {length_as_text(neighbors.same_distance[index])}"
        _put(axes, x + 2, row, gallery.images[same], name, distance, _RIGHT)
    return figure


def distances(view: View) -> Figure:
    """Shows how far apart pairs of one class are, and of two classes, and how many images keep the margin."""
    embeddings = view.shown.embeddings
    lengths = [np.linalg.norm(embeddings[a] - embeddings[b], axis=1) for a, b in some_pairs(view.shown.labels)]
    same, _ = lengths
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    figure.suptitle(view.title)
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, max(*(length.max(initial=0) for length in lengths), 1e-6), 81)
    looks = (_RIGHT, "-", "the same class"), (_WRONG, "--", "different classes")
    for length, (color, style, name) in zip(lengths, looks, strict=True):
        if len(length):
            left.hist(length, bins, density=True, color=color, alpha=0.35)
            left.hist(length, bins, density=True, color=color, histtype="step", linestyle=style, label=name)
    margin = view.margin if isinstance(view.margin, float | int) else None
    if margin is not None and len(same):
        middle, height = np.median(same), left.get_ylim()[1] * 0.9
        bar = {"arrowstyle": "|-|,widthA=0.35,widthB=0.35"}
        left.annotate("", (middle, height), (middle + margin, height), arrowprops=bar)
        left.text(middle + margin, height, f" margin {margin:g}", va="center")
    left.set(xlabel="distance of two images", ylabel="density", title="Pairs")
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="upper right")
    safety = view.safety
    safety = safety[np.isfinite(safety)]
    if len(safety):
        right.hist(safety, 81, color="#94a4a2")
    right.axvline(0, color="black", linewidth=1)
    right.text(0, 1.0, "wrong | right ", ha="center", va="bottom", transform=right.get_xaxis_transform())
    if margin:
        right.axvline(margin, color="black", linewidth=1, linestyle="--", label=f"margin {margin:g}")
        right.legend(loc="upper right")
    right.set(xlabel="distance of the nearest of another class, minus that of its own", ylabel="images")
    right.set_title("How safe each image is", pad=18)
    return figure


def some_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns random pairs of one class, and of two, as indices (2, P) each; of a kind that there is, about as many.

    Among pairs of any kind there are few of one class, where there are many classes.
    """
    rng = np.random.default_rng(0)
    by_class = np.argsort(labels, kind="stable")
    rank = np.argsort(by_class)  # where each image is in that order
    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    first, size = (np.cumsum(sizes) - sizes)[class_of], sizes[class_of]
    same = np.zeros((2, 0), np.int64)
    if (others := size - 1).any():
        a = rng.choice(len(labels), _PAIRS, p=others / others.sum())
        shift = rng.integers(1, size[a])  # from the image to another one of its class
        same = np.stack([a, by_class[first[a] + (rank[a] - first[a] + shift) % size[a]]])
    different = rng.integers(0, len(labels), (2, _PAIRS))
    return same, different[:, labels[different[0]] != labels[different[1]]]


def confusion(view: View) -> Figure | None:
    """Shows which class each class was taken for by the nearest gallery image, where this can be of its class.

    None where it cannot for any image, and where there are too many classes: report.html lists them.
    """
    classes, asked = view.asked_classes, view.has_answer
    count = len(classes)
    if not 0 < count <= _MOST_ROWS:
        return None
    table = view.confusion_matrix
    wrong = table - np.diag(np.diag(table))
    side = min(14.0, 3.2 + 0.42 * count)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(1, wrong.max()))
    if count <= NAMED_CLASSES:
        for (row, column), number in np.ndenumerate(table):
            if number:
                color = "white" if wrong[row, column] > 0.6 * wrong.max() else "black"
                axes.text(column, row, f"{number}", ha="center", va="center", fontsize=8, color=color)
    else:
        figure.colorbar(picture, label="images that were taken for another class", shrink=0.75)
    names = [_name(view, label) for label in classes]
    size = 10 if count <= NAMED_CLASSES else 500 / count
    axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    axes.set(xlabel=f"class of the nearest {view.one_of_gallery}", ylabel="class of the image")
    left_out = np.count_nonzero(~asked)
    without = f"\n{left_out:,} images left out: no {view.one_of_gallery} is of their class" if left_out else ""
    axes.set_title(f"{view.title}: {view.is_right[asked].mean():.2%} right (colours: mistakes){without}")
    return figure


def retrieval(view: View) -> Figure:
    """Shows images of different classes with the gallery images that are nearest to them."""
    labels, gallery = view.shown.labels, view.gallery
    queries = view.of_different_classes(_QUERIES)
    count = min(_NEIGHBORS, len(gallery.labels) - (view.in_gallery is not None))
    title = f"{view.title}: some of them, with the {count} nearest {view.one_of_gallery}s and their distances\n"
    title += "blue: the same class; red: another one"
    figure, axes = _sheet(title, width=count + 1.4, rows=len(queries))
    for row, query in enumerate(queries):
        _put(axes, 0, row, view.shown.images[query], _name(view, labels[query]), "")
        for place, (index, length) in enumerate(zip(*view.nearest_in_gallery(query, count), strict=True)):
            is_right = gallery.labels[index] == labels[query]
            name = "" if is_right else _name(view, gallery.labels[index])
            color = _RIGHT if is_right else _WRONG
            _put(axes, place + 1.4, row, gallery.images[index], name, length_as_text(length), color)
    return figure


def unseen_classes(view: View) -> Figure | None:
    """Shows how well every two unseen classes are told apart, or the worst pairs of many; None where there are none."""
    if not view.told_apart.worst(1):
        return None
    return (_auc_matrix if len(view.told_apart.classes) <= _MATRIX_CLASSES else _worst_pairs)(view)


def _auc_matrix(view: View) -> Figure:
    """Draws the AUC of every two classes, and an image of each; classes that are confused stand beside each other."""
    told_apart = view.told_apart
    count = len(told_apart.classes)
    order = order_of_alike(told_apart.roc_auc)
    labels = told_apart.classes[order]
    table = told_apart.roc_auc[np.ix_(order, order)]
    table[np.triu_indices(count)] = np.nan
    names = [_name(view, label, 34) for label in labels]
    side, longest = 0.55 * count, 0.09 * max(map(len, names))
    figure = Figure(figsize=(max(9.0, side + longest), side + longest + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="Oranges_r", vmin=0.5, vmax=1)
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "white" if value < 0.7 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)
    for place, label in enumerate(labels):
        _draw_image(axes, view.shown.images[np.argmax(view.shown.labels == label)], (place, place))
    axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(count), names)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(f"{view.title}: {count} unseen classes\n{_AUC}", fontsize=11)
    return figure


def order_of_alike(roc_auc: np.ndarray) -> np.ndarray:
    """Returns the places of classes by the AUC of every two, (C, C), so that those that are confused stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import, and only needed for unseen classes

    alike = np.nan_to_num(roc_auc, nan=1.0)  # as a distance: of what is told apart it is large
    return leaves_list(linkage(alike[np.triu_indices(len(alike), 1)], "average", optimal_ordering=True))


def _worst_pairs(view: View) -> Figure:
    """Shows images of the pairs with the lowest AUC, and how low it gets for how many classes."""
    told_apart = view.told_apart
    pairs, count, shown = told_apart.worst(_WORST_PAIRS), len(told_apart.classes), len(view.unseen_shown)
    of_all = "" if count == shown else f" of {shown:,}"
    figure, axes = _sheet(
        f"{view.title}: {count:,}{of_all} unseen classes, the pairs that are told apart worst\n{_AUC}",
        width=2 * _EXAMPLES + 6.6,
        rows=_WORST_PAIRS,
    )
    for row, (*labels, value) in enumerate(pairs):
        for label, left in zip(labels, (0, _EXAMPLES + 1), strict=True):
            axes.text(left + 0.07, _ROW * row + 0.2, _name(view, label, 36), fontsize=8, va="bottom")
            for place, index in enumerate(np.flatnonzero(view.shown.labels == label)[:_EXAMPLES]):
                _put(axes, left + place, row, view.shown.images[index], "", "")
        axes.text(_EXAMPLES + 0.5, _ROW * row + 0.68, f"{value:.2f}", ha="center", va="center", fontsize=14)
    lowest = np.sort(told_apart.lowest[~np.isnan(told_apart.lowest)])
    curve = figure.add_axes((0.63, 0.4, 0.29, 0.46))
    curve.plot(np.arange(1, len(lowest) + 1), lowest, color=_RIGHT, linewidth=2.5)
    for level in _LEVELS:
        curve.axhline(level, color="#94a4a2", linewidth=0.8)
        below = f" {np.count_nonzero(lowest < level):,} below"
        curve.text(1, level, below, va="center", transform=curve.get_yaxis_transform())
    curve.set(xlabel=f"{len(lowest):,} classes, the worst first", ylabel="ROC AUC", ylim=(min(0.5, lowest[0]), 1))
    curve.set_title("Each class with the class from which it is told apart worst", fontsize=11, pad=10)
    return figure


PICTURES: Mapping[str, Callable[[View], Figure | None]] = {
    "scatter": scatter,
    "scatter-images": thumbnails,
    "mistakes": mistakes,
    "distances": distances,
    "confusion": confusion,
    "retrieval": retrieval,
    "unseen-classes": unseen_classes,
}


def _plane(view: View) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 9))
    axes = figure.add_axes((0.02, 0.05, 0.96, 0.89))
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    figure.suptitle(f"{view.title}: {view.projection}")
    return figure, axes


def _name_classes(axes: Axes, view: View) -> None:
    """Writes the name of each class above most of its images."""
    present = np.unique(view.shown.labels)
    for label in present if len(present) <= NAMED_CLASSES else []:
        of_class = view.points[view.shown.labels == label]
        name_class(axes, view, label, (np.median(of_class[:, 0]), np.quantile(of_class[:, 1], 0.97)))


def _key(view: View) -> str:
    """Says where the names of classes are that a picture has no place for."""
    return "" if len(np.unique(view.shown.labels)) <= NAMED_CLASSES else ", which report.html names"


def name_class(axes: Axes, view: View, label: int, place: tuple[float, float]) -> Annotation:
    """Writes the name of a class above a place."""
    halo = [patheffects.withStroke(linewidth=3.5, foreground="white")]
    return axes.annotate(
        _name(view, label), place, xytext=(0, 6), textcoords="offset points", ha="center", va="bottom",
        fontsize=15, weight="bold", path_effects=halo, zorder=5,
    )  # fmt: skip


def _tinted(image: np.ndarray, color: str) -> np.ndarray:
    """Returns RGBA: grey images in the colour of their class on nothing, others in a frame of it."""
    rgb = np.array(colors.to_rgb(color))
    if image.shape[2] == 1:
        alpha = image[..., 0] / 255.0
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        if np.median(border) > 0.5:  # dark on white
            alpha = 1 - alpha
        return np.dstack([np.broadcast_to(rgb, (*alpha.shape, 3)), alpha])
    width = max(1, max(image.shape[:2]) // 14)
    framed = np.pad(image / 255.0, [(width, width), (width, width), (0, 0)])
    framed[:width] = framed[-width:] = framed[:, :width] = framed[:, -width:] = rgb
    return np.dstack([framed, np.ones(framed.shape[:2])])


def _sheet(title: str, width: float, rows: int) -> tuple[Figure, Axes]:
    """Returns a sheet for `_put`: so many images wide, so many rows high."""
    height = _ROW * rows
    figure = Figure(figsize=(max(width, 6.6), height + 0.6))
    axes = figure.add_axes((0.01, 0.0, 0.98, height / (height + 0.6)))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", anchor="NW")
    axes.set_axis_off()
    figure.suptitle(title, y=1 - 0.1 / (height + 0.6), va="top", fontsize=11)
    return figure, axes


def _put(axes: Axes, x: float, row: int, image: np.ndarray, above: str, below: str, frame: str | None = None) -> None:
    """Draws an image into a row of a sheet, with a word above and one below it."""
    center = x + 0.5, _ROW * row + 0.68
    left, right, bottom, top = _draw_image(axes, image, center)
    if frame is not None:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=frame, linewidth=3))
    axes.text(center[0], center[1] - 0.47, above, fontsize=8, ha="center", va="bottom")
    axes.text(center[0], center[1] + 0.48, below, fontsize=9, ha="center", va="top")


def _draw_image(axes: Axes, image: np.ndarray, center: tuple[float, float]) -> tuple[float, float, float, float]:
    """Draws an image within a unit square, upright where y grows downward; returns where: left, right, bottom, top."""
    height, width = image.shape[:2]
    half = 0.43 * np.array([width, height]) / max(width, height)
    (left, top), (right, bottom) = center - half, center + half
    picture = image if image.shape[2] == 3 else image[..., 0]
    extent = (left, right, bottom, top)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="equal")
    return extent


def _name(view: View, label: int, length: int = 14) -> str:
    # A dollar would begin mathematics.
    return class_name(view.class_names[label], length).replace("$", r"\$")
