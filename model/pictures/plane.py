"""Embeddings of any dimension on a plane: by t-SNE, or faster by PCA.

References:
    van der Maaten, Hinton: Visualizing Data using t-SNE, 2008.
    Policar, Strazar, Zupan: openTSNE, 2019.
"""

import os

import numpy as np
import tqdm

_PERPLEXITY = 25
_ITERATIONS_PER_UPDATE = 10

# From so many points on, interpolation is faster than Barnes-Hut.
_MANY = 10_000

# Up to so many, all distances are faster than a search by trees, and find the neighbours that there are.
_FEW = 30_000


def pca(embeddings: np.ndarray) -> np.ndarray:
    """Projects embeddings (N, D) onto their first two principal components, (N, 2) float32."""
    centered = embeddings - embeddings.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    return np.pad(centered @ axes[:2].T, [(0, 0), (0, max(0, 2 - len(axes)))]).astype(np.float32)


def tsne(embeddings: np.ndarray, seed: int, start: np.ndarray | None = None) -> np.ndarray:
    """Projects embeddings onto a plane so that neighbours stay neighbours.

    Args:
        embeddings: Array of shape (N, D).
        seed: Decides what is drawn at random: the same embeddings have the same projection.
        start: (N, 2), where to begin, so that the picture is a change of another one; PCA otherwise.

    Returns:
        float32 array of shape (N, 2); the first two principal components of at most 4 images, and of images that all
        lie in one place.
    """
    count = len(embeddings)
    if count <= 4 or not np.ptp(embeddings, axis=0).any():
        return pca(embeddings)
    import openTSNE  # takes a second, which nobody should wait for who wants no t-SNE

    affinities = openTSNE.affinity.PerplexityBasedNN(
        np.ascontiguousarray(embeddings, np.float64),
        perplexity=min(_PERPLEXITY, (count - 1) / 3),
        method="exact" if count <= _FEW else "approx",
        n_jobs=os.cpu_count() or 1,
        random_state=seed,
    )
    # As many again would take twice as long, since the plane grows, and keep 1 to 2 % more of the neighbours.
    phases = [{"n_iter": 250, "momentum": 0.8}]
    if start is None:
        start = openTSNE.initialization.pca(embeddings, random_state=seed)
        phases.insert(0, {"n_iter": 250, "momentum": 0.5, "exaggeration": 12})
    with tqdm.tqdm(total=sum(phase["n_iter"] for phase in phases), desc="t-SNE", disable=None, leave=False) as bar:
        points = openTSNE.TSNEEmbedding(
            np.array(start, np.float64),
            affinities,
            negative_gradient_method="fft" if count >= _MANY else "bh",
            n_jobs=os.cpu_count() or 1,
            random_state=seed,
            callbacks=lambda *_: bar.update(_ITERATIONS_PER_UPDATE),
            callbacks_every_iters=_ITERATIONS_PER_UPDATE,
        )
        for phase in phases:
            points.optimize(**phase, inplace=True)
    return np.asarray(points, np.float32)
