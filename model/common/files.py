"""Files that are there as a whole or not at all, also after a crash, and that one process writes at a time."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from model.common.errors import UserError

# What something is called as long as it is not ready. A day later, whoever was making it is taken to be dead.
_BESIDE = re.compile(r"tmp-[0-9a-f]{16}")
_SECONDS_TO_FINISH = 24 * 3600.0


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside, flushes it to the disk, and renames it onto the one that is there.

    Any number of processes may write the same file at once: each writes beside under a name of its own, the last one
    to finish stays, and whoever reads finds the whole content of one of them. A link is replaced, and never followed.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = _name_beside(path.parent)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush(path.parent)


@contextlib.contextmanager
def folder_beside(parent: Path) -> Iterator[Path]:
    """Makes an empty folder in another one, to fill it and to move its content into place; deletes it after the block.

    Nobody else knows its name, which says nothing of what it is for, so that no pattern finds in it what is not ready.
    """
    beside = _name_beside(parent)
    beside.mkdir()
    try:
        yield beside
    finally:
        delete(beside)


def _name_beside(parent: Path) -> Path:
    """Returns a new name for what is not ready yet, and deletes what killed processes left under such names."""
    with os.scandir(parent) as entries:
        left = [Path(entry) for entry in entries if _BESIDE.fullmatch(entry.name) and _is_left(entry)]
    for path in left:
        delete(path)
    return parent / f"tmp-{secrets.token_hex(8)}"


def _is_left(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _SECONDS_TO_FINISH
    except FileNotFoundError:  # its owner has just finished
        return False


def delete(path: Path) -> None:
    """Deletes a file, a link (not what it leads to), or a folder and all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def open_to_append(path: Path) -> int:
    """Opens a file to write at its end; it is made if it is not there.

    Returns:
        A file descriptor.

    Raises:
        UserError: It is a link, which may lead anywhere.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # never waits for a pipe's reader
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a link, through which nothing is written; delete it") from None
        raise


def is_name(text: str) -> bool:
    """Returns whether a text that was read from a file can be the name of a file or folder, and leads nowhere else."""
    return text.isprintable() and "/" not in text and os.sep not in text and text not in ("", ".", "..")


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_experiment(model_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Takes the lock of an experiment, for use in a `with` statement: while its block runs, nobody else trains there.

    Raises:
        UserError: Somebody else holds it.
    """
    return lock(model_dir / ".lock", f"{model_dir}: another process is training here; wait for it or stop it")


@contextlib.contextmanager
def lock(path: Path, if_held: str) -> Iterator[None]:
    """Holds a lock while the block runs.

    Args:
        path: A file that stays; who holds it is gone when its process is.
        if_held: What to tell when another process holds it.

    Raises:
        UserError: Another process holds it.
    """
    held = filelock.FileLock(path, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        raise UserError(if_held) from None
    try:
        yield
    finally:
        held.release()
