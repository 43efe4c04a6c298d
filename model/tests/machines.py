"""Several processes that train together: as processes, and as threads of one where only their agreement is tested."""

import contextlib
import json
import queue
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from model.common.cluster import Cluster
from model.common.joining import join
from model.common.peers import Peers

LONG = 60.0  # seconds that no test waits


def free_addresses(number: int) -> tuple[str, ...]:
    """Returns addresses of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)


def tf_config(addresses: tuple[str, ...], index: int) -> str:
    """Returns the TF_CONFIG of one of some workers."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}})


def together(*functions: Callable[[], object]) -> list:
    """Returns what each function returns, or raises, with all of them running at once."""
    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(function) for function in functions]
        return [future.exception(LONG) or future.result() for future in futures]


def line_of(process: Peers) -> str:
    """Returns the line with which a process of `connected` would have ended, once it would have."""
    return process.lines.get(timeout=LONG)


def leave(*processes: Peers) -> None:
    """Ends the connections of processes that do not miss each other then."""
    for process in processes:
        process._is_over.set()
    for process in processes:
        for link in process._links:
            link.close()


@contextlib.contextmanager
def connected(number: int) -> Iterator[list[Peers]]:
    """Gives processes that have joined, of which none ends this one."""
    addresses = free_addresses(number)
    processes = together(*(lambda index=index: join(Cluster(addresses, index), LONG) for index in range(number)))
    for process in processes:
        process.lines = queue.Queue()
        process._end = process.lines.put
    try:
        yield processes
    finally:
        leave(*processes)
