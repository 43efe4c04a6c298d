"""The two exceptions that a command line answers with one line instead of a traceback."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from model.common.text import printable


class UserError(Exception):
    """Something the user can mend; the command ends with exit code 2.

    The message is one line that names the file, the key, what came, what was expected and what to do.
    """


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what shells expect of a process that a signal ended


def one_line(error: Exception) -> str:
    """Returns what a library's error says, on one line and without the names of TensorFlow's operations."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]( name:)?", "", str(error))
    return printable(" ".join(text.split()), 300)


def listed(names: Iterable[str], most: int = 20) -> str:
    """Returns the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def one_line_errors(model_dir: Path) -> Iterator[None]:
    """Turns what TensorFlow says of disks and memories into one line; what it says of a program is not touched."""
    import tensorflow as tf  # which is there where such errors come from

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            f"{model_dir}: no space left on the disk or in the memory of the device: {one_line(error)}; make room, or "
            "lower batch_size, and the same command goes on from the last checkpoint"
        ) from None
    except (tf.errors.FailedPreconditionError, tf.errors.PermissionDeniedError, tf.errors.NotFoundError) as error:
        raise UserError(f"{model_dir}: a file cannot be read or written: {one_line(error)}") from None
