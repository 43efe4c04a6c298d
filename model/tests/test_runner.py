"""An experiment at work: scores belong to what was trained, whatever params.json says by now."""

import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2

from model.common import cli
from model.common.errors import UserError
from model.runner import Trained
from model.start import start
from model.studies import comparison
from model.studies.runs import pool_runs, read_run
from model.tests.experiments import SMALL, write_params
from model.tests.images import save
from model.training import checkpoints

NUM_STEPS = 180  # that the shared experiment was trained for, in 8 epochs
SAID_LATER = {"margin": 0.25, "triplet_strategy": "batch_hard", "num_epochs": 8}


@pytest.fixture(autouse=True)
def log():
    yield
    cli._end_log()


@pytest.fixture
def finished(trained_copy):
    return trained_copy


@pytest.fixture
def loads(monkeypatch):
    """The checkpoints that are read, in order."""
    read, seen = checkpoints.load, []

    def load(path):
        seen.append(path.name)
        return read(path)

    monkeypatch.setattr(checkpoints, "load", load)
    return seen


def run(model_dir):
    """What train.py does."""
    runner = start(model_dir)
    with runner.session():
        runner.train()
        record = runner.trained().evaluate()
    return record


def hparams_of(model_dir):
    """The row of TensorBoard's HParams tab."""
    shown = {}
    (path,) = model_dir.glob("*.hparams")
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            content = value.metadata.plugin_data.content
            shown |= plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {"margin": float(shown["margin"].string_value), "triplet_strategy": shown["triplet_strategy"].string_value}


def test_scores_of_a_finished_run_keep_its_parameters(finished, loads, caplog):
    before = json.loads((finished / "metrics.json").read_text())
    write_params(finished, **SAID_LATER)
    with caplog.at_level("INFO"):
        run(finished)
    assert loads == ["step-00000180"]  # read once
    after = json.loads((finished / "metrics.json").read_text())
    assert after["metrics"] == before["metrics"]  # the loss too, which margin and strategy define
    assert after["params"] == before["params"] and "margin" not in after["params"]
    assert hparams_of(finished) == {"margin": 0.5, "triplet_strategy": "batch_all"}
    (line,) = [record.getMessage() for record in caplog.records if "has changed since" in record.getMessage()]
    assert line.startswith(f"{finished}/params.json has changed since step-00000180 was trained: ")
    assert 'triplet_strategy "batch_hard" (not "batch_all")' in line and "margin 0.25 (not 0.5)" in line
    (pool,) = pool_runs([read_run(finished / "metrics.json")], finished.parent)
    (row,) = comparison.tabulate([pool], ["knn_accuracy"])
    assert "margin" not in row["differs"] and "batch_hard" not in row["differs"]


@pytest.mark.usefixtures("instant_scores")
def test_a_run_under_two_margins_says_from_which_step_on_each_held(finished, caplog):
    write_params(finished, margin=0.25, num_epochs=9)
    with caplog.at_level("INFO"):
        record = run(finished)
    assert "'margin' is 0.25 in params.json and was 0.5 until step 180." in caplog.text
    assert "has changed since" not in caplog.text  # what was trained last is what the file says
    assert record.params["margin"] == 0.25
    assert list(record.params_history) == [
        {"from_step": 0, "params": {"margin": 0.5}},
        {"from_step": NUM_STEPS, "params": {"margin": 0.25}},  # a longer run is no change
    ]
    mixed = read_run(finished / "metrics.json")
    assert mixed.record == record
    assert mixed.differences["margin"] == "0.5 until step 180, then 0.25"


def test_another_network_is_refused_and_nothing_is_scored(finished):
    before = (finished / "metrics.json").read_bytes()
    write_params(finished, num_epochs=8, embedding_size=9)
    for ask in (lambda: start(finished).trained(), lambda: start(finished).train()):
        with pytest.raises(UserError, match=r"step-00000180: 'embedding_size' is 9 in params.json and was 8 when"):
            ask()
    assert (finished / "metrics.json").read_bytes() == before


def test_other_training_images_are_said_or_refused(finished, monkeypatch, caplog):
    from model.data import datasets

    load = datasets.load

    def with_another_pixel(*args):
        data = load(*args)
        data.train.images[0, 0, 0] ^= 1
        return data

    monkeypatch.setattr(datasets, "load", with_another_pixel)
    runner = start(finished)
    with pytest.raises(UserError, match="the training images are not those that this was trained on"):
        runner.train()
    runner.trained()
    assert "the training images are not those that this was trained on" in caplog.text


@pytest.mark.usefixtures("instant_scores")
def test_a_network_of_ones_own_is_checked_and_compared(finished, monkeypatch):
    """`network_fn` is what --check times, and whose untrained weights are a baseline."""
    runner = start(finished)
    built = []

    def network_fn(params, shape, precision):
        built.append((own(params, shape, precision), shape, precision))
        return built[-1][0]

    own = runner._estimator.network_fn
    runner._estimator.network_fn = network_fn
    *_, last = runner.check()
    assert last.startswith("Time: ")
    assert [args for _, *args in built] == [[(8, 8, 1), "float32"]]
    trained = runner.trained()
    trained._estimator.network_fn = network_fn
    compared = []
    monkeypatch.setattr(
        "model.runner.score_baselines", lambda *args: compared.append(args[-1]) or {"untrained": {"loss": 1.0}}
    )
    record = trained.evaluate(baselines=True)
    assert record.baselines == {"untrained": {"loss": 1.0}}
    assert len(built) == 3 and compared == [built[-1][0]]


def test_images_are_embedded_by_the_parameters_of_the_checkpoint(finished):
    write_params(finished, num_epochs=8, batch_size=32)
    trained = start(finished).trained("newest")
    images = trained.experiment.data.test.images[:5]
    assert trained.params.batch_size == 64 and trained.checkpoint.params == trained.params
    again = Trained(trained.experiment, checkpoints.load(trained.checkpoint.path))
    np.testing.assert_array_equal(trained.embed(images), again.embed(images))
    assert trained.embed(images).shape == (5, SMALL["embedding_size"])


def test_a_checkpoint_from_elsewhere_is_read_though_all_here_are_damaged(finished, trained, loads):
    for index in finished.glob("checkpoints/*/tensors.index"):
        index.write_bytes(b"")
    elsewhere = trained / "checkpoints" / "step-00000180"
    assert start(finished).trained(str(elsewhere)).checkpoint.path == elsewhere
    assert loads == ["step-00000180"]
    with pytest.raises(UserError, match="none of its 5 checkpoints can be read"):
        start(finished).trained()


def test_a_checkpoint_that_was_made_anew_is_read_anew(finished, tmp_path):
    runner = start(finished)
    before = runner.trained().checkpoint
    other = tmp_path / "other"
    other.mkdir()
    tensors = {name: -tensor if tensor.dtype == np.float32 else tensor for name, tensor in before.tensors.items()}
    checkpoints.save(other, NUM_STEPS, tensors, 1)
    shutil.rmtree(finished / "checkpoints")
    shutil.copytree(other / "checkpoints", finished / "checkpoints")
    assert runner.trained().checkpoint.digest != before.digest


@pytest.mark.usefixtures("few_resamples")
def test_scores_are_kept_though_images_have_become_too_few_for_a_batch(finished, monkeypatch):
    """What was trained with batches of 64 is scored among 40 images, and the speed told is that of then."""
    from model.data import datasets
    from model.data.dataset import Dataset, Split

    load = datasets.load

    def with_few_images(*args):
        data = load(*args)
        few = Split(data.train.images[:40], data.train.labels[:40])
        return Dataset(data.name, few, data.test, data.class_names)

    monkeypatch.setattr(datasets, "load", with_few_images)
    write_params(finished, num_epochs=8, batch_size=32)
    record = start(finished).trained().evaluate()
    assert record.provenance.images_per_second > 0 and (finished / "metrics.json").exists()


def recall_at_1(points, labels, is_query, is_gallery, groups):
    """Image by image; groups is None where they may be neighbours."""
    hits = []
    for query in np.flatnonzero(is_query):
        found = [g for g in np.flatnonzero(is_gallery) if g != query and (groups is None or groups[g] != groups[query])]
        if any(labels[g] == labels[query] for g in found):
            distances = [float(np.sum((points[g].astype(float) - points[query].astype(float)) ** 2)) for g in found]
            hits.append(labels[found[int(np.argmin(distances))]] == labels[query])
    return np.mean(hits), int(np.sum(is_query)) - len(hits)


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_queries_are_scored_with_and_without_their_groups(tmp_path):
    """Random images in the list, all the way to metrics.json; the groups may be excluded when all is trained."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split,is_query,is_gallery,group"]
    facts = rng.random((2, 60)) < 0.6, rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    for i in range(60):
        save(tmp_path / f"data/{i}.png", rng.integers(0, 256, (8, 8), np.uint8))
        tested = f"validation,{facts[0][0][i]},{facts[0][1][i]},camera {facts[1][i]}" if i >= 20 else "train,,,"
        rows.append(f"{i}.png,kind {facts[2][i]},{tested}")
    (tmp_path / "data/images.csv").write_text("\n".join(rows))
    params = {"dataset": "mine", "num_epochs": 1, "batch_size": 8}
    model_dir = write_params(tmp_path / "experiment", **params)
    start(model_dir, tmp_path / "data").train()
    results = {}
    for exclude in (False, True):
        write_params(model_dir, exclude_same_group=exclude, **params)
        trained = start(model_dir, tmp_path / "data").trained()
        test = trained.experiment.data.test
        found = trained.evaluate().metrics
        of_tested = (*facts[0][:, 20:], facts[1][20:] if exclude else None)
        expected = recall_at_1(trained.embed(test.images), test.labels, *of_tested)
        assert (found["recall_at_1"], found["queries_left_out"]) == pytest.approx(expected)
        results[exclude] = found["recall_at_1"], found["roc_auc"]
        written = json.loads((model_dir / "metrics.json").read_text())
        assert written["params"].get("exclude_same_group", False) == exclude
    assert results[False] != results[True]
