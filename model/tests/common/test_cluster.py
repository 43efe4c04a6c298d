import argparse
import ast
import json
import re
import subprocess

import pytest

import train
from model.common.cluster import Cluster, from_environment, split_address
from model.common.commands import ROOT
from model.common.errors import PeerLost, UserError

TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def of(config):
    return from_environment({"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)})


def refusal_of(environ):
    with pytest.raises(UserError) as caught:
        from_environment(environ)
    message = str(caught.value)
    assert message.isprintable()
    return message


# ------------------------------------------------------------------------------------------------------- TF_CONFIG


def test_workers_alone():
    assert of(TWO) == Cluster(("a:1", "b:2"), 1)


@pytest.mark.parametrize(("task", "index"), [(("chief", 0), 0), (("worker", 0), 1), (("worker", 1), 2)])
def test_a_chief_and_workers(task, index):
    jobs = {"worker": ["b:2", "[::1]:3"], "chief": ["a.example.org:1"]}  # in whichever order
    cluster = of({"cluster": jobs, "task": dict(zip(("type", "index"), task, strict=True))})
    assert cluster == Cluster(("a.example.org:1", "b:2", "[::1]:3"), index)
    assert cluster.is_chief == (task == ("chief", 0))


def test_what_kubeflow_writes_beside():
    kubeflow = {**TWO, "environment": "cloud", "rpc_layer": "grpc"}
    assert of(kubeflow) == of({**TWO, "task": {"type": "worker", "index": "1"}}) == of(TWO)


@pytest.mark.parametrize(
    "nothing", ["", "  ", "{}", {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}]
)
def test_alone(nothing):
    assert of(nothing) is None


def test_without_variables():
    assert from_environment({}) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{'cluster': 1}", "not valid JSON: Expecting property name enclosed in double quotes at column 2; "),
        ("[" * 100_000, "nested deeper"),
        ('{"cluster": {}, "cluster": {}}', "'cluster' is there twice"),
        ("3", "expected a JSON object, received 3"),
        ("[]", "expected a JSON object, received []"),
        ("\x1b[2J\udcff", "not valid JSON"),
        ({"clusters": {}}, "'cluster' must be an object of lists of addresses, received null"),
        (TWO | {"cluster": {}}, "'cluster' must be an object of lists of addresses, received {}"),
        (TWO | {"cluster": ["a:1"]}, "'cluster' must be an object"),
        (TWO | {"cluster": {"worker": "a:1"}}, "'cluster.worker' must be a list of addresses"),
        (TWO | {"cluster": {"worker": []}}, "'cluster.worker' must be a list of addresses, received []"),
        (TWO | {"cluster": {"chief": ["b:1", "c:1"]}}, "'cluster.chief' must name one process, received 2"),
        (TWO | {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}, "'cluster.ps' is not supported"),
        (TWO | {"cluster": {"worker": ["a:1"], "evaluator": ["b:1"]}}, "'cluster.evaluator' is not supported"),
        (TWO | {"cluster": {"worker": ["a:1"], "\n": ["b:1"]}}, r"'cluster.\n' is not supported"),
        (TWO | {"cluster": {"worker": ["a:1", "b:1", "a:1"]}}, "'cluster' names a:1 twice"),
        (TWO | {"cluster": {"worker": ["a:1"], "chief": ["a:1"]}}, "'cluster' names a:1 twice"),
        ({"cluster": TWO["cluster"]}, "'task' must be an object that says which process this is, received null"),
        (TWO | {"task": 1}, "'task' must be an object"),
        (TWO | {"task": {"type": "evaluator", "index": 0}}, "a job of 'cluster' (worker), received \"evaluator\""),
        (TWO | {"task": {"type": ["worker"], "index": 0}}, "'task.type' must be a job"),
        (TWO | {"task": {"type": "chief", "index": 0}}, "must be a job of 'cluster' (worker), received \"chief\""),
        (TWO | {"task": {"type": "worker"}}, "must be from 0 to 1, as 'cluster.worker' has 2 processes, received null"),
        (TWO | {"task": {"type": "worker", "index": 2}}, "'task.index' must be from 0 to 1"),
        (TWO | {"task": {"type": "worker", "index": -1}}, "'task.index' must be from 0 to 1"),
        (TWO | {"task": {"type": "worker", "index": True}}, "'task.index' must be from 0 to 1"),
        (TWO | {"task": {"type": "worker", "index": 0.0}}, "'task.index' must be from 0 to 1"),
        (TWO | {"task": {"type": "worker", "index": "1x"}}, "'task.index' must be from 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(config, said):
    message = refusal_of({"TF_CONFIG": config if isinstance(config, str) else json.dumps(config)})
    assert message.startswith("TF_CONFIG: ") and said in message
    assert len(message) < 500 and "unset it to train alone" in message


@pytest.mark.parametrize(
    "address",
    ["a", "a:", ":1", "a:0", "a:65536", "a:1:2", "http://a:1", "a b:1", "::1:22", "a:１", "a:-1", "a:1\n", "", 1, []],
)  # fmt: skip
def test_addresses_that_are_none(address):
    message = refusal_of({"TF_CONFIG": json.dumps(TWO | {"cluster": {"worker": ["b:1", address]}})})
    assert "'cluster.worker' must hold addresses such as \"10.0.0.1:2222\", received " in message


def test_the_example_of_the_message_is_taken():
    message = refusal_of({"TF_CONFIG": "?"})
    example = re.search(r"for example (\{.*\}), or", message)[1]
    assert of(example) == Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 0)


def test_split_address():
    assert split_address("a.b:80") == ("a.b", 80)
    assert split_address("[fe80::1]:80") == ("fe80::1", 80)


# ----------------------------------------------------------------------------------------------------------- SLURM

# What `srun --nodes=3 --ntasks=5` sets on the second node, of a job that sbatch has started.
STEP = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "5", "SLURM_NTASKS": "5",
    "SLURM_STEP_NODELIST": "n[08-09],gpu1", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURMD_NODENAME": "n09",
}  # fmt: skip


def hosts_of(environ):
    return [split_address(address)[0] for address in from_environment(environ).addresses]


def test_a_step_of_slurm():
    cluster = from_environment(STEP)
    assert hosts_of(STEP) == ["n08", "n08", "n09", "n09", "gpu1"]
    assert cluster.index == 3
    ports = [split_address(address)[1] for address in cluster.addresses]
    assert [port - ports[0] for port in ports] == [0, 1, 0, 1, 0]


def test_steps_have_ports_of_their_own():
    ports = {
        split_address(from_environment(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).addresses[0])[1]
        for job in range(4242, 4252)
        for step in range(3)
    }
    assert len(ports) == 30
    assert min(ports) > 1024 and max(ports) + 64 < 32_768  # from there on they are given to anybody


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a", "a"),
        ("a-1,b", "a-1 b"),
        ("n[1-3]", "n1 n2 n3"),
        ("n[098-101,7]x", "n098x n099x n100x n101x n7x"),
        ("r[0-1]n[1,3],z", "r0n1 r0n3 r1n1 r1n3 z"),
    ],
)
def test_lists_of_nodes(nodes, expected):
    count = len(expected.split())
    step = {**STEP, "SLURM_STEP_NODELIST": nodes, "SLURM_STEP_TASKS_PER_NODE": f"2(x{count})", "SLURM_PROCID": "0"}
    step |= {"SLURM_STEP_NUM_TASKS": str(2 * count), "SLURMD_NODENAME": expected.split()[0]}
    assert hosts_of(step) == [node for node in expected.split() for _ in range(2)]


def test_tf_config_goes_before_slurm():
    assert from_environment({**STEP, "TF_CONFIG": json.dumps(TWO)}) == of(TWO)
    assert from_environment({**STEP, "TF_CONFIG": "{}"}) is None


@pytest.mark.parametrize("missing", [["SLURM_STEP_NUM_TASKS"], []])
def test_no_step_of_several_tasks(missing):
    """In a script of sbatch, where there is no step yet, and in a step of one task."""
    step = {name: value for name, value in STEP.items() if name not in missing}
    assert from_environment(step if missing else {**step, "SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SLURM_PROCID": None}, "and SLURM_PROCID is not"),
        ({"SLURM_STEP_NODELIST": None}, "and SLURM_STEP_NODELIST is not"),
        ({"SLURM_STEP_TASKS_PER_NODE": None}, "and SLURM_STEP_TASKS_PER_NODE is not"),
        ({"SLURM_STEP_NUM_TASKS": "five"}, 'SLURM_STEP_NUM_TASKS must be a whole number, received "five"'),
        ({"SLURM_PROCID": "-1"}, 'SLURM_PROCID must be a whole number, received "-1"'),
        ({"SLURM_PROCID": "5"}, "process 5 of 5, on 3 nodes that run [2, 2, 1] tasks each, cannot be"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "process 3 of 4"),
        ({"SLURM_STEP_NODELIST": "n[08-09]"}, "on 2 nodes that run [2, 2, 1] tasks each"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "n[08-09"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "n[8-]"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "n[9-8]"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "n[0-999999999]"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "a,,b,c"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_NODELIST": "a;b\x1b"}, "SLURM_STEP_NODELIST must be like"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x"}, "SLURM_STEP_TASKS_PER_NODE must be like 2(x3),1"),
        ({"SLURMD_NODENAME": "n08"}, "process 3 runs on n08, expected n09, as tasks fill one node after the other"),
    ],
)
def test_steps_that_cannot_be(changes, said):
    environ = {name: value for name, value in {**STEP, **changes}.items() if value is not None}
    message = refusal_of(environ)
    assert message.startswith("SLURM: ") and said in message


# ---------------------------------------------------------------------------------------------------- what it is for


def test_names():
    cluster = Cluster(("a:1", "b:2"), 1)
    assert cluster.name(0) == "process 1 of 2 (a:1), the chief"
    assert cluster.name(1) == "process 2 of 2 (b:2)"
    assert not cluster.is_chief


def test_tensorflow_reads_the_same():
    """The oracle is TensorFlow's own reader."""
    import tensorflow as tf

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CONFIG", json.dumps(TWO))
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster = of(TWO)
        assert tuple(resolver.cluster_spec().as_dict()["worker"]) == cluster.addresses
        assert resolver.task_id == cluster.index


# ------------------------------------------------------------------------------------------------------- the document

DOCUMENT = (ROOT / "docs" / "several-machines.md").read_text()


def test_the_document_shows_what_is_understood():
    """Each TF_CONFIG in it, as a shell reads it."""
    assignments = re.findall(r"TF_CONFIG='\{[^']*'(?:\$\w+'\}+')?", DOCUMENT)
    shell = [f'JOB_COMPLETION_INDEX=1; {assignment}; printf %s "$TF_CONFIG"' for assignment in assignments]
    said = [subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout for line in shell]
    found = [of(config) for config in said]
    assert [cluster and cluster.index for cluster in found] == [0, 1, 0, 1, None, 1]
    assert all(len(cluster.addresses) == 2 for cluster in found if cluster)
    assert found[-1].addresses == ("triplet-0.triplet:2222", "triplet-1.triplet:2222")


def test_the_document_tells_the_exit_code_and_the_time_to_wait():
    assert f"| all that came name it | {PeerLost.EXIT_CODE} |" in DOCUMENT
    options = argparse.ArgumentParser()
    train.add_options(options)
    assert f"`--join_timeout` ({options.parse_args([]).join_timeout} s)" in DOCUMENT


def test_the_python_of_the_document_can_be_read():
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    ast.parse(script)
