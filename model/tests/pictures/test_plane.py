"""t-SNE: the same for the same seed, with neighbours left together; and what needs no projection."""

import numpy as np
import pytest
import sklearn.decomposition

from model.pictures.plane import pca, tsne


def clusters(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    return labels, rng.normal(size=(3, 16))[labels] * 10 + rng.normal(size=(90, 16))


def test_neighbors_stay_neighbors():
    labels, embeddings = clusters()
    points = tsne(embeddings, seed=1)
    assert points.shape == (90, 2) and points.dtype == np.float32
    lengths = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(90, np.inf))
    assert (labels[lengths.argmin(axis=1)] == labels).all()


def test_the_same_seed_gives_the_same_picture():
    _, embeddings = clusters()
    np.testing.assert_array_equal(tsne(embeddings, seed=1), tsne(embeddings, seed=1))


def test_a_projection_goes_on_from_another_one():
    """A little later the points are where they were, but for a little."""
    _, embeddings = clusters()
    first = tsne(embeddings, seed=1)
    later = embeddings + 0.01 * np.random.default_rng(5).normal(size=embeddings.shape)
    second = tsne(later, 1, first)
    size = np.linalg.norm(first - first.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(second - first, axis=1).max() < 0.5 * size


def test_principal_components():
    """Those of scikit-learn, up to signs."""
    embeddings = np.random.default_rng(0).normal(size=(50, 7)) * np.arange(1, 8)
    expected = sklearn.decomposition.PCA(2).fit_transform(embeddings)
    np.testing.assert_allclose(np.abs(pca(embeddings)), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_a_few_images(count):
    points = tsne(np.random.default_rng(0).normal(size=(count, 8)), 0)
    assert points.shape == (count, 2) and np.isfinite(points).all()


def test_images_that_all_lie_in_one_place():
    assert np.isfinite(tsne(np.ones((40, 8)), 0)).all()
