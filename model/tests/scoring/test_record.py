"""Files of scores: what is read is what was written, and whatever is damaged is no record and no traceback."""

import dataclasses
import json
import math

import pytest

from model.common import files
from model.common.versions import Provenance
from model.scoring.record import Record

PROVENANCE = Provenance("abc", "abc+changes", {"numpy": "2.0"}, "2 cores", "0f", 1.5, None)
RECORD = Record(
    "step-00000010",
    "0123",
    {"global_step": 10, "knn_accuracy": 0.1 + 0.2, "unseen/eer": 5e-324},
    validation={"metric": "knn_accuracy", "best_value": 0.9, "best_step": 10},
    baselines={"pca": {"knn_accuracy": 0.25}},
    params={"seed": 7, "holdout_classes": ["é", 3]},
    provenance=PROVENANCE,
)


def content():
    """What `RECORD.write` writes, in plain values."""
    return {
        "checkpoint": {"name": "step-00000010", "digest": "0123"},
        "validation": {"metric": "knn_accuracy", "best_value": 0.9, "best_step": 10},
        "metrics": {"global_step": 10, "knn_accuracy": 0.1 + 0.2, "unseen/eer": 5e-324},
        "baselines": {"pca": {"knn_accuracy": 0.25}},
        "params": {"seed": 7, "holdout_classes": ["é", 3]},
        "provenance": dataclasses.asdict(PROVENANCE),
    }


@pytest.mark.parametrize("record", [RECORD, Record("a", "b", {"loss": 1.0})])
def test_what_is_read_is_what_was_written(tmp_path, record):
    record.write(tmp_path / "metrics.json")
    assert Record.read(tmp_path / "metrics.json") == record


def test_the_file_is_plain_json(tmp_path):
    RECORD.write(tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == content() and text.endswith("}\n")
    Record("a", "b", {"loss": 1.0}).write(tmp_path / "metrics.json")  # empty parts are left out
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "checkpoint": {"name": "a", "digest": "b"},
        "metrics": {"loss": 1.0},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null_in_the_file_and_nan_after_it(tmp_path, value):
    path = tmp_path / "metrics.json"
    Record("a", "b", {"eer": value, "loss": 0.0}, baselines={"pca": {"eer": value}}).write(path)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert written["metrics"] == {"eer": None, "loss": 0} and written["baselines"] == {"pca": {"eer": None}}
    read = Record.read(path)
    assert math.isnan(read.metrics["eer"]) and math.isnan(read.baselines["pca"]["eer"]) and read.metrics["loss"] == 0


def test_numbers_out_of_range_are_nan(tmp_path):
    """Python reads these, which are not JSON, as not finite."""
    text = json.dumps({**content(), "metrics": {}}).replace('"metrics": {}', '"metrics": {"a": NaN, "b": -1e999}')
    (tmp_path / "metrics.json").write_text(text)
    assert all(math.isnan(value) for value in Record.read(tmp_path / "metrics.json").metrics.values())


@pytest.mark.parametrize(("best_step", "is_best"), [(10, True), (5, False)])
def test_whether_the_validation_images_chose(best_step, is_best):
    assert dataclasses.replace(RECORD, validation={"best_step": best_step}).is_best == is_best
    assert not dataclasses.replace(RECORD, validation={}).is_best


@pytest.mark.parametrize(
    "changes",
    [
        *({part: value} for part in content() for value in (5, "text", [1], [["a", 1]], True)),
        *({part: None} for part in content() if part != "provenance"),
        {"checkpoint": {"name": "step-00000010"}},
        {"checkpoint": {"digest": "0123"}},
        {"checkpoint": {"name": None, "digest": "0123"}},
        {"checkpoint": {"name": "step-00000010", "digest": 123}},
        *({"metrics": {"eer": value}} for value in ("0.5", "high", [0.5], {}, True, 10**400)),
        *({"baselines": {"pca": value}} for value in (None, 0.5, [], {"eer": "low"})),
        {"provenance": {}},
        {"provenance": {**content()["provenance"], "unknown": 1}},
        {"provenance": {**content()["provenance"], "hardware": 5}},
        {"provenance": {**content()["provenance"], "train_seconds": -1}},
        {"provenance": {**content()["provenance"], "train_seconds": "60"}},
    ],
    ids=str,
)
def test_content_that_was_never_written_is_no_record(tmp_path, changes):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(content()))
    assert Record.read(path) == RECORD
    path.write_text(json.dumps(content() | changes))
    assert Record.read(path) is None


@pytest.mark.parametrize("part", ["checkpoint", "metrics"])
def test_a_file_without_its_first_parts_is_no_record(tmp_path, part):
    rest = content()
    del rest[part]
    (tmp_path / "metrics.json").write_text(json.dumps(rest))
    assert Record.read(tmp_path / "metrics.json") is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"", b" ", b"null", b"5", b"[]", b'"text"', b"{}", b"{", b"\0" * 100, b"\xff\xfe", b"\xef\xbb\xbf{}",
        b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"\x1f\x8b\x08", b'{"checkpoint": {"name": "\xc3"}}',
    ],
    ids=lambda damaged: repr(damaged[:20]),
)  # fmt: skip
def test_a_damaged_file_is_no_record(tmp_path, damaged):
    (tmp_path / "metrics.json").write_bytes(damaged)
    assert Record.read(tmp_path / "metrics.json") is None


def test_a_file_that_was_cut_off_anywhere_is_no_record(tmp_path):
    path = tmp_path / "metrics.json"
    RECORD.write(path)
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert Record.read(path) is None


def test_what_is_no_file_is_no_record(tmp_path):
    assert Record.read(tmp_path / "missing" / "metrics.json") is None
    assert Record.read(tmp_path) is None
    assert Record.read(tmp_path / "a\0b") is None
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert Record.read(tmp_path / "circle") is None


def test_hostile_text_is_only_text(tmp_path):
    path = tmp_path / "metrics.json"
    hostile = "\x1b[31m../../etc\0\n" + "x" * 10_000
    record = Record(hostile, hostile, {hostile: 1.0}, params={hostile: hostile})
    record.write(path)
    assert Record.read(path) == record
    path.write_text('{"checkpoint": {"name": "\\ud800", "digest": ""}, "metrics": {"__class__": 1}}')
    assert Record.read(path).metrics == {"__class__": 1}


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    """Until the new file is complete the old one stands, also where the writer dies."""
    path = tmp_path / "metrics.json"
    Record("old", "0", {"loss": 1.0}).write(path)

    def die(source, target):
        assert Record.read(source) == RECORD and Record.read(target).checkpoint == "old"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.os, "replace", die)
        RECORD.write(path)
    assert Record.read(path).checkpoint == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(RECORD, params={"margin": math.nan}).write(path)
    assert Record.read(path).checkpoint == "old"


HISTORY = ({"from_step": 0, "params": {"margin": 0.5}}, {"from_step": 10, "params": {"margin": 0.2}})


def test_the_parameters_that_changed_on_the_way_are_kept(tmp_path):
    path = tmp_path / "metrics.json"
    dataclasses.replace(RECORD, params_history=HISTORY).write(path)
    assert Record.read(path).params_history == HISTORY
    RECORD.write(path)
    assert "params_history" not in json.loads(path.read_text())
    assert Record.read(path).params_history == ()


@pytest.mark.parametrize(
    "history",
    [
        5,
        {"from_step": 0, "params": {}},
        ["ab"],
        [{"from_step": 0}],
        [{"from_step": "0", "params": {}}],
        [{"from_step": True, "params": {}}],
        [{"from_step": 0, "params": [1]}],
        [{"from_step": 0, "params": {}, "more": 1}],
    ],
)
def test_a_history_that_nobody_wrote_is_no_record(tmp_path, history):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**content(), "params_history": history}))
    assert Record.read(path) is None


def test_parameters_nested_too_deep_for_what_follows_are_no_record(tmp_path):
    path = tmp_path / "metrics.json"
    deep = "[" * 600 + "]" * 600
    path.write_text(json.dumps({**content(), "params": {"margin": None}}).replace("null}", f"{deep}}}"))
    json.loads(path.read_text())  # JSON it is
    assert Record.read(path) is None
