"""Classification by neighbours against scikit-learn, and votes by hand."""

import ml_dtypes
import numpy as np
import pytest
import sklearn.neighbors

from model.scoring.classification import knn_correct, majority_vote
from model.scoring.labelled import LabelledEmbeddings
from model.tests.scoring.points import labelled, some


def halves(dtype=np.float32):
    points, labels = some().embeddings.astype(dtype), some().labels % 2  # two classes: an odd k has no tied votes
    return labelled(points[:25], labels[:25]), labelled(points[25:], labels[25:])


def test_knn_is_that_of_scikit_learn():
    images, gallery = halves()
    found = knn_correct(images, gallery, (1, 5, 35))
    assert found.shape == (3, 25) and found.dtype == bool
    for row, k in zip(found, (1, 5, 35), strict=True):
        peer = sklearn.neighbors.KNeighborsClassifier(k).fit(gallery.embeddings, gallery.labels)
        np.testing.assert_array_equal(row, peer.predict(images.embeddings) == images.labels)
        assert 0 < row.mean() < 1
    np.testing.assert_array_equal(knn_correct(images, gallery), found[:1])
    np.testing.assert_array_equal(knn_correct(images, gallery, (100, 5)), found[[2, 1]])  # all 35 vote


def test_majority_vote():
    votes = np.array([[3, 5, 5, 9], [3, 5, 9, 5], [9, 3, 3, 9], [4, 3, 2, 1], [-7, 8, 8, -7]])
    assert majority_vote(votes).tolist() == [5, 5, 9, 4, -7]
    assert majority_vote(votes[:, :1]).tolist() == [3, 3, 9, 4, -7]


def test_equally_near_images_vote_in_their_order():
    """The votes are 4; 4, 2, 2; 4, 2, 2, 4: the winner is 4, 2, and 4, which is nearer."""
    gallery = labelled([[1.0], [-1.0], [1.0], [-1.0]], [4, 2, 2, 4])
    found = knn_correct(labelled([[0.0], [0.0]], [4, 2]), gallery, (1, 3, 100))
    assert found.tolist() == [[True, False], [False, True], [True, False]]


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
def test_other_types_of_numbers(dtype):
    images, gallery = (
        LabelledEmbeddings(np.round(part.embeddings * 4).astype(dtype), part.labels.astype(np.int16))
        for part in halves()
    )
    plain = (labelled(part.embeddings.astype(np.float32), part.labels) for part in (images, gallery))
    np.testing.assert_array_equal(knn_correct(images, gallery, (1, 3)), knn_correct(*plain, (1, 3)))


def test_nothing_to_ask_and_nothing_to_search():
    nothing, gallery = labelled(np.zeros((0, 2)), []), labelled(np.ones((3, 2)), [0, 0, 0])
    assert knn_correct(nothing, gallery, (1, 5)).shape == (2, 0)
    with pytest.raises(ValueError, match="Expected k from 1 to the 0 gallery rows"):
        knn_correct(gallery, nothing)
    with pytest.raises(ValueError, match=r"^Expected finite embeddings\. Received: .*\.$"):
        knn_correct(gallery, labelled([[0.0, np.nan]], [0]))
