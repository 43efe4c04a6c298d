"""The slow, obvious versions: plain loops in float64 that share no code with what they check."""

import math

import numpy as np


def distance(a, b, squared=False):
    """Euclidean distance of two vectors."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += (float(x) - float(y)) ** 2
    return total if squared else math.sqrt(total)


def pairwise_distances(embeddings, squared=False):
    """All distances, one at a time."""
    size = len(embeddings)
    result = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            result[i, j] = distance(embeddings[i], embeddings[j], squared)
    return result


def triplets(labels):
    """Every valid (anchor, positive, negative)."""
    size = len(labels)
    for a in range(size):
        for p in range(size):
            for n in range(size):
                if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
                    yield a, p, n


def batch_all(labels, embeddings, margin, squared=False):
    """Mean loss over the triplets with positive loss, and their fraction of the valid ones."""
    d = pairwise_distances(embeddings, squared)
    losses = [max(d[a, p] - d[a, n] + margin, 0.0) for a, p, n in triplets(labels)]
    positive = [loss for loss in losses if loss > 0]
    loss = sum(positive) / len(positive) if positive else 0.0
    return loss, (len(positive) / len(losses) if losses else 0.0)


def batch_hard(labels, embeddings, margin, squared=False):
    """Mean loss of farthest positive and nearest negative, over the anchors that have both."""
    d = pairwise_distances(embeddings, squared)
    losses = []
    for a in range(len(labels)):
        positives = [d[a, i] for i in range(len(labels)) if labels[i] == labels[a] and i != a]
        negatives = [d[a, i] for i in range(len(labels)) if labels[i] != labels[a]]
        if positives and negatives:
            losses.append(max(max(positives) - min(negatives) + margin, 0.0))
    return sum(losses) / len(losses) if losses else 0.0


def nearest(query, gallery, ignore=None):
    """Index of the nearest gallery row, the first of those equally near."""
    best, best_distance = None, math.inf
    for index, row in enumerate(gallery):
        d = distance(query, row)
        if index != ignore and d < best_distance:
            best, best_distance = index, d
    return best
