"""`images.csv`, as people write it and as they should not, and folders of queries and of the gallery."""

import dataclasses
import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.common.errors import UserError
from model.data import images_csv
from model.data.datasets import load
from model.data.decoding import Decoding
from model.data.listing import Roles
from model.tests.experiments import error_of
from model.tests.images import save

# As pandas writes the data frame of open-metric-learning.
OML = """,label,path,split,is_query,is_gallery,category,x_1
0,7,i/0.png,train,,,toys,
1,7,i/1.png,train,,,toys,
2,11,i/2.png,train,,,food,
3,11,i/3.png,train,,,food,
4,100,i/4.png,validation,True,False,toys,
5,100,i/5.png,validation,False,True,toys,
6,9,i/6.png,validation,True,True,toys,
7,9,i/7.png,validation,False,False,toys,
"""


@pytest.fixture
def folder(tmp_path):
    """Twelve images of 4 x 4 pixels, i/0.png to i/11.png, each filled with its number."""
    for i in range(12):
        save(tmp_path / f"mine/i/{i}.png", np.full((4, 4), i, np.uint8))
    return tmp_path / "mine"


def write(folder, text):
    (folder / "images.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


def names(data, split):
    return [data.class_names[label] for label in split.labels]


@pytest.mark.parametrize("form", ["as it is", "byte order mark", "CRLF", "CR", "quotes"])
def test_a_data_frame_of_open_metric_learning(folder, form):
    text = OML.replace(",7,", ',"7",') if form == "quotes" else OML
    ending = {"CRLF": "\r\n", "CR": "\r"}.get(form, "\n")
    write(folder, text.replace("\n", ending).encode("utf-8-sig" if form == "byte order mark" else "utf-8"))
    data = load("mine", folder)
    assert data.class_names == ("7", "9", "11", "100")  # numbers in their order
    assert numbers(data.train) == [0, 1, 2, 3] and names(data, data.train) == ["7", "7", "11", "11"]
    assert numbers(data.test) == [4, 5, 6, 7] and names(data, data.test) == ["100", "100", "9", "9"]
    roles = data.test.roles
    assert roles.is_query.tolist() == [True, False, True, False]
    assert roles.is_gallery.tolist() == [False, True, True, False]
    assert roles.group is None and data.validation is None
    assert roles.count_without_answer(data.test.labels) == 1  # 6, whose class has itself alone in the gallery
    ignored, taken, unlisted = data.notes
    assert ignored.endswith("images.csv: these columns are ignored: category, x_1")
    assert taken.endswith("the images of the split validation are taken for the test images, as there is no test")
    assert unlisted.endswith("not listed in images.csv, and left out: 4 .png")


def test_links_that_nothing_lists_lead_nowhere(folder):
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone").symlink_to(folder / "nowhere/1.png")
    write(folder, OML.encode())
    *_, unlisted = load("mine", folder).notes
    assert unlisted.endswith("not listed in images.csv, and left out: 4 .png, 2 links to nothing")


def test_every_column(folder):
    rows = ["path,label,split,is_query,is_gallery,group"]
    rows += [f"./i/{i}.png, dog ,Training,,,cam {i % 2}" for i in range(3)]
    rows += ["i/3.png,cat,train,0,1,"]
    rows += [f"{folder / 'i' / f'{i}.png'},cat,val,1,0.0,cam 1" for i in (4, 5)] + ["i/6.png,cat,valid,FALSE,1.0,"]
    rows += ["i/7.png,dog,test,true,true,x", "", "i/8.png,dog,testing,True,true,y", "i/9.png,cat,TEST,True,true,x"]
    data = load("mine", write(folder, "\n".join(rows)))
    assert data.class_names == ("cat", "dog")
    assert [numbers(split) for split in (data.train, data.validation, data.test)] == [
        [0, 1, 2, 3], [4, 5, 6], [7, 8, 9],
    ]  # fmt: skip
    assert data.validation.roles.is_query.tolist() == [True, True, False]
    assert data.train.roles.is_query.all() and data.train.roles.is_gallery.all()  # whatever stands there
    first, second, third = data.test.roles.group
    assert first == third != second and min(data.test.roles.group) >= 0
    assert data.validation.roles.group[2] == -1
    assert data.test.roles.to_score(exclude_same_group=False) is None
    scored = data.test.roles.to_score(exclude_same_group=True)
    assert scored.count_without_answer(data.test.labels) == 1  # the only cat
    assert scored.count_without_answer(np.array([0, 0, 0])) == 0
    assert scored.count_without_answer(np.array([0, 1, 0])) == 3  # the other of its class shares its group
    chosen = data.test.where(np.array([False, True, True]))
    assert numbers(chosen) == [8, 9] and chosen.roles.group.tolist() == [second, third]


@pytest.mark.parametrize("split", ["", ",split"])
def test_without_splits_a_part_is_held_out_as_of_folders(folder, tmp_path, split):
    values = iter(["", "all", "ALL"] * 4)
    lines = [f"i/{i}.png,{'cat' if i < 6 else 'dog'}{',' + next(values) if split else ''}" for i in range(12)]
    data = load("mine", write(folder, "\n".join([f"path,label{split}", *lines])))
    for i in range(12):
        save(tmp_path / "folders" / ("cat" if i < 6 else "dog") / f"{i:02}.png", np.full((4, 4), i, np.uint8))
    expected = load("mine", tmp_path / "folders")
    assert data.class_names == expected.class_names and data.test.roles is None and not data.notes
    for ours, theirs in ((data.train, expected.train), (data.test, expected.test)):
        assert numbers(ours) == numbers(theirs) and ours.labels.tolist() == theirs.labels.tolist()
    assert data.sha256 == expected.sha256


def test_classes_are_in_the_order_of_numbers_only_if_all_are_numbers(folder):
    def order(*labels):
        lines = [f"i/{i}.png,{label}" for i, label in enumerate(labels)]
        return load("mine", write(folder, "\n".join(["path,label", *lines, f"i/11.png,{labels[0]}"]))).class_names

    assert order("10", "9", "2", "02", "9" * 30) == ("02", "2", "9", "10", "9" * 30)
    assert order("10", "9", "2", "a") == ("10", "2", "9", "a")
    assert order("10", "9", "٣") == ("10", "9", "٣")


def test_the_list_decides_also_beside_other_files(folder):
    (folder / "train-images-idx3-ubyte").touch()
    (folder / ".hidden").touch()
    os.mkfifo(folder / "pipe")
    (folder / "tfds").mkdir()
    (folder / "tfds/x").touch()
    write(folder, "path,label\n" + "".join(f"i/{i}.png,{i % 2}\n" for i in range(12)) + "i/3.png,1\n")
    data = load("mine", folder)
    assert len(data.train.labels) + len(data.test.labels) == 12
    repeated, unlisted = data.notes
    assert repeated.endswith("1 lines list an image once more, which counts once")
    assert unlisted.endswith("left out: 1 without a suffix")


def test_damaged_images_take_their_facts_along(folder):
    (folder / "i/5.png").write_bytes(b"no image")
    write(folder, OML + "8,100,i/8.png,validation,False,True,toys,\n")
    assert "i/5.png" in error_of("mine", folder)
    data = load("mine", folder, Decoding(on_damaged="skip"))
    assert numbers(data.test) == [4, 6, 7, 8]
    assert data.test.roles.is_query.tolist() == [True, True, False, False]
    assert data.test.roles.is_gallery.tolist() == [False, True, False, True]
    write(
        folder,
        OML.replace("i/7.png,validation", "i/5.png,train,,,,\n10,9,i/7.png,validation").replace("5,100,", "5,9,"),
    )
    (folder / "i/4.png").write_bytes(b"no image")
    write(folder, OML.replace("validation,False,True", "validation,True,False"))
    assert "no image of these classes can be read: test/100;" in error_of("mine", folder, Decoding(on_damaged="skip"))


HEAD = "path,label,split\n"
GOOD = "i/0.png,a,train\ni/1.png,b,train\ni/2.png,a,test\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty, expected a table with the columns path, label"),
        (b"\xef\xbb\xbf\n\n", "is empty|no column 'path'"),
        ("path,label\n", "lists no images"),
        ("path,split\ni/0.png,train\n", "line 1: no column 'label' among path, split"),
        ("file;label\n", "line 1: columns are separated by ';', expected commas"),
        ("path\tlabel\n", r"line 1: columns are separated by '\\t', expected commas"),
        ("path,label,path\n", "line 1: two columns are called 'path'"),
        ("path,label,is_query,split\n", "line 1: no column 'is_gallery'"),
        ("path,label,is_query,is_gallery\n", "line 1: no column 'split'"),
        (HEAD + GOOD + "i/3.png,a,dev\n", "line 5: split 'dev', expected train, test, validation or all"),
        (HEAD + GOOD + "i/3.png, ,test\n", "line 5: the label is empty"),
        (HEAD + GOOD + ",a,test\n", "line 5: the path is empty"),
        (HEAD + GOOD + "i/3.png,a\n", "line 5: has 2 cells, expected 3"),
        (HEAD + GOOD + "i/3.png,a,test,x\n", "line 5: has 4 cells, expected 3"),
        (HEAD + GOOD + "../x.png,a,test\n", r"line 5: path '../x.png' is not below"),
        (HEAD + GOOD + "/etc/passwd,a,test\n", r"line 5: path '/etc/passwd' is not below"),
        (HEAD + GOOD + ".,a,test\n", "line 5: path '.' is not below"),
        (HEAD + GOOD + "i,a,test\n", "line 5: path 'i' is no file"),
        (HEAD + GOOD + "i/99.png,a,test\nj/1.png,a,test\n", r"2 images cannot be found.*: i/99.png in line 5 \(No"),
        (HEAD + GOOD + "i\\0.png,a,test\n", r"1 images cannot be found.*\(No such.*; it has a backslash, expected /\)"),
        (HEAD + GOOD + " i/0.png,a,test\n", r"1 images cannot be found.*\(No such.*; it begins or ends with a blank\)"),
        (HEAD + GOOD + "i/0.png/x,a,test\n", r"1 images cannot be found.*\(Not a directory\)"),
        (HEAD + GOOD + "x" * 5000 + ",a,test\n", r"1 images cannot be found.*\(File name too long\)"),
        (HEAD + GOOD + "i/0.png,b,train\n", "line 5: .*i/0.png is listed with label 'b', and in line 2 with 'a'"),
        (HEAD + GOOD + "i/0.png,a,test\n", "line 5: .*listed with split 'test', and in line 2 with 'train'"),
        (HEAD + GOOD + "i/../i/2.png,b,test\n", "line 5: .*listed with label 'b', and in line 4"),
        (HEAD + GOOD + "i/link.png,a,train\n", "line 5: .*link.png is listed with split 'train', and in line 4"),
        (HEAD + GOOD + "i/3.png,a,\n", "the split of 1 images is empty or all, that of 3 is not"),
        (HEAD + "i/0.png,a,train\ni/1.png,b,train\n", "all images are of the split train, expected train and test"),
        (HEAD + "i/0.png,a,test\ni/1.png,b,val\n", "all images are of the split test and validation"),
        (HEAD + 'i/0.png,"a\nb",train\n', r"line 2: label 'a\\\\nb' holds a line break"),
        (HEAD + 'i/0.png,"a,train\n' + GOOD, r"line 2: no CSV \(unexpected end of data\)"),
        (HEAD + 'i/0.png,"a"b,train\n', "line 2: no CSV"),
        (HEAD + GOOD + f"i/3.png,{'x' * 200_000},test\n", r"line 5: no CSV \(field larger than field limit"),
        (HEAD + GOOD + "i/3.png,a\0b,test\n", "line 5: holds bytes that are no text in UTF-8"),
        (HEAD.encode() + b"i/0.png,caf\xe9,train\n", "line 2: holds bytes that are no text in UTF-8"),
        ((HEAD + GOOD).encode("utf-16"), "line 1: holds bytes that are no text in UTF-8"),
        (bytes(range(256)) * 40, "holds bytes that are no text in UTF-8"),
        (OML.replace("5.png,validation,False", "5.png,validation,maybe"), "line 7: is_query 'maybe', expected"),
        (OML.replace("5.png,validation,False", "5.png,validation,"), "line 7: is_query '', expected True or False"),
        (OML.replace("0.png,train,", "0.png,train,maybe"), "line 2: is_query 'maybe'"),
        (OML.replace("n,True", "n,False"), "there is no query among the test images"),
        (re.sub("(True|False),True", r"\1,False", OML), "there is no gallery image among the test images"),
        (OML.replace("train", "").replace("validation", "all"), "has queries and a gallery and no splits"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, text, message):
    (folder / "i/link.png").symlink_to("2.png")
    line = error_of("mine", write(folder, text))
    assert line.startswith((f"{folder / 'images.csv'}: ", f"{folder}: ")) and len(line) < 700
    assert re.search(message, line)


def test_a_list_that_is_none(folder):
    (folder / "images.csv").mkdir()
    assert f"{folder / 'images.csv'}: Is a directory" in error_of("mine", folder)
    (folder / "images.csv").rmdir()
    (folder / "images.csv").symlink_to("nowhere")
    assert f"{folder / 'images.csv'}: No such file" in error_of("mine", folder)
    (folder / "images.csv").unlink()
    os.mkfifo(folder / "images.csv")
    assert f"{folder / 'images.csv'}: No regular file" in error_of("mine", folder)


def test_a_path_through_a_link_to_the_folder_is_below_it(folder, tmp_path):
    """As where data/ links to a large disk, and somebody writes where the files really are, or the other way round."""
    link = tmp_path / "a link"
    link.symlink_to(folder)
    for opened, written in ((link, folder), (folder, link)):
        (folder / "images.csv").write_text(HEAD + GOOD.replace("i/", f"{written}/i/"))
        assert [image.path.relative_to(opened).as_posix() for image in images_csv.read(opened).images] == [
            line.partition(",")[0] for line in GOOD.splitlines()
        ]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_damaged_is_data_or_one_line(folder, data):
    """Bytes of a good file that are cut, doubled, or replaced by what CSV is sensitive to."""
    content = bytearray(OML.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 8, len(content))))
        content[start:stop] = data.draw(
            st.sampled_from([b"", b",", b'"', b"\n", b"\r", b"\0", b";", b"\xff", b"7", b"True"])
        )
    write(folder, bytes(content))
    try:
        loaded = load("mine", folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    else:
        assert not set(numbers(loaded.train)) & set(numbers(loaded.test))


# Folders of queries and of the gallery


def tree(root, *folders):
    number = 0
    for folder in folders:
        for i in range(2):
            save(root / folder / f"{i}.png", np.full((4, 4), number, np.uint8))
            number += 1
    return root


@pytest.mark.parametrize(
    ("query", "gallery"), [("query", "gallery"), ("Probe", "Galleries"), ("test/query", "test/gallery")]
)
def test_folders_of_queries_and_gallery(tmp_path, query, gallery):
    names = [f"{gallery}/new", f"{gallery}/old", f"{query}/new", f"{query}/lone", "train/old", "train/other", "val/old"]
    data = load("mine", tree(tmp_path, *names))
    assert data.class_names == ("lone", "new", "old", "other") and not data.notes
    assert numbers(data.train) == [8, 9, 10, 11] and numbers(data.validation) == [12, 13]
    assert numbers(data.test) == [6, 7, 4, 5, 0, 1, 2, 3]
    assert data.test.roles.is_query.tolist() == [True] * 4 + [False] * 4
    np.testing.assert_array_equal(data.test.roles.is_gallery, ~data.test.roles.is_query)
    assert data.test.roles.count_without_answer(data.test.labels) == 2
    assert data.validation.roles.to_score(exclude_same_group=True) is None


def test_the_fingerprint_of_the_data_is_that_of_the_roles_too(tmp_path):
    data = load("mine", tree(tmp_path, "train/x", "train/y", "query/x", "gallery/x"))
    swapped = Roles(data.test.roles.is_gallery, data.test.roles.is_query)
    others = [
        dataclasses.replace(data, test=dataclasses.replace(data.test, roles=roles))
        for roles in (None, swapped, dataclasses.replace(data.test.roles, group=np.zeros(4, np.int32)))
    ]
    assert len({one.sha256 for one in (data, *others)}) == 4
    assert len({one.train_sha256 for one in (data, *others)}) == 1  # what is learned from is the same


def test_query_and_gallery_are_names_of_classes_without_training_folder(tmp_path):
    data = load("mine", tree(tmp_path, "query", "gallery", "query/deep"))
    assert data.class_names == ("gallery", "query", "query/deep") and data.test.roles is None
    data = load("other", tree(tmp_path / "other", "train/query", "train/gallery", "test/query", "test/gallery"))
    assert data.class_names == ("gallery", "query") and data.test.roles is None


def test_one_of_two_or_too_many_are_refused(tmp_path):
    assert "has query/ beside train/, expected query/ and gallery/" in error_of(
        "a", tree(tmp_path / "a", "train/x", "query/x")
    )
    both = tree(tmp_path / "b", "train/x", "train/y", "query/x", "gallery/x", "test/x")
    assert "the test images are in test/, and in query/ and gallery/ as well" in error_of("b", both)
    twice = tree(tmp_path / "c", "train/x", "train/y", "query/x", "probe/x", "gallery/x")
    assert "probe/ and query/ are both of the query images" in error_of("c", twice)
    left_out = load("d", tree(tmp_path / "d", "train/x", "train/y", "query/x", "test/x"))
    assert left_out.notes == (f"{tmp_path / 'd/query'}/ is left out",) and left_out.test.roles is None
