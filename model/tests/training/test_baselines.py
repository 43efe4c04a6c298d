"""Baselines: the same protocol on embeddings that the tests make by themselves."""

import numpy as np
import pytest

from model.data.input_fn import EvalInput
from model.scoring import protocol
from model.scoring.labelled import LabelledEmbeddings
from model.tests.training.learners import bits_of, embed, images, linear_learner
from model.training.baselines import score_baselines

pytestmark = pytest.mark.slow

LABELS = np.arange(40, dtype=np.int32) % 4
GALLERY_LABELS = np.arange(60, dtype=np.int32) % 4
LEARNED_FROM = images(50, seed=3)


def pictures(labels, seed):
    """Images of which one pixel tells the class, not too clearly."""
    found = images(len(labels), seed).astype(np.float64)
    found.reshape(len(labels), -1)[np.arange(len(labels)), labels] += 160
    return (found * 255 / found.max()).astype(np.uint8)


DATA = EvalInput(pictures(LABELS, 1), LABELS, pictures(GALLERY_LABELS, 2), GALLERY_LABELS, [np.arange(40)], {}, 5)


def score(embed):
    """The protocol on what a function makes of images."""
    points = [np.asarray(embed(some), np.float32) for some in (DATA.images, DATA.gallery_images)]
    return protocol.score(LabelledEmbeddings(points[0], LABELS), LabelledEmbeddings(points[1], GALLERY_LABELS), 5)


def principal_components(count):
    """A function from images to their components, by the singular vectors of what they are learned from."""
    rows = LEARNED_FROM.reshape(50, -1) / 255
    mean = rows.mean(axis=0)
    directions = np.linalg.svd(rows - mean)[2][:count]
    return lambda some: (some.reshape(len(some), -1) / 255 - mean) @ directions.T


@pytest.fixture(scope="module")
def scored():
    learner = linear_learner()
    before = bits_of(learner.network.variables)
    scores = score_baselines(DATA, LEARNED_FROM, learner.params, learner.network)
    assert bits_of(learner.network.variables) == before
    return learner, scores


def test_raw_pixels(scored):
    expected = score(lambda some: [[pixel / 255 for pixel in image.ravel().tolist()] for image in some])
    assert scored[1]["raw_pixels"] == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert 0.3 < expected["knn_accuracy"] < 1


def test_principal_components_are_those_of_what_is_learned_from(scored):
    """As many as the embedding has dimensions; a mirrored axis changes no distance."""
    expected = score(principal_components(3))
    assert scored[1]["pca"] == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_the_network_before_training(scored):
    learner, scores = scored
    assert scores.keys() == {"raw_pixels", "pca", "untrained"}
    expected = score(lambda some: embed(learner, some))
    assert scores["untrained"] == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_a_network_that_nobody_has_any_more_is_left_out(scored):
    assert score_baselines(DATA, LEARNED_FROM, scored[0].params, None).keys() == {"raw_pixels", "pca"}


@pytest.mark.parametrize(("embedding_size", "num_images", "components"), [(64, 50, 6), (64, 3, 3), (2, 50, 2)])
def test_there_are_no_more_components_than_there_can_be(monkeypatch, embedding_size, num_images, components):
    learner, shapes = linear_learner(), []
    monkeypatch.setattr(
        "model.training.baselines.score_embeddings",
        lambda data, embeddings, gallery: shapes.append((embeddings.shape, gallery.shape)),
    )
    params = learner.params.model_copy(update={"embedding_size": embedding_size})
    score_baselines(DATA, LEARNED_FROM[:num_images], params, learner.network)
    assert shapes == [((40, size), (60, size)) for size in (6, components, 3)]
