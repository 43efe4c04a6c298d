"""What a person sees of a run: rate and time left by a clock that the tests turn, and what is in the event files."""

import io
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from model.tests.experiments import scalars, texts
from model.training import progress
from model.training.doctor import Batch, Finding
from model.training.progress import TrainingProgress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only pass when they are added."""
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


# Steps an epoch, and images a step.
PACE = (10.0, 6)


def batch(step, loss=0.25, embeddings=None, labels=None):
    embeddings = np.random.default_rng(step).normal(size=(6, 3)) if embeddings is None else embeddings
    return Batch(step, {"loss": loss}, embeddings, np.arange(6) % 2 if labels is None else labels)


def test_laps_leave_out_what_is_no_training(tmp_path, clock):
    with TrainingProgress(tmp_path, *PACE, range(1, 41)) as shown:
        clock.now += 100  # compiles in the first step
        shown.restart_clock(1)
        clock.now += 9
        assert shown.lap(10) == (9, 9.0)
        clock.now += 5  # saves
        shown.restart_clock(10)
        clock.now += 0.5
        assert shown.lap(11) == (1, 0.5)
        clock.now += 0.25
        assert shown.lap(12) == (1, 0.25)  # a lap starts the next one
        assert shown.lap(12) == (0, 0.0)


def test_rate_and_time_left(tmp_path, clock, caplog):
    with caplog.at_level("INFO"), TrainingProgress(tmp_path, *PACE, range(1, 41)) as shown:
        clock.now += 100
        shown.restart_clock(1)
        clock.now += 9
        shown.lap(10)
        shown.report(batch(10), {})  # 30 steps left, at 1 second each
        clock.now += 50  # evaluates
        shown.restart_clock(10)
        clock.now += 2
        shown.lap(15)  # a checkpoint in between
        clock.now += 3
        shown.restart_clock(15)
        clock.now += 3
        shown.lap(20)
        shown.report(batch(20, 1 / 3), {})  # 20 left, at 14 / 19 seconds
        clock.now += 9.5
        shown.lap(30)
        shown.report(batch(30), {})  # not 10 seconds after the last line
        clock.now += 0.25
        shown.lap(40)
        shown.report(batch(40), {})
    assert caplog.messages == [
        "epoch 1/4, step 10/40, loss 0.2500, 6 images/s, 00:30 left",
        "epoch 2/4, step 20/40, loss 0.3333, 12 images/s, 00:14 left",
        "epoch 4/4, step 40/40, loss 0.2500, 240 images/s, 00:00 left",
    ]
    shown = scalars(tmp_path)
    rates = {step: values for (tag, step), values in shown.items() if tag == "run/steps_per_second"}
    assert rates == {10: [1.0], 20: [2.0], 30: [pytest.approx(10 / 9.5)], 40: [40.0]}
    rates = {step: values for (tag, step), values in shown.items() if tag == "run/images_per_second"}
    assert rates == {10: [6.0], 20: [12.0], 30: [pytest.approx(60 / 9.5)], 40: [240.0]}


def test_a_run_that_goes_on_knows_only_its_own_pace(tmp_path, clock, caplog):
    with caplog.at_level("INFO"), TrainingProgress(tmp_path, 10.0, 18, range(7_001, 7_207)) as shown:
        clock.now += 100
        shown.restart_clock(7_001)
        clock.now += 10
        shown.lap(7_006)
        shown.report(batch(7_006), {})  # 200 steps at 2 seconds; an image, its positive and its negative
    assert caplog.messages == ["epoch 701/721, step 7006/7206, loss 0.2500, 9 images/s, 06:40 left"]


def test_a_first_step_has_no_rate(tmp_path, clock, caplog):
    with caplog.at_level("INFO"), TrainingProgress(tmp_path, *PACE, range(1, 2)) as shown:
        clock.now += 100
        shown.restart_clock(1)
        shown.lap(1)
        shown.report(batch(1), {})
    assert caplog.messages == []
    assert scalars(tmp_path) == {("loss", 1): [0.25]}


def test_a_terminal_shows_a_bar(tmp_path, clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with TrainingProgress(tmp_path, *PACE, range(21, 41)) as shown:
        clock.now += 10
        shown.lap(40)
        shown.report(batch(40), {})
    last = terminal.getvalue().replace("\n", "\r").rstrip("\r ").split("\r")[-1]
    assert last.startswith("epoch 4/4 100%|")
    assert last.rstrip().endswith("| step 40/40, loss 0.2500, 12 images/s, 00:00 left")


# ------------------------------------------------------------------------------------------- event files


def reported(folder, *batches, images=None, steps=range(1, 41)):
    with TrainingProgress(folder, *PACE, steps) as shown:
        for one in batches:
            shown.report(one, images or {})


def histograms(folder):
    """By name, rows of (from, to, how many) without the empty ones, as the one batch that was reported gave them."""
    found = {}
    for path in folder.glob("events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "histograms":
                    rows = tf.make_ndarray(value.tensor)
                    found[value.tag] = rows[rows[:, 2] > 0]
    return found


def check_histogram(rows, values):
    """As many values in each interval as lie there, from the smallest one to the largest."""
    assert rows[:, 2].sum() == len(values)
    assert (rows[0, 0], rows[-1, 1]) == pytest.approx((min(values), max(values)))


@pytest.mark.parametrize("size", [6, 300])
def test_norms_and_distances_are_shown(tmp_path, size):
    random = np.random.default_rng(0)
    embeddings, labels = random.normal(size=(size, 3)), random.permutation(size) % 2
    reported(tmp_path, batch(5, embeddings=embeddings, labels=labels))
    found = histograms(tmp_path)
    paired = min(size, 256)  # of more images there would be too many pairs
    pairs = list(itertools.combinations(range(paired), 2))
    distances = {
        same: [math.dist(embeddings[i], embeddings[j]) for i, j in pairs if (labels[i] == labels[j]) == same]
        for same in (True, False)
    }
    check_histogram(found["distances/embedding_norm"], [math.hypot(*embedding) for embedding in embeddings])
    check_histogram(found["distances/same_class"], distances[True])
    check_histogram(found["distances/different_classes"], distances[False])


@pytest.mark.parametrize("labels", [np.zeros(6, int), np.arange(6)], ids=["one class", "nothing but singletons"])
def test_a_batch_without_pairs_of_a_kind(tmp_path, labels):
    reported(tmp_path, batch(5, labels=labels))
    counts = {name: rows[:, 2].sum() for name, rows in histograms(tmp_path).items()}
    kinds = ("distances/same_class", "distances/different_classes")
    assert sorted(counts[name] for name in kinds) == [0, 15]


def test_images_findings_and_scalars_stand_at_their_step(tmp_path):
    picture = tf.constant(np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3))
    with TrainingProgress(tmp_path, *PACE, range(1, 41)) as shown:
        shown.report(Batch(5, {"loss": 0.5, "learning_rate": 0.125}, np.eye(3), np.arange(3)), {"train_image": picture})
        shown.write(6, Finding("nan", "the loss is NaN", True))
        shown.flush()
        found = scalars(tmp_path), texts(tmp_path)  # while it is open
    assert found == ({("loss", 5): [0.5], ("run/learning_rate", 5): [0.125]}, {("doctor/nan", 6): "the loss is NaN"})
    (path,) = tmp_path.iterdir()
    pictures = [
        tf.make_ndarray(value.tensor)
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "images/train_image"
    ]
    (width, height, png) = pictures[0]
    assert (width, height, len(pictures)) == (b"2", b"2", 1)
    np.testing.assert_allclose(tf.io.decode_png(png), picture[0] * 255, atol=1)


def test_a_finding_is_told_and_written(tmp_path, caplog):
    with TrainingProgress(tmp_path, *PACE, range(1, 41)) as shown:
        shown.warn(15, Finding("collapse", "the embeddings have collapsed"))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "Step 15: the embeddings have collapsed.")
    ]
    assert texts(tmp_path) == {("doctor/collapse", 15): "the embeddings have collapsed"}


def test_steps_that_are_made_again_are_shown_once(tmp_path):
    reported(tmp_path, *(batch(step, 1.0) for step in (5, 10, 15)))
    reported(tmp_path, *(batch(step, 2.0) for step in (15, 20)), steps=range(11, 41))
    assert scalars(tmp_path) == {("loss", step): [loss] for step, loss in [(5, 1), (10, 1), (15, 2), (20, 2)]}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_broke_down_can_be_shown(tmp_path, value):
    """Where such steps are skipped, a report may be due just then."""
    embeddings = np.ones((6, 3))
    embeddings[2, 1] = value
    reported(tmp_path, batch(5, value, embeddings), batch(10))
    assert scalars(tmp_path)["loss", 10] == [0.25]
