"""A connection between two processes of a run: what is sent, and how it is noticed that nothing more comes.

What is sent is a letter, the length of the content in 8 bytes, and the content. Nothing that comes is run or unpickled.
"""

import contextlib
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

# What both sides say first; whatever does not is something else, such as TensorFlow's server of a run that goes on.
GREETING = b"triplet-embeddings peers 1\n"
HEADER = struct.Struct(">cQ")
_MOST_BYTES, MOST_BYTES_OF_A_STRANGER = 2**40, 2**16

HELLO, JOINED, REFUSED, MISSING = b"H", b"J", b"R", b"M"  # before the run
BEAT, DATA, ASK_TO_STOP, WHERE, UNTIL, FAILED, BYE = b"B", b"D", b"S", b"W", b"U", b"F", b"Q"  # during it

SECONDS_BETWEEN_BEATS = 1.0
# Beats that may be missing before a process is lost; more while it does what holds all of its threads.
BEATS_MISSING = 20


class Message(NamedTuple):
    """What one process sends another: which kind of message it is, and the content."""

    kind: bytes
    content: bytes


class Link:
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
        self.take: Callable[[Link, Message], None] = lambda link, message: None
        self.lose: Callable[[Link, str], None] = lambda link, reason: None
        self.received: queue.Queue[bytes] = queue.Queue()
        self.said_bye = threading.Event()
        self.beats_missing = BEATS_MISSING
        self.lost: str | None = None
        self._patience = BEATS_MISSING
        self._connection, self._lock, self._is_closed = connection, threading.Lock(), threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def greet(self) -> None:
        """Says what this is, and makes sure that the other side says the same.

        Raises:
            OSError, EOFError: The connection is closed, or silent.
            ValueError: It says something else.
        """
        self._connection.sendall(GREETING)
        if self._read(len(GREETING)) != GREETING:
            raise ValueError("Expected a process of this program. Received: something else")

    def start_beats(self) -> None:
        """Sends a beat each second from now on."""

        def beat() -> None:
            while not self._is_closed.wait(SECONDS_BETWEEN_BEATS):
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
                reason = f"has not been heard of for {self._patience * SECONDS_BETWEEN_BEATS:.0f} s"
            except (OSError, EOFError, ValueError):
                reason = "has ended without a word, as a killed process does"
            if not self._is_closed.is_set():
                self.lost = reason
                self.lose(self, reason)

        threading.Thread(target=read, daemon=True).start()

    def send_beat(self) -> None:
        """Says that this process is there, and how many beats the other side is to do without."""
        with self._lock:  # so that what was so a moment ago is not sent after what is so now
            self._send(BEAT, str(self.beats_missing).encode())

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Sends a message; where the other side is gone, that is noticed by whoever reads."""
        with self._lock:
            self._send(kind, content)

    def _send(self, kind: bytes, content: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(HEADER.pack(kind, len(content)))
            self._connection.sendall(content)

    def receive(self, most: int = _MOST_BYTES) -> Message:
        """Waits for a message of at most so many bytes; takes notice of beats on the way.

        Raises:
            TimeoutError: The other side is silent.
            OSError, EOFError: The connection is closed.
            ValueError: It is no message.
        """
        while True:
            kind, length = HEADER.unpack(self._read(HEADER.size))
            if length > most:
                raise ValueError(f"Expected at most {most} bytes. Received: {length}")
            content = self._read(length)
            if kind != BEAT:
                return Message(kind, content)
            self._patience = int(content)

    def _read(self, length: int) -> bytes:
        # Beats that are missing are counted, and no time is measured: a process that was frozen itself, as by Ctrl-Z,
        # does not take the others for lost when it goes on.
        content = bytearray()
        while len(content) < length:
            missing = 0
            while not self._selector.select(SECONDS_BETWEEN_BEATS):
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
