"""Scripts as children: what they are given, and that they end with their parent however it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from model.common.commands import ROOT
from model.studies import trial_process
from model.tests.machines import tf_config
from model.tests.studies.searches import is_running, wait_for


@pytest.fixture
def script(tmp_path):
    """Writes a script and returns its path."""

    def write(code):
        (tmp_path / "script.py").write_text(code)
        return tmp_path / "script.py"

    return write


@pytest.fixture
def log(tmp_path):
    with (tmp_path / "output.log").open("wb") as file:
        yield file


TELLS = """
import json, os, sys
import model.common.commands as commands
print(json.dumps({
    "name": __name__, "arguments": sys.argv, "session": os.getsid(0), "pid": os.getpid(), "model": commands.__file__,
    "path": os.environ["PYTHONPATH"], "machines": os.environ["TF_CONFIG"],
}))
print("and this", file=sys.stderr)
sys.exit(7)
"""


def test_a_script_runs_as_if_it_had_been_called(tmp_path, script, log, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somebody's")
    monkeypatch.setenv("TF_CONFIG", tf_config(("a:1", "b:1"), 0))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with trial_process.start(script(TELLS), ["--x", tmp_path], log) as process:
        assert process.wait(20) == 7
    said, error = (tmp_path / "output.log").read_text().splitlines()
    assert error == "and this"
    assert json.loads(said) == {
        "name": "__main__",
        "arguments": [str(tmp_path / "script.py"), "--x", str(tmp_path)],
        "session": process.pid,  # its own
        "pid": process.pid,
        "model": str(ROOT / "model" / "common" / "commands.py"),
        "path": os.pathsep.join([str(ROOT), "/somebody's"]),
        "machines": "",  # it trains alone
    }


def test_modules_of_the_current_folder_are_not_taken_for_others(tmp_path, script, log, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "runpy.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with trial_process.start(script("import model.studies; print('right')"), [], log) as process:
        assert process.wait(20) == 0
    assert (tmp_path / "output.log").read_text() == "right\n"


SAVES = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("started", flush=True)
time.sleep(60)
"""


def test_a_child_whose_stdin_is_closed_saves_and_ends(tmp_path, script, log):
    with trial_process.start(script(SAVES), [tmp_path / "state"], log) as process:
        wait_for(lambda: (tmp_path / "output.log").read_text() == "started\n")
        process.stdin.close()
        assert process.wait(6) == 143
    assert (tmp_path / "state").read_text() == "saved"


def test_a_child_that_does_not_listen_is_ended_as_well(tmp_path, script, log):
    with trial_process.start(script("print('started', flush=True); import time; time.sleep(60)"), [], log) as process:
        wait_for(lambda: (tmp_path / "output.log").read_text() == "started\n")
        process.stdin.close()
        assert process.wait(6) == -signal.SIGTERM


PARENT = """
import sys, time
from pathlib import Path
from model.studies import trial_process
with open(sys.argv[2], "wb") as log:
    process = trial_process.start(Path(sys.argv[1]), [sys.argv[3]], log)
Path(sys.argv[4]).write_text(str(process.pid))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_when_its_parent_is_killed(tmp_path, script, number):
    log, state, pid = (tmp_path / name for name in ("output.log", "state", "pid"))
    command = [sys.executable, "-c", PARENT, script(SAVES), log, state, pid]
    with subprocess.Popen(command, cwd=ROOT) as parent:
        wait_for(lambda: log.exists() and log.read_text() == "started\n")
        wait_for(lambda: pid.exists() and pid.read_text())
        child = int(pid.read_text())
        assert is_running(child)
        parent.send_signal(number)
        begin = time.monotonic()
        wait_for(lambda: not is_running(child), seconds=6)
    assert state.read_text() == "saved" and time.monotonic() - begin < 6


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "it said nothing"),
        (b" \n\n", "it said nothing"),
        (b"first\nlast", "last"),
        (b"first\n  last \n\n", "last"),
        (b"\xff broken", "\ufffd broken"),
        (b"x" * 10_000, "x" * 500),
    ],
)
def test_the_last_words_of_a_process(tmp_path, content, line):
    (tmp_path / "output.log").write_bytes(content)
    assert trial_process.last_words(1, tmp_path / "output.log") == line


def test_what_others_wrote_before_are_not_its_words(tmp_path):
    log = tmp_path / "output.log"
    log.write_text("No space left on device\n")
    begin = log.stat().st_size
    assert trial_process.last_words(1, log, begin) == "it said nothing"
    with log.open("a") as file:
        file.write("epoch 3/10, step 400/1000\n")
    assert trial_process.last_words(1, log, begin) == "epoch 3/10, step 400/1000"
    assert trial_process.last_words(-9, log, begin) == "killed by signal 9"
