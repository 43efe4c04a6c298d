"""What the command lines share: options, the log, and one line instead of a traceback."""

import argparse
import contextlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TextIO

import tqdm

from model.common import signals
from model.common.errors import Interrupted, PeerLost, UserError, explain, is_full, is_read_only
from model.common.files import open_to_append
from model.common.text import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT = "standard output"


def run(
    main: Callable[[argparse.Namespace], None],
    description: str,
    arguments: Sequence[str] | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    of_an_experiment: bool = True,
) -> None:
    """Runs a command and ends the process.

    The exit code is 0, 2 after an error of the user's, 3 where another process of the run is lost, 128 + n after signal
    n.

    Args:
        main: Takes the options.
        description: What --help says.
        arguments: The command line, `sys.argv` by default.
        add_options: Adds options of the command's own.
        of_an_experiment: Whether there are the options `model_dir`, `data_dir` and `where_images_lie`.
    """
    parser = _Parser(description=description, formatter_class=_Help)
    if of_an_experiment:
        parser.add_argument(
            "--model_dir", type=Path, default=Path("experiments/base_model"), help="folder with the params.json"
        )
        add_data_options(parser)
    if add_options is not None:
        add_options(parser)
    _open_streams()
    try:
        signals.interrupt_again()
        try:
            main(parser.parse_args(arguments))
        finally:
            sys.stdout.flush()
    except UserError as error:
        _end(str(error), 2)
    except PeerLost as error:
        _end(str(error), PeerLost.EXIT_CODE)
    except OSError as error:
        if error.filename == _STDOUT:
            _give_up_stdout()
            if isinstance(error, BrokenPipeError):  # nobody reads any more: the end that other programs have, too
                sys.exit(128 + signal.SIGPIPE)
        _end(explain(error), 2)
    except Interrupted as error:
        _end(str(error), error.exit_code)
    except MemoryError as error:
        _end(f"{parser.prog}: out of memory: {error}; make images, network or batches smaller in params.json", 2)
    except KeyboardInterrupt:
        _end("Stopped.", 130)
    finally:
        _end_log()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default of an option to its help, where it has one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends the process as it always does; what it could not read, such as a name of a file, may be anybody's."""
        super().error(printable(message))


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Returns what reads an option that counts something, from `low` to `high`; None sets no limit.

    Example:
        >>> whole_number(1, 100)("7")
        7
    """
    limits = f"of at least {low}" if high is None else f"from {low:,} to {high:,}"

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"expected a whole number {limits}, received {text}")
        return number

    return read


def fraction_or_off(text: str) -> float | Literal["off"]:
    """Reads an option that is a number between 0 and 1, neither of them included, or off.

    Example:
        >>> fraction_or_off("0.01"), fraction_or_off("off")
        (0.01, 'off')
    """
    if text == "off":
        return "off"
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected off or a number between 0 and 1, such as 0.01, received {text}")
    return number


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir and --images."""
    parser.add_argument("--data_dir", type=Path, help="folder with the data, data/<dataset> if not given")
    parser.add_argument(
        "--images",
        dest="where_images_lie",
        choices=("auto", "memory", "stored"),
        default="auto",
        help="where the images lie: in memory; or decoded once and stored in a file beside the data, for more of them "
        "than the memory holds; auto stores them if they would take more than a quarter of the free memory",
    )


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, which `Runner.trained` understands."""
    parser.add_argument(
        "--checkpoint",
        help="newest, best, or a folder; if not given, the one that the validation images chose, else the newest",
    )


def start_log(path: Path | None) -> None:
    """Sends the log to the terminal and, with the time, to a file if there is to be one; not to where it went before.

    Where no file can be written, because nobody may or because there is no room, the terminal has to do.
    """
    _end_log()
    console = _Console()
    console.addFilter(lambda record: not getattr(record, "on_bar", False))
    console.addFilter(_on_one_line)
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())  # or a library gives it one, and all is told twice
    log = logging.getLogger("model")
    log.setLevel(logging.INFO)
    log.handlers = [console]
    if path is None:
        return
    try:
        file = _File(path, encoding="utf-8")
    except OSError as error:
        if not (is_read_only(error) or is_full(error)):
            raise
        log.warning("%s: cannot be written (%s); the log is only here.", path, error.strerror)
        return
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    file.addFilter(_on_one_line)
    log.handlers.append(file)


def _end_log() -> None:
    log = logging.getLogger("model")
    for handler in log.handlers:
        with contextlib.suppress(OSError):
            handler.close()
    log.handlers = []


def _on_one_line(record: logging.LogRecord) -> bool:
    """Makes what a record says one line, so that no name in it can move the cursor or look like a line of its own."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


class _Stdout(io.FileIO):
    """Says of an error that it was its own."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = _STDOUT
            raise


class _Stderr(io.FileIO):
    """Drops what cannot be written: a terminal or a reader that is gone, or a full disk, stops nobody here."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes as far as that is possible."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def _open_streams() -> None:
    """Makes sure that whatever is printed can be, and that no file takes the place of a stream that was closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # it has the lowest number that is free
        pass
    os.close(descriptor)
    # There is no stream where it was closed, and another one where a test reads what is printed.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(1, "w", closefd=False)),
            sys.stdout.encoding,
            line_buffering=sys.stdout.line_buffering or sys.stdout.write_through,
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        raw = io.BufferedWriter(_Stderr(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def _give_up_stdout() -> None:
    """Forgets what could not be printed, which Python would try to write again at its end."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


class _Console(logging.Handler):
    """Writes to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(record.getMessage(), file=sys.stderr)


class _File(logging.FileHandler):
    """Writes to a file as long as that can be written; a full disk does not stop a run here."""

    def _open(self) -> TextIO:  # type: ignore[override]
        return os.fdopen(open_to_append(Path(self.baseFilename)), "a", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: the run itself will notice what matters."""


def _end(message: str, exit_code: int) -> None:
    log = logging.getLogger("model")
    if log.handlers:
        log.error("%s", message)
    else:
        print(printable(message), file=sys.stderr)
    sys.exit(exit_code)
