"""Signals as a request to stop at the end of the step, and Ctrl-C while nothing but imports has been done."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# What asks to stop: Ctrl-C, `kill`, and a terminal that is gone, such as that of a closed ssh.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """The signal that asked to stop; `signal_number` is None until one came."""

    signal_number: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collects SIGINT, SIGTERM and SIGHUP while the block runs; a second one acts as if nobody collected.

    A second SIGHUP does not: a terminal that goes is told by the kernel and by the shell. A signal that is ignored, as
    `nohup` and background jobs ignore some, stays ignored. Outside the main thread, where Python handles no signals,
    nothing is collected.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def collect(number: int, frame: FrameType | None) -> None:
        request.signal_number = request.signal_number or number
        for insisting in before.keys() - {signal.SIGHUP}:
            signal.signal(insisting, before[insisting])

    for number in before:
        signal.signal(number, collect)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(script: str) -> None:
    """Lets Ctrl-C end the process in one line from now on, until `interrupt_again`: nothing is there to be saved yet.

    KeyboardInterrupt would be a traceback, and may get lost where libraries are imported.

    Args:
        script: The `__name__` of a script, which calls this before it imports anything slow. Where it is imported
            itself, nothing happens.
    """
    if script == "__main__":
        _replace_handler(signal.default_int_handler, _end)


def interrupt_again() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again."""
    _replace_handler(_end, signal.default_int_handler)


@contextlib.contextmanager
def ending_at_once(stderr: int = 2) -> Iterator[None]:
    """Lets Ctrl-C end the process in one line while the block imports something slow.

    Args:
        stderr: The file descriptor that the line goes to.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _end(number, frame, stderr)

    is_ours = _replace_handler(signal.default_int_handler, end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _replace_handler(before: object, after: "signal._HANDLER") -> bool:
    """Replaces the handler of Ctrl-C, if it is this one, in the thread that may do so; returns whether it did."""
    is_ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is before
    if is_ours:
        signal.signal(signal.SIGINT, after)
    return is_ours


def _end(number: int, frame: FrameType | None, stderr: int = 2) -> None:
    with contextlib.suppress(OSError):
        os.write(stderr, b"Stopped.\n")
    os._exit(128 + number)
