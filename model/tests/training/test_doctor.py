"""The doctor: each trouble is named when it is there, once, and none where all is well."""

import math
import re

import numpy as np
import pytest

from model.params import Params
from model.training.doctor import Batch, Doctor, count_partners, participation_ratio, rms_distance


def batch(embeddings=None, labels=None, step=50, indices=None, **scalars):
    embeddings = healthy() if embeddings is None else embeddings
    labels = np.arange(len(embeddings)) % 4 if labels is None else labels
    return Batch(step, {"loss": 0.3, **scalars}, np.asarray(embeddings), np.asarray(labels), indices)


def healthy(seed=0):
    return np.random.default_rng(seed).normal(size=(64, 16)).astype(np.float32)


def findings(params, *batches):
    doctor = Doctor(params)
    return [finding for each in batches for finding in doctor.examine(each)]


def names(params, *batches):
    return [finding.name for finding in findings(params, *batches)]


def test_the_participation_ratio_by_hand():
    line = np.outer(np.arange(7.0), [1.0, 2.0, -3.0]) + 5
    assert participation_ratio(line) == pytest.approx(1.0)
    axes = np.concatenate([np.eye(5), -np.eye(5)])  # alike in 5 directions
    assert participation_ratio(axes) == pytest.approx(5.0)
    # Variances 3 and 1: (3 + 1)^2 / (9 + 1).
    ellipse = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) * np.sqrt([3.0, 1.0])
    assert participation_ratio(ellipse) == pytest.approx(1.6)
    assert participation_ratio(np.ones((4, 3))) == 1.0
    assert participation_ratio(np.ones((1, 3))) == 1.0


def test_the_participation_ratio_from_the_eigenvalues_of_few_points_in_many_dimensions():
    points = np.random.default_rng(3).normal(size=(6, 40)) * np.arange(40)
    values = np.linalg.eigvalsh(np.cov(points.T))
    assert participation_ratio(points) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    wide = np.zeros((3, 10**6), np.float32)  # a covariance of 10^12 numbers
    wide[0, 0] = wide[1, 1] = wide[2, 2] = 1
    assert participation_ratio(wide) == pytest.approx(2.0)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_rms_distance_by_loops(offset):
    points = np.random.default_rng(1).normal(size=(9, 3)) + offset
    squares = [np.sum((a - b) ** 2) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
    assert rms_distance(points) == pytest.approx(math.sqrt(np.mean(squares)))


def test_a_healthy_run_has_no_findings():
    assert names(Params(), *(batch(healthy(seed), step=50 * seed) for seed in range(1, 100))) == []


def collapsed(scale, seed=0):
    return 12.0 + scale * healthy(seed) / math.sqrt(2 * 16)  # two are `scale` apart


def test_collapse_is_named_once_after_three_reports():
    batches = [batch(), *(batch(collapsed(0.001), step=step, loss=0.5) for step in (100, 150, 200, 250, 300))]
    doctor = Doctor(Params(margin=0.5, triplet_strategy="batch_hard", learning_rate=0.1))
    found = [[finding.name for finding in doctor.examine(each)] for each in batches]
    assert found == [[], [], [], ["collapse"], [], []]
    (finding,) = findings(Params(triplet_strategy="batch_hard", learning_rate=0.1), *batches)
    assert re.fullmatch(
        r"the embeddings have collapsed: two images are 0\.00\d+ apart \(root mean square\), the loss is 0\.5000 with "
        r"margin 0\.5; lower learning_rate \(0\.1\), train with batch_all or batch_semi_hard first, set "
        r"num_classes_per_batch and num_images_per_class, set use_batch_norm or set normalize_embeddings",
        finding.message,
    )


def test_a_moment_of_collapse_is_not_named():
    assert names(Params(), *[batch(collapsed(0.001)), batch(collapsed(0.001)), batch()] * 5) == []


@pytest.mark.parametrize(
    ("params", "limit"),
    [
        ({"margin": 0.5}, 0.025),
        ({"margin": 2.0}, 0.1),
        ({"margin": "soft", "triplet_strategy": "batch_hard"}, 0.05),
        ({"margin": 0.25, "distance": "squared_euclidean"}, 0.025),
        ({"margin": 0.5, "distance": "cosine"}, 0.05),
        ({"triplet_strategy": "lifted_structured", "margin": 2.0}, 0.1),
        # These margins say nothing of how far apart images have to be, which is about 1.
        ({"triplet_strategy": "multi_similarity"}, 0.05 * math.sqrt(2)),
        ({"triplet_strategy": "circle", "margin": 0.1}, 0.05 * math.sqrt(2)),
        ({"triplet_strategy": "supervised_contrastive"}, 0.05 * math.sqrt(2)),
    ],
)
def test_collapse_is_measured_by_the_margin(params, limit):
    """The margin is in units of the distance: 5 % of what it means for a euclidean one."""
    assert names(Params(**params), *[batch(collapsed(0.9 * limit, seed), loss=0.5) for seed in range(5)]) == [
        "collapse"
    ]
    assert names(Params(**params), *[batch(collapsed(1.2 * limit, seed), loss=0.5) for seed in range(5)]) == []


def test_collapse_to_a_point_is_not_called_a_line():
    assert names(Params(), *[batch(np.ones((64, 16)))] * 9) == ["collapse"]


def test_three_classes_on_a_line():
    line = np.outer(np.arange(12.0), np.ones(4))
    assert names(Params(), *[batch(line, np.arange(12) % 3)] * 3) == ["line"]
    assert names(Params(), *[batch(line, np.arange(12) % 2)] * 3) == []  # two classes need no more than one
    cloud = line + 1.3 * np.random.default_rng(0).normal(size=line.shape)  # its ratio is about 1.1
    assert 1.06 < participation_ratio(cloud) < 1.2
    assert names(Params(), *[batch(cloud, np.arange(12) % 3)] * 3) == []
    assert names(Params(embedding_size=1), *[batch(line[:, :1], np.arange(12) % 3)] * 3) == []


def concluded(params, *batches):
    doctor = Doctor(params)
    said = [finding for seen in batches for finding in doctor.examine(seen)]
    return said, {finding.name for finding in doctor.conclude()}


def test_the_last_word_on_a_run_of_few_reports():
    lone = batch(labels=np.arange(64))
    flat = batch(np.zeros((64, 16)))
    for reports in (1, 2):
        assert concluded(Params(), *[lone] * reports) == ([], {"no_triplets", "no_positives"})
        assert concluded(Params(), *[flat] * reports) == ([], {"collapse"})
    assert concluded(Params(), batch(), flat) == concluded(Params(), flat, batch()) == ([], set())
    assert concluded(Params()) == ([], set())
    assert concluded(Params(), batch(loss=0.0)) == ([], set())  # nothing to learn is no trouble so early
    said, last = concluded(Params(on_collapse="stop"), *[flat] * 3)  # said in time, and not again
    assert [finding.is_fatal for finding in said] == [True] and last == set()


@pytest.mark.parametrize("labels", [np.arange(64), np.zeros(64, int)])
def test_batches_without_a_triplet(labels):
    assert "no_triplets" in names(Params(), *[batch(labels=labels)] * 3)
    labels = labels.copy()
    labels[:3] = [70, 70, 71]
    assert "no_triplets" not in names(Params(), *[batch(labels=labels)] * 3)


def test_anchors_without_a_partner():
    assert names(Params(), *[batch(labels=np.minimum(np.arange(64), 33))] * 3) == ["no_positives"]
    assert names(Params(), *[batch(labels=np.minimum(np.arange(64), 32))] * 3) == []
    _, finding = findings(Params(), *[batch(labels=np.zeros(64, int))] * 3)
    assert finding.name == "no_negatives" and finding.message.startswith(
        "100% of the images of a batch have no negative"
    )


def test_with_a_memory_partners_are_in_batches_gone_by():
    for labels in (np.arange(64), np.zeros(64, int)):
        assert names(Params(memory_size=256), *[batch(labels=labels)] * 3) == []


def test_copies_are_no_positives():
    """32 classes of one image each, which P x K batches repeat; then one class has a second image."""
    classes = np.arange(64) // 2
    params = Params(num_classes_per_batch=32, num_images_per_class=2)
    first, second = findings(params, *[batch(labels=classes, indices=classes)] * 3)
    assert (first.name, second.name) == ("no_triplets", "no_positives")
    assert second.message.startswith("100% of the images of a batch have no positive in it and teach nothing; add ")
    assert "set num_classes" not in first.message + second.message
    indices = classes.copy()
    indices[1] = 99
    (finding,) = findings(params, *[batch(labels=classes, indices=indices)] * 3)
    assert finding.name == "no_positives" and finding.message.startswith("94%")  # 31 of 33 images
    assert names(params, *[batch(labels=classes, indices=np.arange(64))] * 3) == []
    positives, negatives = count_partners(np.array([7, 7, 7, 5, 5]), np.array([3, 3, 4, 9, 9]))
    assert (positives.tolist(), negatives.tolist()) == ([1, 1, 0], [1, 1, 2])


def test_nothing_left_to_learn():
    assert names(Params(), *[batch(loss=0.0)] * 19) == []
    assert names(Params(), *[batch(loss=0.0)] * 20) == ["few_triplets"]
    few = [batch(fraction_positive_triplets=5e-5)] * 20
    assert names(Params(), *few) == ["few_triplets"]
    assert names(Params(), *few[1:], batch(fraction_positive_triplets=2e-4)) == []
    assert names(Params(triplet_strategy="contrastive"), *few) == []  # pairs teach
    assert names(Params(triplet_strategy="batch_hard", margin="soft"), *few) == []  # softplus is never 0


def test_a_loss_that_explodes():
    assert names(Params(), batch(loss=0.2), *[batch(loss=5.1)] * 3) == ["learning_rate"]  # ten times the margin
    assert names(Params(), batch(loss=0.2), *[batch(loss=4.9)] * 30) == []
    assert names(Params(), batch(loss=0.7), *[batch(loss=5.1)] * 30) == []  # or ten times what it was


def test_a_loss_that_has_exploded_before_the_first_report():
    doctor = Doctor(Params())
    doctor.begin(batch(loss=0.5))
    found = [finding.name for loss in (3e4, 9e3, 4e3, 2e3) for finding in doctor.examine(batch(loss=loss))]
    assert found == ["learning_rate"]


def test_a_first_batch_without_a_loss_says_nothing_of_those_that_follow():
    assert names(Params(), batch(loss=0.0), *[batch(loss=0.3)] * 30) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_not_called_collapse(value):
    broken = [batch(loss=value), batch(np.full((64, 16), value)), batch(loss=value)] * 9
    assert names(Params(), batch(), *broken) == []
    halves = [batch(collapsed(0.001))] * 2
    assert names(Params(), batch(), *halves, batch(loss=value), *halves) == []  # not three in a row


def test_a_margin_of_0_has_a_collapse_too():
    assert names(Params(margin=0), batch(), *[batch(collapsed(0.001), loss=0.1)] * 3) == ["collapse"]


def test_mined_triplets_are_complete_whatever_else_is_in_the_batch():
    lone = [batch(labels=np.minimum(np.arange(64), 60))] * 3
    assert names(Params(), *lone) == ["no_positives"]
    assert names(Params(triplet_strategy="offline_hard"), *lone) == []


def test_pairs_teach_without_partners_of_the_other_kind():
    for labels in (np.zeros(64, int), np.arange(64)):
        assert names(Params(triplet_strategy="contrastive"), *[batch(labels=labels)] * 9) == []


def test_a_loss_without_a_margin_is_not_told_to_change_it():
    params = Params(triplet_strategy="supervised_contrastive")
    for trouble in (batch(np.ones((64, 16))), batch(loss=0.0), batch(loss=99.0)):
        for finding in findings(params, batch(), *[trouble] * 20):
            assert "margin" not in finding.message and "None" not in finding.message
    assert names(params, batch(), *[batch(loss=99.0)] * 3) == ["learning_rate"]


def test_images_of_a_class_teach_without_a_negative_where_a_loss_takes_them():
    params = Params(triplet_strategy="supervised_contrastive")
    assert names(params, *[batch(labels=np.zeros(64, int))] * 9) == []
    assert names(params, *[batch(labels=np.arange(64))] * 3) == ["no_positives"]


def test_losses_that_count_no_triplets_have_few_where_they_are_0():
    for strategy in ("multi_similarity", "lifted_structured"):
        assert names(Params(triplet_strategy=strategy), batch(), *[batch(loss=0.0)] * 20) == ["few_triplets"]
        assert names(Params(triplet_strategy=strategy), batch(), *[batch(loss=1e-4)] * 20) == []


def test_advice_is_not_what_is_done_already():
    """Nobody is told to set what is set, or what cannot help."""
    troubles = [batch(np.ones((64, 16))), batch(loss=0.0), batch(loss=99.0)]
    for params in (
        Params(triplet_strategy="batch_hard", distance="cosine", use_batch_norm=True, batch_size=64,
               num_classes_per_batch=8, num_images_per_class=8),
        Params(triplet_strategy="batch_hard", normalize_embeddings=True, use_batch_norm=True),
    ):  # fmt: skip
        for trouble in troubles:
            for finding in findings(params, batch(), *[trouble] * 20):
                assert "normalize_embeddings" not in finding.message and "use batch_hard" not in finding.message
                assert "use_batch_norm" not in finding.message


def test_without_a_margin_and_a_loss_nothing_has_grown():
    assert names(Params(margin=0), batch(loss=0.0), *[batch(loss=0.1)] * 9) == []
