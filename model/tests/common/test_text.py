"""What others wrote is one line that hides nothing, and not too long a one."""

import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from model.common.text import class_name, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"),
        ("größe 大きさ 🙂", "größe 大きさ 🙂"),
        ("C:\\images", "C:\\images"),
        ("  two  spaces ", "  two  spaces "),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("nul\0bell\a", r"nul\x00bell\x07"),
        ("\x1b[31mred\x9b0m\x7f", r"\x1b[31mred\x9b0m\x7f"),
        ("\u202egnp.exe\u200b\u2028", r"\u202egnp.exe\u200b\u2028"),
        ("no-utf-8-\udcff", r"no-utf-8-\udcff"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written_as_python_writes_it(text, expected):
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("length", "expected"), [(7, "abcdefg"), (6, "abc…fg"), (5, "ab…fg"), (3, "a…g"), (2, "a…"), (1, "…")]
)
def test_too_long_a_text_loses_its_middle(length, expected):
    assert printable("abcdefg", length) == expected


def test_both_ends_of_a_long_line_stay():
    line = printable("params.json: unknown key '" + "\x1b" * 200_000 + "'; see the manual")
    assert line.startswith(r"params.json: unknown key '\x1b") and line.endswith("'; see the manual")
    assert len(line) == 4000


@hypothesis.given(st.text(st.characters(codec=None), max_size=100), st.integers(1, 120))
@hypothesis.settings(deadline=None)
def test_whatever_the_text(text, length):
    shown = printable(text, length)
    assert len(shown) <= length and shown == printable(shown, length)
    shown.encode()  # there is no half of a character
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)
    assert text.isprintable() <= (shown == text or len(text) > length)
    named = class_name(text + "/" + text, length)
    assert len(named) <= length and named == printable(named, length)


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        ("a/b", 3, "a/b"),
        ("Fruit/Apple/Granny-Smith", 20, "…/Apple/Granny-Smith"),
        ("Fruit/Apple/Granny-Smith", 19, "…/Granny-Smith"),
        ("Fruit/Apple/Granny-Smith", 13, "Granny-Smith"),
        ("Fruit/Apple/Golden-Delicious", 14, "Golden-…icious"),
        ("long-name-of-a-folder/", 10, "…/"),
        ("/////////////", 3, "…//"),
    ],
)
def test_of_the_name_of_a_class_the_folders_go_first(name, length, expected):
    assert class_name(name, length) == expected


def test_of_a_path_the_end_stays():
    assert printable("data/pets/cat/1.png", 6, keeps_start=False) == "…1.png"
