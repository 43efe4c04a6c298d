"""The slow, obvious versions: plain loops in float64 that share no code with what they check."""

import math

import numpy as np


def drawn(seed, first, second, third, size):
    """Random integers as NumPy gives them for these counters, by which the project's draws are told apart."""
    counter = np.array([0, first, second, third], np.uint64)
    return np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter).random_raw(size)


def distance(a, b, name="euclidean"):
    """Distance of two vectors."""
    a, b = [float(x) for x in a], [float(y) for y in b]
    if name == "cosine":
        product, square_a, square_b = (
            sum(x * y for x, y in zip(u, v, strict=True)) for u, v in ((a, b), (a, a), (b, b))
        )
        return 1 - product / math.sqrt(square_a * square_b) if square_a and square_b else 1.0
    total = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return total if name == "squared_euclidean" else math.sqrt(total)


def pairwise_distances(embeddings, name="euclidean"):
    """All distances, one at a time."""
    size = len(embeddings)
    result = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            result[i, j] = distance(embeddings[i], embeddings[j], name) if i != j else 0.0
    return result


def triplets(labels):
    """Every valid (anchor, positive, negative)."""
    size = len(labels)
    for a in range(size):
        for p in range(size):
            for n in range(size):
                if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
                    yield a, p, n


def hinge(x, margin):
    """max(x + margin, 0), or softplus(x) for margin "soft"."""
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0) if margin == "soft" else max(x + margin, 0.0)


def average(values):
    """Mean, 0 of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def batch_all(labels, embeddings, margin, name="euclidean"):
    """Mean loss over the triplets with positive loss."""
    d = pairwise_distances(embeddings, name)
    return average(x for x in (d[a, p] - d[a, n] + margin for a, p, n in triplets(labels)) if x > 0)


def positives_and_negatives(labels, d):
    """For each anchor: the distances to its positives and to its negatives."""
    for a in range(len(labels)):
        others = [i for i in range(len(labels)) if i != a]
        yield (
            [d[a, i] for i in others if labels[i] == labels[a]],
            [d[a, i] for i in others if labels[i] != labels[a]],
        )


def batch_hard(labels, embeddings, margin, name="euclidean"):
    """Mean loss of farthest positive and nearest negative, over the anchors that have both."""
    d = pairwise_distances(embeddings, name)
    return average(hinge(max(p) - min(n), margin) for p, n in positives_and_negatives(labels, d) if p and n)


def batch_semi_hard(labels, embeddings, margin, name="euclidean"):
    """Mean over all pairs, each with the nearest negative that is farther than the positive, else the farthest."""
    losses = []
    for positives, negatives in positives_and_negatives(labels, pairwise_distances(embeddings, name)):
        for p in positives if negatives else []:
            farther = [n for n in negatives if n > p]
            losses.append(hinge(p - (min(farther) if farther else max(negatives)), margin))
    return average(losses)


def semi_hard_losses(labels, embeddings, margin, name="euclidean"):
    """For each pair that has semi-hard negatives: the loss with each of them."""
    pairs = []
    for positives, negatives in positives_and_negatives(labels, pairwise_distances(embeddings, name)):
        for p in positives:
            losses = [p - n + margin for n in negatives if p < n < p + margin]
            if losses:
                pairs.append(losses)
    return pairs


def contrastive(labels, embeddings, margin, name="euclidean"):
    """Mean over all pairs."""
    d = pairwise_distances(embeddings, name)
    size = len(labels)
    return average(
        d[i, j] ** 2 / 2 if labels[i] == labels[j] else max(margin - d[i, j], 0.0) ** 2 / 2
        for i in range(size)
        for j in range(i)
    )


def statistics(labels, embeddings, margin, name="euclidean"):
    """What is plotted of a batch, under the names of the curves."""
    d = pairwise_distances(embeddings, name)
    every = [(d[a, p], d[a, n]) for a, p, n in triplets(labels)]
    of_anchors = list(positives_and_negatives(labels, d))
    return {
        "fraction_positive_triplets": average(n < p + margin for p, n in every),
        "fraction_hard_triplets": average(n < p for p, n in every),
        "fraction_semi_hard_triplets": average(p <= n < p + margin for p, n in every),
        "fraction_easy_triplets": average(n >= p + margin for p, n in every),
        "mean_positive_dist": average(x for p, _ in of_anchors for x in p),
        "mean_negative_dist": average(x for _, n in of_anchors for x in n),
        "hardest_positive_dist": average(max(p) for p, _ in of_anchors if p),
        "hardest_negative_dist": average(min(n) for _, n in of_anchors if n),
        "anchors_without_positive": sum(not p for p, _ in of_anchors),
        "anchors_without_negative": sum(not n for _, n in of_anchors),
    }


def nearest(query, gallery, ignore=None):
    """Index of the nearest gallery row, the first of those equally near."""
    best, best_distance = None, math.inf
    for index, row in enumerate(gallery):
        d = distance(query, row)
        if index != ignore and d < best_distance:
            best, best_distance = index, d
    return best


def terms_among(strategy, labels, anchors, candidate_labels, candidates, places, margin, name="euclidean"):
    """The terms of a loss whose anchors look at candidates, of which they are some: their sum / their number is it."""
    for label, anchor, place in zip(labels, anchors, places, strict=True):
        to_all = [distance(anchor, candidate, name) for candidate in candidates]
        positives = [d for c, d in enumerate(to_all) if candidate_labels[c] == label and c != place]
        negatives = [d for c, d in enumerate(to_all) if candidate_labels[c] != label]
        if strategy == "contrastive":  # each pair is looked at from both ends
            yield from (d**2 / 4 for d in positives)
            yield from (max(margin - d, 0.0) ** 2 / 4 for d in negatives)
        elif not positives or not negatives:
            continue
        elif strategy == "batch_all":
            yield from (p - n + margin for p in positives for n in negatives if p - n + margin > 0)
        elif strategy == "batch_hard":
            yield hinge(max(positives) - min(negatives), margin)
        elif strategy == "batch_semi_hard":
            for p in positives:
                farther = [n for n in negatives if n > p]
                yield hinge(p - (min(farther) if farther else max(negatives)), margin)


def log_sum_exp(values):
    """log(e^a + e^b + ...), -inf of nothing."""
    values = list(values)
    largest = max(values, default=-math.inf)
    return largest + math.log(sum(math.exp(v - largest) for v in values)) if values else -math.inf


def softplus(x):
    """log(1 + e^x)."""
    return log_sum_exp([0.0, x])


def multi_similarity(positives, negatives, margin, scale_positive, scale_negative, similarity_threshold):
    """The multi-similarity loss of an anchor, whose cosine distances to positives and negatives these are."""
    p, n = [1 - d for d in positives], [1 - d for d in negatives]
    if not p or not n:
        return None
    hard_p, hard_n = [s for s in p if s < max(n) + margin], [s for s in n if s > min(p) - margin]
    attraction = math.log(1 + sum(math.exp(-scale_positive * (s - similarity_threshold)) for s in hard_p))
    repulsion = math.log(1 + sum(math.exp(scale_negative * (s - similarity_threshold)) for s in hard_n))
    return attraction / scale_positive + repulsion / scale_negative


def supervised_contrastive(positives, negatives, margin, temperature):
    """L_out of an anchor: minus the mean log-probability of its positives among all others."""
    if not positives:
        return None
    everyone = [math.exp((1 - d) / temperature) for d in [*positives, *negatives]]
    return -average(math.log(math.exp((1 - d) / temperature) / sum(everyone)) for d in positives)


def lifted_structured(positives, negatives, margin):
    """The generalized lifted structured loss of an anchor."""
    if not positives or not negatives:
        return None
    return max(math.log(sum(map(math.exp, positives))) + math.log(sum(math.exp(margin - d) for d in negatives)), 0.0)


def circle(positives, negatives, margin, scale, fixed=None):
    """The circle loss of an anchor; the weights are of the distances `fixed`, where these are others."""
    if not positives or not negatives:
        return None
    fixed_positives, fixed_negatives = fixed or (positives, negatives)
    of_positives = [
        -scale * max(1 + margin - (1 - w), 0.0) * (1 - d - (1 - margin))
        for d, w in zip(positives, fixed_positives, strict=True)
    ]
    of_negatives = [
        scale * max(1 - w + margin, 0.0) * (1 - d - margin) for d, w in zip(negatives, fixed_negatives, strict=True)
    ]
    # log(1 + sum of e^x times sum of e^y), the product of the sums term by term.
    return softplus(log_sum_exp(x + y for x in of_positives for y in of_negatives))


def cosine(a, b):
    """Cosine of the angle between two vectors."""
    return 1 - distance(a, b, "cosine")


def proxy_anchor(labels, embeddings, class_vectors, margin, scale):
    """Proxy anchor, one class after the other."""
    attraction, repulsion = [], []
    for number, vector in enumerate(class_vectors):
        s = [cosine(x, vector) for x in embeddings]
        own = [math.exp(-scale * (value - margin)) for value, label in zip(s, labels, strict=True) if label == number]
        other = [math.exp(scale * (value + margin)) for value, label in zip(s, labels, strict=True) if label != number]
        attraction += [math.log(1 + sum(own))] if own else []
        repulsion.append(math.log(1 + sum(other)))
    return average(attraction) + average(repulsion)


def arcface(labels, embeddings, class_vectors, margin, scale):
    """ArcFace, one image after the other, by its angles."""
    losses = []
    for label, x in zip(labels, embeddings, strict=True):
        angles = [math.acos(max(-1.0, min(1.0, cosine(x, vector)))) for vector in class_vectors]
        logits = [scale * math.cos(angle) for angle in angles]
        own = angles[label]
        beyond = math.cos(own) - margin * math.sin(margin)
        logits[label] = scale * (math.cos(own + margin) if own + margin < math.pi else beyond)
        losses.append(log_sum_exp(logits) - logits[label])
    return average(losses)
