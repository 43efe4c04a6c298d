"""What the command lines share: options, the log, and one line instead of a traceback."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tqdm

from model.errors import Interrupted, UserError


def run(
    main: Callable[[argparse.Namespace], None],
    description: str,
    arguments: Sequence[str] | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Runs a command and ends the process: 0, 2 after an error of the user's, 128 + n after signal n.

    Args:
        main: Takes the options: `model_dir`, `data_dir` and what `add_options` adds.
        description: What --help says.
        arguments: The command line, `sys.argv` by default.
        add_options: Adds options of the command's own.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--model_dir", type=Path, default=Path("experiments/base_model"), help="folder with the params.json"
    )
    parser.add_argument("--data_dir", type=Path, help="folder with the data, data/<dataset> if not given")
    if add_options is not None:
        add_options(parser)
    options = parser.parse_args(arguments)
    try:
        main(options)
    except UserError as error:
        _end(str(error), 2)
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except Interrupted as error:
        _end(str(error), error.exit_code)
    except MemoryError as error:
        _end(f"{main.__module__}: out of memory: {error}; make images, network or batches smaller in params.json", 2)
    except KeyboardInterrupt:
        _end("Stopped.", 130)
    finally:
        _end_log()


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, which `Experiment.checkpoint` understands."""
    parser.add_argument(
        "--checkpoint",
        help="newest, best, or a folder; if not given, the one that the validation images chose, else the newest",
    )


def start_log(model_dir: Path) -> None:
    """Sends the log to the terminal and, with the time, to `model_dir/train.log`."""
    console = _Console()
    console.addFilter(lambda record: not getattr(record, "on_bar", False))
    file = _File(model_dir / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("model")
    log.setLevel(logging.INFO)
    log.handlers = [console, file]


def _end_log() -> None:
    log = logging.getLogger("model")
    for handler in log.handlers:
        with contextlib.suppress(OSError):
            handler.close()
    log.handlers = []


class _Console(logging.Handler):
    """Writes to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(record.getMessage(), file=sys.stderr)


class _File(logging.FileHandler):
    """Writes to a file as long as that can be written; a full disk does not stop a run here."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: the run itself will notice what matters."""


def _end(message: str, exit_code: int) -> None:
    log = logging.getLogger("model")
    if log.handlers:
        log.error("%s", message)
    else:
        print(message, file=sys.stderr)
    sys.exit(exit_code)
