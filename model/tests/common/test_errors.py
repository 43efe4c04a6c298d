"""What is told instead of a traceback."""

import errno
import re
import signal

import pytest
import tensorflow as tf

from model.common.errors import Interrupted, UserError, explain, one_line, one_line_errors, says_full


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_run_ends_as_shells_expect(number, code):
    error = Interrupted("Stopped at step 7", number)
    assert (str(error), error.exit_code) == ("Stopped at step 7", code)
    assert not isinstance(error, UserError)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines\r\n\tand  more ", "two lines and more"),
        ("{{node model/dense/MatMul}} In[0] and In[1] differ [Op:MatMul]", "In[0] and In[1] differ"),
        ("{{function_node __wrapped__Add}} shapes [Op:AddV2] name: ", "shapes"),
        ("a {{one}} b {{two}} c", "a b c"),
        ("{not ours} [Operation]", "{not ours} [Operation]"),
    ],
)
def test_one_line(said, expected):
    assert one_line(ValueError(said)) == expected


def test_a_long_message_is_cut():
    line = one_line(ValueError(f"first {'word ' * 1000} last"))
    assert len(line) == 300 and line.startswith("first word") and line.endswith("word last")
    assert one_line(ValueError("\x1b[31mred\u202e")) == r"\x1b[31mred\u202e"


def test_what_tensorflow_says_of_shapes():
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        tf.matmul(tf.zeros((2, 3)), tf.zeros((2, 3)))
    line = one_line(raised.value)
    assert "[2,3]" in line and not re.search(r"\n|\{\{|\[Op:", line)


# ------------------------------------------------------------------------------------------- disks and memory

ROOM = "; make room on the disk, and start the same command again"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), f"mine: No space left on device{ROOM}"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x.npy"), f"x.npy: Disk quota exceeded{ROOM}"),
        (OSError(errno.EROFS, "Read-only file system", "x.npy"), "x.npy: Read-only file system"),
        (OSError("of no number"), "of no number"),
    ],
)
def test_an_error_of_the_system_names_a_file_and_says_what_to_do(error, line):
    assert explain(error, "mine") == line
    with pytest.raises(UserError) as raised, one_line_errors("mine"):
        raise error
    assert str(raised.value) == line
    assert says_full(line) == (ROOM in line)


@pytest.mark.parametrize("reason", ["No space left on device", "Disk quota exceeded"])
@pytest.mark.parametrize("kind", [tf.errors.ResourceExhaustedError, tf.errors.UnknownError])
@pytest.mark.parametrize("file", ["a/events.out", "a/" * 200, ""])
def test_what_tensorflow_says_of_a_full_disk(kind, file, reason):
    with pytest.raises(UserError) as raised, one_line_errors("mine"):
        raise kind(None, None, f"{file}; {reason}\n\tFailed to flush 3 events" if file else reason)
    line = str(raised.value)
    assert line.startswith(file[:60] or "mine") and line.endswith(f": {reason}{ROOM}") and len(line) < 400
    assert file in line or len(file) > 300


def test_a_full_memory_is_no_full_disk():
    expected = r"^mine: no space left in the memory .*: OOM when allocating; lower batch_size"
    with pytest.raises(UserError, match=expected), one_line_errors("mine"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")


@pytest.mark.parametrize(
    "error", [tf.errors.InvalidArgumentError(None, None, "shapes"), ValueError("x"), KeyboardInterrupt()]
)
def test_a_mistake_of_the_program_is_not_touched(error):
    with pytest.raises(type(error)) as raised, one_line_errors("mine"):
        raise error
    assert raised.value is error
