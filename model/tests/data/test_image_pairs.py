"""Files of pairs: what is read from them, and one line for each thing that is wrong."""

import os

import numpy as np
import pytest

from model.common.errors import UserError
from model.data import image_pairs
from model.tests.images import GREY, save


@pytest.fixture
def folder(tmp_path):
    for name in "abcdef":
        save(tmp_path / "faces" / f"{name}.png", GREY)
    return tmp_path


ROWS = ["a,b,True", "c,d,1", "a,c,False", "b,d,0"]


def write(folder, rows, header="path_1,path_2,same"):
    """Rows in which a letter is the name of a file."""
    file = folder / "pairs.csv"
    lines = [
        ",".join(f"faces/{cell}.png" if len(cell) == 1 and cell.isalpha() else cell for cell in row.split(","))
        for row in rows
    ]
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def names(found):
    return ["".join(found.images.paths[i].stem for i in pair) for pair in found.pairs]


def test_pairs_in_their_order_and_each_image_once(folder):
    found = image_pairs.find(write(folder, ROWS))
    assert names(found) == ["ab", "cd", "ac", "bd"]
    assert found.is_same.tolist() == [True, True, False, False]
    assert [path.stem for path in found.images.paths] == ["a", "b", "c", "d"]
    assert found.folds is None and not found.notes


def test_columns_in_any_order_and_folds_of_any_name(folder):
    rows = ["x,True,b,two,a", "x,True,d,one,c", "x,False,c,two,a", "x,False,d,one,b"]
    found = image_pairs.find(write(folder, rows, "age,same,path_2,fold,path_1"))
    assert names(found) == ["ab", "cd", "ac", "bd"] and found.folds.tolist() == [0, 1, 0, 1]
    assert found.notes == [f"{folder / 'pairs.csv'}: these columns are ignored: age"]


def test_links_and_detours_lead_to_one_image(folder):
    (folder / "link.png").symlink_to(folder / "faces" / "a.png")
    os.link(folder / "faces" / "b.png", folder / "hard.png")
    found = image_pairs.find(
        write(folder, [*ROWS, "link.png,faces/../faces/e.png,True", f"hard.png,{folder}/faces/f.png,False"])
    )
    assert names(found)[4:] == ["ae", "bf"] and len(found.images.paths) == 6


def test_a_pair_that_is_listed_again_counts_again_and_is_told(folder):
    found = image_pairs.find(write(folder, [*ROWS, "b,a,True", "a,b,True"]))
    assert names(found) == ["ab", "cd", "ac", "bd", "ba", "ab"]
    assert found.notes == [f"{folder / 'pairs.csv'}: 2 pairs are listed once more, and count each time"]


def refusal(file):
    with pytest.raises(UserError) as raised:
        image_pairs.find(file)
    line = str(raised.value)
    assert "\n" not in line and line.startswith(f"{file}: ")
    return line


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([*ROWS, "a,a,True"], "line 6: path_1 'faces/a.png' is paired with itself"),
        ([*ROWS, "b,a,False"], "line 6: these images are False in column same, and True in line 2; keep one"),
        ([*ROWS, "a,e,maybe"], "line 6: same 'maybe', expected True or False"),
        ([*ROWS, "a,e,"], "line 6: same '', expected True or False"),
        ([*ROWS, "a,,True"], "line 6: the path_2 is empty"),
        ([*ROWS, "a,e"], "line 6: has 2 cells, expected 3"),
        ([*ROWS, "a,e,True,1"], "line 6: has 4 cells, expected 3"),
        ([*ROWS, "a,../e.png,True"], "line 6: path_2 '../e.png' is not below"),
        ([*ROWS, "/etc/passwd,e,True"], "line 6: path_1 '/etc/passwd' is not below"),
        ([*ROWS, "faces,e,True"], "line 6: path_1 'faces' is no file"),
        ([*ROWS, "x,e,True", "a,y,True"], "2 images cannot be found, expected paths relative to"),
        ([*ROWS, '"a'], "line 6: no CSV"),
        ([*ROWS, "\0,e,True"], "line 6: holds bytes that are no text"),
        (ROWS[:3], "2 pairs are the same and 1 are not, expected two at least of both"),
        ([], "0 pairs are the same and 0 are not"),
    ],
)
def test_what_is_no_file_of_pairs(folder, rows, told):
    assert told in refusal(write(folder, rows))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path_1,path_2,label", "line 1: no column 'same' among path_1, path_2, label"),
        ("path_1,path_1,same", "line 1: no column 'path_2'"),
        ("path_1;path_2;same", "columns are separated by ';', expected commas"),
        ("path_1,path_2,same,same", "two columns are called 'same'"),
    ],
)
def test_a_header_of_other_columns(folder, header, told):
    assert told in refusal(write(folder, ROWS, header))


@pytest.mark.parametrize(
    ("folds", "told"),
    [
        ("1111", "all pairs are of one fold"),
        ("1122", "there are no same pairs outside of fold '1'"),
        ("2211", "there are no same pairs outside of fold '2'"),
        ("112", "line 5: has 3 cells"),
    ],
)
def test_folds_that_leave_nothing_to_choose_by(folder, folds, told):
    rows = [f"{row},{fold}" for row, fold in zip(ROWS, folds, strict=False)]
    assert told in refusal(write(folder, [*rows, *ROWS[len(rows) :]], "path_1,path_2,same,fold"))


def test_an_empty_fold(folder):
    rows = [f"{row},{fold}" for row, fold in zip(ROWS, ["1", "2", "1", " "], strict=True)]
    assert "line 5: the fold is empty" in refusal(write(folder, rows, "path_1,path_2,same,fold"))


def test_files_that_are_none(folder):
    (folder / "empty.csv").write_text(" \n")
    assert "is empty, expected a table with the columns path_1, path_2, same" in refusal(folder / "empty.csv")
    assert "No such file or directory; --pairs expects a CSV file" in refusal(folder / "none.csv")
    assert "Is a directory" in refusal(folder / "faces")
    os.mkfifo(folder / "pipe.csv")
    assert "No regular file" in refusal(folder / "pipe.csv")


def test_many_pairs_of_few_images(folder):
    rows = [f"{a},{b},{(ord(a) + ord(b)) % 2}" for a in "abcdef" for b in "abcdef" if a < b] * 100
    found = image_pairs.find(write(folder, rows))
    assert len(found.images.paths) == 6 and found.pairs.shape == (1500, 2) and np.count_nonzero(found.is_same) == 900
