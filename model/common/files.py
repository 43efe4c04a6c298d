"""Files that are there as a whole or not at all, also after a crash, and that one process writes at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from model.common.errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside, flushes it to the disk, and renames it onto the one that is there."""
    beside = path.with_name(f"tmp-{path.name}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush(path.parent)


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
