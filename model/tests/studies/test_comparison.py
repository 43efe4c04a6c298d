"""Experiments side by side, by hand and against SciPy's paired t-test."""

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from model.common.errors import UserError
from model.common.versions import Provenance
from model.scoring.record import Record
from model.studies import comparison, table
from model.studies.runs import find_runs, pool_runs

ROOT = Path(__file__).parents[3]


def write_run(folder, accuracy, commit="a" * 40, data="d" * 64, seconds=60.0, provenance=True, **params):
    """A metrics.json as evaluate.py would write it."""
    folder.mkdir(parents=True)
    made = Provenance(commit, commit, {"python": "3"}, "some cores", data, seconds, 1000.0) if provenance else None
    metrics = {"knn_accuracy": accuracy, "eer": 1 - accuracy, "knn_accuracy_low95": 0.1, "knn_accuracy_high95": 0.9}
    digest = f"{accuracy} {params}"  # of what was learned
    Record("step-00000001", digest, metrics, params={"seed": 230, **params}, provenance=made).write(
        folder / "metrics.json"
    )


def pools_in(folder):
    return pool_runs(find_runs(folder), folder)


def test_runs_that_differ_in_their_seeds_alone_are_one_experiment(tmp_path):
    for seed, accuracy in [(1, 0.5), (2, 0.7), (3, 0.9)]:
        write_run(tmp_path / "small" / f"seed={seed}", accuracy, seed=seed, split_seed=seed, margin=0.2)
    write_run(tmp_path / "large", 0.25, margin=2.0)
    write_run(tmp_path / "deep" / "down" / "here", 0.75)
    pools = pools_in(tmp_path)
    assert [pool.name for pool in pools] == ["deep/down/here", "large", "small"]
    rows = {row["experiment"]: row for row in comparison.tabulate(pools, ["knn_accuracy"])}
    assert rows["small"]["seeds"] == 3 and rows["small"]["knn_accuracy"] == pytest.approx(0.7)
    assert rows["small"]["knn_accuracy_std"] == pytest.approx(0.2)  # (0.04 + 0.04) / (3 - 1) = 0.2^2
    assert rows["large"]["knn_accuracy_std"] is None
    assert rows["large"]["differs"] == "margin 2.0" and rows["deep/down/here"]["differs"] == ""
    assert (rows["large"]["train_seconds"], rows["large"]["images_per_second"]) == (60.0, 1000.0)


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
    rows = comparison.tabulate(pools, ["knn_accuracy"], against=old)
    assert [row["code"] for row in rows] == ["aaaaaaa", "bbbbbbb"] and rows[1]["difference"] is not None


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
    (row,) = rows = comparison.tabulate([pool], ["knn_accuracy"])
    assert row["seeds"] == 2 and row["train_seconds"] == 60.0
    assert (row["code"], row["data"], row["hardware"]) == ("? / aaaaaaa", "? / ddddddd", "? / some cores")
    assert len(comparison.describe([pool], rows, ["knn_accuracy"])[1]) == 3
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


def test_the_interval_is_that_of_the_run_with_the_value(tmp_path):
    write_run(tmp_path / "1", math.nan, seed=1)
    write_run(tmp_path / "2", 0.5, seed=2)
    (pool,) = pools_in(tmp_path)
    assert comparison.interval(pool, "knn_accuracy") == (0.1, 0.9)
    assert all(map(math.isnan, comparison.interval(pool, "no_such_metric")))


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"seed": [1]}},
        {"provenance": {"trained_by": "", "evaluated_by": "", "versions": {}, "hardware": "", "data_sha256": 5}},
        {"metrics": {"knn_accuracy": math.inf}},
        {"metrics": {"knn_accuracy": "high"}},
        {"provenance": {**dataclasses.asdict(Provenance("", "", {}, "", "")), "train_seconds": "60"}},
        {"provenance": []},
        {"params": [1]},
        {"params": {"\ud800": 1}},
    ],
)
def test_scores_that_somebody_edited_are_no_traceback(tmp_path, changes):
    write_run(tmp_path / "s", 0.5)
    path = tmp_path / "s" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for form in ("json", "terminal"):
        result = run(tmp_path, "--metrics", "knn_accuracy", "--format", form)
        assert "Traceback" not in result.stderr and result.returncode in (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"knn_accuracy": "high"}},
        {"metrics": {"knn_accuracy": 10**400}},
        {"provenance": {**dataclasses.asdict(Provenance("", "", {}, "", "")), "train_seconds": math.nan}},
        {"provenance": {**dataclasses.asdict(Provenance("", "", {}, "", "")), "images_per_second": -1.0}},
        {"provenance": {**dataclasses.asdict(Provenance("", "", {}, "", "")), "train_seconds": True}},
    ],
)
def test_scores_that_cannot_be_are_refused(tmp_path, changes):
    write_run(tmp_path / "s", 0.5)
    path = tmp_path / "s" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    result = run(tmp_path, "--metrics", "knn_accuracy")
    assert result.returncode == 2 and result.stderr.startswith(f"{path}: not the scores of an experiment;")


def test_a_nest_too_deep_is_no_traceback(tmp_path):
    (tmp_path / "metrics.json").write_text("[" * 100_000)
    assert Record.read(tmp_path / "metrics.json") is None


def test_a_name_that_a_terminal_cannot_show(tmp_path):
    write_run(tmp_path / os.fsdecode(b"od\xffd"), 0.5)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, ROOT / "compare_experiments.py", tmp_path, "--metrics", "knn_accuracy"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0 and r"od\udcffd" in result.stdout and "0.5000" in result.stdout


def test_the_folder_itself_is_a_run(tmp_path):
    write_run(tmp_path / "one", 0.5)
    (pool,) = pools_in(tmp_path / "one")
    assert pool.name == "one"


def test_scores_without_parameters_take_those_of_the_folder(tmp_path):
    write_run(tmp_path / "old", 0.5)
    content = json.loads((tmp_path / "old" / "metrics.json").read_text())
    del content["params"], content["provenance"]
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(content))
    (tmp_path / "old" / "params.json").write_text('{"margin": 0.25, "seed": 5}')
    (pool,) = pools_in(tmp_path)
    assert pool.differences == {"margin": 0.25} and pool.runs[0].seeds == "[5, null]"
    row, *_ = comparison.tabulate([pool], ["knn_accuracy"])
    assert row["code"] == row["data"] == row["hardware"] == "?" and row["train_seconds"] is None


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 30])
def test_the_paired_comparison_is_that_of_scipy(tmp_path, num_seeds):
    random = np.random.default_rng(num_seeds)
    ours, theirs = 0.9 + 0.02 * random.random((2, num_seeds))
    for name, values in [("ours", ours), ("theirs", theirs)]:
        for seed, value in enumerate(values):
            write_run(tmp_path / name / str(seed), float(value), seed=seed, margin=len(name))
    write_run(tmp_path / "theirs" / "alone", 0.1, seed=99, margin=6)  # has no partner
    this, other = pools_in(tmp_path)
    found = comparison.compare(this, other, "knn_accuracy")
    expected = scipy.stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.num_pairs == num_seeds
    np.testing.assert_allclose(
        [found.mean, found.low95, found.high95, found.p],
        [np.mean(ours - theirs), interval.low, interval.high, expected.pvalue],
    )


def verdict(tmp_path, ours, theirs, metric="knn_accuracy"):
    for name, values in [("ours", ours), ("theirs", theirs)]:
        for seed, value in enumerate(values):
            write_run(tmp_path / name / str(seed), value, seed=seed, margin=len(name))
    this, other = pools_in(tmp_path)
    mine, itself = comparison.tabulate([this, other], [metric], against=other)
    assert itself["difference"] is None
    return mine


@pytest.mark.parametrize(
    ("ours", "theirs", "metric", "expected"),
    [
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.53], "knn_accuracy", "better"),
        ([0.9, 0.91, 0.92], [0.5, 0.51, 0.53], "eer", "better"),  # less is better, and there is less
        ([0.5, 0.51, 0.53], [0.9, 0.91, 0.92], "eer", "worse"),
        ([0.5, 0.9, 0.7], [0.6, 0.7, 0.7], "knn_accuracy", "not told apart by 3 seeds"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "eer", "no spread to judge by: the same difference with all 3 seeds"),
        (
            [0.993, 0.994, 0.992],
            [0.99, 0.991, 0.989],
            "knn_accuracy",
            "no spread to judge by: the same difference with all 3 seeds",
        ),
        ([0.9, 0.91], [0.5, 0.51], "knn_accuracy", "too few to tell: 2 seeds in common"),
        ([0.9], [0.5], "knn_accuracy", "too few to tell: 1 seed in common"),
    ],
)
def test_the_verdict(tmp_path, ours, theirs, metric, expected):
    assert verdict(tmp_path, ours, theirs, metric)["verdict"] == expected


def test_other_data_are_not_compared(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "ours" / str(seed), 0.5 + seed**2 / 100, seed=seed, margin=1)
        write_run(tmp_path / "theirs" / str(seed), 0.6, seed=seed, margin=2, data="e" * 64)
    this, other = pools_in(tmp_path)
    row, _ = comparison.tabulate([this, other], ["knn_accuracy"], against=other)
    assert row["verdict"] == "other data: not comparable"
    assert row["difference"] is row["low95"] is row["high95"] is row["p"] is None


def test_without_a_seed_in_common_there_is_no_difference(tmp_path):
    write_run(tmp_path / "ours", 0.5, seed=1, margin=1)
    write_run(tmp_path / "theirs", 0.6, seed=2, margin=2)
    this, other = pools_in(tmp_path)
    row, _ = comparison.tabulate([this, other], ["knn_accuracy"], against=other)
    assert row["difference"] is row["p"] is None and row["verdict"] == "too few to tell: 0 seeds in common"


def test_the_interval_of_one_run_is_that_over_its_images(tmp_path):
    write_run(tmp_path / "one", 0.5)
    (pool,) = pools_in(tmp_path)
    assert comparison.interval(pool, "knn_accuracy") == (0.1, 0.9)
    assert all(math.isnan(end) for end in comparison.interval(pool, "eer"))


def test_the_interval_over_seeds_needs_three(tmp_path):
    for seed, accuracy in [(1, 0.95), (2, 0.96)]:
        write_run(tmp_path / str(seed), accuracy, seed=seed)
    (two,) = pools_in(tmp_path)
    assert all(map(math.isnan, comparison.interval(two, "knn_accuracy")))
    write_run(tmp_path / "3", 0.94, seed=3)
    (three,) = pools_in(tmp_path)
    half = 4.302653 * 0.01 / 3**0.5  # a table's 97.5 % quantile of Student's t with 2 degrees of freedom
    assert comparison.interval(three, "knn_accuracy") == pytest.approx((0.95 - half, 0.95 + half))


def test_sorting_puts_the_best_first():
    rows = [
        {"a": 1.0, "eer": 0.5, "unseen/eer_low95": 0.5, "a_std": 0.5, "difference": 0.5, "name": "z"},
        {"a": None, "eer": None, "unseen/eer_low95": None, "a_std": None, "difference": None, "name": "y"},
        {"a": 2.0, "eer": 0.1, "unseen/eer_low95": 0.1, "a_std": 0.1, "difference": 0.1, "name": "x"},
    ]

    def order(column, reverse=False):
        return "".join(row["name"] for row in comparison.sort(rows, column, "eer", reverse))

    assert order("a") == "xzy" and order("a", reverse=True) == "zxy"
    for column in ("eer", "unseen/eer_low95", "a_std", "difference"):  # less is better
        assert order(column) == "xzy" and order(column, reverse=True) == "zxy"
    assert order("name") == "xyz" and order("name", reverse=True) == "zyx"
    with pytest.raises(
        UserError, match="no column 'b' to sort by; there are a, eer, unseen/eer_low95, a_std, difference, name"
    ):
        order("b")


def test_what_a_column_is_called_on_the_screen_sorts_as_well():
    rows = [{"experiment": name, "train_seconds": seconds} for name, seconds in [("slow", 9.0), ("fast", 3.0)]]
    assert [row["experiment"] for row in comparison.sort(rows, "minutes", "eer")] == ["fast", "slow"]


def test_a_short_name_does_not_break_its_heading():
    assert table.to_terminal([{"experiment": "a", "seeds": "3"}], 80).split()[0] == "experiment"


def test_what_is_not_comparable_is_marked(tmp_path):
    write_run(tmp_path / "ours", 0.5, margin=1, commit="b" * 40 + "+changes")
    write_run(tmp_path / "theirs", 0.6, margin=2)
    pools = pools_in(tmp_path)
    rows = comparison.tabulate(pools, ["knn_accuracy"])
    assert [row["code"] for row in rows] == ["bbbbbbb+", "aaaaaaa"]
    _, notes = comparison.describe(pools, rows, ["knn_accuracy"])
    assert notes == ["Not all runs have the same version of the code: bbbbbbb+ of ours; aaaaaaa of theirs."]


def test_one_experiment_of_two_versions_is_marked(tmp_path):
    write_run(tmp_path / "1", 0.5, seed=1)
    write_run(tmp_path / "2", 0.5, seed=2, commit="b" * 40)
    pools = pools_in(tmp_path)
    _, notes = comparison.describe(pools, comparison.tabulate(pools, ["eer"]), ["eer"])
    assert notes == ["Not all runs have the same version of the code: aaaaaaa / bbbbbbb of 1, 2."]


def test_what_all_share_is_said_once(tmp_path):
    write_run(tmp_path / "ours", 0.5, margin=1, dataset="digits")
    write_run(tmp_path / "theirs", 0.6, margin=2, dataset="digits")
    pools = pools_in(tmp_path)
    described, notes = comparison.describe(pools, comparison.tabulate(pools, ["knn_accuracy"]), ["knn_accuracy"])
    assert notes == ["In all of them: dataset digits."]
    assert [row["differs from the defaults in"] for row in described] == ["margin 1", "margin 2"]


def run(*arguments):
    command = [sys.executable, ROOT / "compare_experiments.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def two(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / "ours" / str(seed), 0.9 + seed / 100, seed=seed, margin=1)
        write_run(tmp_path / "theirs" / str(seed), 0.5 + seed**2 / 1000, seed=seed, margin=2)
    return tmp_path


def test_the_command_line_in_every_format(two):
    options = (two, "--metrics", "knn_accuracy", "eer", "--against", "theirs", "--format")
    text = {form: run(*options, form) for form in ("terminal", "markdown", "csv", "json")}
    assert all(result.returncode == 0 for result in text.values())
    rows = json.loads(text["json"].stdout)
    assert [row["experiment"] for row in rows] == ["ours", "theirs"]
    assert rows[0]["knn_accuracy"] == pytest.approx(0.92) and rows[0]["verdict"] == "better"
    as_csv = list(csv.DictReader(io.StringIO(text["csv"].stdout)))
    assert [float(row["eer"]) for row in as_csv] == [row["eer"] for row in rows]
    assert as_csv[1]["p"] == ""
    head, rule, first, *_ = text["markdown"].stdout.splitlines()
    assert head.startswith("| experiment | seeds | knn_accuracy | eer | difference |") and set(rule) <= set("| -")
    assert first.startswith("| ours | 3 | 0.9200 ± 0.0100 | 0.0800 ± 0.0100 | +0.4153 |")
    assert "0.9200 ± 0.0100" in text["terminal"].stdout
    assert "ours differs from the defaults in margin 1.\n" in text["terminal"].stdout


@pytest.mark.parametrize("name", ["theirs", "theirs/2"])
def test_what_others_are_compared_with_may_be_called_by_any_of_its_runs(two, name):
    result = run(two, "--metrics", "eer", "--against", name, "--format", "json")
    assert [row["verdict"] for row in json.loads(result.stdout)] == ["better", "what the others are compared with"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "knn_acuracy"], "no run has a metric 'knn_acuracy'; did you mean 'knn_accuracy'?"),
        (["--sort", "colour"], "no column 'colour' to sort by; there are experiment, seeds, "),
        (["--against", "nobody"], "--against nobody: no such experiment; there are ours, theirs"),
    ],
)
def test_mistakes_are_one_line(two, arguments, message):
    result = run(two, *(["--metrics", "eer"] if "--metrics" not in arguments else []), *arguments)
    assert result.returncode == 2 and result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_a_folder_without_scores_is_one_line(tmp_path):
    result = run(tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"{tmp_path}: there is no metrics.json in it or below it; train an experiment first\n"
    (tmp_path / "metrics.json").write_text("[]")
    result = run(tmp_path)
    assert result.returncode == 2
    assert (
        result.stderr
        == f"{tmp_path / 'metrics.json'}: not the scores of an experiment; delete this file, or evaluate again\n"
    )


def test_a_pipe_in_a_cell_does_not_end_it():
    assert table.to_markdown([{"a": "x|y"}]) == "| a |\n| --- |\n| x\\|y |\n"
