"""A gallery from outside, in the forms in which people have them, and one line for each mistake."""

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import gallery
from model.tests.images import GREY, save


def error_of(path):
    """The line with which a gallery is refused."""
    with pytest.raises(UserError) as caught:
        gallery.find(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def found(path):
    """Class and file of each image, and the notes."""
    listing = gallery.find(path)
    assert all(image.split == "all" for image in listing.images)
    return [(image.class_name, image.path) for image in listing.images], listing.notes


def test_class_folders_with_odd_files_between(tmp_path):
    files = [save(tmp_path / name, GREY) for name in ("anna/1.png", "anna/2.JPG", "bo/deep/x.png", "zoë/a b.bmp")]
    (tmp_path / "anna" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "anna" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "bo" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "anna" / "again.png").symlink_to(files[0])
    save(tmp_path / "__MACOSX" / "anna" / "1.png", GREY)
    images, notes = found(tmp_path)
    assert images == [("anna", files[0]), ("anna", files[1]), ("bo/deep", files[2]), ("zoë", files[3])]
    (note,) = notes
    for left_out in ("1 .db", "1 .txt", "1 empty folders", "1 links to images that count already"):
        assert left_out in note


def test_one_class_and_one_image(tmp_path):
    file = save(tmp_path / "anna" / "1.png", GREY)
    assert found(tmp_path) == ([("anna", file)], ())


def test_the_same_in_a_table(tmp_path):
    """In the folder, by whatever name, with the columns of open-metric-learning, which say nothing here."""
    files = [save(tmp_path / "all" / f"{number}.png", GREY) for number in range(3)]
    rows = ["label,path,split,is_query", '"Anna, the first",all/0.png,train,True', "bo,all/2.png,,", "bo,all/1.png,x,?"]
    expected = [("Anna, the first", files[0]), ("bo", files[2]), ("bo", files[1])]
    for name in ("images.csv", "people.csv"):
        (tmp_path / name).write_text("\n".join([*rows, "bo,all/../all/1.png,,"]), encoding="utf-8-sig")
        images, notes = found(tmp_path / name)
        assert images == expected
        assert notes == (
            f"{tmp_path / name}: these columns are ignored: split, is_query",
            f"{tmp_path / name}: 1 lines list an image once more, which counts once",
        )
    assert found(tmp_path)[0] == expected


def test_numbers_are_in_the_order_of_numbers_in_a_table(tmp_path):
    for number in (2, 10):
        save(tmp_path / f"{number}.png", GREY)
    (tmp_path / "all.csv").write_text("path,label\n10.png,10\n2.png,2\n")
    assert gallery.find(tmp_path / "all.csv").in_order({"10", "2"}) == ["2", "10"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "is empty, expected a table with the columns path, label"),
        ("path,label\n", "lists no images"),
        ("path;label\n1.png;a\n", "columns are separated by ';', expected commas"),
        ("path\n1.png\n", "line 1: no column 'label' among path"),
        ("path,label\n1.png,\n", "line 2: the label is empty"),
        ("path,label\n2.png,a\n", "1 images cannot be found, expected paths relative to"),
        ("path,label\n../1.png,a\n", "line 2: path '../1.png' is not below"),
        ("path,label\n1.png,a\n1.png,b\n", "line 3: "),
        ("path,label\nanna,a\n", "is no file, expected that of an image"),
        ("path,label\n1.png,a,b\n", "has 3 cells, expected 2"),
    ],
)
def test_a_table_that_is_none(tmp_path, table, expected):
    save(tmp_path / "1.png", GREY)
    (tmp_path / "anna").mkdir()
    (tmp_path / "people.csv").write_text(table)
    assert error_of(tmp_path / "people.csv").startswith(f"{tmp_path / 'people.csv'}: ")
    assert expected in error_of(tmp_path / "people.csv")


def test_what_is_no_gallery(tmp_path):
    assert "--gallery expects a folder of class folders, or a CSV file" in error_of(tmp_path / "nowhere")
    assert "holds no class folder with images" in error_of(tmp_path)
    (tmp_path / "anna").mkdir()
    assert "holds no class folder with images" in error_of(tmp_path)
    (tmp_path / "anna" / "1.heic").write_bytes(b"x")
    assert "all its images are .heic files" in error_of(tmp_path)
    image = save(tmp_path / "1.png", GREY)
    assert "lies in no class folder" in error_of(tmp_path)
    assert "holds bytes that are no text" in error_of(image)


def test_a_folder_of_splits_has_to_say_which(tmp_path):
    for name in ("train/anna/1.png", "test/anna/2.png"):
        save(tmp_path / name, GREY)
    assert error_of(tmp_path) == f"{tmp_path}: has train/ and test/, expected class folders; name one of these"
    assert found(tmp_path / "train")[0] == [("anna", tmp_path / "train" / "anna" / "1.png")]


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    save(tmp_path / "anna" / "1.png", np.zeros((2, 2), np.uint8))

    def closed(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(gallery.class_folders, "find_images", closed)
    assert error_of(tmp_path).startswith(f"{tmp_path}: Permission denied; --gallery expects")
