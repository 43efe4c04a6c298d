"""The Estimator: trains, resumes exactly, evaluates everything, predicts, exports."""

import dataclasses
import errno
import math
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from model.common.errors import Interrupted, UserError
from model.common.images import StoredImages
from model.data import datasets
from model.data.input_fn import EvalInput, TrainInput, eval_input_fn, train_input_fn
from model.data.partition import divide
from model.scoring import protocol
from model.tests import oracles
from model.tests.experiments import digits, estimator, final_tensors, scalars, texts
from model.training import checkpoints, evaluation, event_files
from model.training.estimator import EvalSpec, RunConfig, TrainSpec, train_and_evaluate
from model.training.learner import Learner
from model.training.model_fn import EstimatorSpec, ModeKeys, build_optimizer
from model.training.run_state import RunState

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_resamples")]

STEPS = 44  # two epochs of the small experiment are 45

# What the clock says of a run.
RATES = {"run/steps_per_second", "run/images_per_second"}


def train_input(run):
    return lambda: train_input_fn(divide(digits(), run.params), run.params)


def eval_input(run):
    return lambda: eval_input_fn(divide(digits(), run.params), run.params)


def train(model_dir, max_steps=STEPS, **changes):
    run = estimator(model_dir, **changes)
    return run.train(train_input(run), max_steps)


def linear_network(params, shape, precision):
    dense = keras.layers.Dense(params.embedding_size, kernel_initializer=keras.initializers.GlorotUniform(0), name="d")
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(name="flatten"), dense], name="network")


def mean_square_model_fn(images, labels, mode, params, network, step=0):
    """Makes all embeddings small: a loss that is soon traced."""
    embeddings = network(images, training=mode == ModeKeys.TRAIN)
    total, count = tf.reduce_sum(embeddings**2), tf.cast(tf.size(embeddings), tf.float32)
    return EstimatorSpec(mode, {"embeddings": embeddings}, total / count, {"loss": (total, count)})


def quick(model_dir, config=None, **changes):
    """An estimator of what is soon trained, where what is trained does not matter."""
    run = estimator(model_dir, config, **changes)
    run.network_fn, run.model_fn = linear_network, mean_square_model_fn
    return run


@pytest.fixture(scope="module")
def whole_run(made_once):
    """The small experiment after all its steps, trained in one piece; to be read only."""
    return made_once("estimator_whole", train)


@pytest.fixture
def begun(made_once, tmp_path):
    """The quick experiment after 10 steps, in `tmp_path`."""

    def begin(folder):
        run = quick(folder)
        run.train(train_input(run), 10)

    shutil.copytree(made_once("estimator_begun", begin), tmp_path, dirs_exist_ok=True)
    return quick(tmp_path)


EVERYTHING = {
    "use_batch_norm": True,
    "augmentation": "affine",
    "learning_rate_schedule": "cosine",
    "warmup_steps": 10,
    "normalize_embeddings": True,
    "triplet_strategy": "batch_hard",
    "batch_size": 64,
    "num_classes_per_batch": 8,
    "num_images_per_class": 8,
}
OFFLINE = {"triplet_strategy": "offline_semi_hard", "mining_size": 700, "use_batch_norm": True}  # rounds of 10 steps


def test_training_learns(tmp_path):
    changes = {"learning_rate": 0.01, "num_channels": 16}
    run = train(tmp_path, 1, **changes)
    untrained = run.evaluate(eval_input(run))
    scores = train(tmp_path, 100, **changes).evaluate(eval_input(run))
    assert untrained["recall_at_1"] < 0.8
    assert scores["recall_at_1"] > 0.95
    assert scores["fraction_positive_triplets"] < untrained["fraction_positive_triplets"] / 4


@pytest.mark.parametrize("strategy", ["offline_semi_hard", pytest.param("offline_hard", marks=pytest.mark.proof)])
def test_offline_mining_learns(tmp_path, strategy):
    """From less than 0.8 after one step, as with all triplets of a batch."""
    run = train(tmp_path, 60, learning_rate=0.01, num_channels=16, triplet_strategy=strategy, mining_size=128)
    assert run.evaluate(eval_input(run))["recall_at_1"] > 0.95


def warnings_of(caplog):
    """Those of this project; TensorFlow counts how often a process traces, and these tests do often."""
    return [
        record.message
        for record in caplog.records
        if record.levelname == "WARNING" and record.name.startswith("model.")
    ]


@pytest.mark.parametrize("strategy", ["multi_similarity", "supervised_contrastive", "lifted_structured", "circle"])
def test_losses_of_pairs_learn(tmp_path, caplog, strategy):
    """With the numbers of their papers, and nothing that worries the doctor."""
    run = train(tmp_path, 60, learning_rate=0.01, num_channels=16, triplet_strategy=strategy)
    assert run.evaluate(eval_input(run))["recall_at_1"] > 0.93
    assert warnings_of(caplog) == []


# A run of the defaults is interrupted by signals below.
@pytest.mark.parametrize("changes", [EVERYTHING, OFFLINE], ids=["everything", "offline"])
def test_a_run_in_pieces_ends_with_the_same_bits(tmp_path, changes):
    train(tmp_path / "whole", **changes)
    for max_steps in (11, STEPS):
        run = estimator(tmp_path / "pieces", **changes)
        run.optimizer_fn = lambda params, _: build_optimizer(params, STEPS)  # the schedule of the whole run
        run.train(train_input(run), max_steps)
    assert final_tensors(tmp_path / "pieces") == final_tensors(tmp_path / "whole")


def dropout_network(params, shape, precision):
    network = linear_network(params, shape, precision)
    dropout = keras.layers.Dropout(0.5, seed=1, name="dropout")
    return keras.Sequential([keras.Input(shape), network.layers[0], dropout, network.layers[1]], name="network")


def test_the_state_of_a_random_layer_is_resumed(tmp_path):
    for folder, pieces in [("whole", [20]), ("pieces", [7, 20])]:
        for max_steps in pieces:
            run = quick(tmp_path / folder)
            run.network_fn = dropout_network
            run.train(train_input(run), max_steps)
    whole = final_tensors(tmp_path / "whole")
    assert {name for name in whole[1] if "seed" in name} == {"seed_generator/seed_generator_state"}
    assert final_tensors(tmp_path / "pieces") == whole
    here = run.evaluate(eval_input(run))
    keras.backend.clear_session()  # as in a new process, layers are numbered from the start
    assert run.evaluate(eval_input(run)) == here


def test_event_files_show_each_step_once_after_a_crash(tmp_path, monkeypatch):
    """The process dies between two checkpoints, after it has written about steps that it will make again."""
    expected = quick(tmp_path / "whole")
    train_and_evaluate(expected, TrainSpec(train_input(expected), STEPS), EvalSpec(eval_input(expected), 7))

    class Died(BaseException):
        pass

    save, saved = checkpoints.save, []

    def save_or_die(*args):
        if args[1] in (14, 30) and args[1] not in saved:  # the first attempt to save these steps
            saved.append(args[1])
            raise Died
        return save(*args)

    monkeypatch.setattr(checkpoints, "save", save_or_die)
    for _ in range(2):
        run = quick(tmp_path / "crashed")
        with pytest.raises(Died):
            train_and_evaluate(run, TrainSpec(train_input(run), STEPS), EvalSpec(eval_input(run), 7))
    run = quick(tmp_path / "crashed")
    train_and_evaluate(run, TrainSpec(train_input(run), STEPS), EvalSpec(eval_input(run), 7))

    assert saved == [14, 30]
    assert final_tensors(tmp_path / "crashed") == final_tensors(tmp_path / "whole")
    for folder in (".", "eval"):
        whole, crashed = scalars(tmp_path / "whole" / folder), scalars(tmp_path / "crashed" / folder)
        assert set(crashed) == set(whole)
        for (tag, step), values in crashed.items():
            assert len(values) == 1, (tag, step)
            assert tag in RATES or values == whole[tag, step]


def test_curves_have_the_names_that_people_know_and_all_others_a_group(tmp_path):
    run = estimator(tmp_path)
    train_and_evaluate(run, TrainSpec(train_input(run), 14), EvalSpec(eval_input(run), 7))
    of_the_loss = {
        "loss", "embedding_mean_norm", "fraction_positive_triplets", "hardest_positive_dist", "hardest_negative_dist",
        "distances/mean_positive_dist", "distances/mean_negative_dist",
        "triplets/fraction_hard_triplets", "triplets/fraction_semi_hard_triplets", "triplets/fraction_easy_triplets",
        "triplets/anchors_without_positive", "triplets/anchors_without_negative",
    }  # fmt: skip
    trained, evaluated = scalars(tmp_path), scalars(tmp_path / "eval")
    assert {tag for tag, _ in trained} == of_the_loss | {"run/learning_rate", "run/gradient_norm", *RATES}
    assert {step for _, step in trained} == {5, 10, 14}
    watched = of_the_loss | {
        "classification/knn_accuracy", "sizes/knn_images_left_out",
        "retrieval/recall_at_1", "retrieval/recall_at_5", "retrieval/recall_at_10", "retrieval/precision_at_1",
        "retrieval/r_precision", "retrieval/map_at_r", "retrieval/mrr",
    }  # fmt: skip
    assert {tag for tag, _ in evaluated} == watched  # the charts of training and evaluation are the same
    assert {step for _, step in evaluated} == {7, 14}

    scores = run.evaluate(eval_input(run))
    assert scores["recall_at_1_low95"] <= scores["recall_at_1"] <= scores["recall_at_1_high95"]
    assert {tag for tag, step in scalars(tmp_path / "eval") if step == 14} == watched | {
        "classification/knn_accuracy_k5", "clustering/nmi", "clustering/ami", "clustering/silhouette",
        "sizes/num_images", "sizes/queries_left_out", "sizes/knn_images", "sizes/knn_gallery_images",
        "verification/roc_auc", "verification/eer", "verification/eer_threshold",
        "verification/verification_accuracy", "verification/verification_threshold",
        "verification/false_accept_rate", "verification/false_reject_rate",
        *(f"verification/{name}_at_far_1e-{power}" for name in ("tar", "threshold") for power in (1, 2, 3, 4)),
    }  # fmt: skip
    tags = {
        value.tag
        for path in tmp_path.glob("events*")
        for _, event in event_files._readable_events(path)
        for value in event.summary.value
    }
    assert "images/train_image" in tags


def test_evaluation_is_what_the_embeddings_give(tmp_path):
    """Scores against plain loops over the predictions: every image counts, and terms count, not batches."""
    run = train(tmp_path, 30, batch_size=50)
    scores = run.evaluate(eval_input(run))
    data = digits()
    test = run.predict(lambda: data.test.images)["embeddings"]
    gallery = run.predict(lambda: data.train.images)["embeddings"]
    assert scores["global_step"] == 30
    assert scores["embedding_mean_norm"] == pytest.approx(np.linalg.norm(test, axis=1).mean(), rel=1e-5)
    nearest = cdist(test, gallery).argmin(axis=1)
    assert scores["knn_accuracy"] == np.mean(data.train.labels[nearest] == data.test.labels)
    among_themselves = cdist(test, test) + np.diag(np.full(len(test), np.inf))
    assert scores["recall_at_1"] == np.mean(data.test.labels[among_themselves.argmin(axis=1)] == data.test.labels)

    batches = eval_input_fn(divide(data, run.params), run.params).batches
    assert len(batches[-1]) not in (0, 50)  # the last one is smaller
    losses, valid = [], 0
    for batch in batches:
        labels, d = data.test.labels[batch], oracles.pairwise_distances(test[batch])
        of_batch = [d[a, p] - d[a, n] + run.params.margin for a, p, n in oracles.triplets(labels)]
        losses += [loss for loss in of_batch if loss > 0]
        valid += len(of_batch)
    assert scores["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert scores["fraction_positive_triplets"] == pytest.approx(len(losses) / valid, rel=1e-3)


def test_evaluating_twice_leaves_one_point(begun, tmp_path):
    run = begun
    assert run.evaluate(eval_input(run)) == run.evaluate(eval_input(run))
    run.train(train_input(run), 20).evaluate(eval_input(run))
    run.evaluate(eval_input(run), run.checkpoint(str(tmp_path / "checkpoints" / "step-00000010")))
    assert {key: len(values) for key, values in scalars(tmp_path / "eval").items()} == {
        (tag, step): 1 for tag, _ in scalars(tmp_path / "eval") for step in (10, 20)
    }


def test_evaluating_while_training_goes_on_leaves_its_event_files_alone(begun, tmp_path, caplog):
    run = begun
    run.evaluate(eval_input(run))
    before = {path: path.read_bytes() for path in (tmp_path / "eval").iterdir()}

    def input_fn():
        with caplog.at_level("INFO"):
            assert run.evaluate(eval_input(run))["global_step"] == 10
        assert {path: path.read_bytes() for path in (tmp_path / "eval").iterdir()} == before
        return train_input(run)()

    run.train(input_fn, 11)
    assert "training goes on here; these scores are not added to its curves" in caplog.text


def test_an_interrupted_evaluation_loses_no_point(begun, tmp_path, monkeypatch):
    run = begun
    run.evaluate(eval_input(run))
    monkeypatch.setattr(protocol, "score", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(eval_input(run))
    assert len(scalars(tmp_path / "eval")["retrieval/recall_at_1", 10]) == 1


def test_other_training_images_are_not_taken_for_the_same(begun):
    run = begun
    data = train_input(run)()
    loaded = digits()
    images = loaded.train.images.copy()
    images[0, 0, 0] ^= 1
    other = dataclasses.replace(loaded, train=dataclasses.replace(loaded.train, images=images))
    assert other.train_sha256 != data.train_sha256
    with pytest.raises(UserError, match="the training images are not those that this was trained on"):
        run.train(lambda: train_input_fn(divide(other, run.params), run.params), 20)


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "eval").write_text("")
    run = estimator(tmp_path)
    with pytest.raises(UserError, match=r"eval: File exists$"):
        train_and_evaluate(run, TrainSpec(train_input(run), 5), EvalSpec(eval_input(run), 5))


def test_early_stopping_stops_says_so_and_stays_stopped(tmp_path, monkeypatch, caplog):
    values = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.95])
    monkeypatch.setattr(protocol, "watch", lambda *_: {"recall_at_1": next(values)})
    run = quick(tmp_path, keep_checkpoint_max=1)
    spec = TrainSpec(train_input(run), STEPS), EvalSpec(eval_input(run), 5, "recall_at_1", patience=2)
    with caplog.at_level("INFO"):
        assert train_and_evaluate(run, *spec)["recall_at_1"] == 0.7
    assert "Stopped early at step 20: for 2 evaluations recall_at_1 was not above 0.9000; the best" in caplog.text
    assert run.checkpoint("newest").path.name == "step-00000020"
    assert run.checkpoint("best").path.name == "step-00000010"
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step-00000010", "step-00000020"]
    assert train_and_evaluate(quick(tmp_path), *spec) is None
    assert run.checkpoint("newest").path.name == "step-00000020"
    patient = EvalSpec(eval_input(run), 5, "recall_at_1", patience=3)  # thought better of: one more evaluation
    assert train_and_evaluate(quick(tmp_path), spec[0], patient)["recall_at_1"] == 0.6
    assert run.checkpoint("newest").path.name == "step-00000025"
    better = EvalSpec(eval_input(run), 5, "recall_at_1", patience=4)
    run = quick(tmp_path, keep_checkpoint_max=1)
    assert train_and_evaluate(run, TrainSpec(train_input(run), 30), better)["recall_at_1"] == 0.95
    assert run.checkpoint("best").path == run.checkpoint("newest").path
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["step-00000030"]


def test_what_another_metric_stopped_goes_on(tmp_path, monkeypatch):
    """The old metric's best is no best of the new one's, however good it was."""
    values = iter([(0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.2)])
    monkeypatch.setattr(protocol, "watch", lambda *_: dict(zip(("knn_accuracy", "map_at_r"), next(values))))  # noqa: B905
    run = quick(tmp_path)
    to_40 = TrainSpec(train_input(run), 40)
    train_and_evaluate(run, to_40, EvalSpec(eval_input(run), 10, "knn_accuracy", patience=1))
    assert (run.checkpoint("newest").path.name, run.checkpoint("best").path.name) == ("step-00000020", "step-00000010")
    train_and_evaluate(run, to_40, EvalSpec(eval_input(run), 10, "map_at_r", patience=1))
    assert (run.checkpoint("newest").path.name, run.checkpoint("best").path.name) == ("step-00000040", "step-00000030")


def test_a_best_checkpoint_that_somebody_deleted_does_not_count(tmp_path, monkeypatch):
    values = iter([0.9, 0.5, 0.6])
    monkeypatch.setattr(protocol, "watch", lambda *_: {"knn_accuracy": next(values)})
    run = quick(tmp_path)
    train_and_evaluate(run, TrainSpec(train_input(run), 20), EvalSpec(eval_input(run), 10))
    shutil.rmtree(run.checkpoint("best").path)
    with pytest.raises(UserError, match="no best checkpoint"):
        run.checkpoint("best")
    assert run.checkpoint().path.name == "step-00000020"
    train_and_evaluate(run, TrainSpec(train_input(run), 30), EvalSpec(eval_input(run), 10))
    assert run.checkpoint("best").path.name == "step-00000030"


def test_a_complete_run_is_left_alone(begun, tmp_path):
    before = final_tensors(tmp_path)
    begun.train(train_input(begun), 10)
    begun.train(train_input(begun), 5)
    assert final_tensors(tmp_path) == before


def test_a_signal_saves_and_stops_and_the_rest_gives_the_same_bits(tmp_path, monkeypatch, whole_run):
    after_step = RunState.after_step
    for number, step in [(signal.SIGINT, 8), (signal.SIGTERM, 20)]:
        made = []

        def after_step_with_a_signal(state, global_step, made=made, number=number, step=step):
            if global_step >= step:
                os.kill(os.getpid(), number)
            made.append(global_step)
            return after_step(state, global_step)

        run = estimator(tmp_path)
        handler = signal.getsignal(number)
        with monkeypatch.context() as patch, pytest.raises(Interrupted) as raised:
            patch.setattr(RunState, "after_step", after_step_with_a_signal)
            run.train(train_input(run), STEPS)
        assert raised.value.exit_code == 128 + number
        assert signal.getsignal(number) == handler
        assert run.checkpoint("newest").path.name == f"step-{made[-1]:08}"  # the steps of the call were finished
        assert [n >= step for n in made] == [False] * (len(made) - 1) + [True]  # and no others were made
    train(tmp_path)
    assert final_tensors(tmp_path) == final_tensors(whole_run)
    assert {step for _, step in scalars(tmp_path)} == {step for _, step in scalars(whole_run)}


def test_a_signal_while_the_end_is_saved_is_heeded(tmp_path, monkeypatch):
    """Or the scores of the test images would be computed for somebody who has asked to stop."""
    run, save = estimator(tmp_path), Learner.save

    def save_with_a_signal(learner, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        save(learner, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="Stopped at step 3") as raised:
        patch.setattr(Learner, "save", save_with_a_signal)
        run.train(train_input(run), 3)
    assert raised.value.exit_code == 128 + signal.SIGTERM and run.is_complete(3)
    run.train(train_input(run), 3)


@tf.custom_gradient
def with_broken_gradient(loss, is_broken):
    return loss, lambda upstream: (tf.where(is_broken, math.inf, upstream), None)


def breaking(part, *steps):
    """A `model_fn` in which the loss or its gradient is not a number at some steps."""

    def broken_model_fn(images, labels, mode, params, network, step=0):
        spec = mean_square_model_fn(images, labels, mode, params, network, step)
        is_broken = tf.reduce_any(tf.equal(tf.cast(step, tf.int64) + 1, steps))
        if part == "loss":
            return dataclasses.replace(spec, loss=tf.where(is_broken, math.nan, spec.loss))
        return dataclasses.replace(spec, loss=with_broken_gradient(spec.loss, is_broken))

    return broken_model_fn


def test_a_step_that_breaks_down_between_two_reports_is_not_saved(tmp_path):
    run = quick(tmp_path, save_summary_steps=40, save_checkpoints_steps=10)
    run.model_fn = breaking("loss", 12)
    with pytest.raises(UserError, match=r"the loss is NaN or infinite at step 12; .* checkpoint is step-00000010\."):
        run.train(train_input(run), STEPS)


def test_weights_that_break_down_are_told_before_they_mine(tmp_path):
    """In rounds of 10 steps, of which the second would be mined with them."""
    run = quick(tmp_path, **{**OFFLINE, "use_batch_norm": False}, save_summary_steps=40, save_checkpoints_steps=40)
    run.model_fn = breaking("gradient", 7)
    with pytest.raises(UserError, match=r"the gradient is NaN or infinite at step 7 and 3 of the next 3; lower learn"):
        run.train(train_input(run), STEPS)


def test_a_model_fn_need_not_name_metrics(tmp_path):
    """The curve of the loss is there all the same."""

    def bare_model_fn(*args):
        return dataclasses.replace(mean_square_model_fn(*args), metrics={})

    for folder, its_model_fn in (("named", mean_square_model_fn), ("bare", bare_model_fn)):
        run = quick(tmp_path / folder)
        run.model_fn = its_model_fn
        run.train(train_input(run), 10)
        assert "recall_at_1" in run.evaluate(eval_input(run))
    named, bare = (scalars(tmp_path / folder) for folder in ("named", "bare"))
    losses = [bare["loss", step] for step in (5, 10)]
    np.testing.assert_allclose(losses, [named["loss", step] for step in (5, 10)], rtol=1e-6)
    assert losses[0] > losses[1]


def test_the_first_step_of_the_whole_network_is_not_timed(tmp_path, monkeypatch):
    """As it is compiled; nor are those between it and the report before."""
    made = []
    after_time = RunState.after_time
    monkeypatch.setattr(
        RunState, "after_time", lambda state, steps, seconds: made.append(steps) or after_time(state, steps, seconds)
    )
    run = estimator(tmp_path)
    run.model_fn, run.params = mean_square_model_fn, run.params.model_copy(update={"frozen_epochs": 1})
    frozen = train_input(run)().steps_in(1)
    assert 20 < frozen < 24
    run.train(train_input(run), 30)
    assert made == [4, 5, 5, 5, 25 - (frozen + 1), 5]  # reports after steps 5, 10, ...


@pytest.mark.parametrize(("part", "broken"), [("loss", 1), ("gradient", 3)])  # a gradient gets into the weights
def test_a_step_that_breaks_down_ends_the_run_before_it_is_saved(begun, tmp_path, part, broken):
    run = begun
    run.model_fn = breaking(part, 12, 14)
    with pytest.raises(UserError) as raised:
        run.train(train_input(run), STEPS)
    assert str(raised.value) == (
        f"{tmp_path}: the {part} is NaN or infinite at step 12 and {broken} of the next 3; lower learning_rate "
        "(0.002). Training stopped; the last checkpoint is step-00000010."
    )
    assert run.checkpoint("newest").path.name == "step-00000010"
    assert ("doctor/nan", 15) in texts(tmp_path)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_steps_that_break_down_are_skipped_if_asked(tmp_path, part, caplog):
    run = quick(tmp_path, on_nan="skip")
    run.model_fn = breaking(part, 7, 12, 14, 33)
    run.train(train_input(run), STEPS)
    assert run.checkpoint("newest").path.name == f"step-{STEPS:08}"  # one that holds NaN is not saved
    assert scalars(tmp_path)["run/broken_steps", STEPS] == [4]
    assert warnings_of(caplog) == [f"Step 10: the {part} is NaN or infinite at step 7; lower learning_rate (0.002)."]


def test_weights_that_overflow_end_the_run_even_if_steps_may_be_skipped(tmp_path):
    run = quick(tmp_path, on_nan="skip")
    run.optimizer_fn = lambda *_: keras.optimizers.Adam(3e38)
    with pytest.raises(UserError, match=r"is NaN or infinite at step \d( and \d of the next \d)?; .*no checkpoint"):
        run.train(train_input(run), STEPS)
    assert run.newest_checkpoint() is None


def test_a_learning_rate_that_is_far_too_large(tmp_path, caplog):
    run = estimator(tmp_path, learning_rate=5.0, save_summary_steps=10)
    run.train(train_input(run), STEPS)
    named = warnings_of(caplog)
    assert any("the loss has grown to" in message and "lower learning_rate (5)" in message for message in named)


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_collapse_warns_or_ends_the_run(tmp_path, on_collapse, caplog):
    run = quick(tmp_path, on_collapse=on_collapse, save_summary_steps=5)

    def collapsing_model_fn(*args):
        spec = mean_square_model_fn(*args)
        embeddings = spec.predictions["embeddings"]
        return dataclasses.replace(spec, predictions={"embeddings": tf.zeros_like(embeddings)})

    run.model_fn = collapsing_model_fn
    if on_collapse == "stop":
        with pytest.raises(UserError, match=r"collapsed: .*Training stopped; the last checkpoint is step-00000010\."):
            run.train(train_input(run), STEPS)
    else:
        run.train(train_input(run), STEPS)
        assert [record.message[:38] for record in caplog.records if "collapsed" in record.message] == [
            "Step 15: the embeddings have collapsed"
        ]
    assert ("doctor/collapse", 15) in texts(tmp_path)


def test_the_doctor_has_a_last_word_on_a_run_that_stops_early(tmp_path, monkeypatch, caplog):
    """Before its first report: images of as many classes have no triplets."""
    monkeypatch.setattr(protocol, "watch", lambda *_: {"knn_accuracy": 0.5})
    run = quick(tmp_path, save_summary_steps=1000)
    spec = EvalSpec(eval_input(run), every_steps=2, patience=1)
    lone = dataclasses.replace(train_input(run)(), labels=np.arange(len(train_input(run)().labels), dtype=np.int32))
    train_and_evaluate(run, TrainSpec(lambda: lone, STEPS), spec)
    assert run.newest_checkpoint().step == 4
    warnings = warnings_of(caplog)
    assert [message.partition(";")[0] for message in warnings] == [
        "Step 4: a batch of 64 images has no triplet, two images of a class and one of another",
        "Step 4: 100% of the images of a batch have no positive in it and teach nothing",
    ]
    assert ("loss", 4) in scalars(tmp_path)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(
            None, None, "{{node x}} event_files.out; No space left on device\n [Op:Flush]"
        )

    monkeypatch.setattr("model.training.progress.TrainingProgress.report", full)
    run = quick(tmp_path)
    with pytest.raises(UserError) as raised:
        run.train(train_input(run), STEPS)
    assert str(raised.value) == (
        "event_files.out: No space left on device; make room on the disk, and start the same command again"
    )


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_folder_that_is_not_the_one_that_was_locked_gets_nothing(tmp_path, monkeypatch, is_deleted):
    """Deleted, or moved away with another one in its place, between two checkpoints."""
    model_dir, after_step = tmp_path / "mine", RunState.after_step

    def after_step_with_harm(state, global_step):
        if global_step >= 12:
            model_dir.rename(tmp_path / "away")
            if not is_deleted:
                model_dir.mkdir()
        return after_step(state, global_step)

    monkeypatch.setattr(RunState, "after_step", after_step_with_harm)
    run = quick(model_dir)
    with pytest.raises(UserError, match=f"^{model_dir}: deleted, moved or replaced while this command ran"):
        run.train(train_input(run), STEPS)
    assert not model_dir.exists() if is_deleted else not list(model_dir.iterdir())
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path / "away")] == ["step-00000010"]


@pytest.mark.parametrize("write", [(evaluation, "Evaluator"), (evaluation, "write_scores"), (checkpoints, "save")])
def test_a_folder_that_goes_while_it_is_written_into_is_told_as_such_and_not_made_anew(tmp_path, monkeypatch, write):
    """Not by the file that cannot be written then."""
    model_dir, (module, name) = tmp_path / "mine", write
    written = vars(module)[name]

    def write_too_late(*arguments):
        model_dir.rename(tmp_path / "away")
        return written(*arguments)

    monkeypatch.setattr(module, name, write_too_late)
    run = quick(model_dir)
    with pytest.raises(UserError, match=f"^{model_dir}: deleted, moved or replaced while this command ran"):
        train_and_evaluate(run, TrainSpec(train_input(run), STEPS), EvalSpec(eval_input(run), 7))
    assert not model_dir.exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, "Read-only file system"), tf.errors.DataLossError(None, None, "")]
)
def test_scores_that_find_no_place_in_the_curves_are_not_lost(begun, tmp_path, monkeypatch, caplog, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(event_files, "open_writer", refuse)
    run = begun
    assert run.evaluate(eval_input(run))["global_step"] == 10
    told = [record.getMessage() for record in caplog.records if record.name.startswith("model")]
    assert told == [f"{tmp_path}: cannot be written; these scores are not added to its curves."]


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_size": 9}, r"step-00000010: 'embedding_size' is 9 in params.json and was 8 when this was saved"),
        ({"use_batch_norm": True}, "'use_batch_norm' is true in params.json and was false"),
    ],
)
def test_a_run_cannot_go_on_with_another_network(tmp_path, changes, message):
    before = final_tensors(tmp_path)
    with pytest.raises(UserError, match=message):
        train(tmp_path, 20, **changes)
    assert final_tensors(tmp_path) == before


@pytest.mark.usefixtures("begun")
def test_a_changed_learning_rate_is_used_after_a_resume(tmp_path):
    run = quick(tmp_path, learning_rate=0.125)
    run.train(train_input(run), 20)
    assert scalars(tmp_path)["run/learning_rate", 15] == [0.125]


def test_no_checkpoint_to_evaluate(tmp_path):
    run = estimator(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint; train first: python train.py --model_dir"):
        run.evaluate(eval_input(run))
    assert run.newest_checkpoint() is None
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    first = estimator(tmp_path)

    def input_fn():
        estimator(tmp_path).train(train_input(first), 5)

    with pytest.raises(UserError, match="another process is training here"):
        first.train(input_fn, 5)
    assert first.newest_checkpoint() is None


def test_an_exported_model_serves_the_same_embeddings(tmp_path):
    run = train(tmp_path, 10, use_batch_norm=True)
    images = digits().test.images[:7]
    loaded = tf.saved_model.load(str(run.export_saved_model(tmp_path / "export", (8, 8, 1))))
    served = loaded.serve(tf.constant(images))["embeddings"]
    np.testing.assert_allclose(served, run.predict(lambda: images)["embeddings"], rtol=1e-6)


@pytest.mark.parametrize("changes", [{"use_batch_norm": True}, pytest.param(OFFLINE, marks=pytest.mark.proof)])
def test_a_strategy_of_two_devices_resumes(tmp_path, two_devices, changes):
    config = RunConfig(5, 10, 5, train_distribute=two_devices)
    whole = estimator(tmp_path / "whole", config, **changes)
    whole.train(train_input(whole), 25)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for step in (20, 25):
        shutil.rmtree(tmp_path / f"resumed/checkpoints/step-{step:08}")
    resumed = estimator(tmp_path / "resumed", config, **changes)
    resumed.train(train_input(resumed), 25)
    assert final_tensors(tmp_path / "resumed") == final_tensors(tmp_path / "whole")
    assert resumed.evaluate(eval_input(resumed))["recall_at_1"] > 0.5


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (1, {"triplet_strategy": "offline_semi_hard", "mining_size": 200}),
        (2, {"use_batch_norm": True, "augmentation": "affine", "memory_size": 100}),
    ],
)
def test_streamed_and_resident_images_give_the_same_bits(tmp_path, two_devices, changes, number):
    config = RunConfig(5, 10, 5, train_distribute=two_devices if number == 2 else None)
    for kind in ("memory", "stored"):
        run = estimator(tmp_path / kind, config, **changes)
        partition = divide(datasets.load("digits", tmp_path, kind=kind), run.params)
        data = train_input_fn(partition, run.params)
        assert isinstance(data.images, StoredImages) == (kind == "stored")
        run.train(lambda data=data: data, 12)
    assert final_tensors(tmp_path / "memory") == final_tensors(tmp_path / "stored")


def test_a_run_goes_on_with_another_number_of_devices(begun, two_devices, caplog):
    """It says so; and what a checkpoint of one device holds is on both, for the averages and weights are the same."""
    caplog.set_level("INFO")
    assert begun.newest_checkpoint().state.devices == 1
    begun.config = dataclasses.replace(begun.config, train_distribute=two_devices)
    begun.train(train_input(begun), 15)
    assert "Devices that share a batch: 2, and 1 until here." in caplog.messages
    assert begun.newest_checkpoint().state.devices == 2
    caplog.clear()
    begun.train(train_input(begun), 20)
    assert not any("Devices" in message for message in caplog.messages)


def test_batch_normalization_of_parts_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    for changes, is_told in (({"use_batch_norm": True}, True), ({}, False)):
        run = estimator(
            tmp_path / str(is_told), batch_size=12, micro_batch_size=4, **{"use_batch_norm": False, **changes}
        )
        run.train(train_input(run), 1)
        assert any("Batch normalization sees 4 images at a time" in said for said in caplog.messages) == is_told
        caplog.clear()


def test_batches_that_two_devices_cannot_share_are_refused(tmp_path, two_devices):
    config = RunConfig(5, 10, 5, train_distribute=two_devices)
    odd = estimator(tmp_path / "odd", config, batch_size=63)
    with pytest.raises(UserError, match="'batch_size' must be a multiple of the 2 devices, received 63"):
        odd.train(train_input(odd), 1)
    parts = estimator(tmp_path / "odd", config, batch_size=12, micro_batch_size=4)
    with pytest.raises(UserError, match=r"'micro_batch_size' must divide the 6 images .* each of the 2 devices .* 4"):
        parts.train(train_input(parts), 1)
    for run, key in ((odd, "batch_size"), (parts, "micro_batch_size")):
        with pytest.raises(UserError, match=f"'{key}' must"):
            next(run.foresee(train_input(run)(), 1))


def test_an_exported_model_takes_pixels_and_nothing_else(tmp_path):
    run = quick(tmp_path / "run")
    run.train(train_input(run), 1)
    first, second = (run.export_saved_model(tmp_path / "export", (8, 8, 1)) for _ in range(2))
    assert first != second and int(first.name) > 1.6e9
    loaded = tf.saved_model.load(str(first))
    (_, taken), *_ = loaded.signatures["serving_default"].structured_input_signature[1].items()
    assert taken.dtype == tf.uint8
    images = digits().test.images[:4]
    expected = run.predict(lambda: images)["embeddings"]
    for same in (images, tf.constant(images), images.astype(np.float32), tf.constant(images, tf.float32)):
        np.testing.assert_array_equal(loaded.serve(same)["embeddings"], expected)
    wrong = [images / 255, images + 0.5, images * np.nan, images - 300.0, images + np.inf, images.astype(int) + 300]
    for pixels in wrong:
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
            loaded.serve(pixels)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="Expected images of uint8, or whole numbers from 0 to"
        ):
            loaded.serve(tf.constant(pixels, tf.float32))
        with pytest.raises(tf.errors.InvalidArgumentError, match="expected to be a uint8 tensor but is a float tensor"):
            loaded.signatures["serve"](images=tf.constant(pixels, tf.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, bool])
def test_images_of_another_type_are_refused_everywhere(tmp_path, dtype):
    run = estimator(tmp_path)
    images, labels = digits().test.images.astype(dtype), digits().test.labels
    for call in (
        lambda: run.predict(lambda: images),
        lambda: run.predict(lambda: images.tolist()),
        lambda: run.evaluate(lambda: EvalInput(images, labels, digits().train.images, digits().train.labels, [])),
        lambda: run.evaluate(lambda: EvalInput(digits().train.images, digits().train.labels, images, labels, [])),
        lambda: run.train(lambda: TrainInput(images, labels, lambda step: labels[:8], 8), 1),
    ):
        with pytest.raises(ValueError, match=r"Expected images, .* of uint8 of shape \(N, H, W, C\), .*Received: "):
            call()
