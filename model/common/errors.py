"""The three exceptions that a command line answers with one line instead of a traceback."""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from model.common.text import printable

# How the system says that a disk is full, or that this user may take no more of it, and what to do then.
_FULL = (errno.ENOSPC, errno.EDQUOT)
MAKE_ROOM = "make room on the disk, and start the same command again"


class UserError(Exception):
    """Something the user can mend; the command ends with exit code 2.

    The message is one line that names the file, the key, what came, what was expected and what to do.
    """


class PeerLost(Exception):
    """Another process of this run has failed, is gone, or never came; the command ends with exit code 3.

    The message is one line that names it.
    """

    EXIT_CODE = 3


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what shells expect of a process that a signal ended


def one_line(error: BaseException) -> str:
    """Returns what a library's error says, on one line and without the names of TensorFlow's operations.

    Example:
        >>> one_line(ValueError("{{node Conv2D}} expected 4 dimensions [Op:Conv2D]"))
        'expected 4 dimensions'
    """
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]( name:)?", "", str(error))
    return printable(" ".join(text.split()), 300)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Returns the first names, and how many more there are.

    Example:
        >>> listed(["ant", "bee", "cow"], most=2)
        'ant, bee and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def is_full(error: OSError) -> bool:
    """Returns whether there was no room on the disk, or no more for this user."""
    return error.errno in _FULL


def says_full(text: str) -> bool:
    """Returns whether a message, of whatever library or process, tells the same."""
    return any(os.strerror(number) in text for number in _FULL)


def is_read_only(error: OSError) -> bool:
    """Returns whether something may not be written: by this user, or by anybody."""
    return error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: OSError, where: str | Path = "") -> str:
    """Returns in one line which file could not be read or written, why, and what to do.

    Args:
        error: What the system said.
        where: A file or folder, for an error that names none.

    Example:
        >>> explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "params.json"))
        'params.json: No such file or directory'
    """
    name = error.filename or where
    reason = f"{name}: {error.strerror}" if name and error.strerror else str(error)
    return reason + (f"; {MAKE_ROOM}" if is_full(error) else "")


@contextlib.contextmanager
def one_line_errors(model_dir: Path) -> Iterator[None]:
    """Turns what TensorFlow says of disks and memories into one line; what it says of a program is not touched."""
    import tensorflow as tf  # which is there where such errors come from

    try:
        yield
    except OSError as error:
        raise UserError(explain(error, model_dir)) from None
    except tf.errors.OpError as error:
        for reason in map(os.strerror, _FULL):
            if reason in str(error):
                file, names_it, _ = one_line(error).partition(f"; {reason}")
                raise UserError(f"{file if names_it else model_dir}: {reason}; {MAKE_ROOM}") from None
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise UserError(
                f"{model_dir}: no space left in the memory of the device: {one_line(error)}; lower batch_size, and the "
                "same command goes on from the last checkpoint"
            ) from None
        if isinstance(
            error, tf.errors.FailedPreconditionError | tf.errors.PermissionDeniedError | tf.errors.NotFoundError
        ):
            raise UserError(f"{model_dir}: a file cannot be read or written: {one_line(error)}") from None
        raise
