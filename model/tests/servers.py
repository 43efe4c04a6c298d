"""TensorBoard over a folder, and what a page of it comes to show, for tests."""

import contextlib
import json
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

from tensorboard import program


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serves what a folder holds now, and gives the address.

    It is the server that the command `tensorboard` starts, in a thread of this process, which has TensorFlow already.
    """
    started = []

    def server_class(app, flags):
        started.append(program.WerkzeugServer(app, flags))
        return started[-1]

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of what TensorBoard imports
        board = program.TensorBoard(server_class=server_class)
        board.configure(logdir=str(logdir), port=0, load_fast="false", reload_interval=0, reload_task="blocking")
        address = board.launch().rstrip("/")
    try:
        yield address
    finally:
        for server in started:
            server.shutdown()
            server.server_close()


def fetch(address: str, question: object = None):
    """Returns what an address answers, in JSON; a question is sent in JSON, too."""
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())


def wait_for(page, what):
    """Returns what a function returns, once that is true; meanwhile the page lives on."""
    for _ in range(400):
        found = what()
        if found:
            return found
        page.wait_for_timeout(300)
    raise AssertionError("did not happen")
