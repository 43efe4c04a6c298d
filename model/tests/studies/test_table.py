"""Tables for people and for programs, whatever is in the cells."""

import csv
import io
import json
import math
from collections import Counter

import pytest

from model.studies import table

ODD = ["", " ", "x|y", "a\\", "a\nb", 'say "so", twice', "[bold]x[/bold]", "模型" * 40, "😀", "-", "=1+1", "x" * 300]


def test_a_table_for_the_terminal():
    rows = [
        {"experiment": "first", "knn": "0.5", "verdict": ""},
        {"experiment": "b", "knn": "0.25", "verdict": "worse"},
    ]
    lines = [line.split() for line in table.to_terminal(rows, 80).splitlines() if line.strip(" ─")]
    assert lines == [["experiment", "knn", "verdict"], ["first", "0.5"], ["b", "0.25", "worse"]]


def test_a_short_name_does_not_break_its_heading():
    assert table.to_terminal([{"experiment": "a", "seeds": "3"}], 80).split()[0] == "experiment"


def test_a_narrow_terminal_breaks_the_first_column_alone():
    rows = [{"experiment": "x" * 100, "interval": "+0.1000 to +0.2000"}]
    text = table.to_terminal(rows, 20)
    assert "+0.1000 to +0.2000" in text
    assert [line.count("x") for line in text.splitlines() if "xx" in line] in ([60, 40], [61, 39])


@pytest.mark.parametrize("cell", ODD)
def test_nothing_of_a_cell_is_lost_in_the_terminal(cell):
    for rows in ([{"experiment": cell, "seeds": "3"}], [{"experiment": "a", "verdict": cell, "seeds": "3"}]):
        text = table.to_terminal(rows, 20)
        assert Counter(text) >= Counter("".join(cell.split())) and "3" in text and "…" not in text


@pytest.mark.parametrize("cell", ODD)
def test_a_row_of_markdown_is_a_line(cell):
    text = table.to_markdown([{"experiment": cell, "seeds": "3"}, {"experiment": "b", "seeds": "4"}])
    lines = text.split("\n")
    assert lines[0] == "| experiment | seeds |" and lines[1] == "| --- | --- |" and lines[3] == "| b | 4 |"
    assert len(lines) == 5 and lines[2].replace("\\|", "").count("|") == 3 and lines[2].endswith(" | 3 |")


def test_a_pipe_in_a_cell_does_not_end_it():
    assert table.to_markdown([{"a": "x|y"}]) == "| a |\n| --- |\n| x\\|y |\n"


@pytest.mark.parametrize("cell", ODD)
def test_programs_read_what_was_written(cell):
    rows = [{"experiment": cell, "eer": 0.1 + 0.2, "p": None}]
    assert list(csv.DictReader(io.StringIO(table.to_csv(rows)))) == [
        {"experiment": cell, "eer": "0.30000000000000004", "p": ""}
    ]
    assert json.loads(table.to_json(rows)) == rows


HOSTILE = "\x1b[31m\x9b0m\r\u202e\u2028\udcff\x7f"


def test_no_cell_is_obeyed_by_a_terminal():
    rows = [{"experiment": HOSTILE + "\n2026-01-01 Done", "verdict": HOSTILE}]
    shown = r"\x1b[31m\x9b0m\r\u202e\u2028\udcff\x7f"
    for text in (table.to_terminal(rows, 200), table.to_markdown(rows)):
        assert shown + r"\n2026-01-01 Done" in text and text.count(shown) == 2
        assert all(line.isprintable() for line in text.split("\n"))
    assert table.to_csv(rows) == f'experiment,verdict\n"{shown}\n2026-01-01 Done",{shown}\n'
    text = table.to_json(rows)
    assert json.loads(text) == rows and all(line.isprintable() for line in text.split("\n"))


def test_a_long_cell_is_cut_where_people_read_it():
    rows = [{"experiment": "x" * 200_000}]
    assert len(table.to_markdown(rows)) < 4_100 and len(table.to_terminal(rows, 100).replace(" ", "")) < 8_300


def test_json_proper_has_no_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        table.to_json([{"eer": math.nan}])
