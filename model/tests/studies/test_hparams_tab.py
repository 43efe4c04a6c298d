"""What TensorBoard's HParams, Text, Histograms and Scalars tell of experiments, by its own HTTP endpoints."""

import errno
import json
import re
import shutil
import urllib.parse

import pytest

import train
from model.common import cli
from model.common.commands import ROOT
from model.common.errors import Interrupted, UserError
from model.common.files import lock_experiment
from model.params import Params
from model.start import start
from model.studies import hparams_tab
from model.tests.experiments import write_params
from model.tests.servers import fetch, tensorboard, wait_for
from model.training import event_files

EVERY_STATUS = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_UNKNOWN", "STATUS_RUNNING"]


def test_every_parameter_is_a_word_a_number_or_a_switch():
    flat = hparams_tab.flatten(Params(holdout_classes=[1, "two"], validation_size=0.25, margin=1))
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert flat["holdout_classes"] == '[1, "two"]' and flat["validation_size"] == 0.25
    assert flat["learning_rate"] == 0.001 and flat["use_batch_norm"] is False and flat["dataset"] == "mnist"
    assert "num_classes_per_batch" not in flat  # not set


@pytest.mark.parametrize("values", [(0.5, "soft"), (1, 0.5)])
def test_a_parameter_has_one_type_in_all_experiments(values):
    kinds = {
        type(hparams_tab.flatten(Params(margin=value, triplet_strategy="batch_hard"))["margin"]) for value in values
    }
    assert kinds == {str}
    assert {type(hparams_tab.flatten(Params(holdout_classes=some))["holdout_classes"]) for some in (2, [1, 2])} == {str}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Four experiments: two of equal parameters, one that breaks down and one that is killed."""
    folder = tmp_path_factory.mktemp("experiments")
    changes = {"validation_size": 0.2, "evaluate_every_epochs": 1, "holdout_classes": [8, 9]}
    train_here(write_params(folder / "first", **changes))
    train_here(shutil.copytree(folder / "first", folder / "second"))  # which is complete: only its session is new
    broken = write_params(folder / "broken", learning_rate=1000.0, **changes)
    (broken / "validation").write_text("a file, where a folder has to be")
    with pytest.raises(SystemExit):
        train_here(broken)
    killed = write_params(folder / "killed")
    with start(killed).session():  # a process that is killed leaves what there is now
        left = shutil.copytree(killed, folder / "left")
    shutil.rmtree(killed)
    left.rename(killed)
    with tensorboard(folder) as address:
        yield address


def train_here(model_dir):
    cli.run(train.main, "", ["--model_dir", str(model_dir)], train.add_options)


def test_a_second_process_leaves_the_session_of_the_first_alone(tmp_path):
    model_dir, params = tmp_path / "mine", Params()
    model_dir.mkdir()
    with lock_experiment(model_dir):
        with pytest.raises(UserError, match="another process is training here"), hparams_tab.session(model_dir, params):
            raise AssertionError
        assert {path.name for path in model_dir.iterdir()} == {".lock"}
    with pytest.raises(UserError), hparams_tab.session(model_dir, params):  # it came between the start and the training
        (before,) = model_dir.glob("*.hparams")
        with lock_experiment(model_dir):
            raise UserError("another process is training here")
    assert list(model_dir.glob("*.hparams")) != [before]


@pytest.mark.parametrize("stopped", [Interrupted("Stopped", 2), KeyboardInterrupt()])
def test_a_run_that_was_asked_to_stop_has_not_failed(tmp_path, stopped):
    with pytest.raises(type(stopped)), hparams_tab.session(tmp_path, Params()):
        (before,) = tmp_path.glob("*.hparams")
        raise stopped
    assert list(tmp_path.glob("*.hparams")) == [before]


def test_what_ended_a_run_is_told_and_not_what_came_of_telling_tensorboard(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="the reason"), hparams_tab.session(tmp_path, Params()):
        monkeypatch.setattr(event_files, "write_hparams", full)
        raise UserError("the reason")


def test_a_run_whose_end_cannot_be_told_to_tensorboard_has_ended_well(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with hparams_tab.session(tmp_path, Params()):
        monkeypatch.setattr(event_files, "write_hparams", full)
    assert caplog.messages == [
        f"{tmp_path}: cannot be written; TensorBoard's HParams tab does not say that the run has ended."
    ]


def test_a_folder_that_was_replaced_is_not_told_how_the_run_in_the_other_ended(tmp_path):
    model_dir = tmp_path / "mine"
    model_dir.mkdir()
    with pytest.raises(UserError, match="deleted, moved or replaced"), hparams_tab.session(model_dir, Params()):
        model_dir.rename(tmp_path / "away")
        model_dir.mkdir()
    assert not list(model_dir.iterdir())


def test_a_trial_shows_what_its_search_varies(tmp_path):
    space = {"vary": {"margin": [1, 2], "P x K": [{"batch_size": 8}, {"num_classes_per_batch": 3}]}}
    (tmp_path / "search.json").write_text(json.dumps(space))
    varied = {"margin", "batch_size", "num_classes_per_batch"}
    assert (
        hparams_tab._varied_around(tmp_path / "trial")
        == hparams_tab._varied_around(tmp_path / "trial" / "seed=2")
        == varied
    )
    assert hparams_tab._varied_around(tmp_path.parent) == set()
    (tmp_path / "search.json").write_text("{")
    assert hparams_tab._varied_around(tmp_path / "trial") == set()


def groups(address):
    question = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": EVERY_STATUS, "colParams": []}
    return fetch(f"{address}/data/plugin/hparams/session_groups", question)["sessionGroups"]


def test_the_tab_has_a_row_for_each_experiment(served):
    found = {group["sessions"][0]["name"]: group for group in groups(served)}
    assert found.keys() == {"first", "second", "broken", "killed"}
    assert all(group["name"].startswith(f"{name} ") for name, group in found.items())
    status = {name: group["sessions"][0]["status"] for name, group in found.items()}
    expected = {"first": "SUCCESS", "second": "SUCCESS", "broken": "FAILURE", "killed": "UNKNOWN"}
    assert status == {name: f"STATUS_{end}" for name, end in expected.items()}
    assert found["broken"]["hparams"]["learning_rate"] == 1000.0
    scores = {value["name"]["tag"]: value["value"] for value in found["first"]["metricValues"]}
    assert scores.keys() == {
        "classification/knn_accuracy", "retrieval/recall_at_1", "retrieval/map_at_r",
        "verification/roc_auc", "verification/eer",
    }  # fmt: skip
    assert all(0 <= value <= 1 for value in scores.values())


def test_the_parameters_are_a_table_in_text(served):
    events = fetch(f"{served}/data/plugin/text/text?run=first&tag=params")
    assert "<td>validation_size</td>" in events[0]["text"] and "<td>0.2</td>" in events[0]["text"]


def test_training_validation_and_test_share_their_charts(served):
    tags = fetch(f"{served}/data/plugin/scalars/tags")
    assert {"loss", "distances/mean_positive_dist", "fraction_positive_triplets"} <= (
        tags["first"].keys() & tags["first/validation"].keys() & tags["first/eval"].keys()
    )
    assert {"classification/knn_accuracy", "retrieval/recall_at_1"} <= (
        tags["first/validation"].keys() & tags["first/eval"].keys()
    )


def test_sections_are_few(served):
    tags = fetch(f"{served}/data/plugin/scalars/tags")
    assert {tag.split("/")[0] for run in tags.values() for tag in run} == {
        "loss", "embedding_mean_norm", "fraction_positive_triplets", "hardest_positive_dist", "hardest_negative_dist",
        "classification", "clustering", "distances", "retrieval", "run", "seen", "sizes", "triplets", "unseen",
        "verification",
    }  # fmt: skip
    in_two = ("classification", "clustering", "retrieval", "sizes", "verification")
    for classes in ("seen", "unseen"):
        of_classes = {tag.removeprefix(f"{classes}/") for tag in tags["first/eval"] if tag.startswith(f"{classes}/")}
        assert of_classes == {tag for tag in tags["first/eval"] if tag.startswith(in_two)}


def test_distances_and_norms_are_histograms(served):
    tags = fetch(f"{served}/data/plugin/histograms/tags")
    kinds = ("embedding_norm", "same_class", "different_classes")
    assert tags["first"].keys() == {f"distances/{kind}" for kind in kinds}
    for tag in tags["first"]:
        (_, step, buckets), *_ = fetch(f"{served}/data/plugin/histograms/histograms?run=first&tag={tag}")
        total = sum(count for _, _, count in buckets)
        assert step == 5 and total == 64 if tag == "distances/embedding_norm" else 0 < total < 64 * 63 / 2


def test_the_browser_shows_charts_and_a_row_for_each_experiment(page, served):
    page.goto(f"{served}/?tagFilter=%5Eloss%24#timeseries")
    card = page.locator("card-view").first
    shown = wait_for(page, lambda: card.inner_text() if "second/validation" in card.inner_text() else "").split()
    assert {"first", "first/validation", "first/eval", "second", "second/validation"} <= set(shown)  # in one chart
    page.evaluate("location.hash = 'hparams'")
    cells = page.locator("vaadin-grid-cell-content")
    rows = {"first", "second", "broken", "killed", "eval.knn_accuracy", "triplet_strategy"}
    wait_for(page, lambda: rows <= set(" ".join(cells.all_inner_texts()).split()))
    assert page.errors == []


def test_the_address_in_the_readme_shows_what_one_wants_first(page, served):
    (query,) = re.findall(
        r"http://localhost:6006/(\?pinnedCards=[^#\s]+#timeseries)", (ROOT / "docs/seeing.md").read_text()
    )
    pinned = json.loads(urllib.parse.parse_qs(query.partition("#")[0].removeprefix("?"))["pinnedCards"][0])
    tags = fetch(f"{served}/data/plugin/scalars/tags")
    assert {card["tag"] for card in pinned} <= tags["first"].keys() | tags["first/eval"].keys()
    page.goto("about:blank")
    page.errors.clear()
    page.goto(f"{served}/{query}")
    titles = page.locator("metrics-pinned-view card-view .tag")
    wait_for(page, lambda: titles.count() == len(pinned))
    shown = ["".join(title.split()) for title in titles.all_inner_texts()]
    assert shown == [card["tag"] for card in pinned]
    assert page.errors == []
