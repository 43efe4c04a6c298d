"""Folders of one-shot runs: what is read from them, and one line for each thing that is wrong."""

import os
import shutil

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import one_shot_runs
from model.tests.images import GREY, save
from model.tests.runs import write_runs


@pytest.fixture
def folder(tmp_path):
    return write_runs(tmp_path / "runs")


def contents(found):
    """By run and test image, the training images that are right; and all training images of the run."""
    paths = [path.relative_to(path.parents[2]).as_posix() for path in found.images.paths]
    return {
        run.name: (
            {
                paths[test]: {paths[run.training[place]] for place in np.flatnonzero(row)}
                for test, row in zip(run.test, run.is_right, strict=True)
            },
            {paths[training] for training in run.training},
        )
        for run in found.runs
    }


def expected(name, digits=(0, 1, 4, 7)):
    answers = {
        f"{name}/test/item{i:02}.png": {f"{name}/training/class{digit:02}.png"} for i, digit in enumerate(digits)
    }
    return answers, set().union(*answers.values())


def test_runs_in_the_form_of_lake(folder):
    found = one_shot_runs.find(folder)
    assert contents(found) == {name: expected(name) for name in ("run01", "run02")}
    assert len(found.images.paths) == len(set(found.images.paths)) == 16 and not found.notes


def test_what_lies_beside_does_not_count(folder):
    (folder / "README.txt").write_text("odd")
    (folder / ".git").mkdir()
    (folder / "__MACOSX" / "run01").mkdir(parents=True)
    (folder / "run01" / "overview.png").write_bytes(b"odd")
    (folder / "run01" / "training" / "notes.txt").write_text("odd")
    (folder / "run01" / "test" / ".DS_Store").write_text("odd")
    (folder / "run01" / "training" / "Thumbs.db").write_text("odd")
    found = one_shot_runs.find(folder)
    assert contents(found) == {name: expected(name) for name in ("run01", "run02")} and not found.notes


def test_any_number_of_runs_and_images_and_any_names(tmp_path):
    """Two drawings of a class, in a folder of its own, and a name with spaces; line ends of Windows."""
    folder = write_runs(tmp_path, ["a run of 3"], digits=(1, 2, 3))
    labels = folder / "a run of 3" / "class_labels.txt"
    save(folder / "a run of 3" / "training" / "more of 1" / "b.png", GREY)
    lines = labels.read_text() + "\na run of 3/test/item00.png\ta run of 3/training/more of 1/b.png\n\n"
    labels.write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    found = one_shot_runs.find(folder)
    (run,) = found.runs
    assert run.is_right.shape == (3, 4)
    answers, training = expected("a run of 3", (1, 2, 3))
    paths = [path.relative_to(folder).as_posix() for path in found.images.paths]
    more = "a run of 3/training/more of 1/b.png"
    first = {paths[run.training[place]] for place in np.flatnonzero(run.is_right[0])}
    assert first == answers["a run of 3/test/item00.png"] | {more}
    assert {paths[i] for i in run.training} == training | {more}


def test_a_line_that_is_there_twice_counts_once(folder):
    labels = folder / "run01" / "class_labels.txt"
    labels.write_text(labels.read_text() * 2)
    assert contents(one_shot_runs.find(folder)) == {name: expected(name) for name in ("run01", "run02")}


def test_images_that_no_line_names_are_told(folder):
    labels = folder / "run02" / "class_labels.txt"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    found = one_shot_runs.find(folder)
    assert found.runs[1].is_right.shape == (3, 4)
    assert found.notes == [
        f"{labels}: names 1 of 4 training images nowhere, which are wrong answers to all",
        f"{labels}: names 1 of 4 test images nowhere, which are left out",
    ]


def refusal(folder):
    with pytest.raises(UserError) as raised:
        one_shot_runs.find(folder)
    line = str(raised.value)
    assert "\n" not in line and str(folder) in line
    return line


GOOD = "run01/test/item00.png run01/training/class00.png"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run01/test/item00.png", "'run01/test/item00.png' is no pair of paths that are there, expected TEST_IMAGE"),
        (f"{GOOD} {GOOD}", "is no pair of paths that are there"),
        ("\x1b[2Jrun01/test/item00.png", r"'\\x1b[2Jrun01/test/item00.png' is no pair"),
        ("run01/test/item99.png run01/training/class00.png", "'run01/test/item99.png': no such file in"),
        ("run01/test/item00.png run01/training/class99.png", "'run01/training/class99.png': no such file in"),
        ("../outside.png run01/training/class00.png", "'../outside.png' is not below"),
        ("run01/test/item00.png run01/training/../../../outside.png", "is not below"),
        ("{tmp}/outside.png run01/training/class00.png", "outside.png' is not below"),
        ("run01/training/class01.png run01/training/class00.png", "class01.png' is no image in {tmp}/runs/run01/test"),
        (
            "run01/test/item00.png run01/test/item01.png",
            "item01.png' is no image in {tmp}/runs/run01/training, so that",
        ),
        ("run01/test/item00.png run02/training/class00.png", "class00.png' is no image in {tmp}/runs/run01/training"),
        ("run01/test/item00.png run01/training", "'run01/training' is no image in {tmp}/runs/run01/training"),
        ("run01/test/item00.png run01/training/notes.txt", "notes.txt' is no image in"),
        ("run01/test/item00.png \0", r"'\\x00': no such file in"),
        ("x" * 5000 + " y", "xxx': no such file in"),
    ],
)
def test_a_line_that_is_no_pair(tmp_path, folder, line, told):
    save(tmp_path / "outside.png", GREY)
    (folder / "run01" / "training" / "notes.txt").write_text("odd")
    labels = folder / "run01" / "class_labels.txt"
    labels.write_text(f"{GOOD}\n\n{line.format(tmp=tmp_path)}\n")
    said = refusal(folder)
    assert told.format(tmp=tmp_path) in said
    assert f"{labels}: line 3: " in said and len(said) < 1000


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_run_without_lines(folder, content):
    (folder / "run02" / "class_labels.txt").write_text(content)
    assert "run02/class_labels.txt: holds no lines" in refusal(folder)


def test_labels_that_are_no_text(folder):
    (folder / "run02" / "class_labels.txt").write_bytes(GOOD.encode() + b"\n\xff\xfe")
    assert "run02/class_labels.txt: line 2: holds bytes that are no text in UTF-8" in refusal(folder)


def test_one_training_image_leaves_no_choice(folder):
    for path in (folder / "run01" / "training").iterdir():
        if path.name != "class00.png":
            path.unlink()
    (folder / "run01" / "class_labels.txt").write_text(GOOD)
    assert "run01/training: holds one image, expected two at least" in refusal(folder)


@pytest.mark.parametrize("missing", ["class_labels.txt", "training", "test"])
def test_what_a_run_lacks(folder, missing):
    path = folder / "run02" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = refusal(folder)
    assert f"{path}: No such file or directory; --one_shot expects a folder of runs, each with class_labels.txt" in said


def test_labels_that_would_never_end(folder):
    path = folder / "run02" / "class_labels.txt"
    path.unlink()
    os.mkfifo(path)
    assert "class_labels.txt: No regular file" in refusal(folder)


def test_folders_that_hold_no_runs(tmp_path, folder):
    assert "is a run itself, expected the folder that holds the folders of the runs" in refusal(folder / "run01")
    assert "No such file or directory; --one_shot expects" in refusal(tmp_path / "nowhere")
    assert "Not a directory" in refusal(folder / "run01" / "class_labels.txt")
    (tmp_path / "empty").mkdir()
    assert "holds no folders" in refusal(tmp_path / "empty")
