"""t-SNE: the same for the same seed, with neighbours left together; and what needs no projection."""

import numpy as np
import pytest

from model.projection import project


def clusters(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    return labels, rng.normal(size=(3, 16))[labels] * 10 + rng.normal(size=(90, 16))


def test_neighbors_stay_neighbors():
    labels, embeddings = clusters()
    points = project(embeddings, seed=1)
    assert points.shape == (90, 2) and points.dtype == np.float32
    lengths = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(90, np.inf))
    assert (labels[lengths.argmin(axis=1)] == labels).all()


def test_the_same_seed_gives_the_same_picture():
    _, embeddings = clusters()
    np.testing.assert_array_equal(project(embeddings, seed=1), project(embeddings, seed=1))


def test_a_projection_goes_on_from_another_one():
    """A little later the points are where they were, but for a little."""
    _, embeddings = clusters()
    first = project(embeddings, seed=1)
    later = embeddings + 0.01 * np.random.default_rng(5).normal(size=embeddings.shape)
    second = project(later, 1, first)
    size = np.linalg.norm(first - first.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(second - first, axis=1).max() < 0.5 * size


@pytest.mark.parametrize("size", [1, 2])
def test_what_lies_on_a_plane_is_left_alone(size):
    embeddings = np.random.default_rng(0).normal(size=(50, size)).astype(np.float32)
    points = project(embeddings, 0)
    np.testing.assert_array_equal(points[:, :size], embeddings)
    assert points.shape == (50, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_a_few_images(count):
    points = project(np.random.default_rng(0).normal(size=(count, 8)), 0)
    assert points.shape == (count, 2) and np.isfinite(points).all()


def test_images_that_all_lie_in_one_place():
    assert np.isfinite(project(np.ones((40, 8)), 0)).all()
