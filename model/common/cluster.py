"""Which processes train together, as the environment says: TF_CONFIG, or what SLURM's `srun` sets.

Everything that starts TensorFlow on several machines (Kubeflow, Ray Train, Vertex AI, a person) speaks TF_CONFIG:

    {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}

The first process is the chief: the one of the job "chief" where there is such a job, else worker 0.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.common import json_file
from model.common.errors import UserError
from model.common.text import printable

# The jobs whose processes train, the chief first.
_JOBS = ("chief", "worker")
_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")

# SLURM's jobs share nodes: each step takes ports of its own, below those that systems give to whoever asks for none.
_FIRST_PORT, _NUM_PORTS, _PORTS_OF_A_STEP = 10_000, 20_000, 64
_MOST_NODES = 100_000
_INSTEAD = "set TF_CONFIG instead, which goes before"


@dataclass(frozen=True)
class Cluster:
    """The processes of one run, on as many machines as there are, or on fewer.

    Attributes:
        addresses: "host:port" of each, that of the chief first.
        index: Which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """Returns what messages call a process.

        Example:
            >>> Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 0).name(1)
            'process 2 of 2 (10.0.0.2:2222)'
        """
        number = f"process {index + 1} of {len(self.addresses)}"
        return f"{number} ({self.addresses[index]})" + (", the chief" if index == 0 else "")


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of an address of a `Cluster`.

    Example:
        >>> split_address("[::1]:2222")
        ('::1', 2222)
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def from_environment(environ: Mapping[str, str]) -> Cluster | None:
    """Returns the processes that train together.

    Args:
        environ: The variables of this process. TF_CONFIG decides where it is set; one that is empty, or `{}`, says that
            this process trains alone. Otherwise SLURM's variables do, where `srun` has started several tasks.

    Returns:
        The cluster; None where this process trains alone.

    Raises:
        UserError: The environment names processes in a way that cannot be meant.

    Example:
        >>> config = {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 1}}
        >>> from_environment({"TF_CONFIG": json.dumps(config)}).index
        1
    """
    if "TF_CONFIG" in environ:
        cluster = _from_tf_config(environ["TF_CONFIG"])
    elif "SLURM_STEP_NUM_TASKS" in environ:  # which sbatch and salloc do not set, but srun
        cluster = _from_slurm(environ)
    else:
        return None
    return cluster if cluster is not None and len(cluster.addresses) > 1 else None


# ------------------------------------------------------------------------------------------------------- TF_CONFIG


def _from_tf_config(text: str) -> Cluster | None:
    if not text.strip():
        return None
    try:
        config = json_file.parse(text, object_pairs_hook=json_file.reject_duplicates)
    except json.JSONDecodeError as error:
        raise _refusal(f"not valid JSON: {error.msg} at column {error.colno}; received {_show(text)}") from None
    except ValueError as error:
        raise _refusal(str(error)) from None
    if not isinstance(config, dict):
        raise _refusal(f"expected a JSON object, received {_show(config)}")
    if not config:
        return None
    jobs = _read_jobs(config.get("cluster"))
    addresses = [address for job in _JOBS for address in jobs.get(job, ())]
    twice = [address for address, group in itertools.groupby(sorted(addresses)) if len(list(group)) > 1]
    if twice:
        raise _refusal(f"'cluster' names {twice[0]} twice; each process needs an address of its own")
    return Cluster(tuple(addresses), _read_task(config.get("task"), jobs))


def _read_jobs(jobs: Any) -> dict[str, Sequence[str]]:
    """Returns the addresses of the processes that train, by their job."""
    if not isinstance(jobs, dict) or not jobs:
        raise _refusal(f"'cluster' must be an object of lists of addresses, received {_show(jobs)}")
    for job, addresses in jobs.items():
        key = f"'cluster.{printable(job, 60)}'"
        if job not in _JOBS:
            raise _refusal(
                f"{key} is not supported: every process holds all weights and the chief evaluates, so there are only "
                f"the jobs {' and '.join(map(repr, _JOBS))}; leave it out"
            )
        if not isinstance(addresses, list) or not addresses:
            raise _refusal(f"{key} must be a list of addresses, received {_show(addresses)}")
        for address in addresses:
            _check_address(key, address)
    if len(jobs.get("chief", ["one"])) > 1:
        raise _refusal(f"'cluster.chief' must name one process, received {len(jobs['chief'])}; the others are workers")
    return jobs


def _check_address(key: str, address: Any) -> None:
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise _refusal(f'{key} must hold addresses such as "10.0.0.1:2222", received {_show(address)}')


def _read_task(task: Any, jobs: Mapping[str, Sequence[str]]) -> int:
    """Returns which of all processes this one is, the chief first."""
    if not isinstance(task, dict):
        raise _refusal(f"'task' must be an object that says which process this is, received {_show(task)}")
    job, index = task.get("type"), task.get("index")
    if not isinstance(job, str) or job not in jobs:
        raise _refusal(f"'task.type' must be a job of 'cluster' ({', '.join(jobs)}), received {_show(job)}")
    if isinstance(index, str) and re.fullmatch(r"[0-9]{1,9}", index):
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[job]):
        raise _refusal(
            f"'task.index' must be from 0 to {len(jobs[job]) - 1}, as 'cluster.{job}' has {len(jobs[job])} "
            f"process{'es' * (len(jobs[job]) != 1)}, received {_show(index)}"
        )
    return index + (len(jobs.get("chief", ())) if job == "worker" else 0)


def _refusal(problem: str) -> UserError:
    return UserError(f"TF_CONFIG: {problem}; expected for example {_EXAMPLE}, or unset it to train alone")


def _show(value: object) -> str:
    return printable(json.dumps(value), 80)


# ----------------------------------------------------------------------------------------------------------- SLURM


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    num_tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
    if num_tasks == 1:
        return None
    rank, job, step = (_number(environ, name) for name in ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID"))
    nodes, counts = _nodes(environ, "SLURM_STEP_NODELIST"), _counts(environ, "SLURM_STEP_TASKS_PER_NODE")
    if len(nodes) != len(counts) or sum(counts) != num_tasks or rank >= num_tasks:
        raise UserError(
            f"SLURM: process {rank} of {num_tasks}, on {len(nodes)} nodes that run {_show(counts)} tasks each, cannot "
            f"be; {_INSTEAD}"
        )
    first_port = _FIRST_PORT + (job * 31 + step) * _PORTS_OF_A_STEP % _NUM_PORTS
    places = [(node, task) for node, count in zip(nodes, counts, strict=True) for task in range(count)]
    here = environ.get("SLURMD_NODENAME", places[rank][0])
    if here != places[rank][0]:
        raise UserError(
            f"SLURM: process {rank} runs on {printable(here, 60)}, expected {places[rank][0]}, as tasks fill one node "
            "after the other; call srun with --distribution=block, or with --ntasks-per-node=1"
        )
    return Cluster(tuple(f"{node}:{first_port + task}" for node, task in places), rank)


def _text(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise UserError(f"SLURM: SLURM_STEP_NUM_TASKS is set, as by srun, and {name} is not; {_INSTEAD}")
    return environ[name]


def _number(environ: Mapping[str, str], name: str) -> int:
    text = _text(environ, name)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UserError(f"SLURM: {name} must be a whole number, received {_show(text)}; {_INSTEAD}")
    return int(text)


def _nodes(environ: Mapping[str, str], name: str) -> list[str]:
    """Expands a list of nodes: "login,node[08-10,12]" to "login", "node08", "node09", "node10", "node12"."""
    text, nodes = _text(environ, name), []
    parts = re.findall(r"((?:[A-Za-z0-9_.-]|\[[0-9,-]+\])+)(?:,|$)", text)
    for part in parts:
        pieces = re.split(r"\[([0-9,-]+)\]", part)  # text, numbers, text, numbers, ..., text
        choices = [_expand_numbers(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
        nodes += ["".join(chosen) for chosen in itertools.product(*choices)]
    if ",".join(parts) != text or not nodes:
        raise UserError(f"SLURM: {name} must be like node[08-10,12], received {_show(text)}; {_INSTEAD}")
    return nodes


def _expand_numbers(text: str) -> list[str]:
    """Expands "08-10,12" to "08", "09", "10", "12"; nothing where there is something else."""
    numbers: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if match is None or int(match[2] or match[1]) - int(match[1]) > _MOST_NODES:
            return []
        numbers += [f"{number:0{len(match[1])}}" for number in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return numbers


def _counts(environ: Mapping[str, str], name: str) -> list[int]:
    """Expands tasks per node: "2(x3),1" to 2, 2, 2, 1."""
    text, counts = _text(environ, name), []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:\(x([0-9]{1,5})\))?", part)
        if match is None:
            raise UserError(f"SLURM: {name} must be like 2(x3),1, received {_show(text)}; {_INSTEAD}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
