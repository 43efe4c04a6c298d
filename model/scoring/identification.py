"""Open-set identification: who is enrolled is to be named, who is not is to be called unknown.

An image is looked up in a gallery of G classes with K images of each. It is named by its nearest gallery image if that
is no farther than a threshold, else it is unknown. FPIR, the false positive identification rate, is the part of the
strangers' images, whose classes are not enrolled, that are named all the same; FNIR, the false negative identification
rate, is the part of the images of enrolled classes that are unknown or get the name of another class.

Both depend on the size of the gallery, since a stranger is named if any image in it is near enough. So enrolment is
tried out on classes with known images. Half of the classes choose the threshold, the other half judges it. In each
half, K images of each class are drawn at random to be enrolled. Then every image s is a stranger to galleries of G of
the n other classes. With d_1 <= ... <= d_n its distances to these, the nearest of the G is d_j with the probability

    C(n - j, G - 1) / C(n, G),

for all choices of G classes are equally likely: the mean over all galleries has a closed form. Likewise an image that
is not enrolled, at distance d from its own class, of which m other classes are no farther, is nearer to its own class
than to the G - 1 others with the probability C(n - m, G - 1) / C(n, G - 1). All classes weigh the same.

Who asks has one gallery, and which classes and which images of them are enrolled decides much: of ten people, a single
one who looks like many others is a tenth of the gallery. So the intervals are those of a single gallery of this size,
and wider than those of the mean: each bootstrap sample draws classes that judge, and of these those of a gallery.

A gallery at hand may be larger than these. Where its classes are drawn as those of the trial, FPIR is concave in G and
in K: what one more class, or one more image of each, adds by being the first that is near enough gets less and less. So

    FPIR(G, K) <= G / G_0 * K / K_0 * FPIR(G_0, K_0)    for G >= G_0, K >= K_0,

and the threshold is chosen for so much smaller a rate. Where gallery classes differ in size, K is the mean, rounded up.

Where other images of the enrolled classes are known, as of the training images, nothing has to be tried out: strangers
and these are looked up in the gallery at hand. Again one half of the classes of strangers chooses the threshold and the
other half judges it; FPIR holds for other classes, and its interval is over classes. FNIR is of these enrolled classes
and no others, for other images of them: the mean over images, with an interval over images.

References:
    Grother, Ngan, Hanaoka: Face Recognition Vendor Test, Part 2: Identification, NISTIR 8271, 2019.
    ISO/IEC 19795-1: Biometric performance testing and reporting, 2021.
"""

import math
from dataclasses import dataclass

import numpy as np

from model.common.draws import Stream, draw, permutation
from model.scoring import intervals
from model.scoring.neighbors import class_neighbors, visit_distances

# Enrolments that are drawn, as far as this many images and this many distances to classes are not exceeded.
_MOST_ENROLMENTS, _MOST_ROWS, _MOST_DISTANCES = 10, 20_000, 2**24
_BUT_FOR_ROUNDING = 1 + 1e-9
# In each half two at least, one that asks and one that is enrolled.
FEWEST_CLASSES = 4


@dataclass(frozen=True)
class GallerySize:
    """How many classes a gallery has, and images of each, both at least 1.

    Example:
        >>> GallerySize.of(np.array([4, 4, 7]))  # 3 images of 2 classes
        GallerySize(num_classes=2, images_per_class=2)
    """

    num_classes: int
    images_per_class: int

    @classmethod
    def of(cls, labels: np.ndarray) -> "GallerySize":
        """Returns the size of the gallery that has these labels, (N,); the mean of a class, rounded up."""
        num_classes = len(np.unique(labels))
        return cls(num_classes, -(-len(labels) // num_classes))


@dataclass(frozen=True)
class Rate:
    """A rate from 0 to 1, and its 95 % interval."""

    value: float
    low95: float
    high95: float

    def times(self, factor: float) -> "Rate":
        """Returns so many times the rate, at most 1."""
        return Rate(*(min(1.0, factor * part) for part in (self.value, self.low95, self.high95)))


@dataclass(frozen=True)
class Threshold:
    """How far the nearest gallery image may be, and how often that is wrong for those that did not choose it.

    Attributes:
        distance: An image whose nearest gallery image is farther is unknown; euclidean.
        size: The size of the galleries that were tried out.
        extrapolation: By how much the gallery at hand is larger, G / G_0 * K / K_0; 1 where it is not.
        num_classes: How many classes judge.
        num_images: How many images these have.
        false_positive: FPIR, with the interval of a single gallery. Beyond the size that was tried out it is the upper
            bound, at most 1.
        mean_false_positive: The same, with the interval of the mean over all galleries of that size.
        num_enrolled_images: How many images of enrolled classes tell FNIR.
        false_negative: FNIR at the size that was tried out, as FPIR of a single gallery; None without such images.
        misnamed: The part of FNIR that got the name of another class; the rest was unknown.
    """

    distance: float
    size: GallerySize
    extrapolation: float
    num_classes: int
    num_images: int
    false_positive: Rate
    mean_false_positive: Rate
    num_enrolled_images: int
    false_negative: Rate | None
    misnamed: float | None


@dataclass(frozen=True)
class TooFew:
    """Why a rate cannot be promised.

    Attributes:
        num_classes: How many classes there are with enough images; half of them choose the threshold.
        num_images: How many images choose the threshold; 0 where there are not four classes of two images at least.
        smallest_rate: The smallest FPIR that could be promised: one in as many images, times the extrapolation, or
            what are strangers at distance 0. 1 or more where none can be.
    """

    num_classes: int
    num_images: int = 0
    smallest_rate: float = math.inf


def choose_threshold(
    embeddings: np.ndarray, labels: np.ndarray, gallery: GallerySize, rate: float, seed: int
) -> Threshold | TooFew:
    """Chooses a threshold by one half of some classes, and judges it by the other half.

    The largest threshold is chosen whose FPIR is at most `rate`, in the middle between the two distances that it parts.

    Args:
        embeddings: (N, D) of any floating type.
        labels: (N,) integers. Classes that have too few images to enrol K_0 and keep one are left out.
        gallery: The size of the gallery at hand. Smaller ones are tried out where there are too few classes, or where
            more than half of these would be left out.
        rate: The FPIR that is asked for, more than 0 and less than 1.
        seed: From 0 to 2^64 - 1; decides the halves, the enrolments and the bootstrap.

    Returns:
        The threshold, or why there is none.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> corners = np.repeat(np.eye(4), 2, axis=0)  # 4 classes of 2 equal images, sqrt(2) apart from each other
        >>> labels = np.repeat(np.arange(4), 2)
        >>> found = choose_threshold(corners, labels, GallerySize(1, 1), rate=0.5, seed=0)
        >>> round(found.distance, 4)  # in the middle between 0 and sqrt(2), where strangers begin
        0.7071
        >>> choose_threshold(corners, labels, GallerySize(1, 1), rate=0.01, seed=0)  # 4 of 8 images choose
        TooFew(num_classes=4, num_images=4, smallest_rate=0.25)
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # The largest number of images, up to K, that leaves one of at least half of the classes.
    most = int(np.sort(counts)[::-1][(len(counts) - 1) // 2]) - 1 if len(counts) else 0
    images_per_class = min(gallery.images_per_class, most)
    chosen = np.flatnonzero(counts > max(images_per_class, 1))
    if images_per_class < 1 or len(chosen) < FEWEST_CLASSES:
        return TooFew(len(chosen))
    halves = _deal(chosen, seed)
    size = GallerySize(min(gallery.num_classes, len(halves[1]) - 1), images_per_class)
    extrapolation = gallery.num_classes / size.num_classes * (gallery.images_per_class / size.images_per_class)
    calibrating, judging = (_Trial.of(embeddings, classes, half, size, seed) for half in halves)
    distance, smallest = calibrating.threshold(rate / extrapolation)
    if extrapolation * smallest > rate * _BUT_FOR_ROUNDING:
        return TooFew(len(chosen), calibrating.num_images, extrapolation * smallest)
    of_one, of_all = (rate.times(extrapolation) for rate in judging.false_positive(distance, seed))
    mates = judging.mates()
    false_negative, misnamed = mates.false_negative(distance, seed)
    return Threshold(
        distance,
        size,
        extrapolation,
        judging.others.shape[1],
        judging.num_images,
        of_one,
        of_all,
        mates.num_images,
        false_negative,
        misnamed,
    )


def distances_to(
    gallery: np.ndarray, gallery_labels: np.ndarray, embeddings: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far images are from a gallery, for `choose_threshold_for`.

    Args:
        gallery: (G, D) of any floating type, G at least 1.
        gallery_labels: (G,) integers.
        embeddings: (N, D).
        labels: (N,) integers.

    Returns:
        (N,) and (N,) float32, the euclidean distances to the nearest gallery image of their own class, and of another;
        inf where there is none.

    Raises:
        ValueError: An embedding is not finite.

    Example:
        >>> gallery, gallery_labels = np.array([[0.0], [9.0]]), np.array([4, 7])
        >>> own, other = distances_to(gallery, gallery_labels, np.array([[1.0], [4.0]]), np.array([4, 5]))
        >>> own.tolist(), other.tolist()  # class 5 is not enrolled
        ([1.0, inf], [8.0, 4.0])
    """
    found = class_neighbors(embeddings, labels, gallery, gallery_labels)
    return found.same_distance, found.other_distance


def choose_threshold_for(
    gallery: GallerySize, labels: np.ndarray, own: np.ndarray, other: np.ndarray, rate: float, seed: int
) -> Threshold | TooFew:
    """Chooses a threshold for a gallery in which strangers and others were looked up, and judges it.

    Half of the classes of strangers choose the largest threshold whose FPIR is at most `rate`, in the middle between
    the two distances that it parts; the other half judges it. The images of enrolled classes choose nothing.

    Args:
        gallery: Its size.
        labels: (N,) integers, the classes of the images. Classes of strangers that have a single image are left out.
        own: (N,) floats, their distances to their own classes; inf for strangers, whose classes are not enrolled.
        other: (N,) floats, their distances to the nearest gallery image of another class.
        rate: The FPIR that is asked for, more than 0 and less than 1.
        seed: From 0 to 2^64 - 1; decides the halves and the bootstrap.

    Returns:
        The threshold, or why there is none.

    Example:
        >>> labels, own, other = np.repeat([5, 6, 7, 8], 2), np.full(8, np.inf), np.full(8, 3.0)
        >>> found = choose_threshold_for(GallerySize(2, 1), labels, own, other, rate=0.5, seed=0)
        >>> found.distance  # in the middle between 0 and 3, where strangers begin
        1.5
    """
    is_stranger = np.isinf(own)
    classes, counts = np.unique(labels[is_stranger], return_counts=True)
    chosen = classes[counts > 1]
    if len(chosen) < FEWEST_CLASSES:
        return TooFew(len(chosen))
    calibrating, judging = (np.flatnonzero(is_stranger & np.isin(labels, half)) for half in _deal(chosen, seed))
    weights = _weights(np.unique(labels[calibrating], return_inverse=True)[1])
    distance, smallest = _largest_threshold(other[calibrating], weights, rate, len(calibrating))
    if smallest > rate * _BUT_FOR_ROUNDING:
        return TooFew(len(chosen), len(calibrating), smallest)
    _, judges, counts = np.unique(labels[judging], return_inverse=True, return_counts=True)
    named = np.bincount(judges, other[judging] <= distance) / counts  # (C,)
    own, other = own[~is_stranger], other[~is_stranger]
    is_wrong = (own > distance) | (other <= own)
    has_mates = len(is_wrong) > 0
    false_positive = _mean_of(named, len(judging), seed)  # there is no other gallery
    return Threshold(
        distance,
        gallery,
        1.0,
        len(counts),
        len(judging),
        false_positive,
        false_positive,
        len(is_wrong),
        _mean_of(is_wrong, len(is_wrong), seed) if has_mates else None,
        float(np.mean(other <= np.minimum(own, distance))) if has_mates else None,
    )


def _deal(classes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the half of some classes that chooses a threshold, and the one that judges it, not larger."""
    dealt = classes[permutation(seed, Stream.CALIBRATION_HALVES, number=1, size=len(classes))]
    return dealt[len(dealt) // 2 :], dealt[: len(dealt) // 2]


def _weights(classes: np.ndarray) -> np.ndarray:
    """Returns weights of rows, (R,): each of the classes 0 ... C - 1 weighs 1 / C, spread over its rows."""
    counts = np.bincount(classes)
    return np.asarray(1 / counts[classes] / len(counts))


def _largest_threshold(distances: np.ndarray, weights: np.ndarray, rate: float, num_images: int) -> tuple[float, float]:
    """Returns the largest threshold whose FPIR is at most a rate, and the smallest rate that can be asked for.

    Args:
        distances: (M,) of strangers.
        weights: (M,), what FPIR grows by where a threshold reaches them; their sum is 1.
        rate: From 0 to 1.
        num_images: How many images these are of.
    """
    order = np.argsort(distances)
    distances, rates = distances[order], np.cumsum(weights[order])
    is_last = np.append(distances[1:] > distances[:-1], True)  # of those that are equally far
    distances, rates = distances[is_last], rates[is_last]
    smallest = max(1 / num_images, rates[0] if distances[0] == 0 else 0.0)
    within = int(np.count_nonzero(rates <= rate * _BUT_FOR_ROUNDING))
    around = np.concatenate([[0.0], distances, distances[-1:]])
    return float(around[within] + around[within + 1]) / 2, float(smallest)


def _mean_of(values: np.ndarray, num_images: int, seed: int) -> Rate:
    """Returns the mean of values, (C,) of classes or images, with its bootstrap interval; these have so many images."""
    return _bounded(float(values.mean()), *intervals.bootstrap_interval(values, seed), num_images)


def _bounded(value: float, low: float, high: float, num_images: int) -> Rate:
    """Returns a rate that so many images told, with the ends that a bootstrap gave."""
    # With no error among N images the bootstrap knows of none; a rate of this gives none in 2.5 % of all cases.
    high = max(high, value, 1 - 0.025 ** (1 / num_images))
    return Rate(value, max(0.0, min(low, value)), min(1.0, high))


@dataclass(frozen=True, eq=False)
class _Trial:
    """Enrolments of some classes, all together: C classes, and a row for each image in each enrolment.

    Attributes:
        size: Of the galleries, at most C - 1 classes.
        num_images: How many images there are.
        num_enrolments: E, how many times the classes are enrolled, each time by other images.
        classes: (R,) int64, the class of each image, from 0 to C - 1; enrolment after enrolment, R / E rows each.
        is_mate: (R,) bool, whether it is not enrolled itself.
        own: (R,) float64, the distance to its own class.
        others: (R, C) float64, the distances to the classes, each that to the nearest of its enrolled images; inf to
            its own.
    """

    size: GallerySize
    num_images: int
    num_enrolments: int
    classes: np.ndarray
    is_mate: np.ndarray
    own: np.ndarray
    others: np.ndarray

    @classmethod
    def of(
        cls, embeddings: np.ndarray, classes: np.ndarray, chosen: np.ndarray, size: GallerySize, seed: int
    ) -> "_Trial":
        """Enrols classes.

        Args:
            embeddings: (N, D).
            classes: (N,) int64.
            chosen: (C,) int64, which classes.
            size: Of the galleries.
            seed: Decides which images are enrolled.
        """
        images = np.flatnonzero(np.isin(classes, chosen))
        points, numbers = embeddings[images], np.searchsorted(np.sort(chosen), classes[images])
        num_classes, num_images = len(chosen), len(images)
        most = min(_MOST_ENROLMENTS, _MOST_ROWS // num_images, _MOST_DISTANCES // (num_images * num_classes))
        num_enrolments = max(1, most)
        parts = []
        for enrolment in range(num_enrolments):
            drawn = draw(seed, Stream.ENROLMENTS, enrolment, size=len(classes))[images]
            by_class = np.lexsort((drawn, numbers))  # class after class, shuffled within each
            starts = np.searchsorted(numbers[by_class], np.arange(num_classes))
            enrolled = by_class[starts[:, np.newaxis] + np.arange(size.images_per_class)]  # (C, K)
            distances = _distances_to_classes(points, points[enrolled])  # (N, C)
            own = distances[np.arange(num_images), numbers]
            distances[np.arange(num_images), numbers] = np.inf
            parts.append((numbers, ~np.isin(np.arange(num_images), enrolled), own, distances))
        return cls(size, num_images, num_enrolments, *(np.concatenate(part) for part in zip(*parts, strict=True)))

    def threshold(self, rate: float) -> tuple[float, float]:
        """Returns the largest threshold whose FPIR is at most a rate, and the smallest rate that can be asked for."""
        nearest = np.sort(self.others, axis=1)[:, :-1]  # (R, n), without their own class
        is_nearest = -np.diff(_none_drawn(nearest.shape[1], self.size.num_classes))  # (n,), that d_j is the nearest
        weights = np.outer(_weights(self.classes), is_nearest)  # (R, n)
        return _largest_threshold(nearest.ravel(), weights.ravel(), rate, self.num_images)

    def false_positive(self, threshold: float, seed: int) -> tuple[Rate, Rate]:
        """Returns FPIR at a threshold, with the interval of a single gallery and with that of the mean over all."""
        none_drawn = _none_drawn(self.others.shape[1] - 1, self.size.num_classes)
        everywhere = np.ones(len(self.others), bool)
        as_asked, as_enrolled = self._influences(self.others <= threshold, none_drawn, everywhere)
        by_judge, of_enrolled = as_asked.mean(axis=0), as_enrolled - as_enrolled.mean()
        of_all = _mean_of(by_judge + of_enrolled.mean(axis=0), self.num_images, seed)
        return self._rate(by_judge, of_enrolled, seed), of_all

    def false_negative(self, threshold: float, seed: int) -> tuple[Rate, float]:
        """Returns FNIR at a threshold, and the part of it that is misnamed, where no row is enrolled itself."""
        none_drawn = _none_drawn(self.others.shape[1] - 1, self.size.num_classes - 1)
        is_there = self.own <= threshold  # (R,)
        as_asked, as_enrolled = self._influences(self.others <= self.own[:, np.newaxis], none_drawn, is_there)
        # Those who are enrolled ask.
        rate = self._rate(np.zeros(self.others.shape[1]), as_asked + as_enrolled - as_enrolled.mean(), seed)
        nobody_near = none_drawn[np.count_nonzero(self.others <= threshold, axis=1)]  # (R,)
        unknown = float(np.sum(_weights(self.classes) * nobody_near * ~is_there))
        return rate, max(0.0, rate.value - unknown)

    def mates(self) -> "_Trial":
        """Returns the rows of images that are not enrolled themselves."""
        rows, num_images = self.is_mate, self.num_images - self.others.shape[1] * self.size.images_per_class
        parts = self.classes[rows], rows[rows], self.own[rows], self.others[rows]
        return _Trial(self.size, num_images, self.num_enrolments, *parts)

    def _influences(
        self, is_near: np.ndarray, none_drawn: np.ndarray, can_be_right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns how often answers are wrong by who asks, and by who is enrolled.

        In a sample that holds class c w_c times, a pair of a class and one that is enrolled weighs w_c w_g, here in the
        first-order expansion w_c + w_g - 1 (Hajek's projection), as in `verification`: what an enrolled class changes
        is how often it alone makes an answer wrong.

        Args:
            is_near: (R, C) bool, which classes make it wrong if they are drawn.
            none_drawn: As `_none_drawn` returns it.
            can_be_right: (R,) bool, whether it is right if none of these is drawn.

        Returns:
            (E, C) and (E, C), of each of the E enrolments. The mean of the first is the rate.
        """
        num_classes = is_near.shape[1]
        each = (self.num_enrolments, -1)
        num_near = np.count_nonzero(is_near, axis=1)  # (R,)
        is_wrong = 1 - none_drawn[num_near] * can_be_right  # (R,)
        by_one_alone = np.append(0.0, -np.diff(none_drawn))[num_near] * can_be_right  # (R,), by each that is near
        weights = num_classes * self.num_enrolments * _weights(self.classes)  # (R,), of sum C in each enrolment
        asked = zip(self.classes.reshape(each), (weights * is_wrong).reshape(each), strict=True)
        enrolled = zip((weights * by_one_alone).reshape(each), is_near.reshape(*each, num_classes), strict=True)
        as_asked = [np.bincount(classes, wrong, num_classes) for classes, wrong in asked]
        return np.array(as_asked), np.array([wrong @ near for wrong, near in enrolled])

    def _rate(self, of_judges: np.ndarray, of_enrolled: np.ndarray, seed: int) -> Rate:
        """Returns the mean over galleries, and the 95 % interval of a single one.

        Args:
            of_judges: (C,), what the classes that ask, whoever is enrolled, contribute.
            of_enrolled: (E, C), what those of a gallery contribute, in each enrolment.
            seed: Decides the bootstrap.
        """
        num_enrolments, num_classes = of_enrolled.shape
        num_enrolled, replicates = self.size.num_classes, []
        for replicate in range(intervals.REPLICATES):
            drawn = draw(seed, Stream.GALLERIES, replicate, size=num_classes + 2 * num_enrolled)
            of_which = np.repeat([num_classes, num_classes, num_enrolments], [num_classes, num_enrolled, num_enrolled])
            judges, enrolled, enrolments = np.split(drawn % of_which.astype(np.uint64), [num_classes, -num_enrolled])
            replicates.append(of_judges[judges].mean() + of_enrolled[enrolments, judges[enrolled]].mean())
        value = float(of_judges.mean() + of_enrolled.mean())
        return _bounded(value, *intervals.percentile_interval(replicates), self.num_images)


def _none_drawn(n: int, drawn: int) -> np.ndarray:
    """Returns C(n - m, drawn) / C(n, drawn) for m = 0 ... n: that none of m classes is among some of n that are drawn.

    What it loses from m = j - 1 to j is C(n - j, drawn - 1) / C(n, drawn): that the j-th is the first that is drawn.
    """
    m = np.arange(n)
    return np.cumprod(np.append(1.0, np.maximum(n - drawn - m, 0) / (n - m)))


def _distances_to_classes(points: np.ndarray, enrolled: np.ndarray) -> np.ndarray:
    """Returns the distance of each point, (N, D), to the nearest of the K of each class, (C, K, D): (N, C) float64."""
    num_classes, images_per_class, _ = enrolled.shape
    found = np.empty((len(points), num_classes))

    def visit(chunk: slice, distances: np.ndarray) -> None:
        found[chunk] = distances.reshape(-1, num_classes, images_per_class).min(axis=2)

    gallery = enrolled.reshape(num_classes * images_per_class, -1)
    unit = visit_distances(visit, points, gallery, dtype=np.float64)
    return np.asarray(np.sqrt(found) * unit)
