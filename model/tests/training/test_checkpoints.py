"""Checkpoints: whole or not there, and every kind of damage is noticed."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model.common.errors import UserError
from model.params import Params
from model.training import checkpoints
from model.training.checkpoints import Checkpoint
from model.training.run_state import RunState

TENSORS = {
    "network/kernel": np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32),
    "run/global_step": np.array(7),
    "run/params": np.array('{"margin": 0.5}'),
    "run/stopped_early": np.array(False),
    "seed_generator/state": np.array([1, 2**31], np.uint32),
}


def at(step):
    return {**TENSORS, "run/global_step": np.array(step)}


def assert_equal(loaded, expected=TENSORS):
    assert set(loaded) == set(expected)
    for name, value in expected.items():
        if value.dtype.kind == "U":
            assert loaded[name].item().decode() == value.item()
        else:
            np.testing.assert_array_equal(loaded[name], value)
            assert loaded[name].dtype == value.dtype


def names(model_dir):
    return sorted(path.name for path in (model_dir / "checkpoints").iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    assert_equal(checkpoints.load(path).tensors)
    newest = checkpoints.load_newest(tmp_path)
    assert newest.path == path and newest.step == newest.state.global_step == 7
    assert newest.params == Params(margin=0.5)
    assert_equal(newest.tensors)


def test_the_digest_is_of_what_was_learned():
    """Not of when, how fast and by which commit."""
    path = Path("checkpoints", "step-00000007")
    digest = Checkpoint(path, TENSORS).digest
    circumstances = {"run/code_version": np.array(b"a commit"), "run/timed_seconds": np.array(1.5)}
    assert Checkpoint(path, {**TENSORS, **circumstances}).digest == digest
    assert Checkpoint(path, dict(reversed(TENSORS.items()))).digest == digest
    for name, tensor in TENSORS.items():
        if tensor.dtype.kind == "f":
            assert Checkpoint(path, {**TENSORS, name: tensor + 1}).digest != digest
            assert Checkpoint(path, {**TENSORS, name: tensor[np.newaxis]}).digest != digest
    assert Checkpoint(path, {**TENSORS, "more": np.array(1)}).digest != digest


def test_a_checkpoint_of_another_step_is_damaged(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    copy = shutil.copytree(path, path.with_name("step-00000008"))
    with pytest.raises(UserError, match=r"step-00000008: the checkpoint is damaged: it holds step 7; delete this"):
        checkpoints.load(copy)
    assert checkpoints.load_newest(tmp_path).path == path


def test_parameters_of_another_version_are_one_line(tmp_path):
    path = checkpoints.save(tmp_path, 7, {**TENSORS, "run/params": np.array('{"warp": 9, "margin": 1}')}, keep=5)
    with pytest.raises(UserError, match=r"does not understand the parameters of step 7 \(warp\); use the version"):
        _ = checkpoints.load(path).params
    old = '{"squared": true, "num_labels": 10, "margin": 0.5}'
    path = checkpoints.save(tmp_path, 7, {**TENSORS, "run/params": np.array(old)}, keep=5)
    assert checkpoints.load(path).params == Params(distance="squared_euclidean")


def test_a_folder_whose_name_is_a_pattern(tmp_path):
    folder = tmp_path / r"a[b]*?\c"
    folder.mkdir()
    path = checkpoints.save(folder, 7, TENSORS, keep=5)
    assert_equal(checkpoints.load(path).tensors)
    (path / "tensors.index").unlink()
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(path)


def test_tensorflows_own_tools_can_read_it(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    listed = dict(tf.train.list_variables(str(path / "tensors")))
    assert listed["network/kernel"] == [40, 50]


def test_the_newest_is_the_highest_step_and_the_oldest_are_deleted(tmp_path):
    for step in (1, 5, 10, 99_999_999, 100_000_000):
        checkpoints.save(tmp_path, step, at(step), keep=9)
    assert [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(tmp_path)] == [
        1, 5, 10, 99_999_999, 100_000_000,
    ]  # fmt: skip
    checkpoints.save(tmp_path, 100_000_001, at(100_000_001), keep=2)
    assert names(tmp_path) == ["step-100000000", "step-100000001"]


def test_a_step_can_be_saved_again(tmp_path):
    checkpoints.save(tmp_path, 7, {"old": np.zeros(3)}, keep=5)
    assert_equal(checkpoints.load(checkpoints.save(tmp_path, 7, TENSORS, keep=5)).tensors)
    assert names(tmp_path) == ["step-00000007"]


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoints.load_newest(tmp_path) is None
    with pytest.raises(UserError, match=r"step-00000001: no such checkpoint"):
        checkpoints.load(tmp_path / "checkpoints" / "step-00000001")


def test_a_link_in_the_way_is_deleted_and_what_it_leads_to_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "checkpoints").mkdir()
    for name in ("tmp-step-00000007", "tmp-old-step-00000007", "tmp-file"):
        (tmp_path / "checkpoints" / name).symlink_to(precious, target_is_directory=True)
    checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    assert names(tmp_path) == ["step-00000007"] and list(precious.iterdir()) == [precious / "file"]


def test_what_a_killed_save_leaves_is_ignored_and_cleaned_up(tmp_path):
    checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    unfinished = tmp_path / "checkpoints" / "tmp-step-00000008"
    unfinished.mkdir()
    (unfinished / "tensors.index").write_bytes(b"half")
    assert checkpoints.load_newest(tmp_path).path.name == "step-00000007"
    checkpoints.save(tmp_path, 8, at(8), keep=5)
    assert names(tmp_path) == ["step-00000007", "step-00000008"]


def damages(path):
    """Yields every kind of damage once done to the checkpoint's folder, with its name."""
    originals = {file: file.read_bytes() for file in sorted(path.iterdir())}
    for file, content in originals.items():
        positions = np.unique(np.linspace(0, len(content) - 1, 40).astype(int))
        for position in positions:
            flipped = bytearray(content)
            flipped[position] ^= 0x10
            file.write_bytes(flipped)
            yield f"{file.name}: bit flipped in byte {position} of {len(content)}"
        for length in (0, 1, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            yield f"{file.name}: cut to {length} of {len(content)} bytes"
        file.unlink()
        yield f"{file.name}: deleted"
        file.write_bytes(content)


def test_no_damage_goes_unnoticed(tmp_path):
    """A flipped bit, a cut file, a missing file: refused in one line, also where TensorFlow reads nothing."""
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    accepted = []
    for damage in damages(path):
        try:
            assert_equal(checkpoints.load(path).tensors)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            accepted.append(damage)
    assert accepted == ["tensors.sha256: deleted"]
    assert_equal(checkpoints.load(path).tensors)


def test_bytes_that_tensorflow_does_not_read_are_checked(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    with (path / "tensors.data-00000-of-00001").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"damaged \(its bytes are not those that tensors\.sha256 tells of\)"):
        checkpoints.load(path)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_the_digests_are_those_of_sha256sum(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    said = subprocess.run(["sha256sum", "--check", "tensors.sha256"], cwd=path, capture_output=True, text=True)
    assert said.stdout.splitlines() == ["tensors.data-00000-of-00001: OK", "tensors.index: OK"]


def test_a_checkpoint_of_an_older_version_has_the_checksums_of_its_tensors(tmp_path):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    (path / "tensors.sha256").unlink()
    assert_equal(checkpoints.load(path).tensors)
    data = path / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(path)


def test_a_damaged_newest_one_is_passed_over_with_a_word(tmp_path, caplog):
    older = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    newer = checkpoints.save(tmp_path, 8, at(8), keep=5)
    data = newer / "tensors.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert checkpoints.load_newest(tmp_path).path == older
    assert [str(newer) in record.getMessage() for record in caplog.records] == [True]


def test_only_damaged_ones_are_never_a_start_from_scratch(tmp_path):
    for step in (7, 8):
        (checkpoints.save(tmp_path, step, at(step), keep=5) / "tensors.index").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 2 checkpoints can be read"):
        checkpoints.load_newest(tmp_path)


def test_a_save_that_fails_leaves_the_older_ones(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 7, TENSORS, keep=1)

    def full(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(
        UserError, match=r"step-00000008: cannot write .* No space left on device; older .*; make room on the disk"
    ):
        checkpoints.save(tmp_path, 8, at(8), keep=1)
    assert names(tmp_path) == ["step-00000007"]
    assert_equal(checkpoints.load_newest(tmp_path).tensors)


def test_damaged_newer_ones_do_not_push_out_what_is_saved(tmp_path):
    """After falling back from a damaged step 9, the run saves step 8: that one is kept, whatever `keep` is."""
    checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    (checkpoints.save(tmp_path, 9, at(9), keep=5) / "tensors.index").write_bytes(b"")
    checkpoints.save(tmp_path, 8, at(8), keep=1)
    assert names(tmp_path) == ["step-00000008"]
    assert_equal(checkpoints.load_newest(tmp_path).tensors, at(8))


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    older, newer = (checkpoints.save(tmp_path, step, at(step), keep=5) for step in (7, 8))

    def forbidden(_):
        raise tf.errors.PermissionDeniedError(None, None, "Permission denied")

    monkeypatch.setattr(tf.train, "load_checkpoint", forbidden)
    with pytest.raises(UserError, match=r"step-00000008: the checkpoint cannot be read: Permission denied"):
        checkpoints.load_newest(tmp_path)
    assert older.exists() and newer.exists()


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a file"])
def test_what_is_no_folder_is_no_checkpoint(tmp_path, kind):
    """Whatever it is called: the newest good one is taken, and training goes on, also where that is in its way."""
    good = checkpoints.save(tmp_path, 7, TENSORS, keep=5)
    (tmp_path / "a file").write_text("not ours")
    for name in ("step-99999999", "step-00000008", "tmp-old-step-00000001"):
        path = good.with_name(name)
        if kind == "file":
            path.write_text("not ours")
        else:
            path.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else "a file"))
    assert checkpoints.list_checkpoints(tmp_path) == [good]
    assert checkpoints.load_newest(tmp_path).path == checkpoints.choose(tmp_path).path == good
    newer = checkpoints.save(tmp_path, 8, at(8), keep=1)
    assert checkpoints.list_checkpoints(tmp_path) == [newer]
    assert checkpoints.load_newest(tmp_path).step == 8
    assert (tmp_path / "a file").read_text() == "not ours"


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_no_run_begins_anew_where_the_folder_of_the_checkpoints_is_none(tmp_path, kind):
    """Such as a link to a disk that is not there at the moment."""
    path = tmp_path / "checkpoints"
    if kind == "file":
        path.write_text("not ours")
    else:
        path.symlink_to(tmp_path / "disk" / "checkpoints")
    for read in (checkpoints.list_checkpoints, checkpoints.load_newest):
        with pytest.raises(UserError, match=r"checkpoints: no folder, or a link to one that is not there; bring back"):
            read(tmp_path)


def having_evaluated(step, best_step):
    return RunState(step, "knn_accuracy", 0.5, best_step).to_tensors() | {"run/params": np.array("{}")}


def train_on_before_each_read(monkeypatch, *trainings):
    """Lets a training that goes on save and delete, just before a checkpoint that was listed is read."""
    load, left = checkpoints.load, iter(trainings)

    def late_load(path):
        next(left, lambda: None)()
        return load(path)

    monkeypatch.setattr(checkpoints, "load", late_load)


def test_a_newest_checkpoint_that_is_deleted_before_it_is_read(tmp_path, monkeypatch, caplog):
    checkpoints.save(tmp_path, 7, at(7), keep=1)
    trainings = [lambda step=step: checkpoints.save(tmp_path, step, at(step), keep=1) for step in (8, 9)]
    train_on_before_each_read(monkeypatch, *trainings)
    assert checkpoints.load_newest(tmp_path).step == 9
    assert caplog.text == ""


@pytest.mark.parametrize("choice", [None, "best"])
def test_a_best_checkpoint_that_is_deleted_before_it_is_read(tmp_path, monkeypatch, choice, caplog):
    for step in (7, 8):
        checkpoints.save(tmp_path, step, having_evaluated(step, best_step=7), keep=1, best_step=7)
    better = lambda: checkpoints.save(tmp_path, 9, having_evaluated(9, best_step=9), keep=1, best_step=9)  # noqa: E731
    train_on_before_each_read(monkeypatch, lambda: None, better)
    assert checkpoints.choose(tmp_path, choice).step == 9
    assert caplog.text == ""


def test_a_checkpoint_that_somebody_names_must_be_there(tmp_path, monkeypatch):
    path = checkpoints.save(tmp_path, 7, TENSORS, keep=1)
    train_on_before_each_read(monkeypatch, lambda: shutil.rmtree(path))
    with pytest.raises(UserError, match="step-00000007: no such checkpoint"):
        checkpoints.choose(tmp_path, str(path))


class Died(BaseException):
    """The process is gone: nothing of ours runs any more."""


@pytest.mark.parametrize("keep", [1, 3])
def test_a_death_between_any_two_operations_leaves_a_whole_checkpoint(tmp_path, monkeypatch, keep):
    """Every call that changes the disk is counted, and the process dies before the first, the second, ... of them."""
    calls, fatal = 0, 0

    def mortal(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fatal:
                raise Died
            return function(*args, **kwargs)

        return wrapped

    new = at(8)
    while True:
        folder = tmp_path / f"{keep}-{fatal}"
        folder.mkdir()
        checkpoints.save(folder, 6, at(6), keep=keep)
        checkpoints.save(folder, 7, TENSORS, keep=keep)
        fatal, calls = fatal + 1, 0
        with monkeypatch.context() as patch:
            for owner, name in [(Path, "mkdir"), (Path, "rename"), (os, "fsync"), (tf.raw_ops, "SaveV2")]:
                patch.setattr(owner, name, mortal(getattr(owner, name)))
            patch.setattr("shutil.rmtree", mortal(__import__("shutil").rmtree))
            try:
                checkpoints.save(folder, 8, new, keep=keep)
            except Died:
                survived = True
            else:
                survived = False
        newest = checkpoints.load_newest(folder)
        assert_equal(newest.tensors, new if newest.step == 8 else TENSORS)
        assert newest.path.name in ("step-00000007", "step-00000008")
        if not survived:
            break
        checkpoints.save(folder, 8, new, keep=keep)  # what the dead process left does not disturb
        assert not [name for name in names(folder) if name.startswith("tmp")]
    assert fatal > 8  # that many operations there were


def test_a_folder_that_is_not_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a checkpoint"):
        checkpoints.step_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("run/best_step", np.array("text"), "'run/best_step' is 'text'"),
        ("run/best_step", np.array([1, 2]), r"can only convert an array of size 1.*"),
        ("run/global_step", np.array("7"), "'run/global_step' is '7'"),
        ("run/global_step", np.array(8), "it holds step 8"),
        ("run/params_history", np.array("{"), ".*"),
    ],
)
def test_a_state_that_no_run_has_saved_is_damage(tmp_path, name, value, said):
    """Whatever wrote it, its checksums are right."""
    checkpoints.save(tmp_path, 5, at(5), keep=5)
    path = checkpoints.save(tmp_path, 7, {**TENSORS, name: value}, keep=5)
    with pytest.raises(
        checkpoints.Damaged, match=rf"^{path}: the checkpoint is damaged: {said}; delete this folder .*$"
    ):
        checkpoints.load(path)
    assert checkpoints.load_newest(tmp_path).step == 5
