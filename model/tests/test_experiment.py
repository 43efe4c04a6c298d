"""What an experiment says of its data before anything is trained."""

import json

import numpy as np
import pytest

from model.common.errors import UserError
from model.data.input_fn import eval_input_fn
from model.experiment import open_experiment
from model.tests.images import save


def write(tmp_path, folders, **params):
    """An experiment with five images in each of some class folders, and the folder of its data."""
    for number, folder in enumerate(folders):
        for i in range(5):
            save(tmp_path / "data" / folder / f"{i}.png", np.full((4, 4), 10 * number + i, np.uint8))
    (tmp_path / "params.json").write_text(json.dumps({"dataset": "mine", "batch_size": 4, **params}))
    return tmp_path, tmp_path / "data"


def described(*arguments, **params):
    return open_experiment(*write(*arguments, **params)).describe()


def test_classes_that_are_only_in_one_split_are_counted(tmp_path):
    folders = ["train/a", "train/b", "train/c", "test/b", "test/new", "test/other"]
    (line,) = described(tmp_path, folders)
    classes = "5 classes (2 only to learn from, 2 only tested)"
    assert line == f"mine: 15 training and 15 test images of 4x4x1, {classes}, 0.0 MB in memory."


def test_all_classes_in_both_splits_are_no_news(tmp_path):
    (line,) = described(tmp_path, ["a", "b"])
    assert line == "mine: 8 training and 2 test images of 4x4x1, 2 classes, 0.0 MB in memory."


def test_what_is_held_out_is_told_in_short(tmp_path):
    _, line = described(tmp_path, [f"class {i:02}" for i in range(20)], holdout_classes=15)
    assert line.startswith("Learning from 20 of the training images, none of 15 classes: class ")
    assert line.endswith(" and 9 more.") and len(line) < 160


@pytest.mark.parametrize(
    ("params", "said"), [({}, "10 validate."), ({"validation_size": 2}, "none is used, as params.json")]
)
def test_a_folder_of_validation_images_is_told(tmp_path, params, said):
    experiment = open_experiment(
        *write(tmp_path, ["train/a", "train/b", "test/a", "test/b", "val/a", "val/b"], **params)
    )
    assert f"Of 10 images in the folder of validation images, {said}" in experiment.describe()[-1]
    assert len(experiment.partition.validation.labels) == (2 if params else 10)


@pytest.mark.parametrize(
    ("of_validation", "held_out", "said"),
    [
        ("ab", "cd", "10 validate"),
        ("abc", "cd", "10 validate, 5 are not used, as their classes are held out"),
        ("cd", "cd", "none is used, as all their classes are held out"),
        ("ef", "cd", "5 validate, 5 are their gallery, as nobody learns from their classes"),
        ("ae", "cd", "10 validate, 5 of them are not classified, as their gallery has none of their classes"),
    ],
)
def test_what_becomes_of_each_validation_image_is_told(tmp_path, of_validation, held_out, said):
    folders = [f"train/{name}" for name in "abcd"] + ["test/a"] + [f"val/{name}" for name in of_validation]
    *_, line = described(tmp_path, folders, holdout_classes=[*held_out])
    assert line == f"Of {5 * len(of_validation)} images in the folder of validation images, {said}."


def test_of_validation_images_with_roles_the_queries_are_classified(tmp_path):
    """Of class e, which nobody learns from, there is one query, and one gallery image that nobody classifies."""
    model_dir, data_dir = write(tmp_path, [])
    rows = [("train", name, "", "") for name in "aabb"] + [("test", name, True, True) for name in "ab"]
    rows += [("validation", name, is_query, not is_query) for name in "abe" for is_query in (True, False)]
    lines = ["path,split,label,is_query,is_gallery"]
    for number, row in enumerate(rows):
        save(data_dir / f"{number}.png", np.full((4, 4), number, np.uint8))
        lines.append(",".join(map(str, (f"{number}.png", *row))))
    (data_dir / "images.csv").write_text("\n".join(lines))
    *_, line = open_experiment(model_dir, data_dir).describe()
    assert line.endswith(" 6 validate, 1 of them are not classified, as their gallery has none of their classes.")


def test_what_only_validation_reads_has_no_effect_without_it(tmp_path):
    *_, line = described(tmp_path, ["a", "b"], evaluate_every_epochs=1)
    assert "'evaluate_every_epochs' has no effect: no images validate" in line
    assert len(described(tmp_path, ["a", "b"], evaluate_every_epochs=1, validation_size=2)) == 2  # and what is learned
    with pytest.raises(UserError, match=r"params\.json: 'early_stopping_patience' needs images to watch"):
        described(tmp_path, ["a", "b"], early_stopping_patience=1)


def test_what_was_left_out_is_told(tmp_path):
    model_dir, data_dir = write(tmp_path, ["a", "b"])
    (data_dir / "a/list.txt").write_text("")
    assert open_experiment(model_dir, data_dir).describe()[1] == f"{data_dir}: no images, and left out: 1 .txt."


def listed(tmp_path, text, **params):
    """An experiment of twelve images that a list names by their numbers."""
    for i in range(12):
        save(tmp_path / f"data/{i}.png", np.full((4, 4), i, np.uint8))
    (tmp_path / "data/images.csv").write_text(text)
    (tmp_path / "params.json").write_text(json.dumps({"dataset": "mine", "batch_size": 4, **params}))
    return open_experiment(tmp_path, tmp_path / "data")


LEARNED = "".join(f"{i}.png,{i % 2},train,,,\n" for i in range(6))
TESTED = """6.png,0,test,1,0,x
7.png,0,test,0,1,x
8.png,0,test,1,1,
9.png,1,test,1,1,y
10.png,1,test,0,0,
11.png,1,test,0,1,z
"""
ROLES = f"path,label,split,is_query,is_gallery,group\n{LEARNED}{TESTED}"


@pytest.mark.parametrize("exclude", [False, True])
def test_queries_gallery_and_groups_are_told(tmp_path, exclude):
    experiment = listed(tmp_path, ROLES, **({"exclude_same_group": True} if exclude else {}))
    _, roles, groups, *left_out = experiment.describe()
    assert roles == (
        "Of the test images, 3 are queries, which are looked up in 4 gallery images, 2 are both, 1 are neither."
    )
    use = "are left out" if exclude else 'count, without "exclude_same_group": true'
    assert groups == f"4 test images are in 3 groups: neighbours of the same group {use}."
    assert not left_out
    data = eval_input_fn(experiment.partition, experiment.params)
    np.testing.assert_array_equal(data.roles.is_query, [1, 0, 1, 1, 0, 0])
    assert (data.roles.group is not None) == exclude


def test_queries_without_an_answer_are_counted(tmp_path):
    text = ROLES.replace("8.png,0,test,1,1,", "8.png,0,test,1,0,x")
    *_, line = listed(tmp_path, text, exclude_same_group=True).describe()
    assert line == "2 of 3 queries are left out: no gallery image that counts is of their class."


def test_groups_that_are_not_there_cannot_be_excluded(tmp_path):
    with pytest.raises(UserError, match=r"params.json: 'exclude_same_group' needs groups of the test images, .*mine"):
        listed(tmp_path, "path,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(12)), exclude_same_group=True)
