"""The two exceptions that a command line answers with one line instead of a traceback."""

import re


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
    return " ".join(text.split())[:300]
