"""Distances to a gallery, and what is nearest there.

Squared distances come from one matrix product in float32 for some queries at a time, so that memory does not grow with
the number of pairs. Several threads work at the same time, because NumPy releases the interpreter lock while it
multiplies, sorts and searches. Each of them multiplies alone: a matrix product with threads of its own would only be in
the way of the others. Rounding errors are some 1e-7 of the largest squared distance. Of gallery rows equally near the
first one counts as nearer.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

# Distances are computed for this many pairs at a time (64 MiB of float32), all threads together. Not for fewer: with
# few rows at a time, a matrix product spends most of its time on rearranging the gallery in memory.
_PAIRS_AT_A_TIME = 2**24
_THREADS = min(os.cpu_count() or 1, 16)
_BLOCK = 256  # of a row, whose lowest number is remembered where several are looked for

# Of queries, (Q,), and of gallery rows, (G,), integers: what is of the same group, a number from 0, is no neighbour.
Groups = tuple[np.ndarray, np.ndarray]

# Takes a slice of the queries and their squared distances to the gallery, which it may overwrite.
Visit = Callable[[slice, np.ndarray], None]


def visit_distances(
    visit: Visit,
    queries: np.ndarray,
    gallery: np.ndarray,
    ignore: np.ndarray | None = None,
    groups: Groups | None = None,
    dtype: Any = np.float32,
    unit: float | None = None,
) -> float:
    """Computes all squared distances and shows them chunk by chunk, from several threads at the same time.

    Args:
        visit: Called with a slice of the queries and an array of shape (len of the slice, G) and of type `dtype`: the
            squared euclidean distances, at least 0. It is the visitor's to overwrite.
        queries: Array of shape (Q, D), of any floating type.
        gallery: Array of shape (G, D).
        ignore: Integer array of shape (Q,): for each query the one gallery row that is not a neighbour, because it is
            the query itself; -1 where none is. The distance to it is inf.
        groups: Those of the queries and of the gallery rows. Where they are the same, the distance is inf.
        dtype: float32 or float64.
        unit: What an earlier call returned that saw the same rows, whichever of them were its gallery; None chooses it.

    Returns:
        The unit that distances are measured in, a power of two; squared ones are in its square. No row is farther than
        one unit from the mean of the gallery, so that nothing overflows, and no two rows are 2 units apart or more.

    Raises:
        ValueError: An embedding is not finite, or the shapes do not belong together.

    Example:
        >>> nearest = np.empty(2)
        >>> def visit(chunk, squared_distances):
        ...     nearest[chunk] = squared_distances.min(axis=1)
        >>> unit = visit_distances(visit, np.array([[0.0], [5.0]]), gallery=np.array([[1.0], [3.0]]))
        >>> (np.sqrt(nearest) * unit).tolist()
        [1.0, 2.0]
    """
    queries, gallery, unit = _standardize(queries, gallery, unit)
    queries, gallery = queries.astype(dtype), gallery.astype(dtype)
    # ||q - g||^2 = (-2 q, ||q||^2, 1) . (g, 1, ||g||^2)
    left = np.column_stack([-2 * queries, _square_norms(queries), np.ones(len(queries))]).astype(dtype)
    right = np.column_stack([gallery, np.ones(len(gallery)), _square_norms(gallery)]).astype(dtype)
    rows = max(1, _PAIRS_AT_A_TIME // _THREADS // max(len(gallery), 1))

    spare = [np.empty((min(rows, len(queries)), len(gallery)), dtype) for _ in range(_THREADS)]

    def visit_chunk(start: int) -> None:
        chunk = slice(start, min(start + rows, len(queries)))
        memory = spare.pop()
        distances = np.matmul(left[chunk], right.T, out=memory[: chunk.stop - start])  # (rows, G)
        # Rounding may leave numbers below 0, and -0. Read as integers, the bits of all of these are negative, and those
        # of positive floats are not: the maximum with 0 makes them +0, which is all zero bits.
        bits = distances.view(f"i{distances.itemsize}")
        np.maximum(bits, 0, out=bits)
        if ignore is not None:
            is_there = np.flatnonzero(ignore[chunk] >= 0)
            distances[is_there, ignore[chunk][is_there]] = np.inf
        if groups is not None:
            of_queries, of_gallery = groups
            in_a_group = of_queries[chunk, np.newaxis] >= 0  # (rows, 1)
            np.copyto(distances, np.inf, where=in_a_group & (of_queries[chunk, np.newaxis] == of_gallery))
        visit(chunk, distances)
        spare.append(memory)

    starts = range(0, len(queries) if len(gallery) else 0, rows)
    alone = _matrix_products().limit(limits=1, user_api="blas") if len(starts) > 1 else contextlib.nullcontext()
    with alone, ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(visit_chunk, starts):
            pass
    return unit


@functools.cache
def _matrix_products() -> ThreadpoolController:
    """Returns what says how many threads NumPy's matrix products take."""
    return ThreadpoolController()


def _standardize(queries: np.ndarray, gallery: np.ndarray, unit: float | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Moves and scales both in the same way, to small numbers around 0, which lose the least by rounding.

    Returns:
        The queries, the gallery, and the factor by which distances have become smaller, a power of two.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"Expected embeddings of shape (N, D). Received: {queries.shape} and {gallery.shape}.")
    if not len(gallery):
        return queries, gallery, 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        # Where all rows are equal, subtracting the first one makes them exactly 0; subtracting the mean may not.
        first = np.asarray(gallery[0], np.float64)
        queries, gallery = (np.asarray(rows, np.float64) - first for rows in (queries, gallery))
        center = gallery.mean(axis=0)
        radius = np.sqrt(np.max([_square_norms(rows - center).max(initial=0.0) for rows in (queries, gallery)]))
    if not np.isfinite(radius):
        raise ValueError("Expected finite embeddings. Received: NaN, infinity, or values that overflow when squared.")
    unit = unit or 2.0 ** np.frexp(radius)[1]
    # The center is rounded to eighths of the unit. So whole numbers keep few binary digits when it is subtracted, their
    # distances are exact, and equal distances are ties.
    center = np.round(center / unit * 8) / 8
    return queries / unit - center, gallery / unit - center, unit


def _square_norms(rows: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", rows, rows, dtype=np.float64)


def k_nearest(queries: np.ndarray, gallery: np.ndarray, k: int, ignore: np.ndarray | None = None) -> np.ndarray:
    """Finds the k nearest gallery rows of each query, one after the other: meant for small k.

    Args:
        queries: Array of shape (Q, D).
        gallery: Array of shape (G, D).
        k: From 1 to G; with `ignore`, to G - 1.
        ignore: As for `visit_distances`.

    Returns:
        int64 array of shape (Q, k), indices into the gallery, nearest first; of those equally near the first one first.

    Raises:
        ValueError: The gallery has fewer than k rows, or an embedding is not finite.

    Example:
        >>> line = np.array([[0.0], [1.0], [3.0]])
        >>> k_nearest(line, line, k=1, ignore=np.arange(3)).tolist()  # none is its own neighbour
        [[1], [0], [1]]
    """
    _check_k(k, len(gallery) - (ignore is not None))
    nearest = np.empty((len(queries), k), np.int64)

    def visit(chunk: slice, distances: np.ndarray) -> None:
        nearest[chunk] = _k_lowest(distances, k)

    visit_distances(visit, queries, gallery, ignore)
    return nearest


def _k_lowest(distances: np.ndarray, k: int) -> np.ndarray:
    """Returns where the k lowest numbers of each row are, (rows, k), the lowest first; of equal ones the first first.

    Args:
        distances: Array of shape (rows, G), which is overwritten.
        k: From 1 to G.
    """
    if k == 1:
        return distances.argmin(axis=1)[:, np.newaxis]
    rows, size = np.arange(len(distances)), distances.shape[1]
    found = np.empty((len(distances), k), np.int64)
    lowest = np.minimum.reduceat(distances, np.arange(0, size, _BLOCK), axis=1)  # (rows, blocks)
    for place in range(k):
        block = lowest.argmin(axis=1)
        columns = block[:, np.newaxis] * _BLOCK + np.arange(_BLOCK)  # (rows, block)
        np.minimum(columns, size - 1, out=columns)  # the last block may be shorter
        of_block = distances[rows[:, np.newaxis], columns]
        found[:, place] = columns[rows, of_block.argmin(axis=1)]
        distances[rows, found[:, place]] = np.inf
        lowest[rows, block] = distances[rows[:, np.newaxis], columns].min(axis=1)
    return found


def _check_k(k: int, rows: int) -> None:
    if not 1 <= k <= rows:
        raise ValueError(f"Expected k from 1 to the {rows} gallery rows that may be neighbours. Received: {k}.")


@dataclass(frozen=True)
class ClassNeighbors:
    """The nearest gallery rows of each query; -1 and inf where there is none of that kind.

    Attributes:
        nearest: int64 array of shape (Q,), the nearest of all, an index into the gallery.
        same: int64 array of shape (Q,), the nearest of the query's own class.
        other: int64 array of shape (Q,), the nearest of another class.
        same_distance: float32 array of shape (Q,), euclidean.
        other_distance: float32 array of shape (Q,).
    """

    nearest: np.ndarray
    same: np.ndarray
    other: np.ndarray
    same_distance: np.ndarray
    other_distance: np.ndarray


def class_neighbors(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    ignore: np.ndarray | None = None,
    groups: Groups | None = None,
) -> ClassNeighbors:
    """Finds for each query its nearest gallery row of the same class, and that of another class.

    Args:
        queries: Array of shape (Q, D).
        query_labels: Integer array of shape (Q,).
        gallery: Array of shape (G, D), G >= 1.
        gallery_labels: Integer array of shape (G,).
        ignore: As for `visit_distances`.
        groups: As for `visit_distances`.

    Raises:
        ValueError: The gallery is empty, or an embedding is not finite.

    Example:
        >>> line, labels = np.array([[0.0], [3.0], [7.0]]), np.array([4, 5, 5])
        >>> found = class_neighbors(np.array([[1.0]]), np.array([5]), line, labels)
        >>> found.nearest.tolist(), found.same.tolist(), found.same_distance.tolist(), found.other_distance.tolist()
        ([0], [1], [2.0], [1.0])
    """
    _check_k(1, len(gallery))
    by_class = np.argsort(gallery_labels, kind="stable")
    classes, begins = np.unique(gallery_labels[by_class], return_index=True)
    # The gallery rows of each class, ascending.
    rows_of = dict(zip(classes.tolist(), np.split(by_class, begins[1:]), strict=True))
    order = np.argsort(query_labels, kind="stable")  # so that queries of one class stand side by side
    sorted_labels = query_labels[order]
    nearest = np.empty(len(queries), np.int64)
    found = np.empty((2, len(queries)), np.int64)  # of the query's class, of another one

    def visit(chunk: slice, distances: np.ndarray) -> None:
        queries_of_chunk, labels = order[chunk], sorted_labels[chunk]
        same, length = np.full(len(labels), -1), np.full(len(labels), np.inf)
        ends = np.append(np.flatnonzero(np.diff(labels)) + 1, len(labels))
        for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            columns = rows_of.get(int(labels[start]))
            if columns is not None:
                of_class = distances[start:end].take(columns, axis=1)
                first = of_class.argmin(axis=1)
                same[start:end], length[start:end] = columns[first], of_class[np.arange(end - start), first]
                distances[start:end, columns] = np.inf  # only other classes are left
        other = distances.argmin(axis=1)
        length_of_other = distances[np.arange(len(other)), other]
        # An infinite distance is that of no neighbour.
        same[np.isinf(length)] = other[np.isinf(length_of_other)] = -1
        is_same = (length < length_of_other) | ((length == length_of_other) & (same < other))
        nearest[queries_of_chunk] = np.where(is_same, same, other)
        found[:, queries_of_chunk] = same, other

    visit_distances(
        visit,
        queries[order],
        gallery,
        None if ignore is None else ignore[order],
        None if groups is None else (groups[0][order], groups[1]),
    )
    # The search compares rounded distances; the differences of the rows that it found give exact ones.
    length = np.linalg.norm(np.subtract(queries, gallery[found], dtype=np.float64), axis=2)  # (2, Q)
    same_distance, other_distance = np.where(found >= 0, length, np.inf).astype(np.float32)
    same, other = found
    return ClassNeighbors(nearest, same, other, same_distance, other_distance)
