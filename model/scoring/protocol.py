"""What is measured of embeddings, among which images, and under which name.

Test images are scored in two ways: against the training images (k-nearest-neighbour classification, `knn_accuracy`),
and among themselves (retrieval, verification of pairs, clustering). All of it is done over all classes; where some were
held out, once more with a prefix over the `seen/` ones, which were learned from, and over the `unseen/` ones, each
group with a gallery of its own classes. Classes that only validated are in neither group.
"""

import types
from collections.abc import Collection, Mapping

import numpy as np

from model.scoring import metrics
from model.scoring.neighbors import k_nearest

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
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    seed: int,
    groups: Mapping[str, Collection[int]] = types.MappingProxyType({}),
) -> dict[str, float]:
    """Measures everything.

    Args:
        embeddings: Array of shape (N, D), of the images to score.
        labels: Integer array of shape (N,).
        gallery: Array of shape (G, D), of the training images.
        gallery_labels: Integer array of shape (G,).
        seed: Decides which images calibrate and the draws of the bootstrap and of k-means.
        groups: By name, the labels of classes to score apart.

    Returns:
        By name, numbers; NaN for what is not defined for these images, such as retrieval where every class has one
        image. Names with `_low95` and `_high95` are the ends of 95 % bootstrap intervals over the images scored.
    """
    scores = _score(embeddings, labels, gallery, gallery_labels, seed)
    for group, classes in groups.items():
        rows, gallery_rows = (np.isin(some, list(classes)) for some in (labels, gallery_labels))
        part = _score(embeddings[rows], labels[rows], gallery[gallery_rows], gallery_labels[gallery_rows], seed)
        scores |= {f"{group}/{name}": value for name, value in part.items()}
    return scores


def watch(
    embeddings: np.ndarray, labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray
) -> dict[str, float]:
    """Measures what is looked at during training: k-nearest-neighbour accuracy and retrieval, as `score` does.

    Args:
        embeddings: As for `score`, like the others.
        labels: Of these.
        gallery: What they are looked for in.
        gallery_labels: Of these.
    """
    accuracy = metrics.knn_accuracy(embeddings, labels, gallery, gallery_labels)
    return {"knn_accuracy": accuracy, **metrics.retrieval_among(embeddings, labels).means()}


def _score(
    embeddings: np.ndarray, labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, seed: int
) -> dict[str, float]:
    retrieval = metrics.retrieval_among(embeddings, labels)
    scores = {"num_images": float(len(labels)), **_classify(embeddings, labels, gallery, gallery_labels, seed)}
    scores |= retrieval.means() | {"queries_left_out": float(retrieval.left_out)}
    scores |= _interval("recall_at_1", retrieval.recall_at_1, seed) | _interval("map_at_r", retrieval.map_at_r, seed)
    scores |= metrics.verification(embeddings, labels, seed)
    return scores | metrics.clustering(embeddings, labels, seed)


def _classify(
    embeddings: np.ndarray, labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray, seed: int
) -> dict[str, float]:
    if not len(labels) or not len(gallery):
        return dict.fromkeys(["knn_accuracy", "knn_accuracy_low95", "knn_accuracy_high95", "knn_accuracy_k5"], np.nan)
    nearest = gallery_labels[k_nearest(embeddings, gallery, min(5, len(gallery)))]  # (N, 5)
    right = (nearest[:, 0] == labels).astype(np.float64)
    return {
        "knn_accuracy": float(right.mean()),
        **_interval("knn_accuracy", right, seed),
        "knn_accuracy_k5": float(np.mean(metrics.majority_vote(nearest) == labels)),
    }


def _interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = metrics.bootstrap_interval(values, seed)
    return {f"{name}_low95": low, f"{name}_high95": high}
