"""Whether the classes are clusters of the embeddings."""

import warnings

import numpy as np

from model.common import draws
from model.scoring.labelled import LabelledEmbeddings

_MAX_CLUSTERED = 10_000


def measure(images: LabelledEmbeddings, seed: int) -> dict[str, float]:
    """Compares the classes with clusters that k-means finds, and measures how far apart they lie.

    Above 10,000 images a sample of 10,000 is measured, as `draws.sample_with_partners` draws it: every class keeps its
    share, but of more than 1,250 classes some are measured by 8 images each.

    Args:
        images: What to measure.
        seed: From 0 to 2^64 - 1, of k-means and of the sample.

    Returns:
        "nmi", in [0, 1], and "ami", at most 1 and 0 by chance: the mutual information, normalized and adjusted, between
        the classes and as many clusters by k-means (the best of 10 starts for up to 10 classes, of fewer for more);
        "silhouette", in [-1, 1]: the mean silhouette of the classes. NaN with one class, where every image is its own
        class, and where all embeddings are equal.

    Raises:
        ValueError: An embedding is not finite.

    References:
        Vinh, Epps, Bailey: Information Theoretic Measures for Clusterings Comparison, 2010.
        Rousseeuw: Silhouettes: a Graphical Aid to the Interpretation and Validation of Cluster Analysis, 1987.

    Example:
        >>> line = LabelledEmbeddings(np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([4, 4, 7, 7]))
        >>> scores = measure(line, seed=0)  # silhouette: 1 - 1 / 10.5 of the outer two, 1 - 1 / 9.5 of the inner two
        >>> {name: round(value, 2) for name, value in scores.items()}
        {'nmi': 1.0, 'ami': 1.0, 'silhouette': 0.9}
    """
    sample = draws.sample_with_partners(images.labels, seed, _MAX_CLUSTERED)
    points, labels = np.asarray(images.embeddings[sample], np.float64), images.labels[sample]
    if not np.isfinite(points).all():
        raise ValueError("Expected finite embeddings. Received: NaN or infinity.")
    num_classes = len(np.unique(labels))
    if not 1 < num_classes < len(labels) or (points == points[0]).all():
        return dict.fromkeys(("nmi", "ami", "silhouette"), float("nan"))
    import sklearn  # takes a second, which no command should wait for that measures nothing
    from sklearn import cluster, exceptions, metrics

    points -= points.mean(axis=0)
    with sklearn.config_context(working_memory=64), warnings.catch_warnings():  # MiB
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # fewer different points than classes
        starts = min(max(100 // num_classes, 1), 10)
        clusters = cluster.KMeans(num_classes, n_init=starts, random_state=seed % 2**32).fit_predict(points)
        return {
            "nmi": float(metrics.normalized_mutual_info_score(labels, clusters)),
            "ami": float(metrics.adjusted_mutual_info_score(labels, clusters)),
            "silhouette": float(metrics.silhouette_score(points, labels)),
        }
