"""What is measured of embeddings, among which images, and under which name.

Test images are scored in two ways: against the training images (k-nearest-neighbour classification, `knn_accuracy`),
and among themselves (retrieval, verification of pairs, clustering). All of it is done over all classes; where some were
never learned from, once more with a prefix over the `seen/` ones, which were, and over the `unseen/` ones, each group
with a gallery of its own classes. Classes of training images that only validated are in neither group.

Where some images are queries and some the gallery, retrieval looks up those in these, and verification takes pairs of
both; where groups are left out, images of one group are neither neighbours nor pairs. Clustering and classification
take all images. `queries_left_out` counts the queries for which there is no image to be found.

An image whose class has no training images cannot be classified by them: it is left out there, and counted. Nobody has
learned from the training images of an unseen class, so that they are scored among themselves with its test images,
unless these are queries and gallery, or have groups: then these are scored alone.
"""

import types
from collections.abc import Collection, Mapping

import numpy as np

from model.scoring import clustering, retrieval, verification
from model.scoring.classification import knn_correct
from model.scoring.intervals import bootstrap_interval
from model.scoring.labelled import LabelledEmbeddings

# What a person reads first, with what it says. Those with an interval have `_low95` and `_high95` beside them.
HEADLINES: Mapping[str, str] = {
    "knn_accuracy": "the nearest training image has the right label",
    "recall_at_1": "the nearest of the other scored images, or of the gallery of queries, is of the same class",
    "map_at_r": "mean average precision among the R nearest, R images being of the class",
    "roc_auc": "a pair of one class is nearer than a pair of two",
    "eer": "error rate of same-or-different where both kinds of error are equally frequent; low is good",
}

# The group of the classes that nobody learned from.
UNSEEN = "unseen"

# Metrics of which less is better.
LOW_IS_GOOD = frozenset({"loss", "eer", "false_accept_rate", "false_reject_rate"})


def score(
    images: LabelledEmbeddings,
    gallery: LabelledEmbeddings,
    seed: int,
    groups: Mapping[str, Collection[int]] = types.MappingProxyType({}),
) -> dict[str, float]:
    """Measures everything.

    Args:
        images: The images to score.
        gallery: The training images.
        seed: Decides which images calibrate and the draws of the bootstrap and of k-means.
        groups: By name, the labels of classes to score apart; of `UNSEEN` the gallery is scored as well.

    Returns:
        By name, numbers; NaN for what is not defined for these images, such as retrieval where every class has one
        image. Names with `_low95` and `_high95` are the ends of 95 % bootstrap intervals over the images scored.
        "num_queries" and "num_gallery_images" are there only where not every image looks for all others.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> images = LabelledEmbeddings(np.array([[0.0], [1.0], [8.0], [9.0]]), np.array([4, 4, 7, 7]))
        >>> gallery = LabelledEmbeddings(np.array([[0.5], [8.5]]), np.array([4, 7]))
        >>> scores = score(images, gallery, seed=0)
        >>> scores["knn_accuracy"], scores["recall_at_1"], scores["eer"]
        (1.0, 1.0, 0.0)
    """
    of_all = _measure(images, seed)
    scores = _count(images) | _classify(images, gallery, seed) | of_all
    for group, classes in groups.items():
        among, gallery_of_group = images.of_classes(classes), gallery.of_classes(classes)
        part = _classify(among, gallery_of_group, seed)
        if group == UNSEEN and not images.has_roles and len(gallery_of_group):
            among = among.and_those_of(gallery_of_group)
            measured = _measure(among, seed)
        else:
            measured = of_all if len(among) == len(images) else _measure(among, seed)
        scores |= {f"{group}/{name}": value for name, value in (_count(among) | part | measured).items()}
    return scores


def watch(images: LabelledEmbeddings, gallery: LabelledEmbeddings) -> dict[str, float]:
    """Measures what is looked at during training: k-nearest-neighbour accuracy and retrieval.

    Args:
        images: The images to score, at least one. Those that look for others are classified, for the others may be in
            the gallery themselves.
        gallery: What their nearest neighbours are looked for in, at least one.

    Example:
        >>> images = LabelledEmbeddings(np.array([[0.0], [1.0], [8.0], [9.0]]), np.array([4, 4, 7, 7]))
        >>> gallery = LabelledEmbeddings(np.array([[0.5], [8.5]]), np.array([4, 7]))
        >>> watch(images, gallery)["knn_accuracy"]
        1.0
    """
    asked = images.at(images.queries)
    known = asked.of_classes(np.unique(gallery.labels))
    accuracy = float(knn_correct(known, gallery).mean()) if len(known) else np.nan
    left_out = float(len(asked) - len(known))
    return {"knn_accuracy": accuracy, "knn_images_left_out": left_out, **retrieval.measure(images).means()}


def _count(images: LabelledEmbeddings) -> dict[str, float]:
    counts = {"num_images": float(len(images))}
    if images.has_roles:
        counts |= {"num_queries": float(len(images.queries)), "num_gallery_images": float(len(images.gallery))}
    return counts


def _measure(images: LabelledEmbeddings, seed: int) -> dict[str, float]:
    """Measures images among themselves."""
    found = retrieval.measure(images)
    return {
        **found.means(),
        "queries_left_out": float(found.left_out),
        **_interval("recall_at_1", found.recall_at_1, seed),
        **_interval("map_at_r", found.map_at_r, seed),
        **verification.measure(images, seed).scores(),
        **clustering.measure(images, seed),
    }


def _classify(images: LabelledEmbeddings, gallery: LabelledEmbeddings, seed: int) -> dict[str, float]:
    known = images.of_classes(np.unique(gallery.labels))
    sizes = {
        "knn_images": float(len(known)),
        "knn_images_left_out": float(len(images) - len(known)),
        "knn_gallery_images": float(len(gallery)),
    }
    if not len(known):
        names = ["knn_accuracy", "knn_accuracy_low95", "knn_accuracy_high95", "knn_accuracy_k5"]
        return sizes | dict.fromkeys(names, np.nan)
    by_nearest, by_5_nearest = knn_correct(known, gallery, ks=(1, 5)).astype(np.float64)  # (N,), (N,)
    return {
        **sizes,
        "knn_accuracy": float(by_nearest.mean()),
        **_interval("knn_accuracy", by_nearest, seed),
        "knn_accuracy_k5": float(by_5_nearest.mean()),
    }


def _interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = bootstrap_interval(values, seed)
    return {f"{name}_low95": low, f"{name}_high95": high}
