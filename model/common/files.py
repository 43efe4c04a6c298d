"""Files that are there as a whole or not at all, also after a crash, and that one process writes at a time."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from model.common.errors import UserError

# What something is called as long as it is not ready, and nobody else's files are. A day later, whoever was making it
# is taken to be dead.
_BESIDE = re.compile(r"tmp-triplet-loss-[0-9a-f]{16}")
_SECONDS_TO_FINISH = 24 * 3600.0


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside, flushes it to the disk, and renames it onto the one that is there.

    Any number of processes may write the same file at once: each writes beside under a name of its own, the last one
    to finish stays, and whoever reads finds the whole content of one of them. A link is replaced, and never followed.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = _name_beside(path.parent)
    with _errors_name(path):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            flush(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    flush(path.parent)


# What a command says that may not train in a folder, as somebody else does.
ANOTHER_TRAINS = "another process is training here"


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Lets errors name what was to be written, and not what that is called until it is ready."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def folder_beside(parent: Path) -> Iterator[Path]:
    """Makes an empty folder in another one, to fill it and to `move_all` into place; deletes it after the block.

    The other one is made if it is not there. Nobody else knows the name of the new one, which says nothing of what it
    is for, so that no pattern finds in it what is not ready; errors name its files as they will be called.
    """
    parent.mkdir(parents=True, exist_ok=True)
    beside = _name_beside(parent)
    with _errors_name(parent):
        beside.mkdir()
    try:
        yield beside
    except OSError as error:
        with contextlib.suppress(TypeError, ValueError):  # of no file, or of another one
            error.filename = str(parent / Path(error.filename).relative_to(beside))
        raise
    finally:
        delete(beside)


def _name_beside(parent: Path) -> Path:
    """Returns a new name for what is not ready yet, and deletes what killed processes left under such names."""
    with os.scandir(parent) as entries:
        left = [Path(entry) for entry in entries if _BESIDE.fullmatch(entry.name) and _is_left(entry)]
    for path in left:
        delete(path)
    return parent / f"tmp-triplet-loss-{secrets.token_hex(8)}"


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


def read_bytes(path: Path, most: int = -1) -> bytes:
    """Reads a file.

    Args:
        path: The file.
        most: So many bytes of it at most; -1 reads all.

    Raises:
        OSError: It cannot be read, or is no regular file: a pipe would be waited for, a device may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a pipe's writer
    try:
        if stat.S_ISDIR(mode := os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "No regular file, but a pipe or a device", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


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


def move_all(source: Path, target: Path, last: Sequence[str] = ()) -> list[Path]:
    """Moves all files of a folder, and of those in it, into another one; none is touched there before all are on disk.

    Args:
        source: On the same disk as the other one.
        target: Where files of the same names are replaced.
        last: The names of those that are moved last, in this order.

    Returns:
        Where they are now, in the order of their names.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        flush(file)
        (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
    for file in sorted(files, key=lambda path: last.index(path.name) if path.name in last else -1):
        file.replace(target / file.relative_to(source))
    return [target / file.relative_to(source) for file in files]


def replace_folder(new: Path, folder: Path) -> None:
    """Moves a folder to where another one may be, once all of it is on disk.

    That one is never seen with files of both. It goes to where the new one was, and is deleted with what that is in.

    Args:
        new: In what `folder_beside` made.
        folder: Where it goes, on the same disk.
    """
    for path in (*new.rglob("*"), new):
        flush(path)
    before = new.with_name(f"{new.name}-before")
    if folder.is_dir():
        folder.rename(before)
    try:
        new.rename(folder)
    except OSError:
        if before.is_dir():
            before.rename(folder)
        raise
    flush(folder.parent)


class Held(UserError):
    """Another process holds a lock."""


class Place:
    """A file or folder as it is now, to ask later whether its path still leads to it.

    Args:
        path: What must be there.
        name: What to call it in a message.
    """

    def __init__(self, path: Path, name: Path) -> None:
        self._path, self._name = path, name
        # As long as it is open, the system gives its number to no other file.
        self._descriptor = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def check(self) -> None:
        """Makes sure that it is still there; to be asked before something is written.

        Raises:
            UserError: It was deleted, moved away or replaced.
        """
        try:
            is_same = os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            is_same = False
        if not is_same:
            raise UserError(
                f"{self._name}: deleted, moved or replaced while this command ran, which has stopped and writes "
                "nothing more; put the folder back to go on from its last checkpoint, or begin anew"
            )


def lock_experiment(model_dir: Path) -> contextlib.AbstractContextManager[Place]:
    """Takes the lock of an experiment, for use in a `with` statement: while its block runs, nobody else trains there.

    Raises:
        Held: Another process trains there.
    """
    return lock(model_dir / ".lock", f"{model_dir}: {ANOTHER_TRAINS}; wait for it or stop it")


@contextlib.contextmanager
def lock(path: Path, if_held: str) -> Iterator[Place]:
    """Holds a lock while the block runs.

    Args:
        path: A file that stays, in a folder that is there; who holds it is gone when its process is.
        if_held: What to tell when another process holds it.

    Yields:
        What was locked. Whoever deletes or replaces it lets another process in, which `Place.check` notices.

    Raises:
        Held: Another process holds it.
        UserError: Something could not be done in the block, and what was locked is not there any more.
    """
    if not path.parent.is_dir():  # which the lock would make
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    held = filelock.FileLock(path, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        raise Held(if_held) from None
    try:
        place = Place(path, path.parent)
        try:
            yield place
        except (OSError, UserError):
            place.check()  # if it is gone, this is the reason why a file could not be written
            raise
        finally:
            place.close()
    finally:
        held.release()
