"""Files are there as a whole or not at all, whatever goes wrong, and one process writes at a time."""

import errno
import os
import subprocess
import sys

import pytest

from model.common import files
from model.common.commands import ROOT
from model.common.errors import UserError


@pytest.mark.parametrize("content", ["größe\n", b"\x00\xff", ""])
def test_what_is_written_is_there_alone(tmp_path, content):
    path = tmp_path / "file.txt"
    files.write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    files.write_whole(path, "again")
    assert path.read_text() == "again"
    assert list(tmp_path.iterdir()) == [path]


def test_at_no_moment_is_there_half_a_file(tmp_path, monkeypatch):
    """Whoever looks sees the old content until the new one is on the disk, then the new one, which is then recorded."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    events = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115, PTH119
        events.append(("flush", name == tmp_path.name, path.read_text()))
        fsync(descriptor)

    def seen_replace(source, target):
        assert source.read_text() == "new"
        events.append(("replace", path.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    files.write_whole(path, "new")
    assert events == [("flush", False, "old"), ("replace", "old"), ("flush", True, "new")]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch, broken):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, "new" * 1000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full(tmp_path):
    """The content goes into the file beside, so that is the one that finds no room."""
    (tmp_path / "tmp-file.txt").symlink_to("/dev/full")
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(tmp_path / "file.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_whole(tmp_path / "nowhere" / "file.txt", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_whole(tmp_path / "file.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_what_a_kill_left_beside_is_no_obstacle(tmp_path):
    (tmp_path / "tmp-file.txt").write_text("half of what was to be writ")
    files.write_whole(tmp_path / "file.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with files.lock(tmp_path / ".lock", "somebody is here"):
        with pytest.raises(UserError, match="somebody is here"), files.lock(tmp_path / ".lock", "somebody is here"):
            pytest.fail("two are inside")
        with files.lock(tmp_path / ".other", "nobody is here"):
            pass
    with files.lock(tmp_path / ".lock", "somebody is here"):
        pass


def test_a_lock_is_given_back_after_a_failure(tmp_path):
    with pytest.raises(ValueError, match="in the block"), files.lock(tmp_path / ".lock", "somebody is here"):
        raise ValueError("in the block")
    with files.lock(tmp_path / ".lock", "somebody is here"):
        pass


def test_another_process_trains_in_a_folder_until_it_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from model.common.files import lock_experiment\n"
        "with lock_experiment(Path(sys.argv[1])):\n    print('inside', flush=True)\n    time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "inside\n"
        expected = f"^{tmp_path}: another process is training here; wait for it or stop it$"
        with pytest.raises(UserError, match=expected), files.lock_experiment(tmp_path):
            pytest.fail("two are inside")
        process.kill()
    with files.lock_experiment(tmp_path):
        pass
