"""What is told instead of a traceback."""

import re
import signal

import pytest
import tensorflow as tf

from model.common.errors import Interrupted, UserError, one_line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
