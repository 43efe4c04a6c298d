import dataclasses
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import class_folders, image_files, reading
from model.data.datasets import load
from model.data.decoding import Decoding
from model.data.room import Room
from model.tests.images import COLOUR, GREY, png_of_size, save


def two_classes(folder: Path, pixels: np.ndarray = GREY, count: int = 5) -> Path:
    for class_name in ("cat", "dog"):
        for i in range(count):
            save(folder / class_name / f"{i}.png", pixels)
    return folder


def error_of(folder: Path, decoding: Decoding = Decoding()) -> str:  # noqa: B008 - it is frozen
    with pytest.raises(UserError) as caught:
        load("mine", folder, decoding)
    message = str(caught.value)
    assert "\n" not in message
    return message


def found_in(root: Path, skip: Sequence[Path] = ()) -> class_folders.Found:
    (found,) = class_folders.find_images([root], skip)
    return found


# Finding


def test_every_folder_of_images_is_a_class_named_by_its_path(tmp_path):
    paths = ["b/2.PNG", "b/10.jpeg", "a b/ü ñ.jpg", "a b/deep/one/x.png", "Ärger/1.png"]
    for path in paths:
        save(tmp_path / path, GREY)
    ignored = [
        ".hidden/x.png",
        "b/.x.png",
        "b/notes.txt",
        "empty/readme.md",
        "b/raw",
        "skipped/x.png",
        "__MACOSX/x.png",
    ]
    for path in ignored:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"no image")
    found = found_in(tmp_path, skip=[tmp_path / "skipped"])
    assert found.left_out == {".txt": 1, ".md": 1, "without a suffix": 1}
    assert found.num_images == 5
    assert list(found.classes) == ["a b", "a b/deep/one", "b", "Ärger"]
    assert [f.relative_to(tmp_path).as_posix() for files in found.classes.values() for f in files] == [
        "a b/ü ñ.jpg",
        "a b/deep/one/x.png",
        "b/10.jpeg",
        "b/2.PNG",
        "Ärger/1.png",
    ]


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    for i in range(12):
        save(tmp_path / "cd"[i % 2] / "nested" / f"{i}.png", np.full((2, 2), i, np.uint8))
        save(tmp_path / "ba"[i % 2] / f"{i}.png", np.full((2, 2), 100 + i, np.uint8))
    before = load("mine", tmp_path)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    after = load("mine", tmp_path)
    assert before.class_names == after.class_names == ("a", "b", "c/nested", "d/nested")
    np.testing.assert_array_equal(before.train.images, after.train.images)
    np.testing.assert_array_equal(before.test.labels, after.test.labels)


def test_what_links_lead_to_counts_once(tmp_path):
    """A folder outside, in two classes; a link back up; two that lead into each other; an image that has two names."""
    save(tmp_path / "elsewhere/1.png", GREY)
    root = tmp_path / "root"
    for name in ("real", "second"):
        save(root / name / "1.png", GREY)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "real/once more").symlink_to(tmp_path / "elsewhere")
    (root / "real/back").symlink_to(root)
    (root / "real/other").symlink_to(root / "second")
    (root / "second/other").symlink_to(root / "real")
    (root / "second/a link.png").symlink_to(root / "real/1.png")
    (root / "second/hard.png").hardlink_to(root / "real/1.png")
    (root / "second/gone.png").symlink_to(root / "nowhere.png")
    (root / "second/itself").symlink_to(root / "second/itself")
    found = found_in(root)
    assert {name: [file.name for file in files] for name, files in found.classes.items()} == {
        "linked": ["1.png"], "real": ["1.png"], "second": ["1.png"],
    }  # fmt: skip
    assert found.left_out == {
        "links to folders that count already": 4, "links to images that count already": 2, "links to nothing": 2,
    }  # fmt: skip


def test_a_link_takes_no_image_away_from_where_it_lies(tmp_path):
    """Whatever their names: a folder of favourites, and a training image that is one of the test."""
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "test", count=1)
    for name in ("cat", "dog"):
        (tmp_path / "train/best").mkdir(exist_ok=True)
        (tmp_path / f"train/best/{name}.png").symlink_to(tmp_path / f"train/{name}/0.png")
    (tmp_path / "train/cat/0 of the test.png").symlink_to(tmp_path / "test/cat/0.png")
    save(tmp_path / "elsewhere.png", GREY)
    for name in ("test", "train"):
        (tmp_path / f"{name}/dog/from elsewhere.png").symlink_to(tmp_path / "elsewhere.png")
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert sorted(dataset.train.names) == [
        *(f"train/cat/{i}.png" for i in range(5)), *(f"train/dog/{i}.png" for i in range(5)),
        "train/dog/from elsewhere.png",
    ]  # fmt: skip
    assert sorted(dataset.test.names) == ["test/cat/0.png", "test/dog/0.png"]


def test_a_class_with_a_folder_in_it_is_a_class(tmp_path):
    """Also where it is the only one."""
    save(tmp_path / "anna/1.png", GREY)
    save(tmp_path / "anna/old/2.png", GREY)
    assert class_folders.find_splits(tmp_path).roots == {"all": tmp_path}
    assert list(found_in(tmp_path).classes) == ["anna", "anna/old"]


def test_that_a_folder_is_in_no_name_of_a_class_is_told(tmp_path):
    for year in ("2020", "2021"):
        save(tmp_path / "anna" / year / "1.png", GREY)
    splits = class_folders.find_splits(tmp_path)
    assert splits.roots == {"all": tmp_path / "anna"}
    assert splits.notes == (f"{tmp_path / 'anna'}/: all images lie below this folder, which is in no name of a class",)


def test_an_image_that_is_learned_from_is_not_tested(tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "test", count=1)
    (tmp_path / "test/cat/again.png").symlink_to(tmp_path / "train/cat/3.png")
    (tmp_path / "test/all dogs").symlink_to(tmp_path / "train/dog")
    dataset = load("mine", tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (10, 2)
    assert dataset.class_names == ("cat", "dog")
    (note,) = dataset.notes
    assert "1 links to folders that count already, 1 links to images that count already" in note


def test_a_pipe_is_not_waited_for(tmp_path):
    two_classes(tmp_path)
    os.mkfifo(tmp_path / "cat/x.png")
    assert found_in(tmp_path).left_out == {"pipes and devices": 1}


def test_what_is_left_out_is_counted(tmp_path):
    two_classes(tmp_path)
    for name in ("cat/1.heic", "cat/2.HEIC", "dog/list.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "bird").mkdir()
    expected = f"{tmp_path}: no images, and left out: 2 .heic, 1 .csv, 1 empty folders"
    assert load("mine", tmp_path).notes == (expected,)
    for i in range(100):
        (tmp_path / f"cat/part.{i}").write_bytes(b"")
    (note,) = load("mine", tmp_path).notes
    assert ": 2 .heic, 1 .0, " in note and note.endswith(" and 83 more")


def test_a_class_of_images_that_are_not_read_is_not_lost(tmp_path):
    two_classes(tmp_path)
    for i in range(3):
        (tmp_path / "bird").mkdir(exist_ok=True)
        (tmp_path / f"bird/{i}.heic").write_bytes(b"")
    assert f"{tmp_path / 'bird'}: all its images are .heic files, which are not read" in error_of(tmp_path)


def test_what_tfds_left_is_no_class(tmp_path):
    two_classes(tmp_path)
    save(tmp_path / "tfds/downloads/extracted/bird/1.png", GREY)
    assert load("mine", tmp_path).class_names == ("cat", "dog")


def test_image_in_no_class_folder_is_named(tmp_path):
    save(two_classes(tmp_path) / "stray.jpg", GREY)
    assert f"{tmp_path / 'stray.jpg'}: lies in no class folder" in error_of(tmp_path)


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    two_classes(tmp_path)
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{tmp_path / 'dog'}: Permission denied" in error_of(tmp_path)


# Decoding


def test_grey_stays_grey_and_one_colour_image_makes_all_rgb(tmp_path):
    two_classes(tmp_path)
    assert load("mine", tmp_path).train.images.shape == (8, 6, 9, 1)
    save(tmp_path / "cat/0.png", COLOUR)
    found = reading.read_files([tmp_path / "cat/0.png", tmp_path / "dog/0.png"], Decoding(), Room(tmp_path))
    assert found.is_there.all() and not found.notes
    np.testing.assert_array_equal(found.images, [COLOUR, np.stack([GREY] * 3, axis=-1)])


def test_images_of_several_sizes_need_image_size(tmp_path):
    save(two_classes(tmp_path) / "dog/3.png", COLOUR[:5])
    message = error_of(tmp_path)
    assert f"{tmp_path / 'cat/0.png'} has 9 x 6 pixels" in message
    assert f'{tmp_path / "dog/3.png"} has 9 x 5; set "image_size"' in message
    assert load("mine", tmp_path, Decoding(image_size=7)).train.images.shape == (8, 7, 7, 3)


@pytest.mark.parametrize("splits", [[""], ["train", "val", "test"]])
def test_blank_images_are_of_the_same_classes_and_parts(tmp_path, splits, monkeypatch):
    for count, split in enumerate(splits, start=5):
        two_classes(tmp_path / split, count=count)
    save(tmp_path / splits[-1] / "dog/3.png", COLOUR)
    damaged(tmp_path / splits[0] / "cat", "0.png", "2.png")
    decoded = load("mine", tmp_path, Decoding(on_damaged="skip"))
    with monkeypatch.context() as changed:
        changed.setattr(image_files, "_decode", None)
        blank = load("mine", tmp_path, Decoding(on_damaged="skip", blank=True))
        assert error_of(tmp_path, Decoding(blank=True)).startswith(f"2 of {len(splits) * (len(splits) + 9)} images")
    assert blank.class_names == decoded.class_names
    assert (blank.validation is None) == (decoded.validation is None) == (len(splits) == 1)
    for part in ("train", "test", "validation")[: max(2, len(splits))]:
        ours, theirs = vars(blank)[part], vars(decoded)[part]
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert ours.images.shape == theirs.images.shape and not any(ours.images.strides)
    assert blank.notes[:-1] == decoded.notes and blank.notes[-1].startswith("The image files were opened, not decoded")
    assert blank.sha256 == blank.train_sha256 == ""


def test_blank_images_of_several_sizes_need_image_size_too(tmp_path):
    save(two_classes(tmp_path) / "dog/3.png", COLOUR[:5])
    assert error_of(tmp_path, Decoding(blank=True)) == error_of(tmp_path)
    assert load("mine", tmp_path, Decoding(image_size=7, blank=True)).train.images.shape == (8, 7, 7, 3)


def damaged(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"no image")
    return folder


def test_damaged_images_are_named_all_at_once(tmp_path):
    message = error_of(damaged(two_classes(tmp_path), "cat/1.png", "dog/0.png", "dog/4.png"))
    assert message.startswith("3 of 10 images cannot be read: ")
    assert all(str(tmp_path / name) in message for name in ("cat/1.png", "dog/0.png", "dog/4.png"))
    assert 'set "on_damaged_image": "skip"' in message


def test_damaged_images_are_left_out_if_asked(tmp_path):
    for split in ("train", "test"):
        for i, class_name in enumerate(("cat", "dog")):
            for j in range(3):
                save(tmp_path / split / class_name / f"{j}.png", np.full((4, 4), 10 * i + j, np.uint8))
    damaged(tmp_path, "train/cat/0.png", "train/dog/2.png", "test/cat/1.png")
    dataset = load("mine", tmp_path, Decoding(on_damaged="skip"))
    assert [int(image.flat[0]) for image in dataset.train.images] == [1, 2, 10, 11]
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert [int(image.flat[0]) for image in dataset.test.images] == [0, 2, 10, 11, 12]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 1]
    (note,) = dataset.notes
    assert note.startswith("Left out: 3 of 12 images cannot be read: ") and "train/dog/2.png" in note


def test_a_class_whose_images_are_all_damaged_is_not_lost(tmp_path):
    damaged(two_classes(tmp_path, count=2), "dog/0.png", "dog/1.png")
    assert "no image of these classes can be read: dog;" in error_of(tmp_path, Decoding(on_damaged="skip"))
    damaged(tmp_path, "cat/0.png", "cat/1.png")
    assert "4 of 4 images cannot be read" in error_of(tmp_path, Decoding(on_damaged="skip"))


def test_a_class_whose_training_images_are_all_damaged_does_not_become_an_unseen_one(tmp_path):
    for split in ("train", "test"):
        two_classes(tmp_path / split, count=1)
        save(tmp_path / split / "bird/0.png", GREY)
    damaged(tmp_path, "train/bird/0.png")
    assert "can be read: train/bird;" in error_of(tmp_path, Decoding(on_damaged="skip"))


def test_images_that_come_out_dark_are_told(tmp_path):
    deep = GREY.astype(np.uint16) * 16
    two_classes(tmp_path, deep)
    (note,) = load("mine", tmp_path).notes
    assert f"10 images of 16 bits are brightest at {deep.max()} of 65535" in note and '"image_bits": 12' in note
    dataset = load("mine", tmp_path, Decoding(image_bits=12))
    assert not dataset.notes
    np.testing.assert_array_equal(dataset.train.images[0, ..., 0], GREY)
    (note,) = load("mine", tmp_path, Decoding(image_bits=10)).notes
    assert "cut off" in note


def test_of_dark_colours_nothing_is_advised_that_would_not_help(tmp_path):
    """Of colours Pillow keeps the upper 8 bits, whatever `image_bits` says."""
    rows = struct.pack(">B3H", 0, 4095, 0, 0) * 2
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        save(tmp_path / name, COLOUR[:2, :1])
        (tmp_path / name).write_bytes(png_of_size(1, 2, 16, 2, rows))
    for bits in (12, 16):
        (note,) = load("mine", tmp_path, Decoding(image_bits=bits)).notes
        assert (
            "4 images of 16 bits in colour or with alpha are brightest at 3855 of 65535, so that they are dark" in note
        )
        assert "image_bits" not in note


# Splits


def test_train_and_test_folders_are_the_splits(tmp_path):
    two_classes(tmp_path / "train", COLOUR, count=3)
    two_classes(tmp_path / "test", COLOUR, count=2)
    save(tmp_path / "test/new/1.png", COLOUR)
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("cat", "dog", "new")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2]


def test_both_splits_agree_in_channels_and_size(tmp_path):
    two_classes(tmp_path / "train", GREY)
    two_classes(tmp_path / "test", COLOUR)
    dataset = load("mine", tmp_path)
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (6, 9, 3)
    save(tmp_path / "test/cat/0.png", COLOUR[:5])
    assert str(tmp_path / "test/cat/0.png") in error_of(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [("Train", "TEST", "val"), ("training", "testing", "Validation"), ("train", "test", "valid")],
)
@pytest.mark.parametrize("wrapped", ["", "pets-1.0", "pets/images"])
def test_splits_go_by_their_usual_names(tmp_path, train, test, validation, wrapped):
    for count, split in enumerate((train, test, validation), start=1):
        two_classes(tmp_path / wrapped / split, count=count)
    two_classes(tmp_path / wrapped / "others")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [len(part.labels) for part in (dataset.train, dataset.test, dataset.validation)] == [2, 4, 6]
    without = dataclasses.replace(dataset, validation=None)
    assert dataset.train_sha256 == without.train_sha256 and dataset.sha256 != without.sha256
    assert any("others/ is left out" in note for note in dataset.notes)


def test_validation_images_test_where_nothing_else_does(tmp_path):
    for split in ("train", "val"):
        two_classes(tmp_path / split)
    dataset = load("mine", tmp_path)
    assert len(dataset.test.labels) == 10 and dataset.validation is None
    assert any("val/ is taken for the test images" in note for note in dataset.notes)


@pytest.mark.parametrize("others", [[], ["val"]])
@pytest.mark.parametrize("lone", ["train", "Test"])
def test_one_split_without_the_other_is_no_class(tmp_path, lone, others):
    for split in (lone, *others):
        two_classes(tmp_path / split)
    if (lone, others) != ("train", ["val"]):
        assert f"has class folders in {lone}/, expected train/ and test/ together" in error_of(tmp_path)


def test_two_folders_of_one_split_are_refused(tmp_path):
    for split in ("train", "Training", "test"):
        two_classes(tmp_path / split)
    assert "Training/ and train/ are both of the train images" in error_of(tmp_path)


@pytest.mark.parametrize("others", [[], ["cat", "dog"]])
def test_validation_images_alone_are_no_classes(tmp_path, others):
    for folder in ("val/cat", "val/dog", *others):
        save(tmp_path / folder / "1.png", GREY)
    assert "has class folders in val/, expected train/ and test/" in error_of(tmp_path)


def test_a_class_may_be_called_valid(tmp_path):
    for folder in ("valid", "invalid"):
        for i in range(2):
            save(tmp_path / folder / f"{i}.png", GREY)
    assert load("mine", tmp_path).class_names == ("invalid", "valid")


def test_archives_are_looked_into_whatever_lies_beside_them(tmp_path):
    """As people unpack `pets.zip`, `train.zip` and `test.zip`."""
    for split in ("train", "test"):
        two_classes(tmp_path / "pets" / split / split)
        (tmp_path / "pets" / split / "list.csv").touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "pets/LICENSE").touch()
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.notes == (
        f"{tmp_path}: left out beside the folders: 1 .md",
        f"{tmp_path / 'pets'}: left out beside the folders: 1 without a suffix",
        f"{tmp_path / 'pets/test'}: left out beside the folders: 1 .csv",
        f"{tmp_path / 'pets/train'}: left out beside the folders: 1 .csv",
    )
    save(tmp_path / "1.png", GREY)  # of no class: it must not be lost
    assert f"{tmp_path / '1.png'}: lies in no class folder" in error_of(tmp_path)


@pytest.mark.parametrize("above", ["", "photos/"])
@pytest.mark.parametrize("parents", [("seen first", "later"), ("a", "b", "c")])
def test_the_same_classes_below_two_folders_are_refused(tmp_path, parents, above):
    save(tmp_path / above / parents[0] / "bird/1.png", GREY)
    for parent in parents:
        two_classes(tmp_path / above / parent, count=1)
    if above:
        (tmp_path / "documents/empty").mkdir(parents=True)
    assert f"all classes of {above}{sorted(parents)[-1 if len(parents) == 3 else 0]}/ are in" in error_of(tmp_path)
    for parent in parents:  # classes of their own: these are groups of classes
        save(tmp_path / above / parent / f"only {parent}/1.png", GREY)
        save(tmp_path / above / parent / f"only {parent}/2.png", GREY)
    assert len(load("mine", tmp_path).class_names) == 3 * len(parents) + 1


def test_a_folder_of_data_sets_is_refused(tmp_path):
    for split in ("Train", "testing"):
        two_classes(tmp_path / "pets" / split)
    two_classes(tmp_path / "letters")
    assert error_of(tmp_path) == (
        f"{tmp_path}: pets/ in it has train/ and test/, expected one data set; name its folder"
    )
    for folder in (tmp_path / "pets/Train").iterdir():
        folder.rename(tmp_path / "letters" / f"another {folder.name}")
    (tmp_path / "pets/Train").rmdir()
    assert len(load("mine", tmp_path).class_names) == 6  # groups of classes, of which one is called so


def test_alphabets_may_call_their_characters_the_same(tmp_path):
    for parent in ("Greek", "Latin", "Hebrew", "Korean"):
        two_classes(tmp_path / parent)
    assert len(load("mine", tmp_path).class_names) == 8


def test_otherwise_a_fifth_of_each_class_is_held_out(tmp_path):
    for class_name, count in {"many": 20, "two": 2, "one": 1}.items():
        for i in range(count):
            save(tmp_path / class_name / f"{i}.png", GREY)
    dataset = load("mine", tmp_path)
    assert dataset.class_names == ("many", "one", "two")
    assert np.bincount(dataset.train.labels).tolist() == [16, 1, 1]
    assert np.bincount(dataset.test.labels, minlength=3).tolist() == [4, 0, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cat/1.png", "cat/2.png"], "classes to train on: 1"),
        (["cat/1.png", "dog/1.png"], "images to test on: 0"),
        (["train/cat/1.png", "test/dog/1.png"], "classes to train on: 1"),
        (["train/cat/1.png", "train/dog/1.png", "test/dog/x.txt"], "holds dog, expected"),
        (["a.txt", "b.csv", "c.npy", "d.bin"], "holds a.txt, b.csv, c.npy, ..., expected one folder"),
    ],
)
def test_too_few_classes_or_images(tmp_path, files, expected):
    for file in files:
        if file.endswith(".png"):
            save(tmp_path / file, GREY)
        else:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    message = error_of(tmp_path)
    assert expected in message and str(tmp_path) in message
