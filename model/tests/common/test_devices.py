"""TensorFlow as it is started, and what is said of the machine."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from model.common import devices
from model.common.commands import ROOT
from model.common.errors import UserError
from model.params import Params
from model.tests.experiments import HOSTILE_KERAS
from model.training.network import build_network

GPU = "the first GPU"


@pytest.fixture
def machine(monkeypatch):
    """Pretends to be another machine: what Linux says of its processor, and the compute capabilities of its GPUs."""

    def pretend(cpu_info=None, gpus=()):
        def read_text(self):
            if cpu_info is None:
                raise FileNotFoundError(self)
            return cpu_info

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus) if kind == "GPU" else ["CPU"])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpus[gpu])
        monkeypatch.setattr(Path, "read_text", read_text)

    return pretend


def test_devices_that_share_a_batch(two_devices):
    assert two_devices.num_replicas_in_sync == 2 and devices.share_among(2) is two_devices
    assert devices.share_among(1) is devices.share_among(None) is tf.distribute.get_strategy()
    with pytest.raises(UserError, match="--devices: 5 devices have to be asked for before anything is computed"):
        devices.share_among(5)


def test_more_devices_than_gpus_are_refused(machine):
    machine(gpus=[{}, {}])
    with pytest.raises(UserError, match="--devices: expected at most 2, as this machine has no more GPUs, received 3"):
        devices.share_among(3)


@pytest.mark.parametrize("asked", ["float32", "mixed_bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(machine, asked):
    for flags in ("fpu", "avx512_bf16"):
        machine(f"flags : {flags}\n")
        assert devices.choose_precision(asked) == asked


def test_auto_precision_of_this_machine():
    assert devices.choose_precision("auto") in ("float32", "mixed_bfloat16")


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2\n", "float32"),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 avx\n", "mixed_bfloat16"),
        ("flags : avx512_bf16 x\n", "mixed_bfloat16"),
        ("flags : avx512_bf16x\nbugs : amx_bf16\n", "float32"),
        ("flags : fpu\n\nflags : amx_bf16\n", "float32"),  # the first processor counts
        ("", "float32"),
        ("no colon in here", "float32"),
        (None, "float32"),
    ],
)
def test_auto_precision_follows_the_processor(machine, cpu_info, expected):
    machine(cpu_info)
    assert devices.choose_precision("auto") == expected


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"compute_capability": (7, 5)}, "float32"),
        ({"compute_capability": (8, 0)}, "mixed_bfloat16"),
        ({"compute_capability": (12, 0)}, "mixed_bfloat16"),
        ({}, "float32"),
    ],
)
def test_auto_precision_follows_the_gpu_where_there_is_one(machine, details, expected):
    machine("flags : amx_bf16\n", {GPU: details})
    assert devices.choose_precision("auto") == expected


def test_a_processor_is_named_with_the_cores_that_are_ours(machine, monkeypatch):
    machine("processor : 0\nmodel name : Some Chip @ 2 GHz\n\nprocessor : 1\nmodel name : Other\n")
    for cores, said in (({3}, "1 core"), ({0, 3, 7}, "3 cores")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        assert devices.describe() == f"Some Chip @ 2 GHz, {said}"


def test_a_machine_that_says_nothing_of_its_processor(machine):
    machine(None)
    assert re.fullmatch(r"\S.*, \d+ cores?", devices.describe())


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, 8192), ({"memory.max": "max\n"}, 8192), ({"memory.max": "4096\n"}, 4096),
     ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8192), ({"memory/memory.limit_in_bytes": "5"}, 5),
     # what is taken already, but for files that are not in use
     ({"memory.max": "4096\n", "memory.current": "1000\n"}, 3096),
     ({"memory.max": "4096\n", "memory.current": "1000\n", "memory.stat": "anon 300\ninactive_file 600\n"}, 3696),
     ({"memory.max": "4096\n", "memory.current": "5000\n"}, 0),
     ({"memory.max": "max\n", "memory.current": "5000\n"}, 8192),
     ({"memory.max": "9000\n", "memory.current": "500\n"}, 8192),  # the machine has less
     ({"memory/memory.limit_in_bytes": "4096\n", "memory/memory.usage_in_bytes": "1000\n",
       "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400\n"}, 3496)],
)  # fmt: skip
def test_no_more_memory_is_free_than_a_container_may_take(monkeypatch, limits, expected):
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8 kB\n"}
    texts |= {f"/sys/fs/cgroup/{name}": text for name, text in limits.items()}

    def read_text(path):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert devices.free_memory() == expected
    texts["/proc/self/cgroup"] = "12:cpu,cpuacct:/\n4:memory:/\n0::/\n"  # in a namespace of its own
    assert devices.free_memory() == expected
    del texts["/proc/meminfo"]
    assert devices.free_memory() is None
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["/GPU:0"])
    assert devices.free_memory() is None


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/system.slice/job_7/step_0\n", {"system.slice/job_7/memory.max": "4096\n"}, 4096),
        ("0::/job_7\n", {"job_7/memory.max": "max\n", "memory.max": "5000\n"}, 5000),
        ("0::/job_7\n", {"job_7/memory.max": "4096\n", "job_7/memory.current": "1096\n", "memory.max": "5000\n"}, 3000),
        ("0::/job_7\n", {"job_8/memory.max": "4096\n"}, 8192),  # of somebody else
        ("4:memory:/slurm/job_7\n0::/\n", {"memory/slurm/job_7/memory.limit_in_bytes": "4096\n"}, 4096),
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "4096\n"}, 4096),  # what a container sees of it
        ("3:cpu:/job_7\n0::/\n", {"job_7/memory.max": "4096\n"}, 8192),
        ("a line that is none\n", {"memory.max": "4096\n"}, 4096),
    ],
)
def test_no_more_memory_is_free_than_the_job_may_take(monkeypatch, groups, limits, expected):
    texts = {"/proc/meminfo": "MemAvailable: 8 kB\n", "/proc/self/cgroup": groups}
    texts |= {f"/sys/fs/cgroup/{name}": text for name, text in limits.items()}
    monkeypatch.setattr(devices, "_text_of", lambda path: texts.get(str(path), ""))
    assert devices.memory_of_machine() == expected


def test_gpus_are_named(machine):
    class Gpu(str):
        name = property(str)

    machine("model name : Some Chip\n", {Gpu("/GPU:0"): {"device_name": "A100"}, Gpu("/GPU:1"): {}})
    assert devices.describe() == "A100, /GPU:1"


@pytest.mark.parametrize("before", [None, "0,1"])
def test_others_see_no_gpu_in_the_block_and_all_of_them_after_it(monkeypatch, before):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    environment = dict(os.environ)
    with pytest.raises(ValueError, match="in the block"), devices.without_gpus():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
        raise ValueError("in the block")
    assert dict(os.environ) == environment


def test_tensorflow_is_started_once_and_deterministic():
    """As the tests themselves start it. That a new process does so without noise is seen in those of the commands."""
    assert re.fullmatch(r"(No GPU found: r|R)unning on \S.*\.", devices.start_tensorflow())
    assert devices.start_tensorflow.cache_info().misses == 1
    assert config.is_op_determinism_enabled()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert "TF_CPP_MIN_LOG_LEVEL" in os.environ


def print_digest():
    """Prints what a network makes of images, and what Keras is set to."""
    params = Params(num_channels=2, use_batch_norm=True, distance="cosine", embedding_size=3)
    embeddings = build_network(params, (8, 6, 3))(np.random.default_rng(0).random((4, 8, 6, 3), np.float32))
    print(hashlib.sha256(embeddings.numpy().tobytes()).hexdigest(), keras.config.epsilon())


@pytest.mark.proof  # `trained` is trained beside the first of these files
@pytest.mark.parametrize("content", [HOSTILE_KERAS, {"floatx": "float99", "epsilon": "small"}])
def test_the_keras_configuration_of_the_user_changes_nothing(tmp_path, capsys, content):
    (tmp_path / "keras.json").write_text(json.dumps(content))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    code = "from model.common import devices; devices.start_tensorflow(); "
    code += "from model.tests.common import test_devices; test_devices.print_digest()"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    print_digest()
    assert result.stdout == capsys.readouterr().out
    assert result.stdout.endswith(" 1e-07\n")
    assert [path.name for path in tmp_path.iterdir()] == ["keras.json"]


@pytest.mark.proof
def test_the_losses_alone_leave_the_configuration_of_others_as_it_is(tmp_path):
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "image_data_format": "channels_first"}')
    code = "import model.losses, keras; print(keras.config.floatx(), keras.config.image_data_format())"
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.stdout == "float64 channels_first\n"


def test_a_start_that_fails_shows_what_was_kept_back(capfd):
    with pytest.raises(RuntimeError), devices.quiet_stderr():
        os.write(2, b"why it failed")
        raise RuntimeError
    with devices.quiet_stderr():
        os.write(2, b"noise")
    os.write(2, b", afterwards")
    assert capfd.readouterr().err == "why it failed, afterwards"
