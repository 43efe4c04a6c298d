"""How TensorFlow is started: without its noise, deterministic, and on GPUs where there are some."""

import contextlib
import functools
import gc
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from model.common.errors import UserError
from model.common.signals import ending_at_once

if TYPE_CHECKING:
    import tensorflow as tf

# Where control groups are, by the name of their controller: of version 2, which has no name and in which "max" is no
# limit, and of version 1. Then the files that say how many bytes a group, such as a container or a job, may take and
# has taken, and the name of how many of these are copies of files that are not in use.
_CONTROL_GROUPS = {
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (
        Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
    ),
}  # fmt: skip
_GROUPS_OF_THIS_PROCESS = Path("/proc/self/cgroup")

# What Keras imports where it is installed, for wrappers and pictures of its own that nothing here uses. That takes a
# third as long as all of TensorFlow.
_UNUSED_BY_KERAS = ("matplotlib", "pandas", "sklearn")


@functools.cache
def start_tensorflow() -> str:
    """Imports TensorFlow and Keras and sets them up; to be called before anything else imports them.

    GPUs take memory as they need it, and operations are deterministic: the same step from the same state gives
    the same bits, which resuming a run relies on. Keras runs on TensorFlow in float32, whatever the user's
    keras.json and KERAS_BACKEND say: the results of an experiment depend on its params.json alone.

    Returns:
        One line that says what the computation runs on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only, unless the user asks for more
    quiet, unseen = quiet_stderr(), _hidden(*_UNUSED_BY_KERAS)
    with quiet as stderr, ending_at_once(stderr), _default_keras(), unseen, _no_garbage_collection():
        import tensorflow as tf  # which imports Keras

        gpus = tf.config.list_physical_devices("GPU")
        import keras
    if keras.config.backend() != "tensorflow":
        raise UserError(
            f"Keras was imported with the backend {keras.config.backend()!r}, expected 'tensorflow': start TensorFlow "
            "before anything else imports Keras"
        )
    keras.config.set_floatx("float32")  # in a program that had imported it before
    keras.config.set_image_data_format("channels_last")
    keras.config.set_epsilon(1e-7)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 has 24 bits here, not TF32's 11
    return f"Running on {describe()}." if gpus else f"No GPU found: running on {describe()}."


@contextlib.contextmanager
def _default_keras() -> Iterator[None]:
    """Lets what is imported in the block find Keras on TensorFlow, and no keras.json."""
    before = os.environ.get("KERAS_HOME")
    # Its import reads a keras.json, ends if that is a bad one, and writes one if there is none: not in here.
    os.environ.update(KERAS_BACKEND="tensorflow", KERAS_HOME=os.devnull)
    try:
        yield
    finally:
        os.environ.pop("KERAS_HOME")
        if before is not None:
            os.environ["KERAS_HOME"] = before


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Lets what is imported in the block find no such packages, but those that were imported before."""
    hidden = [package for package in packages if package not in sys.modules]
    for package in hidden:
        sys.modules[package] = None  # type: ignore[assignment]  # as Python marks what there is not
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python from looking for garbage again and again among all that an import brings, which is none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def without_gpus() -> Iterator[None]:
    """Hides the GPUs from TensorFlow while the block runs, should something start it: others need their memory."""
    names = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@functools.cache
def share_among(number: int | None) -> "tf.distribute.Strategy":
    """Returns what spreads a training step over devices of this machine; one for all trainings of a process.

    To be called before anything was computed: only then a processor can stand for several devices.

    Args:
        number: How many devices, at least 1: GPUs, and where there is none, logical CPUs, which share the cores. None
            takes all GPUs, or one CPU.

    Raises:
        UserError: There are GPUs, but not so many; or it is too late.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if number is None:
        number = max(1, len(gpus))
    if gpus and number > len(gpus):
        raise UserError(f"--devices: expected at most {len(gpus)}, as this machine has no more GPUs, received {number}")
    if number == 1:
        return tf.distribute.get_strategy()
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        cpu, *_ = tf.config.list_physical_devices("CPU")
        with contextlib.suppress(RuntimeError):  # too late, then there are as many as somebody has asked for
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
        if len(tf.config.list_logical_devices("CPU")) < number:
            raise UserError(f"--devices: {number} devices have to be asked for before anything is computed")
    with quiet_stderr() as stderr, ending_at_once(stderr):
        return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])


def describe() -> str:
    """Returns what the computation runs on: the GPUs, or else the processor and the cores that this process has."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return ", ".join(detail.get("device_name", gpu.name) for detail, gpu in zip(details, gpus, strict=True))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = _cpu_info().get("model name") or platform.processor() or platform.machine()
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def choose_precision(asked: str) -> str:
    """Resolves "auto" to "mixed_bfloat16" where the hardware multiplies bfloat16 natively, else to "float32".

    Native are GPUs of compute capability 8.0 and above, and CPUs with AMX or AVX512-BF16 (as Linux tells).
    """
    if asked != "auto":
        return asked
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "float32"
    return "mixed_bfloat16" if {"amx_bf16", "avx512_bf16"} & set(_cpu_info().get("flags", "").split()) else "float32"


def free_memory() -> int | None:
    """Returns how many bytes the computation can take at most of the memory; None where nobody can tell, as on GPUs."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return None
    return memory_of_machine()


def memory_of_machine() -> int | None:
    """Returns how many bytes of the machine's memory this process can take; None where nobody can tell."""
    sizes = dict(line.split(":") for line in _text_of(Path("/proc/meminfo")).splitlines() if ":" in line)
    if "MemAvailable" not in sizes:
        return None
    free = int(sizes["MemAvailable"].split()[0]) * 1024  # of the machine, whatever a container may take of it
    for controller, (root, limit, taken, inactive) in _CONTROL_GROUPS.items():
        for folder in _groups_below(root, controller):
            if (text := _text_of(folder / limit).strip()).isdecimal():
                free = min(free, max(0, int(text) - _in_use(folder, taken, inactive)))
    return free


def _groups_below(root: Path, controller: str) -> list[Path]:
    """Returns the folders of the control groups that this process is in, one in the other, and their root."""
    for line in _text_of(_GROUPS_OF_THIS_PROCESS).splitlines():  # 4:memory:/job_7/step_0
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if path and controller in controllers.split(","):
            group = root / path.lstrip("/")
            return [group, *(folder for folder in group.parents if folder.is_relative_to(root))]
    return [root]


def _in_use(folder: Path, taken: str, inactive: str) -> int:
    """Returns how many bytes a container has taken, without copies of files that it would give back when asked."""
    details = dict(line.split() for line in _text_of(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    # Copies of files in use (active_file), such as libraries, could go as well, and would be read again at once.
    numbers = [_text_of(folder / taken).strip(), details.get(inactive, "")]
    in_all, reclaimable = (int(number) if number.isdecimal() else 0 for number in numbers)
    return max(0, in_all - reclaimable)


def _cpu_info() -> dict[str, str]:
    """Returns what Linux says of the first processor."""
    text = _text_of(Path("/proc/cpuinfo"))
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _text_of(path: Path) -> str:
    """Returns what Linux says in a file, "" where it says nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def quiet_stderr() -> Iterator[int]:
    """Keeps back what libraries write to the stderr of the process, and shows it if they fail.

    Yields:
        The file descriptor that the real stderr has meanwhile.
    """
    # TensorFlow greets before it reads its own log level; only the file descriptor can be silenced.
    sys.stderr.flush()
    stderr = os.dup(2)
    with _open_temporary() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield stderr
        except Exception:
            noise.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, noise.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _open_temporary() -> IO[bytes]:
    """Opens a file for what is soon forgotten; one that forgets it at once where the disk is full."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return Path(os.devnull).open("r+b")
