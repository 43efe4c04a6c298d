"""TensorBoard as a user starts it, and what a page of it comes to show, for tests."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tensorboard(logdir: Path, run: str) -> Iterator[str]:
    """Serves a folder and gives the address once TensorBoard has found a run in it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", logdir, "--port", str(port)]
    process = subprocess.Popen([*command, "--load_fast", "false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if run in fetch(f"{address}/data/runs"):
                    break
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait()


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
