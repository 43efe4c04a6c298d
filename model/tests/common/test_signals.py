"""A signal asks to stop; a second one insists."""

import ast
import os
import signal
import subprocess
import sys
import threading

import pytest

from model.common import signals
from model.common.commands import ROOT
from model.common.signals import stop_requests

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
INSISTING = SIGNALS[:2]


@pytest.fixture(autouse=True)
def received():
    """What reaches the handlers that were there before; those of the test run are put back afterwards."""
    numbers = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(received, number):
    with stop_requests() as request:
        assert request.signal_number is None
        os.kill(os.getpid(), number)
        assert request.signal_number == number
    assert received == []


@pytest.mark.parametrize("second", INSISTING)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_does_what_it_did_before(received, first, second):
    with stop_requests() as request:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        assert request.signal_number == first
    assert received == [second]


@pytest.mark.parametrize("first", SIGNALS)
def test_a_terminal_that_goes_may_say_so_twice(received, first):
    """The kernel and the shell both do."""
    with stop_requests() as request:
        for number in (first, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert request.signal_number == first
    assert received == []
    os.kill(os.getpid(), signal.SIGHUP)
    assert received == [signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_ignored_stays_ignored(number):
    """As by nohup, and in the background of a script."""
    signal.signal(number, signal.SIG_IGN)
    with stop_requests() as request:
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert request.signal_number is None and signal.getsignal(number) is signal.SIG_IGN


def test_afterwards_all_is_as_it_was(received):
    with pytest.raises(ValueError, match="in the block"), stop_requests():
        raise ValueError("in the block")
    with stop_requests():
        pass
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    assert received == SIGNALS


def test_another_signal_is_no_request(received):
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert request.signal_number is None and received == [signal.SIGUSR1]


def test_outside_of_the_main_thread_nothing_is_collected(received):
    seen = []

    def work():
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(request.signal_number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None] and received == [signal.SIGTERM]


def test_a_process_that_does_not_listen_ends_with_the_second_ctrl_c():
    code = (
        "import time; from model.common.signals import stop_requests\n"
        "with stop_requests() as request:\n"
        "    print('inside', flush=True)\n"
        "    while request.signal_number is None: time.sleep(0.01)\n"
        "    print('asked', request.signal_number, flush=True)\n"
        "    time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked 2\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and said.splitlines()[-1] == "KeyboardInterrupt"


# ------------------------------------------------------------------------------------------- Ctrl-C during imports


def started(code):
    """A process that prints a line before it does what takes long."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "inside\n"
    return process


@pytest.mark.parametrize("begin", ["signals.end_at_once(__name__)", "stack.enter_context(signals.ending_at_once())"])
def test_ctrl_c_while_a_script_imports_is_one_line(begin):
    """Also where Python would print the exception and go on, as in a callback of an import."""
    code = (
        "import contextlib, time; from model.common import signals\n"
        f"stack = contextlib.ExitStack(); {begin}\n"
        "class Lost:\n    def __del__(self):\n        print('inside', flush=True); time.sleep(100)\n"
        "lost = Lost(); del lost"
    )
    with started(code) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "Stopped.\n")
    assert process.returncode == 130


def test_ctrl_c_while_tensorflow_is_imported_is_one_line(tmp_path):
    """Where what libraries print is kept back."""
    (tmp_path / "tensorflow.py").write_text(
        "import os, time\nos.write(2, b'greetings')\nprint('inside', flush=True)\ntime.sleep(100)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from model.common import cli, devices\n"
        "cli.run(lambda _: devices.start_tensorflow(), '', [])"
    )
    with started(code) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "Stopped.\n")
    assert process.returncode == 130


def test_after_the_imports_ctrl_c_is_an_exception_again():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.end_at_once("__main__")
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    signals.interrupt_again()
    with signals.ending_at_once():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_imports_do_not_touch_what_somebody_has_chosen(handler):
    signal.signal(signal.SIGINT, handler)
    signals.end_at_once("__main__")
    with signals.ending_at_once():
        assert signal.getsignal(signal.SIGINT) is handler
    signals.interrupt_again()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_a_script_that_is_imported_leaves_ctrl_c_alone_and_one_that_runs_begins_with_it(script):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.end_at_once(script.stem)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    first, second = ast.parse(script.read_text()).body[1:3]
    assert ast.unparse(first) == "from model.common import signals"
    assert ast.unparse(second) == "signals.end_at_once(__name__)"
