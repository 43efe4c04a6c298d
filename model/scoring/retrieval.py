"""Retrieval: how well each query finds the images of its class in a gallery.

The gallery is ranked by its euclidean distance from the query. Among images equally distant from it those of other
classes come first: ties count against the query. So a network whose embeddings have collapsed is never lucky, and the
order of the images does not matter. Squared distances are compared as float32 without their last bit; closer ones are
ties. A number that the images do not define is NaN.
"""

from dataclasses import dataclass

import numpy as np

from model.scoring.labelled import LabelledEmbeddings
from model.scoring.neighbors import visit_distances


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How well each query finds the images of its class, R of them in the gallery; queries with R = 0 are left out.

    All but the first two are float64 arrays of shape (number of queries with R >= 1,), in [0, 1].

    Attributes:
        queries: int64 array, the indices of these queries, ascending.
        left_out: The number of queries with R = 0.
        recall_at_1: 1 where the nearest image is of the query's class, else 0. The mean of it is also precision@1.
        recall_at_5: 1 where one of the 5 nearest is, else 0.
        recall_at_10: 1 where one of the 10 nearest is, else 0.
        r_precision: The part of the R nearest that is.
        map_at_r: 1/R sum_{i <= R} P(i) rel(i): rel(i) is 1 where the i-th nearest is, else 0, and P(i) the mean of the
            first i of them.
        reciprocal_rank: 1/i for the first i with rel(i) = 1.

    References:
        Musgrave, Belongie, Lim: A Metric Learning Reality Check, 2020, section 3.2 (R-precision and MAP@R).
        Oh Song, Xiang, Jegelka, Savarese: Deep Metric Learning via Lifted Structured Feature Embedding, 2016 (recall).
    """

    queries: np.ndarray
    left_out: int
    recall_at_1: np.ndarray
    recall_at_5: np.ndarray
    recall_at_10: np.ndarray
    r_precision: np.ndarray
    map_at_r: np.ndarray
    reciprocal_rank: np.ndarray

    def means(self) -> dict[str, float]:
        """Returns the means over the queries by name, NaN where there are none.

        "recall_at_1", "recall_at_5", "recall_at_10", "precision_at_1" (another name of recall@1), "r_precision",
        "map_at_r" and "mrr", the mean reciprocal rank.
        """
        values = {
            "recall_at_1": self.recall_at_1,
            "recall_at_5": self.recall_at_5,
            "recall_at_10": self.recall_at_10,
            "precision_at_1": self.recall_at_1,
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
            "mrr": self.reciprocal_rank,
        }
        return {name: float(value.mean()) if len(value) else float("nan") for name, value in values.items()}


def measure(queries: LabelledEmbeddings, gallery: LabelledEmbeddings | None = None) -> Retrieval:
    """Ranks the gallery for each query, as far as the measures need it.

    Args:
        queries: The images that look for others of their class.
        gallery: Where they look, all of them in all of it. None: among the queries themselves, each that is a query in
            those that are the gallery, unless they share a group. An image is never its own neighbour, but its
            duplicate is another image.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> line = LabelledEmbeddings(np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1]))
        >>> measure(line).recall_at_1  # nearest to 3 is 1, which is of the other class
        array([1., 1., 0., 1.])
    """
    asked = queries.queries if gallery is None else np.arange(len(queries))
    found_among = queries.gallery if gallery is None else np.arange(len(gallery))
    gallery, itself = (queries, True) if gallery is None else (gallery, False)
    # By class, so that the images of a query's class stand side by side.
    found_among = found_among[np.argsort(gallery.labels[found_among], kind="stable")]
    classes, begins, sizes = np.unique(gallery.labels[found_among], return_index=True, return_counts=True)
    # A label that the gallery lacks gets the place of another one, or of none behind the last: its query has R = 0.
    query_classes = np.searchsorted(classes, queries.labels)  # (N,)
    is_in_gallery = np.append(classes, 0)[query_classes] == queries.labels  # (N,)
    places = np.full(len(queries), -1)  # of each query in the gallery, if it is there
    if itself:
        places[found_among] = np.arange(len(found_among))
    # R, or more where groups leave images out. Queries with a similar R are ranked together, a chunk sorts as many
    # neighbours as its largest R, and queries of one class, whose relevant images are found together.
    at_most = np.append(sizes, 0)[query_classes] * is_in_gallery - (places >= 0)  # (N,)
    order = asked[at_most[asked] > 0]
    order = order[np.lexsort((query_classes[order], at_most[order]))]
    found, relevant = np.empty((6, len(queries))), np.zeros(len(queries), np.int64)  # R, (N,)

    def visit(chunk: slice, distances: np.ndarray) -> None:
        images = order[chunk]
        of_class = query_classes[images]
        ends = np.append(np.flatnonzero(np.diff(of_class)) + 1, len(images))
        # The bits of floats that are not negative, read as integers, have the order of the floats. The last bit gives
        # way to one that says whether the image is relevant: of equal distances the relevant ones come last. What is no
        # neighbour is infinitely far and not relevant, and so stands behind all that counts.
        keys = distances.view(np.int32)  # (rows, G)
        keys &= ~1
        for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            begin = begins[of_class[start]]
            columns = slice(begin, begin + sizes[of_class[start]])
            is_relevant = distances[start:end, columns] < np.inf
            relevant[images[start:end]] = np.count_nonzero(is_relevant, axis=1)
            keys[start:end, columns] |= is_relevant
        if not (has_answer := relevant[images] > 0).all():
            images, keys = images[has_answer], keys[has_answer]
        if len(images):
            found[:, images] = _measures(keys, relevant[images])

    group = queries.group if itself else None
    visit_distances(
        visit,
        queries.embeddings[order],
        gallery.embeddings[found_among],
        places[order],
        None if group is None else (group[order], group[found_among]),
    )
    kept = np.flatnonzero(relevant)
    return Retrieval(kept, len(asked) - len(kept), *found[:, kept])


def _measures(keys: np.ndarray, relevant: np.ndarray) -> list[np.ndarray]:
    """Returns the six measures of some queries, in the order of the attributes of `Retrieval`.

    Args:
        keys: int32 array of shape (rows, G), ascending with the distance, odd where the image is relevant; reordered.
        relevant: Integer array of shape (rows,), R >= 1.
    """
    rows, count = np.arange(len(keys)), min(max(relevant.max(), 10), keys.shape[1])
    keys.partition(count - 1, axis=1)
    hits = np.sort(keys[:, :count], axis=1) & 1  # (rows, count), rel(i)
    hits_so_far = np.cumsum(hits, axis=1, dtype=np.int32)
    first_hit = hits.argmax(axis=1) + 1
    # Where none of the `count` nearest is relevant, the rank of the first hit is 1 + the number of nearer images.
    for row in np.flatnonzero(hits_so_far[:, -1] == 0):
        nearest = keys[row][keys[row] & 1 == 1].min()
        first_hit[row] = 1 + np.count_nonzero(keys[row] < nearest)
    recalls = [(hits_so_far[:, min(k, count) - 1] > 0).astype(np.float64) for k in (1, 5, 10)]
    r_precision = hits_so_far[rows, relevant - 1] / relevant
    rank = np.arange(1, count + 1)
    hits *= rank <= relevant[:, np.newaxis]
    hits *= hits_so_far
    precision = hits / rank  # P(i) rel(i), (rows, count)
    return [*recalls, r_precision, precision.sum(axis=1) / relevant, 1 / first_hit]
