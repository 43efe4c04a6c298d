"""Where trials come from: grids, and Optuna's draws, which go on where an earlier search ended."""

import contextlib
import itertools
import json
import logging
import re
import shutil
import sqlite3

import hypothesis
import hypothesis.strategies as st
import optuna
import pytest

from model.common.errors import UserError
from model.common.files import is_name
from model.studies import drawn_trials
from model.studies.drawn_trials import Drawn
from model.studies.search_space import SearchSpace, name_of
from model.studies.trials import Grid

pytestmark = pytest.mark.slow


def accept(trial):
    """Any settings can be."""


@contextlib.contextmanager
def drawn(parent, vary, num_trials, seed=1, check=accept):
    """Opens a source as a search does when it is started."""
    with contextlib.closing(Drawn(parent, SearchSpace(vary=vary, num_trials=num_trials), seed, check)) as source:
        yield source


def study_in(parent):
    """What a new process finds in the database, without Drawn."""
    engine = {"creator": lambda: sqlite3.connect(parent / "search.db")}
    storage = optuna.storages.RDBStorage("sqlite:///x", engine_kwargs=engine)
    try:
        return optuna.load_study(study_name="search", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def ask_all(source):
    return list(iter(source.ask, None))


LINE = {"margin": {"low": 0.0, "high": 1.0}}


def test_a_grid_is_asked_for_each_trial_once(tmp_path):
    grid = Grid(tmp_path, SearchSpace(vary={"margin": [0.12345678, 0.12345679, "soft"]}))
    asked = ask_all(grid)
    assert asked == grid.trials() and grid.ask() is None
    assert [trial.folder.relative_to(tmp_path).as_posix() for trial in asked] == [
        "margin=0.1235",
        "margin=0.1235,trial=1",  # names round numbers
        "margin=soft",
    ]


def test_as_many_are_drawn_as_are_asked_for(tmp_path):
    vary = {
        "rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "size": {"low": 2, "high": 64},
        "kind": [["a", 1], {"x": 2}],
    }
    with drawn(tmp_path, vary, 12) as source:
        asked = ask_all(source)
        assert source.trials() == asked and len({trial.folder for trial in asked}) == 12
    for trial in asked:
        assert 1e-5 <= trial.settings["rate"] <= 1e-1 and 2 <= trial.settings["size"] <= 64
        assert isinstance(trial.settings["size"], int)
        assert trial.settings.get("kind", ["a", 1]) == ["a", 1] and trial.settings.get("x", 2) == 2
    assert len({trial.settings["rate"] for trial in asked}) == 12


def test_a_search_that_goes_on_asks_for_the_old_ones_and_draws_others(tmp_path):
    with drawn(tmp_path, LINE, 3) as source:
        first = ask_all(source)
    with drawn(tmp_path, LINE, 6) as source:
        assert source.trials() == first
        again = ask_all(source)
    assert again[:3] == first and len({trial.settings["margin"] for trial in again}) == 6


def test_the_seed_decides_the_draws(tmp_path):
    found = []
    for number, seed in enumerate([1, 1, 2**32 - 1]):
        (tmp_path / str(number)).mkdir()
        with drawn(tmp_path / str(number), LINE, 2, seed) as source:
            found.append([trial.settings for trial in ask_all(source)])
    assert found[0] == found[1] != found[2]


def test_the_same_is_not_drawn_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_trials, "_MOST_DRAWS", 12)
    vary = {"margin": [0.2, 0.4], "size": {"low": 4, "high": 5}}
    with drawn(tmp_path, vary, 50) as source:
        settings = [tuple(trial.settings.values()) for trial in ask_all(source)]
    assert sorted(settings) == list(itertools.product([0.2, 0.4], [4, 5]))


def refuse_small(trial):
    if trial.settings["margin"] < 0.5:
        raise UserError("too small")


def test_what_cannot_be_is_drawn_anew(tmp_path):
    with drawn(tmp_path, LINE, 6, check=refuse_small) as source:
        assert all(trial.settings["margin"] >= 0.5 for trial in ask_all(source))
        assert len(source.trials()) == 6
    assert any(trial.state.name == "FAIL" for trial in study_in(tmp_path))


def test_what_can_never_be_is_told_and_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_trials, "_MOST_DRAWS", 3)
    for _ in range(2):
        with drawn(tmp_path, {"margin": [0.1, 0.2]}, 2, check=refuse_small) as source:
            with pytest.raises(UserError, match="too small"):
                source.ask()
            assert source.trials() == []
    with drawn(tmp_path, {"margin": [0.1, 0.2]}, 2) as source:  # the base may be another by now
        assert len(ask_all(source)) == 2


def test_another_space_under_drawn_trials(tmp_path):
    with drawn(tmp_path, {"margin": [0.2, 0.4]}, 1) as source:
        source.ask()
    for vary in ({"margin": [0.2, 0.4, 0.6]}, LINE):
        with (
            pytest.raises(UserError, match=r"search.json: 'vary' is not what trials were drawn from; set it back"),
            drawn(tmp_path, vary, 2),
        ):
            pass


@pytest.mark.parametrize("content", [b"not a database, " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_one_line(tmp_path, content):
    (tmp_path / "search.db").write_bytes(content)
    with (
        pytest.raises(UserError, match=r"search.db: cannot be used .*database.*search in a new folder") as caught,
        drawn(tmp_path, LINE, 1),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_database_with_other_columns_is_one_line_alone(tmp_path, caplog, monkeypatch):
    """Optuna warns in several lines before it gives up."""
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    with drawn(tmp_path, LINE, 1) as source:
        source.tell(source.ask(), 0.5)
    with contextlib.closing(sqlite3.connect(tmp_path / "search.db")) as database, database:
        database.execute("ALTER TABLE trial_values RENAME COLUMN objective TO other")
    with pytest.raises(UserError, match=r"search.db: cannot be used .*"), drawn(tmp_path, LINE, 1):
        pass
    assert not caplog.messages


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a search of two trials, of which one has come to its end; to be copied."""
    folder = tmp_path_factory.mktemp("begun")
    with drawn(folder, LINE, 2) as source:
        first, _ = ask_all(source)
        source.tell(first, 0.5)
    return folder


def in_database(parent, key, value):
    """Lets every trial have another attribute, None for none."""
    with contextlib.closing(sqlite3.connect(parent / "search.db")) as database, database:
        if value is None:
            database.execute("DELETE FROM trial_user_attributes WHERE key = ?", [key])
        else:
            changed = [json.dumps(value), key]
            database.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = ?", changed)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("folder", "../..", r"trial 0 has the folder '../..', expected a name"),
        ("folder", "..", "trial 0 has the folder '..', expected a name"),
        ("folder", ".", "trial 0 has the folder '.', expected a name"),
        ("folder", "", "trial 0 has the folder '', expected a name"),
        ("folder", "/tmp", "trial 0 has the folder '/tmp', expected a name"),
        ("folder", "a/b", "trial 0 has the folder 'a/b', expected a name"),
        ("folder", "nul\0", r"trial 0 has the folder 'nul\x00', expected a name"),
        ("folder", "\x1b[31m", r"trial 0 has the folder '\x1b[31m', expected a name"),
        ("folder", 7, "trial 0 has the folder 7, expected a name"),
        ("folder", None, "trial 0 has the folder None, expected a name"),
        (
            "settings",
            {"margin": 0.5, "dataset": "other"},
            "trial 0 sets {'margin': 0.5, 'dataset': 'other'}, expected margin",
        ),
        ("settings", "margin", "trial 0 sets 'margin', expected margin"),
        ("settings", [], r"trial 0 sets [], expected margin"),
    ],
)
def test_what_the_database_says_leads_nowhere_else(begun, tmp_path, key, value, expected):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    in_database(tmp_path, key, value)
    with pytest.raises(UserError) as caught, drawn(tmp_path, LINE, 2):
        pass
    assert str(caught.value) == f"{tmp_path / 'search.db'}: damaged, {expected}; search in a new folder"


COLUMNS = [
    ("trials", "state"), ("trials", "datetime_start"), ("studies", "study_name"), ("study_directions", "direction"),
    ("study_user_attributes", "value_json"), ("trial_user_attributes", "value_json"), ("trial_values", "value"),
    ("trial_params", "distribution_json"), ("version_info", "schema_version"),
]  # fmt: skip


@pytest.mark.parametrize("value", ["{\x1b[31m\n", -1], ids=repr)
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_database_with_something_else_in_it_is_used_or_refused_in_one_line(begun, tmp_path, table, column, value):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "search.db")) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ?", [value])
    try:
        with drawn(tmp_path, LINE, 2) as source:
            for trial in ask_all(source):
                assert trial.folder.parent == tmp_path
                source.tell(trial, 0.5)
    except UserError as error:
        assert re.fullmatch(rf"{tmp_path}/search\.(db|json): .*search in a new folder.*", str(error))
        assert str(error).isprintable()


@hypothesis.given(st.dictionaries(st.text(), st.text() | st.none() | st.lists(st.text()), min_size=1))
@hypothesis.settings(deadline=None, max_examples=30)
def test_whatever_search_json_says_names_a_folder_inside(settings):
    assert is_name(name_of(settings))


def test_a_search_that_was_killed_while_it_drew(tmp_path):
    """Optuna knows of the trial, but there is nothing to be run."""
    with drawn(tmp_path, LINE, 3) as source:
        first = source.ask()
        source._study.ask()
    with drawn(tmp_path, LINE, 3) as source:
        assert source.trials() == [first]
        assert len(ask_all(source)) == 3
    assert [trial.state.name for trial in study_in(tmp_path)] == ["RUNNING", "FAIL", "RUNNING", "RUNNING"]


def test_a_trial_below_the_median_of_five_is_hopeless(tmp_path):
    """Five that have come to their end are where Optuna's median rule begins."""
    with drawn(tmp_path, LINE, 9) as source:
        asked = ask_all(source)
        for trial, value in zip(asked[:5], [0.5, 0.6, 0.7, 0.8, 0.9], strict=True):
            assert not source.should_prune(trial, 1, value / 2) and not source.should_prune(trial, 2, value)
            source.tell(trial, value)
        assert source.should_prune(asked[5], 1, 0.34) and not source.should_prune(asked[6], 1, 0.36)
        assert source.should_prune(asked[6], 2, 0.69) and not source.should_prune(asked[7], 2, 0.71)
        source.tell(asked[5], None, is_pruned=True)
        assert not source.should_prune(asked[5], 2, 0.0)  # it has ended
    with drawn(tmp_path, LINE, 9) as source:  # a search that goes on tells the same evaluations again
        assert not source.should_prune(asked[7], 2, 0.71) and source.should_prune(asked[7], 3, 0.1) is False
    study = study_in(tmp_path)
    assert study[5].state.name == "PRUNED" and study[0].intermediate_values == {1: 0.25, 2: 0.5}
    assert study[7].intermediate_values == {2: 0.71, 3: 0.1}


def test_what_came_of_a_trial_is_told_once(tmp_path):
    with drawn(tmp_path, LINE, 3) as source:
        good, broken, mended = ask_all(source)
        source.tell(good, 0.5)
        source.tell(good, 0.75)
        source.tell(broken, None)
        for value in (None, 0.25, 0.25):
            source.tell(mended, value)
        assert source.trials() == [good, broken, mended]
    known = [(trial.state.name, trial.value) for trial in study_in(tmp_path)]
    assert known == [("COMPLETE", 0.5), ("FAIL", None), ("FAIL", None), ("COMPLETE", 0.25)]
    assert study_in(tmp_path)[3].params == {"margin": mended.settings["margin"]}  # what later draws learn from
