"""What is drawn at random: a pure function of a seed, of what it is for, and of a number.

All draws are integers (Philox counters and a stable sort), whose values are fixed for good, unlike those of a library's
shuffle.
"""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What a draw is for. Draws of one seed for different purposes are independent, because the number is part of the
    counter. The numbers are part of what a seed means: another number is another draw, for every experiment there is.
    """

    # The order of all images in an epoch, or of all classes in a round; a run has either the one or the other.
    TRAINING_ORDER = 0
    # The order of the images of one class, of which class-balanced batches take some at a time.
    IMAGES_OF_A_CLASS = 1
    # The order in which the images to score are put into batches for the loss.
    EVALUATION_ORDER = 2
    # The positive of each anchor in batches of (anchor, positive) pairs.
    POSITIVES = 3
    # Which images are in a stratified sample.
    STRATIFIED_SAMPLE = 4
    # Which half of the scored images calibrates the threshold of verification, and which half judges it.
    CALIBRATION_HALVES = 5
    # The images in each bootstrap sample.
    BOOTSTRAP = 6
    # Which classes are kept apart, where parameters only say how many.
    CHOSEN_CLASSES = 7
    # The classes and images of each N-way K-shot episode.
    EPISODES = 8
    # Which images of each class are enrolled where open-set identification is tried out.
    ENROLMENTS = 9
    # Which fold holds an image out while labels are audited.
    FOLDS = 10
    # The classes that ask and those that are enrolled in each bootstrap sample of open-set identification.
    GALLERIES = 11


def draw(seed: int, stream: Stream, number: int = 0, part: int = 0, *, size: int) -> np.ndarray:
    """Draws random integers, uniform from 0 to 2^64 - 1.

    Args:
        seed: From 0 to 2^64 - 1.
        stream: What they are for.
        number: Which of the draws of this stream, for example the epoch; from 0 to 2^64 - 1.
        part: Tells draws with the same number apart, for example by class; from 0 to 2^64 - 1.
        size: How many.

    Returns:
        uint64 array of shape (size,), the same for the same arguments wherever and whenever it is asked for.

    Example:
        >>> first = draw(230, Stream.BOOTSTRAP, size=3)
        >>> np.array_equal(draw(230, Stream.BOOTSTRAP, size=3), first)
        True
        >>> np.array_equal(draw(230, Stream.BOOTSTRAP, number=1, size=3), first)
        False
    """
    counter = np.array([0, number, stream, part], np.uint64)  # Philox counts its own draws in counter[0]
    return np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter).random_raw(size)


def permutation(seed: int, stream: Stream, number: int = 0, part: int = 0, *, size: int) -> np.ndarray:
    """Draws a permutation of 0 ... size - 1.

    Args:
        seed: As for `draw`, like all the others.
        stream: What the permutation is for.
        number: Which of the permutations of this stream.
        part: Tells permutations with the same number apart.
        size: How many numbers to permute.

    Returns:
        int32 array of shape (size,).

    Example:
        >>> sorted(permutation(230, Stream.TRAINING_ORDER, size=4).tolist())
        [0, 1, 2, 3]
    """
    return np.argsort(draw(seed, stream, number, part, size=size), kind="stable").astype(np.int32)


def stratified_sample(labels: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Draws images so that every class keeps its share, up to rounding.

    Args:
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1.
        count: How many images; all where there are not so many.

    Returns:
        int32 indices of shape (min(count, N),), ascending.

    Example:
        >>> labels = np.array([4, 4, 4, 4, 7, 7])
        >>> labels[stratified_sample(labels, seed=230, count=3)].tolist()
        [4, 4, 7]
    """
    shuffled = permutation(seed, Stream.STRATIFIED_SAMPLE, size=len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    count = min(count, len(labels))
    # Every N / count-th image of a row in which each class is one piece.
    return np.sort(by_class[np.arange(count) * len(labels) // max(count, 1)])


def sample_with_partners(labels: np.ndarray, seed: int, count: int, partners: int = 8) -> np.ndarray:
    """Draws images so that those of a class stay together: of 10,000 classes, 10,000 images have no partners.

    Args:
        labels: Integer array of shape (N,).
        seed: From 0 to 2^64 - 1.
        count: How many images at most; all where there are not so many.
        partners: Where the share of the classes would be fewer images than this on average, some classes are drawn, and
            of each this many images, or all that it has. Else the sample is `stratified_sample`.

    Returns:
        int32 indices, ascending.

    Example:
        >>> labels = np.array([4, 4, 7, 7, 9, 9])
        >>> kept = labels[sample_with_partners(labels, seed=230, count=4, partners=2)]
        >>> len(kept), len(np.unique(kept))  # two of the three classes, as a whole
        (4, 2)
    """
    classes, members = np.unique(labels, return_inverse=True)
    if count >= len(labels) or len(classes) * partners <= count:
        return stratified_sample(labels, seed, count)
    shuffled = permutation(seed, Stream.STRATIFIED_SAMPLE, size=len(labels))
    by_class = shuffled[np.argsort(members[shuffled], kind="stable")]
    sizes = np.bincount(members)
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = permutation(seed, Stream.STRATIFIED_SAMPLE, number=1, size=len(classes))
    drawn = order[np.cumsum(np.minimum(sizes, partners)[order]) <= count]
    return np.sort(by_class[(place_in_class < partners) & np.isin(members[by_class], drawn)])
