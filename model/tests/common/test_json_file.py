"""Files that a person writes: whatever they hold, they are read, or refused with one line that helps."""

import json
import os
import re
from typing import Literal

import hypothesis
import hypothesis.strategies as st
import pytest
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from model.common import json_file
from model.common.errors import UserError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Range(Strict):
    low: float
    high: float


class Recipe(Strict):
    """Some of everything that a file may have to say."""

    margin: FiniteFloat | Literal["soft"] = 0.5
    epochs: int = Field(1, ge=1)
    vary: dict[str, Range] = {}

    @model_validator(mode="after")
    def _is_affordable(self):
        if self.epochs > 1000:
            raise ValueError("'epochs' is more than anybody waits for")
        return self


@pytest.fixture
def path(tmp_path):
    return tmp_path / "recipe.json"


def read(path, **options):
    return json_file.read(path, Recipe, "write one first", **options)


def refused(path, content=None, **options):
    """The line with which a file is refused, without its name."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read(path, **options)
    name, _, line = str(raised.value).partition(": ")
    assert name == str(path) and line and len(line.splitlines()) == 1
    line.encode()  # can be printed
    return line


def test_what_is_right_is_read(path):
    path.write_text('{"$schema": "../recipe.schema.json", "margin": "soft", "vary": {"x": {"low": 1, "high": 2.5}}}')
    recipe = read(path)
    assert recipe == read(str(path))
    assert (recipe.margin, recipe.epochs, recipe.vary["x"].high) == ("soft", 1, 2.5)
    path.write_text(" {}\n")
    assert read(path) == Recipe()


def test_names_of_any_alphabet(path):
    path.write_text(json.dumps({"vary": {"größe 大きさ 🙂": {"low": 0, "high": 1}}}, ensure_ascii=False), "utf-8")
    assert list(read(path).vary) == ["größe 大きさ 🙂"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_what_editors_on_windows_write(path, encoding):
    path.write_bytes('{"vary": {"größe": {"low": 0, "high": 1}}}'.encode(encoding))
    assert list(read(path).vary) == ["größe"]


def test_a_pipe_is_not_waited_for(path):
    os.mkfifo(path)
    assert refused(path).startswith("cannot be read as a text file: [Errno 22] No regular file, but a pipe")


def test_a_large_file_is_not_read_to_its_end(path):
    with path.open("wb") as file:
        file.truncate(2**40)  # a file of holes, which no memory takes
    assert refused(path).startswith("larger than ")


def test_a_file_that_is_not_there(path):
    assert refused(path) == "no such file; write one first"


def test_a_folder_in_its_place(path):
    path.mkdir()
    assert refused(path).startswith("cannot be read as a text file: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "not valid JSON: Expecting value at line 1, column 1"),
        ("{", "not valid JSON: .* at line 1, column 2"),
        ('{\n  "margin": 1,\n}', "not valid JSON: .* at line 2, column 14|.* at line 3, column 1"),
        ("{'margin': 1}", "not valid JSON"),
        ('{"margin": 1} {"margin": 2}', "not valid JSON: Extra data at line 1, column 15"),
        ('{"margin": 01}', "not valid JSON"),
        ('{"margin": 1} // wide', "not valid JSON"),
        ('{"epochs": "1\n2"}', "not valid JSON"),
        (b"\xff\xfe{\x00}", "cannot be read as a text file: "),  # UTF-16 that ends in the middle of a character
        (b'{"margin": "caf\xe9"}', "cannot be read as a text file: "),
        (b"\x00" * 100, "not valid JSON"),
        ("[]", r"expected a JSON object \{\.\.\.\}, received \[\]$"),
        ("null", r"expected a JSON object \{\.\.\.\}, received null$"),
        ('"margin"', r"expected a JSON object .*, received \"margin\"$"),
        ("NaN", "expected a JSON object .*, received NaN$"),
        (json.dumps(["long"] * 100), r"expected a JSON object .*, received .{57}\.\.\.$"),
        ('{"margin": 1, "epochs": 2, "margin": 1}', "'margin' is there twice; keep one"),
        ('{"vary": {"x": {"low": 1, "low": 2, "high": 3}}}', "'low' is there twice; keep one"),
        ('{"margin": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 32 levels"),
        ('{"margin": ' + "[" * 600 + "]" * 600 + "}", "nested deeper than 32 levels"),
        ('{"margin": ' + "[" * 32 + "]" * 32 + "}", "nested deeper than 32 levels"),
        ('{"margin": ' + '{"x": ' * 31 + "1" + "}" * 31 + "}", "'margin' must be"),
        (b" " * 2**20 + b"{}", "larger than 1,048,576 bytes, expected a short JSON file"),
        ('{"epochs": ' + "1" * 5000 + "}", "."),
        ('{"margin": "\\ud83d"}', "half of a character, '.ud83d', is no text"),
        ('{"\\udc00": 1}', "half of a character, '.udc00', is no text"),
    ],
)
def test_what_is_no_json_object(path, content, expected):
    line = refused(path, content)
    assert re.match(expected, line), line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"marign": 1}, "unknown key 'marign'; did you mean 'margin'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known are margin, epochs, vary"),
        ({"": 1}, "unknown key ''; known are margin, epochs, vary"),
        ({"vary": {"x": {"low": 1, "high": 2, "step": 1}}}, "unknown key 'vary.x.step'"),
        ({"vary": {"x": {"low": 1}}}, "'vary.x.high' is missing"),
        ({"vary": {"x": {}}}, "'vary.x.low' is missing; 'vary.x.high' is missing"),
        ({"epochs": 0}, "'epochs' must be greater than or equal to 1, received 0"),
        ({"epochs": 1.5}, "'epochs' must be a valid integer, received 1.5"),
        ({"epochs": True}, "'epochs' must be a valid integer, received true"),
        ({"epochs": None}, "'epochs' must be a valid integer, received null"),
        ({"margin": "hard"}, "'margin' must be a valid number or be 'soft', received \"hard\""),
        ({"margin": float("inf")}, "'margin' must be a finite number or be 'soft', received Infinity"),
        ({"vary": 3}, "'vary' must be a valid dictionary, received 3"),
        ({"epochs": 1001}, "'epochs' is more than anybody waits for"),
    ],
)
def test_what_is_not_as_described_names_the_key(path, content, expected):
    assert refused(path, json.dumps(content)) == expected


def test_every_problem_is_told_at_once(path):
    line = refused(path, '{"marign": 1, "epochs": 0, "vary": {"x": {"low": 1}}}')
    assert set(line.split("; ")) == {
        "'epochs' must be greater than or equal to 1, received 0",
        "'vary.x.high' is missing",
        "unknown key 'marign'",
        "did you mean 'margin'?",
    }


def test_a_long_value_is_cut_short(path):
    line = refused(path, json.dumps({"epochs": "x" * 10_000}))
    assert line.startswith("'epochs' must be a valid integer, received \"xxx") and len(line) < 120


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"\x1b[31m": 1}, r"unknown key '\x1b[31m'; known are margin, epochs, vary"),
        ({"a\nb\u202e": 1}, r"unknown key 'a\nb\u202e'; known are margin, epochs, vary"),
        ({"vary": {"\x1b[31m": {"low": 1}}}, r"'vary.\x1b[31m.high' is missing"),
        ({"x" * 200_000: 1}, f"unknown key '{'x' * 30}…{'x' * 29}'; known are margin, epochs, vary"),
        ({"vary": {"\n" * 200_000: {"low": 1}}}, f"'vary.{chr(92)}n"),
    ],
)
def test_a_hostile_key_is_told_in_a_short_line(path, content, expected):
    line = refused(path, json.dumps(content))
    assert line.startswith(expected) and len(line) < 120 and line.isprintable()


def test_a_hostile_key_that_is_there_twice(path):
    assert refused(path, '{"\\u001b": 1, "\\u001b": 2}') == r"'\x1b' is there twice; keep one"
    assert len(refused(path, '{"' + "x" * 200_000 + '": 1, "' + "x" * 200_000 + '": 2}')) < 120


def test_where_the_known_keys_are_listed(path):
    assert (
        refused(path, '{"zzz": 1}', known_keys="the manual") == "unknown key 'zzz'; see the manual for the known ones"
    )


def test_problems_of_content_that_is_no_file():
    with pytest.raises(ValidationError) as raised:
        Recipe.model_validate({"epochs": -3})
    assert json_file.explain(raised.value, {"epochs": -3}, Recipe) == (
        "'epochs' must be greater than or equal to 1, received -3"
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["margin", "vary", "low", "?"]), inner),
    max_leaves=8,
)


@hypothesis.given(st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
@hypothesis.settings(
    max_examples=200, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_nothing_but_one_line_or_what_was_described(path, content):
    path.write_bytes(content)
    try:
        assert isinstance(read(path), Recipe)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
