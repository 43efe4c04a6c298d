"""The processes of one run, connected: they compare, share, stop together, and miss who is lost.

TensorFlow's collectives wait for ever for a process that is gone, and nothing interrupts them. So each process keeps a
connection to the chief, a plain TCP socket, from before TensorFlow starts to the end of the run. A process that ends
closes its connection, whatever ended it; one that is frozen, or whose machine is gone, falls silent; and whoever
notices ends its own process with a line that names the one that is lost.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

from model.common import links
from model.common.cluster import Cluster
from model.common.errors import Interrupted, PeerLost, UserError, one_line
from model.common.links import Link, Message
from model.common.text import printable

_log = logging.getLogger(__name__)

_SECONDS_TO_SAY_IT = 3.0
# For which an error waits: where it comes of another process that is lost, that one is to be named.
_SECONDS_TO_NOTICE = 1.0


def end_process(text: str, stderr: int = 2) -> None:
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
        links: Mapping[int, Link],
        seconds: float = 0.0,
        end: Callable[[str], object] = end_process,
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
        self._answers: dict[Link, int] = {}
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
            self._send_to_all(links.BYE)
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
        self._allow(round(self._seconds / links.SECONDS_BETWEEN_BEATS))
        try:
            yield
        finally:
            self._allow(links.BEATS_MISSING)

    def _allow(self, beats_missing: int) -> None:
        for link in self._links:
            link.beats_missing = max(beats_missing, links.BEATS_MISSING)
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
            self._send_to_all(links.REFUSED if problem else links.DATA, problem.encode())
        else:
            (link,) = self._links
            link.send(links.DATA, json.dumps(dict(facts)).encode())
            problem = link.received.get().decode()
        if problem:
            raise UserError(f"{problem}; {remedy}")

    def share(self, content: bytes) -> bytes:
        """Returns what the chief calls this with, in every process."""
        if self.is_chief:
            self._send_to_all(links.DATA, content)
            return content
        (link,) = self._links
        return link.received.get()

    # -------------------------------------------------------------------------------------------------- stop together

    def ask_to_stop(self, signal_number: int) -> None:
        """Asks that all stop after the same step, soon; any process may, at any time, and often."""
        if not self.is_chief:
            self._send_to_all(links.ASK_TO_STOP, str(signal_number).encode())
            return
        with self._turn:
            if self._is_held or self._stop_step is not None:
                return
            self._is_held, self._stop_signal = True, signal_number
        self._send_to_all(links.WHERE)
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
        self._send_to_all(links.UNTIL, json.dumps([self._stop_step, self._stop_signal]).encode())

    # ------------------------------------------------------------------------------------------------- who is lost

    def wait_for_loss(self) -> None:
        """Gives the threads the time that they need to notice that a process is gone, and to end this one."""
        if self._links:
            time.sleep((links.BEATS_MISSING + 3) * links.SECONDS_BETWEEN_BEATS)

    def _take(self, link: Link, message: Message) -> None:
        kind, content = message
        if kind == links.REFUSED:  # which all are told, so that none has to be told by another
            self._ends_now()
        if kind in (links.DATA, links.REFUSED):
            link.received.put(content)
        elif kind == links.BYE:
            link.said_bye.set()
        elif kind == links.FAILED:
            self._fail(content.decode())
        elif kind == links.ASK_TO_STOP:
            self.ask_to_stop(int(content))
        elif kind == links.WHERE and self.is_chief:
            self._answers[link] = int(content)
            self._decide()
        elif kind == links.WHERE:
            with self._turn:
                self._is_held = True
            link.send(links.WHERE, str(self._begun).encode())
        elif kind == links.UNTIL:
            with self._turn:
                self._stop_step, self._stop_signal = json.loads(content)
                self._is_held = False
                self._turn.notify_all()

    def _lose(self, link: Link, reason: str) -> None:
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
            threading.Thread(target=link.send, args=(links.FAILED, text.encode()), daemon=True) for link in self._links
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
