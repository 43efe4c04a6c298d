"""What others wrote is one line that hides nothing, and not too long a one."""

import doctest
import unicodedata

import hypothesis
import hypothesis.strategies as st
import pytest

from model.common import text as text_module
from model.common.text import printable


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


def test_of_names_that_begin_alike_the_end_stays():
    apples = [printable(f"Fruit/Apple/{kind}", 14, keeps_start=False) for kind in ("Granny-Smith", "Golden-Delicious")]
    assert apples == ["…/Granny-Smith", "…den-Delicious"]
    assert printable("a/b", 3, keeps_start=False) == "a/b"


def test_the_examples():
    assert doctest.testmod(text_module) == (0, 5)
