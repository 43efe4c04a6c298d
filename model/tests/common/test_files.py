"""Files are there as a whole or not at all, whatever goes wrong, and one process writes at a time."""

import errno
import os
import re
import resource
import secrets
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.common import files
from model.common.commands import ROOT
from model.common.errors import UserError, explain


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
    (tmp_path / "file.txt").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the system refuses what comes after
        with pytest.raises(OSError, match="File too large"):
            files.write_whole(tmp_path / "file.txt", "new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_whole(tmp_path / "nowhere" / "file.txt", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError, match="directory") as raised:
        files.write_whole(tmp_path / "file.txt", "new")
    assert explain(raised.value) == f"{tmp_path / 'file.txt'}: Is a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_an_error_names_what_was_to_be_written(tmp_path, monkeypatch):
    """And not the random name that it has until it is ready, as in a folder that may only be read."""

    def refuse(path, *_, exist_ok=False, **__):
        if not exist_ok:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError) as raised:
        files.write_whole(tmp_path / "file.txt", "new")
    assert explain(raised.value) == f"{tmp_path / 'file.txt'}: Permission denied"
    with pytest.raises(PermissionError) as raised, files.folder_beside(tmp_path):
        pytest.fail("it is used")
    assert explain(raised.value) == f"{tmp_path}: Permission denied"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_is_what_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_whole(tmp_path / "file.txt", "new")
        os.close(files.open_to_append(tmp_path / "log"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


WAYS_TO_LEAVE = {
    "file": lambda path: path.write_text("half of what was to be writ"),
    "folder": lambda path: (path / "half").mkdir(parents=True),
    "link": lambda path: path.symlink_to(path.with_name("precious")),
}


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE.values(), ids=WAYS_TO_LEAVE)
def test_what_kills_left_is_deleted_a_day_later_and_what_others_are_making_is_not(tmp_path, leave):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    names = (f"tmp-triplet-loss-{'0' * 16}", f"tmp-triplet-loss-{'1' * 16}", f"tmp-{'2' * 16}")
    old, young, others = (tmp_path / name for name in names)
    for path, age in ((old, 90_000), (young, 80_000), (others, 90_000)):
        leave(path)
        os.utime(path, (time.time() - age,) * 2, follow_symlinks=False)
    files.write_whole(tmp_path / "file.txt", "new")
    with files.folder_beside(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", "precious", young.name, others.name}
    assert list((tmp_path / "precious").iterdir())


def test_what_fails_in_a_folder_beside_is_called_what_it_would_have_been(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, files.folder_beside(tmp_path) as beside:
        (beside / "plots" / "a.png").write_text("")
    assert raised.value.filename == str(tmp_path / "plots" / "a.png")
    for error in (OSError("of no file"), FileNotFoundError(2, "gone", "/elsewhere"), OSError(9, "bad", 7)):
        expected = error.filename
        with pytest.raises(OSError) as raised, files.folder_beside(tmp_path):  # noqa: PT011
            raise error
        assert raised.value.filename == expected


def test_a_folder_beside_is_there_while_it_is_filled(tmp_path):
    with files.folder_beside(tmp_path) as beside, files.folder_beside(tmp_path) as another:
        assert beside != another and beside.parent == another.parent == tmp_path
        (beside / "file").write_text("done")
        (beside / "file").rename(tmp_path / "file")
        (another / "half").touch()
    with pytest.raises(ValueError, match="in the block"), files.folder_beside(tmp_path):
        raise ValueError("in the block")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------------------- links and others


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "file.txt").symlink_to("precious")
    files.write_whole(tmp_path / "file.txt", "new")
    assert not (tmp_path / "file.txt").is_symlink() and (tmp_path / "file.txt").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_name_beside_is_never_somebody_elses(tmp_path, monkeypatch):
    """Were it guessed, a link could be planted there."""
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / f"tmp-triplet-loss-{'0' * 16}").symlink_to("precious")
    with pytest.raises(FileExistsError):
        files.write_whole(tmp_path / "file.txt", "new")
    with pytest.raises(FileExistsError), files.folder_beside(tmp_path):
        pytest.fail("it is used")
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "file.txt").exists()


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_log_is_not_written_through_a_link(tmp_path, target):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "train.log").symlink_to(target)
    with pytest.raises(UserError, match=f"^{tmp_path}/train.log: a link, .*; delete it$"):
        files.open_to_append(tmp_path / "train.log")
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic link"), files.lock_experiment(tmp_path):
        pytest.fail("it is held")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_log_grows_at_its_end_and_waits_for_no_reader(tmp_path):
    for text in (b"one\n", b"two\n"):
        with os.fdopen(files.open_to_append(tmp_path / "log"), "ab") as log:
            log.write(text)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        files.open_to_append(tmp_path / "pipe")


@pytest.mark.parametrize("through_a_link", [False, True])
def test_what_has_no_end_or_is_never_written_is_not_read(tmp_path, through_a_link):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        if through_a_link:
            (tmp_path / f"link to {path.name}").symlink_to(path)
            path = tmp_path / f"link to {path.name}"
        with pytest.raises(OSError, match=f"No regular file, but a pipe or a device: '{path}'"):
            files.read_bytes(path)


def test_a_file_is_read_whole_or_its_first_bytes(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", tmp_path / "link"):
        assert files.read_bytes(path) == bytes(range(256)) * 1000
        assert files.read_bytes(path, 10) == bytes(range(10))
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(OSError, match=f"{reason}.*: '{path}'"):
            files.read_bytes(path)


def race(path, num_writes):
    """Two processes write, one after the other each; returns what a reader found meanwhile, and what failed."""
    code = (
        "import sys; from pathlib import Path; from model.common.files import write_whole\n"
        "for number in range(int(sys.argv[2])):\n"
        "    write_whole(Path(sys.argv[1]), (sys.argv[3] + f' {number}\\n') * 2000)"
    )
    path.write_text("a -1\n" * 2000)
    commands = [[sys.executable, "-c", code, str(path), str(num_writes), writer] for writer in "ab"]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands]
    found = set()
    while any(writer.poll() is None for writer in writers):
        lines = path.read_text().split("\n")
        assert len(lines) == 2001 and len(set(lines[:-1])) == 1
        found.add(lines[0])
    return found, [said for writer in writers if (said := writer.communicate()[1])]


def check_race(folder, num_writes):
    """None is lost, as the last write of one of them stays; nobody sees half a file, and nobody fails."""
    found, failed = race(folder / "file.txt", num_writes)
    assert not failed and len(found) > num_writes / 10 and {line[0] for line in found} == {"a", "b"}
    assert (folder / "file.txt").read_text() in [f"{writer} {num_writes - 1}\n" * 2000 for writer in "ab"]
    assert [path.name for path in folder.iterdir()] == ["file.txt"]


@pytest.mark.slow
def test_two_who_write_at_once_and_one_who_reads(tmp_path):
    check_race(tmp_path, 150)


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


# ------------------------------------------------------------------------------------------- a folder that goes


def delete(folder):
    shutil.rmtree(folder)


def replace(folder):
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    (folder / ".lock").touch()


def delete_the_lock(folder):
    (folder / ".lock").unlink()


def make_the_lock_anew(folder):
    """A file system likes to give a new file the number of the last one that was deleted."""
    (folder / ".lock").unlink()
    (folder / ".lock").touch()


@pytest.mark.parametrize("harm", [delete, replace, delete_the_lock, make_the_lock_anew])
def test_a_lock_knows_whether_it_is_still_there(tmp_path, harm):
    folder = tmp_path / "mine"
    folder.mkdir()
    with files.lock_experiment(folder) as place:
        (folder / "another file").touch()
        place.check()
        harm(folder)
        with pytest.raises(UserError, match=rf"^{folder}: deleted, moved or replaced while this command ran, .*anew$"):
            place.check()


@pytest.mark.parametrize("harm", [delete, replace, delete_the_lock])
@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory"), UserError("a: cannot be written")]
)
def test_what_fails_because_the_folder_is_gone_tells_so(tmp_path, harm, error):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(type(error), match=re.escape(str(error))), files.lock_experiment(folder):
        raise error
    with pytest.raises(UserError, match=f"^{folder}: deleted, moved or replaced"), files.lock_experiment(folder):
        harm(folder)
        raise error


def test_an_error_of_the_program_is_told_whatever_became_of_the_folder(tmp_path):
    with pytest.raises(ValueError, match="of the program"), files.lock_experiment(tmp_path):
        delete_the_lock(tmp_path)
        raise ValueError("of the program")


def test_a_folder_that_is_moved_and_put_back_is_the_same(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    place = files.Place(folder, folder)
    folder.rename(tmp_path / "away")
    with pytest.raises(UserError, match="moved"):
        place.check()
    (tmp_path / "away").rename(folder)
    place.check()
    place.close()


def test_a_lock_does_not_bring_back_a_folder_that_was_deleted(tmp_path):
    with pytest.raises(FileNotFoundError), files.lock_experiment(tmp_path / "gone"):
        pytest.fail("there is nothing to lock")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- many files at once


@pytest.mark.parametrize("broken", ["write", "fsync"])
def test_an_error_of_writing_names_the_file(tmp_path, monkeypatch, broken):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(descriptor, mode):
        os.close(descriptor)
        return Path("/dev/full").open(mode)

    if broken == "write":
        monkeypatch.setattr(os, "fdopen", open_full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        files.write_whole(tmp_path / "file.txt", "new")
    assert raised.value.filename == str(tmp_path / "file.txt")


def test_files_are_moved_together_the_last_ones_last(tmp_path, monkeypatch):
    (tmp_path / "b").write_text("old")
    moved, rename = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: moved.append(self.name) or rename(self, to))
    with files.folder_beside(tmp_path) as new:
        (new / "plots").mkdir()
        for name in ("a", "b", "plots/c"):
            (new / name).write_text(name)
        assert (tmp_path / "b").read_text() == "old"
        assert files.move_all(new, tmp_path, ["b", "a"]) == [tmp_path / name for name in ("a", "b", "plots/c")]
    assert moved == ["c", "b", "a"]
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "plots", "c"}
    assert (tmp_path / "b").read_text() == "b" and (tmp_path / "plots" / "c").read_text() == "plots/c"


def test_no_file_is_moved_before_all_are_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), files.folder_beside(tmp_path) as new:
        (new / "a").write_text("new")
        monkeypatch.setattr(os, "fsync", full)
        files.move_all(new, tmp_path)
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def filled(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_another_or_of_none(tmp_path):
    for names in (("a", "b"), ("b", "c")):
        with files.folder_beside(tmp_path) as beside:
            files.replace_folder(filled(beside / "new", *names), tmp_path / "there")
        assert names_in(tmp_path / "there") == list(names) and names_in(tmp_path) == ["there"]


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_other_one(tmp_path, monkeypatch):
    filled(tmp_path / "there", "old")
    rename = Path.rename

    def refuse(path, target):
        if path.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"), files.folder_beside(tmp_path) as beside:
        files.replace_folder(filled(beside / "new", "new"), tmp_path / "there")
    assert names_in(tmp_path / "there") == ["old"] and names_in(tmp_path) == ["there"]
