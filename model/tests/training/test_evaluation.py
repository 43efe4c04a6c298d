"""Evaluation: every image counts once and stays where it is, and what a run remembers of its evaluations."""

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from model.common.errors import UserError
from model.common.files import Place
from model.data.input_fn import EvalInput
from model.data.listing import Roles
from model.scoring import protocol
from model.tests import oracles
from model.tests.experiments import scalars
from model.tests.training.learners import embed, images, linear_learner
from model.training import evaluation
from model.training.evaluation import EvalSpec, Evaluator, Validation, predict, score_embeddings, write_scores
from model.training.event_files import open_writer
from model.training.model_fn import model_fn
from model.training.run_state import RunState

pytestmark = pytest.mark.slow

LABELS = np.random.default_rng(3).integers(0, 3, 23).astype(np.int32)
GALLERY_LABELS = np.random.default_rng(4).integers(0, 3, 31).astype(np.int32)
BATCHES = np.split(np.random.default_rng(5).permutation(23).astype(np.int32), [5, 10, 15, 20])  # the last one holds 3


def eval_input(batches=BATCHES, **changes):
    return EvalInput(images(23, seed=1), LABELS, images(31, seed=2), GALLERY_LABELS, batches, **changes)


# ------------------------------------------------------------------------------------------- Evaluator


def test_scores_are_what_plain_loops_find():
    """Terms count, not batches; and each embedding belongs to the label of its image, whatever batch it was in."""
    learner, data = linear_learner(margin=0.3), eval_input()
    learner.state = RunState(global_step=70)
    scores = Evaluator(model_fn, learner, data).evaluate()
    test, gallery = embed(learner, data.images), embed(learner, data.gallery_images)
    losses = []
    for batch in BATCHES:
        d = oracles.pairwise_distances(test[batch])
        losses += [d[a, p] - d[a, n] + 0.3 for a, p, n in oracles.triplets(LABELS[batch])]
    positive = [loss for loss in losses if loss > 0]
    assert scores["global_step"] == 70
    assert scores["loss"] == pytest.approx(np.mean(positive), rel=1e-4)
    assert scores["fraction_positive_triplets"] == pytest.approx(len(positive) / len(losses))
    assert scores["embedding_mean_norm"] == pytest.approx(np.linalg.norm(test, axis=1).mean(), rel=1e-4)
    assert scores["knn_accuracy"] == np.mean(GALLERY_LABELS[cdist(test, gallery).argmin(axis=1)] == LABELS)
    among_themselves = cdist(test, test) + np.diag(np.full(23, np.inf))
    assert scores["recall_at_1"] == np.mean(LABELS[among_themselves.argmin(axis=1)] == LABELS)


def test_the_learner_is_scored_as_it_is_by_now():
    learner = linear_learner()
    evaluator = Evaluator(model_fn, learner, eval_input())
    before = evaluator.evaluate(thorough=False)
    learner.state = RunState(global_step=3)
    kernel = learner.network.get_layer("embedding").kernel
    kernel.assign(kernel * 0 + 1)
    after = evaluator.evaluate(thorough=False)
    expected = np.linalg.norm(embed(learner, eval_input().images), axis=1).mean()
    assert after["embedding_mean_norm"] == pytest.approx(expected, rel=1e-4) != before["embedding_mean_norm"]
    assert (before["global_step"], after["global_step"]) == (0, 3)


def test_what_is_watched_is_part_of_what_is_measured():
    evaluator = Evaluator(model_fn, linear_learner(), eval_input())
    watched, measured = evaluator.evaluate(thorough=False), evaluator.evaluate()
    assert len(watched) < len(measured)
    assert watched == {name: measured[name] for name in watched}


def test_a_gallery_in_which_nothing_can_be_found_is_not_embedded(monkeypatch):
    """No image to score is of its classes; images that it has of an unseen class count, whatever the others are."""
    learner, embedded = linear_learner(), []
    monkeypatch.setattr(evaluation, "predict", lambda *args: embedded.append(args[1]) or predict(*args))
    for unseen, is_needed in (((), False), ((0, 1, 2), False), ((2, 4), True)):
        data = dataclasses.replace(eval_input(groups={"unseen": unseen}), gallery_labels=GALLERY_LABELS + 3)
        assert data.needs_gallery == is_needed
        scores = Evaluator(model_fn, learner, data).evaluate()
        assert len(embedded) == is_needed
        images_of_unseen = np.isin(LABELS, unseen).sum() + np.isin(GALLERY_LABELS + 3, unseen).sum()
        assert scores["unseen/num_images"] == images_of_unseen
        assert scores["knn_images"] == 0 and math.isnan(scores["knn_accuracy"])
        embeddings, gallery = embed(learner, data.images), embed(learner, data.gallery_images)
        measured = score_embeddings(data, embeddings, gallery)
        of_the_gallery = {name for name in measured if name.endswith("knn_gallery_images")}
        assert {name: scores[name] for name in measured.keys() - of_the_gallery} == pytest.approx(
            {name: measured[name] for name in measured.keys() - of_the_gallery}, rel=1e-4, nan_ok=True
        )


def test_a_batch_without_triplets_adds_nothing():
    """Each image alone: no term at all, which is a loss of 0 and not of NaN."""
    scores = Evaluator(model_fn, linear_learner(), eval_input([np.array([n]) for n in range(23)])).evaluate(False)
    assert (scores["loss"], scores["fraction_positive_triplets"], scores["mean_positive_dist"]) == (0, 0, 0)


@pytest.mark.parametrize("part", ["images", "gallery_images"])
def test_an_embedding_that_is_not_a_number_is_one_line(part):
    """The weights are finite, and so is what they make of all images but one."""
    learner, data = linear_learner(), eval_input()
    kernel, bias = learner.network.get_layer("embedding").weights
    kernel.assign(np.full(kernel.shape, 3e38))
    bias.assign(np.zeros(3))
    for name in ("images", "gallery_images"):
        getattr(data, name)[:] = 0
    getattr(data, part)[7] = 255
    with pytest.raises(UserError, match="an embedding is NaN or infinite, though the weights are finite") as raised:
        Evaluator(model_fn, learner, data).evaluate(thorough=False)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize(
    ("most_images", "most_pixels", "sizes"),
    [(1024, 2**20, [10]), (4, 2**20, [4, 4, 2]), (5, 2**20, [5, 5]), (1024, 13, [2] * 5), (1024, 5, [1] * 10)],
)
def test_images_are_embedded_some_at_a_time_in_their_order(monkeypatch, most_images, most_pixels, sizes):
    monkeypatch.setattr(evaluation, "_MAX_IMAGES", most_images)
    monkeypatch.setattr(evaluation, "_MAX_PIXELS", most_pixels)  # an image has 6, whatever its channels
    seen = []

    def predict_step(some):
        seen.append(len(some))
        rows = tf.cast(tf.reshape(some, [len(some), -1]), tf.float32)
        return {"embeddings": rows, "sum": tf.reduce_sum(rows, axis=1)}

    content = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 4)).astype(np.uint8)
    predictions = predict(predict_step, content, "embedding")
    assert seen == sizes
    np.testing.assert_array_equal(predictions["embeddings"], content.reshape(10, 24))
    np.testing.assert_array_equal(predictions["sum"], content.sum(axis=(1, 2, 3)))


@pytest.mark.parametrize("content", [np.zeros((0, 2, 3, 1), np.uint8), np.full((4, 2, 3, 1), 0.5)])
def test_what_cannot_be_embedded(content):
    with pytest.raises(ValueError, match=r"Expected images, a NumPy array of uint8 of shape .*Received: "):
        predict(pytest.fail, content, "embedding")


# ------------------------------------------------------------------------------------------- scores


def test_embeddings_of_anything_are_scored():
    """A corner of its own for each class is perfect; and classes can be scored apart."""
    data = eval_input(groups={"unseen": (1, 2)}, seed=7)
    corners = np.eye(3, dtype=np.float32)
    scores = score_embeddings(data, corners[LABELS], corners[GALLERY_LABELS])
    for name in ("knn_accuracy", "recall_at_1", "map_at_r", "unseen/recall_at_1"):
        assert scores[name] == 1
    wrong = score_embeddings(data, corners[LABELS], corners[(GALLERY_LABELS + 1) % 3], thorough=False)
    assert wrong["knn_accuracy"] == 0 and wrong["recall_at_1"] == 1
    assert not [name for name in wrong if "/" in name]


@pytest.mark.usefixtures("few_resamples")
def test_queries_are_looked_up_in_the_gallery():
    """Every class in its corner, but the queries among them in that of another class."""
    is_query = np.arange(23) % 3 == 0
    data = eval_input(roles=Roles(is_query, ~is_query))
    corners = np.eye(3, dtype=np.float32)
    wrong = score_embeddings(data, corners[(LABELS + is_query) % 3], corners[GALLERY_LABELS])
    assert wrong["recall_at_1"] == 0 and wrong["roc_auc"] < 0.5
    assert (wrong["num_queries"], wrong["num_gallery_images"]) == (is_query.sum(), (~is_query).sum())
    assert wrong["knn_accuracy"] == np.mean(~is_query)
    assert score_embeddings(data, corners[LABELS], corners[GALLERY_LABELS], thorough=False)["map_at_r"] == 1
    alone = eval_input(roles=Roles(is_query, ~is_query, np.zeros(23, np.int32)))
    nothing = score_embeddings(alone, corners[LABELS], corners[GALLERY_LABELS])
    assert nothing["queries_left_out"] == is_query.sum() and math.isnan(nothing["map_at_r"])


def test_scores_are_in_the_event_file_as_soon_as_they_are_written(tmp_path):
    writer = open_writer(tmp_path, range(7, 8))
    write_scores(writer, {"global_step": 7, "loss": 0.5, "unseen/map_at_r": 0.25, "silhouette": math.nan})
    found = scalars(tmp_path)  # before the file is closed
    writer.close()
    assert found.keys() == {("loss", 7), ("unseen/retrieval/map_at_r", 7), ("clustering/silhouette", 7)}
    assert found["loss", 7] == [0.5] and found["unseen/retrieval/map_at_r", 7] == [0.25]
    assert math.isnan(found["clustering/silhouette", 7][0])


# ------------------------------------------------------------------------------------------- early stopping


def test_early_stopping_by_hand():
    state, spec = RunState(), EvalSpec(lambda: None, 1, patience=2)
    for step, (value, best_step, without_best, gives_up) in enumerate(
        [(0.5, 1, 0, False), (0.4, 1, 1, False), (0.6, 3, 0, False), (0.6, 4, 1, False), (math.nan, 4, 2, True)], 1
    ):
        state = state.after_step(step).after_evaluation("knn_accuracy", value, 100)
        assert (state.best_step, state.evaluations_without_best) == (best_step, without_best)
        assert spec.gives_up(state) == gives_up
    assert not EvalSpec(lambda: None, 1, patience=None).gives_up(state)
    assert not EvalSpec(lambda: None, 1, patience=3).gives_up(state)
    assert not EvalSpec(lambda: None, 1, "recall_at_1", patience=2).gives_up(state)  # nothing is known of this one
    other = state.after_evaluation("recall_at_1", 0.1, 100)  # values of two metrics are not compared
    assert (other.best_value, other.best_step, other.evaluations_without_best) == (0.1, 5, 0)


# ------------------------------------------------------------------------------------------- Validation


@pytest.fixture
def validation(tmp_path):
    """Builds evaluations of a learner in a folder, and closes them."""
    with contextlib.ExitStack() as stack:

        def build(learner, steps=range(1, 41), every_steps=10, patience=None):
            spec = EvalSpec(eval_input, every_steps, patience=patience, name="validation")
            watched = Validation(spec, model_fn, learner, tmp_path, steps, Place(tmp_path, tmp_path))
            stack.callback(watched.close)
            return watched

        yield build


def watch(monkeypatch, *values):
    """Evaluations find these values of knn_accuracy, one after the other."""
    left = iter(values)
    monkeypatch.setattr(protocol, "watch", lambda *_: {"knn_accuracy": next(left)})


def evaluate_at(watched, learner, *steps):
    for step in steps:
        learner.state = learner.state.after_step(step)
        watched.evaluate()


def kept(model_dir):
    """Step and knn_accuracy of the evaluations in the file."""
    content = json.loads((model_dir / "validation" / "evaluations.json").read_text())
    return [(entry["global_step"], entry["knn_accuracy"]) for entry in content]


@pytest.mark.parametrize("every_steps", [1, 3, 2.5, 22.46875, 0.3, 100])
def test_an_evaluation_is_due_at_the_first_step_that_gets_there(validation, every_steps):
    watched = validation(linear_learner(), every_steps=every_steps)
    due = {math.ceil(k * every_steps) for k in range(1, 200)} | {40}
    assert [step for step in range(1, 41) if watched.is_due(step)] == [step for step in range(1, 41) if step in due]


def test_every_evaluation_is_written_and_remembered(tmp_path, validation, monkeypatch, caplog):
    watch(monkeypatch, 0.5, 0.75, 0.25, 0.25)
    learner = linear_learner()
    watched = validation(learner, patience=2)
    assert watched.scores is None

    def said():  # without what TensorFlow says
        return [record.message for record in caplog.records if record.name == evaluation.__name__]

    with caplog.at_level("INFO"):
        evaluate_at(watched, learner, 10, 20, 30)
        assert said() == []
        evaluate_at(watched, learner, 40)
    assert said() == [
        "Stopped early at step 40: for 2 evaluations knn_accuracy was not above 0.7500; the best checkpoint is that of "
        "step 20."
    ]
    assert kept(tmp_path) == [(10, 0.5), (20, 0.75), (30, 0.25), (40, 0.25)]
    state = learner.state
    assert (state.watched_metric, state.best_step, state.evaluations_without_best) == ("knn_accuracy", 20, 2)
    assert (watched.scores["global_step"], watched.scores["knn_accuracy"]) == (40, 0.25)
    last = json.loads((tmp_path / "validation" / "evaluations.json").read_text())[-1]
    assert last == watched.scores  # the loss among them
    points = scalars(tmp_path / "validation")
    assert [points["classification/knn_accuracy", step] for step in (10, 20, 30)] == [[0.5], [0.75], [0.25]]


def test_what_a_killed_process_told_of_later_steps_is_dropped(tmp_path, validation, monkeypatch):
    watch(monkeypatch, 0.1, 0.2, 0.3, 0.4, 0.5)
    learner = linear_learner()
    evaluate_at(validation(learner), learner, 10, 20, 30)
    learner = linear_learner()
    evaluate_at(validation(learner, range(16, 41)), learner, 20, 35)
    assert kept(tmp_path) == [(10, 0.1), (20, 0.4), (35, 0.5)]
    points = scalars(tmp_path / "validation")
    found = {step: values for (tag, step), values in points.items() if tag == "classification/knn_accuracy"}
    assert found == {10: [np.float32(0.1)], 20: [np.float32(0.4)], 35: [np.float32(0.5)]}


@pytest.mark.parametrize("content", ["[{", '[{"global_step": "x"}]'])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path, validation, monkeypatch, content):
    watch(monkeypatch, 0.5)
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "evaluations.json").write_text(content)
    learner = linear_learner()
    evaluate_at(validation(learner), learner, 10)
    assert kept(tmp_path) == [(10, 0.5)]


def test_a_metric_that_is_not_defined_cannot_choose(tmp_path, validation, monkeypatch):
    watch(monkeypatch, 0.5, math.nan)
    learner = linear_learner()
    watched = validation(learner)
    evaluate_at(watched, learner, 10)
    before = learner.state.after_step(20)
    with pytest.raises(UserError, match="knn_accuracy is not defined for the images of 'validation'") as raised:
        evaluate_at(watched, learner, 20)
    assert str(raised.value).startswith(f"{tmp_path}: ") and "\n" not in str(raised.value)
    assert learner.state == before
    assert kept(tmp_path) == [(10, 0.5), (20, None)]  # whoever watches the run sees why it ended


def test_a_folder_that_was_replaced_gets_no_evaluation(tmp_path, validation, monkeypatch):
    """Also where that happened while the images were scored."""
    learner = linear_learner()
    watched, away = validation(learner), tmp_path.with_name(f"{tmp_path.name}-away")

    def watch_and_lose(*_):
        tmp_path.rename(away)
        tmp_path.mkdir()
        return {"knn_accuracy": 0.5}

    monkeypatch.setattr(protocol, "watch", watch_and_lose)
    with pytest.raises(UserError, match="deleted, moved or replaced"):
        evaluate_at(watched, learner, 10)
    assert not list(tmp_path.iterdir()) and not list(away.rglob("evaluations.json"))
