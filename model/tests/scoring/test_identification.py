"""Open-set identification: against galleries enrolled one by one in loops, and against strangers that come later."""

import itertools
import math

import numpy as np
import pytest
import scipy.spatial

from model.common.draws import Stream, permutation
from model.scoring import identification
from model.scoring.identification import (
    GallerySize,
    Threshold,
    TooFew,
    choose_threshold,
    choose_threshold_for,
    distances_to,
)

SEED = 230


def people(num_classes, num_images, seed, size=8, spread=2.0):
    """Gaussian classes around Gaussian means: embeddings, labels."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), num_images)
    means = random.normal(0, spread, (num_classes, size))
    return (means[labels] + random.normal(0, 1, (len(labels), size))).astype(np.float32), labels


def halves_of(labels):
    """The classes that choose the threshold, and those that judge it."""
    classes = np.unique(labels)
    dealt = classes[permutation(SEED, Stream.CALIBRATION_HALVES, number=1, size=len(classes))]
    return dealt[len(classes) // 2 :].tolist(), dealt[: len(classes) // 2].tolist()


# ------------------------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize(("n", "drawn"), [(1, 0), (1, 1), (2, 1), (5, 2), (6, 6), (6, 0), (7, 3)])
def test_chance_that_none_is_drawn(n, drawn):
    draws = list(itertools.combinations(range(n), drawn))
    expected = [np.mean([not set(chosen) & set(range(m)) for chosen in draws]) for m in range(n + 1)]
    np.testing.assert_allclose(identification._none_drawn(n, drawn), expected, atol=1e-12)


def test_many_classes_overflow_nothing():
    chances = identification._none_drawn(5000, 2500)
    assert np.isfinite(chances).all() and (np.diff(chances) <= 0).all()
    assert chances[1] == pytest.approx(0.5) and chances[-1] == 0


def one_point_each(num_classes, num_images, seed):
    """Classes whose images are all alike, so that it does not matter which are enrolled, but for odd ones."""
    random = np.random.default_rng(seed)
    points = random.integers(0, 12, (num_classes, 2)).astype(np.float64)
    labels = np.repeat(np.arange(num_classes), num_images)
    return points[labels], labels


def rates_by_loops(embeddings, labels, half, num_classes, threshold):
    """FPIR and FNIR where all images of a class are alike: every image, every gallery."""
    point = {c: embeddings[labels == c][0] for c in half}
    false_positive, missed, misnamed = [], [], []
    for asked in half:
        others = [c for c in half if c != asked]
        for gallery in itertools.combinations(others, num_classes):
            false_positive.append(any(math.dist(point[asked], point[c]) <= threshold for c in gallery))
        for gallery in itertools.combinations(others, num_classes - 1):
            wrong = any(math.dist(point[asked], point[c]) <= 0 for c in gallery)  # its own is at distance 0
            missed.append(wrong)
            misnamed.append(wrong)
    return np.mean(false_positive), np.mean(missed), np.mean(misnamed)


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_all_galleries_one_by_one(num_classes, seed):
    """With ties, and with classes at the same point."""
    embeddings, labels = one_point_each(13, 3, seed)
    chosen = choose_threshold(embeddings, labels, GallerySize(num_classes, 2), 0.3, SEED)
    calibrating, judging = halves_of(labels)
    if isinstance(chosen, TooFew):  # strangers at distance 0
        assert rates_by_loops(embeddings, labels, calibrating, num_classes, 0)[0] > 0.3
        return
    assert (chosen.size, chosen.extrapolation) == (GallerySize(num_classes, 2), 1)
    assert (chosen.num_classes, chosen.num_images) == (6, 18)
    expected = rates_by_loops(embeddings, labels, judging, num_classes, chosen.distance)
    found = chosen.false_positive.value, chosen.false_negative.value, chosen.misnamed
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # No larger threshold that decides differently would do.
    distances = sorted(
        {math.dist(embeddings[labels == a][0], embeddings[labels == b][0]) for a in calibrating for b in calibrating}
    )
    kept = [d for d in distances if rates_by_loops(embeddings, labels, calibrating, num_classes, d)[0] <= 0.3]
    assert sum(d <= chosen.distance for d in distances) == len(kept)


@pytest.mark.parametrize(("num_classes", "images_per_class"), [(1, 1), (3, 2), (9, 4)])
def test_rates_are_those_of_enrolments_that_others_draw(num_classes, images_per_class):
    """Different images enrolled each time: K of each, an image that is not enrolled, a stranger."""
    embeddings, labels = people(20, 6, 3)
    chosen = choose_threshold(embeddings, labels, GallerySize(num_classes, images_per_class), 0.2, SEED)
    _, judging = halves_of(labels)
    random, named, missed, misnamed = np.random.default_rng(0), [], [], []
    for _ in range(6000):
        enrolled = random.permutation(judging)[:num_classes].tolist()
        shown = {c: random.permutation(np.flatnonzero(labels == c)) for c in enrolled}
        gallery = [(c, image) for c in enrolled for image in shown[c][:images_per_class]]
        stranger = random.choice([c for c in judging if c not in enrolled])
        mate = random.choice(enrolled)
        for kind, image in (
            ("stranger", random.choice(np.flatnonzero(labels == stranger))),
            ("mate", random.choice(shown[mate][images_per_class:])),
        ):
            distance, answer = min((math.dist(embeddings[image], embeddings[other]), c) for c, other in gallery)
            if kind == "stranger":
                named.append(distance <= chosen.distance)
            else:
                missed.append(distance > chosen.distance or answer != mate)
                misnamed.append(distance <= chosen.distance and answer != mate)
    # 10 enrolments are the mean of fewer draws than these: 0.02 is some 4 standard deviations of both.
    found = chosen.false_positive.value, chosen.false_negative.value, chosen.misnamed
    np.testing.assert_allclose(found, [np.mean(named), np.mean(missed), np.mean(misnamed)], atol=0.02)


def test_all_classes_weigh_the_same():
    """A class of many images, all of which are named, is one of six that judge."""
    embeddings, labels = one_point_each(12, 3, 0)
    embeddings = np.arange(12.0)[labels][:, np.newaxis] * [[1.0, 0.0]] * 10.0
    _, judging = halves_of(labels)
    first, second = judging[:2]
    embeddings[labels == second] = embeddings[labels == first] + 0.5
    more = np.repeat(np.arange(len(labels)), np.where(labels == first, 100, 1))
    chosen = choose_threshold(embeddings[more], labels[more], GallerySize(5, 1), 0.2, SEED)
    assert chosen.distance > 0.5 and chosen.false_positive.value == pytest.approx(2 / 6)


# ------------------------------------------------------------------------------------------- what is promised


def strangers_named(threshold, gallery, seed, rounds=400):
    """How many strangers of classes that nobody has seen before are named, in galleries of such classes."""
    count = 0
    for number in range(rounds):
        embeddings, labels = people(gallery.num_classes + 1, gallery.images_per_class, (seed, number))
        distances = np.linalg.norm(embeddings[labels > 0] - embeddings[0], axis=1)
        count += distances.min() <= threshold
    return count


@pytest.mark.slow
@pytest.mark.parametrize("gallery", [GallerySize(1, 1), GallerySize(10, 1), GallerySize(10, 5), GallerySize(19, 3)])
def test_the_rate_that_is_promised_is_found_among_strangers_that_come_later(gallery):
    """Over 20 evaluations of 40 classes each, and 400 strangers for each threshold."""
    rate, rounds, named, covered = 0.1, 400, [], 0
    for seed in range(20):
        chosen = choose_threshold(*people(40, 8, seed), gallery, rate, SEED)
        assert chosen.extrapolation == 1
        named.append(strangers_named(chosen.distance, gallery, 1000 + seed, rounds))
        covered += chosen.mean_false_positive.low95 <= named[-1] / rounds <= chosen.mean_false_positive.high95
    error = np.std(named, ddof=1) / math.sqrt(len(named)) / rounds
    binomial = math.sqrt(rate * (1 - rate) / rounds / len(named))
    assert error > 0.5 * binomial
    assert abs(np.mean(named) / rounds - rate) < 4 * max(error, binomial)
    assert covered >= 14  # of 20; 95 % would be 19, and the strangers that came later are a sample, too


def rates_of_one_gallery(threshold, gallery, seed):
    """FPIR and FNIR in a gallery of classes that nobody has seen before: 150 strangers, 30 images of each class."""
    size, num_images = gallery.num_classes, gallery.images_per_class + 30
    embeddings, labels = people(size + 150, num_images, seed)
    is_enrolled = (labels < size) & (np.arange(len(labels)) % num_images < gallery.images_per_class)
    asks = ~is_enrolled & ((labels < size) | (np.arange(len(labels)) % num_images == 0))
    distances = scipy.spatial.distance.cdist(embeddings[asks], embeddings[is_enrolled])
    is_named, answer = distances.min(axis=1) <= threshold, labels[is_enrolled][distances.argmin(axis=1)]
    is_mate = labels[asks] < size
    return np.mean(is_named[~is_mate]), np.mean(~(is_named & (answer == labels[asks]))[is_mate])


@pytest.mark.slow
@pytest.mark.parametrize("gallery", [GallerySize(1, 1), GallerySize(5, 1), GallerySize(10, 3)])
def test_intervals_are_those_of_a_single_gallery(gallery):
    """Three evaluations, and 80 galleries of classes that come later for each: are their rates inside?"""
    inside, promised, found = [], [], []
    for seed in range(3):
        chosen = choose_threshold(*people(160, 30, seed), gallery, 0.1, SEED)
        mean, single = chosen.mean_false_positive, chosen.false_positive
        assert mean.value == pytest.approx(single.value, rel=1e-12)
        assert mean.low95 > single.low95 and mean.high95 < single.high95
        low = np.array([chosen.false_positive.low95, chosen.false_negative.low95])
        high = np.array([chosen.false_positive.high95, chosen.false_negative.high95])
        rates = np.array([rates_of_one_gallery(chosen.distance, gallery, (99, number)) for number in range(80)])
        inside.append(((low <= rates) & (rates <= high)).mean(axis=0))
        promised.append(high - low)
        found.append(np.diff(np.percentile(rates, [2.5, 97.5], axis=0), axis=0)[0])
    assert (np.mean(inside, axis=0) >= 0.87).all()
    ratio = np.mean(promised, axis=0) / np.mean(found, axis=0)  # that of the mean over galleries would be 0.1 to 0.4
    assert (ratio > 0.8).all() and (ratio < 1.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("gallery", [GallerySize(60, 2), GallerySize(10, 20), GallerySize(60, 20)])
def test_in_larger_galleries_the_rate_is_not_exceeded(gallery):
    rate, named = 0.2, []
    for seed in range(15):
        chosen = choose_threshold(*people(60, 8, seed), gallery, rate, SEED)
        assert chosen.extrapolation == pytest.approx(
            max(1, gallery.num_classes / 29) * max(1, gallery.images_per_class / 7)
        )
        named.append(strangers_named(chosen.distance, gallery, 1000 + seed, 200))
    assert np.mean(named) / 200 < rate + 4 * math.sqrt(rate * (1 - rate) / 200 / 15)


def test_the_threshold_of_a_larger_gallery_is_smaller():
    embeddings, labels = people(60, 8, 0)
    thresholds = [choose_threshold(embeddings, labels, GallerySize(n, 2), 0.1, SEED).distance for n in (1, 5, 29, 90)]
    assert thresholds == sorted(thresholds, reverse=True) and len(set(thresholds)) == 4
    assert choose_threshold(embeddings, labels, GallerySize(90, 2), 0.1, SEED).false_positive.high95 <= 1


def test_without_errors_the_interval_is_that_of_so_many_images():
    """Classes far from each other: no stranger is near, and so many images say no more than that."""
    embeddings, labels = people(20, 5, 1, spread=1000.0)
    chosen = choose_threshold(embeddings, labels, GallerySize(5, 1), 0.02, SEED)
    low, high = chosen.false_positive.low95, chosen.false_positive.high95
    assert low <= chosen.false_positive.value and high >= 1 - 0.025 ** (1 / 50) > 0.07
    assert chosen.false_negative.value == 0 and chosen.false_negative.high95 == pytest.approx(1 - 0.025 ** (1 / 40))


# ------------------------------------------------------------------------------------------- too few


def test_a_rate_that_so_few_cannot_promise():
    embeddings, labels = people(10, 4, 0)
    assert choose_threshold(embeddings, labels, GallerySize(2, 1), 0.01, SEED) == TooFew(10, 20, 0.05)
    assert isinstance(choose_threshold(embeddings, labels, GallerySize(2, 1), 0.05, SEED), Threshold)
    larger = choose_threshold(embeddings, labels, GallerySize(40, 1), 0.05, SEED)
    assert larger == TooFew(10, 20, pytest.approx(0.5))
    assert isinstance(choose_threshold(embeddings, labels, GallerySize(40, 1), larger.smallest_rate, SEED), Threshold)
    assert choose_threshold(embeddings, labels, GallerySize(400, 1), 0.99, SEED).smallest_rate > 1


@pytest.mark.parametrize("labels", [[], [0], [0, 0, 0, 0], [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]])
def test_too_few_classes_of_two_images(labels):
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 3))
    many = sum(labels.count(label) > 1 for label in set(labels))
    assert choose_threshold(embeddings, np.array(labels, int), GallerySize(1, 1), 0.5, SEED) == TooFew(many)


def test_a_network_that_maps_all_to_one_point_promises_nothing():
    labels = np.repeat(np.arange(10), 5)
    too_few = choose_threshold(np.ones((50, 4)), labels, GallerySize(3, 2), 0.5, SEED)
    assert too_few == TooFew(10, 25, pytest.approx(1.0))


def test_classes_with_fewer_images_than_are_enrolled_are_left_out():
    embeddings, labels = people(20, 6, 0)
    kept = (labels >= 4) | (np.arange(len(labels)) % 6 < 2)  # four classes of two images
    some = choose_threshold(embeddings[kept], labels[kept], GallerySize(3, 4), 0.3, SEED)
    without = choose_threshold(embeddings[labels >= 4], labels[labels >= 4], GallerySize(3, 4), 0.3, SEED)
    assert (some.size.images_per_class, some.num_classes, some.num_images) == (4, 8, 48)
    assert (without.num_classes, without.num_images) == (8, 48)
    few = choose_threshold(embeddings, labels, GallerySize(3, 100), 0.9, SEED)
    assert isinstance(few, Threshold) and few.size.images_per_class == 5 and few.extrapolation == 20


def test_numbers_that_are_not_finite():
    embeddings, labels = people(10, 4, 0)
    embeddings[3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        choose_threshold(embeddings, labels, GallerySize(2, 1), 0.2, SEED)


def test_the_same_seed_draws_the_same_and_the_order_of_classes_is_only_a_name():
    embeddings, labels = people(12, 5, 0)
    one = choose_threshold(embeddings, labels, GallerySize(3, 2), 0.2, SEED)
    assert one == choose_threshold(embeddings, labels * 7 + 3, GallerySize(3, 2), 0.2, SEED)
    assert one != choose_threshold(embeddings, labels, GallerySize(3, 2), 0.2, SEED + 1)


def test_the_size_of_a_gallery():
    assert GallerySize.of(np.array([5])) == GallerySize(1, 1)
    assert GallerySize.of(np.array([0, 0, 0, 7])) == GallerySize(2, 2)
    assert GallerySize.of(np.array([0, 0, 0, 7, 7])) == GallerySize(2, 3)


@pytest.mark.slow
def test_many_images_take_no_more_than_they_may():
    """10,000 images of 2,500 classes: one enrolment, in bounded memory."""
    embeddings, labels = people(2500, 4, 0)
    chosen = choose_threshold(embeddings, labels, GallerySize(100, 1), 0.01, SEED)
    assert chosen.num_images == 5000 and 0 < chosen.false_positive.value < 0.02


# ------------------------------------------------------------------------------------------- a gallery at hand


SIZE = GallerySize(7, 3)


def looked_up(seed, num_classes=9, enrolled=(100, 101, 102)):
    """Strangers and mates at whole distances, with many ties: labels, to their own class, to another."""
    random = np.random.default_rng(seed)
    counts = random.integers(2, 9, num_classes)
    labels = np.concatenate([np.repeat(np.arange(num_classes) * 3, counts), random.choice(enrolled, 30)])
    labels = labels[random.permutation(len(labels))]
    own = np.where(labels < 100, np.inf, random.integers(0, 12, len(labels))).astype(np.float32)
    return labels, own, random.integers(1, 15, len(labels)).astype(np.float32)


def fpir_by_loops(labels, own, other, half, threshold):
    rates = []
    for c in half:
        named = [d <= threshold for label, o, d in zip(labels, own, other, strict=True) if o == np.inf and label == c]
        rates.append(sum(named) / len(named))
    return sum(rates) / len(rates)


def test_distances_are_those_of_loops():
    random = np.random.default_rng(0)
    gallery, labels = random.normal(size=(20, 3)), random.integers(0, 4, 20)
    points, of_points = random.normal(size=(9, 3)), np.array([0, 1, 2, 3, 4, 0, 7, 2, 1])  # 4 and 7 are strangers
    own, other = distances_to(gallery, labels, points, of_points)
    for point, label, to_own, to_other in zip(points, of_points, own, other, strict=True):
        same, different = (
            [math.dist(point, row) for row in gallery[keep]] for keep in (labels == label, labels != label)
        )
        assert (to_own, to_other) == pytest.approx((min(same, default=math.inf), min(different)), rel=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_of_a_gallery_is_the_largest_that_loops_allow(seed, rate):
    labels, own, other = looked_up(seed)
    chosen = choose_threshold_for(SIZE, labels, own, other, rate, SEED)
    calibrating, judging = halves_of(labels[np.isinf(own)])
    distances = sorted({float(d) for label, d in zip(labels, other, strict=True) if label in calibrating})
    allowed = [d for d in distances if fpir_by_loops(labels, own, other, calibrating, d) <= rate]
    around = [([0.0, *distances][len(allowed)]), ([*distances, distances[-1]][len(allowed)])]
    if isinstance(chosen, TooFew):
        assert chosen == TooFew(9, sum(label in calibrating for label in labels), pytest.approx(chosen.smallest_rate))
        assert chosen.smallest_rate == pytest.approx(1 / chosen.num_images) and chosen.smallest_rate > rate
        return
    assert chosen.distance == pytest.approx(sum(around) / 2)
    assert (chosen.size, chosen.extrapolation, chosen.num_classes) == (SIZE, 1, 4)
    assert chosen.num_images == sum(label in judging for label in labels) and chosen.num_enrolled_images == 30
    assert chosen.false_positive.value == pytest.approx(fpir_by_loops(labels, own, other, judging, chosen.distance))
    wrong, misnamed = [], []
    for to_own, to_other in zip(own, other, strict=True):
        if to_own != np.inf:
            is_named = min(to_own, to_other) <= chosen.distance
            wrong.append(not is_named or to_other <= to_own)
            misnamed.append(is_named and to_other <= to_own)
    assert (chosen.false_negative.value, chosen.misnamed) == pytest.approx((np.mean(wrong), np.mean(misnamed)))


def test_intervals_are_over_classes_of_strangers_and_over_enrolled_images():
    """Against the percentiles of samples that another generator draws."""
    labels, own, other = looked_up(1, num_classes=60)
    chosen = choose_threshold_for(SIZE, labels, own, other, 0.3, SEED)
    _, judging = halves_of(labels[np.isinf(own)])
    named = [fpir_by_loops(labels, own, other, [c], chosen.distance) for c in judging]
    is_mate = np.isfinite(own)
    wrong = (own[is_mate] > chosen.distance) | (other[is_mate] <= own[is_mate])
    random = np.random.default_rng(0)
    for rate, values in ((chosen.false_positive, np.array(named)), (chosen.false_negative, wrong)):
        means = [random.choice(values, len(values)).mean() for _ in range(4000)]
        assert (rate.low95, rate.high95) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.03)


def test_what_a_gallery_cannot_promise():
    labels, own, other = np.repeat(np.arange(8), 5), np.full(40, np.inf), np.arange(1.0, 41)
    assert choose_threshold_for(SIZE, labels, own, other, 0.0499, SEED) == TooFew(8, 20, pytest.approx(0.05))
    assert choose_threshold_for(SIZE, labels, own, other, 0.05, SEED).num_images == 20
    assert choose_threshold_for(SIZE, labels, own, np.zeros(40), 0.5, SEED) == TooFew(8, 20, pytest.approx(1.0))
    for number in range(4):
        some = labels < number
        assert choose_threshold_for(SIZE, labels[some], own[some], other[some], 0.5, SEED) == TooFew(number)
    single = np.array([0, 0, 1, 1, 2, 2, 3, *range(10, 20)])  # classes of one image choose nothing
    assert choose_threshold_for(SIZE, single, np.full(17, np.inf), np.arange(17.0), 0.5, SEED) == TooFew(3)


def test_a_gallery_of_whose_classes_nothing_else_is_known():
    labels, own, other = looked_up(2)
    chosen = choose_threshold_for(SIZE, labels[own == np.inf], own[own == np.inf], other[own == np.inf], 0.3, SEED)
    expected = choose_threshold_for(SIZE, labels, own, other, 0.3, SEED)
    assert (chosen.false_negative, chosen.misnamed, chosen.num_enrolled_images) == (None, None, 0)
    assert (chosen.distance, chosen.false_positive) == (expected.distance, expected.false_positive)
    nobody_wrong = choose_threshold_for(SIZE, labels, np.where(own == np.inf, own, 0), other, 0.3, SEED)
    assert nobody_wrong.false_negative == identification.Rate(0, 0, pytest.approx(1 - 0.025 ** (1 / 30)))


def test_the_order_of_images_and_the_names_of_classes_change_no_threshold():
    labels, own, other = looked_up(3)
    one, order = (
        choose_threshold_for(SIZE, labels, own, other, 0.3, SEED),
        np.random.default_rng(5).permutation(len(own)),
    )
    again = choose_threshold_for(SIZE, labels[order] * 2 + 5, own[order], other[order], 0.3, SEED)
    assert (one.distance, one.false_positive) == (again.distance, again.false_positive)
    assert (one.false_negative.value, one.misnamed) == (again.false_negative.value, again.misnamed)
    others = [choose_threshold_for(SIZE, labels, own, other, 0.3, SEED + n).distance for n in range(1, 9)]
    assert set(others) != {one.distance}


def test_a_gallery_names_as_many_strangers_that_come_later_as_it_promised():
    """20 galleries of other people, each with a threshold by 60 classes of strangers; then 500 classes come."""
    asked, named = 0.1, []
    for seed in range(20):
        embeddings, labels = people(580, 4, seed)
        is_enrolled, comes_later = labels < 20, labels >= 80
        gallery, of_gallery = embeddings[is_enrolled][::2], labels[is_enrolled][::2]
        known = ~comes_later & ~(is_enrolled & (np.arange(len(labels)) % 2 == 0))
        own, other = distances_to(gallery, of_gallery, embeddings[known], labels[known])
        chosen = choose_threshold_for(GallerySize(20, 2), labels[known], own, other, asked, SEED)
        nearest = [np.sqrt(((gallery - point) ** 2).sum(axis=1)).min() for point in embeddings[comes_later]]
        named.append(np.mean(np.array(nearest) <= chosen.distance))
    assert 0.07 < np.mean(named) < 0.125
