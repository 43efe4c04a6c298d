"""What is measured of embeddings, among which images, and under which name.

Test images are scored in two ways: against the training images (k-nearest-neighbour classification, `knn_accuracy`),
and among themselves (retrieval, verification of pairs, clustering). All of it is done over all classes; where some were
held out, once more with a prefix over the `seen/` ones, which were learned from, and over the `unseen/` ones, each
group with a gallery of its own classes. Classes that only validated are in neither group.
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
    "recall_at_1": "the nearest of the other scored images is of the same class",
    "map_at_r": "mean average precision among the R nearest, R images being of the class",
    "roc_auc": "a pair of one class is nearer than a pair of two",
    "eer": "error rate of same-or-different where both kinds of error are equally frequent; low is good",
}

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
        groups: By name, the labels of classes to score apart.

    Returns:
        By name, numbers; NaN for what is not defined for these images, such as retrieval where every class has one
        image. Names with `_low95` and `_high95` are the ends of 95 % bootstrap intervals over the images scored.

    Raises:
        ValueError: An embedding is not finite.
    """
    scores = _score(images, gallery, seed)
    for group, classes in groups.items():
        part = _score(images.of_classes(classes), gallery.of_classes(classes), seed)
        scores |= {f"{group}/{name}": value for name, value in part.items()}
    return scores


def watch(images: LabelledEmbeddings, gallery: LabelledEmbeddings) -> dict[str, float]:
    """Measures what is looked at during training: k-nearest-neighbour accuracy and retrieval, as `score` does.

    Args:
        images: The images to score, at least one.
        gallery: What their nearest neighbours are looked for in, at least one.
    """
    return {"knn_accuracy": float(knn_correct(images, gallery).mean()), **retrieval.measure(images).means()}


def _score(images: LabelledEmbeddings, gallery: LabelledEmbeddings, seed: int) -> dict[str, float]:
    found = retrieval.measure(images)
    return {
        "num_images": float(len(images)),
        **_classify(images, gallery, seed),
        **found.means(),
        "queries_left_out": float(found.left_out),
        **_interval("recall_at_1", found.recall_at_1, seed),
        **_interval("map_at_r", found.map_at_r, seed),
        **verification.measure(images, seed).scores(),
        **clustering.measure(images, seed),
    }


def _classify(images: LabelledEmbeddings, gallery: LabelledEmbeddings, seed: int) -> dict[str, float]:
    if not len(images) or not len(gallery):
        return dict.fromkeys(["knn_accuracy", "knn_accuracy_low95", "knn_accuracy_high95", "knn_accuracy_k5"], np.nan)
    by_nearest, by_5_nearest = knn_correct(images, gallery, ks=(1, 5)).astype(np.float64)  # (N,), (N,)
    return {
        "knn_accuracy": float(by_nearest.mean()),
        **_interval("knn_accuracy", by_nearest, seed),
        "knn_accuracy_k5": float(by_5_nearest.mean()),
    }


def _interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = bootstrap_interval(values, seed)
    return {f"{name}_low95": low, f"{name}_high95": high}
