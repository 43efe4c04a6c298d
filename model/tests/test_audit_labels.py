"""audit_labels.py as a user runs it: flipped digits are found and left out; and one line for every mistake."""

import csv
import json
import struct

import numpy as np
import pytest
from PIL import Image

import audit_labels
import train
from model.common import cli
from model.common.errors import UserError
from model.data.idx_files import FILES
from model.experiment import open_experiment
from model.start import start
from model.tests.experiments import digits, write_params


def run_here(script, *arguments):
    """Runs a script in this process; returns its exit code."""
    try:
        cli.run(script.main, "", [str(argument) for argument in arguments], script.add_options)
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture(scope="module")
def flipped_digits(made_once):
    """Digits as IDX files, of which every 20th training image is called by the next digit."""

    def make(folder):
        data = digits()
        for part, split, every in (("train", data.train, 20), ("t10k", data.test, 10**6)):
            labels = split.labels.astype(np.uint8)
            labels[1::every] = (labels[1::every] + (part == "train")) % 10
            for kind, values in (("images", split.images[..., 0]), ("labels", labels)):
                header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
                (folder / FILES[f"{part}-{kind}"]).write_bytes(header + values.tobytes())

    return made_once("flipped_digits", make)


@pytest.mark.slow
def test_flipped_digits_are_found_and_left_out(tmp_path, flipped_digits, capsys):
    model_dir = write_params(tmp_path / "mine", dataset="mine", num_epochs=8)
    arguments = ("--model_dir", model_dir, "--data_dir", flipped_digits, "--folds", 2, "--splits", "train")
    assert run_here(audit_labels, *arguments, "--num_images", 5) == 0
    said = capsys.readouterr()
    assert " of 1,438 labels of train images are doubted.\nWritten:\n" in said.out
    rows = list(csv.DictReader((model_dir / "audit/train.csv").read_text().splitlines()))
    assert len(rows) == 1438 and len({row["image"] for row in rows}) == 1438
    flipped = {f"train/{i}" for i in range(1, 1438, 20)}
    first = [row for row in rows[: len(flipped)] if row["image"] in flipped]
    assert len(first) >= 0.6 * len(flipped)  # by chance 5 %
    right = [row for row in first if (int(row["suggested"]) + 1) % 10 == int(row["label"])]
    assert len(right) >= 0.9 * len(first)
    with Image.open(model_dir / "audit/train.png") as sheet:
        assert sheet.size[0] > 900  # three beside each other
    listed = (model_dir / "audit/exclude.txt").read_text().splitlines()[1:]
    assert set(listed) == {row["image"] for row in rows if float(row["score"]) < 0.5}

    clean = write_params(tmp_path / "clean", dataset="mine", exclude_images=str(model_dir / "audit/exclude.txt"))
    experiment = open_experiment(clean, flipped_digits)
    assert len(experiment.train_input.labels) == 1438 - len(listed)
    assert f"{len(listed)} of 1,438 training images are left out" in "\n".join(experiment.describe())

    # Once more: nothing is trained again, and with another bound there is another list.
    assert run_here(audit_labels, *arguments, "--exclude_below", 0.01) == 0
    assert "Training fold" not in capsys.readouterr().err
    fewer = (model_dir / "audit/exclude.txt").read_text().splitlines()[1:]
    assert set(fewer) < set(listed)


def test_test_images_are_judged_by_the_checkpoint(trained_copy, capsys):
    assert run_here(audit_labels, "--model_dir", trained_copy, "--splits", "test") == 0
    assert " of 359 labels of test images are doubted." in capsys.readouterr().out
    names = {path.name for path in (trained_copy / "audit").iterdir()}
    assert {"test.csv"} <= names <= {"test.csv", "test.png"}  # no fold, no list: what is scored stays


@pytest.mark.slow
def test_a_training_without_scores_leaves_none(tmp_path, capsys):
    model_dir = write_params(tmp_path / "mine", num_epochs=1)
    assert run_here(train, "--model_dir", model_dir, "--no_scores") == 0
    assert list((model_dir / "checkpoints").iterdir()) and not (model_dir / "metrics.json").exists()
    assert not capsys.readouterr().out
    assert run_here(train, "--model_dir", model_dir, "--no_scores", "--validate") == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--folds", "1"], "argument --folds: expected a whole number from 2 to 100, received 1"),
        (["--neighbors", "0"], "argument --neighbors: expected a whole number from 1 to 100, received 0"),
        (["--exclude_below", "2"], "argument --exclude_below: expected off or a number between 0 and 1"),
        (["--splits", "all"], "argument --splits: invalid choice: 'all'"),
        (["--splits", "test", "--folds", "5"], "--folds: only with train in --splits; add it, or leave this out"),
        (
            ["--splits", "test", "--folds", "3", "--exclude_below", "off"],
            "--folds and --exclude_below: only with train in --splits",
        ),
        (["--splits", "train", "--checkpoint", "best"], "--checkpoint: only with test in --splits"),
    ],
)
def test_options_that_cannot_be(tmp_path, capsys, arguments, expected):
    assert run_here(audit_labels, "--model_dir", tmp_path, *arguments) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("params", "arguments", "expected"),
    [
        ({}, [], "no checkpoint; train first"),
        ({"rotated_classes": "train"}, ["--splits", "train"], "'rotated_classes' is \"train\""),
        ({"exclude_images": "none.txt"}, [], "none.txt: no such file in"),
    ],
)
def test_experiments_that_cannot_be_audited(tmp_path, capsys, params, arguments, expected):
    model_dir = write_params(tmp_path / "mine", **params)
    assert run_here(audit_labels, "--model_dir", model_dir, *arguments) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert expected in last
    assert not (model_dir / "audit").exists()


def test_a_fold_whose_images_have_changed_since_judges_nobody(trained, trained_copy):
    (trained_copy / "list.txt").write_text("train/3\n")
    params = json.loads((trained_copy / "params.json").read_text())
    (trained_copy / "params.json").write_text(json.dumps(params | {"exclude_images": str(trained_copy / "list.txt")}))
    runner = start(trained)
    assert runner.trained_beside(trained).learned.names[3] == "train/3"
    with pytest.raises(UserError, match="the training images are not those that this was trained on"):
        runner.trained_beside(trained_copy)
