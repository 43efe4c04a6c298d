"""Embeddings and labels that belong together."""

import numpy as np
import pytest

from model.scoring.labelled import LabelledEmbeddings


@pytest.mark.parametrize(
    ("embeddings", "labels"),
    [((5, 2), (4,)), ((4,), (4,)), ((4, 2), (4, 1)), ((0, 2), (1,)), ((2, 2, 2), (2,)), ((), ())],
)
def test_shapes_that_do_not_belong_together(embeddings, labels):
    with pytest.raises(ValueError, match=r"^Expected embeddings of shape \(N, D\) and labels of shape \(N,\)\. ") as e:
        LabelledEmbeddings(np.zeros(embeddings), np.zeros(labels, int))
    assert str(e.value).endswith(f"Received: {embeddings} and {labels}.")


def test_of_some_classes():
    points = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    images = LabelledEmbeddings(points, np.array([7, -2, 7, 3]))
    assert len(images) == 4
    chosen = images.of_classes({3, 7})
    assert chosen.labels.tolist() == [7, 7, 3]
    assert chosen.embeddings.tolist() == [[0, 1], [4, 5], [6, 7]]
    for classes in ((), (99,)):
        nothing = images.of_classes(classes)
        assert len(nothing) == 0 and nothing.embeddings.shape == (0, 2)
