"""A signal asks to stop; a second one insists."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from model.common.commands import ROOT
from model.common.signals import stop_requests

SIGNALS = [signal.SIGINT, signal.SIGTERM]


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


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_does_what_it_did_before(received, first, second):
    with stop_requests() as request:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        assert request.signal_number == first
    assert received == [second]


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
