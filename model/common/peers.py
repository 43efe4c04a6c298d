"""The processes of one run, connected: they wait for each other, compare, share, stop together, and miss who is lost.

TensorFlow's collectives wait for ever for a process that is gone, and nothing interrupts them. So each process keeps a
connection to the chief, a plain TCP socket, from before TensorFlow starts to the end of the run. A process that ends
closes its connection, whatever ended it; one that is frozen, or whose machine is gone, falls silent; and whoever
notices ends its own process with a line that names the one that is lost.

The chief listens at its own address, until all are there; then that port is TensorFlow's. What is sent is a letter, the
length of the content in 8 bytes, and the content. Nothing that comes is run or unpickled.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import queue
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from pydantic import BaseModel, Field

from model.common.cluster import Cluster, split_address
from model.common.errors import Interrupted, PeerLost, UserError, listed, one_line
from model.common.text import printable

_log = logging.getLogger(__name__)

# What both sides say first; whatever does not is something else, such as TensorFlow's server of a run that goes on.
_GREETING = b"triplet-embeddings peers 1\n"
_HEADER = struct.Struct(">cQ")
_MOST_BYTES, _MOST_BYTES_OF_A_STRANGER = 2**40, 2**16

_HELLO, _JOINED, _REFUSED, _MISSING = b"H", b"J", b"R", b"M"  # before the run
_BEAT, _DATA, _ASK_TO_STOP, _WHERE, _UNTIL, _FAILED, _BYE = b"B", b"D", b"S", b"W", b"U", b"F", b"Q"  # during it

_SECONDS_BETWEEN_BEATS = 1.0
# Beats that may be missing before a process is lost; more while it does what holds all of its threads.
_BEATS_MISSING = 20
_SECONDS_BETWEEN_TRIES = 0.3
_SECONDS_OF_A_TRY = 5.0
_SECONDS_TO_SAY_IT = 3.0
# For which an error waits: where it comes of another process that is lost, that one is to be named.
_SECONDS_TO_NOTICE = 1.0
# After which a process that waits for others says so.
_SECONDS_OF_SILENCE = 3.0

# Of connections that are not accepted yet; and how systems say that they have no IPv6, as many containers do.
_BACKLOG, _WITHOUT_IPV6 = 1024, (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_HOW_TO_WAIT = "start the same command there, or wait longer with --join_timeout"


class _Message(NamedTuple):
    kind: bytes
    content: bytes


class _Link:
    """A connection to another process, that is watched in threads: one reads, one sends a beat each second.

    Attributes:
        name: What the other process is called.
        take: Called with each message.
        lose: Called once, with why no more messages will come.
        received: What the other side has sent for the main thread.
        said_bye: The other side has come to its end, as it should.
        beats_missing: How many beats in a row the other side is told to do without.
        lost: Why no more messages come; None while they do.
    """

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = name
        self.take: Callable[[_Link, _Message], None] = lambda link, message: None
        self.lose: Callable[[_Link, str], None] = lambda link, reason: None
        self.received: queue.Queue[bytes] = queue.Queue()
        self.said_bye = threading.Event()
        self.beats_missing = _BEATS_MISSING
        self.lost: str | None = None
        self._patience = _BEATS_MISSING
        self._connection, self._lock, self._is_closed = connection, threading.Lock(), threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def greet(self) -> None:
        """Says what this is, and makes sure that the other side says the same.

        Raises:
            OSError, EOFError: The connection is closed, or silent.
            ValueError: It says something else.
        """
        self._connection.sendall(_GREETING)
        if self._read(len(_GREETING)) != _GREETING:
            raise ValueError("Expected a process of this program. Received: something else")

    def start_beats(self) -> None:
        """Sends a beat each second from now on."""

        def beat() -> None:
            while not self._is_closed.wait(_SECONDS_BETWEEN_BEATS):
                self.send_beat()

        threading.Thread(target=beat, daemon=True).start()

    def start_reading(self) -> None:
        """Hands what comes to `take` from now on, and to `lose` why nothing more does."""

        def read() -> None:
            try:
                while True:
                    message = self.receive()
                    self.take(self, message)
            except TimeoutError:
                reason = f"has not been heard of for {self._patience * _SECONDS_BETWEEN_BEATS:.0f} s"
            except (OSError, EOFError, ValueError):
                reason = "has ended without a word, as a killed process does"
            if not self._is_closed.is_set():
                self.lost = reason
                self.lose(self, reason)

        threading.Thread(target=read, daemon=True).start()

    def send_beat(self) -> None:
        """Says that this process is there, and how many beats the other side is to do without."""
        with self._lock:  # so that what was so a moment ago is not sent after what is so now
            self._send(_BEAT, str(self.beats_missing).encode())

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Sends a message; where the other side is gone, that is noticed by whoever reads."""
        with self._lock:
            self._send(kind, content)

    def _send(self, kind: bytes, content: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(_HEADER.pack(kind, len(content)))
            self._connection.sendall(content)

    def receive(self, most: int = _MOST_BYTES) -> _Message:
        """Waits for a message of at most so many bytes; takes notice of beats on the way.

        Raises:
            TimeoutError: The other side is silent.
            OSError, EOFError: The connection is closed.
            ValueError: It is no message.
        """
        while True:
            kind, length = _HEADER.unpack(self._read(_HEADER.size))
            if length > most:
                raise ValueError(f"Expected at most {most} bytes. Received: {length}")
            content = self._read(length)
            if kind != _BEAT:
                return _Message(kind, content)
            self._patience = int(content)

    def _read(self, length: int) -> bytes:
        # Beats that are missing are counted, and no time is measured: a process that was frozen itself, as by Ctrl-Z,
        # does not take the others for lost when it goes on.
        content = bytearray()
        while len(content) < length:
            missing = 0
            while not self._selector.select(_SECONDS_BETWEEN_BEATS):
                missing += 1
                if missing >= self._patience:
                    raise TimeoutError
            part = self._connection.recv(min(length - len(content), 2**20))
            if not part:
                raise EOFError
            content += part
        return bytes(content)

    def close(self) -> None:
        """Closes the connection."""
        self._is_closed.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _end_process(text: str, stderr: int = 2) -> None:
    """Ends this process at once, whatever its main thread waits for. All files are whole, as after a kill.

    Args:
        text: What has happened.
        stderr: The file descriptor that stderr had at first: while something is imported, it may lead nowhere.
    """
    os.dup2(stderr, 2)
    line = f"{text}; see there why, and start the same commands again to go on from the last checkpoint"
    said = threading.Thread(target=_log.error, args=("%s", printable(line)), daemon=True)
    said.start()
    said.join(_SECONDS_TO_SAY_IT)  # a terminal may hang, too
    os._exit(PeerLost.EXIT_CODE)


class Peers:
    """The processes of a run as one of them sees it; a `with` block is the time in which they depend on each other.

    Where it ends without an error, a process waits until that of the chief does, too. An error in it ends all others.
    `compare` and `share` are to be called by all processes, in the same order.

    Args:
        cluster: Which processes there are.
        links: The connection to each of the others that this one talks to, by its number: the chief has one to each,
            the others have one to the chief.
        seconds: How long a process may take to come to something.
        end: Called in another thread with a line as soon as a process is lost; is to end this one.
    """

    def __init__(
        self,
        cluster: Cluster,
        links: Mapping[int, _Link],
        seconds: float = 0.0,
        end: Callable[[str], object] = _end_process,
    ) -> None:
        self.cluster = cluster
        self._seconds = seconds
        self._links = list(links.values())
        self._end = end
        self._is_over, self._is_lost = threading.Event(), threading.Event()
        self._turn = threading.Condition()
        self._begun = 0  # the step that this process makes, or is bound to make next
        self._stop_step: int | None = None
        self._stop_signal = 0
        self._is_held = False  # while the chief asks where the others are
        self._answers: dict[_Link, int] = {}
        for link in self._links:
            link.take, link.lose = self._take, self._lose
            if link.lost:
                self._lose(link, link.lost)

    @classmethod
    def alone(cls) -> Self:
        """Returns the only process of a run, which is its chief."""
        return cls(Cluster(("this process",), 0), {})

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.cluster.is_chief

    @property
    def number(self) -> int:
        """How many processes there are."""
        return len(self.cluster.addresses)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Interrupted):
            self._send_to_all(_BYE)
            for link in self._links:
                link.said_bye.wait(_SECONDS_TO_SAY_IT if self.is_chief else None)
        elif self._is_lost.is_set() or (self._links and not self._is_over.is_set()):
            if self._is_lost.wait(_SECONDS_TO_NOTICE):
                time.sleep(3 * _SECONDS_TO_SAY_IT)  # the thread that has noticed ends this process
            elif not self._ends_now():
                self._tell_all(f"{self.cluster.name(self.cluster.index)} has failed: {_reason(error)}")
        self._is_over.set()
        for link in self._links:
            link.close()

    def _ends_now(self) -> bool:
        """Returns whether this process was about to end before; from now on it is, and no loss ends it."""
        with self._turn:
            before = self._is_over.is_set()
            self._is_over.set()
            return before

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Lets this process be silent while the block runs, for imports hold all of its threads."""
        self._allow(round(self._seconds / _SECONDS_BETWEEN_BEATS))
        try:
            yield
        finally:
            self._allow(_BEATS_MISSING)

    def _allow(self, beats_missing: int) -> None:
        for link in self._links:
            link.beats_missing = max(beats_missing, _BEATS_MISSING)
            link.send_beat()

    # ------------------------------------------------------------------------------------------- compare and share

    def compare(self, facts: Mapping[str, str], remedy: str) -> None:
        """Makes sure that all processes say the same, having waited for all of them.

        Args:
            facts: What has to be the same, by what it is called.
            remedy: What to do where it is not.

        Raises:
            UserError: In every process, with the same line: who says something else than the chief, and what.
        """
        if self.is_chief:
            others = [(link.name, json.loads(link.received.get())) for link in self._links]
            problem = next(filter(None, (_difference(*other, facts) for other in others)), "")
            if problem:
                self._ends_now()
            self._send_to_all(_REFUSED if problem else _DATA, problem.encode())
        else:
            (link,) = self._links
            link.send(_DATA, json.dumps(dict(facts)).encode())
            problem = link.received.get().decode()
        if problem:
            raise UserError(f"{problem}; {remedy}")

    def share(self, content: bytes) -> bytes:
        """Returns what the chief calls this with, in every process."""
        if self.is_chief:
            self._send_to_all(_DATA, content)
            return content
        (link,) = self._links
        return link.received.get()

    # -------------------------------------------------------------------------------------------------- stop together

    def ask_to_stop(self, signal_number: int) -> None:
        """Asks that all stop after the same step, soon; any process may, at any time, and often."""
        if not self.is_chief:
            self._send_to_all(_ASK_TO_STOP, str(signal_number).encode())
            return
        with self._turn:
            if self._is_held or self._stop_step is not None:
                return
            self._is_held, self._stop_signal = True, signal_number
        self._send_to_all(_WHERE)
        self._decide()

    def stops_after(self, step: int) -> int | None:
        """Returns the signal that asked to stop if all stop after this step; else this one is bound to the next step.

        To be called after each step. While the chief asks where the others are, it waits, so that nobody begins a step
        that the others do not make.
        """
        with self._turn:
            while self._is_held:
                self._turn.wait()
            if self._stop_step is not None and self._stop_step <= step:
                return self._stop_signal
            self._begun = step + 1
            return None

    def _decide(self) -> None:
        """At the chief: chooses the step after which all stop, once all have said which one they are bound to."""
        with self._turn:
            if not self._is_held or len(self._answers) < len(self._links):
                return
            self._stop_step = max([self._begun, *self._answers.values()])
            self._is_held = False
            self._turn.notify_all()
        self._send_to_all(_UNTIL, json.dumps([self._stop_step, self._stop_signal]).encode())

    # ------------------------------------------------------------------------------------------------- who is lost

    def wait_for_loss(self) -> None:
        """Gives the threads the time that they need to notice that a process is gone, and to end this one."""
        if self._links:
            time.sleep((_BEATS_MISSING + 3) * _SECONDS_BETWEEN_BEATS)

    def _take(self, link: _Link, message: _Message) -> None:
        kind, content = message
        if kind == _REFUSED:  # which all are told, so that none has to be told by another
            self._ends_now()
        if kind in (_DATA, _REFUSED):
            link.received.put(content)
        elif kind == _BYE:
            link.said_bye.set()
        elif kind == _FAILED:
            self._fail(content.decode())
        elif kind == _ASK_TO_STOP:
            self.ask_to_stop(int(content))
        elif kind == _WHERE and self.is_chief:
            self._answers[link] = int(content)
            self._decide()
        elif kind == _WHERE:
            with self._turn:
                self._is_held = True
            link.send(_WHERE, str(self._begun).encode())
        elif kind == _UNTIL:
            with self._turn:
                self._stop_step, self._stop_signal = json.loads(content)
                self._is_held = False
                self._turn.notify_all()

    def _lose(self, link: _Link, reason: str) -> None:
        if not link.said_bye.is_set():
            self._fail(f"{link.name} {reason}")

    def _fail(self, text: str) -> None:
        if self._ends_now():
            return
        self._is_lost.set()
        if self.is_chief:
            self._tell_all(text)
        self._end(text)

    def _send_to_all(self, kind: bytes, content: bytes = b"") -> None:
        for link in self._links:
            link.send(kind, content)

    def _tell_all(self, text: str) -> None:
        """Tells what has failed; waits for nobody who does not listen."""
        threads = [
            threading.Thread(target=link.send, args=(_FAILED, text.encode()), daemon=True) for link in self._links
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_SECONDS_TO_SAY_IT)


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    return f"{type(error).__name__}: {one_line(error)}"


def _difference(name: str, facts: Mapping[str, str], of_chief: Mapping[str, str]) -> str:
    """Returns what a process says that the chief does not, "" if there is nothing."""
    for fact in [*of_chief, *facts]:
        here, there = facts.get(fact, "missing"), of_chief.get(fact, "missing")
        if here != there:
            return printable(f"{fact} is {printable(here, 80)} at {name}, and {printable(there, 80)} at the chief")
    return ""


# ------------------------------------------------------------------------------------------------------------- join


class _Hello(BaseModel, extra="forbid", strict=True):
    """What a process says of itself to the one that it takes for the chief."""

    index: int = Field(ge=0)
    addresses: list[str]
    seconds_left: float = Field(ge=0, le=1e9)
    nonce: str

    @property
    def name(self) -> str:
        return printable(Cluster(tuple(self.addresses), self.index).name(self.index), 200)


def join(cluster: Cluster | None, seconds: float) -> Peers:
    """Waits for all processes of a run, and connects them.

    Args:
        cluster: Which these are; None where this process trains alone.
        seconds: How long to wait; where they differ, the chief waits as long as the least patient process.

    Raises:
        PeerLost: A process has not come. All that have come are told which one.
        UserError: They cannot be meant to be one run: other addresses, two of one number, a port that is taken.
    """
    if cluster is None:
        return Peers.alone()
    end = functools.partial(_end_process, stderr=os.dup(2))
    if cluster.is_chief:
        peers = Peers(cluster, _Gathering(cluster, seconds).links(), seconds, end)
        peers._send_to_all(_JOINED)  # from now on they may send something
        return peers
    with _listen(cluster):  # or another process has the port that TensorFlow will need
        pass
    link = _reach_chief(cluster, seconds)
    peers = Peers(cluster, {0: link}, seconds, end)
    link.start_reading()
    return peers


def _listen(cluster: Cluster) -> socket.socket:
    """Listens at the address of this process."""
    _, port = split_address(cluster.addresses[cluster.index])
    try:
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _WITHOUT_IPV6:
                raise
            return socket.create_server(("", port), backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"{cluster.name(cluster.index)}: port {port} of this machine cannot be had: {error.strerror}; end what "
            "uses it, such as the same command started before, or choose another port"
        ) from None


def _reach_chief(cluster: Cluster, seconds: float) -> _Link:
    """Returns the connection to the chief, once that has found all others, too."""
    deadline, reason = time.monotonic() + seconds, "nothing listens there"
    patience = _Patience()
    while (left := deadline - time.monotonic()) > 0:
        patience.wait_for(cluster.name(0))
        try:
            message, link = _introduce(cluster, left, secrets.token_hex(8))
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it has ended"
            time.sleep(_SECONDS_BETWEEN_TRIES)
            continue
        except ValueError:
            raise UserError(
                f"{cluster.name(0)}: what listens there is no process that waits for others; is the run going on "
                "already, or is this the address of something else?"
            ) from None
        if message.kind == _JOINED:
            return link
        link.close()
        raise (UserError if message.kind == _REFUSED else PeerLost)(message.content.decode())
    raise PeerLost(f"{cluster.name(0)} has not come within {seconds:,.0f} s ({reason}); {_HOW_TO_WAIT}")


def _introduce(cluster: Cluster, seconds_left: float, nonce: str) -> tuple[_Message, _Link]:
    """Says to the chief who this is, and returns what it answers once it knows, and the connection."""
    connection = socket.create_connection(split_address(cluster.addresses[0]), timeout=_SECONDS_OF_A_TRY)
    link = _Link(connection, cluster.name(0))
    try:
        link.greet()
        hello = _Hello(index=cluster.index, addresses=list(cluster.addresses), seconds_left=seconds_left, nonce=nonce)
        link.send(_HELLO, hello.model_dump_json().encode())
        link.start_beats()
        return link.receive(_MOST_BYTES_OF_A_STRANGER), link
    except BaseException:
        link.close()
        raise


class _Patience:
    """Says once whom a process waits for, if that takes longer than a moment."""

    def __init__(self) -> None:
        self._since: float | None = time.monotonic()

    def wait_for(self, names: str) -> None:
        """To be called as long as it waits."""
        if self._since is not None and time.monotonic() - self._since > _SECONDS_OF_SILENCE:
            self._since = None
            _log.warning("Waiting for %s.", printable(names))


class _Gathering:
    """The chief, waiting for the others."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._cluster, self._seconds = cluster, seconds
        self._deadline = time.monotonic() + seconds
        self._nonce = secrets.token_hex(8)
        self._arrivals: queue.Queue[tuple[_Link, _Hello] | str] = queue.Queue()
        self._links: dict[int, _Link] = {}
        self._is_over = threading.Event()
        self._patience = _Patience()

    def links(self) -> dict[int, _Link]:
        """Returns the connection to each of the others, by its number."""
        try:
            with _listen(self._cluster) as listener:
                listener.settimeout(_SECONDS_BETWEEN_TRIES)
                helpers = [threading.Thread(target=self._accept, args=(listener,), daemon=True)]
                helpers.append(threading.Thread(target=self._look_for_another_chief, daemon=True))
                for helper in helpers:
                    helper.start()
                try:
                    while missing := self._missing():
                        self._wait_for(missing)
                finally:
                    self._is_over.set()
                    helpers[0].join()
                    self._turn_away()
        except (UserError, PeerLost) as error:
            for link in self._links.values():
                link.send(_REFUSED if isinstance(error, UserError) else _MISSING, str(error).encode())
                link.close()
            raise
        return self._links

    def _missing(self) -> list[int]:
        for index in [index for index, link in self._links.items() if link.lost]:  # came, and is gone again
            self._links.pop(index).close()
        return [index for index in range(1, len(self._cluster.addresses)) if index not in self._links]

    def _wait_for(self, missing: Sequence[int]) -> None:
        """Waits for a moment, or until somebody comes."""
        left = self._deadline - time.monotonic()
        names = listed((self._cluster.name(index) for index in missing), most=5)
        self._patience.wait_for(names)
        if left <= 0:
            come = "has" if len(missing) == 1 else "have"
            raise PeerLost(f"{names} {come} not come within {self._seconds:,.0f} s; {_HOW_TO_WAIT}")
        try:
            arrival = self._arrivals.get(timeout=min(left, _SECONDS_BETWEEN_BEATS))
        except queue.Empty:
            return
        if isinstance(arrival, str):
            raise UserError(arrival)
        link, hello = arrival
        if hello.index == 0 and hello.nonce == self._nonce:
            link.close()
            return
        if problem := self._problem_with(hello):
            link.send(_REFUSED, problem.encode())
            link.close()
            raise UserError(problem)
        self._links[hello.index] = link
        link.name = hello.name
        link.start_reading()
        link.start_beats()
        self._deadline = min(self._deadline, time.monotonic() + hello.seconds_left)

    def _problem_with(self, hello: _Hello) -> str:
        ours, theirs = (", ".join(addresses) for addresses in (self._cluster.addresses, hello.addresses))
        if ours != theirs:
            return (
                f"the processes are {printable(ours, 300)} for the chief, and {printable(theirs, 300)} for "
                f"{hello.name}; give all of them the same list"
            )
        if hello.index == 0 or hello.index in self._links:
            return f"two processes say that they are {hello.name}; give each a number of its own ('task.index')"
        return ""

    def _accept(self, listener: socket.socket) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        """Lets a process in; not what says something else, or nothing."""
        link = _Link(connection, "")
        try:
            link.greet()
            kind, content = link.receive(_MOST_BYTES_OF_A_STRANGER)
            hello = _Hello.model_validate_json(content)
            if kind != _HELLO or hello.index >= len(hello.addresses):
                raise ValueError(f"Expected a hello. Received: {kind!r}")
        except (OSError, EOFError, ValueError):
            link.close()
        else:
            self._arrivals.put((link, hello))
            if self._is_over.is_set():
                self._turn_away()

    def _turn_away(self) -> None:
        """Closes the connections of those who came too late."""
        with contextlib.suppress(queue.Empty):
            while True:
                arrival = self._arrivals.get_nowait()
                if not isinstance(arrival, str):
                    arrival[0].close()

    def _look_for_another_chief(self) -> None:
        """Calls at the address of the chief, where this process should answer itself."""
        while not self._is_over.is_set():
            with contextlib.suppress(OSError, EOFError, ValueError):
                message, link = _introduce(self._cluster, self._seconds, self._nonce)
                link.close()
                if message.kind == _REFUSED:
                    self._arrivals.put(message.content.decode())
                return
            self._is_over.wait(_SECONDS_BETWEEN_TRIES)
