"""Everything that a person wants to look at after training: the Projector bundle, the pictures, the report."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from model.common import files
from model.common.draws import stratified_sample
from model.common.errors import UserError, one_line_errors
from model.common.images import Images, subset
from model.common.text import class_name, printable
from model.params import Params
from model.pictures import plots, projector
from model.pictures.animation import draw_evolution
from model.pictures.bookmarks import color_column, make_bookmarks
from model.pictures.html_report import About, make_report
from model.pictures.plane import pca, tsne
from model.pictures.report_charts import OF_TRAINING, OF_VALIDATION
from model.pictures.thumbnails import as_bytes
from model.pictures.view import Embedded, View
from model.runner import Trained
from model.training import event_files

_log = logging.getLogger(__name__)

# Images of an animation: more dots would not show more.
_ANIMATED_IMAGES = 1500

# Pairs of unseen classes that the log names.
_NAMED_PAIRS = 3


def visualize(
    trained: Trained,
    *,
    split: str = "test",
    num_images: int = 10_000,
    output_dir: Path | None = None,
    animate: bool = False,
    use_tsne: bool = True,
) -> list[Path]:
    """Writes the Projector bundle, the pictures and the report of an experiment.

    Args:
        trained: What embeds the images.
        split: Which images to show, "test" or "train".
        num_images: How many at most, a stratified sample.
        output_dir: Where to write; None takes `model_dir/eval`.
        animate: Whether to draw how the embeddings came to be.
        use_tsne: Whether to place them by t-SNE, else by PCA; two-dimensional ones are drawn as they are.

    Returns:
        The files.

    Raises:
        UserError: There is no checkpoint, it cannot be used, or a file cannot be written. What was there stays.
    """
    experiment, params = trained.experiment, trained.params
    if not re.fullmatch(r"[A-Za-z0-9._-]+", experiment.model_dir.resolve().name):
        _log.warning(
            "%s: TensorBoard's Projector needs a folder name of letters, digits, '.', '_' and '-'.",
            experiment.model_dir,
        )
    if animate and not use_tsne and params.embedding_size > 2:
        raise UserError("--animate places embeddings of more than two dimensions by t-SNE; leave out --no_tsne")
    if animate and not trained.is_of_this_run:
        raise UserError(
            f"--animate draws the checkpoints of {experiment.model_dir}, of which {trained.checkpoint.path} is none; "
            "leave it out, or name the folder of that run by --model_dir"
        )
    folder = output_dir or experiment.model_dir / "eval"
    view = _look(trained, split, num_images, use_tsne)
    if worst := view.told_apart.worst(_NAMED_PAIRS):
        names = view.class_names
        named = (f"{names[a]} and {names[b]} {roc_auc:.4f}" for a, b, roc_auc in worst)
        _log.info("Unseen classes that are told apart worst, by ROC AUC: %s.", "; ".join(named))
    with one_line_errors(folder):
        drawn = ((name, draw(view)) for name, draw in plots.PICTURES.items())
        pictures = {name: _png(figure) for name, figure in drawn if figure is not None}
        report = make_report(view, _about(trained, view))
        # The digest, as another training may come as far.
        name = f"{split}_{len(view.points)}_images_step_{view.step}_{trained.checkpoint.digest[:8]}"
        with files.folder_beside(folder) as new:
            (new / "plots").mkdir()
            for picture, png in pictures.items():
                files.write_whole(new / "plots" / f"{picture}.png", png)
            event_files.write_pictures(new, pictures, view.step)
            projector.write_bundle(
                new, name, view.shown.embeddings, view.shown.images, _metadata(view), make_bookmarks(view)
            )
            if animate:
                draw_evolution(new / "plots", *_frames(trained, view), view)
            files.write_whole(new / "report.html", report)
            old = [*projector.bundle_in(folder), *event_files.pictures_in(folder)]
            old += [folder / "plots" / f"{picture}.png" for picture in plots.PICTURES]
            written = files.move_all(new, folder, last=(*projector.LAST_FILES, "report.html"))
        for path in set(old) - set(written):
            path.unlink(missing_ok=True)  # another command that draws has taken it away
    return written


def _look(trained: Trained, split: str, num_images: int, use_tsne: bool) -> View:
    """Embeds the images to show and those among which their neighbours are.

    Where the data say which test images are queries and which the gallery, these are the queries and that gallery. Else
    they are the training images, or where they have none of the classes shown, the other test images.
    """
    data, params = trained.experiment.data, trained.params
    images = data.train if split == "train" else data.test
    roles = images.roles and images.roles.to_score(params.exclude_same_group) if split == "test" else None
    asked = np.arange(len(images.labels)) if roles is None else np.flatnonzero(roles.is_query)
    chosen = asked[stratified_sample(images.labels[asked], params.seed, num_images)]
    are_unseen = not np.isin(data.test.labels, data.train.labels).any()
    kind = "training images" if split == "train" else "test images" if roles is None else "queries"
    groups, gallery_indices = None, None
    files = images.names if data.has_files else None
    if roles is not None:
        everything = _embed(trained, images.images, images.labels, files)
        gallery_indices = found = np.flatnonzero(roles.is_gallery)
        shown, gallery = everything.at(chosen), everything.at(found)
        places = np.full(len(images.labels), -1)
        places[found] = np.arange(len(found))
        one_of_gallery, in_gallery = "gallery image", places[chosen]
        if roles.group is not None:
            groups = roles.group[chosen], roles.group[found]
    elif split == "train" or are_unseen:
        one_of_gallery, in_gallery = f"other {'training' if split == 'train' else 'test'} image", chosen
        embeddings = trained.embed_gallery() if split == "train" else trained.embed(images.images)
        gallery = Embedded(images.images, images.labels, embeddings, files)
        shown = gallery.at(chosen)
    else:
        one_of_gallery, in_gallery = "training image", None
        of_gallery = data.train.names if data.has_files else None
        gallery = Embedded(data.train.images, data.train.labels, trained.embed_gallery(), of_gallery)
        of_shown = None if files is None else files[chosen]
        shown = _embed(trained, subset(images.images, chosen), images.labels[chosen], of_shown)
    if len(chosen) < len(asked):
        _log.info("Showing a stratified sample of %d of %d images (--num_images).", len(chosen), len(asked))
    of_all = "" if len(chosen) == len(asked) else f" of {len(asked):,}"
    points, projection = _place(shown.embeddings, params.seed, use_tsne)
    partition = trained.experiment.partition
    return View(
        subject=f"{data.name}, {len(chosen):,}{of_all} {kind}",
        step=trained.checkpoint.step,
        class_names=tuple(map(class_name, data.class_names)),
        margin=params.margin if params.distance == "euclidean" and not params.strategy.of_similarities else None,
        shown=shown,
        gallery=gallery,
        neighbors=shown.neighbors_in(gallery, in_gallery, groups),
        points=points,
        projection=projection,
        indices=chosen,
        gallery_indices=np.arange(len(gallery.labels)) if gallery_indices is None else gallery_indices,
        in_gallery=in_gallery,
        one_of_gallery=one_of_gallery,
        groups=groups,
        are_queries=roles is not None,
        unseen=partition.unseen if partition.has_unseen else (),
    )


def _place(
    embeddings: np.ndarray, seed: int, use_tsne: bool, start: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Returns places on a plane, (N, 2), and how they were found."""
    size = embeddings.shape[1]
    if size <= 2:
        return np.pad(embeddings, [(0, 0), (0, 2 - size)]), "the embeddings as they are"
    return (tsne(embeddings, seed, start), "t-SNE") if use_tsne else (pca(embeddings), "PCA")


def _embed(trained: Trained, images: Images, labels: np.ndarray, files: np.ndarray | None) -> Embedded:
    return Embedded(images, labels, trained.embed(images), files)


def _frames(trained: Trained, view: View) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Places some of the images as every checkpoint embeds them, each time from where they were the last time.

    Returns:
        The labels of these images, (n,), and by global step their places, (n, 2).
    """
    seed = trained.params.seed
    chosen = stratified_sample(view.shown.labels, seed, _ANIMATED_IMAGES)
    frames: dict[int, np.ndarray] = {}
    points = None
    for checkpoint in trained.history():
        if checkpoint.params.has_unit_length != trained.params.has_unit_length:
            _log.warning("%s: trained with another kind of distance; left out of the animation.", checkpoint.path)
            continue
        points, _ = _place(trained.embed(view.shown.images[chosen], checkpoint), seed, True, points)
        frames[checkpoint.step] = points
    return view.shown.labels[chosen], frames


def _about(trained: Trained, view: View) -> About:
    """Returns what the report tells of the experiment, with the last evaluation if it was of this checkpoint."""
    model_dir, state, params = trained.experiment.model_dir, trained.checkpoint.state, trained.params
    record = trained.scores
    seconds = f"{state.train_seconds:,.0f} seconds" if state.train_seconds else "no time was taken"
    data = trained.experiment.data
    about = About(
        params=params,
        facts={
            "data": f"{data.name}, {len(data.class_names):,} classes; shown: {view.subject.partition(', ')[2]}",
            "network": _describe_network(params),
            "loss": _describe_loss(params),
            "step": f"{view.step:,}",
            "code version": state.code_version or "not known",
            "training": seconds,
        },
        training=event_files.read_curves(model_dir, OF_TRAINING),
        validation=event_files.read_curves(model_dir / "validation", OF_VALIDATION),
        best_step=state.best_step,
    )
    if record is None:
        found = {name: value for name, value in _scores(view).items() if np.isfinite(value)}
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items()) or "none is defined"
        note = f"metrics.json has no scores of this checkpoint, evaluate.py makes them. Of the images shown: {said}."
        return replace(about, note=note)
    return replace(
        about,
        tables=record.tables,
        meanings=record.meanings,
        scores=record.metrics,
        calibrated_group=record.calibrated_group,
    )


def _describe_network(params: Params) -> str:
    weights = f" from {params.weights}" if params.weights else ""
    scaled = " of length 1" if params.has_unit_length else ""
    return f"{params.network}{weights}, embeddings of {params.embedding_size} dimensions{scaled}"


def _describe_loss(params: Params) -> str:
    margin = "" if params.margin is None else f", margin {params.margin}"
    return f"{params.triplet_strategy}, {params.distance} distance{margin}"


def _scores(view: View) -> dict[str, float]:
    """Returns the first scores of the images shown, as far as they are defined."""
    neighbors = view.neighbors
    if view.one_of_gallery == "training image":  # then the others that are shown are looked at
        neighbors = view.shown.neighbors_in(view.shown, np.arange(len(view.points)), None)
    has_other = np.isfinite(neighbors.same_distance)
    is_first = neighbors.same_distance < neighbors.other_distance  # a tie counts against the query
    scores = {"recall_at_1": float(np.mean(is_first[has_other])) if has_other.any() else np.nan}
    if view.one_of_gallery == "training image" and view.has_answer.any():
        scores["knn_accuracy"] = float(np.mean(view.is_right[view.has_answer]))
    return scores


def _metadata(view: View) -> dict[str, list[object]]:
    """Returns the columns that the Projector shows of each image."""
    # The Projector names points by the first column that holds no numbers, and paints it in the colours of classes.
    numbered = all(name.isdecimal() for name in view.class_names)
    names = np.array([f"class {name}" if numbered else name for name in view.class_names], object)
    neighbors = view.neighbors
    columns = {
        "index": view.indices,
        "label": names[view.shown.labels],
        "predicted": np.where(neighbors.nearest >= 0, names[view.predicted], "none"),
        "correct": np.where(view.is_right, "yes", np.where(view.has_answer, "no", "no other image of its class")),
        "nearest_same_class": _numbers(neighbors.same_distance),
        "nearest_other_class": _numbers(neighbors.other_distance),
        "safety": _numbers(view.safety),
        "nearest_wrong_neighbor": np.where(neighbors.other >= 0, view.gallery_indices[neighbors.other], -1),
    }
    listed: dict[str, list[object]] = {name: column.tolist() for name, column in columns.items()}
    if colors := color_column(view):
        listed["colour"] = [*colors]
    if view.shown.files is not None:
        listed["file"] = [printable(file) for file in view.shown.files.tolist()]
    return listed


def _numbers(values: np.ndarray) -> np.ndarray:
    """Returns numbers as text, "" where there is none: a column with "inf" is no column of numbers to the Projector."""
    return np.array([f"{value:.4f}" if np.isfinite(value) else "" for value in values.tolist()], object)


def _png(figure: Figure) -> bytes:
    return as_bytes(lambda file: figure.savefig(file, format="png", dpi=120, facecolor="white"))
