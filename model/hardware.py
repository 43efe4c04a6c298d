"""How TensorFlow is started: without its noise, deterministic, and on a GPU where there is one."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def start_tensorflow() -> str:
    """Imports TensorFlow and sets it up; to be called before anything else imports it.

    GPUs take memory as they need it, and operations are deterministic: the same step from the same state gives
    the same bits, which resuming a run relies on.

    Returns:
        One line that says what the computation runs on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only, unless the user asks for more
    with _quiet_stderr():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 has 24 bits here, not TF32's 11
    if not gpus:
        return f"No GPU found: running on the CPU ({os.cpu_count()} cores)."
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return f"Running on {len(gpus)} GPU: {names[0]}." if len(gpus) == 1 else f"Running on GPUs: {', '.join(names)}."


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
    return "mixed_bfloat16" if {"amx_bf16", "avx512_bf16"} & _cpu_flags() else "float32"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps back what libraries write to the stderr of the process, and shows it if they fail."""
    # TensorFlow greets before it reads its own log level; only the file descriptor can be silenced.
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            noise.seek(0)
            os.write(stderr, noise.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
