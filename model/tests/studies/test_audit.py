"""Audits of labels: who is held out, what is trained again after a kill, and what is told of it."""

import csv
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from model.common.commands import ROOT
from model.common.errors import UserError
from model.params import Params
from model.scoring.label_errors import JudgedLabels, judge
from model.studies import audit
from model.tests.studies.searches import is_running, wait_for

# Stands for train.py: keeps count of its starts, and takes its time in the second fold if there is a file `slow`.
FAKE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--model_dir") + 1])
assert "--no_scores" in sys.argv and (folder / "params.json").exists()
with (folder / "starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
(folder / "checkpoints").mkdir(exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if (folder.parents[2] / "bad").exists():
    print("no such batch")
    sys.exit(2)
if folder.name == "fold_2" and (folder.parents[2] / "slow").exists():
    time.sleep(60)
"""

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])


@pytest.fixture
def fake(tmp_path, monkeypatch):
    path = tmp_path / "fake_train.py"
    path.write_text(FAKE)
    monkeypatch.setattr(audit, "_TRAIN", path)
    monkeypatch.setattr(audit, "_SECONDS_BETWEEN_LOOKS", 0.02)
    return path


def prepare(model_dir, num_folds=3, labels=LABELS, **params):
    return audit.prepare(model_dir, Params(**params), labels, num_folds, lambda held_out: f"{held_out.tolist()}\n")


def starts(folds):
    paths = [fold.folder / "starts" for fold in folds]
    return [len(path.read_text().split()) if path.exists() else 0 for path in paths]


@pytest.mark.parametrize("num_folds", [2, 3, 4, 9])
def test_every_image_is_held_out_once_and_each_class_is_always_learned_from(num_folds):
    dealt = audit.deal(LABELS, num_folds, seed=1)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(9))  # number 9 is the only one of its class
    for held_out in dealt:
        assert set(np.delete(LABELS, held_out)) == set(LABELS)
    sizes = [len(held_out) for held_out in dealt]
    assert max(sizes) - min(sizes) <= 1
    for label in range(4):
        of_label = [np.count_nonzero(LABELS[held_out] == label) for held_out in dealt]
        assert max(of_label) - min(of_label) <= 1


def test_the_seed_decides_who_is_in_which_fold():
    first, again, other = (audit.deal(np.zeros(100, int), 3, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("labels", "num_folds"), [(LABELS, 10), (np.arange(5), 2)])
def test_more_folds_than_images_to_judge(labels, num_folds):
    with pytest.raises(UserError, match=f"--folds: expected at most [09].*received {num_folds}"):
        audit.deal(labels, num_folds, 1)


def test_a_fold_is_an_experiment_that_leaves_its_images_out(tmp_path):
    folds = prepare(tmp_path, num_epochs=7, seed=3)
    assert [fold.folder for fold in folds] == [tmp_path / f"audit/3_folds/fold_{number}" for number in (1, 2, 3)]
    for fold in folds:
        params = Params.from_json(fold.folder / "params.json")
        assert (params.num_epochs, params.seed) == (7, 3)
        assert params.exclude_images == str(fold.folder / "held_out.txt")
        assert json.loads((fold.folder / "held_out.txt").read_text()) == fold.held_out.tolist()


def test_folds_that_are_trained_are_not_trained_again(tmp_path, fake):
    folds = prepare(tmp_path)
    audit.train(folds[:2], None)
    folds = prepare(tmp_path)
    audit.train(folds, None)
    assert starts(folds) == [1, 1, 1]


def test_a_fold_of_other_images_or_parameters_is_not_gone_on_with(tmp_path, fake):
    audit.train(prepare(tmp_path), None)
    for changed in ({"num_epochs": 3}, {"labels": np.append(LABELS, 0)}):
        with pytest.raises(UserError, match=r"fold_1: was begun with other parameters or images .* delete"):
            prepare(tmp_path, **changed)
    assert len(prepare(tmp_path, 2)) == 2  # another number of folds is another audit


def test_a_fold_that_learned_nothing_yet_begins_anew(tmp_path):
    prepare(tmp_path)
    folds = prepare(tmp_path, num_epochs=3)
    assert Params.from_json(folds[0].folder / "params.json").num_epochs == 3


def test_two_audits_do_not_make_the_same_folds(tmp_path):
    with (
        audit.alone(tmp_path, 3),
        pytest.raises(UserError, match="3_folds: another process audits here"),
        audit.alone(tmp_path, 3),
    ):
        pass
    with audit.alone(tmp_path, 3), audit.alone(tmp_path, 4):
        pass


def test_a_folder_that_was_moved_goes_on(tmp_path, fake):
    (tmp_path / "model").mkdir()
    audit.train(prepare(tmp_path / "model"), None)
    (tmp_path / "model").rename(tmp_path / "moved")
    folds = prepare(tmp_path / "moved")
    audit.train(folds, None)
    assert starts(folds) == [1, 1, 1]
    assert Params.from_json(folds[0].folder / "params.json").exclude_images == str(folds[0].folder / "held_out.txt")


def test_a_training_that_breaks_down_is_told_with_its_last_line(tmp_path, fake):
    (tmp_path / "bad").touch()
    folds = prepare(tmp_path)
    with pytest.raises(UserError, match="fold_1: its training broke down: no such batch"):
        audit.train(folds, None)
    (tmp_path / "bad").unlink()
    audit.train(folds, None)
    assert starts(folds) == [2, 1, 1]


AUDIT = """
import sys
from pathlib import Path
import numpy as np
from model.common import cli
from model.params import Params
from model.studies import audit
audit._TRAIN = Path(sys.argv[2])
audit._SECONDS_BETWEEN_LOOKS = 0.02
def main(options):
    with audit.alone(Path(sys.argv[1]), 3):
        folds = audit.prepare(Path(sys.argv[1]), Params(), np.zeros(10, int), 3, lambda held_out: str(held_out))
        audit.train(folds, None)
cli.run(main, "", [], of_an_experiment=False)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_audit_that_was_killed_goes_on(tmp_path, fake, number):
    """It ends with its child, says how to go on if it can, and trains nothing that was trained."""
    command = [sys.executable, "-c", AUDIT, tmp_path, fake]
    second = tmp_path / "audit/3_folds/fold_2/starts"
    (tmp_path / "slow").touch()
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: second.exists() and second.read_text())
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        wait_for(lambda: not is_running(int(second.read_text())), seconds=10)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert said.endswith("Stopped; the fold under way is saved, and the same command goes on.\n")
    (tmp_path / "slow").unlink()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    folds = [audit.Fold(tmp_path / f"audit/3_folds/fold_{number}", np.zeros(0)) for number in (1, 2, 3)]
    assert starts(folds) == [1, 2, 1]


class Images:
    """Five images whose embedding is their only pixel."""

    def __init__(self, pixels, labels, names):
        self.images = np.array(pixels, np.uint8).reshape(-1, 1, 1, 1)
        self.labels, self.names = np.array(labels), np.array(names, object)

    def where(self, chosen):
        return Images(self.images[chosen], self.labels[chosen], self.names[chosen])


class Network:
    """Sees pixels, and has learned from some images."""

    def __init__(self, learned):
        self.learned = learned

    def embed(self, images):
        return images.reshape(-1, 1).astype(np.float32)


IMAGES = Images([0, 1, 2, 100, 101, 102, 1, 50], [0, 0, 0, 1, 1, 1, 1, 2], [f"train/{i}" for i in range(8)])


@pytest.fixture
def audited(tmp_path):
    """Number 6 lies among the images of class 0, and is called class 1; number 7 is alone."""
    folds = [audit.Fold(tmp_path / "1", np.array([0, 3, 6])), audit.Fold(tmp_path / "2", np.array([1, 2, 4, 5]))]
    opened = []

    def open_network(folder):
        opened.append(folder)
        held_out = folds[len(opened) - 1].held_out
        return Network(IMAGES.where(np.delete(np.arange(8), held_out)))

    found = audit.judge_held_out(folds, IMAGES, open_network, k=2)
    assert opened == [fold.folder for fold in folds]
    return found


def test_neighbours_are_looked_for_where_the_fold_has_learned(audited):
    assert [part.images.names.tolist() for part in audited] == [
        ["train/0", "train/3", "train/6"], ["train/1", "train/2", "train/4", "train/5"], ["train/7"],
    ]  # fmt: skip
    for part in audited[:2]:
        expected = judge(
            part.images.images.reshape(-1, 1), part.images.labels,
            part.learned.images.reshape(-1, 1), part.learned.labels, 2,
        )  # fmt: skip
        np.testing.assert_array_equal(part.judged.score, expected.score)
        assert not set(part.images.names) & set(part.learned.names)


def test_the_table_begins_with_the_most_suspicious(audited):
    rows = list(csv.DictReader(io.StringIO(audit.table(audited, ["cat", "dog", "eel"]).decode())))
    assert len(rows) == 8
    assert list(rows[-1].values()) == ["train/7", "eel", *[""] * 11]  # nobody else is an eel
    assert (rows[0]["image"], rows[0]["label"], rows[0]["suggested"], rows[0]["score"]) == (
        "train/6", "dog", "cat", "0.0000",
    )  # fmt: skip
    assert (rows[0]["neighbor_1"], rows[0]["neighbor_1_label"], rows[0]["neighbor_1_distance"]) == (
        "train/1", "cat", "0.0000",
    )  # fmt: skip
    scores = [float(row["score"]) for row in rows[:-1]]
    assert scores == sorted(scores)


def test_what_is_written(tmp_path, audited):
    rows = audit.doubted_rows(audited, ["cat", "dog", "eel"], most=1)
    assert [caption for _, caption in rows[0]] == ["dog\nor cat?\n0.00 train/6", "cat", "cat"]
    assert rows[0][0][0].tolist() == [[[1]]]
    written = audit.write(tmp_path, "train", audited, ["cat", "dog", "eel"], b"png")
    assert [path.name for path in written] == ["train.csv", "train.png"]
    audit.write(tmp_path, "train", audited, ["cat", "dog", "eel"], None)
    assert not (tmp_path / "audit/train.png").exists()  # of an earlier audit
    listed = []
    audit.write_exclusions(tmp_path, audited, 0.5, lambda chosen: listed.extend(chosen.tolist()) or "text")
    assert listed == [1, 2, 6]  # of the first two, number 0 alone is left to say cat, and number 6 is nearer
    assert (tmp_path / "audit/exclude.txt").read_text() == "text"
    said = audit.describe(audited, "train")
    assert said == "3 of 7 labels of train images are doubted; 1 have no other image of their class to be judged by"


def test_turned_copies_have_no_labels_to_be_wrong(tmp_path):
    with pytest.raises(UserError, match="'rotated_classes' is \"train\", and turned copies"):
        prepare(tmp_path, rotated_classes="train")


def test_among_equal_scores_the_farther_own_class_is_more_suspicious():
    score, suggested = np.array([0.5, 0.0, 0.0, np.nan]), np.array([0, 0, 0, -1])
    nearest = np.zeros((4, 1), int)
    judged = JudgedLabels(score, suggested, nearest, np.zeros((4, 1)), ratio=np.array([9.0, 1.5, 3.0, np.inf]))
    images = Images([0, 1, 2, 3], [0, 1, 1, 2], ["even", "near", "far", "alone"])
    table = audit.table([audit.Audited(np.arange(4), images, IMAGES, judged)], ["cat", "dog", "eel"]).decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["image"] for row in rows] == ["far", "near", "even", "alone"]
    assert rows[-1]["score"] == rows[-1]["suggested"] == "" and rows[0]["neighbor_2"] == ""  # there is but one
