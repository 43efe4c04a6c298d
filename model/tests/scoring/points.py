"""Small sets of labelled embeddings, and the pairs in them."""

import numpy as np
from hypothesis import strategies as st

from model.scoring.labelled import LabelledEmbeddings
from model.tests import oracles

# Rows of two coordinates and a label: whole numbers, whose distances are exact, so that there are ties and duplicates.
whole_numbers = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 2)), min_size=1, max_size=25)


def labelled(embeddings, labels):
    return LabelledEmbeddings(np.asarray(embeddings), np.asarray(labels, np.int64))


def some():
    """60 random points in five dimensions, of four classes that say nothing about where they are."""
    rng = np.random.default_rng(3)
    return labelled(rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 4, 60))


def clusters(num_images, spread, seed=0, num_classes=5, size=4):
    """Images around the centers of their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    centers = np.random.default_rng(99).normal(size=(num_classes, size))
    return labelled(centers[labels] + spread * rng.normal(size=(num_images, size)), labels)


def pairs(images):
    """Distances of all pairs, and whether they are the same."""
    points, labels = images.embeddings, images.labels
    both = [(i, j) for i in range(len(labels)) for j in range(i)]
    lengths = np.array([oracles.distance(points[i], points[j]) for i, j in both])
    return lengths, np.array([labels[i] == labels[j] for i, j in both])
