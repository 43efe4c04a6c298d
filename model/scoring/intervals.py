"""95 % intervals by the bootstrap over images: how much a score depends on which images happened to be scored."""

from collections.abc import Iterator

import numpy as np

from model.common.draws import Stream, draw

REPLICATES = 1000  # bootstrap samples that an interval comes from


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Computes a 95 % interval of the mean over images: the percentiles 2.5 and 97.5 of the means of bootstrap samples.

    It tells how much the mean depends on the choice of the scored images. The gallery is held fixed, and another
    training run is not considered at all.

    Args:
        values: Array of shape (N,), a number for each image, such as those of `Retrieval`.
        seed: From 0 to 2^64 - 1.

    Returns:
        The lower and the upper end; NaN without values.

    References:
        Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13.

    Example:
        >>> low, high = bootstrap_interval(np.repeat([0.0, 1.0], 50), seed=0)
        >>> round(low, 1), round(high, 1)  # of 100 images, about 0.5 -+ 1.96 * 0.5 / 10
        (0.4, 0.6)
    """
    if not len(values):
        return float("nan"), float("nan")
    return percentile_interval([values[images].mean() for images in _resamples(seed, len(values))])


def percentile_interval(replicates: np.ndarray | list[float]) -> tuple[float, float]:
    """Returns the percentiles 2.5 and 97.5 of what bootstrap samples gave, at least one number.

    Example:
        >>> percentile_interval(np.arange(1001.0))
        (25.0, 975.0)
    """
    low, high = np.percentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def resample_counts(seed: int, size: int) -> np.ndarray:
    """Returns how often each image is in each bootstrap sample, (REPLICATES, size) uint8.

    Args:
        seed: From 0 to 2^64 - 1. The samples are those of `bootstrap_interval`.
        size: The number of images.

    Example:
        >>> counts = resample_counts(seed=0, size=3)
        >>> counts.shape, np.unique(counts.sum(axis=1)).tolist()  # every sample has three images
        ((1000, 3), [3])
    """
    # uint8 is enough: the chance that a sample holds an image 256 times is below 1 / 256!.
    counts = np.empty((REPLICATES, size), np.uint8)
    for row, count in zip(counts, resamples(seed, size), strict=True):
        row[:] = count
    return counts


def resamples(seed: int, size: int) -> Iterator[np.ndarray]:
    """Yields what `resample_counts` returns sample by sample, (size,) int64, for more of them than the memory holds."""
    for images in _resamples(seed, size):
        yield np.bincount(images, minlength=size)


def _resamples(seed: int, size: int) -> Iterator[np.ndarray]:
    """Yields the bootstrap samples: each is `size` of the numbers 0 ... size - 1, with replacement, (size,) int64."""
    for replicate in range(REPLICATES):
        draws = draw(seed, Stream.BOOTSTRAP, replicate, size=size)
        yield (draws % np.uint64(size)).astype(np.int64)
