"""N-way K-shot episodes: classification among N classes of which K images each are shown.

An episode draws N classes, and of each K images that are shown (the support) and others that are asked for (the
queries). A query is classified in two ways, both by euclidean distance: by the nearest of the N K shown images, and by
the nearest of the N class means, which are the prototypes of Snell and others. A wrong one that is as near makes it an
error. The accuracy of an episode is that of its queries.

References:
    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning, 2016.
    Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.common.draws import Stream, draw, permutation
from model.common.errors import UserError
from model.scoring.classification import nearest_is_right

# Parts of the draws of the stream EPISODES: which parent, which of its classes, and from there on which images of each.
_PARENT, _CLASSES, _IMAGES = range(3)


@dataclass(frozen=True)
class Shots:
    """How many classes and shown images of each an episode has: N and K.

    Example:
        >>> Shots.parse("20x1")
        Shots(num_classes=20, num_images=1)
    """

    num_classes: int
    num_images: int

    @classmethod
    def parse(cls, text: str) -> "Shots":
        """Reads "20x1", 20 classes with one image of each.

        Raises:
            UserError: It is something else.
        """
        match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
        shots = cls(*map(int, match.groups())) if match else cls(0, 0)
        if shots.num_classes < 2 or shots.num_images < 1:
            raise UserError(
                f"--episodes: expected NxK, as 20x1 for 20 classes with one image of each, N at least 2 and K at least "
                f"1; received {text!r}"
            )
        return shots

    def __str__(self) -> str:
        return f"{self.num_classes}x{self.num_images}"


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode.

    Attributes:
        support: Integer array of shape (N, K), the indices of the images that are shown, class by class.
        queries: Integer array of shape (M,), the indices of the others.
        query_classes: Integer array of shape (M,), from 0 to N - 1.
    """

    support: np.ndarray
    queries: np.ndarray
    query_classes: np.ndarray


def draw_from(
    labels: np.ndarray, shots: Shots, num_queries: int, seed: int, parents: np.ndarray | None = None
) -> Callable[[int], Episode]:
    """Returns what draws episodes.

    The classes with more than K images take part, all with the same chance. Of each class drawn there are as many
    queries as are left beside the K shown images, but at most `num_queries`. Episodes of one number and of several K
    have the same classes and queries where the classes are large enough for all.

    Args:
        labels: Integer array of shape (N,), of all images, from 0.
        shots: N and K.
        num_queries: The most queries of a class, at least 1.
        seed: From 0 to 2^64 - 1.
        parents: Integer array, the parent of each label. If given, all classes of an episode have one parent: one of
            those with N such classes at least, all with the same chance.

    Returns:
        A function from 0, 1, 2, ... to an episode, always the same.

    Raises:
        UserError: There are not so many classes with so many images.

    Example:
        >>> labels = np.array([0, 0, 1, 1])
        >>> episode = draw_from(labels, Shots(num_classes=2, num_images=1), num_queries=1, seed=230)
        >>> np.sort(labels[episode(0).support[:, 0]]), np.sort(labels[episode(0).queries])  # one and one of each class
        (array([0, 1]), array([0, 1]))
    """
    sizes = np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    images_of = np.split(order, np.cumsum(sizes)[:-1])
    large = np.flatnonzero(sizes > shots.num_images)
    groups = [large]
    if parents is not None:
        groups = [large[parents[large] == parent] for parent in np.unique(parents[large])]
    most = max(map(len, groups), default=0)
    groups = [group for group in groups if len(group) >= shots.num_classes]
    if not groups:
        some = "" if parents is None else ", all below one parent"
        raise UserError(
            f"--episodes {shots}: expected {shots.num_classes} classes of {shots.num_images + 1} images at least, "
            f"{shots.num_images} to show and one to ask for{some}; there are {most}; ask for fewer, or add images"
        )

    def episode(number: int) -> Episode:
        group = groups[int(draw(seed, Stream.EPISODES, number, _PARENT, size=1)[0] % np.uint64(len(groups)))]
        classes = group[permutation(seed, Stream.EPISODES, number, _CLASSES, size=len(group))[: shots.num_classes]]
        support, queries = [], []
        for class_ in classes.tolist():
            images = images_of[class_]
            images = images[permutation(seed, Stream.EPISODES, number, _IMAGES + class_, size=len(images))]
            asked = min(num_queries, len(images) - shots.num_images)
            queries.append(images[:asked])
            support.append(images[asked : asked + shots.num_images])
        query_classes = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in queries])
        return Episode(np.stack(support), np.concatenate(queries), query_classes)

    return episode


def measure(embeddings: np.ndarray, episode: Callable[[int], Episode], num_episodes: int) -> dict[str, float]:
    """Measures the accuracy over episodes.

    Args:
        embeddings: Array of shape (N, D), of all images.
        episode: As `draw_from` returns it.
        num_episodes: How many of them, at least 1.

    Returns:
        "nearest_image", the mean accuracy by the nearest shown image, and "class_mean", that by the nearest class mean;
        each with "_low95" and "_high95", the ends of mean -+ 1.96 s / sqrt(E), where s is the standard deviation over
        the E episodes (E - 1 in its denominator), as the field prints them; NaN for one episode.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> episode = draw_from(np.array([0, 0, 1, 1]), Shots(num_classes=2, num_images=1), num_queries=1, seed=230)
        >>> line = np.array([[0.0], [1.0], [8.0], [9.0]])  # whichever is shown, the other one of its class is nearest
        >>> measure(line, episode, num_episodes=5)["nearest_image"]
        1.0
    """
    accuracies = np.array([_accuracies(embeddings, episode(number)) for number in range(num_episodes)])  # (E, 2)
    scores: dict[str, float] = {}
    for name, values in zip(("nearest_image", "class_mean"), accuracies.T, strict=True):
        mean = float(values.mean())
        half = 1.96 * float(values.std(ddof=1)) / math.sqrt(num_episodes) if num_episodes > 1 else math.nan
        scores |= {name: mean, f"{name}_low95": mean - half, f"{name}_high95": mean + half}
    return scores


def _accuracies(embeddings: np.ndarray, episode: Episode) -> tuple[float, float]:
    """Returns the accuracy of the queries by the nearest shown image, and by the nearest class mean."""
    num_classes, num_images = episode.support.shape
    queries, support = embeddings[episode.queries], embeddings[episode.support]  # (M, D), (N, K, D)
    is_right = episode.query_classes[:, np.newaxis] == np.arange(num_classes)  # (M, N)
    shown = support.reshape(num_classes * num_images, -1)
    by_image = float(nearest_is_right(queries, shown, is_right.repeat(num_images, axis=1)).mean())
    if num_images == 1:  # the mean is the image
        return by_image, by_image
    means = support.mean(axis=1, dtype=np.float64)  # (N, D)
    return by_image, float(nearest_is_right(queries, means, is_right).mean())
