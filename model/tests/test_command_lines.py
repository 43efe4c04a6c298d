"""train.py and evaluate.py as a user runs them, on real digits; and one clear line for every mistake."""

import contextlib
import errno
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier

import evaluate
import train
import visualize_embeddings
from model import experiment, runner
from model.common import cli
from model.common.versions import code_version
from model.data import datasets
from model.data.dataset import Dataset, Split
from model.data.partition import divide
from model.params import Params
from model.scoring import protocol, verification
from model.scoring.protocol import HEADLINES
from model.scoring.record import Record
from model.tests.experiments import digits, final_tensors, scalars, write_params
from model.training import checkpoints
from model.training.network import build_network
from model.training.run_state import RunState

ROOT = Path(__file__).parents[2]


def run(script, *arguments, **options):
    """Runs a script in a new process."""
    command = [sys.executable, ROOT / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def run_here(script, *arguments):
    """Runs a script in this process."""
    options = getattr(script, "add_options", None)
    cli.run(script.main, "", [str(argument) for argument in arguments], options)


@pytest.fixture(scope="module")
def said(trained):
    """What the process that trained it wrote: stdout, stderr."""
    folder = trained.parents[1]
    return (folder / "stdout").read_text(), (folder / "stderr").read_text()


def test_train_prints_a_table_and_the_next_command(trained, said):
    written = json.loads((trained / "metrics.json").read_text())["metrics"]
    printed = dict(re.findall(r"^  (\w+) +([\d.]+) +\[", said[0], re.MULTILINE))
    assert printed == {name: f"{written[name]:.4f}" for name in HEADLINES}
    assert written["knn_accuracy_low95"] <= written["knn_accuracy"] <= written["knn_accuracy_high95"]
    assert written["global_step"] == -(-1438 * 8 // 64)
    assert float(printed["recall_at_1"]) > 0.9
    program, logdir = re.search(r"^Curves:   (\S*tensorboard) --logdir (\S+)$", said[0], re.MULTILINE).groups()
    assert logdir == str(trained.parent)
    assert shutil.which(program)


def test_the_scores_say_what_they_come_from(trained, said):
    content = json.loads((trained / "metrics.json").read_text())
    params, provenance = content["params"], content["provenance"]
    assert params["seed"] == 230 and params["num_epochs"] == 8 and "batch_size" not in params  # 64 is the default
    assert provenance["trained_by"] == provenance["evaluated_by"] == code_version()
    assert provenance["versions"]["tensorflow"] == tf.__version__
    assert provenance["hardware"] in said[1].splitlines()[0]
    assert provenance["data_sha256"] == digits().sha256
    seconds = 180 * 64 / provenance["images_per_second"]
    assert provenance["train_seconds"] == pytest.approx(seconds, abs=0.051)  # rounded to a tenth
    assert provenance["train_seconds"] < 120


def test_train_says_what_it_runs_on_without_noise(said):
    """Every line on stderr is ours: TensorFlow's greetings are not there."""
    lines = said[1].splitlines()
    assert re.match(r"(No GPU found: r|R)unning on .+\.$", lines[0])
    assert re.match(r"digits: 1438 training and 359 test images of 8x8x1, 10 classes, 0\.1 MB in memory\.$", lines[1])
    assert re.search(r"params.json: 'num_labels' has no effect: the classes are counted in the data\.", lines[2])
    assert lines[3:] and all(re.match(r"epoch \d+/8, step \d+/180, loss .* images/s, .* left$", x) for x in lines[3:])


def test_train_keeps_its_log_and_the_complete_parameters(trained, said):
    logged = (trained / "train.log").read_text()
    assert all(line in logged for line in said[1].splitlines())
    assert Params.from_json(trained / "params.resolved.json") == Params.from_json(trained / "params.json")
    assert "learning_rate_schedule" in json.loads((trained / "params.resolved.json").read_text())


def test_without_validation_the_test_images_are_scored_once_at_the_end(trained):
    assert [step for tag, step in scalars(trained / "eval") if tag == "retrieval/recall_at_1"] == [180]
    assert not (trained / "validation").exists()


@pytest.fixture(scope="module")
def validated_once(made_once):
    return made_once("validated", train_with_validation)


@pytest.fixture
def validated(validated_once, tmp_path):
    """A copy of a run with validation images and two held-out classes whose best checkpoint is not its newest."""
    return shutil.copytree(validated_once, tmp_path / "validated")


def train_with_validation(folder):
    """Trains without the test images; what is printed is beside it, in `stdout`."""
    model_dir = write_params(
        folder,
        num_epochs=8, validation_size=0.2, holdout_classes=[8, 9], keep_checkpoint_max=1, early_stopping_patience=2,
        evaluate_every_epochs=1,
    )  # fmt: skip
    values = itertools.chain([0.1, 0.2, 0.3, 0.4, 0.9], itertools.repeat(0.5))
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / "stdout").open("w") as printed,
        contextlib.redirect_stdout(printed),
    ):
        patch.setattr(protocol, "watch", lambda *_: {"knn_accuracy": next(values)})
        patch.setattr(experiment, "eval_input_fn", None)
        run_here(train, "--model_dir", model_dir, "--validate")


# 1,155 training images are not 8 or 9, a fifth of them is for validation: 924 / 64 = 14.4 steps an epoch
BEST, NEWEST = 73, 102


def test_validate_leaves_the_test_images_alone(validated):
    record = json.loads((validated / "validation.json").read_text())
    assert not (validated / "metrics.json").exists()
    written = record["metrics"]
    assert written["num_images"] == divide(digits(), Params.from_json(validated / "params.json")).validation.labels.size
    assert 0.8 < written["knn_accuracy"] <= 1 and written["knn_accuracy_low95"] < written["knn_accuracy"]
    printed = (validated / "stdout").read_text()
    assert f"validation images, step {BEST}, the best by knn_accuracy" in printed and "validation.json" in printed


def test_the_best_checkpoint_is_kept_beside_the_newest_and_scored(validated):
    kept = [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(validated)]
    assert kept == [BEST, NEWEST]
    watched = {15: 0.1, 29: 0.2, 44: 0.3, 58: 0.4, BEST: 0.9, 87: 0.5, NEWEST: 0.5}
    evaluations = json.loads((validated / "validation" / "evaluations.json").read_text())
    assert {entry["global_step"]: entry["knn_accuracy"] for entry in evaluations} == watched
    assert sorted({step for _, step in scalars(validated / "validation")}) == list(watched)
    written = json.loads((validated / "validation.json").read_text())
    assert written["validation"] == {"metric": "knn_accuracy", "best_value": 0.9, "best_step": BEST}
    assert written["checkpoint"]["name"] == checkpoints.name_of(BEST)
    assert written["metrics"]["global_step"] == BEST


@pytest.mark.usefixtures("instant_scores")
def test_the_checkpoint_that_is_asked_for_is_scored(validated, capsys):
    for choice, step in (("newest", NEWEST), ("best", BEST), (checkpoints.list_checkpoints(validated)[0], BEST)):
        run_here(evaluate, "--model_dir", validated, "--checkpoint", choice)
        said_to_be_best = "the best by knn_accuracy of the validation images" in capsys.readouterr().out
        assert said_to_be_best == (step == BEST)
        written = json.loads((validated / "metrics.json").read_text())
        assert written["metrics"]["global_step"] == step


@pytest.mark.usefixtures("instant_scores")
def test_a_complete_run_reads_the_best_checkpoint_beside_the_newest_and_each_once(validated, monkeypatch):
    load, read = checkpoints.load, []
    monkeypatch.setattr(checkpoints, "load", lambda path: read.append(path.name) or load(path))
    run_here(train, "--model_dir", validated, "--validate")
    assert read == [checkpoints.name_of(step) for step in (NEWEST, BEST)]
    assert json.loads((validated / "validation.json").read_text())["metrics"]["global_step"] == BEST


@pytest.mark.usefixtures("few_resamples")
def test_unseen_classes_are_scored_apart_beside_the_baselines(validated, capsys, monkeypatch):
    numbers = itertools.count(1)  # made up, each once: to compare the pairs of all groups would take most of the time
    monkeypatch.setattr(
        verification, "measure",
        lambda *_: verification.Verification(roc_auc=next(numbers) / 100, eer=next(numbers) / 100),
    )  # fmt: skip
    run_here(evaluate, "--model_dir", validated, "--baselines")
    written = json.loads((validated / "metrics.json").read_text())
    assert written["checkpoint"]["name"] == checkpoints.name_of(BEST)
    assert written["validation"] == {"metric": "knn_accuracy", "best_value": 0.9, "best_step": BEST}
    contenders = {"network": written["metrics"], **written["baselines"]}
    assert list(contenders) == ["network", "raw_pixels", "pca", "untrained"]
    sizes = [written["metrics"][f"{group}num_images"] for group in ("", "seen/", "unseen/")]
    labels = digits().test.labels, np.concatenate([digits().train.labels, digits().test.labels])
    assert sizes == [359, np.isin(labels[0], [8, 9], invert=True).sum(), np.isin(labels[1], [8, 9]).sum()]
    printed = capsys.readouterr().out
    for name in HEADLINES:
        lines = re.findall(rf"^  {name} +(.*)$", printed, re.MULTILINE)
        for group, line in zip(("", "seen/", "unseen/"), lines, strict=True):
            value, *_, raw, pca, untrained = line.split()
            shown = dict(zip(contenders, (value, raw, pca, untrained), strict=True))
            assert shown == {who: f"{scores[group + name]:.4f}" for who, scores in contenders.items()}
    check_baselines(validated)


def check_baselines(validated):
    """The same protocol by other code, scikit-learn's: 1-NN of the test images among all training images."""
    scores = json.loads((validated / "metrics.json").read_text())["baselines"]
    data = digits()
    train_pixels, test_pixels = (split.images.reshape(-1, 64) / 255 for split in (data.train, data.test))
    nearest = KNeighborsClassifier(1).fit(train_pixels, data.train.labels)
    expected = nearest.score(test_pixels, data.test.labels)
    assert scores["raw_pixels"]["knn_accuracy"] == pytest.approx(expected, abs=1.5 / 359)  # ties
    unseen = [np.isin(split.labels, [8, 9]) for split in (data.train, data.test)]
    nearest = KNeighborsClassifier(1).fit(train_pixels[unseen[0]], data.train.labels[unseen[0]])
    expected = nearest.score(test_pixels[unseen[1]], data.test.labels[unseen[1]])
    assert scores["raw_pixels"]["unseen/knn_accuracy"] == pytest.approx(expected, abs=1.5 / 72)

    # Principal components by the eigenvectors of the covariance of the images that were learned from.
    params = Params.from_json(validated / "params.json")
    learned = divide(data, params).train.images.reshape(-1, 64) / 255
    _, axes = np.linalg.eigh(np.cov(learned.T))
    axes = axes[:, -params.embedding_size :]
    nearest = KNeighborsClassifier(1).fit(train_pixels @ axes, data.train.labels)
    expected = nearest.score(test_pixels @ axes, data.test.labels)
    assert scores["pca"]["knn_accuracy"] == pytest.approx(expected, abs=1.5 / 359)

    # The untrained network: the embeddings of a run that has made no step.
    network = build_network(params, (8, 8, 1))
    gallery, asked = (network(split.images / 255.0).numpy() for split in (data.train, data.test))
    expected = KNeighborsClassifier(1).fit(gallery, data.train.labels).score(asked, data.test.labels)
    assert scores["untrained"]["knn_accuracy"] == pytest.approx(expected, abs=1.5 / 359)


def test_validate_needs_validation_images_before_it_trains(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        run_here(train, "--model_dir", write_params(tmp_path), "--validate")
    assert raised.value.code == 2 and not (tmp_path / "checkpoints").exists()
    line = capsys.readouterr().err.splitlines()[-1]
    assert "params.json: 'validation_size' or 'validation_classes' is missing" in line


def test_there_is_no_best_checkpoint_without_validation(trained_copy, capsys):
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", trained_copy, "--checkpoint", "best")
    assert raised.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no best checkpoint" in line and "--checkpoint newest" in line


def test_a_folder_that_is_no_checkpoint_is_not_called_damaged(trained_copy, capsys):
    for folder in (trained_copy, trained_copy / "checkpoints", "."):
        with pytest.raises(SystemExit):
            run_here(evaluate, "--model_dir", trained_copy, "--checkpoint", folder)
        line = capsys.readouterr().err.splitlines()[-1]
        assert "expected the folder of a checkpoint, such as checkpoints/step-00001000" in line and "delete" not in line


@pytest.mark.usefixtures("instant_scores")
def test_a_best_checkpoint_that_is_gone_is_said(validated, capsys):
    shutil.rmtree(checkpoints.list_checkpoints(validated)[0])
    run_here(evaluate, "--model_dir", validated)
    output = capsys.readouterr()
    assert f"The best checkpoint, of step {BEST}, is not there any more; taking the newest." in output.err
    assert f"step {NEWEST}\n" in output.out


def test_train_again_says_that_training_is_complete(trained, trained_copy, said, capsys, caplog):
    with caplog.at_level(logging.INFO):
        run_here(train, "--model_dir", trained_copy)
    assert "Training is complete" in caplog.text
    assert capsys.readouterr().out == said[0].replace(str(trained.parent), str(trained_copy.parent))
    assert final_tensors(trained_copy) == final_tensors(trained)


def test_evaluate_gives_the_same_scores_and_remembers_who_trained(trained, trained_copy, said, capsys, monkeypatch):
    monkeypatch.setattr(runner, "code_version", lambda: "another")
    run_here(evaluate, "--model_dir", trained_copy)
    assert capsys.readouterr().out == said[0].replace(str(trained.parent), str(trained_copy.parent))
    before, version = (trained / "metrics.json").read_text(), json.dumps(code_version())
    assert f'"trained_by": {version}' in before
    expected = before.replace(f'"evaluated_by": {version}', '"evaluated_by": "another"')
    assert (trained_copy / "metrics.json").read_text() == expected != before


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_sigterm_saves_and_the_same_command_goes_on_and_learns_in_reduced_precision(tmp_path, monkeypatch, capfd):
    model_dir = write_params(tmp_path, precision="mixed_bfloat16", num_epochs=8, save_checkpoints_steps=1000)
    after_step, made = RunState.after_step, []

    def after_step_with_a_signal(state, global_step):
        if global_step >= 7:
            os.kill(os.getpid(), signal.SIGTERM)
        made.append(global_step)
        return after_step(state, global_step)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as raised:
        patch.setattr(RunState, "after_step", after_step_with_a_signal)
        run_here(train, "--model_dir", model_dir)
    assert raised.value.code == 128 + signal.SIGTERM
    output = capfd.readouterr()
    assert output.err.splitlines()[-1] == f"Stopped at step {made[-1]}, which is saved; the same command goes on."
    assert "Traceback" not in output.err and output.out == ""
    assert [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(model_dir)] == [made[-1]]
    run_here(train, "--model_dir", model_dir)
    assert f"Going on from step {made[-1]}.\n" in capfd.readouterr().err
    written = json.loads((model_dir / "metrics.json").read_text())["metrics"]
    assert written["global_step"] == 180 and written["recall_at_1"] > 0.9


# ------------------------------------------------------------------------------------------- disks


def refuse_to_write(monkeypatch, number):
    """Scores find no place, for this reason."""

    def refuse(record, path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Record, "write", refuse)
    monkeypatch.setattr(protocol, "score", lambda *_: {"num_images": 359, **dict.fromkeys(HEADLINES, 0.5)})


def test_scores_that_find_no_room_are_printed_before_the_error(trained_copy, capsys, monkeypatch):
    refuse_to_write(monkeypatch, errno.ENOSPC)
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", trained_copy)
    assert raised.value.code == 2
    output = capsys.readouterr()
    assert all(re.search(rf"^  {name} +0.5000", output.out, re.MULTILINE) for name in HEADLINES)
    path = trained_copy / "metrics.json"
    line = f"{path}: No space left on device; make room on the disk, and start the same command again"
    assert output.err.splitlines()[-1] == line and output.err.count("No space left") == 1


def test_in_a_folder_that_nobody_may_write_to_scores_are_printed(trained_copy, capsys, monkeypatch):
    refuse_to_write(monkeypatch, errno.EROFS)
    before = (trained_copy / "metrics.json").read_bytes()
    run_here(evaluate, "--model_dir", trained_copy)
    output = capsys.readouterr()
    assert all(re.search(rf"^  {name} +0.5000", output.out, re.MULTILINE) for name in HEADLINES)
    assert "All metrics" not in output.out
    expected = f"{trained_copy / 'metrics.json'}: cannot be written (Read-only file system); these scores are not kept."
    assert output.err.splitlines()[-1] == expected
    assert (trained_copy / "metrics.json").read_bytes() == before


# ------------------------------------------------------------------------------------------- mistakes


def refused(capsys, script, *arguments):
    """Runs a command in this process; it must end with exit code 2 and one line, which is returned."""
    with pytest.raises(SystemExit) as raised:
        run_here(script, *arguments)
    assert raised.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


@pytest.mark.parametrize("script", [train, evaluate, visualize_embeddings])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ('{"margin": NaN}', "'margin' must be a finite number or be 'soft', received NaN"),
        ('{"marign": 1}', "did you mean 'margin'?"),
        ('{"dataset": "no_such_data"}', "no_such_data"),
    ],
)
def test_a_bad_experiment_is_one_line_and_nothing_is_written(tmp_path, capsys, script, content, expected):
    model_dir = tmp_path / "mine"
    if content is not None:
        model_dir.mkdir()
        (model_dir / "params.json").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    assert expected in refused(capsys, script, "--model_dir", model_dir)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", [train, evaluate, visualize_embeddings])
def test_a_data_folder_that_is_not_there(tmp_path, capsys, script):
    model_dir = write_params(tmp_path / "mine", dataset="mnist")
    assert "nowhere" in refused(capsys, script, "--model_dir", model_dir, "--data_dir", tmp_path / "nowhere")
    assert [path.name for path in model_dir.iterdir()] == ["params.json"]


@pytest.mark.parametrize(
    ("changes", "number", "expected"),
    [
        ({"batch_size": 63}, 2, "'batch_size' must be a multiple of the 2 devices, received 63; change it, or"),
        ({"batch_size": 60, "micro_batch_size": 60}, 2, "'micro_batch_size' must divide the 30 images of a batch"),
        ({}, 5, "--devices: 5 devices have to be asked for before anything is computed"),
        ({}, 0, "argument --devices: "),
    ],
)
def test_devices_that_cannot_share_a_batch(tmp_path, capsys, two_devices, changes, number, expected):
    model_dir = write_params(tmp_path / "mine", **changes)
    with pytest.raises(SystemExit) as raised:
        run_here(train, "--model_dir", model_dir, "--devices", number)
    assert raised.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (model_dir / "checkpoints").exists()


@pytest.mark.parametrize("script", [train, evaluate, visualize_embeddings])
def test_batches_that_the_data_cannot_fill(tmp_path, capsys, script):
    model_dir = write_params(tmp_path, batch_size=1439)
    line = refused(capsys, script, "--model_dir", model_dir)
    expected = "'batch_size' must be at most the 1438 training images of digits, received 1439"
    assert line == f"{model_dir / 'params.json'}: {expected}"
    assert [path.name for path in model_dir.iterdir()] == ["params.json"]


def test_evaluate_before_training(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        run_here(evaluate, "--model_dir", write_params(tmp_path))
    assert raised.value.code == 2
    assert f"no checkpoint; train first: python train.py --model_dir {tmp_path}\n" in capsys.readouterr().err


def test_a_command_that_is_shown_names_the_data_that_were_named(tmp_path, capsys):
    data = tmp_path / "my digits"
    data.mkdir()
    with pytest.raises(SystemExit):
        run_here(evaluate, "--model_dir", write_params(tmp_path / "mine"), "--data_dir", data)
    shown = f"train first: python train.py --model_dir {tmp_path / 'mine'} --data_dir '{data}'\n"
    assert shown in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    model_dir = write_params(tmp_path)
    (model_dir / "train.log").mkdir()
    assert "train.log: Is a directory" in refused(capsys, train, "--model_dir", model_dir)


@pytest.mark.usefixtures("few_resamples")
def test_a_metric_that_there_is_not_is_null(trained_copy, monkeypatch):
    """Of one test image of each class nobody has another one to find."""
    load = datasets.load

    def with_one_test_image_of_each_class(*args):
        data = load(*args)
        _, firsts = np.unique(data.test.labels, return_index=True)
        test = Split(data.test.images[firsts], data.test.labels[firsts])
        return Dataset(data.name, data.train, test, data.class_names)

    monkeypatch.setattr(datasets, "load", with_one_test_image_of_each_class)
    run_here(evaluate, "--model_dir", trained_copy)
    written = json.loads((trained_copy / "metrics.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert written["num_images"] == 10
    assert written["recall_at_1"] is None and 0 <= written["knn_accuracy"] <= 1


def test_help_names_the_options():
    result = run("train.py", "--help")
    assert result.returncode == 0
    assert all(text in result.stdout for text in ("--model_dir", "experiments/base_model", "--data_dir"))


# ------------------------------------------------------------------------------------------- the ancestor's files


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples")
def test_a_file_of_the_ancestor_trains_unchanged(tmp_path):
    """Its keys and nothing else; the digits take the place of MNIST, which may not be there, through --data_dir."""
    keys = {
        "learning_rate": 1e-3, "batch_size": 64, "num_epochs": 1, "num_channels": 32, "use_batch_norm": False,
        "bn_momentum": 0.9, "margin": 0.5, "embedding_size": 64, "triplet_strategy": "batch_hard", "squared": False,
        "image_size": 28, "num_labels": 10, "train_size": 50000, "eval_size": 10000, "num_parallel_calls": 4,
        "save_summary_steps": 50,
    }  # fmt: skip
    model_dir = tmp_path / "old"
    model_dir.mkdir()
    (model_dir / "params.json").write_text(json.dumps(keys))
    write_class_folders(tmp_path / "data")
    run_here(train, "--model_dir", model_dir, "--data_dir", tmp_path / "data")
    assert json.loads((model_dir / "metrics.json").read_text())["metrics"]["recall_at_1"] > 0.8


def write_class_folders(folder):
    """The digits as a folder of class folders."""
    split = digits().train
    for index, (image, label) in enumerate(zip(split.images[:500], split.labels[:500], strict=True)):
        path = folder / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).save(path)
