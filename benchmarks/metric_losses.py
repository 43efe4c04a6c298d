"""Values and gradients of the losses of pairs, beside what others compute from the same embeddings.

`python -m benchmarks.metric_losses` needs pytorch-metric-learning (`pip install -r requirements-bench.txt`). Embeddings
are float64. A row is a loss on one kind of batch: the value of `model.metric_losses` and that of the other library,
each as it is by default, and how far value and gradient are apart, as a part of ours; in the last two columns for the
sums over anchors instead of the means. Kinds of batches are "P x K", 8 classes of 8 images; "lone", the same and 8
images more that are each the only one of its class; "learned", P x K with classes far apart, most pairs easy. Losses
with class vectors are compared with the same vectors, of which the gradient is told as well.

What differs, and why:

- Over which anchors a loss is a mean. Ours are those that have a positive and a negative (supervised contrastive: a
  positive). MultiSimilarityLoss and GeneralizedLiftedStructureLoss take all images; SupConLoss, CircleLoss and Keras'
  Circle take those whose loss is not 0, so that theirs grows while an anchor becomes easy. The sums are the same.
- What GeneralizedLiftedStructureLoss makes of an anchor without a positive: the logarithm of the empty sum is 0 there,
  so that it is pushed away from its negatives. Ours has no loss, as batch hard has none.
- What CircleLoss makes of log(1 + e^x): x itself from x = 20 on, as PyTorch's Softplus does, which is 2e-9 less.
- Keras' Circle lets a gradient pass through its weights; in section 3.2 of the paper they only multiply that of the
  similarities. So its gradient is that of the value, which the last line confirms by finite differences.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model.common import devices

Result = tuple[float, np.ndarray]  # value and gradient
# (labels, embeddings) -> the loss as it is by default, and as a sum over anchors
Both = Callable[[np.ndarray, np.ndarray], tuple[Result, Result]]


def main() -> None:
    """Computes and prints a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    devices.start_tensorflow()
    print(
        f"{'':<9}{'':<24}{'beside':<52}{'ours':>10}{'theirs':>10}{'value':>9}{'gradient':>9}{'sum':>9}{'gradient':>9}"
    )
    for kind, (labels, embeddings) in _batches():
        for name, title, both in _others():
            ours, theirs = _ours(name)(labels, embeddings), both(labels, embeddings)
            apart = [number for one, other in zip(ours, theirs, strict=True) for number in _apart(other, one)]
            cells = "".join(f"{number:>9.0e}" for number in apart)
            print(f"{kind:<9}{name:<24}{title:<52}{ours[0][0]:>10.5f}{theirs[0][0]:>10.5f}{cells}")
    labels, embeddings = dict(_batches())["P x K"]
    for name, title, other in _others_with_vectors():
        expected, found = _ours_with_vectors(name)(labels, embeddings), other(labels, embeddings)
        cells = "".join(f"{number:>9.0e}" for number in _apart(found, expected))
        print(f"{'vectors':<9}{name:<24}{title:<52}{expected[0]:>10.5f}{found[0]:>10.5f}{cells}")
    direction = np.random.default_rng(1).normal(size=embeddings.shape)
    ahead, behind = (_ours("circle")(labels, embeddings + step * direction)[1][0] for step in (1e-6, -1e-6))
    slope = np.sum(_keras(labels, embeddings)[1][1] * direction)
    print(f"Differences of our circle are {abs((ahead - behind) / 2e-6 / slope - 1):.0e} from the gradient of Keras'.")


def _batches() -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(0)
    labels, centers, noise = np.arange(64) % 8, rng.normal(size=(16, 16)), 0.3 * rng.normal(size=(72, 16))
    yield "P x K", (labels, 0.2 * centers[labels] + noise[:64])
    with_lone = np.concatenate([labels, np.arange(8, 16)])
    yield "lone", (with_lone, 0.2 * centers[with_lone] + noise)
    yield "learned", (labels, 0.45 * centers[labels] + noise[:64])


def _apart(found: Result, expected: Result) -> tuple[float, float]:
    scale = np.linalg.norm(expected[1])
    return abs(found[0] - expected[0]) / abs(expected[0]), float(np.linalg.norm(found[1] - expected[1]) / scale)


def _ours(name: str) -> Both:
    import tensorflow as tf

    from model import triplet_loss
    from model.strategies import STRATEGIES

    strategy = STRATEGIES[name]

    def both(labels: np.ndarray, embeddings: np.ndarray) -> tuple[Result, Result]:
        points = tf.constant(embeddings)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(points)
            parameters = strategy.margin, strategy.distance, None, None
            total, count = strategy.load()(labels, points, *parameters, **strategy.loss_parameters)["loss"]
            mean = triplet_loss.mean(total, count)
        return (float(mean), tape.gradient(mean, points).numpy()), (float(total), tape.gradient(total, points).numpy())

    return both


def _others() -> Iterator[tuple[str, str, Both]]:
    """Yields a loss of ours by name, and the same of others with the same parameters."""
    from pytorch_metric_learning import distances, losses, miners

    euclidean = distances.LpDistance(normalize_embeddings=False)
    yield (
        "multi_similarity", "MultiSimilarityLoss(2, 50, 1), MultiSimilarityMiner",
        _pytorch(lambda **more: losses.MultiSimilarityLoss(2, 50, 1.0, **more), miners.MultiSimilarityMiner(0.1)),
    )  # fmt: skip
    yield "supervised_contrastive", "SupConLoss(0.1)", _pytorch(lambda **more: losses.SupConLoss(0.1, **more))
    yield (
        "lifted_structured", "GeneralizedLiftedStructureLoss(1), LpDistance",
        _pytorch(lambda **more: losses.GeneralizedLiftedStructureLoss(1, distance=euclidean, **more)),
    )  # fmt: skip
    yield "circle", "CircleLoss(0.4, 80)", _pytorch(lambda **more: losses.CircleLoss(0.4, 80, **more))
    yield "circle", "keras.losses.Circle(80, 0.4)", _keras


# A vector of each of ten classes, two of which have no image.
_VECTORS = np.random.default_rng(2).normal(size=(10, 16))


def _ours_with_vectors(name: str) -> Callable[[np.ndarray, np.ndarray], Result]:
    import tensorflow as tf

    from model import metric_losses

    loss = {"proxy_anchor": metric_losses.proxy_anchor_loss, "arcface": metric_losses.arcface_loss}[name]

    def with_gradients(labels: np.ndarray, embeddings: np.ndarray) -> Result:
        both = tf.constant(embeddings), tf.constant(_VECTORS)
        with tf.GradientTape() as tape:
            tape.watch(both)
            value = loss(labels, *both)
        return float(value), np.concatenate([gradient.numpy() for gradient in tape.gradient(value, both)])

    return with_gradients


def _others_with_vectors() -> Iterator[tuple[str, str, Callable[[np.ndarray, np.ndarray], Result]]]:
    import torch
    from pytorch_metric_learning import losses

    size = _VECTORS.shape
    proxies, arcface = losses.ProxyAnchorLoss(*size), losses.ArcFaceLoss(*size, margin=float(np.degrees(0.5)))
    proxies.proxies = torch.nn.Parameter(torch.tensor(_VECTORS))
    arcface.W = torch.nn.Parameter(torch.tensor(_VECTORS.T))

    def with_gradients(loss: Any, vectors: Any) -> Callable[[np.ndarray, np.ndarray], Result]:
        def both(labels: np.ndarray, embeddings: np.ndarray) -> Result:
            points = torch.tensor(embeddings, requires_grad=True)
            value = loss(points, torch.tensor(labels))
            of_points, of_vectors = (part.numpy() for part in torch.autograd.grad(value, [points, vectors]))
            return value.item(), np.concatenate([of_points, of_vectors.T if of_vectors.shape != size else of_vectors])

        return both

    yield "proxy_anchor", "ProxyAnchorLoss", with_gradients(proxies, proxies.proxies)
    yield "arcface", "ArcFaceLoss(margin 0.5 as 28.6 degrees)", with_gradients(arcface, arcface.W)


def _pytorch(make: Callable[..., Any], miner: Any = None) -> Both:
    import torch
    from pytorch_metric_learning import reducers

    def both(labels: np.ndarray, embeddings: np.ndarray) -> tuple[Result, Result]:
        results = []
        for loss in (make(), make(reducer=reducers.SumReducer())):
            points, classes = torch.tensor(embeddings, requires_grad=True), torch.tensor(labels)
            value = loss(points, classes, miner(points, classes) if miner else None)
            value.backward()
            results.append((value.item(), points.grad.numpy()))
        return results[0], results[1]

    return both


def _keras(labels: np.ndarray, embeddings: np.ndarray) -> tuple[Result, Result]:
    import keras
    import tensorflow as tf

    results = []
    for reduction in ("sum_over_batch_size", "sum"):
        points = tf.constant(embeddings)
        with tf.GradientTape() as tape:
            tape.watch(points)
            unit = points / tf.norm(points, axis=1, keepdims=True)
            value = keras.losses.Circle(80.0, 0.4, reduction=reduction, dtype="float64")(labels, unit)
        results.append((float(value), tape.gradient(value, points).numpy()))
    return results[0], results[1]


if __name__ == "__main__":
    main()
