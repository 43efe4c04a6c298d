"""What the tests share: how TensorFlow starts, cores, experiments that are trained once, and a real browser.

TensorFlow starts as the command lines start it, with two logical CPUs for the tests of strategies. Where pytest-xdist
runs several processes, each takes its share of the cores, and so do the processes that it starts.
"""

import os

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# Threads of OpenMP (openTSNE, scikit-learn) that wait for others would else keep the cores busy that others need: on a
# machine with other work, t-SNE of a few points then takes 15 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if _PROCESSES > 1:  # not OMP_THREAD_LIMIT: with fewer threads than it asked for, scikit-learn finds wrong neighbours
    for _threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_threads, str(max(1, _CORES // _PROCESSES)))

import contextlib  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import filelock  # noqa: E402
import pytest  # noqa: E402

from model.common import devices  # noqa: E402
from model.common.commands import ROOT  # noqa: E402

if TYPE_CHECKING:
    import tensorflow as tf

    from model.common.peers import Peers


def pytest_configure(config: pytest.Config) -> None:
    """Starts TensorFlow, but not in the process that only hands the tests to others."""
    if not hasattr(config, "workerinput") and getattr(config.option, "numprocesses", None):
        return
    for number in (signal.SIGINT, signal.SIGHUP):  # which stay ignored if whoever started the tests ignores them
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    # Logical devices, as here, make TensorFlow forget that a GPU is to be taken as it is needed.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    devices.start_tensorflow()
    import tensorflow as tf

    (cpu, *_) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


# What takes seconds to set up, so that a test which needs it is slow.
_SLOW_FIXTURES = {"trained", "validated", "served", "page"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)` returns a folder that `make` filled, once for all processes of this run.

    Whoever asks for it only reads it, or takes a copy.
    """
    root = tmp_path_factory.getbasetemp()
    root = root if _PROCESSES == 1 else root.parent

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / "made_once" / name
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".made.lock"):
            if not (folder / ".made").exists():
                make(folder)
                (folder / ".made").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def trained(made_once) -> Path:
    """The small experiment after 8 epochs, 180 steps, trained by the command line in a new process; to be read only.

    By a user who has configured Keras for something else, which has to change nothing. What the process said is beside
    it, in `stdout` and `stderr`.
    """
    from model.tests.experiments import HOSTILE_KERAS, write_params

    def train(folder: Path) -> None:
        model_dir = write_params(folder / "experiments" / "small", num_epochs=8, num_labels=10)
        command = [sys.executable, ROOT / "train.py", "--model_dir", model_dir]
        # It has to keep TensorFlow quiet by itself, as where nobody has set this.
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        environment |= {"KERAS_HOME": str(folder), "KERAS_BACKEND": "jax"}
        (folder / "keras.json").write_text(json.dumps(HOSTILE_KERAS))
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
        (folder / "stdout").write_text(result.stdout)
        (folder / "stderr").write_text(result.stderr)
        assert result.returncode == 0, result.stderr

    return made_once("trained", train) / "experiments" / "small"


@pytest.fixture
def trained_copy(trained, tmp_path) -> Path:
    """A copy of the trained experiment, to be changed."""
    return shutil.copytree(trained, tmp_path / "small")


@pytest.fixture
def few_resamples(monkeypatch):
    """Bootstrap intervals of few samples, where they are not what is tested: they take a third of an evaluation."""
    from model.scoring import intervals

    monkeypatch.setattr(intervals, "REPLICATES", 20)


@pytest.fixture
def instant_scores(monkeypatch):
    """Scores that are made up, where anything but their values is tested."""
    from model.scoring import protocol

    monkeypatch.setattr(protocol, "score", lambda *_: dict.fromkeys(protocol.HEADLINES, 0.5))


@pytest.fixture(scope="session")
def two_devices() -> "tf.distribute.Strategy":
    """Two devices in one process: logical CPUs, or two GPUs."""
    import tensorflow as tf

    if len(tf.config.list_physical_devices("GPU")) == 1:
        pytest.skip("needs two GPUs, or none")
    return devices.share_among(2)


@pytest.fixture
def connect(monkeypatch) -> "Iterator[Callable[[int], list[Peers]]]":
    """`connect(3)` returns three processes that have joined, which are threads; `line_of` waits for the end of one."""
    from model.common import peers
    from model.tests.machines import connected

    monkeypatch.setattr(peers, "_SECONDS_TO_NOTICE", 0.1)

    with contextlib.ExitStack() as stack:
        yield lambda number: stack.enter_context(connected(number))


@pytest.fixture(scope="module")
def page():
    """A page of a real browser; what goes wrong in it is collected in `page.errors`."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium, as Debian packages it")
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist", "--disable-background-networking", "--no-first-run", "--disable-dev-shm-usage",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        browser.close()
