"""How the processes of a run find each other: the chief listens at its own address, until all are there.

Then that port is TensorFlow's, and the connections stay.
"""

import contextlib
import errno
import functools
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Sequence

from pydantic import BaseModel, Field

from model.common import links
from model.common.cluster import Cluster, split_address
from model.common.errors import PeerLost, UserError, listed
from model.common.links import Link, Message
from model.common.peers import Peers, end_process
from model.common.text import printable

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 0.3
_SECONDS_OF_A_TRY = 5.0
# After which a process that waits for others says so.
_SECONDS_OF_SILENCE = 3.0

# Of connections that are not accepted yet; and how systems say that they have no IPv6, as many containers do.
_BACKLOG, _WITHOUT_IPV6 = 1024, (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_HOW_TO_WAIT = "start the same command there, or wait longer with --join_timeout"


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
    end = functools.partial(end_process, stderr=os.dup(2))
    if cluster.is_chief:
        peers = Peers(cluster, _Gathering(cluster, seconds).links(), seconds, end)
        peers._send_to_all(links.JOINED)  # from now on they may send something
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


def _reach_chief(cluster: Cluster, seconds: float) -> Link:
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
        if message.kind == links.JOINED:
            return link
        link.close()
        raise (UserError if message.kind == links.REFUSED else PeerLost)(message.content.decode())
    raise PeerLost(f"{cluster.name(0)} has not come within {seconds:,.0f} s ({reason}); {_HOW_TO_WAIT}")


def _introduce(cluster: Cluster, seconds_left: float, nonce: str) -> tuple[Message, Link]:
    """Says to the chief who this is, and returns what it answers once it knows, and the connection."""
    connection = socket.create_connection(split_address(cluster.addresses[0]), timeout=_SECONDS_OF_A_TRY)
    link = Link(connection, cluster.name(0))
    try:
        link.greet()
        hello = _Hello(index=cluster.index, addresses=list(cluster.addresses), seconds_left=seconds_left, nonce=nonce)
        link.send(links.HELLO, hello.model_dump_json().encode())
        link.start_beats()
        return link.receive(links.MOST_BYTES_OF_A_STRANGER), link
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
        self._arrivals: queue.Queue[tuple[Link, _Hello] | str] = queue.Queue()
        self._links: dict[int, Link] = {}
        self._is_over = threading.Event()
        self._patience = _Patience()

    def links(self) -> dict[int, Link]:
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
                link.send(links.REFUSED if isinstance(error, UserError) else links.MISSING, str(error).encode())
                link.close()
            raise
        return self._links

    def _forget_the_lost(self) -> None:
        for index in [index for index, link in self._links.items() if link.lost]:  # came, and is gone again
            self._links.pop(index).close()

    def _missing(self) -> list[int]:
        self._forget_the_lost()
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
            arrival = self._arrivals.get(timeout=min(left, links.SECONDS_BETWEEN_BEATS))
        except queue.Empty:
            return
        if isinstance(arrival, str):
            raise UserError(arrival)
        link, hello = arrival
        if hello.index == 0 and hello.nonce == self._nonce:
            link.close()
            return
        self._forget_the_lost()  # before this one came, perhaps: it may be the same process, started again
        if problem := self._problem_with(hello):
            link.send(links.REFUSED, problem.encode())
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
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:  # such as a network error of somebody who was about to come
                self._is_over.wait(_SECONDS_BETWEEN_TRIES)
                continue
            threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        """Lets a process in; not what says something else, or nothing."""
        try:
            link = Link(connection, "")
        except OSError:  # it is gone already
            connection.close()
            return
        try:
            link.greet()
            kind, content = link.receive(links.MOST_BYTES_OF_A_STRANGER)
            hello = _Hello.model_validate_json(content)
            if kind != links.HELLO or hello.index >= len(hello.addresses):
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
                if message.kind == links.REFUSED:
                    self._arrivals.put(message.content.decode())
                return
            self._is_over.wait(_SECONDS_BETWEEN_TRIES)
