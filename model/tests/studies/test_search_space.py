"""search.json: what it may say, and what the trials are called."""

import json
import math
import os

import pytest

from model.common.errors import UserError
from model.studies.search_space import Range, SearchSpace, name_of

RATES = {"learning_rate": [0.1, 0.2, 0.3]}


def read(tmp_path, content):
    path = tmp_path / "search.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return SearchSpace.from_json(path)


def test_a_grid_is_every_combination_the_last_parameter_first(tmp_path):
    space = read(tmp_path, {"$schema": "for editors", "vary": {"a": [1, None], "b": ["x", [2, 3], True]}})
    assert space.is_grid and space.varied == {"a", "b"}
    assert space.grid() == [
        {"a": 1, "b": "x"}, {"a": 1, "b": [2, 3]}, {"a": 1, "b": True},
        {"a": None, "b": "x"}, {"a": None, "b": [2, 3]}, {"a": None, "b": True},
    ]  # fmt: skip


def test_an_object_sets_several_parameters_together(tmp_path):
    choices = [{"batch_size": 8, "num_epochs": 2}, {"batch_size": 16}]
    space = read(tmp_path, {"vary": {"size": choices, "margin": [1, 2]}})
    assert space.varied == {"batch_size", "num_epochs", "margin"}
    assert space.grid() == [
        {"batch_size": 8, "num_epochs": 2, "margin": 1}, {"batch_size": 8, "num_epochs": 2, "margin": 2},
        {"batch_size": 16, "margin": 1}, {"batch_size": 16, "margin": 2},
    ]  # fmt: skip


class Suggests:
    """Stands for an Optuna trial: takes the upper end of ranges and the last of several, and notes what was asked."""

    def __init__(self):
        self.asked = []

    def suggest_int(self, name, low, high, log):
        self.asked.append(("int", name, low, high, log))
        return high

    def suggest_float(self, name, low, high, log):
        self.asked.append(("float", name, low, high, log))
        return high

    def suggest_categorical(self, name, choices):
        assert all(isinstance(choice, str) for choice in choices)  # Optuna warns of anything but words and numbers
        self.asked.append(("one of", name, len(choices)))
        return choices[-1]


def test_a_draw_asks_for_what_the_file_says(tmp_path):
    vary = {
        "embedding_size": {"low": 2, "high": 64},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "margin": {"low": 0.0, "high": 1},
        "size": [{"batch_size": 8}, {"batch_size": 16, "image_size": ["ä", 1]}],
    }
    space = read(tmp_path, {"vary": vary, "num_trials": 3})
    trial = Suggests()
    assert not space.is_grid and isinstance(space.vary["margin"], Range)
    assert space.draw(trial) == {
        "embedding_size": 64, "learning_rate": 1e-2, "margin": 1, "batch_size": 16, "image_size": ["ä", 1],
    }  # fmt: skip
    assert trial.asked == [
        ("int", "embedding_size", 2, 64, False),
        ("float", "learning_rate", 1e-5, 1e-2, True),
        ("float", "margin", 0.0, 1, False),
        ("one of", "size", 2),
    ]


@pytest.mark.parametrize(
    ("vary", "first"),
    [
        ({"image_size": [32, 64], "margin": [1]}, {"image_size": 32}),
        ({"image_size": {"low": 16, "high": 64}}, {"image_size": 16}),
        ({"margin": [1], "size": [{"image_size": 48, "batch_size": 8}, {"image_size": 24}]}, {"image_size": 48}),
        ({"size": [{"batch_size": 8}, {"image_size": 24}]}, {}),
        ({"margin": {"low": 1, "high": 2}}, {}),
    ],
)
def test_the_first_value_of_a_parameter(tmp_path, vary, first):
    assert read(tmp_path, {"vary": vary, "num_trials": 5}).first_of("image_size") == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"search.json: not valid JSON"),
        ("[]", r"search.json: expected a JSON object"),
        ('{"vary": {"margin": [1], "margin": [2]}}', r"search.json: 'margin' is there twice; keep one"),
        ({"vary": {}}, r"search.json: 'vary' must have at least 1 item"),
        ({"vary": {"margin": []}}, r"search.json: 'vary.margin' must have at least 1 item"),
        ({"vary": {"margin": 3}}, r"search.json: 'vary.margin' must be a valid list, received 3$"),
        ({}, r"search.json: 'vary' is missing$"),
        ({"vary": RATES, "trials": 3}, r"search.json: unknown key 'trials'; did you mean 'num_trials'\?"),
        ({"vary": RATES, "num_trials": 0}, r"search.json: 'num_trials' must be greater than or equal to 1, received 0"),
        ({"vary": RATES, "num_trials": 10**400}, r"search.json: 'num_trials' must be less than or equal to 2147483647"),
        (
            {"vary": {name: list(range(100)) for name in ("margin", "batch_size", "num_epochs")}},
            r"search.json: 'vary' makes a grid of 1,000,000 trials, at most 10,000 can be; vary less, or set 'num_tr",
        ),
        ('{"vary": {"x": ' + "[" * 600 + "]" * 600 + "}}", r"search.json: nested deeper than 32 levels"),
        ({"vary": RATES, "num_trials": True}, r"search.json: 'num_trials' must be a valid integer, received true"),
        ({"vary": {"margin": {"low": 1, "high": 2}}}, r"search.json: 'num_trials' is missing: 'margin' is a range"),
        ({"vary": {"margin": {"low": 2, "high": 1}}, "num_trials": 3}, r"'vary.margin': 'low' must be below"),
        ({"vary": {"margin": {"low": 2, "hgh": 3}}, "num_trials": 3}, r"'vary.margin.high' is missing; unknown"),
        ({"vary": {"margin": {"low": math.nan, "high": 1}}, "num_trials": 3}, r"'vary.margin.low' must be .* NaN"),
        ({"vary": {"margin": {"low": 0, "high": 10**400}}, "num_trials": 3}, r"'vary.margin.high' must be less"),
        ({"vary": {"margin": {"low": 0, "high": 1, "log": True}}, "num_trials": 3}, r"must be above 0"),
        ({"vary": {"margin": {}}, "num_trials": 2}, r"'vary.margin.low' is missing; 'vary.margin.high' is missing"),
        ({"vary": {"x": [{}, {"margin": 1}]}}, r"search.json: 'x' has an empty object"),
        ({"vary": {"seed": [1, 2]}}, r"search.json: 'seed' cannot vary: --seeds runs"),
        ({"vary": {"P": [{"split_seed": 2}]}}, r"search.json: 'split_seed' cannot vary: .* cannot be compared"),
        ({"vary": {"exclude_images": [None, "doubted.txt"]}}, r"'exclude_images' cannot vary: .* cannot be compared"),
        ({"vary": {"rotated_classes": [None, "train"]}}, r"'rotated_classes' cannot vary: .* cannot be compared"),
        ({"vary": {"num_labels": [2, 3]}}, r"search.json: 'num_labels' cannot vary: it has no effect"),
        ({"vary": {"squared": [True, False]}}, r"search.json: 'squared' cannot vary: .* vary 'distance' instead"),
        ({"vary": {"P": [{"margin": 2}], "margin": [1]}}, r"'margin' is varied by both 'P' and 'margin'; keep one"),
        ({"vary": {"distance": ["a\ud800"]}, "num_trials": 2}, r"search.json: half of a character, '.ud800'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"search.json: no such file; it says what to vary, such as"):
        SearchSpace.from_json(tmp_path / "search.json")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"learning_rate": 0.001, "margin": "soft"}, "learning_rate=0.001,margin=soft"),
        ({"learning_rate": 0.00012345678, "margin": 0.5}, "learning_rate=0.0001235,margin=0.5"),
        ({"learning_rate": 1e-05, "num_epochs": 100000}, "learning_rate=1e-05,num_epochs=100000"),
        ({"dataset": "emnist/letters"}, "dataset=emnist_letters"),
        ({"holdout_classes": [1, 2]}, "holdout_classes=1+2"),
        ({"image_size": None, "use_batch_norm": True}, "image_size=null,use_batch_norm=true"),
        ({"../x": "..\\ \n/"}, "x="),
        ({"margin": -1}, "margin=-1"),
    ],
)
def test_names_are_short_and_safe(tmp_path, settings, name):
    found = name_of(settings)
    assert os.sep not in found and not found.startswith(".")
    (tmp_path / found).mkdir()
    assert found == name


def test_long_names_are_cut_and_stay_apart(tmp_path):
    names = [name_of({"holdout_classes": ["ä" * 300, end]}) for end in ("x", "y")]
    assert names[0] != names[1] and all(len(name.encode()) <= 200 for name in names)
    for name in names:
        (tmp_path / f"tmp-{name}").mkdir()
