"""Which runs are one experiment: what is in their files decides, in whatever folders they lie."""

import json
import math
import os
from pathlib import Path

import pytest

from model.common.errors import UserError
from model.studies.runs import find_runs, value_as_text
from model.tests.studies.runs import pools_in, write_run

MIXED = ({"from_step": 0, "params": {"margin": 0.5}}, {"from_step": 500, "params": {"margin": 0.2}})


def test_runs_that_differ_in_their_seeds_alone_are_one_experiment(tmp_path):
    for seed, accuracy in [(1, 0.5), (2, 0.7), (3, 0.9)]:
        write_run(tmp_path / "small" / f"seed={seed}", accuracy, seed=seed, split_seed=seed, margin=0.2)
    write_run(tmp_path / "large", 0.25, margin=2.0)
    write_run(tmp_path / "deep" / "down" / "here", 0.75)
    pools = {pool.name: pool for pool in pools_in(tmp_path)}
    assert list(pools) == ["deep/down/here", "large", "small"]
    assert sorted(pools["small"].values("knn_accuracy").values()) == [0.5, 0.7, 0.9]
    assert pools["large"].differences == {"margin": 2.0} and pools["deep/down/here"].differences == {}


def test_equal_experiments_in_different_folders_share_a_row(tmp_path):
    for name, seed in [("base", 1), ("again", 2)]:
        write_run(tmp_path / name, 0.5, seed=seed)
    (pool,) = pools_in(tmp_path)
    assert pool.name == "again, base" and len(pool.runs) == 2


def test_a_run_that_was_copied_does_not_count_twice(tmp_path):
    for name in ("original", "copy"):
        write_run(tmp_path / name, 0.5, seed=1)
    write_run(tmp_path / "other", 0.7, seed=2)
    (pool,) = pools_in(tmp_path)
    assert sorted(pool.values("knn_accuracy").values()) == [0.5, 0.7]


def test_a_seed_that_was_run_again_is_not_dropped(tmp_path):
    """It is no second measurement, so that it cannot be pooled, but the one of newer code must not be lost."""
    for seed in (1, 2, 3):
        write_run(tmp_path / "old" / f"seed={seed}", 0.9 + seed / 100, seed=seed)
        write_run(tmp_path / "retrained" / f"seed={seed}", 0.94 + seed**2 / 100, seed=seed, commit="b" * 40)
    write_run(tmp_path / "old" / "copy", 0.91, seed=1)
    old, retrained = pools = pools_in(tmp_path)
    assert retrained.name == "retrained" and [len(pool.runs) for pool in pools] == [3, 3]
    assert old.name == "old/copy, old/seed=2, old/seed=3"  # the copy comes first by name
    assert sorted(retrained.values("knn_accuracy").values()) == pytest.approx([0.95, 0.98, 1.03])
    assert [{run.code for run in pool.runs} for pool in pools] == [{"a" * 40}, {"b" * 40}]


def test_a_seed_that_was_run_again_by_the_same_code(tmp_path):
    for accuracy in (0.5, 0.6):
        write_run(tmp_path / f"{accuracy}", accuracy, seed=1)
    write_run(tmp_path / "other", 0.7, seed=2)
    assert [sorted(pool.values("knn_accuracy").values()) for pool in pools_in(tmp_path)] == [[0.5, 0.7], [0.6]]


def test_other_data_are_another_experiment(tmp_path):
    write_run(tmp_path / "old", 0.5, seed=1)
    write_run(tmp_path / "new", 0.5, seed=2, data="e" * 64)
    assert len(pools_in(tmp_path)) == 2
    write_run(tmp_path / "x" / "1", 0.5, margin=3, seed=1)
    write_run(tmp_path / "x" / "2", 0.5, margin=3, seed=2, data="e" * 64)
    assert [pool.name for pool in pools_in(tmp_path)] == ["new", "old", "x/1", "x/2"]


def test_runs_from_before_there_was_a_provenance_join_the_others(tmp_path):
    write_run(tmp_path / "x" / "1", 0.5, seed=1, provenance=False)
    write_run(tmp_path / "x" / "2", 0.7, seed=2)
    (pool,) = pools_in(tmp_path)
    assert [(run.code, run.data) for run in pool.runs] == [("", ""), ("a" * 40, "d" * 64)]
    write_run(tmp_path / "x" / "3", 0.7, seed=3, data="e" * 64)  # of which are those of seed 1?
    assert [len(pool.runs) for pool in pools_in(tmp_path)] == [1, 1, 1]


def test_a_folder_with_runs_of_others_is_nobodys_name(tmp_path):
    for margin in (1.0, 2.0):
        for seed in (1, 2):
            write_run(tmp_path / "s" / f"{margin},{seed}", 0.5, seed=seed, margin=margin)
    assert [pool.name for pool in pools_in(tmp_path)] == ["s/1.0,1, s/1.0,2", "s/2.0,1, s/2.0,2"]


def test_what_is_written_in_another_way_is_the_same(tmp_path):
    write_run(tmp_path / "1", 0.5, seed=1, squared=True, num_labels=3)
    write_run(tmp_path / "2", 0.5, seed=2, distance="squared_euclidean")
    (pool,) = pools_in(tmp_path)
    assert len(pool.runs) == 2 and pool.differences == {"distance": "squared_euclidean"}


def test_the_folder_itself_is_a_run(tmp_path):
    write_run(tmp_path / "one", 0.5)
    (pool,) = pools_in(tmp_path / "one")
    assert pool.name == "one"


def test_scores_without_parameters_take_those_of_the_folder(tmp_path):
    write_run(tmp_path / "old", 0.5)
    content = json.loads((tmp_path / "old" / "metrics.json").read_text())
    del content["params"], content["provenance"]
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"old/params.json: no such file; an experiment is a folder with"):
        find_runs(tmp_path)
    (tmp_path / "old" / "params.json").write_text('{"margin": 0.25, "seed": 5}')
    (pool,) = pools_in(tmp_path)
    assert pool.differences == {"margin": 0.25} and pool.runs[0].seeds == "[5, null]"
    assert pool.runs[0].code == pool.runs[0].data == ""


def test_a_metric_that_a_run_does_not_have_is_left_out(tmp_path):
    write_run(tmp_path / "1", math.nan, seed=1)
    write_run(tmp_path / "2", 0.5, seed=2)
    (pool,) = pools_in(tmp_path)
    assert pool.values("knn_accuracy") == {"[2, null]": 0.5} and pool.values("no_such_metric") == {}


def test_a_run_of_mixed_parameters_is_pooled_with_its_like_alone(tmp_path):
    """It ends with the parameters of the first one, and began with those of the second."""
    write_run(tmp_path / "1", 0.5, seed=1, margin=0.2)
    write_run(tmp_path / "2", 0.5, seed=2)
    write_run(tmp_path / "3", 0.5, seed=3, margin=0.2, history=MIXED)
    write_run(tmp_path / "4", 0.5, seed=4, margin=0.2, history=MIXED)
    later = ({"from_step": 0, "params": {"margin": 0.5}}, {"from_step": 501, "params": {"margin": 0.2}})
    write_run(tmp_path / "5", 0.5, seed=5, margin=0.2, history=later)
    pools = {pool.name: pool.differences for pool in pools_in(tmp_path)}
    assert pools == {
        "1": {"margin": 0.2},
        "2": {},
        "3, 4": {"margin": "0.5 until step 500, then 0.2"},
        "5": {"margin": "0.5 until step 501, then 0.2"},
    }


def test_every_change_of_a_parameter_is_told(tmp_path):
    history = (
        {"from_step": 0, "params": {"margin": 1, "seed": 3, "distance": "euclidean", "num_labels": 3}},
        {"from_step": 10, "params": {"margin": "soft"}},
        {"from_step": 25, "params": {"margin": 0.5, "seed": 4, "distance": "cosine", "num_labels": 4}},
    )
    write_run(tmp_path / "1", 0.5, seed=4, distance="cosine", batch_size=32, history=history)
    (pool,) = pools_in(tmp_path)
    assert pool.differences == {
        "batch_size": 32,
        "distance": "euclidean until step 25, then cosine",
        "margin": "1 until step 10, then soft until step 25, then 0.5",  # the default, in the end
        "seed": "3 until step 25, then 4",  # no runs of one seed are left to pair it with
    }


def test_a_history_without_a_beginning_is_still_one(tmp_path):
    write_run(tmp_path / "1", 0.5, margin=0.2, history=({"from_step": 7, "params": {"margin": 0.2}},))
    write_run(tmp_path / "2", 0.5, margin=0.2, history=({"from_step": 0, "params": {"margin": 0.2}},))
    assert [pool.differences for pool in pools_in(tmp_path)] == [
        {"margin": "? until step 7, then 0.2"},
        {"margin": 0.2},  # nothing changed
    ]


@pytest.mark.parametrize(
    "name",
    ["with a space", "line\nbreak", "ключ", "[red]", "seed=1,x", "*", "a, b", pytest.param(os.fsdecode(b"od\xffd"))],
)
def test_folders_of_any_name_hold_runs(tmp_path, name):
    write_run(tmp_path / name, 0.5, margin=1)
    write_run(tmp_path / "other", 0.5)
    assert {pool.name for pool in pools_in(tmp_path)} == {name, "other"}


def test_a_run_may_hold_others(tmp_path):
    write_run(tmp_path / "s", 0.5, seed=1)
    write_run(tmp_path / "s" / "seed=2", 0.5, seed=2)
    write_run(tmp_path / "s" / "seed=2" / "again", 0.25, margin=3)
    assert {pool.name: len(pool.runs) for pool in pools_in(tmp_path)} == {"s, s/seed=2": 2, "s/seed=2/again": 1}
    assert {pool.name: len(pool.runs) for pool in pools_in(tmp_path / "s")} == {"s, seed=2": 2, "seed=2/again": 1}


def test_a_folder_that_a_training_deletes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    write_run(tmp_path / "mine", 0.5)
    (tmp_path / "mine" / "checkpoints" / "step-00000010").mkdir(parents=True)
    scandir = os.scandir

    def scan_and_delete(path):
        if Path(path).name == "step-00000010":
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan_and_delete)
    assert [run.folder.name for run in find_runs(tmp_path)] == ["mine"]
    assert not (tmp_path / "mine" / "checkpoints" / "step-00000010").exists()


def test_an_experiment_on_another_disk_is_found_once(tmp_path):
    write_run(tmp_path / "disk" / "big", 0.5)
    (tmp_path / "experiments").mkdir()
    for name in ("big", "once more"):
        (tmp_path / "experiments" / name).symlink_to(tmp_path / "disk" / "big")
    assert [run.folder.name for run in find_runs(tmp_path / "experiments")] == ["big"]


def test_a_link_that_leads_back_is_not_followed_forever(tmp_path):
    write_run(tmp_path / "one", 0.5)
    (tmp_path / "one" / "back").symlink_to(tmp_path)
    (pool,) = pools_in(tmp_path)
    assert len(pool.runs) == 1


@pytest.mark.parametrize(
    "params", [{"seed": [1]}, {"seed": {}}, {"\ud800": 1}, {"margin": "\ud800"}, {"margin": [1]}, {"squared": "yes"}]
)
def test_parameters_that_somebody_edited_make_an_experiment_of_their_own(tmp_path, params):
    write_run(tmp_path / "edited", 0.5, **params)
    write_run(tmp_path / "other", 0.5, num_channels=4)
    assert [pool.name for pool in pools_in(tmp_path)] == ["edited", "other"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"metrics": {"knn_accuracy": "high"}}', "[" * 100_000])
def test_what_are_no_scores_is_one_line(tmp_path, content):
    write_run(tmp_path / "good", 0.5)
    path = tmp_path / "bad" / "metrics.json"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(UserError) as caught:
        find_runs(tmp_path)
    assert str(caught.value) == f"{path}: not the scores of an experiment; delete this file, or evaluate again"


def test_a_folder_without_scores_is_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r": there is no metrics.json in it or below it; train an experiment first"):
            find_runs(folder)


def test_values_as_a_table_shows_them():
    assert [value_as_text(value) for value in ("soft", 0.5, None, True, [1, "a"])] == (
        ["soft", "0.5", "null", "true", '[1, "a"]']
    )
