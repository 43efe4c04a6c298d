"""Processes that are threads here: each has its own end of each connection."""

import contextlib
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.common import joining, links, peers
from model.common.cluster import Cluster
from model.common.commands import ROOT
from model.common.errors import Interrupted, PeerLost, UserError
from model.common.joining import join
from model.tests.machines import LONG, connected, free_addresses, leave, line_of, together


def hello(**changes):
    content = {"index": 1, "addresses": ["a:1", "b:1"], "seconds_left": LONG, "nonce": ""}
    return json.dumps({**content, **changes}).encode()


# ------------------------------------------------------------------------------------------------------------- join


def test_alone():
    with join(None, 0.0) as alone:
        assert alone.is_chief and alone.number == 1
        alone.compare({"seed": "1"}, "")
        assert alone.share(b"content") == b"content"
        assert alone.stops_after(1) is None
        alone.ask_to_stop(signal.SIGTERM)
        assert alone.stops_after(2) == signal.SIGTERM
        alone.wait_for_loss()


def test_the_port_is_free_for_others_once_all_are_there(connect):
    """TensorFlow's server listens there next, while the connections stay."""
    chief, worker = connect(2)
    host, port = chief.cluster.addresses[0].split(":")
    with socket.create_server((host, int(port))):
        assert together(lambda: chief.share(b"x"), lambda: worker.share(b"")) == [b"x", b"x"]


def test_whoever_comes_first_waits_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(joining, "_SECONDS_OF_SILENCE", 0.2)
    addresses = free_addresses(2)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(join, Cluster(addresses, 1), LONG)
        time.sleep(1.0)
        chief = join(Cluster(addresses, 0), LONG)
        assert worker.result(LONG).number == 2
        leave(chief, worker.result())
    assert caplog.messages.count(f"Waiting for process 1 of 2 ({addresses[0]}), the chief.") == 1


def test_a_process_that_never_comes_is_named_everywhere():
    addresses = free_addresses(3)
    began = time.monotonic()
    # The chief would wait longer, but the least patient decides.
    chief, worker = together(lambda: join(Cluster(addresses, 0), LONG), lambda: join(Cluster(addresses, 1), 1.0))
    for error in (chief, worker):
        assert isinstance(error, PeerLost)
        assert str(error).startswith(f"process 3 of 3 ({addresses[2]}) has not come within ")
        assert "--join_timeout" in str(error)
    assert time.monotonic() - began < 10


def test_a_chief_that_never_comes_is_named():
    addresses = free_addresses(2)
    with pytest.raises(PeerLost, match=r"process 1 of 2 .*, the chief has not come within 1 s \(Conn"):
        join(Cluster(addresses, 1), 1.0)
    with pytest.raises(PeerLost, match=r"\(nowhere\.invalid:1\), the chief has not come within 1 s \(.*[Nn]ame"):
        join(Cluster(("nowhere.invalid:1", addresses[1]), 1), 1.0)


def come_by_hand(addresses):
    """What process 2 does first: returns its connection to the chief, who knows it then."""
    link = links.Link(socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1]))), "")
    link.greet()
    link.send(links.HELLO, hello(addresses=addresses))
    return link


def test_a_process_that_came_and_went_may_come_again():
    addresses = free_addresses(3)
    with ThreadPoolExecutor(3) as pool:
        chief = pool.submit(join, Cluster(addresses, 0), LONG)
        time.sleep(0.3)
        come_by_hand(addresses).close()
        time.sleep(0.3)
        others = [pool.submit(join, Cluster(addresses, index), LONG) for index in (1, 2)]
        leave(*(one.result(LONG) for one in [chief, *others]))


def test_a_process_may_come_again_before_the_chief_has_looked_around():
    """Its first connection ended while the chief waited for the next arrival."""
    addresses = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    gathering = joining._Gathering(Cluster(addresses, 0), LONG)
    gathering._links[1] = types.SimpleNamespace(lost="ended", close=lambda: None)
    again = types.SimpleNamespace(lost=None, start_reading=lambda: None, start_beats=lambda: None)
    said = types.SimpleNamespace(index=1, nonce="", name="process 2 of 3", addresses=addresses, seconds_left=LONG)
    gathering._arrivals.put((again, said))
    gathering._wait_for([2])
    assert gathering._links == {1: again}


def test_an_error_of_the_network_does_not_close_the_door(monkeypatch):
    """Linux tells the listener what went wrong with those who were about to come."""
    accept, errors = socket.socket.accept, [OSError(113, "No route to host"), OSError(24, "Too many open files")]

    def accept_later(listener):
        if errors:
            raise errors.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    addresses = free_addresses(2)
    leave(*together(*(lambda index=index: join(Cluster(addresses, index), LONG) for index in (0, 1))))
    assert not errors


def test_another_list_of_processes():
    addresses = free_addresses(2)
    chief, worker = Cluster(addresses, 0), Cluster((*addresses, "127.0.0.1:9"), 1)
    for error in together(lambda: join(chief, LONG), lambda: join(worker, LONG)):
        assert isinstance(error, UserError)
        assert str(error) == (
            "the processes are {0}, {1} for the chief, and {0}, {1}, 127.0.0.1:9 for process 2 of 3 ({1}); give all of "
            "them the same list"
        ).format(*addresses)


def test_two_of_one_number():
    addresses = free_addresses(3)
    with ThreadPoolExecutor(1) as pool:
        chief = pool.submit(join, Cluster(addresses, 0), LONG)
        time.sleep(0.3)
        links = [come_by_hand(addresses) for _ in range(2)]
        said = [link.receive().content.decode() for link in links]
        for link in links:
            link.close()
        assert isinstance(chief.exception(LONG), UserError)
    assert set(said) == {str(chief.exception())}
    assert said[0].startswith(f"two processes say that they are process 2 of 3 ({addresses[1]})")


def test_two_chiefs_find_each_other(monkeypatch):
    """One of them has the address of the other, as with the same task.index on two machines."""
    addresses = free_addresses(2)
    elsewhere = free_addresses(1)[0]
    listen = joining._listen

    def listen_elsewhere(cluster):
        """The second chief is on another machine, where the port is free."""
        if threading.current_thread().name == "second":
            return listen(Cluster((elsewhere,), 0))
        return listen(cluster)

    monkeypatch.setattr(joining, "_listen", listen_elsewhere)
    errors = {}

    def be_chief():
        try:
            join(Cluster(addresses, 0), LONG)
        except UserError as error:
            errors[threading.current_thread().name] = str(error)

    threads = [threading.Thread(target=be_chief, name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert errors.keys() == {"first", "second"}
    assert set(errors.values()) == {
        f"two processes say that they are process 1 of 2 ({addresses[0]}), the chief; give each a number of its own "
        "('task.index')"
    }


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken(index):
    addresses = free_addresses(2)
    with (
        socket.create_server(("", int(addresses[index].split(":")[1]))),
        pytest.raises(
            UserError, match=rf"process {index + 1} of 2 .*: port \d+ of this machine cannot be had: Address al"
        ),
    ):
        join(Cluster(addresses, index), LONG)


@pytest.mark.parametrize(
    "said", [b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 4, b"HTTP/1.1 400 Bad Request\r\n\r\n " * 2]
)
def test_something_else_at_the_address_of_the_chief(said):
    """Such as TensorFlow's server, whose run goes on without this process."""
    addresses = free_addresses(2)

    def answer():
        with socket.create_server(("127.0.0.1", int(addresses[0].split(":")[1]))) as listener:
            connection, _ = listener.accept()
            connection.sendall(said)
            return connection

    error, connection = together(lambda: join(Cluster(addresses, 1), LONG), answer)
    connection.close()
    assert isinstance(error, UserError)
    assert "what listens there is no process that waits for others" in str(error)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
        links.GREETING,
        links.GREETING + b"\xff" * 100,
        links.GREETING + links.HEADER.pack(links.HELLO, 2**63) + b"x",
        *(
            links.GREETING + links.HEADER.pack(kind, len(content)) + content
            for kind, content in [
                (links.HELLO, b"[" * 10_000),
                (links.HELLO, b"\xff"),
                (links.HELLO, b"{}"),
                (links.HELLO, hello(index=2)),
                (links.HELLO, hello(index=-1)),
                (links.HELLO, hello(index=True)),
                (links.HELLO, hello(seconds_left="soon")),
                (links.HELLO, hello(addresses=[1, 2])),
                (links.HELLO, hello(more=1)),
                (links.BYE, hello()),
                (links.BEAT, b"often"),
            ]
        ),
    ],
)  # fmt: skip
def test_strangers_at_the_door_of_the_chief(said):
    """Port scanners and health probes: nothing happens to those who wait."""
    addresses = free_addresses(2)
    with ThreadPoolExecutor(1) as pool:
        chief = pool.submit(join, Cluster(addresses, 0), LONG)
        stranger = None
        while stranger is None:
            with contextlib.suppress(ConnectionRefusedError):
                stranger = socket.create_connection(("127.0.0.1", int(addresses[0].split(":")[1])))
        with stranger:
            stranger.sendall(said)
            worker = join(Cluster(addresses, 1), LONG)
        assert together(lambda: chief.result().share(b"x"), lambda: worker.share(b"")) == [b"x", b"x"]
        leave(chief.result(), worker)


# ------------------------------------------------------------------------------------------------ compare and share


def test_share(connect):
    large = random.Random(0).randbytes(5_000_000)
    processes = connect(3)
    assert together(*(lambda p=p: p.share(large if p.is_chief else b"") for p in processes)) == [large] * 3


def test_compare(connect):
    chief, first, second = connect(3)
    same, other = {"'seed'": "1", "'margin'": "0.5"}, {"'seed'": "1", "'margin'": "0.25"}
    assert together(*(lambda p=p: p.compare(same, "no matter") for p in (chief, first, second))) == [None] * 3
    errors = together(
        lambda: chief.compare(same, "copy it"),
        lambda: first.compare(same, "copy it"),
        lambda: second.compare(other, "copy it"),
    )
    expected = f"'margin' is 0.25 at process 3 of 3 ({second.cluster.addresses[2]}), and 0.5 at the chief; copy it"
    for error in errors:
        assert isinstance(error, UserError) and str(error) == expected


def test_compare_what_one_does_not_have(connect):
    chief, worker = connect(2)
    errors = together(lambda: chief.compare({}, "copy it"), lambda: worker.compare({"GPUs": "2"}, "copy it"))
    assert {str(error).partition(" at ")[0] for error in errors} == {"GPUs is 2"}
    assert all(str(error).endswith("and missing at the chief; copy it") for error in errors)


# ---------------------------------------------------------------------------------------------------- stop together


def make_steps(process, asks_at, number=200):
    """Makes steps, of which none begins before all processes have ended the one before; returns the last one."""
    chance = random.Random(f"{process.cluster.index} {asks_at}")
    for step in range(1, number + 1):
        time.sleep(chance.random() / 5000)
        with contextlib.suppress(threading.BrokenBarrierError):
            process.barrier.wait(LONG)
        if step in asks_at.get(process.cluster.index, ()):
            process.ask_to_stop(signal.SIGTERM if process.cluster.index else signal.SIGINT)
        signal_number = process.stops_after(step)
        if signal_number is not None:
            return step, signal_number
    return step, None


@pytest.mark.parametrize(
    "asks_at",
    [{0: [30]}, {1: [30]}, {2: [1]}, {0: [1]}, {0: [30], 1: [30], 2: [30]}, {0: [40], 1: [35, 36, 37], 2: [44]}],
)
def test_all_stop_after_the_same_step(connect, asks_at):
    processes = connect(3)
    barrier = threading.Barrier(3)
    for process in processes:
        process.barrier = barrier
    ends = together(*(lambda p=p: make_steps(p, asks_at) for p in processes))
    assert len(set(ends)) == 1
    ((step, number),) = set(ends)
    first = min(min(steps) for steps in asks_at.values())
    assert first <= step < first + 100
    assert number in (signal.SIGINT, signal.SIGTERM)


def test_nobody_asks(connect):
    processes = connect(2)
    barrier = threading.Barrier(2)
    for process in processes:
        process.barrier = barrier
    assert together(*(lambda p=p: make_steps(p, {}) for p in processes)) == [(200, None)] * 2


# ------------------------------------------------------------------------------------------------------ who is lost


def test_all_end_together(connect):
    def finish(process, error=None):
        with contextlib.suppress(Interrupted), process:
            if process.is_chief:
                time.sleep(0.3)  # the others wait
                assert all(thread.is_alive() for thread in threads[1:])
            if error:
                raise error

    for error in (None, Interrupted("Stopped.", 15)):
        processes = connect(3)
        threads = [threading.Thread(target=finish, args=(process, error)) for process in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        time.sleep(0.1)
        assert all(process.lines.empty() for process in processes)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("disk/x: No space left on device"), "disk/x: No space left on device"),
        (KeyboardInterrupt(), "Ctrl-C"),
        (ValueError("two\nlines"), "ValueError: two lines"),
    ],
)
def test_an_error_ends_the_others_with_its_line(connect, index, error, said):
    processes = connect(3)
    with pytest.raises(type(error)), processes[index]:
        raise error
    name = processes[index].cluster.name(index)
    for other in range(3):
        if other != index:
            assert line_of(processes[other]) == f"{name} has failed: {said}"
    time.sleep(0.1)
    assert processes[index].lines.empty()


def test_an_error_that_comes_of_a_loss_names_the_lost(connect, monkeypatch):
    """TensorFlow's error, whatever that says, may come first."""
    monkeypatch.setattr(peers, "_SECONDS_TO_NOTICE", LONG)
    monkeypatch.setattr(peers, "_SECONDS_TO_SAY_IT", 0.1)
    chief, worker = connect(2)
    threading.Timer(0.3, leave, [worker]).start()
    with pytest.raises(UserError), chief:
        raise UserError("a file cannot be read")
    assert line_of(chief) == f"{worker.cluster.name(1)} has ended without a word, as a killed process does"


def test_no_ipv6(monkeypatch):
    """As in many containers."""
    create_server = socket.create_server

    def without(address, *, family=socket.AF_INET, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return create_server(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", without)
    with connected(2) as (chief, worker):
        assert together(lambda: chief.share(b"x"), lambda: worker.share(b"")) == [b"x", b"x"]


@pytest.mark.parametrize("index", [0, 2])
def test_a_connection_that_closes_ends_the_others(connect, index):
    processes = connect(3)
    leave(processes[index])  # as the system does it when the process is killed, whose threads say nothing more
    said = f"{processes[index].cluster.name(index)} has ended without a word, as a killed process does"
    assert [line_of(other) for other in processes if other is not processes[index]] == [said] * 2


def test_silence_ends_the_others(connect, monkeypatch):
    monkeypatch.setattr(links, "SECONDS_BETWEEN_BEATS", 0.02)
    chief, worker, other = connect(3)
    with worker._links[0]._lock:  # its beats wait for it, as in a process that is frozen
        lines = {line_of(chief), line_of(other)}
    assert len(lines) == 1 and lines.pop().startswith(f"{worker.cluster.name(1)} has not been heard of for ")


def test_a_process_may_say_that_it_will_be_silent(connect, monkeypatch):
    monkeypatch.setattr(links, "SECONDS_BETWEEN_BEATS", 0.02)
    chief, worker = connect(2)
    with worker.busy():  # for a minute
        time.sleep(0.1)
        with worker._links[0]._lock:
            time.sleep(1.0)
    assert chief.lines.empty()
    with worker._links[0]._lock:
        assert "has not been heard of" in line_of(chief)


def test_the_process_ends_with_one_line_and_its_own_code(tmp_path):
    """In a real process, whose main thread hangs where nothing interrupts it."""
    addresses = free_addresses(2)
    script = tmp_path / "hang.py"
    script.write_text(
        "import sys, threading\n"
        "from model.common.cluster import Cluster\n"
        "from model.common.joining import join\n"
        f"with join(Cluster({addresses}, 1), {LONG}) as peers:\n"
        "    print('joined', flush=True)\n"
        "    threading.Event().wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=environment)
    chief = join(Cluster(addresses, 0), LONG)
    assert process.stdout.readline() == "joined\n"
    leave(chief)
    _, stderr = process.communicate(timeout=LONG)
    assert process.returncode == PeerLost.EXIT_CODE == 3
    assert stderr == (
        f"process 1 of 2 ({addresses[0]}), the chief has ended without a word, as a killed process does; "
        "see there why, and start the same commands again to go on from the last checkpoint\n"
    )
